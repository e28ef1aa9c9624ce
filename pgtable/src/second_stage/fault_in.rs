//! Faulting a page in: which leaf, with which attributes, and what becomes of what stands in its
//! way (KVM on POWER: `kvmppc_book3s_instantiate_page` and `kvmppc_create_pte`).

use super::Stage2Tree;
use super::error::FaultInError;
use super::page_state::{PageState, with_write};
use super::record::Tells;
use super::sequence::Ticket;
use super::slot::MemorySlot;
use crate::access::{AccessKind, Attributes};
use crate::address::{Gpa, Hpa, low_bits};
use crate::allocator::TableAllocator;
use crate::error::{Error, RangeError};
use crate::format::SecondStage;
use crate::gather::{Gather, Invalidate, InvalidateFailed};
use crate::memory::TableMemory;
use crate::space::{Leaves, Mapping};
use crate::stage::Stage2;
use crate::walk::LeafOf;

/// A page of the host, as the host's own tables have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPage<T> {
    /// Its first byte.
    pub frame: Hpa,
    /// log2 of its size: that of the host's own leaf.
    pub shift: u8,
    /// What the guest may do with it at most, and its memory type. With the right to write if it
    /// was got for writing, or turned out to be writable. Records in it do not count.
    pub attributes: T,
}

/// What was done to have a page mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It was not mapped; whatever stood in its way is unmapped.
    New,
    /// It was mapped, with fewer rights or records.
    Added,
    /// It was mapped like that already: somebody else was faster. If the fault was for a right that
    /// the page does not grant, it is met again: tell the guest, instead of letting it try again.
    Already,
}

impl<F, M, A, T> Stage2Tree<F, M, A, T>
where
    F: SecondStage,
    M: TableMemory<Hpa>,
    A: TableAllocator<Hpa>,
    T: Copy,
{
    /// Maps the page that covers `gpa` in `slot` to `page` of the host, for an access of `kind`, by
    /// the largest leaf that both allow. What stands in its way is unmapped as a whole and shown to
    /// `gone`, and invalidated before the new leaf is stored.
    ///
    /// The leaf has the rights of `page`, without the right to write in a read-only slot. It is
    /// accessed, and dirty after a store. In a slot that is not logged a writable leaf is dirty at
    /// once, which spares the guest a fault where hardware does not record. In a slot that is
    /// logged a leaf without a record of stores becomes writable by a store only.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(stage: stage, gather, slot);
    /// use pgtable::second_stage::{FaultInError, HostPage, Placed};
    ///
    /// let page = HostPage { frame: Hpa::new(0x8020_0000), shift: 21, attributes: Prot::RX.into() };
    /// let gpa = Gpa::new(0x21_2345);
    /// let ticket = stage.ticket();
    /// let placed = stage.fault_in(ticket, gpa, AccessKind::Read, &slot, page, &mut gather, |_| ())?;
    /// assert_eq!(placed, Placed::New);
    /// // A store needs a host page that was got for writing.
    /// let store = AccessKind::Write;
    /// let refused = stage.fault_in(ticket, gpa, store, &slot, page, &mut gather, |_| ());
    /// assert_eq!(refused, Err(FaultInError::ReadOnly));
    /// let page = HostPage { attributes: Prot::RWX.into(), ..page };
    /// let placed = stage.fault_in(ticket, gpa, store, &slot, page, &mut gather, |_| ())?;
    /// assert_eq!(placed, Placed::Added);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`FaultInError`]; after [`FaultInError::Tree`] what stood in the way may be gone.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and they come from different places"
    )]
    pub fn fault_in<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        ticket: Ticket,
        gpa: Gpa,
        kind: AccessKind,
        slot: &MemorySlot,
        page: HostPage<F::Attributes>,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(PageState<F>),
    ) -> Result<Placed, FaultInError> {
        if !self.sequence.holds(ticket) {
            return Err(FaultInError::Again);
        }
        let outside = FaultInError::Tree(RangeError { at: gpa, error: Error::Range });
        let host_address = slot.host_address(gpa).ok_or(outside)?;
        let store = kind == AccessKind::Write;
        let prot = page.attributes.prot();
        let writable = prot.write() && !slot.read_only;
        if store && !writable {
            return Err(FaultInError::ReadOnly);
        }
        let shift = slot
            .leaf_shift(gpa, page.shift, self.format().geometry())
            .ok_or(FaultInError::TooSmall { shift: page.shift })?;
        let within = host_address & low_bits(page.shift) & !low_bits(shift);
        let leaf = Mapping {
            input: Gpa::new(gpa.get() & !low_bits(shift)),
            output: Hpa::new((page.frame.get() & !low_bits(page.shift)) | within),
            bytes: 1 << shift,
            shift,
            attributes: page.attributes,
        };
        let dirty = store || !slot.logged;
        let attributes = self.faulted(leaf, writable, dirty);
        Ok(self.place(Mapping { attributes, ..leaf }, gather, gone)?)
    }

    /// The attributes of `leaf`, which was used, and is dirty if `dirty` and `writable` say so.
    fn faulted(&self, leaf: LeafOf<F>, writable: bool, dirty: bool) -> F::Attributes {
        let format = self.format();
        let of = |write, dirty| {
            let attributes = with_write(leaf.attributes, write);
            let state = PageState::of(format, Mapping { attributes, ..leaf });
            let prot = attributes.prot();
            PageState::of(format, Mapping { attributes: state.with(format, prot, dirty), ..leaf })
        };
        let state = of(writable, writable && dirty);
        // A store that no record tells of has to fault.
        let hidden = writable && !dirty && !state.keeps_dirty(format);
        if hidden { of(false, false).leaf.attributes } else { state.leaf.attributes }
    }

    /// Has `leaf` mapped, whatever stands there: [`fault_in`](Self::fault_in) without a slot and
    /// without a ticket, for shadows of other tables, and for devices that the hypervisor maps.
    ///
    /// What `gather` has stale there is invalidated before the leaf is stored. Any other gather
    /// that made these addresses stale has to be finished before.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(stage: stage, gather, slot);
    /// use pgtable::{Mapping, second_stage::Placed};
    /// # use pgtable_x86::EptAttributes;
    ///
    /// let (input, output) = (Gpa::new(0xfee0_0000), Hpa::new(0xfee0_0000));
    /// let attributes = EptAttributes::from(Prot::RW).with_memory(Memory::Device);
    /// let registers = Mapping { input, output, bytes: 0x1000, shift: 12, attributes };
    /// assert_eq!(stage.place(registers, &mut gather, |_| ())?, Placed::New);
    /// assert_eq!(stage.place(registers, &mut gather, |_| ())?, Placed::Already);
    /// # stage.finish(&mut gather)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`PageTable::remap`](crate::tree::PageTable::remap). [`Error::LeafSize`] if there are no
    /// leaves of `leaf.shift`.
    pub fn place<I: Invalidate<Stage2, Identity = T>>(
        &mut self,
        leaf: LeafOf<F>,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(PageState<F>),
    ) -> Result<Placed, RangeError<Gpa>> {
        let Mapping { input, output, shift, attributes, .. } = leaf;
        let (bytes, leaves) = (1u64.checked_shl(shift.into()), Leaves::Exactly(shift));
        let bytes = bytes.ok_or(RangeError { at: input, error: Error::LeafSize })?;
        let (format, wanted) = (*self.format(), PageState::of(self.format(), leaf));
        match self.state_at(input)?.map(|here| (here, here.joined(&format, &wanted))) {
            Some((here, Some(joined))) if joined == here.leaf.attributes => {
                return Ok(Placed::Already);
            }
            Some((_, Some(_))) => {
                let edit = |here: &PageState<F>| {
                    here.joined(&format, &wanted).unwrap_or(here.leaf.attributes)
                };
                self.edit(input, 1, Tells::refused(&format), gather, edit, |_| ())?;
                return Ok(Placed::Added);
            }
            // A leaf for another page, or of another size.
            Some((_, None)) => {}
            None => {
                // Hardware may still hold what was there before.
                if gather.stale().meets(input, bytes) {
                    let at =
                        |error: InvalidateFailed| RangeError { at: input, error: error.into() };
                    gather.flush(self.tables()).map_err(at)?;
                }
                match self.table.map(input, output, bytes, attributes, leaves) {
                    // A table, with nothing yet where the leaf begins.
                    Err(RangeError { error: Error::Mapped { .. }, .. }) => {}
                    mapped => return mapped.map(|()| Placed::New),
                }
            }
        }
        self.take(input, bytes, gather, gone)?;
        // Nothing is mapped there any more; `remap` invalidates before it maps.
        self.table.remap(input, output, bytes, attributes, leaves, gather)?;
        Ok(Placed::New)
    }
}
