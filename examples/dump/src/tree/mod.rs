//! A tree in an image: listed, asked for single addresses, counted.
//!
//! What the tables above a page restrict counts too: each run of pages is judged with the path that
//! leads to it, by the format's own rules.

mod count;
mod list;
mod translate;

use std::fmt::Write as _;

use memory_image::{ImageTables, Unreadable};
use pgtable::format::{Entry, Format, Input, Output};
use pgtable::walk::{TraceEntry, Walker};
use pgtable::{Access, Address, Position, Prot};

use super::describe::{Describe, Names};
use super::range::Rights;

/// A tree, in the memory of an image.
pub struct Tree<'i, F> {
    walker: Walker<F, &'i ImageTables<'i>>,
    tables: &'i ImageTables<'i>,
    names: Names,
}

/// What a run's pages allow: judged once for each kind of entry.
struct Judge<F: Format> {
    path: F::Path,
    last: Option<(F::Attributes, Rights)>,
}

impl<'i, F: Describe> Tree<'i, F> {
    /// The tree of `format` whose root table stands at `root`.
    pub fn new(format: F, tables: &'i ImageTables<'i>, root: Output<F>, names: Names) -> Self {
        Self { walker: Walker::new(format, tables, root), tables, names }
    }

    /// A reader of the tree.
    pub fn walker(&self) -> &Walker<F, &'i ImageTables<'i>> {
        &self.walker
    }

    /// The memory that it stands in.
    pub fn tables(&self) -> &'i ImageTables<'i> {
        self.tables
    }

    /// The offsets in the tree whose addresses lie in a row: all, or two halves where addresses are
    /// sign-extended.
    pub(super) fn rows(&self) -> Vec<(u64, u64)> {
        let format = self.walker.format();
        let mask = format.geometry().address_mask();
        let whole = format.address(0).get().checked_add(mask) == Some(format.address(mask).get());
        let half = (mask >> 1) + 1;
        if whole { vec![(0, mask + 1)] } else { vec![(0, half), (half, mask + 1)] }
    }

    fn address(&self, offset: u64) -> Input<F> {
        self.walker.format().address(offset)
    }

    /// What of the way to `input` restricts a page there.
    fn judge(&self, input: Input<F>) -> Judge<F> {
        let trace = self.walker.trace(input);
        let above = trace.split_last().map_or(&[][..], |(_, above)| above);
        let path = above.iter().fold(F::Path::default(), |path, step| {
            self.walker.format().restrict(path, step.word, step.at)
        });
        Judge { path, last: None }
    }

    /// Why the table at `address`, to which `step` leads, cannot be read, in words.
    fn refusal(&self, address: u64, bytes: u64, step: Option<&TraceEntry<F>>) -> String {
        let mut why = match self.tables.refusal(address, bytes) {
            Some(Unreadable::Missing { held, .. }) => {
                format!("unknown: the table at {address:#x} is {held}")
            }
            Some(why) => format!("unknown: {why}"),
            None => format!("unknown: the table at {address:#x} was not read, a limit is reached"),
        };
        if let Some(TraceEntry { word, address, at, .. }) = step {
            let level = F::level_name(at.level.0);
            let _ = write!(why, ", where the {level} {word:#018x} at {address} leads");
        }
        why
    }
}

impl<F: Format> Judge<F> {
    /// What the leaf `word` at `at` allows on this path.
    fn rights(&mut self, format: &F, word: u64, at: Position) -> Rights {
        let kind = match format.decode(word, at) {
            Entry::Leaf { attributes, .. } => attributes,
            _ => F::Attributes::from(Prot::new()),
        };
        match self.last {
            Some((last, rights)) if kind == last => return rights,
            _ => {}
        }
        let allows = |access| format.check(word, at, self.path, access).is_ok();
        let prot = |of: fn(Access) -> Access| {
            Prot::new()
                .with_read(allows(of(Access::READ)))
                .with_write(allows(of(Access::WRITE)))
                .with_execute(allows(of(Access::FETCH)))
        };
        let rights = Rights { supervisor: prot(|access| access), user: prot(Access::by_user) };
        self.last = Some((kind, rights));
        rights
    }
}
