//! The reverse map: from a page of L1's memory to the shadow entries that were made through it.
//!
//! An entry stands under the first page that it maps of L1's memory. It is one word ([`Link`]:
//! Linux's compact `rmap`, with the size besides), most pages have one, and a map in the other
//! direction says for each entry where it stands: so both are exact, never larger than the shadows
//! are, and every step but a range's takes constant time, however many entries L1 makes through one
//! page.

use alloc::boxed::Box;

use bitfield_struct::bitfield;
use hashbrown::{HashMap, HashSet};
use pgtable::{Gpa, low_bits};

use super::Error;
use crate::radix::PageSize;

/// log2 of the smallest page of L1's.
const FRAME: u8 = 12;

/// A shadow entry: whose, where, and how large.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub(super) struct Link {
    /// L1's number of the partition (Linux: `RMAP_NESTED_LPID_SHIFT` 52).
    #[bits(12)]
    pub l2: u32,
    /// The entry's address in L2's memory, in units of 4 KiB (`RMAP_NESTED_GPA_MASK`
    /// 0x000ffffffffff000).
    #[bits(40)]
    pub page: u64,
    #[bits(6)]
    __: u8,
    /// log2 of its size.
    #[bits(6)]
    pub shift: u8,
}

impl Link {
    fn of(l2: u32, n_gpa: Gpa, shift: u8) -> Self {
        Self::new()
            .with_l2(l2 & 0xfff)
            .with_page((n_gpa.get() >> FRAME) & low_bits(40))
            .with_shift(shift & 63)
    }

    /// The entry's address in L2's memory.
    pub(super) fn n_gpa(self) -> Gpa {
        Gpa::new(self.page() << FRAME)
    }

    /// Its size in bytes.
    pub(super) fn bytes(self) -> u64 {
        1 << self.shift()
    }
}

/// More than one.
#[derive(Debug)]
struct Many(HashSet<Link>);

/// The entries that begin with one page.
#[derive(Debug)]
enum Entries {
    One(Link),
    Several(Box<Many>),
}

/// The reverse map.
#[derive(Debug, Default)]
pub(super) struct ReverseMap {
    entries: HashMap<u64, Entries>,
    frames: HashMap<Link, u64>,
}

impl ReverseMap {
    pub(super) fn len(&self) -> usize {
        self.frames.len()
    }

    /// The first byte of L1's memory that the entry maps.
    pub(super) fn target(&self, l2: u32, n_gpa: Gpa, shift: u8) -> Option<Gpa> {
        self.frames.get(&Link::of(l2, n_gpa, shift)).map(|frame| Gpa::new(frame << FRAME))
    }

    /// The entry maps L1's memory from `gpa` on.
    pub(super) fn insert(&mut self, l2: u32, n_gpa: Gpa, shift: u8, gpa: Gpa) -> Result<(), Error> {
        let (link, frame) = (Link::of(l2, n_gpa, shift), gpa.get() >> FRAME);
        if self.frames.get(&link) == Some(&frame) {
            return Ok(());
        }
        self.remove(l2, n_gpa, shift);
        self.frames.try_reserve(1).map_err(|_| Error::NoMemory)?;
        self.entries.try_reserve(1).map_err(|_| Error::NoMemory)?;
        match self.entries.get_mut(&frame) {
            None => {
                self.entries.insert(frame, Entries::One(link));
            }
            Some(Entries::Several(many)) => {
                many.0.try_reserve(1).map_err(|_| Error::NoMemory)?;
                many.0.insert(link);
            }
            Some(entries) => {
                let mut many = HashSet::new();
                many.try_reserve(2).map_err(|_| Error::NoMemory)?;
                if let Entries::One(other) = *entries {
                    many.insert(other);
                }
                many.insert(link);
                *entries = Entries::Several(Box::new(Many(many)));
            }
        }
        self.frames.insert(link, frame);
        Ok(())
    }

    /// The entry is gone.
    pub(super) fn remove(&mut self, l2: u32, n_gpa: Gpa, shift: u8) {
        let link = Link::of(l2, n_gpa, shift);
        let Some(frame) = self.frames.remove(&link) else { return };
        if self
            .entries
            .get_mut(&frame)
            .is_some_and(|entries| entries.extract(|other| other == link, &mut |_| ()))
        {
            self.entries.remove(&frame);
        }
    }

    /// All entries of a partition are gone.
    pub(super) fn forget(&mut self, l2: u32) {
        self.frames.retain(|link, _| link.l2() != l2);
        self.entries.retain(|_, entries| match entries {
            Entries::One(link) => link.l2() != l2,
            Entries::Several(many) => {
                many.0.retain(|link| link.l2() != l2);
                !many.0.is_empty()
            }
        });
    }

    /// Takes out the entries that map any of the `bytes` bytes of L1's memory from `gpa` on, and
    /// shows each to `gone`.
    pub(super) fn take(&mut self, gpa: Gpa, bytes: u64, mut gone: impl FnMut(Link)) {
        let Some((first, last)) = frames(gpa, bytes) else { return };
        let frames = &mut self.frames;
        let mut taken = |link: Link| {
            frames.remove(&link);
            gone(link);
        };
        for frame in Self::before(first) {
            let reaches = |link: Link| frame + (link.bytes() >> FRAME) > first;
            if self
                .entries
                .get_mut(&frame)
                .is_some_and(|entries| entries.extract(reaches, &mut taken))
            {
                self.entries.remove(&frame);
            }
        }
        if last - first < self.entries.len() as u64 {
            for frame in first..=last {
                if let Some(mut entries) = self.entries.remove(&frame) {
                    entries.extract(|_| true, &mut taken);
                }
            }
        } else {
            for (_, mut entries) in
                self.entries.extract_if(|frame, _| (first..=last).contains(frame))
            {
                entries.extract(|_| true, &mut taken);
            }
        }
    }

    /// Shows `visit` the entries that map any of the `bytes` bytes of L1's memory from `gpa` on.
    pub(super) fn for_each(&self, gpa: Gpa, bytes: u64, mut visit: impl FnMut(Link)) {
        let Some((first, last)) = frames(gpa, bytes) else { return };
        for frame in Self::before(first) {
            if let Some(entries) = self.entries.get(&frame) {
                let reaches = |link: &Link| frame + (link.bytes() >> FRAME) > first;
                entries.links().filter(reaches).for_each(&mut visit);
            }
        }
        if last - first < self.entries.len() as u64 {
            let found = (first..=last).filter_map(|frame| self.entries.get(&frame));
            found.flat_map(Entries::links).for_each(visit);
        } else {
            let found = self.entries.iter().filter(|(frame, _)| (first..=last).contains(*frame));
            found.flat_map(|(_, entries)| entries.links()).for_each(visit);
        }
    }

    /// Where a larger entry begins that reaches `frame` from before: each once.
    fn before(frame: u64) -> impl Iterator<Item = u64> {
        let starts = PageSize::ALL.map(|size| frame & !low_bits(size.shift() - FRAME));
        (0..starts.len())
            .filter(move |&index| {
                starts[index] < frame && !starts[..index].contains(&starts[index])
            })
            .map(move |index| starts[index])
    }
}

impl Entries {
    /// All.
    fn links(&self) -> impl Iterator<Item = Link> + '_ {
        let (one, many) = match self {
            Self::One(link) => (Some(*link), None),
            Self::Several(many) => (None, Some(many.0.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// Takes those out that `matches`; returns whether none is left.
    fn extract(
        &mut self,
        mut matches: impl FnMut(Link) -> bool,
        taken: &mut impl FnMut(Link),
    ) -> bool {
        match self {
            Self::One(link) => {
                let matched = matches(*link);
                if matched {
                    taken(*link);
                }
                matched
            }
            Self::Several(many) => {
                many.0.extract_if(|link| matches(*link)).for_each(taken);
                many.0.is_empty()
            }
        }
    }
}

/// The first and the last page of a range; `None` if it is empty.
fn frames(gpa: Gpa, bytes: u64) -> Option<(u64, u64)> {
    let last = gpa.get().saturating_add(bytes.checked_sub(1)?);
    Some((gpa.get() >> FRAME, last >> FRAME))
}

#[cfg(test)]
#[path = "reverse_map_tests.rs"]
mod tests;
