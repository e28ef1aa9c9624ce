//! The listing: what is mapped and what is wrong, in order, neighbours that say the same as one.
//!
//! Each run of pages is judged with the path that leads to it. Where a walker refuses to go on (a
//! malformed entry, a table that the image does not have) that range is a fault, and the next
//! descent begins behind it.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use pgtable::format::{Entry, Format, Input, TableWord as _};
use pgtable::walk::{Run, Trace};
use pgtable::{Address, Error, Level, Position, RangeError, low_bits};

use super::Tree;
use crate::describe::Describe;
use crate::range::{Range, Rights, State};

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

impl<F: Describe> Tree<'_, F> {
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
    pub(crate) fn part(&self, start: u64, end: u64) -> Vec<Range> {
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
            (Error::Memory(outside), step) => self.refusal(outside.address, outside.bytes, step),
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
}

/// The entry that an error names.
fn entry_of(error: Error) -> Option<u64> {
    match error {
        Error::Malformed { entry, .. } => Some(entry),
        _ => None,
    }
}
