//! Tables in guest memory: any `vm_memory` backend, with any number of regions, near the cost of a
//! direct map.
//!
//! Looking a region up per word would cost more than the walk. The regions of a memory map do not
//! change while it is in use, so they are brought once into a table of *granules*: blocks of a
//! power of two, as large as possible so that none touches two regions. A look-up is then one
//! shift, one load and one bounds check. Where regions are so ragged that the table would be large,
//! several regions share a granule and are searched.

extern crate std;

use core::marker::PhantomData;
use core::sync::atomic::AtomicU64;
use std::vec::Vec;

use vm_memory::{Address as _, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use crate::address::Address;
use crate::memory::{MemoryError, TableMemory};

/// The most granules in a table: 32 bytes each.
const MAX_GRANULES: u64 = 1 << 12;

/// A memory map that cannot hold tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the region at guest address {start:#x} is not accessible to this process, or not aligned to 8 bytes"
)]
pub struct RegionError {
    /// The first guest address of the region.
    pub start: u64,
}

/// A contiguous piece of guest memory that this process can access.
#[derive(Clone, Copy, Debug)]
struct Region {
    start: u64,
    bytes: u64,
    host: *const AtomicU64,
}

impl Region {
    const NONE: Self = Self { start: 0, bytes: 0, host: core::ptr::null() };
}

/// Guest memory as table memory; built once per memory map, shared by reference.
///
/// Any number of threads may use it; it borrows the guest memory, which so stays mapped.
#[derive(Debug)]
pub struct GuestTables<'m, A> {
    /// The region of each granule.
    granules: Vec<Region>,
    shift: u8,
    /// All regions in order, where a granule may meet several; else empty.
    ragged: Vec<Region>,
    memory: PhantomData<(&'m [AtomicU64], A)>,
}

// SAFETY: the pointers are to memory that is borrowed for 'm, shared, and only ever accessed
// atomically.
unsafe impl<A> Send for GuestTables<'_, A> {}
// SAFETY: as above.
unsafe impl<A> Sync for GuestTables<'_, A> {}

impl<'m, A: Address> GuestTables<'m, A> {
    /// Table memory over all regions of `memory`, at their guest addresses.
    ///
    /// # Errors
    /// [`RegionError`] for a region without a host mapping, or one whose guest and host addresses
    /// are not both multiples of 8.
    pub fn new<M: GuestMemoryBackend>(memory: &'m M) -> Result<Self, RegionError> {
        let mut regions = Vec::new();
        for region in memory.iter() {
            let (start, bytes) = (region.start_addr().raw_value(), region.len());
            let slice = usize::try_from(bytes)
                .ok()
                .and_then(|bytes| region.get_slice(MemoryRegionAddress(0), bytes).ok())
                .ok_or(RegionError { start })?;
            let host = slice.ptr_guard_mut().as_ptr().cast::<AtomicU64>().cast_const();
            if start % 8 != 0 || !host.is_aligned() {
                return Err(RegionError { start });
            }
            regions.push(Region { start, bytes: bytes & !7, host });
        }
        regions.sort_by_key(|region| region.start);
        Ok(Self::of_regions(&regions))
    }

    fn of_regions(regions: &[Region]) -> Self {
        let end = regions.last().map_or(0, |last| last.start + last.bytes);
        // A granule touches two regions only if a boundary lies within it, or both begin and end
        // there.
        let boundaries = regions.iter().skip(1).fold(0, |bits, region| bits | region.start);
        let exact = if boundaries == 0 { 63 } else { boundaries.trailing_zeros() as u8 };
        let coarse = (0..63).find(|&shift| end >> shift < MAX_GRANULES).unwrap_or(63);
        let (shift, ragged) =
            if exact >= coarse { (exact, Vec::new()) } else { (coarse, regions.to_vec()) };
        let count = if end == 0 { 0 } else { ((end - 1) >> shift) + 1 };
        let granules = (0..count)
            .map(|granule| {
                let last = (granule << shift) | crate::low_bits(shift);
                // The last region that begins in or before the granule, if it reaches into it.
                let index = regions.partition_point(|region| region.start <= last);
                let region = index.checked_sub(1).and_then(|index| regions.get(index));
                region
                    .filter(|region| region.start + region.bytes > granule << shift)
                    .copied()
                    .unwrap_or(Region::NONE)
            })
            .collect();
        Self { granules, shift, ragged, memory: PhantomData }
    }

    #[inline(always)]
    fn lookup(&self, address: u64, bytes: u64) -> Result<*const AtomicU64, MemoryError> {
        if let Some(region) = self.granules.get((address >> self.shift) as usize) {
            let within = address.wrapping_sub(region.start);
            if within % 8 == 0 && within < region.bytes && bytes <= region.bytes - within {
                // SAFETY: `within` lies in the region, so the pointer stays in its mapping.
                return Ok(unsafe { region.host.byte_add(within as usize) });
            }
        }
        self.search(address, bytes)
    }

    /// The slow half: a granule that meets several regions, or a miss.
    #[cold]
    fn search(&self, address: u64, bytes: u64) -> Result<*const AtomicU64, MemoryError> {
        let index = self.ragged.partition_point(|region| region.start <= address);
        match index.checked_sub(1).and_then(|index| self.ragged.get(index)) {
            Some(region) if address % 8 == 0 && address - region.start < region.bytes => {
                let within = address - region.start;
                if bytes > region.bytes - within {
                    return Err(MemoryError { address, bytes });
                }
                // SAFETY: `within` lies in the region, so the pointer stays in its mapping.
                Ok(unsafe { region.host.byte_add(within as usize) })
            }
            _ => Err(MemoryError { address, bytes }),
        }
    }
}

impl<A: Address> TableMemory<A> for GuestTables<'_, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        let host = self.lookup(address.get(), 8)?;
        // SAFETY: 8 bytes from `host` on lie in a region that is mapped for 'm, aligned to 8; guest
        // memory is accessed atomically here and by others only in ways that this process cannot
        // see (the guest) or that vm-memory makes volatile or atomic.
        Ok(unsafe { &*host })
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let bytes = (words as u64).saturating_mul(8);
        let host = self.lookup(address.get(), bytes)?;
        // SAFETY: as in `word`, for `bytes` bytes.
        Ok(unsafe { core::slice::from_raw_parts(host, words) })
    }
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
