//! What two images translate differently.

use std::ops::ControlFlow;

use pgtable::{Address, RangeError};
use serde::Serialize;

use super::describe::Describe;
use super::hash::{HashSpace, Listed};
use super::range::Range;
use super::tree::Tree;
use memory_image::Source;

/// One side of a difference.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Side {
    /// Where the range goes.
    #[serde(serialize_with = "super::range::hex")]
    pub pa: u64,
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
    /// Why the range could not be compared, if it could not; null otherwise.
    pub fault: Option<String>,
}

/// The two images have different kinds of tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the two images do not have the same kind of tables")]
pub struct Mismatch;

fn side<F: Describe>(side: pgtable::Side<F>) -> Option<Side> {
    let (output, attributes) = side?;
    let words = F::describe(&attributes);
    let letters = pgtable::Attributes::prot(&attributes);
    let letter = |allowed, letter: &'static str| if allowed { letter } else { "-" };
    let prot = [
        letter(letters.read(), "r"),
        letter(letters.write(), "w"),
        letter(letters.execute(), "x"),
        letter(letters.user(), "u"),
    ];
    Some(Side {
        pa: output.get(),
        attributes: format!("{} {words}", prot.concat()).trim_end().to_owned(),
    })
}

/// Compares trees leaf by leaf; where one of them cannot be read the range is reported, and left
/// out.
pub(super) fn of_trees<F: Describe, S: Source>(
    before: &Tree<'_, F, S>,
    after: &Tree<'_, F, S>,
    visit: &mut dyn FnMut(Difference) -> ControlFlow<()>,
    progress: &dyn Fn(u64, u64),
) -> Result<(), Mismatch> {
    let (format, other) = (before.walker().format(), after.walker().format());
    if format != other {
        return Err(Mismatch);
    }
    let mask = format.geometry().address_mask();
    let mut last: Option<Difference> = None;
    for (start, end) in before.rows() {
        let mut next = start;
        while next < end {
            let result =
                before.walker().diff(after.walker(), format.address(next), end - next, |change| {
                    progress(format.offset(change.input).unwrap_or(0), mask);
                    let difference = Difference {
                        va: Some(change.input.get()),
                        bytes: change.bytes,
                        before: side::<F>(change.before),
                        after: side::<F>(change.after),
                        fault: None,
                    };
                    join(&mut last, difference, visit)
                });
            match result {
                Ok(ControlFlow::Break(())) => return Ok(()),
                Ok(ControlFlow::Continue(())) => break,
                Err(_) if before.tables().is_over() || after.tables().is_over() => {
                    return finish(last, visit);
                }
                Err(error) => {
                    let Some((at, size, why)) = hole(before, after, error) else {
                        return finish(last, visit);
                    };
                    let fault = Difference {
                        va: Some(format.address(at).get()),
                        bytes: size,
                        before: None,
                        after: None,
                        fault: Some(why),
                    };
                    if join(&mut last, fault, visit).is_break() {
                        return Ok(());
                    }
                    next = (at | (size - 1)) + 1;
                }
            }
        }
    }
    finish(last, visit)
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

/// What of the space an error of either tree leaves out.
fn hole<F: Describe, S: Source>(
    before: &Tree<'_, F, S>,
    after: &Tree<'_, F, S>,
    error: RangeError<pgtable::Input<F>>,
) -> Option<(u64, u64, String)> {
    // The larger of the two, so that the next comparison does not meet it again.
    let holes = [before, after].into_iter().filter_map(|tree| tree.unreadable(error.at));
    holes.max_by_key(|(_, size, _)| *size)
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
                        && one.attributes == two.attributes
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
pub(super) fn of_lists<S: Source>(
    before: &HashSpace<'_, S>,
    after: &HashSpace<'_, S>,
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
            fault: None,
        };
        if join(&mut last, difference, visit).is_break() {
            return;
        }
    }
    let _ = finish(last, visit);
}

fn side_of_range(range: &Range) -> Option<Side> {
    let rights = range.rights.map_or_else(String::new, |rights| rights.to_string());
    Some(Side {
        pa: range.pa?,
        attributes: format!("{rights} {}", range.attributes).trim_end().to_owned(),
    })
}
