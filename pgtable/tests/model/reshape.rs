//! Splitting and promoting: what is done of a range and what is not, what is invalidated before
//! which store, and that no record is lost.

use std::cell::{Cell, RefCell};

use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Access, Error, Gpa, Hpa, Leaves, Prot, RangeError, Stage2};
use pgtable_x86::{Ept, EptControls, Levels};

use crate::support::{Arena, Tables, ranges};

const PAGE: u64 = 0x1000;
const LARGE: u64 = 2 << 20;

/// One invalidation: first page, last page, size of each range; and what the tree said at that
/// moment at an address.
type Told = (Vec<(u64, u64, u8)>, Option<u64>);

/// Lists what it is told, and looks at the tree meanwhile as hardware could.
struct Listening<'m> {
    walker: Walker<Ept, DirectMap<'m, Hpa>>,
    at: Gpa,
    told: RefCell<Vec<Told>>,
    fails: Cell<bool>,
    /// Whether the last one was of tables too.
    of_tables: Cell<bool>,
}

impl Invalidate<Stage2> for Listening<'_> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        self.of_tables.set(stale.tables());
        let found = self.walker.query(self.at).unwrap().map(|found| found.output.get());
        self.told.borrow_mut().push((ranges(stale), found));
        if self.fails.get() { Err(InvalidateFailed) } else { Ok(()) }
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

fn format() -> Ept {
    Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() })
}

type Tree<'m> = PageTable<Ept, DirectMap<'m, Hpa>, &'m Tables<'m>>;

fn listening<'m>(arena: &'m Arena, tree: &Tree<'_>, at: u64) -> Listening<'m> {
    let walker = Walker::new(format(), arena.memory(), tree.root());
    Listening {
        walker,
        at: Gpa::new(at),
        told: RefCell::default(),
        fails: Cell::new(false),
        of_tables: Cell::new(false),
    }
}

fn map(tree: &mut Tree<'_>, at: u64, bytes: u64, leaves: Leaves) {
    tree.map(Gpa::new(at), Hpa::new(at), bytes, Prot::RW.into(), leaves).unwrap();
}

fn sizes(tree: &Tree<'_>, at: u64, bytes: u64) -> Vec<u8> {
    tree.walker().iter(Gpa::new(at), bytes).unwrap().map(|leaf| leaf.unwrap().shift).collect()
}

/// Break before make (Power ISA, Book III; SDM §5.10.4): hardware is told of the old leaf while
/// nothing is mapped, and of all of it.
#[test]
fn a_leaf_is_out_while_it_is_split() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
    map(&mut tree, LARGE, 3 * LARGE, Leaves::Largest);
    let by = listening(&arena, &tree, 2 * LARGE + 9 * PAGE);
    let mut gather = Gather::new(&by, ());
    // From a page in the middle of the second to the end of its first half: nothing else is split.
    assert_eq!(tree.split(Gpa::new(2 * LARGE + 5 * PAGE), 251 * PAGE, 12, &mut gather), Ok(1));
    assert_eq!(by.told.take(), [(vec![(2 * LARGE, 2 * LARGE, 21)], None)]);
    assert_eq!(sizes(&tree, LARGE, 3 * LARGE).len(), 514);
    // Already as small as that, and smaller than what is asked for.
    assert_eq!(tree.split(Gpa::new(2 * LARGE), LARGE, 12, &mut gather), Ok(0));
    assert_eq!(tree.split(Gpa::new(LARGE), 3 * LARGE, 21, &mut gather), Ok(0));
    // There are no smaller pages.
    let smallest = RangeError { at: Gpa::new(2 * LARGE), error: Error::LeafSize };
    assert_eq!(tree.split(Gpa::new(2 * LARGE), LARGE, 11, &mut gather), Err(smallest));
    gather.finish(&&tables).unwrap();
    assert_eq!(by.told.take(), []);
    // A page of a large leaf is unmapped: first the leaf is split, then the page goes.
    let by = Listening { at: Gpa::new(LARGE + 7 * PAGE), ..listening(&arena, &tree, 0) };
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.unmap(Gpa::new(LARGE + 7 * PAGE), PAGE, &mut gather), Ok(PAGE));
    gather.finish(&&tables).unwrap();
    let page = LARGE + 7 * PAGE;
    assert_eq!(by.told.take(), [(vec![(LARGE, LARGE, 21)], None), (vec![(page, page, 12)], None)]);
    tree.destroy(Gather::new(&by, ())).map_err(|(_, error)| error).unwrap();
}

/// A leaf of 1 GiB is split into pages at once: it is invalidated once, while nothing is mapped,
/// and the pages outside of the range stay as large as they may. Where tables run out the rest
/// stays large, and the error says from where on.
#[test]
fn two_levels_are_split_at_once() {
    const HUGE: u64 = 1 << 30;
    // First page and pages of the range, how many leaves were split, and the sizes afterwards.
    for (first, pages, split, small) in [
        (0, 512 * 512, 513, 512),
        (3 * 512 + 7, 1, 2, 1),
        (511, 514, 4, 3),
        (512 * 512 - 1, 1, 2, 1),
    ] {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
        map(&mut tree, HUGE, HUGE, Leaves::Exactly(30));
        tree.walker().access(Gpa::new(HUGE + 5), Access::WRITE).unwrap();
        let by = listening(&arena, &tree, HUGE + 9 * PAGE);
        let mut gather = Gather::new(&by, ());
        let at = Gpa::new(HUGE + first * PAGE);
        assert_eq!(tree.split(at, pages * PAGE, 12, &mut gather), Ok(split), "{first}");
        assert_eq!(by.told.take(), [(vec![(HUGE, HUGE, 30)], None)], "{first}");
        let sizes = sizes(&tree, HUGE, HUGE);
        assert_eq!(sizes.iter().filter(|&&size| size == 12).count(), 512 * small, "{first}");
        assert_eq!(sizes.len(), 512 * small + 512 - small, "{first}");
        // Each page is where it was, and what hardware recorded is in all of them.
        for leaf in tree.walker().iter(Gpa::new(HUGE), HUGE).unwrap() {
            let leaf = leaf.unwrap();
            assert_eq!(leaf.output.get(), leaf.input.get());
            assert!(leaf.attributes.accessed() && leaf.attributes.dirty());
        }
        // Counts are right: every table goes with its last page.
        assert_eq!(tree.unmap(Gpa::new(HUGE), HUGE, &mut gather), Ok(HUGE));
        gather.finish(&&tables).unwrap();
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!((done.tables, done.refused, done.unread), (1, 0, 0), "{first}");
    }
    // Room for the root, two tables above, and three of pages.
    let arena = Arena::new(6 << 12);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
    map(&mut tree, HUGE, HUGE, Leaves::Exactly(30));
    let by = listening(&arena, &tree, HUGE);
    let mut gather = Gather::new(&by, ());
    let error = tree.split(Gpa::new(HUGE), HUGE, 12, &mut gather).unwrap_err();
    assert_eq!(error.at, Gpa::new(HUGE + 3 * LARGE));
    assert!(matches!(error.error, Error::Alloc(_)), "{error}");
    assert_eq!(by.told.take(), [(vec![(HUGE, HUGE, 30)], None)]);
    let sizes = sizes(&tree, HUGE, HUGE);
    assert_eq!(sizes.iter().filter(|&&size| size == 12).count(), 3 * 512);
    assert_eq!(sizes.len(), 3 * 512 + 509);
    assert_eq!(tree.unmap(Gpa::new(HUGE), HUGE, &mut gather), Ok(HUGE));
    gather.finish(&&tables).unwrap();
    tree.destroy(gather).map_err(|(_, error)| error).unwrap();
}

#[test]
fn a_table_is_out_while_it_is_promoted() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
    map(&mut tree, LARGE, 4 * LARGE, Leaves::Exactly(12));
    // Nothing is recorded, but for two pages of the second table.
    let by = listening(&arena, &tree, 2 * LARGE + 5 * PAGE);
    let mut gather = Gather::new(&by, ());
    for recorded in [Recorded::Accessed, Recorded::Dirty] {
        tree.harvest(
            Gpa::new(LARGE),
            4 * LARGE,
            recorded,
            Writers::Stopped,
            &mut [0; 32],
            &mut gather,
        )
        .unwrap();
    }
    gather.finish(&&tables).unwrap();
    by.told.take();
    tree.walker().access(Gpa::new(2 * LARGE + 5 * PAGE), Access::READ).unwrap();
    tree.walker().access(Gpa::new(2 * LARGE + 300 * PAGE), Access::WRITE).unwrap();

    // Neither of a table that the range does not cover whole, at either end, ...
    let whole = |first: u64, pages: u64| (Gpa::new(LARGE + first * PAGE), pages * PAGE);
    for (at, bytes) in [whole(1, 511), whole(0, 511), whole(1, 1022), whole(511, 2), whole(512, 0)]
    {
        assert_eq!(tree.promote(at, bytes, &mut gather), Ok(0), "{at}, {bytes:#x}");
    }
    gather.finish(&&tables).unwrap();
    assert_eq!(by.told.take(), []);
    // ... nor of the next, if it does so of one.
    let (at, bytes) = whole(3, 1532);
    assert_eq!(tree.promote(at, bytes, &mut gather), Ok(1));
    assert_eq!(by.told.take(), [(vec![(2 * LARGE, 3 * LARGE - PAGE, 12)], None)]);
    assert!(by.of_tables.get());
    assert_eq!(sizes(&tree, LARGE, 4 * LARGE), [&[12; 512][..], &[21], &[12; 1024]].concat());
    gather.finish(&&tables).unwrap();
    by.told.take();

    // What any of its pages recorded, the large one has.
    for (recorded, pages) in
        [(Recorded::Accessed, 512), (Recorded::Dirty, 512), (Recorded::Dirty, 0)]
    {
        let mut bits = [0; 8];
        let set = tree.harvest(
            Gpa::new(2 * LARGE),
            LARGE,
            recorded,
            Writers::Stopped,
            &mut bits,
            &mut gather,
        );
        assert_eq!(set, Ok(pages), "{recorded:?}");
    }
    gather.finish(&&tables).unwrap();
    by.told.take();
    // An invalidation that fails: the table stays where it was.
    by.fails.set(true);
    let failed =
        tree.promote(Gpa::new(3 * LARGE), LARGE, &mut gather).map_err(|it| (it.at.get(), it.error));
    assert!(matches!(failed, Err((at, Error::Invalidate(_))) if at == 3 * LARGE), "{failed:?}");
    assert_eq!(sizes(&tree, 3 * LARGE, LARGE), [12; 512]);
    by.fails.set(false);
    // All that is left, and nothing where nothing is.
    assert_eq!(tree.promote(Gpa::new(0), 1 << 30, &mut gather), Ok(3));
    assert_eq!(sizes(&tree, LARGE, 4 * LARGE), [21; 4]);
    gather.finish(&&tables).unwrap();
    tree.destroy(Gather::new(&by, ())).map_err(|(_, error)| error).unwrap();
}

/// What keeps the pages of a table from being one.
type Change = dyn Fn(&mut Tree<'_>, &mut Gather<'_, Stage2, Listening<'_>>);

/// Pages in a row that do not say one thing.
#[test]
fn what_is_not_uniform_stays() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
    let quiet = listening(&arena, &tree, 0);
    let mut gather = Gather::new(&quiet, ());
    let changes: [&Change; 4] = [
        // A hole; a page elsewhere; other rights; all in a row, but not where a large page could
        // be.
        &|tree, gather| assert_eq!(tree.unmap(Gpa::new(LARGE + 77 * PAGE), PAGE, gather), Ok(PAGE)),
        &|tree, gather| {
            let (at, to) = (Gpa::new(LARGE + 511 * PAGE), Hpa::new(0x7000));
            tree.remap(at, to, PAGE, Prot::RW.into(), Leaves::Exactly(12), gather).unwrap();
        },
        &|tree, gather| assert_eq!(tree.protect(Gpa::new(LARGE), PAGE, Prot::R, gather), Ok(PAGE)),
        &|tree, gather| {
            let (at, to) = (Gpa::new(LARGE), Hpa::new(PAGE));
            tree.remap(at, to, LARGE, Prot::RW.into(), Leaves::Exactly(12), gather).unwrap();
        },
    ];
    for (nth, change) in changes.into_iter().enumerate() {
        map(&mut tree, LARGE, LARGE, Leaves::Exactly(12));
        change(&mut tree, &mut gather);
        assert_eq!(tree.promote(Gpa::new(LARGE), LARGE, &mut gather), Ok(0), "{nth}");
        tree.unmap(Gpa::new(LARGE), LARGE, &mut gather).unwrap();
    }
    gather.finish(&&tables).unwrap();
    tree.destroy(Gather::new(&quiet, ())).map_err(|(_, error)| error).unwrap();
}

/// A table of large pages in a row is one of the next size, and none of a smaller.
#[test]
fn large_pages_become_larger() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format(), arena.memory(), &tables).unwrap();
    map(&mut tree, 1 << 30, 1 << 30, Leaves::Exactly(21));
    let quiet = listening(&arena, &tree, 0);
    let mut gather = Gather::new(&quiet, ());
    assert_eq!(tree.promote(Gpa::new((1 << 30) + LARGE), LARGE, &mut gather), Ok(0));
    assert_eq!(tree.promote(Gpa::new((1 << 30) + LARGE), (1 << 30) - LARGE, &mut gather), Ok(0));
    assert_eq!(tree.promote(Gpa::new(LARGE), 2 << 30, &mut gather), Ok(1));
    assert_eq!(sizes(&tree, 0, 4 << 30), [30]);
    gather.finish(&&tables).unwrap();
    tree.destroy(Gather::new(&quiet, ())).map_err(|(_, error)| error).unwrap();
}
