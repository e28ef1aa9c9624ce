//! What is interrupted: cursors that are forgotten, and panics of the embedder's code (callbacks,
//! invalidations) in the middle of verbs. What was stale is invalidated, no count lies, no table is
//! freed that has entries, and none is lost.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/guest.rs"]
mod guest;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::AtomicU64;

use guest::{LARGE, PAGE, Tree, books, tree, with};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Attributes, Gpa, Gva, Leaves, Memory, Prot, Stage1};

/// A TLB that holds pages until they are invalidated, and panics when it is told to.
#[derive(Default)]
struct Tlb {
    pages: RefCell<BTreeSet<u64>>,
    /// So many invalidations from now one panics, if not 0.
    panics: Cell<usize>,
    abandoned: Cell<usize>,
}

impl Tlb {
    fn holding(pages: &[u64]) -> Self {
        Self { pages: RefCell::new(pages.iter().copied().collect()), ..Self::default() }
    }
}

impl Invalidate<Stage1> for Tlb {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        let left = self.panics.get();
        self.panics.set(left.saturating_sub(1));
        assert_ne!(left, 1, "as it was told to");
        let hit = |&page: &u64| {
            stale.everything()
                || stale.ranges().iter().any(|it| (it.start.get()..=it.last.get()).contains(&page))
        };
        self.pages.borrow_mut().retain(|page| !hit(page));
        Ok(())
    }

    fn abandoned(&self, (): (), tables: usize, _: Result<(), InvalidateFailed>) {
        self.abandoned.set(self.abandoned.get() + tables);
    }
}

fn map(tree: &mut Tree<'_, '_>, at: u64, bytes: u64) {
    let leaves = Leaves::Largest;
    tree.map(Gva::new(at), Gpa::new(at + (1 << 30)), bytes, Prot::RW.into(), leaves).unwrap();
}

/// What is mapped, page by page.
fn mapped(tree: &Tree<'_, '_>) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let _ = tree
        .walker()
        .for_each(Gva::new(0), 1 << 40, |leaf| {
            pages.extend((0..leaf.bytes).step_by(PAGE as usize).map(|at| leaf.input.get() + at));
            std::ops::ControlFlow::<()>::Continue(())
        })
        .unwrap();
    pages
}

fn panics(what: impl FnOnce()) {
    assert!(catch_unwind(AssertUnwindSafe(what)).is_err(), "nothing panicked");
}

/// Unmaps all, page by page and then the rest; every table but the root goes, by right counts.
fn empties(mut tree: Tree<'_, '_>) {
    let mut gather = Gather::new(&Unused, ());
    let pages = mapped(&tree);
    for &page in &pages {
        assert_eq!(tree.unmap(Gva::new(page), PAGE, &mut gather), Ok(PAGE));
    }
    assert_eq!(tree.unmap(Gva::new(0), 1 << 40, &mut gather), Ok(0));
    gather.finish(&tree.tables()).unwrap();
    let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
    assert_eq!((done.tables, done.refused, done.unread), (1, 0, 0), "a table stayed in the tree");
}

#[test]
fn case_a15_a_cursor_that_is_forgotten() {
    // Maps some pages and unmaps others, and is forgotten: then pages are unmapped, or whole tables
    // go, or the tree is destroyed.
    for then in 0..4 {
        with(|memory, frames, cache| {
            let mut tree = tree(memory, cache, &[0, PAGE, LARGE]);
            let tlb = Tlb::holding(&[0, PAGE, LARGE]);
            let mut gather = Gather::new(&tlb, ());
            let mut cursor = tree.cursor(&mut gather);
            assert_eq!(cursor.unmap(Gva::new(0)), Ok(true));
            for page in 2..5 {
                cursor.map(Gva::new(page * PAGE), Gpa::new(0), Prot::RW.into()).unwrap();
            }
            std::mem::forget(cursor);
            if then == 3 {
                drop(gather);
            } else {
                gather.finish(&cache).unwrap();
            }
            assert!(tlb.pages.borrow().is_empty(), "{:x?} stay translated", tlb.pages.borrow());
            let mut gather = Gather::new(&tlb, ());
            match then {
                // The count that was kept said one.
                0 => assert_eq!(tree.unmap(Gva::new(PAGE), PAGE, &mut gather), Ok(PAGE)),
                1 => assert_eq!(tree.unmap(Gva::new(0), LARGE, &mut gather), Ok(4 * PAGE)),
                _ => {}
            }
            gather.finish(&cache).unwrap();
            if then == 2 {
                let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
                assert_eq!(done.tables, 5);
            } else {
                empties(tree);
            }
            books(frames, cache, 0);
        });
    }
}

/// What a forgotten cursor never told stays stale, whoever uses the gather afterwards.
#[test]
fn case_a15_a_gather_of_a_forgotten_cursor_is_used_again() {
    for then in 0..3 {
        with(|memory, frames, cache| {
            let mut tree = tree(memory, cache, &[0, PAGE, LARGE, LARGE + PAGE, 2 * LARGE]);
            let tlb = Tlb::holding(&[0, LARGE, 2 * LARGE]);
            let mut gather = Gather::new(&tlb, ());
            let mut cursor = tree.cursor(&mut gather);
            assert_eq!(cursor.unmap(Gva::new(0)), Ok(true));
            std::mem::forget(cursor);
            match then {
                0 => {
                    let mut cursor = tree.cursor(&mut gather);
                    assert_eq!(cursor.unmap(Gva::new(LARGE)), Ok(true));
                }
                1 => assert_eq!(tree.unmap(Gva::new(LARGE), LARGE, &mut gather), Ok(2 * PAGE)),
                _ => assert_eq!(tree.unmap(Gva::new(LARGE), PAGE, &mut gather), Ok(PAGE)),
            }
            gather.finish(&cache).unwrap();
            let held = tlb.pages.borrow();
            assert!(held.iter().all(|&page| page == 2 * LARGE), "{held:x?} stay translated");
            drop(held);
            empties(tree);
            books(frames, cache, 0);
        });
    }
}

/// A cursor that only asks, or that is dropped, leaves the counts as they are.
#[test]
fn case_a15_a_cursor_that_is_dropped() {
    with(|memory, frames, cache| {
        let mut tree = tree(memory, cache, &[0, PAGE]);
        let tlb = Tlb::default();
        let mut gather = Gather::new(&tlb, ());
        assert!(tree.cursor(&mut gather).query(Gva::new(0)).unwrap().is_some());
        assert!(gather.stale().is_empty());
        let mut cursor = tree.cursor(&mut gather);
        cursor.unmap(Gva::new(0)).unwrap();
        drop(cursor);
        assert!(!gather.stale().everything());
        gather.finish(&cache).unwrap();
        empties(tree);
        books(frames, cache, 0);
    });
}

/// A callback that panics at each leaf in turn.
#[test]
fn case_a15_a_callback_that_panics() {
    type Verb = fn(&mut Tree<'_, '_>, &mut Gather<'_, Stage1, Tlb>, &mut dyn FnMut());
    let verbs: [(&str, Verb); 3] = [
        ("unmap_with", |tree, gather, each| {
            {
                let _ = tree.unmap_with(Gva::new(0), 2 * LARGE, |_| each(), gather);
            };
        }),
        ("modify", |tree, gather, each| {
            let edit = |leaf: pgtable::walk::LeafOf<pgtable_x86::LongMode>| {
                each();
                leaf.attributes.with_prot(Prot::R)
            };
            {
                let _ = tree.modify(Gva::new(0), 2 * LARGE, edit, gather);
            };
        }),
        ("modify what is broken first", |tree, gather, each| {
            let edit = |leaf: pgtable::walk::LeafOf<pgtable_x86::LongMode>| {
                each();
                leaf.attributes.with_memory(Memory::Device)
            };
            {
                let _ = tree.modify(Gva::new(0), 2 * LARGE, edit, gather);
            };
        }),
    ];
    let pages = [0, PAGE, 2 * PAGE, LARGE, LARGE + PAGE];
    for (name, verb) in verbs {
        for at in 0..pages.len() {
            with(|memory, frames, cache| {
                let mut tree = tree(memory, cache, &pages);
                let tlb = Tlb::holding(&pages);
                let mut gather = Gather::new(&tlb, ());
                let before = mapped(&tree);
                let mut left = at;
                panics(|| {
                    verb(&mut tree, &mut gather, &mut || {
                        assert_ne!(left, 0, "as it was told to");
                        left -= 1;
                    });
                });
                gather.finish(&cache).unwrap();
                let after = mapped(&tree);
                let stale = tlb.pages.borrow().difference(&after).count();
                assert_eq!(stale, 0, "{name} {at}: a page that is unmapped stays translated");
                if name != "unmap_with" {
                    assert_eq!(after, before, "{name} {at}");
                    for page in pages.iter().take(at) {
                        assert!(!tlb.pages.borrow().contains(page), "{name} {at}: {page:#x}");
                    }
                }
                empties(tree);
                books(frames, cache, 0);
            });
        }
    }
}

/// An invalidation that panics in the middle of a verb: what is mapped stays so, or is unmapped and
/// told; nothing is invalidated again while the panic goes on.
#[test]
fn case_a15_an_invalidation_that_panics() {
    type Verb = fn(&mut Tree<'_, '_>, &mut Gather<'_, Stage1, Tlb>);
    let verbs: [(&str, Verb); 5] = [
        ("split", |tree, gather| {
            let _ = tree.split(Gva::new(2 * LARGE), LARGE, 12, gather);
        }),
        ("promote", |tree, gather| {
            let _ = tree.promote(Gva::new(0), LARGE, gather);
        }),
        ("unmap a part", |tree, gather| {
            let _ = tree.unmap(Gva::new(2 * LARGE), PAGE, gather);
        }),
        ("relocate", |tree, gather| {
            gather.pages(Gva::new(0), Gva::new(0), 12);
            {
                let _ = tree.relocate(|_, _| true, gather);
            };
        }),
        ("relocate, later", |tree, gather| {
            let _ = tree.relocate(|_, _| true, gather);
        }),
    ];
    for (name, verb) in verbs {
        with(|memory, frames, cache| {
            let mut tree = tree(memory, cache, &[]);
            map(&mut tree, 0, LARGE);
            for page in 0..512 {
                let at = Gva::new(page * PAGE);
                tree.unmap(at, PAGE, &mut Gather::new(&Tlb::default(), ())).unwrap();
                tree.map(
                    at,
                    Gpa::new((1 << 30) + page * PAGE),
                    PAGE,
                    Prot::RW.into(),
                    Leaves::AtMost(12),
                )
                .unwrap();
            }
            map(&mut tree, 2 * LARGE, LARGE);
            let before = mapped(&tree);
            let tlb = Tlb::holding(&before.iter().copied().collect::<Vec<_>>());
            let mut gather = Gather::new(&tlb, ());
            tlb.panics.set(1);
            panics(|| verb(&mut tree, &mut gather));
            assert_eq!(mapped(&tree), before, "{name}");
            gather.finish(&cache).unwrap();
            assert_eq!(tlb.abandoned.get(), 0);
            empties(tree);
            books(frames, cache, 0);
        });
    }
}

/// A gather that unwinds through the panic of its own invalidation says so, and does not invalidate
/// again.
#[test]
fn case_a15_a_gather_that_panics() {
    with(|memory, frames, cache| {
        let mut tree = tree(memory, cache, &[0]);
        let tlb = Tlb::holding(&[0]);
        tlb.panics.set(1);
        panics(|| {
            let mut gather = Gather::new(&tlb, ());
            tree.unmap(Gva::new(0), PAGE, &mut gather).unwrap();
            let _ = gather.finish(&cache);
        });
        assert_eq!(tlb.abandoned.get(), 3, "the tables that were lost");
        assert!(!tlb.pages.borrow().is_empty());
        let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        assert_eq!(done.tables, 1);
        books(frames, cache, 3);
    });
}

/// Callbacks of verbs that move and make tables.
#[test]
fn case_a15_which_and_mappings_that_panic() {
    for at in 0..6 {
        with(|memory, frames, cache| {
            let mut tree = tree(memory, cache, &[0, LARGE, 1 << 30]);
            let tlb = Tlb::default();
            let mut gather = Gather::new(&tlb, ());
            let mut left = at;
            panics(|| {
                let _ = tree.relocate(
                    |_, _| {
                        assert_ne!(left, 0, "as it was told to");
                        left -= 1;
                        true
                    },
                    &mut gather,
                );
            });
            let done = gather.finish(&cache).unwrap();
            assert_eq!(done.tables, at, "those that were moved left");
            empties(tree);
            books(frames, cache, 0);
        });
        with(|memory, frames, cache| {
            let mut some = tree(memory, cache, &[0, LARGE, 1 << 30]);
            let leaves: Vec<_> =
                some.walker().iter(Gva::new(0), 1 << 40).unwrap().map(Result::unwrap).collect();
            let live = frames.census().live;
            panics(|| {
                let leaves = (0..).map(|index| {
                    assert!(index < at.min(3), "as it was told to");
                    leaves[index]
                });
                drop(PageTable::rebuild(guest::format(), memory, cache, leaves));
            });
            assert_eq!(frames.census().live, live);
            let mut gather = Gather::new(&Unused, ());
            some.unmap(Gva::new(0), 1 << 40, &mut gather).unwrap();
            gather.finish(&cache).unwrap();
            some.destroy(gather).map_err(|(_, error)| error).unwrap();
            books(frames, cache, 0);
        });
    }
}

/// Memory that refuses a table stays silent no more: the tables below it are lost, and it says so.
#[test]
fn case_b1_a_tree_that_cannot_be_read_is_destroyed() {
    struct Refusing<'m>(DirectMap<'m, Gpa>, Cell<u64>);
    impl ReadMemory<Gpa> for Refusing<'_> {
        pgtable::words_in_place!(Gpa);
    }
    impl TableMemory<Gpa> for Refusing<'_> {
        fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
            self.table(address, 1).map(|words| &words[0])
        }

        fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
            if address.get() >> 12 == self.1.get() >> 12 {
                return Err(MemoryError::outside(address, words));
            }
            self.0.table(address, words)
        }

        fn wrote(&self, _: Gpa, _: usize) {}
    }
    for level in 0..4 {
        with(|memory, frames, cache| {
            let refusing = Refusing(memory, Cell::new(0));
            let mut tree = PageTable::new(guest::format(), &refusing, cache).unwrap();
            tree.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
            let refused = tree.walker().trace(Gva::new(0)).get(level).unwrap().address;
            refusing.1.set(refused.get());
            let done = tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
            // The table itself is freed, and so are those above it.
            let below = 3 - level;
            assert_eq!((done.tables, done.unread), (4 - below, usize::from(below > 0)));
            books(frames, cache, below as u32);
        });
    }
}
