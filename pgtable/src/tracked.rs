//! Tables in guest memory whose writes `vm-memory`'s dirty bitmaps are told of, so that a migration
//! sends them.

use core::sync::atomic::AtomicU64;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::address::Address;
use crate::guest_memory::{GuestTables, RegionError};
use crate::memory::{MemoryError, TableMemory};

/// [`GuestTables`] that marks in the bitmaps of the guest memory's regions what is written through
/// it: by the verbs of a [`PageTable`](crate::PageTable) and by
/// [`Walker::access`](crate::Walker::access).
///
/// Reading costs what it costs there. A write costs a look-up of its region, so memory that nobody
/// migrates goes without. What the guest writes by itself is its hypervisor's dirty log's affair,
/// as for all of its memory.
#[derive(Debug)]
pub struct TrackedTables<'m, M, A> {
    tables: GuestTables<'m, A>,
    memory: &'m M,
}

impl<'m, M: GuestMemoryBackend, A: Address> TrackedTables<'m, M, A> {
    /// Table memory over all regions of `memory`, at their guest addresses.
    ///
    /// # Errors
    /// As [`GuestTables::new`].
    pub fn new(memory: &'m M) -> Result<Self, RegionError> {
        Ok(Self { tables: GuestTables::new(memory)?, memory })
    }
}

impl<M: GuestMemoryBackend, A: Address> TableMemory<A> for TrackedTables<'_, M, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.tables.word(address)
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.tables.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        if let Some((region, at)) = self.memory.to_region_addr(GuestAddress(address.get())) {
            region.bitmap().mark_dirty(at.0 as usize, words * 8);
        }
    }
}
