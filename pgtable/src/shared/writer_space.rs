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
use crate::tree_space::verbs_of_trees;
use crate::walk::{LeafOf, TranslationOf};

use super::writer::Writer;

/// Code that is written for one writer runs beside others.
impl<F, M, A> AddressSpace for Writer<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: DeferringAllocator<Output<F>>,
{
    verbs_of_trees!();

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
