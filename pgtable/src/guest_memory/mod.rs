//! Tables in guest memory: any `vm_memory` backend, or regions of the embedder's own, of any
//! number, near the cost of a direct map.
//!
//! Looking a region up per word would cost more than the walk. The regions of a memory map do not
//! change while it is in use, so they are brought once into a table of *granules*: blocks of a
//! power of two, as large as possible so that none touches two pieces. A look-up is then one shift,
//! one load and one bounds check. Where pieces are so ragged that the table would be large, several
//! pieces share a granule and are searched.
//!
//! # What is trusted
//! - Of `vm_memory`, lengths: only those of the `VolatileSlice`s that a region gives out, never
//!   `GuestMemoryRegion::len`. The guard of each slice is kept as long as the tables.
//! - Of `vm_memory`, protection: what the region was mapped with, if its type knows (`HostMapped`,
//!   an unsafe trait), or what the embedder promises (`GuestTables::assuming`, an unsafe function).
//!   The embedder can always allow less (`GuestTables::restricted`).
//! - Without `vm_memory`: what the embedder promises ([`GuestTables::from_regions`], an unsafe
//!   function).

#[cfg(feature = "vm-memory")]
mod held;
#[cfg(feature = "vm-memory")]
mod vm;

use alloc::vec::Vec;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

#[cfg(feature = "vm-memory")]
pub use held::{GiveMemory, HeldMemory};
#[cfg(feature = "vm-memory")]
pub use vm::HostMapped;

use crate::address::Address;
use crate::memory::{MemoryError, ReadMemory, TableMemory};
use crate::table_word::TableWord;

/// The most granules for each piece, of 32 bytes each: what a table costs is in proportion to the
/// pieces, so it may be made for one call.
const PER_PIECE: u64 = 32;
/// The most granules in a table.
const MAX_GRANULES: u64 = 1 << 12;

/// A memory map that cannot hold tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "the region at guest address {start:#x} is not accessible to this process, not aligned to 8 bytes, or overlaps another"
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

/// A region of guest memory as this process maps it, for [`GuestTables::from_regions`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostRegion<A> {
    /// The guest address of its first byte; a multiple of 8.
    pub start: A,
    /// Where that byte stands in this process; a multiple of 8.
    pub host: *mut u8,
    /// Its length in bytes. What is left behind its last whole word is not used.
    pub bytes: usize,
    /// What this process may do with it.
    pub access: HostAccess,
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

    /// Where the `words` words from `address` on stand, if they lie in the piece and may be written
    /// where that is wanted. The low three bits of `address` do not count.
    #[inline(always)]
    fn at(&self, address: u64, words: usize, write: bool) -> Option<*const AtomicU64> {
        let within = address.wrapping_sub(self.start) & !7;
        let limit = if write { self.writable } else { self.bytes };
        // Both are multiples of 8, so one word fits where it begins.
        let fits = |left: u64| words == 1 || (words as u64).saturating_mul(8) <= left;
        // SAFETY: `within` lies in the piece, so the pointer stays in its mapping.
        (within < limit && fits(limit - within))
            .then(|| unsafe { self.host.byte_add(within as usize) })
    }
}

/// Guest memory as table memory; built once per memory map, shared by reference or by `Arc`.
///
/// Any number of threads may use it. It keeps the guest memory mapped: of `&memory` for `'m`, of
/// `Arc::clone(&memory)` for as long as it lives; then it is a `GuestTables<'static, A>`, which a
/// struct beside the memory can own. Made by `new`, `restricted` and `assuming` (feature
/// `vm-memory`), or by [`from_regions`](Self::from_regions). To make it takes one allocation of up
/// to 1 KiB for each region, so it may also be made for one call.
///
///
/// | a part that is | `load` | `word`, `table`, `compare_exchange` |
/// | --- | --- | --- |
/// | mapped for reads and writes | the word | the words |
/// | mapped for reads | the word | [`Refusal::ReadOnly`](crate::memory::Refusal::ReadOnly) |
/// | not mapped, `PROT_NONE`, excluded, no memory | [`Refusal::Outside`](crate::memory::Refusal::Outside) | [`Refusal::Outside`](crate::memory::Refusal::Outside) |
#[derive(Debug)]
pub struct GuestTables<'m, A> {
    /// The piece of each granule.
    granules: Vec<Piece>,
    shift: u8,
    /// All pieces in order, where a granule may meet several; else empty.
    ragged: Vec<Piece>,
    /// Held, not used: it keeps the pieces mapped.
    #[cfg(feature = "vm-memory")]
    #[expect(dead_code, reason = "dropped with the tables")]
    kept: vm::Kept,
    memory: PhantomData<(&'m [AtomicU64], A)>,
}

// SAFETY: the pointers are to memory that lives for 'm or is kept, is shared, and only ever
// accessed atomically; what is kept is only dropped, and may be dropped by any thread.
unsafe impl<A> Send for GuestTables<'_, A> {}
// SAFETY: as above.
unsafe impl<A> Sync for GuestTables<'_, A> {}

impl<'m, A: Address> GuestTables<'m, A> {
    /// Table memory over regions of the embedder's own, without `vm-memory`. Memory that is plugged
    /// and unplugged: give what there is, and make the tables anew when that changes.
    ///
    /// ```
    /// use pgtable::memory::{
    ///     GuestTables, HostAccess, HostRegion, MemoryError, ReadMemory, TableMemory,
    /// };
    /// use pgtable::Gpa;
    /// use core::sync::atomic::AtomicU64;
    ///
    /// let (low, flash) = ([const { AtomicU64::new(0) }; 512], [const { AtomicU64::new(7) }; 512]);
    /// let region = |start, words: &[AtomicU64], access| HostRegion {
    ///     start: Gpa::new(start),
    ///     host: words.as_ptr().cast_mut().cast(),
    ///     bytes: words.len() * 8,
    ///     access,
    /// };
    /// let regions = [
    ///     region(0, &low, HostAccess::ReadWrite),
    ///     region(0xffff_f000, &flash, HostAccess::Read),
    /// ];
    /// // SAFETY: both arrays outlive the tables, and are accessed atomically.
    /// let tables = unsafe { GuestTables::from_regions(regions)? };
    /// assert_eq!(tables.load(Gpa::new(0xffff_f008)), Ok(7));
    /// assert!(tables.word(Gpa::new(0xffff_f008)).is_err(), "it may only be read");
    /// assert!(tables.load(Gpa::new(0x1000)).is_err(), "a hole");
    /// # Ok::<(), pgtable::memory::RegionError>(())
    /// ```
    ///
    /// # Safety
    /// For `'m`, each region's bytes are mapped in this process and may be accessed as its `access`
    /// says, and every access to them in this process is atomic (or one that this process cannot
    /// see: hardware's, a guest's).
    ///
    /// # Errors
    /// [`RegionError`] for a region whose guest and host addresses are not both multiples of 8,
    /// that leaves the address space, or that overlaps another.
    pub unsafe fn from_regions(
        regions: impl IntoIterator<Item = HostRegion<A>>,
    ) -> Result<Self, RegionError> {
        let mut pieces = Vec::new();
        for HostRegion { start, host, bytes, access } in regions {
            let error = RegionError { start: start.get() };
            let (start, host) = (start.get(), host.cast::<AtomicU64>().cast_const());
            let bytes = bytes as u64 & !7;
            if start % 8 != 0 || !host.is_aligned() || start.checked_add(bytes).is_none() {
                return Err(error);
            }
            let writable = if access == HostAccess::ReadWrite { bytes } else { 0 };
            if access != HostAccess::None && bytes != 0 {
                pieces.push(Piece { start, bytes, writable, host });
            }
        }
        pieces.sort_by_key(|piece| piece.start);
        let overlap = pieces.windows(2).find(|two| two[0].end() > two[1].start);
        match overlap {
            Some(two) => Err(RegionError { start: two[1].start }),
            None => Ok(Self::of_pieces(pieces)),
        }
    }

    /// For pieces in order, none of which is empty.
    fn of_pieces(pieces: Vec<Piece>) -> Self {
        let end = pieces.iter().map(Piece::end).max().unwrap_or(0);
        // A granule touches two pieces only if a boundary lies within it, or both begin and end
        // there.
        let boundaries = pieces.iter().skip(1).fold(0, |bits, piece| bits | piece.start);
        let exact = if boundaries == 0 { 63 } else { boundaries.trailing_zeros() as u8 };
        let most = MAX_GRANULES.min(PER_PIECE * pieces.len() as u64);
        let coarse = (0..63).find(|&shift| end >> shift < most).unwrap_or(63);
        let shift = exact.max(coarse);
        let mut granules = Vec::with_capacity((end >> shift) as usize + 1);
        for piece in &pieces {
            // A granule has the last piece that reaches into it.
            let (first, last) = (piece.start >> shift, (piece.end() - 1) >> shift);
            granules.truncate(first as usize);
            granules.resize(first as usize, Piece::NONE);
            granules.resize(last as usize + 1, *piece);
        }
        // Where no granule meets two pieces, nothing is searched.
        let ragged = if exact >= coarse { Vec::new() } else { pieces };
        Self {
            granules,
            shift,
            ragged,
            #[cfg(feature = "vm-memory")]
            kept: vm::Kept::default(),
            memory: PhantomData,
        }
    }

    /// Where the `words` words from `address` on stand, if the granule tells.
    #[inline(always)]
    fn quickly(&self, address: A, words: usize, write: bool) -> Option<*const AtomicU64> {
        let granule = usize::try_from(address.get() >> self.shift).unwrap_or(usize::MAX);
        self.granules.get(granule)?.at(address.get(), words, write)
    }

    #[inline(always)]
    fn lookup(
        &self,
        address: A,
        words: usize,
        write: bool,
    ) -> Result<*const AtomicU64, MemoryError> {
        match self.quickly(address, words, write) {
            Some(host) => Ok(host),
            None => self.search(address, words, write),
        }
    }

    /// The slow half: a granule that meets several pieces, or a miss.
    #[cold]
    #[inline(never)]
    fn search(
        &self,
        address: A,
        words: usize,
        write: bool,
    ) -> Result<*const AtomicU64, MemoryError> {
        let index = self.ragged.partition_point(|piece| piece.start <= address.get());
        let piece = index.checked_sub(1).and_then(|index| self.ragged.get(index));
        let at = |write| match piece {
            Some(piece) => piece.at(address.get(), words, write),
            None => self.quickly(address, words, write),
        };
        match at(write) {
            Some(host) => Ok(host),
            None if at(false).is_some() => Err(MemoryError::read_only(address, words)),
            None => Err(MemoryError::outside(address, words)),
        }
    }

    /// [`load`](ReadMemory::load), where the granule does not tell.
    #[cold]
    #[inline(never)]
    fn load_searching(&self, address: A) -> Result<u64, MemoryError> {
        // SAFETY: as in `load`.
        self.search(address, 1, false).map(|host| unsafe { (*host).load(Ordering::Relaxed) })
    }
}

impl<A: Address> ReadMemory<A> for GuestTables<'_, A> {
    #[inline(always)]
    fn load(&self, address: A) -> Result<u64, MemoryError> {
        let Some(host) = self.quickly(address, 1, false) else {
            return self.load_searching(address);
        };
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
    fn compare_exchange_u32(
        &self,
        address: A,
        current: u32,
        new: u32,
    ) -> Result<bool, MemoryError> {
        let word = <AtomicU32 as TableWord>::word_in(self, address)?;
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

    /// No log is kept: `TrackedTables` keeps one.
    #[inline(always)]
    fn wrote(&self, _: A, _: usize) {}
}
