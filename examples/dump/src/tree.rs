//! A tree in an image: listed, asked for single addresses, counted.
//!
//! What the tables above a page restrict counts too: each run of pages is judged with the path that
//! leads to it, by the format's own rules. Where a walker refuses to go on (a malformed entry, a
//! table that the image does not have) that range is a fault, and the next descent begins behind
//! it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use pgtable::{
    Access, Address, Entry, Error, Format, Input, Output, Position, Prot, RangeError, Run, Walker,
    low_bits,
};

use super::census::{LevelCensus, TreeCensus};
use super::describe::Describe;
use super::range::{Range, Rights, Step};
use memory_image::{ImageTables, Source};

/// A tree, in the memory of an image.
pub struct Tree<'i, F, S> {
    walker: Walker<F, &'i ImageTables<'i, S>>,
    tables: &'i ImageTables<'i, S>,
}

/// What a run's pages allow: judged once for each kind of entry.
struct Judge<F: Format> {
    path: F::Path,
    last: Option<(u64, Rights)>,
}

/// A range that may still grow.
struct Pending<F: Format> {
    va: u64,
    pa: u64,
    bytes: u64,
    shift: u8,
    attributes: F::Attributes,
    rights: Rights,
}

/// What was met last, not yet shown: the next may continue it.
enum Last<F: Format> {
    Nothing,
    Mapped(Pending<F>),
    /// A fault: first address, bytes, size of an entry, and why.
    Fault(u64, u64, u64, String),
}

type Visit<'v> = &'v mut dyn FnMut(Range) -> ControlFlow<()>;

impl<'i, F: Describe, S: Source> Tree<'i, F, S> {
    /// The tree of `format` whose root table stands at `root`.
    pub fn new(format: F, tables: &'i ImageTables<'i, S>, root: Output<F>) -> Self {
        Self { walker: Walker::new(format, tables, root), tables }
    }

    /// A reader of the tree.
    pub fn walker(&self) -> &Walker<F, &'i ImageTables<'i, S>> {
        &self.walker
    }

    /// The memory that it stands in.
    pub fn tables(&self) -> &'i ImageTables<'i, S> {
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

    /// Lists what is mapped, and what is wrong, in order, neighbours that say the same as one;
    /// until `visit` breaks or the allowance is spent.
    pub fn list(&self, visit: Visit<'_>, progress: &dyn Fn(u64, u64)) {
        let mut last = Last::Nothing;
        for (start, end) in self.rows() {
            if self.list_row(start, end, &mut last, visit, progress).is_break() {
                return;
            }
        }
        let _ = show(last, visit);
    }

    fn list_row(
        &self,
        start: u64,
        end: u64,
        last: &mut Last<F>,
        visit: Visit<'_>,
        progress: &dyn Fn(u64, u64),
    ) -> ControlFlow<()> {
        let total = self.walker.format().geometry().address_mask();
        let mut next = start;
        while next < end {
            let result = self.walker.for_each_run(self.address(next), end - next, |run| {
                let offset = self.walker.format().offset(run.input()).unwrap_or(0);
                progress(offset, total);
                self.list_run(&run, last, visit)
            });
            match result {
                Ok(flow) => return flow,
                Err(_) if self.tables.is_over() => break,
                Err(error) => {
                    let Some((offset, size, why)) = self.hole(error) else { break };
                    self.fault(offset, size, why, last, visit)?;
                    next = (offset | (size - 1)) + 1;
                }
            }
        }
        ControlFlow::Continue(())
    }

    fn list_run(&self, run: &Run<'_, F>, last: &mut Last<F>, visit: Visit<'_>) -> ControlFlow<()> {
        let mut judge = self.judge(run.input());
        let (first, shift) = (run.input().get(), run.at().shift);
        for leaf in run.leaves() {
            match leaf {
                Ok(leaf) => {
                    let index = (leaf.input.get().wrapping_sub(first) >> shift) as usize;
                    let word = F::BYTE_ORDER.swap(run.words()[index].load(Ordering::Relaxed));
                    let rights = judge.rights(self.walker.format(), word, run.at());
                    let new = Pending {
                        va: leaf.input.get(),
                        pa: leaf.output.get(),
                        bytes: leaf.bytes,
                        shift,
                        attributes: leaf.attributes,
                        rights,
                    };
                    join(last, new, visit)?;
                }
                Err(error) => {
                    let offset = self.walker.format().offset(error.at).unwrap_or(0);
                    self.fault(offset, 1 << shift, error.error.to_string(), last, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// What of the way to `input` restricts a page there.
    fn judge(&self, input: Input<F>) -> Judge<F> {
        let trace = self.walker.trace(input);
        let above = trace.split_last().map_or(&[][..], |(_, above)| above);
        let path = above
            .iter()
            .fold(F::Path::default(), |path, step| self.walker.format().restrict(path, step.word));
        Judge { path, last: None }
    }

    /// Where the root's entries stand.
    fn top(&self) -> Position {
        let geometry = self.walker.format().geometry();
        Position { level: geometry.root(), shift: geometry.shift(geometry.root()) }
    }

    /// The range that an error leaves out: its first offset, its size and why.
    fn hole(&self, error: RangeError<Input<F>>) -> Option<(u64, u64, String)> {
        let offset = self.walker.format().offset(error.at)?;
        let at = match error.error {
            Error::Malformed { at, .. } => at,
            // The entry whose table is not there; or, if not even that can be read, the root's.
            _ => self.walker.trace(error.at).last().map_or_else(|| self.top(), |step| step.at),
        };
        Some((offset & !low_bits(at.shift), at.size(), self.why(error.error, error.at)))
    }

    /// The range around `input` that cannot be read, if it cannot: its first offset, its size and
    /// why.
    pub(super) fn unreadable(&self, input: Input<F>) -> Option<(u64, u64, String)> {
        let error = self.walker.query(input).err()?;
        self.hole(RangeError { at: input, error })
    }

    fn why(&self, error: Error, at: Input<F>) -> String {
        match (error, self.walker.trace(at).last()) {
            (Error::Memory(outside), Some(entry)) => {
                format!(
                    "{outside}, entry {:#018x} at {} ({})",
                    entry.word, entry.address, entry.at.level
                )
            }
            (error, _) => error.to_string(),
        }
    }

    fn fault(
        &self,
        offset: u64,
        size: u64,
        why: String,
        last: &mut Last<F>,
        visit: Visit<'_>,
    ) -> ControlFlow<()> {
        let va = self.address(offset & !(size - 1)).get();
        match last {
            // The first of neighbours that are all wrong names its entry; that the others are wrong
            // is enough.
            Last::Fault(start, bytes, its_size, _)
                if *its_size == size && start.wrapping_add(*bytes) == va =>
            {
                *bytes = bytes.saturating_add(size);
                ControlFlow::Continue(())
            }
            _ => show(std::mem::replace(last, Last::Fault(va, size, size, why)), visit),
        }
    }

    /// Where `va` goes: whatever is mapped there, or if `access` is given only what it may do.
    pub fn translate(&self, va: u64, access: Option<Access>) -> Range {
        let input = Input::<F>::new(va);
        let trace = self.walker.trace(input);
        let size = trace.last().map(|step| step.at.size());
        let found = match access {
            None => self.walker.query(input).ok().flatten(),
            Some(access) => self.walker.translate(input, access).ok(),
        };
        let range = match (found, trace.last()) {
            (Some(found), Some(leaf)) => {
                let rights = self.judge(input).rights(self.walker.format(), leaf.word, leaf.at);
                Range::mapped(
                    Some(va),
                    found.output.get(),
                    leaf.at.size(),
                    rights,
                    F::describe(&found.attributes),
                )
            }
            _ => {
                let fault = self.walker.translate(input, access.unwrap_or(Access::READ)).err();
                let why =
                    fault.map_or_else(|| "the entry changed".to_owned(), |fault| fault.to_string());
                Range::faulting(va, size, why)
            }
        };
        let walk = trace.iter().map(|step| Step {
            level: step.at.level.0,
            address: step.address.get(),
            word: step.word,
            entry: match step.entry {
                Entry::Absent => "absent",
                Entry::Table { .. } => "table",
                Entry::Leaf { .. } => "leaf",
                Entry::Malformed => "malformed",
            },
        });
        Range { walk: walk.collect(), ..range }
    }

    /// Counts tables, entries and pages.
    pub fn census(&self, progress: &dyn Fn(u64, u64)) -> TreeCensus {
        let geometry = self.walker.format().geometry();
        let mut levels: Vec<_> = (0..geometry.levels()).map(LevelCensus::of_level).collect();
        let mut seen = HashSet::new();
        let mut frames: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut pages: BTreeMap<u64, u64> = BTreeMap::new();
        let flow = self.walker.for_each_table(|table| {
            let address = table.address().get();
            let Some(level) = levels.get_mut(usize::from(table.at().level.0)) else {
                return ControlFlow::Break(());
            };
            if self.tables.is_over() {
                return ControlFlow::Break(());
            }
            progress(
                self.walker.format().offset(table.input()).unwrap_or(0),
                geometry.address_mask(),
            );
            if table.words().is_err() {
                level.missing += 1;
                return ControlFlow::Continue(());
            }
            let first = seen.insert((address, table.width()));
            if first && !self.tables.keep(size_of::<(u64, u64, u64)>() as u64) {
                return ControlFlow::Break(());
            }
            if first {
                level.tables += 1;
                level.bytes += table.bytes();
                level.slots += 1 << table.width();
                let frame = frames.entry(address / F::FRAME).or_default();
                frame.0 += 1;
                frame.1 += table.bytes();
            } else {
                level.shared += 1;
            }
            for entry in table.entries() {
                match entry.entry {
                    Entry::Absent => {}
                    Entry::Malformed => level.malformed += u64::from(first),
                    Entry::Table { .. } => level.live += u64::from(first),
                    Entry::Leaf { .. } => {
                        level.live += u64::from(first);
                        level.leaves += u64::from(first);
                        *pages.entry(table.at().size()).or_default() += 1;
                    }
                }
            }
            ControlFlow::Continue(())
        });
        let _: ControlFlow<()> = flow;
        TreeCensus::new(levels, F::FRAME, frames.into_values(), pages)
    }
}

impl<F: Format> Judge<F> {
    /// What the leaf `word` at `at` allows on this path.
    fn rights(&mut self, format: &F, word: u64, at: Position) -> Rights {
        let kind = word & !format.output_mask(at);
        match self.last {
            Some((last, rights)) if last == kind => return rights,
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

/// Joins `new` to what came last if it continues it, else shows that.
fn join<F: Describe>(last: &mut Last<F>, new: Pending<F>, visit: Visit<'_>) -> ControlFlow<()> {
    if let Last::Mapped(old) = last {
        let continues = (old.shift, old.rights, old.attributes)
            == (new.shift, new.rights, new.attributes)
            && old.va.checked_add(old.bytes) == Some(new.va)
            && old.pa.checked_add(old.bytes) == Some(new.pa);
        if continues {
            old.bytes += new.bytes;
            return ControlFlow::Continue(());
        }
    }
    show(std::mem::replace(last, Last::Mapped(new)), visit)
}

fn show<F: Describe>(last: Last<F>, visit: Visit<'_>) -> ControlFlow<()> {
    match last {
        Last::Nothing => ControlFlow::Continue(()),
        Last::Fault(va, bytes, size, why) => {
            visit(Range::faulting(va, Some(size), why).of_bytes(bytes))
        }
        Last::Mapped(Pending { va, pa, bytes, shift, attributes, rights }) => visit(
            Range::mapped(Some(va), pa, 1 << shift, rights, F::describe(&attributes))
                .of_bytes(bytes),
        ),
    }
}
