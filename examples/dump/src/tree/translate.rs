//! Single addresses: where they go, or the entry that denies them.

use pgtable::format::{Entry, Input};
use pgtable::walk::{Trace, TraceEntry};
use pgtable::{Access, Address, Cause, Fault, Stage};

use super::Tree;
use crate::describe::Describe;
use crate::range::{Range, State, Step};

impl<F: Describe> Tree<'_, F> {
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
                let why = self.refusal(at, 8, trace.last());
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
}
