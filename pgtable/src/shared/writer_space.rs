//! A writer of a shared tree as an [`AddressSpace`].

use core::ops::ControlFlow;

use arrayvec::ArrayVec;

use crate::access::{Access, Prot};
use crate::error::RangeError;
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::lock::DeferringAllocator;
use crate::memory::TableMemory;
use crate::space::{AddressSpace, Leaves};
use crate::walk::{LeafOf, TranslationOf};

use super::writer::Writer;

/// Code that is written for one writer runs beside others.
impl<F, M, A> AddressSpace for Writer<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    type Stage = F::Stage;
    type Attributes = F::Attributes;
    type Fault = Fault<F>;

    fn map(
        &mut self,
        input: Input<F>,
        output: Output<F>,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), RangeError<Input<F>>> {
        Self::map(self, input, output, bytes, attributes, leaves)
    }

    fn unmap<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::unmap(self, input, bytes, gather)
    }

    fn unmap_with<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        each: impl FnMut(LeafOf<F>),
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::unmap_with(self, input, bytes, each, gather)
    }

    fn modify<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        edit: impl FnMut(LeafOf<F>) -> F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::modify(self, input, bytes, edit, gather)
    }

    fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::protect(self, input, bytes, prot, gather)
    }

    fn write_protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::write_protect(self, input, bytes, gather)
    }

    fn set_attributes<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        Self::set_attributes(self, input, bytes, attributes, gather)
    }

    fn translate(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        Self::translate(self, input, access)
    }

    fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.read(|walker| walker.for_each(input, bytes, visit))
    }

    fn page_shift(&self) -> u8 {
        self.table.page_shift()
    }

    fn leaf_shifts(&self) -> ArrayVec<u8, 32> {
        self.table.leaf_shifts()
    }

    fn range(&self) -> (Input<F>, u64) {
        self.table.range()
    }
}
