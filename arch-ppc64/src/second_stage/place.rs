//! Faulting a page in: which page, with which attributes, and what becomes of what stands in its
//! way (KVM's `kvmppc_book3s_instantiate_page` and `kvmppc_create_pte`).

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::{Gather, Invalidate};
use pgtable::memory::TableMemory;
use pgtable::{AccessKind, Error as TreeError, Gpa, Hpa, Leaves, RangeError, Stage2, low_bits};

use super::error::Error;
use super::leaf::Standing;
use super::sequence::Ticket;
use super::slot::MemorySlot;
use super::{Leaf, SecondStage};
use crate::radix::{Att, Eaa, PageAttributes};

/// A page of the host, as the host's own tables have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostPage {
    /// Its first byte.
    pub frame: Hpa,
    /// log2 of its size: that of the host's own leaf.
    pub shift: u8,
    /// It may be written: it was got for writing, or turned out to be writable.
    pub writable: bool,
    /// What kind of storage it is.
    pub att: Att,
}

/// What was done to have a page mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placed {
    /// It was not mapped; whatever stood in its way is unmapped.
    New,
    /// It was mapped, with less.
    Added,
    /// It was mapped like that already: somebody else was faster.
    Already,
}

impl Standing<'_> {
    /// Adds what `leaf` says if this leaf maps the same page in the same way; `None` if it does
    /// not.
    fn add(self, leaf: &Leaf) -> Option<Placed> {
        let wanted = leaf.attributes.pte();
        let here = self.leaf(self.pte());
        let same = (here.input, here.output, here.shift) == (leaf.input, leaf.output, leaf.shift);
        if !same || here.attributes.att() != leaf.attributes.att() {
            return None;
        }
        let missing = wanted.into_bits() & !self.pte().into_bits();
        if missing == 0 {
            return Some(Placed::Already);
        }
        self.set(wanted);
        Some(Placed::Added)
    }
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> SecondStage<M, A> {
    /// Maps the page that covers `gpa` in `slot` to `page` of the host, by the largest leaf that
    /// both allow. What stands in its way is unmapped as a whole and shown to `gone`, and
    /// invalidated before the new leaf is stored.
    ///
    /// The leaf may be read and executed, and written if `page` is writable and `slot` not
    /// read-only. R is set, and C by a store; in a slot that is not logged C is set with the
    /// permission to write, which spares the guest a fault.
    ///
    /// # Errors
    /// [`Error`]; after [`Error::Tree`] what stood in the way may be gone.
    // A fault has that many sides.
    #[allow(
        clippy::too_many_arguments,
        reason = "each is a different thing, and they come from different places"
    )]
    pub fn fault_in<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        ticket: Ticket,
        gpa: Gpa,
        kind: AccessKind,
        slot: &MemorySlot,
        page: HostPage,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(Leaf),
    ) -> Result<Placed, Error> {
        if !self.sequence.holds(ticket) {
            return Err(Error::Again);
        }
        let outside = Error::Tree(RangeError { at: gpa, error: TreeError::Range });
        let host_address = slot.host_address(gpa).ok_or(outside)?;
        let (store, writable) = (kind == AccessKind::Write, page.writable && !slot.read_only);
        if store && !writable {
            return Err(Error::ReadOnly);
        }
        let shift = slot
            .leaf_shift(gpa, page.shift, self.granule())
            .ok_or(Error::TooSmall { shift: page.shift })?;
        let within = host_address & low_bits(page.shift) & !low_bits(shift);
        let eaa = Eaa::new().with_read(true).with_execute(true).with_write(writable);
        let pte = crate::radix::Pte::new().with_eaa(eaa).with_att(page.att).with_r(true);
        let pte = pte.with_c(writable && (store || !slot.logged));
        let leaf = Leaf {
            input: Gpa::new(gpa.get() & !low_bits(shift)),
            output: Hpa::new((page.frame.get() & !low_bits(page.shift)) | within),
            bytes: 1 << shift,
            shift,
            attributes: PageAttributes::of(pte),
        };
        Ok(self.place(&leaf, gather, gone)?)
    }

    /// Has `leaf` mapped, whatever stands there.
    pub(crate) fn place<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        leaf: &Leaf,
        gather: &mut Gather<'_, Stage2, I>,
        gone: impl FnMut(Leaf),
    ) -> Result<Placed, RangeError<Gpa>> {
        let Leaf { input, output, bytes, shift, attributes } = *leaf;
        let leaves = Leaves::Exactly(shift);
        match self.standing_at(input, |standing| standing.add(leaf))? {
            Some(Some(placed)) => return Ok(placed),
            // A leaf for another page, or of another size.
            Some(None) => {}
            None => match self.table.map(input, output, bytes, attributes, leaves) {
                // A table, with nothing yet where the leaf begins.
                Err(RangeError { error: TreeError::Mapped { .. }, .. }) => {}
                mapped => return mapped.map(|()| Placed::New),
            },
        }
        self.take(input, bytes, gather, gone)?;
        // Nothing is mapped there any more; `remap` invalidates before it maps.
        self.table.remap(input, output, bytes, attributes, leaves, gather)?;
        Ok(Placed::New)
    }
}
