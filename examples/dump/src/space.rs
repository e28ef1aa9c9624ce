//! An address space in an image, whichever tables it has.

use std::ops::ControlFlow;

use arch_ppc64::hash::HptError;
use arch_ppc64::radix::ProcessScoped;
use arch_x86::{Ept, LongMode};
use pgtable::Access;

use super::census::Census;
use super::diff::{Difference, Mismatch, of_lists, of_trees};
use super::hash::HashSpace;
use super::range::Range;
use super::root::Root;
use super::tree::Tree;
use memory_image::{Image, ImageTables, Source};

/// An address space in an image.
pub enum Space<'i, S> {
    /// A tree of long mode.
    LongMode(Tree<'i, LongMode, S>),
    /// An extended page table.
    Ept(Tree<'i, Ept, S>),
    /// A radix tree.
    Radix(Tree<'i, ProcessScoped, S>),
    /// A hashed page table.
    Hash(HashSpace<'i, S>),
}

macro_rules! each {
    ($space:expr, $it:ident => $do:expr) => {
        match $space {
            Space::LongMode($it) => $do,
            Space::Ept($it) => $do,
            Space::Radix($it) => $do,
            Space::Hash($it) => $do,
        }
    };
}

impl<'i, S: Source> Space<'i, S> {
    /// The space at `root` of `image`, read through `tables`.
    ///
    /// # Errors
    /// [`HptError`] if a hashed page table is not in the image. (Of a tree that is a fault of its
    /// addresses.)
    pub fn of(
        image: &'i Image<S>,
        tables: &'i ImageTables<'i, S>,
        root: &Root,
    ) -> Result<Self, HptError> {
        Ok(match root {
            Root::LongMode(format, root) => Self::LongMode(Tree::new(*format, tables, *root)),
            Root::Ept(format, root) => Self::Ept(Tree::new(*format, tables, *root)),
            Root::Radix(format, root) => Self::Radix(Tree::new(*format, tables, *root)),
            Root::Hash(table, view) => {
                Self::Hash(HashSpace::new(image, tables, *table, view.clone())?)
            }
        })
    }

    /// The memory that it is read through: what was spent, and whether the image could be read.
    pub fn tables(&self) -> &'i ImageTables<'i, S> {
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
    pub fn translate(&self, va: u64, access: Option<Access>) -> Range {
        each!(self, it => it.translate(va, access))
    }

    /// Counts.
    pub fn census(&self, progress: &dyn Fn(u64, u64)) -> Census {
        match self {
            Self::LongMode(tree) => Census::Tree(tree.census(progress)),
            Self::Ept(tree) => Census::Tree(tree.census(progress)),
            Self::Radix(tree) => Census::Tree(tree.census(progress)),
            Self::Hash(table) => Census::Hash(table.census(progress)),
        }
    }

    /// Calls `visit` for each range that `after` translates differently, until it breaks or an
    /// allowance is spent.
    ///
    /// # Errors
    /// [`Mismatch`] if the two are of different kinds.
    pub fn diff(
        &self,
        after: &Self,
        visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), Mismatch> {
        match (self, after) {
            (Self::LongMode(before), Self::LongMode(after)) => {
                of_trees(before, after, visit, progress)
            }
            (Self::Ept(before), Self::Ept(after)) => of_trees(before, after, visit, progress),
            (Self::Radix(before), Self::Radix(after)) => of_trees(before, after, visit, progress),
            (Self::Hash(before), Self::Hash(after)) => {
                of_lists(before, after, visit, progress);
                Ok(())
            }
            _ => Err(Mismatch),
        }
    }
}
