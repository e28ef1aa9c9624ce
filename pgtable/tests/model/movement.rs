//! Movement: a tree that is moved loses nothing that hardware records meanwhile; invalidations that
//! fail; what snapshots make of hostile tables. (That moved and copied trees say what they said is
//! in the conformance kit.)

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use crate::support::{Arena, Tables, Tlb, ranges};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Address, Error, Leaves, Prot, Stage};
use pgtable_conformance::sv::Sv;
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped, RcPolicy};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};

/// Hardware that walked each page once and remembers the way. It uses that way one last time when
/// it is told to forget it.
struct Late<'m, F: Format> {
    format: F,
    memory: DirectMap<'m, Output<F>>,
    root: RefCell<Output<F>>,
    /// Page → the entries on the way to it, from the root down.
    ways: RefCell<BTreeMap<u64, Vec<Output<F>>>>,
}

impl<F: Format> Late<'_, F> {
    fn way(&self, page: u64) -> Vec<Output<F>> {
        let walker = Walker::new(self.format, self.memory, *self.root.borrow());
        walker.trace(Input::<F>::new(page)).iter().map(|entry| entry.address).collect()
    }

    /// The bits that a store to a page records in the entries of its way.
    fn bits(&self, way: &[Output<F>]) -> Vec<u64> {
        let bits = pgtable_conformance::words::bits(&self.format);
        let leaf = F::BYTE_ORDER.swap(bits.accessed.hardware.mask | bits.dirty.hardware.mask);
        let mut words = vec![F::BYTE_ORDER.swap(bits.table.hardware.mask); way.len()];
        *words.last_mut().unwrap() = leaf;
        words
    }
}

impl<F: Format> Invalidate<F::Stage> for Late<'_, F> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Input<F>>) -> Result<(), InvalidateFailed> {
        let mut ways = self.ways.borrow_mut();
        let told = |page: u64| {
            let covers = |range: &pgtable::invalidate::StaleRange<Input<F>>| {
                page >= range.start.get() && page < range.last.get() + (1 << range.shift)
            };
            stale.everything() || stale.ranges().iter().any(covers)
        };
        for (&page, way) in ways.iter_mut() {
            let now = self.way(page);
            if now != *way {
                assert!(told(page) && stale.tables(), "{page:#x} moved, and hardware is not told");
                for (&entry, bits) in way.iter().zip(self.bits(way)) {
                    self.memory.word(entry).unwrap().fetch_or(bits, Ordering::Relaxed);
                }
                *way = now;
            }
        }
        Ok(())
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

/// What hardware records through the old tables, until the moment that it forgets them, is in the
/// new ones. Those move whose level's bit is set in `which`; all, and the root, if none is.
fn records<F: Format>(format: F, which: u64) {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Output<F>>();
    let mut space = PageTable::new(format, memory, &tables).unwrap();
    let attributes = F::Attributes::from(Prot::RW.for_user());
    let shift = format.geometry().page_shift();
    // Single pages far apart and near each other, so that there are more tables than a batch holds,
    // and a large leaf.
    let at = |n: u64| ((n % 2) << shift) + ((n / 2) << 30);
    for page in (0..90).map(at) {
        let (input, output) = (Input::<F>::new(page), Output::<F>::new(page & 0xff_ffff));
        space.map(input, output, 1 << shift, attributes, Leaves::Exactly(shift)).unwrap();
    }
    let large = Input::<F>::new(90 << 30);
    space.map(large, Output::<F>::new(0), 1 << 21, attributes, Leaves::AtMost(21)).unwrap();
    let pages: Vec<_> = (0..90).map(at).chain([90 << 30]).collect();

    // Nothing is recorded yet.
    let tlb = Tlb::default();
    let mut gather = Gather::new(&tlb, 7);
    for recorded in [Recorded::Accessed, Recorded::Dirty] {
        for &page in &pages {
            let bytes = if page == large.get() { 1 << 21 } else { 1 << shift };
            let writers = Writers::Stopped;
            space
                .harvest(Input::<F>::new(page), bytes, recorded, writers, &mut [0; 8], &mut gather)
                .unwrap();
        }
    }
    gather.finish(&tables).unwrap();
    let root = RefCell::new(space.root());
    let late = Late { format, memory, root, ways: RefCell::default() };
    for &page in &pages {
        let way = late.way(page);
        for (&entry, bits) in way.iter().zip(late.bits(&way)) {
            memory.word(entry).unwrap().fetch_and(!bits, Ordering::Relaxed);
        }
        late.ways.borrow_mut().insert(page, way);
    }
    let before = late.ways.borrow().clone();
    let mut gather = Gather::new(&late, ());
    space
        .relocate(|_, layout| which == 0 || which >> layout.level.0 & 1 != 0, &mut gather)
        .unwrap();
    // On the way of each page, every entry that moved has the bits. (The root moves alone: hardware
    // uses all of each way then.)
    let check = || {
        for &page in &pages {
            let way = late.way(page);
            let words = way.iter().zip(late.bits(&way)).zip(&before[&page]);
            for (level, ((&entry, bits), &old)) in words.enumerate() {
                let word = memory.word(entry).unwrap().load(Ordering::Relaxed);
                assert!(
                    entry == old || word & bits == bits,
                    "page {page:#x}, entry {level} of its way lost a record"
                );
            }
        }
    };
    check();
    space.relocate_root(|root| *late.root.borrow_mut() = root, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    check();
    for &page in &pages {
        assert!(
            which != 0 || late.way(page).iter().zip(&before[&page]).all(|(new, old)| new != old)
        );
    }
    space.destroy(Gather::new(&late, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!(tables.live(), 0);
}

/// Invalidations that fail from the nth on.
struct Failing(std::cell::Cell<usize>);

impl<S: pgtable::Stage> Invalidate<S> for Failing {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.0.set(self.0.get().checked_sub(1).ok_or(InvalidateFailed)?);
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// Invalidations fail in the middle: nothing that hardware may still walk is freed, and all of it
/// once they work again.
#[test]
fn failing_invalidations_free_nothing() {
    let format = Ept::new(Levels::Four, EptControls::new());
    for works in 0..6 {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
        let attributes = Prot::RW.into();
        for page in (0..90).map(|n| n << 21) {
            let (input, output) = (pgtable::Gpa::new(page), pgtable::Hpa::new(page));
            space.map(input, output, 4096, attributes, Leaves::Exactly(12)).unwrap();
        }
        let before = tables.live();
        let failing = Failing(std::cell::Cell::new(works));
        let mut gather = Gather::new(&failing, ());
        let result = space.relocate(|_, _| true, &mut gather);
        assert_eq!(result.is_err(), works < 3, "{works} invalidations work: {result:?}");
        assert!(tables.live() >= before);
        failing.0.set(usize::MAX);
        gather.finish(&tables).unwrap();
        assert_eq!(tables.live(), before, "{works} invalidations work");
        for page in (0..90).map(|n| n << 21) {
            let found = space.walker().query(pgtable::Gpa::new(page)).unwrap().unwrap();
            assert_eq!(found.output, pgtable::Hpa::new(page));
        }
        space.destroy(Gather::new(&failing, ())).map_err(|(_, error)| error).unwrap();
        assert_eq!(tables.live(), 0);
    }
}

/// A hostile tree that contains itself: the copy ends when its allocator does, and leaves nothing.
#[test]
fn a_snapshot_of_a_tree_that_contains_itself_ends() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let root = space.root();
    for index in 0..512 {
        let entry = pgtable::Gpa::new(root.get() + index * 8);
        arena.memory().word(entry).unwrap().store(root.get() | 0x67, Ordering::Relaxed);
    }
    let other = Arena::new(1 << 20);
    let copies = Tables::new(&other);
    let copy = space.walker().snapshot(other.memory(), &copies);
    assert!(matches!(copy, Err(Error::Alloc(_))), "{:?}", copy.map(|_| ()));
    assert_eq!(copies.live(), 0);
}

/// What of a tree means nothing is named by its place; and tables without an entry are not copied.
#[test]
fn a_snapshot_of_crooked_tables() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<pgtable::Hpa>();
    let format = Ept::new(Levels::Four, EptControls::new());
    let mut space = PageTable::new(format, memory, &tables).unwrap();
    let at = |n: u64| pgtable::Gpa::new(n << 21);
    for n in 0..3 {
        space
            .map(at(n), pgtable::Hpa::new(n << 12), 4096, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
    }
    let entry = |n: u64| space.walker().trace(at(n)).last().unwrap().address;
    // The second table becomes empty, by somebody else's hand.
    memory.word(entry(1)).unwrap().store(0, Ordering::Relaxed);
    let other = Arena::new(1 << 20);
    let copies = Tables::new(&other);
    let copy = space.walker().snapshot(other.memory(), &copies).unwrap();
    assert_eq!(copies.live(), 3 + 2, "three levels, and two tables of pages");
    for n in 0..3 {
        let found = copy.walker().query(at(n)).unwrap().map(|found| found.output.get());
        assert_eq!(found, (n != 1).then_some(n << 12));
    }
    copy.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    // Written and not read: misconfigured (SDM §29.3.3.1).
    let third = pgtable::Hpa::new(entry(2).get() + 5 * 8);
    memory.word(third).unwrap().store(2, Ordering::Relaxed);
    let copy = space.walker().snapshot(other.memory(), &copies).map(|_| ());
    assert!(
        matches!(copy, Err(Error::Malformed { entry, word: 2, .. }) if entry == third.get()),
        "{copy:?}"
    );
    assert_eq!(copies.live(), 0);
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// What is stale: ranges (first page, last page, size), everything, ways to tables.
type Said = (Vec<(u64, u64, u8)>, bool, bool);

/// Keeps what it is told.
#[derive(Default)]
struct Told(RefCell<Vec<Said>>);

impl<S: Stage> Invalidate<S> for Told {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        self.0.borrow_mut().push((ranges(stale), stale.everything(), stale.tables()));
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// Hardware is told of what is below a table that moved, and of no more: its pages, if it is one of
/// the last level; else everything.
#[test]
fn what_a_move_makes_stale() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut space = PageTable::new(format, arena.memory(), &tables).unwrap();
    let start = 5 << 30 | 3 << 21;
    for at in [start, 6 << 30] {
        let (at, to) = (pgtable::Gva::new(at), pgtable::Gpa::new(0));
        space.map(at, to, 4096, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    }
    let way: Vec<_> = space
        .walker()
        .trace(pgtable::Gva::new(start))
        .iter()
        .map(|it| it.address.get() & !0xfff)
        .collect();
    for level in 0..3 {
        let told = Told::default();
        let mut gather = Gather::new(&told, ());
        let moved = space.relocate(
            |table, layout| layout.level.0 == level && way.contains(&table.get()),
            &mut gather,
        );
        assert_eq!(moved, Ok(1));
        gather.finish(&tables).unwrap();
        let pages = if level == 0 { vec![(start, start + (511 << 12), 12)] } else { vec![] };
        // Before the old table is retired, and because it is.
        assert_eq!(told.0.take(), [(pages, level > 0, true), (vec![], false, true)]);
    }
    space.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {$(
        mod $name {
            use super::*;
            #[test]
            fn loses_no_record() {
                (0..16).for_each(|which| records($format, which));
            }
        }
    )*};
}

formats! {
    sv39: Sv::SV39;
    sv48: Sv::SV48.with_sum();
    radix_64k_process: ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    radix_4k_process: ProcessScoped::new(Granule::K4);
    radix_64k_partition: PartitionScoped::new(Granule::K64);
    radix_4k_partition: PartitionScoped::new(Granule::K4).with_rc(RcPolicy::HardwareUpdate);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    x86_5_level: LongMode::new(Levels::Five, Controls::new());
    npt: Npt::new(Levels::Four, NptControls::new());
    ept_4_level: Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() });
    ept_5_level: Ept::new(Levels::Five, EptControls::new());
}
