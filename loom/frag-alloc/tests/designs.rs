//! The bug that this crate exists for, and the designs that were weighed against it.
//!
//! Linux packed powerpc page tables into pages and counted the tables of a page in the page's own
//! reference count. Anybody may take a reference to any page for a moment (`get_page_unless_zero`),
//! look whether it is the page he wanted, and drop it again. Four designs of the count, the same
//! players: an owner who fills the page's cache and frees all its tables, and a passer-by.
//!
//! | | the count of tables is | what the models find |
//! | --- | --- | --- |
//! | (a) | stored over the reference count | page released while a table lives, then underflow |
//! | (b) | added to the reference count | the passer-by may drop the last one: no destructor |
//! | (c) | added to the upper half of the reference count | right, as long as nobody overflows the lower half |
//! | (d) | a word of its own | right |

mod model;

use std::collections::BTreeSet;
use std::sync::{Arc as StdArc, Mutex};

use frag_alloc::Policy;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::thread;
use model::{TABLE, check};
use pgtable::allocator::Contents;

/// Tables per page.
const TABLES: u32 = 2;

/// What an interleaving ended in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Fault {
    /// The page was given away while a table in it was alive.
    ReleasedWhileLive,
    /// A reference was dropped that did not exist.
    Underflow,
    /// All tables are freed, nobody holds the page, and it was never given away.
    Leaked,
    /// The page was given away and its destructor had not run.
    NoDestructor,
}

/// A page of which only the book-keeping exists.
#[derive(Debug)]
struct Page {
    refs: AtomicU32,
    live: AtomicU32,
    destructed: AtomicU32,
    faults: StdArc<Mutex<BTreeSet<Fault>>>,
}

impl Page {
    /// Just allocated: one reference, and a constructor that has run.
    fn new(faults: &StdArc<Mutex<BTreeSet<Fault>>>) -> Arc<Self> {
        Arc::new(Self {
            refs: AtomicU32::new(1),
            live: AtomicU32::new(TABLES),
            destructed: AtomicU32::new(0),
            faults: faults.clone(),
        })
    }

    fn fault(&self, fault: Fault) {
        self.faults.lock().unwrap().insert(fault);
    }

    fn destruct(&self) {
        self.destructed.fetch_add(1, Ordering::AcqRel);
    }

    /// The page goes back to the page allocator.
    fn release(&self) {
        if self.live.load(Ordering::Acquire) > 0 {
            self.fault(Fault::ReleasedWhileLive);
        }
        if self.destructed.load(Ordering::Acquire) != 1 {
            self.fault(Fault::NoDestructor);
        }
    }

    fn get_unless_zero(&self, one: u32) -> bool {
        let more = |refs: u32| (refs != 0).then(|| refs.wrapping_add(one));
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// Drops a reference; true if it was the last.
    fn put_testzero(&self) -> bool {
        let before = self.refs.fetch_sub(1, Ordering::AcqRel);
        if before == 0 {
            self.fault(Fault::Underflow);
        }
        before == 1
    }

    /// What anybody does who held a page for a moment: the page is his to release if he was the
    /// last. He knows nothing about page tables.
    fn put_page(&self) {
        if self.put_testzero() {
            self.release();
        }
    }
}

/// All faults that any interleaving of an owner and a passer-by ends in.
fn explore(owner: fn(&Page), passer_by: fn(&Page)) -> BTreeSet<Fault> {
    let faults = StdArc::new(Mutex::new(BTreeSet::new()));
    let seen = faults.clone();
    loom::model(move || {
        let page = Page::new(&faults);
        let same = page.clone();
        let by = thread::spawn(move || passer_by(&same));
        owner(&page);
        by.join().unwrap();
        if page.refs.load(Ordering::Acquire) != 0 {
            page.fault(Fault::Leaked);
        }
    });
    let seen = seen.lock().unwrap();
    seen.clone()
}

/// Takes a reference, sees that this is not the page it wanted, drops it.
fn speculate(page: &Page) {
    if page.get_unless_zero(1) {
        page.put_page();
    }
}

/// Frees all tables as (a) and (b) do: each table is a reference.
fn free_all_as_references(page: &Page) {
    for _ in 0..TABLES {
        page.live.fetch_sub(1, Ordering::AcqRel);
        if page.put_testzero() {
            page.destruct();
            page.release();
        }
    }
}

#[test]
fn a_stored_over_the_reference_count_underflows() {
    let faults = explore(
        |page| {
            // set_page_count(page, TABLES): a passer-by's reference, taken just before, is gone.
            page.refs.store(TABLES, Ordering::Release);
            free_all_as_references(page);
        },
        speculate,
    );
    assert!(faults.contains(&Fault::ReleasedWhileLive), "{faults:?}");
    assert!(faults.contains(&Fault::Underflow), "{faults:?}");
}

#[test]
fn b_added_to_the_reference_count_misses_the_destructor() {
    let faults = explore(
        |page| {
            page.refs.fetch_add(TABLES - 1, Ordering::AcqRel);
            free_all_as_references(page);
        },
        speculate,
    );
    // Nothing is lost any more; but if the passer-by drops the last reference, nobody destructs.
    assert_eq!(faults.into_iter().collect::<Vec<_>>(), [Fault::NoDestructor]);
}

/// (c) with the tables counted from bit `BITS` on. Linux would have had 16 bits below.
fn in_the_upper_bits<const BITS: u32>(page: &Page) {
    page.refs.fetch_add(TABLES << BITS, Ordering::AcqRel);
    for _ in 0..TABLES {
        page.live.fetch_sub(1, Ordering::AcqRel);
        let before = page.refs.fetch_sub(1 << BITS, Ordering::AcqRel);
        if before >> BITS == 1 {
            page.destruct();
            page.put_page();
        }
    }
}

#[test]
fn c_in_the_upper_half_of_the_reference_count_holds() {
    assert_eq!(explore(in_the_upper_bits::<16>, speculate), BTreeSet::new());
}

/// What (c) costs: the lower half is only as wide as it is, every user of reference counts in the
/// kernel would have to know, and the word that tables contend for is the word that passers-by
/// contend for. Here with two bits, where three passers-by are enough; a stack of 2^16 references
/// (pinned pages of one huge buffer) does the same to 16.
#[test]
fn c_and_breaks_when_the_lower_half_overflows() {
    let faults = explore(in_the_upper_bits::<2>, |page| {
        let held = (0..3).filter(|_| page.get_unless_zero(1)).count();
        for _ in 0..held {
            page.put_page();
        }
    });
    // Three references read as one more table: the last table is not taken for the last.
    assert!(faults.contains(&Fault::Leaked), "{faults:?}");
}

/// (d), and this is not a model of the code but the code: a cache, its frame table, and a passer-by
/// who may be last.
#[test]
fn d_a_counter_of_its_own_holds() {
    check(|| {
        let (frames, counts) = model::frames(1);
        let cache = model::cache(&frames, Policy::Linux);
        let first = cache.take(TABLE).unwrap();
        let same = frames.clone();
        let by = thread::spawn(move || {
            if let Some(frame) = same.try_get(first).unwrap() {
                let _ = frame.table_frame();
            }
        });
        let second = cache.take(TABLE).unwrap();
        cache.give(first, TABLE, Contents::Zeroed).unwrap();
        cache.give(second, TABLE, Contents::Zeroed).unwrap();
        by.join().unwrap();
        model::assert_all_home(&frames, &counts, 1);
    });
}
