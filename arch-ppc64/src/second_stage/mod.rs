//! The second stage of one guest, as its hypervisor keeps it: the partition-scoped radix tree
//! `Gpa → Hpa`, its LPID, and what happens to it from the first fault to the teardown.
//!
//! # Protocol
//! There is one writer at a time (`&mut`: the embedder's lock, KVM's `mmu_lock`); hardware walks
//! the tree and may set R and C meanwhile.
//!
//! **Faulting a page in** ([`SecondStage::fault_in`]) needs the host's own translation, which the
//! embedder looks up without the lock. So:
//! 1. take a [`Ticket`]; 2. look the host page up; 3. with the lock, fault in. If anything was
//!    unmapped since the ticket was taken, or is being unmapped, step 3 answers [`Error::Again`]:
//!    the host page may be gone. The guest then simply faults again.
//!
//! **One address has one size.** A leaf in the way of a smaller page is unmapped as a whole (its
//! other pages fault in again); a table in the way of a larger leaf is emptied and leaves the tree.
//! In both cases the old translations, and the page-walk cache if a table left, are invalidated
//! before the new entry is stored, and the table is freed after that.
//!
//! **A leaf that is there is only ever added to**: permissions, R and C are ORed in, which needs no
//! invalidation. (Hardware that still holds less takes a fault that finds everything in place.)
//!
//! **Nothing that hardware recorded is lost.** Before a leaf is cleared its access authority is
//! taken away by an atomic AND: what that returns is final, since no implementation records a use
//! that the entry does not allow. Each leaf that goes is reported with its R and C.
//!
//! Unmapping never splits, so it never needs memory: an MMU notifier cannot be refused.
//!
//! Linux's counterpart is `arch/powerpc/kvm/book3s_64_mmu_radix.c`. Ours differs where the address
//! that an entry is *for* matters: the guest address is carried down with each entry, never rebuilt
//! from what the entry maps.

mod error;
mod fault;
mod leaf;
mod place;
mod record;
mod sequence;
mod slot;
mod unmap;

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Finished, Gather, GatherError, Invalidate};
use pgtable::memory::TableMemory;
use pgtable::tree::PageTable;
use pgtable::walk::{LeafOf, TranslationOf, Walker};
use pgtable::{Gpa, Hpa, Stage2};

use crate::radix::{Granule, PartitionScoped, Pate, ProcessTableWord, RadixRoot};

pub use error::Error;
pub use fault::{Action, HDSISR_CANARY, Reason, StorageFault};
pub use place::{HostPage, Placed};
pub use sequence::Ticket;
pub use slot::MemorySlot;

/// A leaf of a second stage: a guest page, where it is, and with what attributes.
pub type Leaf = LeafOf<PartitionScoped>;
/// Where a second stage translates to.
pub type Translation = TranslationOf<PartitionScoped>;

/// The second stage of one guest.
///
/// Whatever makes translations stale takes a [`Gather`] of this guest's ([`gather`](Self::gather)),
/// which the caller finishes ([`finish`](Self::finish)) when it likes: for one page at once, for a
/// memory slot at the end. [`Invalidation::of_partition`](crate::radix::Invalidation::of_partition)
/// makes the instructions of it.
///
/// Dropping it frees nothing, since hardware may still walk it: see [`destroy`](Self::destroy).
#[derive(Debug)]
pub struct SecondStage<M, A> {
    table: PageTable<PartitionScoped, M, A>,
    lpid: u32,
    sequence: sequence::Sequence,
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> SecondStage<M, A> {
    /// An empty second stage for partition `lpid`, with tables in `memory` from `tables`.
    ///
    /// # Errors
    /// [`pgtable::Error::Alloc`], [`pgtable::Error::Memory`]: there is no root to be had.
    pub fn new(
        format: PartitionScoped,
        memory: M,
        tables: A,
        lpid: u32,
    ) -> Result<Self, pgtable::Error> {
        Ok(Self {
            table: PageTable::new(format, memory, tables)?,
            lpid,
            sequence: sequence::Sequence::default(),
        })
    }

    /// The partition.
    pub fn lpid(&self) -> u32 {
        self.lpid
    }

    /// What its last-level tables are made of: the smallest page that it maps.
    pub fn granule(&self) -> Granule {
        self.table.format().granule()
    }

    /// The format of its tree.
    pub fn format(&self) -> &PartitionScoped {
        self.table.format()
    }

    /// The allocator that its tables come from.
    pub fn tables(&self) -> &A {
        self.table.tables()
    }

    /// The partition table entry by which hardware finds the tree, with the guest's process table.
    /// When an entry that hardware may have seen is replaced, invalidate the whole partition
    /// ([`Invalidation::all`](crate::radix::Invalidation::all)). `None` if the root lies where no
    /// entry can name it (beyond 2^60).
    pub fn pate(&self, process_table: ProcessTableWord) -> Option<Pate> {
        let tree = RadixRoot::of_tree(self.table.root().get())?.with_hr(true);
        Some(Pate { tree, process_table })
    }

    /// A reader of the tree.
    pub fn walker(&self) -> Walker<PartitionScoped, &M> {
        self.table.walker()
    }

    /// What is mapped at `gpa`, whatever it allows; `None` if nothing is.
    ///
    /// # Errors
    /// [`pgtable::Error::Malformed`], [`pgtable::Error::Memory`]: somebody else wrote the tree.
    pub fn query(&self, gpa: Gpa) -> Result<Option<Translation>, pgtable::Error> {
        match self.table.walker().query(gpa) {
            Err(pgtable::Error::Range) => Ok(None),
            found => found,
        }
    }

    /// An empty gather for this guest.
    pub fn gather<'i, I: Invalidate<Stage2, Identity = u32>>(
        &self,
        by: &'i I,
    ) -> Gather<'i, Stage2, I> {
        Gather::new(by, self.lpid)
    }

    /// Invalidates what `gather` collected, then frees the tables that left.
    ///
    /// # Errors
    /// [`GatherError`]; after a failed invalidation nothing was freed.
    pub fn finish<I: Invalidate<Stage2, Identity = u32>>(
        &self,
        mut gather: Gather<'_, Stage2, I>,
    ) -> Result<Finished, GatherError> {
        gather.finish(self.table.tables())
    }

    /// Frees every table, after one invalidation of the whole partition. The partition table entry
    /// must have been taken out before.
    ///
    /// # Errors
    /// [`GatherError`]; after a failed invalidation nothing was freed and the tree is given back.
    pub fn destroy<I: Invalidate<Stage2, Identity = u32>>(
        self,
        by: &I,
    ) -> Result<Finished, (Self, GatherError)> {
        let Self { table, lpid, sequence } = self;
        table
            .destroy(Gather::new(by, lpid))
            .map_err(|(table, error)| (Self { table, lpid, sequence }, error))
    }
}
