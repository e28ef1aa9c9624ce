//! Tables in guest memory whose writes `vm-memory`'s dirty bitmaps are told of, so that a migration
//! sends them.

use core::sync::atomic::AtomicU64;

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryRegion};

use crate::address::Address;
use crate::guest_memory::{GiveMemory, GuestTables, HeldMemory, HostMapped, RegionError};
use crate::memory::{MemoryError, ReadMemory, TableMemory};

/// [`GuestTables`] that marks in the bitmaps of the guest memory's regions what is written through
/// it: by the verbs of a [`PageTable`](crate::tree::PageTable) and by
/// [`Walker::access`](crate::walk::Walker::access).
///
/// Reading costs what it costs there. A write costs a look-up of its region, so memory that nobody
/// migrates goes without. What the guest writes by itself is its hypervisor's dirty log's affair,
/// as for all of its memory.
///
/// `H` is `&M` or `Arc<M>`: see [`GiveMemory`].
#[derive(Debug)]
pub struct TrackedTables<'m, H, A> {
    tables: GuestTables<'m, A>,
    memory: H,
}

impl<'m, H: HeldMemory<'m>, A: Address> TrackedTables<'m, H, A> {
    /// Table memory over all regions of `memory`, at their guest addresses, with the rights that
    /// they are mapped with.
    ///
    /// # Errors
    /// As [`GuestTables::new`].
    pub fn new<How>(memory: impl GiveMemory<'m, How, Held = H>) -> Result<Self, RegionError>
    where
        <H::Memory as GuestMemoryBackend>::R: HostMapped,
    {
        let memory = memory.held();
        // SAFETY: what regions say of themselves is true.
        let tables = unsafe { GuestTables::of_held(memory.clone(), &[], HostMapped::host_access)? };
        Ok(Self::over(tables, memory))
    }

    /// `tables`, whose writes are marked in the bitmaps of `memory`: for tables that were made with
    /// [`GuestTables::restricted`] or [`GuestTables::assuming`].
    #[must_use]
    pub fn over(tables: GuestTables<'m, A>, memory: H) -> Self {
        Self { tables, memory }
    }
}

impl<'m, H: HeldMemory<'m>, A: Address> ReadMemory<A> for TrackedTables<'m, H, A> {
    #[inline(always)]
    fn load(&self, address: A) -> Result<u64, MemoryError> {
        self.tables.load(address)
    }

    fn compare_exchange(&self, address: A, current: u64, new: u64) -> Result<bool, MemoryError> {
        let stored = self.tables.compare_exchange(address, current, new)?;
        if stored {
            self.wrote(address, 1);
        }
        Ok(stored)
    }

    #[inline(always)]
    fn load_u32(&self, address: A) -> Result<u32, MemoryError> {
        self.tables.load_u32(address)
    }

    fn compare_exchange_u32(
        &self,
        address: A,
        current: u32,
        new: u32,
    ) -> Result<bool, MemoryError> {
        let stored = self.tables.compare_exchange_u32(address, current, new)?;
        if stored {
            self.wrote(address, 1);
        }
        Ok(stored)
    }

    #[inline]
    fn is_writable(&self, address: A) -> bool {
        self.tables.is_writable(address)
    }

    #[inline(always)]
    fn in_place(&self, address: A, words: usize) -> Option<&[AtomicU64]> {
        self.tables.in_place(address, words)
    }
}

impl<'m, H: HeldMemory<'m>, A: Address> TableMemory<A> for TrackedTables<'m, H, A> {
    #[inline(always)]
    fn word(&self, address: A) -> Result<&AtomicU64, MemoryError> {
        self.tables.word(address)
    }

    #[inline(always)]
    fn table(&self, address: A, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.tables.table(address, words)
    }

    fn wrote(&self, address: A, words: usize) {
        let memory = self.memory.memory();
        if let Some((region, at)) = memory.to_region_addr(GuestAddress(address.get() & !7)) {
            region.bitmap().mark_dirty(at.0 as usize, words.saturating_mul(8));
        }
    }
}
