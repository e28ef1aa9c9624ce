//! A tree in an image: listed, asked for single addresses, counted.
//!
//! What the tables above a page restrict counts too: each run of pages is judged with the path that
//! leads to it, by the format's own rules. Where a walker refuses to go on (a malformed entry, a
//! table that the image does not have) that range is a fault, and the next descent begins behind
//! it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use memory_image::Unreadable;
use pgtable::format::{Entry, Format, Input, Output, TableWord as _};
use pgtable::walk::{Run, Trace, TraceEntry, Walker};
use pgtable::{
    Access, Address, Cause, Error, Fault, Level, Position, Prot, RangeError, Stage, low_bits,
};

use super::census::{LevelCensus, TreeCensus};
use super::describe::{Describe, Names};
use super::range::{Range, Rights, State, Step};
use memory_image::ImageTables;

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
    /// A fault: first address, bytes, and what it is; its size is that of an entry.
    Fault(u64, u64, Hole),
}

/// What of a tree leads nowhere.
struct Hole {
    /// The first offset, and the size of what an entry covers.
    offset: u64,
    size: u64,
    state: State,
    why: String,
    entry: Option<u64>,
}

impl Hole {
    /// The same, no larger than the entry from `start` up to `end`.
    fn within(self, start: u64, end: u64) -> Self {
        let size = end - start;
        if size < self.size && size.is_power_of_two() && start & (size - 1) == 0 {
            Self { offset: start, size, ..self }
        } else {
            self
        }
    }
}

type Visit<'v> = &'v mut dyn FnMut(Range) -> ControlFlow<()>;

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

    /// Lists what is mapped, and what is wrong, in order, neighbours that say the same as one;
    /// until `visit` breaks or the allowance is spent.
    pub fn list(&self, visit: Visit<'_>, progress: &dyn Fn(u64, u64)) {
        let mut last = Last::Nothing;
        for (start, end) in self.rows() {
            if self.list_row(start, end, &mut last, visit, progress).is_break() {
                return;
            }
        }
        let _ = self.show(last, visit);
    }

    /// What the part of the tree from offset `start` up to `end` lists, both of them in one row;
    /// less if the allowance is spent.
    pub(super) fn part(&self, start: u64, end: u64) -> Vec<Range> {
        let mut ranges = Vec::new();
        let mut kept = 0;
        let mut take = |range: Range| {
            let bytes = size_of::<Range>() + range.attributes.len();
            kept += bytes as u64;
            if !self.tables.keep(bytes as u64) {
                return ControlFlow::Break(());
            }
            ranges.push(range);
            ControlFlow::Continue(())
        };
        let mut last = Last::Nothing;
        if self.list_row(start, end, &mut last, &mut take, &|_, _| ()).is_continue() {
            let _ = self.show(last, &mut take);
        }
        self.tables.give_back(kept);
        ranges
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
                    let trace = self.walker.trace(error.at);
                    // What was not read for want of an allowance is no hole.
                    let hole = self.hole(error, &trace).filter(|_| !self.tables.is_over());
                    let Some(hole) = hole else { break };
                    // Of a table that the image has in part, what is there is listed, before the
                    // error and behind it: the entry alone is the hole.
                    let at = self.walker.format().offset(error.at).unwrap_or(hole.offset);
                    let (first, size) = match self.entry_in_part(&error, &trace) {
                        Some(entry) => (at & !(entry - 1), entry),
                        None => (hole.offset, hole.size),
                    };
                    let behind = (first | (size - 1)) + 1;
                    self.fault(hole.within(first, behind).within(start, end), last, visit)?;
                    next = next.max(behind);
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
                    let raw = run.words()[index].load_raw(Ordering::Relaxed);
                    let word = F::Word::swap(F::BYTE_ORDER, raw);
                    let rights = judge.rights(self.walker.format(), word, run.at());
                    let new = Pending {
                        va: leaf.input.get(),
                        pa: leaf.output.get(),
                        bytes: leaf.bytes,
                        shift,
                        attributes: leaf.attributes,
                        rights,
                    };
                    self.join(last, new, visit)?;
                }
                Err(error) => {
                    let offset = self.walker.format().offset(error.at).unwrap_or(0);
                    let hole = Hole {
                        offset,
                        size: 1 << shift,
                        state: State::Malformed,
                        why: error.error.to_string(),
                        entry: entry_of(error.error),
                    };
                    self.fault(hole, last, visit)?;
                }
            }
        }
        ControlFlow::Continue(())
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

    /// Where the root's entries stand.
    fn top(&self) -> Position {
        let geometry = self.walker.format().geometry();
        Position { level: geometry.root(), shift: geometry.shift(geometry.root()) }
    }

    /// The range that an error leaves out, to which `trace` leads.
    fn hole(&self, error: RangeError<Input<F>>, trace: &Trace<F>) -> Option<Hole> {
        let offset = self.walker.format().offset(error.at)?;
        let (at, state, entry) = match error.error {
            Error::Malformed { at, entry, .. } => (at, State::Malformed, Some(entry)),
            // The entry whose table is not there; or, if not even that can be read, the root's.
            _ => {
                let last = trace.last();
                let at = last.map_or_else(|| self.top(), |step| step.at);
                (at, State::Unknown, last.map(|step| step.address.get()))
            }
        };
        let why = match (error.error, trace.last()) {
            (Error::Memory(outside), step) => {
                let mut why = self.refusal(outside.address, outside.bytes);
                if let Some(step) = step {
                    let TraceEntry { word, address, at, .. } = step;
                    let level = F::level_name(at.level.0);
                    let _ = write!(why, ", where the {level} {word:#018x} at {address} leads");
                }
                why
            }
            (error, _) => error.to_string(),
        };
        Some(Hole { offset: offset & !low_bits(at.shift), size: at.size(), state, why, entry })
    }

    /// What an entry covers of the table that could not be read, if the image has some of it;
    /// `trace` leads there.
    fn entry_in_part(&self, error: &RangeError<Input<F>>, trace: &Trace<F>) -> Option<u64> {
        let Error::Memory(outside) = error.error else { return None };
        let geometry = self.walker.format().geometry();
        let level = match trace.last() {
            None => geometry.root(),
            Some(step) if matches!(step.entry, Entry::Table { .. }) => {
                Level(step.at.level.0.checked_sub(1)?)
            }
            Some(_) => return None,
        };
        let bytes = (size_of::<F::Word>() as u64) << geometry.width(level);
        let table = outside.address & !(bytes - 1);
        self.tables.has_part(table, bytes).then(|| 1 << geometry.shift(level))
    }

    /// Why a table cannot be read, in words.
    fn refusal(&self, address: u64, bytes: u64) -> String {
        match self.tables.refusal(address, bytes) {
            Some(Unreadable::Missing { held, .. }) => {
                format!("unknown: the table at {address:#x} is {held}")
            }
            Some(why) => format!("unknown: {why}"),
            None => format!("unknown: the table at {address:#x} was not read, a limit is reached"),
        }
    }

    fn fault(&self, hole: Hole, last: &mut Last<F>, visit: Visit<'_>) -> ControlFlow<()> {
        let va = self.address(hole.offset & !(hole.size - 1)).get();
        match last {
            // The first of neighbours that are all wrong names its entry; that the others are wrong
            // is enough.
            Last::Fault(start, bytes, before)
                if (before.size, before.state) == (hole.size, hole.state)
                    && start.wrapping_add(*bytes) == va =>
            {
                *bytes = bytes.saturating_add(hole.size);
                ControlFlow::Continue(())
            }
            _ => {
                let new = Last::Fault(va, hole.size, hole);
                self.show(std::mem::replace(last, new), visit)
            }
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
                let attributes = F::describe(&found.attributes, self.names);
                Range::mapped(Some(va), found.output.get(), leaf.at.size(), rights, attributes)
            }
            _ => {
                let fault = self.walker.translate(input, access.unwrap_or(Access::READ)).err();
                let (state, why, entry) = match fault {
                    Some(fault) => self.reason(&fault, &trace),
                    None => (State::Unknown, "the entry changed".to_owned(), None),
                };
                Range::faulting(va, size, state, why).by_entry(entry)
            }
        };
        let walk = trace.iter().map(|step| Step {
            level: step.at.level.0,
            name: F::level_name(step.at.level.0),
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

    /// What a fault means, in words, and the entry that decided it.
    fn reason(&self, fault: &Fault<F>, trace: &Trace<F>) -> (State, String, Option<u64>) {
        let entry = fault.entry.map(Address::get);
        match fault.cause {
            Cause::TableAccess if self.tables.is_over() => {
                (State::Unknown, "unknown: the allowance is spent".to_owned(), entry)
            }
            Cause::TableAccess => {
                // The table that the last entry that was read leads to, or the root.
                let table = match trace.last().map(|step| step.entry) {
                    Some(Entry::Table { table, .. }) => table.get(),
                    _ => self.walker.root().get(),
                };
                let at = entry.map_or(table, |entry| entry & !7);
                let mut why = self.refusal(at, 8);
                if let Some(step) = trace.last() {
                    let level = F::level_name(step.at.level.0);
                    let (word, address) = (step.word, step.address);
                    let _ = write!(why, ", where the {level} {word:#018x} at {address} leads");
                }
                (State::Unknown, why, trace.last().map(|step| step.address.get()))
            }
            Cause::Malformed => (State::Malformed, fault.to_string(), entry),
            Cause::Denied => {
                let Some(denier) = self.denier(trace, fault.access) else {
                    return (State::Denied, fault.to_string(), entry);
                };
                let why = format!(
                    "{} at {} is not allowed in {}, by the {} {:#018x} at {}: {}",
                    fault.access,
                    fault.address,
                    <F::Stage as Stage>::NAME,
                    F::level_name(denier.at.level.0),
                    denier.word,
                    denier.address,
                    fault.arch
                );
                (State::Denied, why, Some(denier.address.get()))
            }
            _ => (State::NotMapped, fault.to_string(), entry),
        }
    }

    /// The entry of the way that denies `access`: the leaf if it does so by itself, else the first
    /// one with which it is denied.
    fn denier<'t>(&self, trace: &'t Trace<F>, access: Access) -> Option<&'t TraceEntry<F>> {
        let format = self.walker.format();
        let (leaf, above) = trace.split_last()?;
        let denied = |path| format.check(leaf.word, leaf.at, path, access).is_err();
        if denied(F::Path::default()) {
            return Some(leaf);
        }
        let mut path = F::Path::default();
        above.iter().find(|step| {
            path = format.restrict(path, step.word, step.at);
            denied(path)
        })
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

/// The entry that an error names.
fn entry_of(error: Error) -> Option<u64> {
    match error {
        Error::Malformed { entry, .. } => Some(entry),
        _ => None,
    }
}

impl<F: Describe> Tree<'_, F> {
    /// Joins `new` to what came last if it continues it, else shows that.
    fn join(&self, last: &mut Last<F>, new: Pending<F>, visit: Visit<'_>) -> ControlFlow<()> {
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
        self.show(std::mem::replace(last, Last::Mapped(new)), visit)
    }

    fn show(&self, last: Last<F>, visit: Visit<'_>) -> ControlFlow<()> {
        match last {
            Last::Nothing => ControlFlow::Continue(()),
            Last::Fault(va, bytes, Hole { size, state, why, entry, .. }) => {
                visit(Range::faulting(va, Some(size), state, why).by_entry(entry).of_bytes(bytes))
            }
            Last::Mapped(Pending { va, pa, bytes, shift, attributes, rights }) => visit(
                Range::mapped(
                    Some(va),
                    pa,
                    1 << shift,
                    rights,
                    F::describe(&attributes, self.names),
                )
                .of_bytes(bytes),
            ),
        }
    }
}
