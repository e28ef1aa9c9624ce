//! Changing what leaves say, and nothing else about them: rights, memory type, software bits.
//!
//! # Protocol
//! Hardware may set accessed and dirty in an entry at any time. A new word is therefore stored by
//! compare-exchange on the word that was judged, and judged anew if that word has changed; where
//! nothing else writes ([`Writers::Stopped`]), it is stored.
//!
//! # Break-before-make
//! Some architectures forbid that certain bits of a live leaf change (AArch64: the memory type).
//! The format says which bits may ([`Bits::in_place`]). Where an edit changes others, the leaves
//! are made absent, their translations invalidated, and then the new leaves stored; an access in
//! between faults, and the handler of the fault tries again.

use crate::access::Prot;
use crate::allocator::TableAllocator;
use crate::edit::{Each, Modify, ReadOnly, Replace, Rights};
use crate::error::RangeError;
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::memory::TableMemory;
use crate::record::Writers;
use crate::table::PageTable;
use crate::walk::LeafOf;

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Gives each leaf in the `bytes` bytes from `input` on the attributes that `edit` says;
    /// returns how many bytes are mapped there. Leaves that reach beyond the range are split. Holes
    /// are no error.
    ///
    /// `edit` is called again for a leaf that hardware changed meanwhile.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // Every second page becomes memory that is not cached.
    /// let edit = |page: LeafOf<Sv>| match page.input.get() & 0x1000 {
    ///     0 => page.attributes.with_memory(Memory::Uncached),
    ///     _ => page.attributes,
    /// };
    /// assert_eq!(tree.modify(Gva::new(0), 0x4000, edit, &mut gather)?, 0x4000);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), [`Error::Unencodable`](crate::Error::Unencodable), and
    /// [`Error::Contended`](crate::Error::Contended) for a leaf that
    /// keeps changing. Everything before the error's address is modified.
    pub fn modify<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        edit: impl FnMut(LeafOf<F>) -> F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Each(edit), Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Gives whatever is mapped in the `bytes` bytes from `input` on these rights, and changes
    /// nothing else: memory type, software bits and what hardware recorded stay. Returns how many
    /// bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.protect(Gva::new(0), 0x4000, Prot::R, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// assert!(tree.translate(Gva::new(0x4000), Access::WRITE).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.protect_beside(input, bytes, prot, Writers::Running, gather)
    }

    /// The same where it is known whether anything else sets bits in the entries meanwhile: if
    /// nothing does, entries are stored, not exchanged, which is several times as fast.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // The vCPUs are stopped.
    /// tree.protect_beside(Gva::new(0), 0x4000, Prot::R, Writers::Stopped, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn protect_beside<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        writers: Writers,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Rights(prot), writers);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Takes the right to write from whatever is mapped in the `bytes` bytes from `input` on, and
    /// changes nothing else. Returns how many bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.write_protect(Gva::new(0), 0x20_0000, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// assert!(tree.translate(Gva::new(0x3000), Access::READ).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn write_protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(ReadOnly, Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Replaces all attributes of whatever is mapped in the `bytes` bytes from `input` on: rights,
    /// memory type and software bits. What hardware recorded (accessed, dirty) stays; where no
    /// record is kept in the old leaf or the new one (AArch64: dirty, in writable pages without
    /// DBM), `attributes` say. Returns how many bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let registers = SvAttributes::from(Prot::RW).with_memory(Memory::Device);
    /// tree.set_attributes(Gva::new(0), 0x1000, registers, &mut gather)?;
    /// let found = tree.translate(Gva::new(0), Access::READ)?;
    /// assert_eq!(found.attributes.memory(), Memory::Device);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn set_attributes<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Replace(attributes), Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }
}
