//! Translation that begins at the table of level 1 where the last one ended: for accesses that stay
//! near each other, and no dearer than a whole walk for those that don't.

use crate::access::Access;
use crate::allocator::TableAllocator;
use crate::descent::{ByValue, Reading};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::memory::TableMemory;
use crate::quick::{Unusual, entry, to_table};
use crate::table::PageTable;
use crate::translate::{read_quickly, translate_slowly};
use crate::walk::TranslationOf;

/// The level of the remembered table, where there are tables above it.
const ANCHOR: u8 = 1;

/// Translates by a tree that nobody changes meanwhile (it is borrowed), remembering one upper
/// table.
#[derive(Debug)]
pub struct Anchored<'t, F, M> {
    /// A copy, which the compiler keeps in registers from one translation to the next.
    format: F,
    memory: &'t M,
    root: u64,
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
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let mut near = tree.anchored();
    /// for page in 0..64 {
    ///     let found = near.translate(Gva::new(page << 12), Access::READ)?;
    ///     assert_eq!(found.output, Gpa::new(0x80_0000 + (page << 12)));
    /// }
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn anchored(&self) -> Anchored<'_, F, M> {
        let (format, memory, root) = (self.format, &self.memory, self.root);
        Anchored { format, memory, root, part: u64::MAX, upper: 0, access: Access::READ }
    }
}

impl<F: Format, M: TableMemory<Output<F>>> Anchored<'_, F, M> {
    /// Translates one access.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let mut near = tree.anchored();
    /// assert!(near.translate(Gva::new(0x5000), Access::READ).is_ok());
    /// assert!(near.translate(Gva::new(0x5000), Access::FETCH).is_err());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
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
            Err(unusual) => {
                let memory = ByValue(self.memory);
                translate_slowly(&self.format, memory, self.root, (input, access), unusual)
            }
        }
    }

    #[inline(always)]
    fn translate_quickly(
        &mut self,
        input: Input<F>,
        access: Access,
    ) -> Result<TranslationOf<F>, Unusual> {
        let (format, memory) = (&self.format, ByValue(self.memory));
        let Some(shortcuts) = format.shortcuts(Some(access)) else { return Err(Unusual::NONE) };
        let Some(offset) = format.offset(input) else { return Err(Unusual::NONE) };
        if shortcuts.root() < ANCHOR {
            return Err(Unusual::NONE);
        }
        let part = offset >> (shortcuts.step(ANCHOR).shift() + shortcuts.step(ANCHOR).width());
        if part != self.part || access != self.access {
            self.part = u64::MAX;
            self.upper = upper_table(format, memory, self.root, ANCHOR, (offset, access))?;
            (self.part, self.access) = (part, access);
        }
        let table = to_table::<F, _>(&shortcuts, memory, (ANCHOR, self.upper), 0, offset)?;
        entry::<F, _>(&shortcuts, memory, (0, table), offset)
            .and_then(|last| read_quickly(format, &last, offset))
            .ok_or(Unusual::NONE)
    }
}

/// The table of `level` for `offset`, for accesses like `access`. Apart, so that the loop over what
/// is near has the processor's registers.
#[cold]
#[inline(never)]
fn upper_table<F: Format, R: Reading<F>>(
    format: &F,
    memory: R,
    root: u64,
    level: u8,
    (offset, access): (u64, Access),
) -> Result<u64, Unusual> {
    let Some(shortcuts) = format.shortcuts(Some(access)) else { return Err(Unusual::NONE) };
    to_table::<F, R>(&shortcuts, memory, (shortcuts.root(), root), level, offset)
}
