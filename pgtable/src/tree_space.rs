//! A tree as an [`AddressSpace`].

use core::ops::ControlFlow;

use arrayvec::ArrayVec;

use crate::access::{Access, Prot};
use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::error::RangeError;
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::gather::{Gather, Invalidate};
use crate::memory::TableMemory;
use crate::space::{AddressSpace, Leaves};
use crate::table::PageTable;
use crate::walk::{LeafOf, TranslationOf};

/// What a tree and a writer of one have by methods of the same names.
macro_rules! verbs_of_trees {
    () => {
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
    };
}
pub(crate) use verbs_of_trees;

impl<F, M, A> AddressSpace for PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    verbs_of_trees!();

    fn for_each<B>(
        &self,
        input: Input<F>,
        bytes: u64,
        visit: impl FnMut(LeafOf<F>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, RangeError<Input<F>>> {
        self.walker().for_each(input, bytes, visit)
    }

    fn page_shift(&self) -> u8 {
        self.format.geometry().page_shift()
    }

    fn leaf_shifts(&self) -> ArrayVec<u8, 32> {
        self.format.geometry().leaf_shifts()
    }

    fn range(&self) -> (Input<F>, u64) {
        let mask = self.format.geometry().address_mask();
        let start = self.format.address(0);
        // Where addresses are sign-extended, only half of them lie in a row.
        let whole = start.checked_add(mask).and_then(|last| self.format.offset(last)) == Some(mask);
        (start, if whole { mask } else { mask >> 1 } + 1)
    }
}
