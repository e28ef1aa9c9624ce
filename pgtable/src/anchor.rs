//! Translation that begins at the table of level 1 where the last one ended: for accesses that stay
//! near each other, and no dearer than a whole walk for those that don't.

use crate::access::Access;
use crate::allocator::TableAllocator;
use crate::descent::ByValue;
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::memory::TableMemory;
use crate::quick::{Halt, descend_quickly, finish_quickly};
use crate::table::PageTable;
use crate::walk::{TranslationOf, read_quickly, translate_properly};

/// Translates by a tree that nobody changes meanwhile (it is borrowed), remembering one upper
/// table.
#[derive(Debug)]
pub struct Anchored<'t, F, M, A> {
    table: &'t PageTable<F, M, A>,
    /// The part of the tree that the remembered table covers; all ones if there is none.
    part: u64,
    /// The remembered table: of level 1, reached through entries that grant what `access` demands.
    upper: u64,
    access: Access,
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// A translator of this tree for accesses that are near each other.
    pub fn anchored(&self) -> Anchored<'_, F, M, A> {
        Anchored { table: self, part: u64::MAX, upper: 0, access: Access::READ }
    }
}

impl<F, M, A> Anchored<'_, F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Translates one access.
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises for it.
    #[inline(always)]
    pub fn translate(
        &mut self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Fault<F>> {
        match self.translate_quickly(input, access) {
            Ok(translation) => Ok(translation),
            Err(halt) => {
                let PageTable { format, memory, root, .. } = self.table;
                let exact = format.quick_restricts_nothing(access);
                let halt = if exact { halt } else { Halt::at_root(format, *root) };
                translate_properly(format, ByValue(memory), halt, input, access)
            }
        }
    }

    #[inline(always)]
    fn translate_quickly(
        &mut self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Halt> {
        let PageTable { format, memory, root, .. } = self.table;
        let memory = ByValue(memory);
        let offset = format.offset(input).ok_or(Halt::at_root(format, *root))?;
        let table = |word, at| format.quick_table(word, at, access);
        let part = offset >> format.shift(2);
        if part != self.part || access != self.access {
            self.part = u64::MAX;
            self.upper = descend_quickly(format, memory, *root, offset, table)?;
            (self.part, self.access) = (part, access);
        }
        let last = finish_quickly(format, memory, self.upper, offset, table)?;
        read_quickly(format, &last, offset, access)
    }
}
