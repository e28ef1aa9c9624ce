//! A guest that writes anything into its tables, between any verbs of its hypervisor.

use std::cell::Cell;
use std::collections::BTreeSet;

use frag_alloc::{Cache, Kind, Owner, Policy};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Gpa, Gva, Leaves, Prot};
use proptest::prelude::*;

use crate::guest_written::{
    Counted, FRAMES, LARGE, PAGE, START, books, format, load, store, tree, way, with,
};

/// What a guest and its hypervisor do, in turn.
#[derive(Clone, Debug)]
enum Op {
    /// The guest makes an entry of a table of its own lead to any table.
    Link {
        from: usize,
        entry: u64,
        to: u64,
    },
    /// The guest writes an entry.
    Word {
        from: usize,
        entry: u64,
        word: u64,
    },
    Map {
        at: u64,
        pages: u64,
    },
    Unmap {
        at: u64,
        bytes: u64,
    },
    Protect {
        at: u64,
        bytes: u64,
    },
    Split {
        at: u64,
        bytes: u64,
    },
    Promote {
        at: u64,
        bytes: u64,
    },
    Harvest {
        at: u64,
        pages: u64,
    },
    Relocate {
        which: u64,
        root: bool,
    },
    Trim,
    Finish,
}

fn op() -> impl Strategy<Value = Op> {
    let entry = || prop_oneof![3 => 0..3u64, 1 => 0..512u64];
    let at = || {
        (0..3u64, 0..3u64, 0..3u64, 0..3u64)
            .prop_map(|(a, b, c, d)| a << 39 | b << 30 | c << 21 | d << 12)
    };
    let bytes =
        || prop_oneof![Just(PAGE), Just(LARGE), Just(1u64 << 30), Just(1 << 39), Just(1 << 47)];
    prop_oneof![
        6 => (0..64usize, entry(), 0..u64::from(FRAMES) * 16)
            .prop_map(|(from, entry, to)| Op::Link { from, entry, to }),
        2 => (0..64usize, entry(), any::<u64>())
            .prop_map(|(from, entry, word)| Op::Word { from, entry, word: word & 0x0fff_ffff }),
        4 => (at(), 1..4u64).prop_map(|(at, pages)| Op::Map { at, pages }),
        3 => (at(), bytes()).prop_map(|(at, bytes)| Op::Unmap { at, bytes }),
        1 => (at(), bytes()).prop_map(|(at, bytes)| Op::Protect { at, bytes }),
        1 => (at(), bytes()).prop_map(|(at, bytes)| Op::Split { at, bytes }),
        1 => (at(), bytes()).prop_map(|(at, bytes)| Op::Promote { at, bytes }),
        1 => (at(), 1..512u64).prop_map(|(at, pages)| Op::Harvest { at, pages }),
        1 => (0..3u64, any::<bool>()).prop_map(|(which, root)| Op::Relocate { which, root }),
        1 => Just(Op::Trim),
        2 => Just(Op::Finish),
    ]
}

/// Whatever the guest writes: verbs end, after so much work; another owner's tables are as they
/// were; and at the end each table is live or can be had, once.
fn whatever(ops: &[Op]) {
    with(|memory, frames, cache| {
        let theirs = Cache::new(frames, Owner(2), Kind::User, Policy::Reuse);
        let other = tree(memory, &theirs, &[PAGE, LARGE]);
        let foreign: BTreeSet<u64> =
            [PAGE, LARGE].iter().flat_map(|&at| way(&other, at)).map(pgtable::Gpa::get).collect();
        let say = || -> Vec<u64> {
            let words = foreign.iter().flat_map(|&table| (0..512).map(move |index| (table, index)));
            words.map(|(table, index)| load(&memory, Gpa::new(table), index)).collect()
        };
        let before = say();
        let own: Vec<u64> = (0..u64::from(FRAMES) * 16)
            .map(|table| START + (table << 12))
            .filter(|table| !foreign.contains(table))
            .collect();
        let counted = Counted { memory, words: Cell::new(0) };
        let mut tree = PageTable::new(format(), &counted, cache).unwrap();
        tree.keep_last_empty(true);
        let mut gather = Gather::new(&Unused, ());
        for op in ops {
            counted.words.set(0);
            // What it says of a tree that is not what it was is not the point.
            match *op {
                Op::Link { from, entry, to } => {
                    let (from, to) = (own[from % own.len()], START + (to << 12));
                    store(&memory, Gpa::new(from), entry, to | 7);
                }
                Op::Word { from, entry, word } => {
                    store(&memory, Gpa::new(own[from % own.len()]), entry, word);
                }
                Op::Map { at, pages } => {
                    let (rw, to) = (Prot::RW.into(), Gpa::new(1 << 40));
                    let _ = tree.map(Gva::new(at), to, pages << 12, rw, Leaves::Largest);
                }
                Op::Unmap { at, bytes } => {
                    let _ = tree.unmap(Gva::new(at & !(bytes - 1)), bytes, &mut gather);
                }
                Op::Protect { at, bytes } => {
                    let at = Gva::new(at & !(bytes - 1));
                    let _ = tree.protect(at, bytes, Prot::R, &mut gather);
                }
                Op::Split { at, bytes } => {
                    let _ = tree.split(Gva::new(at & !(bytes - 1)), bytes, 12, &mut gather);
                }
                Op::Promote { at, bytes } => {
                    let _ = tree.promote(Gva::new(at & !(bytes - 1)), bytes, &mut gather);
                }
                Op::Harvest { at, pages } => {
                    let (recorded, running) = (Recorded::Dirty, Writers::Running);
                    let bits = &mut [0; 8];
                    let _ = tree.harvest(
                        Gva::new(at),
                        pages << 12,
                        recorded,
                        running,
                        bits,
                        &mut gather,
                    );
                }
                Op::Relocate { which, root } => {
                    let mut asked = 0;
                    let chosen = |table: Gpa, _| {
                        asked += 1;
                        which == 0 || table.get() >> 12 & which != 0
                    };
                    let _ = tree.relocate(chosen, &mut gather);
                    assert!(asked <= 2 * 64, "asked {asked} times");
                    if root {
                        let _ = tree.relocate_root(|_| (), &mut gather);
                    }
                }
                Op::Trim => drop(tree.trim(&mut gather)),
                Op::Finish => drop(gather.finish(&cache).unwrap()),
            }
            // All tables there are, as often as a verb may come to each, and what it does there.
            let most = 2 * 4 * (64 * 512) * 4;
            assert!(counted.words.get() <= most, "{op:?}: {} words", counted.words.get());
        }
        gather.finish(&cache).unwrap();
        let done = tree.destroy(gather).map_err(|(_, error)| error).unwrap();
        assert_eq!(done.refused, 0);
        assert!(before == say(), "another owner's tables were written");
        other.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        assert!(theirs.close().is_ok());
        books(frames, cache, frames.census().live);
    });
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(128))]
    #[test]
    fn case_a1_whatever_a_guest_writes(ops in proptest::collection::vec(op(), 1..60)) {
        whatever(&ops);
    }
}
