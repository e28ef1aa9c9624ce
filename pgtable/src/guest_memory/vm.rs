//! The regions of a `vm_memory` backend.

extern crate std;

use core::any::Any;
use core::fmt;
use core::ops::Range;
use core::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::vec::Vec;

use vm_memory::volatile_memory::{PtrGuard, PtrGuardMut};
use vm_memory::{Address as _, GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};

use super::held::{GiveMemory, HeldMemory};
use super::{GuestTables, HostAccess, Piece, RegionError};
use crate::address::Address;

/// A region of guest memory that knows how this process maps it.
///
/// # Safety
/// As long as the region is borrowed, or an `Arc` is held of the guest memory that has it, all of
/// its bytes that [`GuestMemoryRegion::get_slice`] gives out are mapped in this process and may be
/// accessed as [`host_access`](Self::host_access) says, the parts excepted that the embedder
/// excludes by [`GuestTables::restricted`]. In particular no `mprotect` or `munmap` takes a right
/// away, and no file behind the mapping is truncated.
#[diagnostic::on_unimplemented(
    message = "how this process maps a region of type `{Self}` is not known",
    note = "implement `pgtable::memory::HostMapped` for it, or say it by `GuestTables::assuming`"
)]
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

/// What keeps the pieces mapped: the guards where a backend maps on demand, and an owner's part of
/// the memory, which is dropped after them.
#[derive(Default)]
pub(super) struct Kept {
    reading: Vec<PtrGuard>,
    writing: Vec<PtrGuardMut>,
    owner: Option<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let owned = if self.owner.is_some() { "owned" } else { "borrowed" };
        write!(f, "{} guards, {owned}", self.reading.len() + self.writing.len())
    }
}

impl<'m, A: Address> GuestTables<'m, A> {
    /// Table memory over all regions of `memory`, at their guest addresses, with the rights that
    /// they are mapped with. [`GiveMemory`] lists what `memory` may be.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use pgtable::Gpa;
    /// use pgtable::memory::{GuestTables, TableMemory};
    /// use vm_memory::{GuestAddress, GuestMemoryMmap};
    ///
    /// let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 0x1_0000)])?;
    /// let borrowed = GuestTables::<Gpa>::new(&memory)?;
    /// assert!(borrowed.word(Gpa::new(0x1000)).is_ok());
    ///
    /// let owned = GuestTables::<'static, Gpa>::new(Arc::new(memory.clone()))?;
    /// drop(memory);
    /// assert!(owned.word(Gpa::new(0x1000)).is_ok());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RegionError`] for a region whose bytes cannot be had, or one whose guest and host
    /// addresses are not both multiples of 8.
    pub fn new<H: GiveMemory<'m, How>, How>(memory: H) -> Result<Self, RegionError>
    where
        RegionOf<'m, H::Held>: HostMapped,
    {
        Self::restricted(memory, &[])
    }

    /// The same, with less access to some ranges: unplugged slots, a region that others protect.
    /// A range has the least of what its region allows and of what each entry of `less` that
    /// covers it allows. Make it anew when slots are plugged and unplugged.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn restricted<H: GiveMemory<'m, How>, How>(
        memory: H,
        less: &[(Range<A>, HostAccess)],
    ) -> Result<Self, RegionError>
    where
        RegionOf<'m, H::Held>: HostMapped,
    {
        // SAFETY: what regions say of themselves is true.
        unsafe { Self::assuming(memory, less, HostMapped::host_access) }
    }

    /// The same for regions of a type that does not know how it is mapped: `access` says it.
    ///
    /// # Safety
    /// As long as the tables live, what `access` answered for a region is true of all its bytes
    /// except those that `less` excludes, as [`HostMapped`] demands.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub unsafe fn assuming<H: GiveMemory<'m, How>, How>(
        memory: H,
        less: &[(Range<A>, HostAccess)],
        access: impl FnMut(&RegionOf<'m, H::Held>) -> HostAccess,
    ) -> Result<Self, RegionError> {
        // SAFETY: the caller's.
        unsafe { Self::of_held(memory.held(), less, access) }
    }

    /// As [`assuming`](Self::assuming), of what is held already.
    ///
    /// # Safety
    /// As [`assuming`](Self::assuming).
    pub(crate) unsafe fn of_held<H: HeldMemory<'m>>(
        memory: H,
        less: &[(Range<A>, HostAccess)],
        mut access: impl FnMut(&RegionOf<'m, H>) -> HostAccess,
    ) -> Result<Self, RegionError> {
        let mut pieces = Vec::new();
        let mut kept = Kept::default();
        for region in memory.memory().iter() {
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
                    kept.writing.push(guard);
                    host
                } else {
                    let guard = slice.ptr_guard();
                    let host = guard.as_ptr();
                    kept.reading.push(guard);
                    host
                };
                let host = host.cast::<AtomicU64>();
                if start % 8 != 0 || !host.is_aligned() {
                    return Err(RegionError { start });
                }
                let writable = if allowed == HostAccess::ReadWrite { bytes } else { 0 };
                if bytes != 0 {
                    pieces.push(Piece { start, bytes, writable, host });
                }
            }
        }
        pieces.sort_by_key(|piece| piece.start);
        kept.owner = memory.owner();
        Ok(Self { kept, ..Self::of_pieces(pieces) })
    }
}

/// The regions of held guest memory.
type RegionOf<'m, H> = <<H as HeldMemory<'m>>::Memory as GuestMemoryBackend>::R;

/// The parts of `region` that may be accessed, each with what it allows: `allowed`, less what
/// `less` says. A word of which some bytes allow less counts among those.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::Gpa;
    use crate::memory::TableMemory;
    use core::array;
    use core::sync::atomic::Ordering;
    use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

    fn memory(ranges: &[(u64, usize)]) -> GuestMemoryMmap {
        let ranges: Vec<_> =
            ranges.iter().map(|&(start, bytes)| (GuestAddress(start), bytes)).collect();
        GuestMemoryMmap::from_ranges(&ranges).unwrap()
    }

    /// A few granules for each region, whatever boundaries the map has.
    #[test]
    fn cost_in_proportion() {
        for (ranges, granules) in [
            (&[(0, 0x10000)][..], 1),
            (&[(0, 0x1000), (1 << 45, 0x1000)], 2),
            (&[(0, 0x9_f000), (0x10_0000, 0x1000), (1 << 36, 0x1000)], 96),
            (&array::from_fn::<_, 150, _>(|slot| (slot as u64 * 0x1_0001_0000, 0x1000)), 4096),
        ] {
            let memory = memory(ranges);
            let tables = GuestTables::<Gpa>::new(&memory).unwrap();
            let count = tables.granules.len();
            assert!(count <= granules && count * 4 > granules, "{count}, {ranges:x?}");
        }
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
            &[(0, 0x9_f000), (0x10_0000, 0x1000), (0x10_3000, 0x2000), (1 << 45, 0x3000)],
            &array::from_fn::<_, 200, _>(|slot| (slot as u64 * 0x3000, 0x1000 + slot % 3 * 0x800)),
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
