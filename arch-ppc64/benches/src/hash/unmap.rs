//! Unmapping a range of 65,536 pages: the whole of it by the slots that pages remember (the
//! software tree included), beside only the part of it that takes entries out, by searching for
//! each entry that may be there; and beside the least that any way has to do, which is to take out
//! entries whose places are known already.

use std::cell::Cell;
use std::collections::HashMap;

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::{Access, AddressSpace, Gpa, Gva, Leaves, Prot};
use pgtable_ppc64::hash::{Context, HashedSpace, Hidx, Pages, Segment, VirtualPage};

use crate::memory::{Table, table, words};
use crate::row::{Entries, PAGES, Row};
use bench_harness::Contestant;

const SHIFT: u8 = 16;
const PIECE: u8 = 12;
/// The hashed table: 2^22 entries, more than all pieces of all pages.
const ORDER: u8 = 26;
const START: u64 = 1 << 41;

/// Fragments, one after the other; those freed last are handed out first.
struct Fragments {
    memory: DirectMap<'static, Gpa>,
    top: Cell<u64>,
    free: std::cell::RefCell<HashMap<u8, Vec<u64>>>,
    states: &'static [TableState],
}

impl Fragments {
    fn new() -> &'static Self {
        let bytes = 8 << 20;
        let states: Vec<_> = (0..bytes / 256).map(|_| TableState::new()).collect();
        Box::leak(Box::new(Self {
            memory: DirectMap::new(words(bytes), Gpa::new(START)),
            top: Cell::new(START),
            free: Default::default(),
            states: states.leak(),
        }))
    }
}

impl TableAllocator<Gpa> for Fragments {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        if let Some(table) = self.free.borrow_mut().entry(layout.shift).or_default().pop() {
            return Ok(Gpa::new(table));
        }
        let table = self.top.get().next_multiple_of(layout.bytes() as u64);
        self.top.set(table + layout.bytes() as u64);
        self.memory
            .table(Gpa::new(table), layout.bytes() / 8)
            .map_err(|_| AllocError::Exhausted { layout })?;
        Ok(Gpa::new(table))
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        if contents == Contents::Stale {
            let words = self
                .memory
                .table(table, layout.bytes() / 8)
                .map_err(|_| AllocError::Exhausted { layout })?;
            crate::memory::clear(words);
        }
        self.free.borrow_mut().entry(layout.shift).or_default().push(table.get());
        Ok(())
    }

    fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
        self.states.get(((table.get() - START) / 256) as usize)
    }
}

type Space = HashedSpace<DirectMap<'static, Gpa>, &'static Fragments, DirectMap<'static, Gpa>>;

/// A space, and which pieces of its pages have entries.
struct Prepared {
    space: Space,
    entries: Entries,
}

impl Entries {
    fn pages(self) -> Pages {
        if self == Self::Whole { Pages::K64 } else { Pages::K64In4K }
    }

    /// The pieces of a page that have entries.
    fn pieces(self, page: u64) -> std::ops::Range<u64> {
        match self {
            Self::Whole => 0..1,
            Self::All => 0..16,
            Self::Four => page % 4 * 4..page % 4 * 4 + 4,
            Self::One => page % 16..page % 16 + 1,
        }
    }

    /// How many pieces a search has to look for in each page.
    fn searched(self) -> u64 {
        if self == Self::Whole { 1 } else { 16 }
    }
}

fn address(page: u64, piece: u64) -> Gva {
    Gva::new((1 << 40) + (page << SHIFT) + (piece << PIECE))
}

fn prepare(now: &mut Option<Prepared>, entries: Entries) {
    if now.as_ref().is_none_or(|now| now.entries != entries) {
        *now = None;
        let tables = Fragments::new();
        let context = Context::new(5).unwrap();
        let hpt: Table = table(ORDER);
        let space = HashedSpace::new(hpt, tables.memory, tables, entries.pages(), context).unwrap();
        *now = Some(Prepared { space, entries });
    }
    let Some(now) = now else { return };
    unmap(&mut now.space);
    let bytes = PAGES << SHIFT;
    now.space
        .map(address(0, 0), Gpa::new(0), bytes, Prot::RW.into(), Leaves::Exactly(SHIFT))
        .unwrap();
    for page in 0..PAGES {
        for piece in entries.pieces(page) {
            now.space.access(address(page, piece), Access::WRITE).unwrap();
        }
    }
}

#[inline(never)]
fn unmap(space: &mut Space) {
    let mut gather = Gather::new(&Unused, ());
    space.unmap(address(0, 0), PAGES << SHIFT, &mut gather).unwrap();
    gather.finish(space.tables()).unwrap();
}

/// By remembered slots.
#[derive(Default)]
pub struct BySlot(Option<Prepared>);

impl Contestant<Row> for BySlot {
    fn name(&self) -> &'static str {
        "by slot"
    }

    fn has(&self, row: Row) -> bool {
        matches!(row, Row::Unmap(_))
    }

    fn prepare(&mut self, row: Row) {
        if let Row::Unmap(entries) = row {
            prepare(&mut self.0, entries);
        }
    }

    fn run(&mut self, _: Row) {
        if let Some(now) = &mut self.0 {
            unmap(&mut now.space);
        }
    }

    fn verify(&mut self, _: Row) {
        let Some(now) = &self.0 else { return };
        assert_eq!(now.space.hpt().entries(0).count(), 0);
    }
}

/// By searching.
#[derive(Default)]
pub struct BySearch(Option<Prepared>);

impl Contestant<Row> for BySearch {
    fn name(&self) -> &'static str {
        "by search"
    }

    fn has(&self, row: Row) -> bool {
        matches!(row, Row::Unmap(_))
    }

    fn prepare(&mut self, row: Row) {
        if let Row::Unmap(entries) = row {
            prepare(&mut self.0, entries);
        }
    }

    fn run(&mut self, _: Row) {
        let Some(now) = &self.0 else { return };
        let segment = now.space.segment(address(0, 0)).unwrap();
        for page in 0..PAGES {
            for piece in 0..now.entries.searched() {
                now.space.hpt().remove(&VirtualPage::of(&segment, address(page, piece))).unwrap();
            }
        }
    }

    fn verify(&mut self, _: Row) {
        let Some(now) = &self.0 else { return };
        assert_eq!(now.space.hpt().entries(0).count(), 0);
    }
}

/// Only the entries, at places that are known.
#[derive(Default)]
pub struct Known {
    prepared: Option<Prepared>,
    /// Where the entries are, in the order of pages and pieces.
    at: Vec<Hidx>,
}

impl Known {
    /// The pages that have entries, in order.
    fn pages(now: &Prepared) -> impl Iterator<Item = VirtualPage> {
        let (segment, entries): (Segment, _) =
            (now.space.segment(address(0, 0)).unwrap(), now.entries);
        (0..PAGES)
            .flat_map(move |page| entries.pieces(page).map(move |piece| address(page, piece)))
            .map(move |address| VirtualPage::of(&segment, address))
    }
}

impl Contestant<Row> for Known {
    fn name(&self) -> &'static str {
        "known"
    }

    fn has(&self, row: Row) -> bool {
        matches!(row, Row::Unmap(_))
    }

    fn prepare(&mut self, row: Row) {
        if let Row::Unmap(entries) = row {
            prepare(&mut self.prepared, entries);
            let Some(now) = &self.prepared else { return };
            let found = |page: VirtualPage| now.space.hpt().find(&page).unwrap().unwrap();
            self.at = Self::pages(now)
                .map(found)
                .map(|found| Hidx::new(found.hpte.v.h(), found.ptex as usize % 8))
                .collect();
        }
    }

    fn run(&mut self, _: Row) {
        /// So many are on their way into the cache at a time, as they are when a space unmaps.
        const MANY: usize = 32;
        let Some(now) = &self.prepared else { return };
        let hpt = now.space.hpt();
        let mut pages = Self::pages(now);
        let mut together = Vec::with_capacity(MANY);
        for at in self.at.chunks(MANY) {
            together.clear();
            together.extend(at.iter().zip(pages.by_ref()));
            for (at, page) in &together {
                let group = hpt.order().group(page.hash(), at.secondary());
                hpt.group(group).unwrap().slot(at.slot()).touch();
            }
            for (at, page) in &together {
                assert!(hpt.remove_at(page, **at).unwrap().is_some());
            }
        }
    }

    fn verify(&mut self, _: Row) {
        let Some(now) = &self.prepared else { return };
        assert_eq!(now.space.hpt().entries(0).count(), 0);
    }
}
