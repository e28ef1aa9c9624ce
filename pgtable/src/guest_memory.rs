//! Tables in guest memory: any `vm_memory` backend, with any number of regions, near the cost of a
//! direct map.
//!
//! Looking a region up per word would cost more than the walk. The regions of a memory map do not
//! change while it is in use, so they are brought once into a table of *granules*: blocks of a
//! power of two, as large as possible so that none touches two pieces. A look-up is then one shift,
//! one load and one bounds check. Where pieces are so ragged that the table would be large, several
//! pieces share a granule and are searched.
//!
//! # What is trusted
//! - Lengths: only those of the [`VolatileSlice`](vm_memory::VolatileSlice)s that a region gives out,
//!   never [`GuestMemoryRegion::len`]. The guard of each slice is kept as long as the tables.
//! - Protection: what the region was mapped with, if its type knows ([`HostMapped`], an unsafe
//!   trait), or what the embedder promises ([`GuestTables::assuming`], an unsafe function). The
//!   embedder can always allow less ([`GuestTables::restricted`]).

extern crate std;

use core::fmt;
use core::marker::PhantomData;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;

use vm_memory::volatile_memory::{PtrGuard, PtrGuardMut};
use vm_memory::{Address as _, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::address::Address;
use crate::memory::{MemoryError, ReadMemory, TableMemory};

/// The most granules in a table: 32 bytes each.
const MAX_GRANULES: u64 = 1 << 12;

/// A memory map that cannot hold tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the region at guest address {start:#x} is not accessible to this process, or not aligned to 8 bytes"
)]
pub struct RegionError {
    /// The first guest address of the region, or of the part that was to be used.
    pub start: u64,
}

/// What this process may do with a piece of guest memory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostAccess {
    /// Nothing: it is unplugged (`PROT_NONE`), or no memory.
    None,
    /// Load from it: firmware flash, a read-only slot (`PROT_READ`).
    Read,
    /// Load from it and store to it.
    ReadWrite,
}

/// A region of guest memory that knows how this process maps it.
///
/// # Safety
/// As long as the region is borrowed, all of its bytes that [`GuestMemoryRegion::get_slice`] gives
/// out are mapped in this process and may be accessed as [`host_access`](Self::host_access) says,
/// the parts excepted that the embedder excludes by [`GuestTables::restricted`]. In particular no
/// `mprotect` or `munmap` takes a right away, and no file behind the mapping is truncated.
pub unsafe trait HostMapped: GuestMemoryRegion {
    /// What this process may do with the region.
    fn host_access(&self) -> HostAccess;
}

// SAFETY: `prot` is what the region was mapped with. To change a mapping under a borrowed region is
// an unsafe call of whoever does it.
#[cfg(unix)]
unsafe impl<B: vm_memory::bitmap::Bitmap> HostMapped for vm_memory::GuestRegionMmap<B> {
    fn host_access(&self) -> HostAccess {
        // POSIX, and the same on all systems that `vm-memory` runs on.
        const PROT_READ: i32 = 1;
        const PROT_WRITE: i32 = 2;
        match (self.prot() & PROT_READ != 0, self.prot() & PROT_WRITE != 0) {
            (false, _) => HostAccess::None,
            (true, false) => HostAccess::Read,
            (true, true) => HostAccess::ReadWrite,
        }
    }
}

/// A contiguous piece of guest memory that this process can read.
#[derive(Clone, Copy, Debug)]
struct Piece {
    start: u64,
    /// Its bytes; a multiple of 8.
    bytes: u64,
    /// Its bytes if it may be written, else 0.
    writable: u64,
    host: *const AtomicU64,
}

impl Piece {
    const NONE: Self = Self { start: 0, bytes: 0, writable: 0, host: core::ptr::null() };

    /// One past its last address.
    fn end(&self) -> u64 {
        self.start + self.bytes
    }

    /// Where the `bytes` bytes from `address` on stand, if they lie in the piece and may be written
    /// where that is wanted. The low three bits of `address` do not count.
    #[inline(always)]
    fn at(&self, address: u64, bytes: u64, write: bool) -> Option<*const AtomicU64> {
        let within = address.wrapping_sub(self.start) & !7;
        let limit = if write { self.writable } else { self.bytes };
        // SAFETY: `within` lies in the piece, so the pointer stays in its mapping.
        (within < limit && bytes <= limit - within)
            .then(|| unsafe { self.host.byte_add(within as usize) })
    }
}

/// What keeps the pieces mapped where a backend maps on demand.
struct Guards {
    reading: Vec<PtrGuard>,
    writing: Vec<PtrGuardMut>,
}

impl fmt::Debug for Guards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} guards", self.reading.len() + self.writing.len())
    }
}

/// Guest memory as table memory; built once per memory map, shared by reference.
///
/// Any number of threads may use it; it borrows the guest memory, which so stays mapped.
///
/// | a part that is | `load` | `word`, `table`, `compare_exchange` |
/// | --- | --- | --- |
/// | mapped for reads and writes | the word | the words |
/// | mapped for reads | the word | [`Refusal::ReadOnly`](crate::Refusal::ReadOnly) |
/// | not mapped, `PROT_NONE`, excluded, no memory | [`Refusal::Outside`](crate::Refusal::Outside) | [`Refusal::Outside`](crate::Refusal::Outside) |
#[derive(Debug)]
pub struct GuestTables<'m, A> {
    /// The piece of each granule.
    granules: Vec<Piece>,
    shift: u8,
    /// All pieces in order, where a granule may meet several; else empty.
    ragged: Vec<Piece>,
    /// Held, not used: they keep the pieces mapped.
    #[expect(dead_code, reason = "dropped with the tables")]
    guards: Guards,
    memory: PhantomData<(&'m [AtomicU64], A)>,
}

// SAFETY: the pointers are to memory that is borrowed for 'm, shared, and only ever accessed
// atomically; the guards are only dropped.
unsafe impl<A> Send for GuestTables<'_, A> {}
// SAFETY: as above.
unsafe impl<A> Sync for GuestTables<'_, A> {}

impl<'m, A: Address> GuestTables<'m, A> {
    /// Table memory over all regions of `memory`, at their guest addresses, with the rights that
    /// they are mapped with.
    ///
    /// # Errors
    /// [`RegionError`] for a region whose bytes cannot be had, or one whose guest and host addresses
    /// are not both multiples of 8.
    pub fn new<M: GuestMemoryBackend>(memory: &'m M) -> Result<Self, RegionError>
    where
        M::R: HostMapped,
    {
        Self::restricted(memory, &[])
    }

    /// The same, with less access to some ranges: unplugged slots, a region that others protect.
    /// A range has the least of what its region allows and of what each entry of `less` that
    /// covers it allows. Make it anew when slots are plugged and unplugged.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn restricted<M: GuestMemoryBackend>(
        memory: &'m M,
        less: &[(Range<A>, HostAccess)],
    ) -> Result<Self, RegionError>
    where
        M::R: HostMapped,
    {
        // SAFETY: what regions say of themselves is true.
        unsafe { Self::assuming(memory, less, M::R::host_access) }
    }

    /// The same for regions of a type that does not know how it is mapped: `access` says it.
    ///
    /// # Safety
    /// As long as `memory` is borrowed, what `access` answers for a region is true of all its bytes
    /// except those that `less` excludes, as [`HostMapped`] demands.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub unsafe fn assuming<M: GuestMemoryBackend>(
        memory: &'m M,
        less: &[(Range<A>, HostAccess)],
        mut access: impl FnMut(&M::R) -> HostAccess,
    ) -> Result<Self, RegionError> {
        let mut pieces = Vec::new();
        let mut guards = Guards { reading: Vec::new(), writing: Vec::new() };
        for region in memory.iter() {
            let (first, allowed) = (region.start_addr().raw_value(), access(region));
            let region_end = first.saturating_add(region.len());
            for (range, allowed) in cut(first..region_end, allowed, less) {
                let start = range.start;
                let at = MemoryRegionAddress(start - first);
                let slice = usize::try_from(range.end - start)
                    .ok()
                    .and_then(|bytes| region.get_slice(at, bytes).ok())
                    .ok_or(RegionError { start })?;
                // What there is, not what was asked for; and no address wraps.
                let bytes = (slice.len() as u64).min(range.end - start) & !7;
                let host = if allowed == HostAccess::ReadWrite {
                    let guard = slice.ptr_guard_mut();
                    let host = guard.as_ptr().cast_const();
                    guards.writing.push(guard);
                    host
                } else {
                    let guard = slice.ptr_guard();
                    let host = guard.as_ptr();
                    guards.reading.push(guard);
                    host
                };
                let host = host.cast::<AtomicU64>();
                if start % 8 != 0 || !host.is_aligned() {
                    return Err(RegionError { start });
                }
                let writable = if allowed == HostAccess::ReadWrite { bytes } else { 0 };
                pieces.push(Piece { start, bytes, writable, host });
            }
        }
        pieces.sort_by_key(|piece| piece.start);
        Ok(Self::of_pieces(&pieces, guards))
    }

    fn of_pieces(pieces: &[Piece], guards: Guards) -> Self {
        let end = pieces.iter().map(Piece::end).max().unwrap_or(0);
        // A granule touches two pieces only if a boundary lies within it, or both begin and end
        // there.
        let boundaries = pieces.iter().skip(1).fold(0, |bits, piece| bits | piece.start);
        let exact = if boundaries == 0 { 63 } else { boundaries.trailing_zeros() as u8 };
        let coarse = (0..63).find(|&shift| end >> shift < MAX_GRANULES).unwrap_or(63);
        let (shift, ragged) =
            if exact >= coarse { (exact, Vec::new()) } else { (coarse, pieces.to_vec()) };
        let count = if end == 0 { 0 } else { ((end - 1) >> shift) + 1 };
        let granules = (0..count)
            .map(|granule| {
                let last = (granule << shift) | crate::low_bits(shift);
                // The last piece that begins in or before the granule, if it reaches into it.
                let index = pieces.partition_point(|piece| piece.start <= last);
                let piece = index.checked_sub(1).and_then(|index| pieces.get(index));
                piece.filter(|piece| piece.end() > granule << shift).copied().unwrap_or(Piece::NONE)
            })
            .collect();
        Self { granules, shift, ragged, guards, memory: PhantomData }
    }

    #[inline(always)]
    fn lookup(
        &self,
        address: A,
        words: usize,
        write: bool,
    ) -> Result<*const AtomicU64, MemoryError> {
        let granule = usize::try_from(address.get() >> self.shift).unwrap_or(usize::MAX);
        let bytes = (words as u64).saturating_mul(8);
        if let Some(piece) = self.granules.get(granule) {
            if let Some(host) = piece.at(address.get(), bytes, write) {
                return Ok(host);
            }
        }
        self.search(address, words, write)
    }

    /// The slow half: a granule that meets several pieces, or a miss.
    #[cold]
    fn search(
        &self,
        address: A,
        words: usize,
        write: bool,
    ) -> Result<*const AtomicU64, MemoryError> {
        let bytes = (words as u64).saturating_mul(8);
        let granule = usize::try_from(address.get() >> self.shift).unwrap_or(usize::MAX);
        let index = self.ragged.partition_point(|piece| piece.start <= address.get());
        let pieces = [
            index.checked_sub(1).and_then(|index| self.ragged.get(index)),
            self.granules.get(granule),
        ];
        let at = |write| {
            pieces.into_iter().flatten().find_map(|piece| piece.at(address.get(), bytes, write))
        };
        match at(write) {
            Some(host) => Ok(host),
            None if at(false).is_some() => Err(MemoryError::read_only(address, words)),
            None => Err(MemoryError::outside(address, words)),
        }
    }
}

/// The parts of `region` that may be accessed, each with what it allows: `allowed`, less what `less`
/// says. A word of which some bytes allow less counts among those.
fn cut<A: Address>(
    region: Range<u64>,
    allowed: HostAccess,
    less: &[(Range<A>, HostAccess)],
) -> Vec<(Range<u64>, HostAccess)> {
    let less: Vec<_> = less
        .iter()
        .map(|(range, access)| {
            let end = range.end.get();
            (range.start.get() & !7..end.checked_next_multiple_of(8).unwrap_or(end), *access)
        })
        .filter(|(range, _)| range.start < region.end && range.end > region.start)
        .collect();
    let ends = less.iter().flat_map(|(range, _)| [range.start, range.end]);
    let mut cuts: Vec<_> =
        ends.filter(|&end| region.contains(&end)).chain([region.start, region.end]).collect();
    cuts.sort_unstable();
    cuts.dedup();
    let mut parts = Vec::<(Range<u64>, HostAccess)>::new();
    for (&start, &end) in cuts.iter().zip(cuts.iter().skip(1)) {
        let covering = less.iter().filter(|(range, _)| range.contains(&start));
        let access = covering.map(|(_, access)| *access).fold(allowed, HostAccess::min);
        match parts.last_mut() {
            Some((last, same)) if *same == access && last.end == start => last.end = end,
            _ => parts.push((start..end, access)),
        }
    }
    parts.retain(|(_, access)| *access != HostAccess::None);
    parts
}

impl<A: Address> ReadMemory<A> for GuestTables<'_, A> {
    #[inline(always)]
    fn load(&self, address: A) -> Result<u64, MemoryError> {
        let host = self.lookup(address, 1, false)?;
        // SAFETY: 8 bytes from `host` on lie in a piece that is mapped for 'm for reads, aligned to
        // 8. A relaxed load of 8 bytes writes nothing, so the memory may be read-only. Guest memory
        // is accessed atomically here and by others only in ways that this process cannot see (the
        // guest) or that vm-memory makes volatile or atomic.
        Ok(unsafe { (*host).load(Ordering::Relaxed) })
    }

    #[inline]
    fn compare_exchange(&self, address: A, current: u64, new: u64) -> Result<bool, MemoryError> {
        let word = self.word(address)?;
        Ok(word.compare_exchange(current, new, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    #[inline]
    fn is_writable(&self, address: A) -> bool {
        self.word(address).is_ok()
    }

    #[inline(always)]
    fn in_place(&self, address: A, words: usize) -> Option<&[AtomicU64]> {
        self.table(address, words).ok()
    }
}

impl<A: Address> TableMemory<A> for GuestTables<'_, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        let host = self.lookup(address, 1, true)?;
        // SAFETY: as in `load`, in a piece that is mapped for writes too.
        Ok(unsafe { &*host })
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let host = self.lookup(address, words, true)?;
        // SAFETY: as in `word`, for `words` words.
        Ok(unsafe { core::slice::from_raw_parts(host, words) })
    }

    /// No log is kept: [`TrackedTables`](crate::TrackedTables) keeps one.
    #[inline(always)]
    fn wrote(&self, _: A, _: usize) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Gpa;
    use core::sync::atomic::Ordering;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
        let ranges: Vec<_> =
            ranges.iter().map(|&(start, bytes)| (GuestAddress(start), bytes)).collect();
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    #[test]
    fn every_boundary_of_every_map() {
        for ranges in [
            &[(0, 0x10000)][..],
            &[(0x1000, 0x1000)],
            &[(0, 0x10000), (0x4_0000, 0x10000)],
            &[(0, 0x3000), (0x3000, 0x1000), (0x5000, 0x2000)],
            &[(0x1000, 0x1000), (0x3000, 0x1000), (0x8_0000_0000, 0x20000)],
            &[(0, 0x1000), (0x10_0000_1000, 0x1000), (0x10_0000_3000, 0x1000)],
        ] {
            let memory = memory(ranges);
            let tables = GuestTables::<Gpa>::new(&memory).unwrap();
            for &(start, bytes) in ranges {
                let end = start + bytes as u64;
                for address in
                    [start, start + 8, end - 8, end, start.wrapping_sub(8), start + 4, u64::MAX - 7]
                {
                    let ours = tables.word(Gpa::new(address));
                    let address = address & !7;
                    let theirs = memory.load::<u64>(GuestAddress(address), Ordering::Relaxed);
                    assert_eq!(ours.is_ok(), theirs.is_ok(), "{ranges:x?} {address:#x}");
                    if let Ok(word) = ours {
                        word.store(address ^ 0x55, Ordering::Relaxed);
                        assert_eq!(
                            memory.read_obj::<u64>(GuestAddress(address)).unwrap(),
                            address ^ 0x55
                        );
                    }
                }
                assert!(tables.table(Gpa::new(start), bytes / 8).is_ok());
                assert!(tables.table(Gpa::new(end - 8), 2).is_err(), "a table never spans regions");
            }
        }
    }
}
