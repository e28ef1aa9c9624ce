//! Dirty logs: KVM’s (`KVM_GET_DIRTY_LOG`: a bit per host page) and harvests of our own trees (a
//! bit per page of the granule), and the bridge between them.
//!
//! KVM’s bitmap is little-endian on every host: bit `n % 8` of byte `n / 8`. A harvest’s is bit
//! `n % 64` of word `n / 64`. On a 4 KiB granule over 64 KiB host pages a bit of KVM’s is sixteen
//! of ours; the other way round, one of sixteen makes the whole page dirty. Nothing is lost either
//! way, and bits that are set stay.

use std::vec::Vec;

use pgtable::low_bits;

use super::ioctl::Request;
use crate::radix::Granule;

/// Request number of [`PpcMmu::add_dirty_log`](super::PpcMmu::add_dirty_log).
pub const KVM_GET_DIRTY_LOG: Request = Request::write::<kvm_dirty_log>(0x42);

/// The argument of `KVM_GET_DIRTY_LOG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct kvm_dirty_log {
    /// The memory slot.
    pub slot: u32,
    /// Padding.
    pub padding1: u32,
    /// The address of the bitmap in this process.
    pub dirty_bitmap: u64,
}

/// What was dirty in one memory slot when KVM was last asked.
#[derive(Clone, Debug)]
pub struct DirtyLog {
    slot: u32,
    page_shift: u8,
    pages: u64,
    /// In KVM’s byte order.
    words: Vec<u64>,
}

impl DirtyLog {
    /// A clean log of slot `slot`, of `bytes` bytes, on a host whose pages are of `2^page_shift`
    /// bytes.
    #[must_use]
    pub fn new(slot: u32, bytes: u64, page_shift: u8) -> Self {
        let page_shift = page_shift.min(63);
        let pages = bytes.div_ceil(1 << page_shift);
        Self { slot, page_shift, pages, words: std::vec![0; pages.div_ceil(64) as usize] }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds what is dirty in `other`, a log of the same slot.
    pub(super) fn add(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(to, from)| *to |= from);
    }

    /// The log as bytes, as the kernel has it: what a VMM forwards to another.
    pub fn as_bytes(&self) -> impl Iterator<Item = u8> + '_ {
        self.words.iter().flat_map(|word| word.to_ne_bytes())
    }

    /// What the kernel is told of it.
    pub(super) fn argument(&mut self) -> kvm_dirty_log {
        kvm_dirty_log { slot: self.slot, padding1: 0, dirty_bitmap: self.words.as_mut_ptr() as u64 }
    }

    /// Sets in `harvest`, a bitmap as [`pgtable::tree::PageTable::harvest`] fills it for a tree of
    /// `granule` from the slot’s beginning on, what is dirty here. Pages beyond it are left out.
    pub fn merge_into(&self, granule: Granule, harvest: &mut [u64]) {
        let to =
            Bits { page_shift: granule.geometry().page_shift(), pages: harvest.len() as u64 * 64 };
        let from = Bits { page_shift: self.page_shift, pages: self.pages };
        from.merge(|word| u64::from_le(self.words[word]), to, |word, bits| harvest[word] |= bits);
    }

    /// Sets what is set in `harvest`, a bitmap as [`pgtable::tree::PageTable::harvest`] fills it
    /// for a tree of `granule` from the slot’s beginning on.
    pub fn merge_from(&mut self, granule: Granule, harvest: &[u64]) {
        let from =
            Bits { page_shift: granule.geometry().page_shift(), pages: harvest.len() as u64 * 64 };
        let to = Bits { page_shift: self.page_shift, pages: self.pages };
        from.merge(|word| harvest[word], to, |word, bits| self.words[word] |= bits.to_le());
    }
}

/// The shape of a bitmap: so many pages of that size.
#[derive(Clone, Copy)]
struct Bits {
    page_shift: u8,
    pages: u64,
}

impl Bits {
    /// Calls `set` with the words of `to`, and the bits there that the bits of `load` make dirty.
    fn merge(self, load: impl Fn(usize) -> u64, to: Bits, mut set: impl FnMut(usize, u64)) {
        for word in 0..self.pages.div_ceil(64) {
            let mut bits = load(word as usize);
            if bits == 0 {
                continue;
            }
            if word == self.pages / 64 {
                bits &= low_bits((self.pages % 64) as u8);
            }
            while bits != 0 {
                // A run of dirty pages at a time.
                let first = bits.trailing_zeros();
                let count = (bits >> first).trailing_ones();
                bits &= !(low_bits(count as u8) << first);
                let start = (word * 64 + u64::from(first)) << self.page_shift;
                to.set(start, start + (u64::from(count) << self.page_shift), &mut set);
            }
        }
    }

    /// Calls `set` with the words, and bits, of the pages that meet the bytes from `start` to
    /// `end`.
    fn set(self, start: u64, end: u64, set: &mut impl FnMut(usize, u64)) {
        let mut page = start >> self.page_shift;
        let end = end.div_ceil(1 << self.page_shift).min(self.pages);
        while page < end {
            let count = (end - page).min(64 - page % 64);
            set((page / 64) as usize, low_bits(count as u8) << (page % 64));
            page += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sixteen_to_one_and_back() {
        let mut log = DirtyLog::new(0, 3 << 16, 16);
        log.merge_from(Granule::K4, &[1 << 17]);
        assert!(log.as_bytes().eq([2, 0, 0, 0, 0, 0, 0, 0]));
        let mut harvest = [0; 1];
        log.merge_into(Granule::K4, &mut harvest);
        assert_eq!(harvest, [0xffff_0000]);
        let mut harvest = [1; 1];
        log.merge_into(Granule::K64, &mut harvest);
        assert_eq!(harvest, [3]);
        log.clear();
        assert!(log.as_bytes().all(|byte| byte == 0));
        // Beyond the slot there is nothing.
        log.merge_from(Granule::K64, &[u64::MAX]);
        assert!(log.as_bytes().eq([7, 0, 0, 0, 0, 0, 0, 0]));
    }

    proptest! {
        /// Byte by byte: a byte is dirty afterwards if and only if it lies in a page of the target
        /// that meets a dirty page of the source.
        #[test]
        fn nothing_is_lost_and_nothing_added(
            granule in prop_oneof![Just(Granule::K4), Just(Granule::K64)],
            host in prop_oneof![Just(12u8), Just(16)],
            pages in 1u64..300,
            source in prop::collection::vec(
                prop_oneof![
                    2 => Just(0u64),
                    1 => Just(u64::MAX),
                    2 => any::<u64>(),
                    // A run in the middle.
                    2 => (0u32..64, 0u32..64).prop_map(|(low, high)| u64::MAX << low & u64::MAX >> high),
                ],
                300,
            ),
        ) {
            let granule_shift = granule.geometry().page_shift();
            let mut log = DirtyLog::new(0, pages << host, host);
            let bit = |words: &[u64], page: u64| words.get(page as usize / 64).is_some_and(|word| word >> (page % 64) & 1 == 1);
            log.merge_from(granule, &source);
            let bytes: Vec<_> = log.as_bytes().collect();
            for page in 0..pages.div_ceil(64) * 64 {
                let dirty = page < pages && ((page << host)..(page + 1) << host).step_by(1 << 12).any(|byte| bit(&source, byte >> granule_shift));
                prop_assert_eq!(bytes[page as usize / 8] >> (page % 8) & 1 == 1, dirty, "page {}", page);
            }
            let mut harvest = std::vec![0u64; 300];
            log.merge_into(granule, &mut harvest);
            for page in 0..300 * 64 {
                let first = page << granule_shift;
                let dirty = (first..first + (1 << granule_shift)).step_by(1 << 12).any(|byte| {
                    let page = byte >> host;
                    page < pages && bytes[page as usize / 8] >> (page % 8) & 1 == 1
                });
                prop_assert_eq!(bit(&harvest, page), dirty, "page {}", page);
            }
        }
    }
}
