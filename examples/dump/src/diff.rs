//! What two images translate differently.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use serde::Serialize;

use super::describe::Describe;
use super::hash::{HashSpace, Listed};
use super::range::{Range, Rights, State};
use super::tree::Tree;

/// One side of a difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Side {
    /// Where the range goes.
    #[serde(serialize_with = "super::range::hex")]
    pub pa: u64,
    /// What it allows: as JSON two fields, `supervisor` and `user`, as in a list.
    #[serde(flatten)]
    pub rights: Rights,
    /// What its pages say, in words.
    pub attributes: String,
}

/// A range that two images translate differently.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Difference {
    /// The first virtual address; null as in a list.
    #[serde(serialize_with = "super::range::hex_or_null")]
    pub va: Option<u64>,
    /// The length in bytes.
    pub bytes: u64,
    /// What the first image says; null if nothing is mapped.
    pub before: Option<Side>,
    /// What the second image says; null if nothing is mapped.
    pub after: Option<Side>,
    /// What became of the range in the image in which it could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why the range could not be compared, if it could not; null otherwise.
    pub fault: Option<String>,
}

/// The two images have different kinds of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the two images do not have the same kind of tables")]
pub struct Mismatch;

/// Compares two trees by what they list: what a range's pages allow after everything above them
/// counts, not what their entries say.
///
/// Part by part, as an entry of the root covers it, so that no more than a part's ranges are in
/// memory. What cannot be read, or is malformed, in either tree is reported, and cannot be
/// compared.
pub(super) fn of_trees<F: Describe>(
    before: &Tree<'_, F>,
    after: &Tree<'_, F>,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
    progress: &dyn Fn(u64, u64),
) -> Result<(), Mismatch> {
    let format = before.walker().format();
    let geometry = format.geometry();
    if geometry.levels() != after.walker().format().geometry().levels() {
        return Err(Mismatch);
    }
    let part = 1_u64 << geometry.shift(geometry.root());
    let mask = geometry.address_mask();
    let mut last: Option<Difference> = None;
    for (start, end) in before.rows() {
        let mut next = start;
        while next < end {
            progress(next, mask);
            let stop = next.saturating_add(part).min(end);
            let (one, two) = (before.part(next, stop), after.part(next, stop));
            let kept = before.tables().is_over() || after.tables().is_over();
            let merged = Merged { before: one.into(), after: two.into() };
            for difference in merged {
                if join(&mut last, difference, visit).is_break() {
                    return Ok(());
                }
            }
            if kept {
                return finish(last, visit);
            }
            next = stop;
        }
    }
    finish(last, visit)
}

/// Two lists of the same addresses, side by side.
struct Merged {
    before: VecDeque<Range>,
    after: VecDeque<Range>,
}

/// Takes `bytes` bytes off the front of a list.
fn take(list: &mut VecDeque<Range>, bytes: u64) -> Option<Range> {
    let mut head = list.pop_front()?;
    let all = head.bytes.unwrap_or(0);
    if all > bytes {
        let mut rest = head.clone();
        rest.va = rest.va.map(|va| va + bytes);
        rest.pa = rest.pa.map(|pa| pa.wrapping_add(bytes));
        rest.bytes = Some(all - bytes);
        list.push_front(rest);
    }
    head.bytes = Some(all.min(bytes));
    Some(head)
}

impl Merged {
    /// What both sides say of the next range that has something on either side, cut where either
    /// changes.
    fn pair(&mut self) -> Option<(u64, u64, Option<Range>, Option<Range>)> {
        let head = |list: &VecDeque<Range>| list.front().map(|it| (it.va.unwrap_or(0), it.bytes));
        let bytes = |bytes: Option<u64>| bytes.unwrap_or(0).max(1);
        match (head(&self.before), head(&self.after)) {
            (None, None) => None,
            (Some((va, all)), other) if other.is_none_or(|(there, _)| va < there) => {
                let apart = other.map_or(u64::MAX, |(there, _)| there - va);
                let bytes = bytes(all).min(apart);
                Some((va, bytes, take(&mut self.before, bytes), None))
            }
            (other, Some((va, all))) if other.is_none_or(|(there, _)| va < there) => {
                let apart = other.map_or(u64::MAX, |(there, _)| there - va);
                let bytes = bytes(all).min(apart);
                Some((va, bytes, None, take(&mut self.after, bytes)))
            }
            (one, two) => {
                let va = one.map_or(0, |(va, _)| va);
                let least = one.map_or(1, |it| bytes(it.1)).min(two.map_or(1, |it| bytes(it.1)));
                Some((va, least, take(&mut self.before, least), take(&mut self.after, least)))
            }
        }
    }
}

impl Iterator for Merged {
    type Item = Difference;

    fn next(&mut self) -> Option<Difference> {
        loop {
            let (va, bytes, before, after) = self.pair()?;
            let wrong = [&before, &after].into_iter().flatten().find(|it| it.fault.is_some());
            if let Some(wrong) = wrong {
                return Some(Difference {
                    va: Some(va),
                    bytes,
                    before: None,
                    after: None,
                    state: Some(wrong.state),
                    fault: wrong.fault.clone(),
                });
            }
            let (one, two) =
                (before.as_ref().and_then(side_of_range), after.as_ref().and_then(side_of_range));
            if one != two {
                let (state, fault) = (None, None);
                return Some(Difference {
                    va: Some(va),
                    bytes,
                    before: one,
                    after: two,
                    state,
                    fault,
                });
            }
        }
    }
}

fn finish(
    last: Option<Difference>,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
) -> Result<(), Mismatch> {
    if let Some(last) = last {
        let _ = visit(last);
    }
    Ok(())
}

/// Neighbours that differ in the same way are one difference.
fn join(
    last: &mut Option<Difference>,
    new: Difference,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
) -> ControlFlow<()> {
    if let Some(old) = last {
        let continues =
            |old_side: &Option<Side>, new_side: &Option<Side>| match (old_side, new_side) {
                (None, None) => true,
                (Some(one), Some(two)) => {
                    one.pa.checked_add(old.bytes) == Some(two.pa)
                        && (one.rights, &one.attributes) == (two.rights, &two.attributes)
                }
                _ => false,
            };
        let follows = old.va.and_then(|va| va.checked_add(old.bytes)) == new.va && new.va.is_some();
        let alike = continues(&old.before, &new.before) && continues(&old.after, &new.after);
        if follows && alike && old.fault.is_none() && new.fault.is_none() {
            old.bytes += new.bytes;
            return ControlFlow::Continue(());
        }
    }
    last.replace(new).map_or(ControlFlow::Continue(()), visit)
}

/// Compares the entries of two hashed page tables, page by page.
pub(super) fn of_lists(
    before: &HashSpace<'_>,
    after: &HashSpace<'_>,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
    progress: &dyn Fn(u64, u64),
) {
    let (one, two) = (before.entries(progress), after.entries(progress));
    let (mut one, mut two) = (one.iter().peekable(), two.iter().peekable());
    let mut last = None;
    loop {
        let first = match (one.peek(), two.peek()) {
            (Some(one), Some(two)) => one.key().min(two.key()),
            (Some(it), None) | (None, Some(it)) => it.key(),
            (None, None) => break,
        };
        let (old, new) = (one.next_if(|it| it.key() == first), two.next_if(|it| it.key() == first));
        if old.map(Listed::says) == new.map(Listed::says) {
            continue;
        }
        let (old, new) = (old.map(|it| before.range(it)), new.map(|it| after.range(it)));
        let (va, bytes) = [&old, &new]
            .into_iter()
            .flatten()
            .map(|it| (it.va, it.bytes))
            .next()
            .unwrap_or_default();
        let difference = Difference {
            va,
            bytes: bytes.unwrap_or(0),
            before: old.as_ref().and_then(side_of_range),
            after: new.as_ref().and_then(side_of_range),
            state: None,
            fault: None,
        };
        if join(&mut last, difference, visit).is_break() {
            return;
        }
    }
    let _ = finish(last, visit);
}

fn side_of_range(range: &Range) -> Option<Side> {
    let rights = range.rights.unwrap_or_default();
    Some(Side { pa: range.pa?, rights, attributes: range.attributes.clone() })
}
