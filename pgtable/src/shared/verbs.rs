//! The verbs that [`Writer`](super::Writer) and [`LockedRange`](super::LockedRange) have in
//! common, stated once: each is [`PageTable`](crate::tree::PageTable)'s, on the tables that the one
//! locks for it and the other has locked.
//!
//! (Those of which one page has a way of its own, or after which tables are taken out, stand with
//! the types.)

/// The methods of an `impl` block. `$receiver` is what they take, `$within` what their
/// documentation says after the verb's name; both types have a method `within`, which does
/// something to the tables that cover a range.
macro_rules! verbs {
    ($self:ident: $receiver:ty, $within:literal, $hand:literal) => {
        #[doc = concat!("As [`PageTable::modify`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// let edit = |page: LeafOf<Sv>| page.attributes.with_memory(Memory::Uncached);
        /// assert_eq!(hand.modify(Gva::new(0), 0x4000, edit, &mut gather)?, 0x4000);
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn modify<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            edit: impl FnMut(LeafOf<F>) -> F::Attributes,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<u64, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                let verb = Modify::new(Each(edit), Writers::Running);
                table.change_range(trail, (input, bytes), verb, gather)
            })
        }

        #[doc = concat!("As [`PageTable::protect`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// hand.protect(Gva::new(0), 0x4000, Prot::R, &mut gather)?;
        /// assert!(shared.walker().translate(Gva::new(0), Access::WRITE).is_err());
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn protect<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            prot: Prot,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<u64, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                let verb = Modify::new(Rights(prot), Writers::Running);
                table.change_range(trail, (input, bytes), verb, gather)
            })
        }

        #[doc = concat!("As [`PageTable::write_protect`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// hand.write_protect(Gva::new(0), 0x20_0000, &mut gather)?;
        /// assert!(shared.walker().translate(Gva::new(0), Access::WRITE).is_err());
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn write_protect<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<u64, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                let verb = Modify::new(ReadOnly, Writers::Running);
                table.change_range(trail, (input, bytes), verb, gather)
            })
        }

        #[doc = concat!("As [`PageTable::set_attributes`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// let registers = SvAttributes::from(Prot::RW).with_memory(Memory::Device);
        /// hand.set_attributes(Gva::new(0), 0x1000, registers, &mut gather)?;
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn set_attributes<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            attributes: F::Attributes,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<u64, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                let verb = Modify::new(Replace(attributes), Writers::Running);
                table.change_range(trail, (input, bytes), verb, gather)
            })
        }

        #[doc = concat!("As [`PageTable::split`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// assert_eq!(hand.split(Gva::new(0x20_0000), 0x20_0000, 12, &mut gather)?, 1);
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn split<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            shift: u8,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<usize, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                table.split_range(trail, input, bytes, shift, gather)
            })
        }

        #[doc = concat!("As [`PageTable::promote`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// assert_eq!(hand.promote(Gva::new(0), 0x20_0000, &mut gather)?, 1);
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn promote<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<usize, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                table.promote_range(trail, input, bytes, gather)
            })
        }

        #[doc = concat!("As [`PageTable::harvest`]", $within)]
        ///
        /// ```
        /// # use pgtable_conformance::prelude::*;
        #[doc = concat!("# pgtable_conformance::example!(", $hand, ");")]
        /// let mut log = [0; 8];
        /// let (at, bytes) = (Gva::new(0), 0x20_0000);
        /// hand.harvest(at, bytes, Recorded::Dirty, Writers::Running, &mut log, &mut gather)?;
        /// gather.finish(shared.tables())?;
        /// # drop(hand);
        /// # gather.finish(shared.tables())?;
        /// # Ok::<(), Box<dyn core::error::Error>>(())
        /// ```
        ///
        /// # Errors
        /// As there, and [`Error::Contended`].
        pub fn harvest<I: Invalidate<F::Stage>>(
            $self: $receiver,
            input: Input<F>,
            bytes: u64,
            recorded: Recorded,
            writers: Writers,
            bitmap: &mut [u64],
            gather: &mut Gather<'_, F::Stage, I>,
        ) -> Result<u64, RangeError<Input<F>>> {
            $self.within(input, bytes, |table, trail| {
                table.harvest_range(trail, (input, bytes), recorded, writers, bitmap, gather)
            })
        }
    };
}
