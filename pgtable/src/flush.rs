//! What is stale, as the pages to invalidate one by one, or as everything.

use core::iter::FusedIterator;
use core::slice;

use crate::address::{Address, low_bits};
use crate::stale::{Stale, StaleRange};

/// How to make stale translations unreachable: what an architecture's instructions are made from.
#[derive(Clone, Debug)]
pub enum Flush<'s, A> {
    /// There is nothing to do.
    Nothing,
    /// An invalidation of each of these addresses.
    Pages(Pages<'s, A>),
    /// An invalidation of the whole address space.
    Everything,
}

impl<'s, A: Address> Flush<'s, A> {
    /// What `stale` asks for, if one invalidation reaches a page of any size; more than `ceiling`
    /// pages become everything.
    #[must_use]
    pub fn of(stale: &'s Stale<A>, ceiling: u64) -> Self {
        Self::in_parts(stale, ceiling, |shift| shift)
    }

    /// The same where one invalidation reaches only a part of some pages: of a page of `2^shift`
    /// bytes, `2^part(shift)` bytes. `part` returns at most `shift`.
    #[must_use]
    pub fn in_parts(stale: &'s Stale<A>, ceiling: u64, part: fn(u8) -> u8) -> Self {
        let count = |range: &StaleRange<A>| in_parts(*range, part).pages();
        let pages = stale.ranges().iter().map(count).fold(0, u64::saturating_add);
        if stale.is_empty() {
            Self::Nothing
        } else if stale.everything() || pages == 0 || pages > ceiling {
            Self::Everything
        } else {
            Self::Pages(Pages { ranges: stale.ranges().iter(), part, rest: None })
        }
    }

    /// The operands of an architecture's instructions: `page` of each address if that is enough, or
    /// `whole` once, or none.
    pub fn operands<T>(
        self,
        pages_are_enough: bool,
        page: impl Fn(A) -> T,
        whole: T,
    ) -> impl Iterator<Item = T> {
        let (pages, whole) = match self {
            Self::Nothing => (None, None),
            Self::Pages(pages) if pages_are_enough => (Some(pages), None),
            Self::Pages(_) | Self::Everything => (None, Some(whole)),
        };
        pages.into_iter().flatten().map(page).chain(whole)
    }
}

/// `range`, whose pages are taken for several smaller ones each.
fn in_parts<A: Address>(range: StaleRange<A>, part: fn(u8) -> u8) -> StaleRange<A> {
    let shift = part(range.shift).min(range.shift);
    let rest = low_bits(range.shift) & !low_bits(shift);
    StaleRange { last: A::new(range.last.get() | rest), shift, ..range }
}

/// The address of each stale page (or part of a page) once.
#[derive(Clone, Debug)]
pub struct Pages<'s, A> {
    ranges: slice::Iter<'s, StaleRange<A>>,
    part: fn(u8) -> u8,
    /// What is left of the range that was begun: never empty.
    rest: Option<StaleRange<A>>,
}

impl<A: Address> Iterator for Pages<'_, A> {
    type Item = A;

    fn next(&mut self) -> Option<A> {
        let range = match self.rest.take() {
            Some(rest) => rest,
            None => in_parts(*self.ranges.next()?, self.part),
        };
        if range.start < range.last {
            let step = 1_u64.checked_shl(range.shift.into());
            self.rest = step
                .and_then(|step| range.start.checked_add(step))
                .map(|start| StaleRange { start, ..range });
        }
        Some(range.start)
    }
}

impl<A: Address> FusedIterator for Pages<'_, A> {}
