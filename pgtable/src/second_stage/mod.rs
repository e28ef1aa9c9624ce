//! The second stage of one guest, from the first fault to the teardown: what a hypervisor does with
//! a `Gpa → Hpa` tree besides mapping and unmapping.
//!
//! # Protocol
//! There is one writer at a time (`&mut`: the embedder's lock, KVM's `mmu_lock`). Hardware walks
//! the tree meanwhile, and sets accessed and dirty.
//!
//! **Faulting a page in** ([`Stage2Tree::fault_in`]) needs the host's own translation, which the
//! embedder looks up without the lock. So:
//! 1. take a [`Ticket`]; 2. look the host page up; 3. with the lock, fault in. If anything was
//!    unmapped since the ticket was taken, or is being unmapped, step 3 answers
//!    [`FaultInError::Again`]: the host page may be gone. The guest then faults again.
//!
//! **A host that takes pages away** (an MMU notifier) calls
//! [`invalidation_begins`](Stage2Tree::invalidation_begins), unmaps, and calls
//! [`invalidation_ends`](Stage2Tree::invalidation_ends). Unmapping takes whole leaves. It never
//! splits one, so it never needs memory, and the notifier cannot fail for want of it.
//!
//! **One address has one size.** A leaf in the way of a smaller page is unmapped as a whole (its
//! other pages fault in again). A table in the way of a larger leaf is emptied and leaves the tree.
//! In both cases the old translations, and the table entries that lead to the table, are
//! invalidated before the new leaf is stored, and the table is freed after that.
//!
//! **A leaf that stays is only added to** by a fault: rights and records. Where a TLB may keep the
//! entry by which it refused the access ([`SecondStage::keeps_refusals`]), the page goes into the
//! [`Gather`], and the guest may go on once that is finished.
//!
//! **Nothing that hardware recorded is lost.** A leaf is made absent by one atomic exchange, and
//! hardware records nothing in an absent entry. Each leaf that goes is reported as it was at that
//! moment ([`PageState`]).
//!
//! # Records
//! Verbs work with and without records of hardware. Where the format keeps no accessed record
//! ([`Bits::accessed`](crate::format::Bits::accessed); EPT without A/D), every mapped page counts
//! as accessed, and [`age`](Stage2Tree::age) unmaps it. Where a leaf keeps no dirty record, a
//! writable page counts as dirty, and [`clear_dirty`](Stage2Tree::clear_dirty) takes the right to
//! write.
//!
//! | verb | clears | stale afterwards |
//! | --- | --- | --- |
//! | [`age`](Stage2Tree::age) | accessed | nothing: a translation that is still cached goes on unrecorded for a while, as in KVM |
//! | [`clear_dirty`](Stage2Tree::clear_dirty), [`clear_logged`](Stage2Tree::clear_logged) | dirty | the pages |
//! | [`write_protect`](Stage2Tree::write_protect) | the right to write | the pages |
//! | [`harvest`](Stage2Tree::harvest) | accessed or dirty | the pages |
//!
//! Each of these but `harvest` works on whole leaves: those that map any byte of the range, and so
//! reach beyond it. A dirty log of a memory slot is: [`write_protect`](Stage2Tree::write_protect)
//! the slot, or [`clear_dirty`](Stage2Tree::clear_dirty) where hardware records; then, in each
//! round, collect what is dirty, finish the gather, and *then* read the pages.
//!
//! Linux's counterparts are `virt/kvm/kvm_main.c` (the ticket) and each architecture's `mmu.c`.

mod error;
mod fault_in;
mod page_state;
mod record;
mod sequence;
mod slot;
mod unmap;

use core::ops::ControlFlow;

use crate::address::{Gpa, Hpa, low_bits};
use crate::allocator::TableAllocator;
use crate::error::{Error, RangeError};
use crate::format::SecondStage;
use crate::gather::{Finished, Gather, GatherError, Invalidate};
use crate::memory::TableMemory;
use crate::stage::Stage2;
use crate::table::PageTable;
use crate::walk::{Walker, bounds};

pub use error::FaultInError;
pub use fault_in::{HostPage, Placed};
pub use page_state::PageState;
pub use sequence::Ticket;
pub use slot::MemorySlot;

/// The second stage of one guest.
///
/// `T` is the guest's name in invalidations ([`Invalidate::Identity`]): POWER's LPID, AArch64's and
/// RISC-V's VMID, an EPTP, an ASID.
///
/// What makes translations stale takes a [`Gather`] of this guest ([`gather`](Self::gather)), which
/// the caller finishes ([`finish`](Self::finish)): for one page at once, for a memory slot at the
/// end. It is finished before the lock is given up: until then hardware may hold translations of
/// addresses that another gather's [`fault_in`](Self::fault_in) would map anew.
///
/// Dropping it frees nothing, since hardware may still walk it: see [`destroy`](Self::destroy).
///
/// ```
/// # use pgtable_conformance::prelude::*;
/// # pgtable_conformance::example!(stage: stage, gather, slot);
/// use pgtable::second_stage::HostPage;
///
/// // The guest stored to 0x5678, and its page is not mapped. With the lock for a moment:
/// let ticket = stage.ticket();
/// // Without it, the host's page is looked up.
/// let page = HostPage { frame: Hpa::new(0x8000_5000), shift: 12, attributes: Prot::RWX.into() };
/// // With the lock:
/// let (gpa, kind) = (Gpa::new(0x5678), AccessKind::Write);
/// stage.fault_in(ticket, gpa, kind, &slot, page, &mut gather, |_| ())?;
/// assert_eq!(stage.state_at(gpa)?.map(|state| state.dirty), Some(true));
/// stage.finish(&mut gather)?;
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Stage2Tree<F, M, A, T> {
    table: PageTable<F, M, A>,
    identity: T,
    sequence: sequence::Sequence,
}

impl<F, M, A, T> Stage2Tree<F, M, A, T>
where
    F: SecondStage,
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    T: Copy,
{
    /// An empty second stage of the guest that invalidations call `identity`, with tables in
    /// `memory` from `tables`.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(memory: arena, tables);
    /// # let memory = arena.memory::<Hpa>();
    /// use pgtable_x86::{Ept, EptControls, Levels};
    /// use pgtable::second_stage::Stage2Tree;
    ///
    /// let format = Ept::new(Levels::Four, EptControls::new());
    /// let stage = Stage2Tree::new(format, memory, &tables, 7)?;
    /// assert_eq!(stage.identity(), 7);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Alloc`], [`Error::Memory`]: there is no root to be had.
    pub fn new(format: F, memory: M, tables: A, identity: T) -> Result<Self, Error> {
        let table = PageTable::new(format, memory, tables)?;
        Ok(Self { table, identity, sequence: sequence::Sequence::default() })
    }

    /// The guest's name in invalidations.
    pub fn identity(&self) -> T {
        self.identity
    }

    /// Gives the guest another name: an EPTP, which is known once there is a root; a VMID or an
    /// ASID of the next generation, after what the old one may have cached is invalidated. Gathers
    /// made before keep the name that they were made for.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(memory: arena, tables);
    /// # let memory = arena.memory::<Hpa>();
    /// use pgtable_x86::{Ept, EptControls, Eptp, Levels};
    /// use pgtable::second_stage::Stage2Tree;
    ///
    /// let format = Ept::new(Levels::Four, EptControls::new());
    /// let mut stage = Stage2Tree::new(format, memory, &tables, Eptp::new())?;
    /// stage.set_identity(format.eptp(stage.root()));
    /// assert_eq!(stage.identity().frame() << 12, stage.root().get());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn set_identity(&mut self, identity: T) {
        self.identity = identity;
    }

    /// The address of the root table: what an EPTP, a VTTBR, an hgatp, a partition table entry is
    /// made of.
    pub fn root(&self) -> Hpa {
        self.table.root()
    }

    /// The format of the tree.
    pub fn format(&self) -> &F {
        self.table.format()
    }

    /// The allocator that tables come from.
    pub fn tables(&self) -> &A {
        self.table.tables()
    }

    /// A reader of the tree.
    pub fn walker(&self) -> Walker<F, &M> {
        self.table.walker()
    }

    /// The leaf that maps `gpa`, whatever it allows; `None` if there is none, also beyond the tree.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// let state = stage.state_at(Gpa::new(0x5678))?.ok_or("not mapped")?;
    /// assert_eq!(state.leaf.input, Gpa::new(0x5000));
    /// assert!(state.accessed);
    /// assert!(stage.state_at(Gpa::new(0x6000))?.is_none());
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Malformed`], [`Error::Memory`]: somebody else wrote the tree.
    pub fn state_at(&self, gpa: Gpa) -> Result<Option<PageState<F>>, RangeError<Gpa>> {
        // A query says what one entry of a group recorded, a visit what all of them did.
        match self.table.walker().for_each(gpa, 1, ControlFlow::Break) {
            Ok(ControlFlow::Break(leaf)) => Ok(Some(PageState::of(self.format(), leaf))),
            Ok(ControlFlow::Continue(())) | Err(RangeError { error: Error::Range, .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// An empty gather for this guest.
    pub fn gather<'i, I: Invalidate<Stage2, Identity = T>>(
        &self,
        by: &'i I,
    ) -> Gather<'i, Stage2, I> {
        Gather::new(by, self.identity)
    }

    /// Invalidates what `gather` collected, then frees the tables that left.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// stage.unmap(Gpa::new(0x5000), 0x1000, &mut gather, |_| ())?;
    /// // The host page may be given away once this returns.
    /// assert_eq!(stage.finish(&mut gather)?.tables, 3);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GatherError`]; after a failed invalidation nothing was freed, all is still gathered, and
    /// finishing may be tried again.
    pub fn finish<I: Invalidate<Stage2, Identity = T>>(
        &self,
        gather: &mut Gather<'_, Stage2, I>,
    ) -> Result<Finished, GatherError> {
        gather.finish(self.table.tables())
    }

    /// Frees every table, after one invalidation of the whole guest. The root must have been taken
    /// out of whatever register or table hardware finds it by.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(faulted: stage, gather, slot);
    /// stage.finish(&mut gather)?;
    /// let finished = stage.destroy(&Tlb::default()).map_err(|(_stage, error)| error)?;
    /// assert_eq!(finished.tables, 4);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`GatherError`]; after a failed invalidation nothing was freed and the tree is given back.
    pub fn destroy<I: Invalidate<Stage2, Identity = T>>(
        self,
        by: &I,
    ) -> Result<Finished, (Self, GatherError)> {
        let Self { table, identity, sequence } = self;
        table
            .destroy(Gather::new(by, identity))
            .map_err(|(table, error)| (Self { table, identity, sequence }, error))
    }

    /// The leaves that map any of the `bytes` bytes from `gpa` on, as a range of whole leaves and
    /// whole finest pages; `None` if there are no bytes.
    fn whole(&self, gpa: Gpa, bytes: u64) -> Result<Option<(Gpa, u64)>, RangeError<Gpa>> {
        let format = self.format();
        let (start, end) = bounds(format, gpa, bytes, 0)?;
        let Some(last) = end.checked_sub(1).filter(|last| *last >= start) else { return Ok(None) };
        let finest = format.geometry().finest_shift();
        let around = |offset| {
            let at = format.address(offset);
            let found =
                self.table.walker().query(at).map_err(|error| RangeError { at: gpa, error })?;
            Ok(low_bits(found.map_or(finest, |found| found.shift.max(finest))))
        };
        let (first, last) = (start & !around(start)?, last | around(last)?);
        Ok(Some((format.address(first), last - first + 1)))
    }
}
