//! An address space in an image, whichever tables it has.

use std::ops::ControlFlow;

use memory_image::{Image, ImageTables};
use pgtable::Access;
use pgtable_aarch64::{VmsaStage1, VmsaStage2};
use pgtable_ppc64::hash::HptError;
use pgtable_ppc64::radix::ProcessScoped;
use pgtable_riscv64::{Sv, SvX4};
use pgtable_x86::{Ept, LongMode, Pae, Paging32};

use super::census::Census;
use super::describe::Names;
use super::diff::{Difference, Mismatch, of_lists, of_trees};
use super::hash::HashSpace;
use super::range::Range;
use super::root::{Located, Root};
use super::tree::Tree;

/// An address space in an image.
pub enum Space<'i> {
    /// A tree of long mode.
    LongMode(Tree<'i, LongMode>),
    /// A tree of PAE paging.
    Pae(Tree<'i, Pae>),
    /// A tree of 32-bit paging.
    Paging32(Tree<'i, Paging32>),
    /// An extended page table.
    Ept(Tree<'i, Ept>),
    /// A radix tree.
    Radix(Tree<'i, ProcessScoped>),
    /// A hashed page table.
    Hash(HashSpace<'i>),
    /// A tree of a first stage on AArch64.
    VmsaStage1(Tree<'i, VmsaStage1>),
    /// A tree of a second stage on AArch64.
    VmsaStage2(Tree<'i, VmsaStage2>),
    /// A first stage's tree on RISC-V.
    Sv(Tree<'i, Sv>),
    /// A guest stage's tree on RISC-V.
    SvX4(Tree<'i, SvX4>),
}

macro_rules! each {
    ($space:expr, $it:ident => $do:expr) => {
        match $space {
            Space::LongMode($it) => $do,
            Space::Pae($it) => $do,
            Space::Paging32($it) => $do,
            Space::Ept($it) => $do,
            Space::Radix($it) => $do,
            Space::Hash($it) => $do,
            Space::VmsaStage1($it) => $do,
            Space::VmsaStage2($it) => $do,
            Space::Sv($it) => $do,
            Space::SvX4($it) => $do,
        }
    };
}

impl<'i> Space<'i> {
    /// The space at a root of `image`, read through `tables`, which must be without the bits that
    /// `located` calls foreign.
    ///
    /// # Errors
    /// [`HptError`] if a hashed page table is not in the image. (Of a tree that is a fault of its
    /// addresses.)
    pub fn of(
        image: &'i Image<'_>,
        tables: &'i ImageTables<'i>,
        located: &Located,
    ) -> Result<Self, HptError> {
        let names = Names { linux: located.linux.is_some() };
        Ok(match &located.root {
            Root::LongMode(format, root) => {
                Self::LongMode(Tree::new(*format, tables, *root, names))
            }
            Root::Pae(format, root) => Self::Pae(Tree::new(*format, tables, *root, names)),
            Root::Paging32(format, root) => {
                Self::Paging32(Tree::new(*format, tables, *root, names))
            }
            Root::Ept(format, root) => Self::Ept(Tree::new(*format, tables, *root, names)),
            Root::Radix(format, root) => Self::Radix(Tree::new(*format, tables, *root, names)),
            Root::VmsaStage1(format, root) => {
                Self::VmsaStage1(Tree::new(*format, tables, *root, names))
            }
            Root::VmsaStage2(format, root) => {
                Self::VmsaStage2(Tree::new(*format, tables, *root, names))
            }
            Root::Sv(format, root) => Self::Sv(Tree::new(*format, tables, *root, names)),
            Root::SvX4(format, root) => Self::SvX4(Tree::new(*format, tables, *root, names)),
            Root::Hash(table, view) => {
                Self::Hash(HashSpace::new(image, tables, *table, view.clone())?)
            }
        })
    }

    /// The memory that it is read through: what was spent, and whether the image could be read.
    #[must_use]
    pub fn tables(&self) -> &'i ImageTables<'i> {
        each!(self, it => it.tables())
    }

    /// Lists what is mapped and what is wrong, in order, neighbours that say the same as one; until
    /// `visit` breaks or the allowance is spent.
    pub fn list(
        &self,
        visit: &mut dyn FnMut(Range) -> ControlFlow<()>,
        progress: &dyn Fn(u64, u64),
    ) {
        each!(self, it => it.list(visit, progress));
    }

    /// Where `va` goes: whatever is mapped there, or if `access` is given only what it may do.
    #[must_use]
    pub fn translate(&self, va: u64, access: Option<Access>) -> Range {
        each!(self, it => it.translate(va, access))
    }

    /// Counts.
    #[must_use]
    pub fn census(&self, progress: &dyn Fn(u64, u64)) -> Census {
        match self {
            Self::LongMode(tree) => Census::Tree(tree.census(progress)),
            Self::Pae(tree) => Census::Tree(tree.census(progress)),
            Self::Paging32(tree) => Census::Tree(tree.census(progress)),
            Self::Ept(tree) => Census::Tree(tree.census(progress)),
            Self::Radix(tree) => Census::Tree(tree.census(progress)),
            Self::VmsaStage1(tree) => Census::Tree(tree.census(progress)),
            Self::VmsaStage2(tree) => Census::Tree(tree.census(progress)),
            Self::Sv(tree) => Census::Tree(tree.census(progress)),
            Self::SvX4(tree) => Census::Tree(tree.census(progress)),
            Self::Hash(table) => Census::Hash(table.census(progress)),
        }
    }

    /// Calls `visit` for each range that `after` translates differently, or with other rights,
    /// until it breaks or an allowance is spent.
    ///
    /// # Errors
    /// [`Mismatch`] if the two are of different kinds.
    pub fn diff(
        &self,
        after: &Space<'_>,
        visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), Mismatch> {
        match (self, after) {
            (Space::LongMode(before), Space::LongMode(after)) => {
                of_trees(before, after, visit, progress)
            }
            (Space::Pae(before), Space::Pae(after)) => of_trees(before, after, visit, progress),
            (Space::Paging32(before), Space::Paging32(after)) => {
                of_trees(before, after, visit, progress)
            }
            (Space::Ept(before), Space::Ept(after)) => of_trees(before, after, visit, progress),
            (Space::Radix(before), Space::Radix(after)) => of_trees(before, after, visit, progress),
            (Space::VmsaStage1(before), Space::VmsaStage1(after)) => {
                of_trees(before, after, visit, progress)
            }
            (Space::VmsaStage2(before), Space::VmsaStage2(after)) => {
                of_trees(before, after, visit, progress)
            }
            (Space::Sv(before), Space::Sv(after)) => of_trees(before, after, visit, progress),
            (Space::SvX4(before), Space::SvX4(after)) => of_trees(before, after, visit, progress),
            (Space::Hash(before), Space::Hash(after)) => {
                of_lists(before, after, visit, progress);
                Ok(())
            }
            _ => Err(Mismatch),
        }
    }
}
