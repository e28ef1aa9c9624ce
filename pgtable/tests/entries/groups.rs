//! Groups: several entries that are one leaf (RISC-V's Svnapot, AArch64's contiguous hint). Made,
//! read, changed in part and as a whole, and met half-written in tables that a guest wrote.

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use pgtable::format::{Entry, Format};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::{LeafOf, Walker};
use pgtable::{Access, Attributes, Error, Gpa, Gva, Leaves, Memory, Prot, RangeError, Stage1};
use pgtable_conformance::lpa::{Lpa, LpaAttributes};
use pgtable_conformance::sv::{Sv, SvAttributes};

use crate::support::{Arena, Tables, ranges};

const NAPOT: Sv = Sv::SV48.with_napot();
const K4: u64 = 1 << 12;
const K64: u64 = 1 << 16;
const M2: u64 = 1 << 21;
const N: u64 = 1 << 63;
const CONTIGUOUS: u64 = 1 << 52;
const AF: u64 = 1 << 10;

type Tree<'t, F> = PageTable<F, DirectMap<'t, Gpa>, &'t Tables<'t>>;

fn tree<'t, F: Format<Stage = Stage1>>(
    format: F,
    arena: &'t Arena,
    tables: &'t Tables<'t>,
) -> Tree<'t, F> {
    PageTable::new(format, arena.memory(), tables).unwrap()
}

fn map<F: Format<Stage = Stage1>>(
    tree: &mut Tree<'_, F>,
    at: u64,
    to: u64,
    bytes: u64,
    leaves: Leaves,
) {
    tree.map(Gva::new(at), Gpa::new(to), bytes, Prot::RW.into(), leaves).unwrap();
}

/// The `count` entries from the one for `at` on.
fn words<F: Format<Stage = Stage1>>(
    arena: &Arena,
    tree: &Tree<'_, F>,
    at: u64,
    count: u64,
) -> Vec<u64> {
    let first = tree.walker().trace(Gva::new(at)).last().unwrap().address;
    (0..count)
        .map(|n| F::BYTE_ORDER.swap(arena.word(first.get() + n * 8).load(Ordering::Relaxed)))
        .collect()
}

/// Somebody else stores `word` into the entry for `at`.
fn write<F: Format<Stage = Stage1>>(arena: &Arena, tree: &Tree<'_, F>, at: u64, word: u64) {
    let entry = tree.walker().trace(Gva::new(at)).last().unwrap().address;
    arena.word(entry.get()).store(F::BYTE_ORDER.swap(word), Ordering::Relaxed);
}

/// (input, output, shift) of each leaf.
fn leaves<F: Format<Stage = Stage1>>(
    tree: &Tree<'_, F>,
    at: u64,
    bytes: u64,
) -> Vec<(u64, u64, u8)> {
    let it = |leaf: LeafOf<F>| {
        assert_eq!(leaf.bytes, 1 << leaf.shift);
        (leaf.input.get(), leaf.output.get(), leaf.shift)
    };
    tree.walker().iter(Gva::new(at), bytes).unwrap().map(|leaf| it(leaf.unwrap())).collect()
}

fn output<F: Format<Stage = Stage1>>(tree: &Tree<'_, F>, at: u64) -> (u64, u8) {
    let found = tree.translate(Gva::new(at), Access::READ).unwrap();
    let queried = tree.walker().query(Gva::new(at)).unwrap().unwrap();
    assert_eq!((queried.output, queried.shift), (found.output, found.shift));
    (found.output.get(), found.shift)
}

/// One invalidation: its ranges, and whether an address was mapped meanwhile.
type Told = (Vec<(u64, u64, u8)>, bool);

/// Lists what it is told, and looks meanwhile whether an address is mapped.
struct Listening<'m, F: Format> {
    walker: Walker<F, DirectMap<'m, Gpa>>,
    at: Gva,
    told: RefCell<Vec<Told>>,
    fails: bool,
}

impl<F: Format<Stage = Stage1>> Invalidate<Stage1> for Listening<'_, F> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        let mapped = self.walker.query(self.at).unwrap().is_some();
        self.told.borrow_mut().push((ranges(stale), mapped));
        if self.fails { Err(InvalidateFailed) } else { Ok(()) }
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
        assert!(self.fails, "a gather was dropped");
    }
}

fn listening<'m, F: Format<Stage = Stage1>>(
    arena: &'m Arena,
    tree: &Tree<'_, F>,
    at: u64,
) -> Listening<'m, F> {
    let walker = Walker::new(*tree.format(), arena.memory(), tree.root());
    Listening { walker, at: Gva::new(at), told: RefCell::default(), fails: false }
}

/// Svnapot (Privileged ISA, "Svnapot"): 16 equal words, whose address has 0b1000 in its low bits.
#[test]
fn napot_words() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    map(&mut tree, 0, 0x70_0000, 3 * K64, Leaves::Largest);
    // V, R, W, A and D; the page number 0x700 with 8 in its place for the size.
    let word = |page: u64| N | (page | 8) << 10 | 0xc7;
    let want: Vec<_> =
        [0x700, 0x710, 0x720].into_iter().flat_map(|page| [word(page); 16]).collect();
    assert_eq!(words(&arena, &tree, 0, 48), want);
    for (at, to) in [(0, 0x70_0000), (0x5678, 0x70_5678), (0x1_ffff, 0x71_ffff)] {
        assert_eq!(output(&tree, at), (to, 16), "{at:#x}");
    }
    assert_eq!(leaves(&tree, 0, 1 << 40).len(), 3);
    // A range that begins and ends within groups sees them whole, as it sees other large leaves.
    let seen = [(0, 0x70_0000, 16), (K64, 0x71_0000, 16)];
    assert_eq!(leaves(&tree, 5 * K4, K64), seen);
    // A page of the group for which the size bits say something else.
    for odd in [0, 4, 9, 15] {
        write(&arena, &tree, 5 * K4, N | (0x700 | odd) << 10 | 0xc7);
        let fault = tree.translate(Gva::new(5 * K4), Access::READ).unwrap_err();
        assert_eq!(fault.cause, pgtable::Cause::Malformed, "{odd}");
    }
    // A hart without Svnapot.
    let plain = Walker::new(Sv::SV48, arena.memory::<Gpa>(), tree.root());
    let fault = plain.translate(Gva::new(0), Access::READ).unwrap_err();
    assert_eq!(fault.cause, pgtable::Cause::Malformed);
}

/// The contiguous hint (Arm ARM D8.7): 32 entries with 64-KiB pages, each with its own address.
#[test]
fn contiguous_words() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
    map(&mut tree, 0, 4 * M2, 2 * M2, Leaves::Largest);
    let all = words(&arena, &tree, 0, 64);
    for (n, &word) in (0..).zip(&all) {
        assert_eq!(word, all[0] + n * K64);
        assert_eq!(
            (word & CONTIGUOUS, word & (0xffff << 32 | 0xffff << 16)),
            (CONTIGUOUS, 4 * M2 + n * K64)
        );
    }
    assert_eq!(output(&tree, M2 + 5 * K64 + 7), (5 * M2 + 5 * K64 + 7, 21));
    assert_eq!(leaves(&tree, 0, 1 << 40), [(0, 4 * M2, 21), (M2, 5 * M2, 21)]);
    // 32 blocks of 512 MiB.
    let (at, to) = (1u64 << 40, 1u64 << 44);
    map(&mut tree, at, to, 1 << 34, Leaves::Largest);
    assert_eq!(leaves(&tree, at, 1 << 34), [(at, to, 34)]);
    assert_eq!(output(&tree, at + 0x3_4567_89ab), (to + 0x3_4567_89ab, 34));
}

/// `map` uses groups where alignment allows, ordinary leaves before and after, and says exactly
/// where something is in the way.
#[test]
fn map_chooses_groups() {
    let shifts = |leaves: &[(u64, u64, u8)]| leaves.iter().map(|it| it.2).collect::<Vec<_>>();
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    // From the 13th page of a group to the third of another: 3 + 16 + 16 + 3.
    map(&mut tree, 13 * K4, 0x100_0000 + 13 * K4, 38 * K4, Leaves::Largest);
    let want = [vec![12; 3], vec![16; 2], vec![12; 3]].concat();
    assert_eq!(shifts(&leaves(&tree, 0, M2)), want);
    // Outputs that are not aligned alike.
    map(&mut tree, M2, 0x100_1000, K64, Leaves::Largest);
    assert_eq!(shifts(&leaves(&tree, M2, M2)), [12; 16]);
    for (at, leaves_of, want) in [
        (2 * M2, Leaves::AtMost(16), vec![16; 32]),
        (3 * M2, Leaves::AtMost(15), vec![12; 512]),
        (4 * M2, Leaves::Exactly(16), vec![16; 32]),
        (5 * M2, Leaves::Exactly(12), vec![12; 512]),
        (6 * M2, Leaves::Largest, vec![21]),
    ] {
        map(&mut tree, at, 8 * M2, M2, leaves_of);
        assert_eq!(shifts(&leaves(&tree, at, M2)), want, "{leaves_of:?}");
    }
    // A page stands in the second group: ordinary leaves up to it, and not of the size that only
    // a group has.
    let at = 8 * M2;
    map(&mut tree, at + K64 + 3 * K4, 0, K4, Leaves::Largest);
    let mut over = |leaves| {
        tree.map(Gva::new(at), Gpa::new(0x200_0000), 2 * K64, Prot::RW.into(), leaves).unwrap_err()
    };
    let mapped = |at, shift| RangeError {
        at: Gva::new(at),
        error: Error::Mapped { at: pgtable::Position { level: pgtable::Level(0), shift } },
    };
    assert_eq!(over(Leaves::Exactly(16)), mapped(at + K64, 16));
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gva::new(at), K64, &mut gather), Ok(K64));
    let over = tree
        .map(Gva::new(at), Gpa::new(0x200_0000), 2 * K64, Prot::RW.into(), Leaves::Largest)
        .unwrap_err();
    assert_eq!(over, mapped(at + K64 + 3 * K4, 12));
    assert_eq!(shifts(&leaves(&tree, at, M2)), [vec![16], vec![12; 4]].concat());
    // Groups of 64 KiB are no size of the plain format.
    let mut plain = PageTable::new(Sv::SV48, arena.memory::<Gpa>(), &tables).unwrap();
    let refused = plain.map(Gva::new(0), Gpa::new(0), K64, Prot::RW.into(), Leaves::Exactly(16));
    assert_eq!(refused.unwrap_err().error, Error::LeafSize);
}

/// A change of a part first makes the group ordinary leaves, with nothing mapped while that is
/// invalidated; a change of the whole leaves it a group.
fn in_part<F: Format<Stage = Stage1>>(format: F, shift: u8, bit: u64) {
    let (page, entries) =
        (1u64 << format.geometry().page_shift(), 1u64 << (shift - format.geometry().page_shift()));
    let size = 1u64 << shift;
    let grouped = |words: &[u64]| words.iter().filter(|word| **word & bit != 0).count() as u64;
    type Change<F> =
        fn(&mut Tree<'_, F>, u64, u64, &mut Gather<'_, Stage1, Listening<'_, F>>) -> u64;
    let changes: [(&str, Change<F>, bool); 5] = [
        ("unmap", |tree, at, bytes, gather| tree.unmap(Gva::new(at), bytes, gather).unwrap(), true),
        (
            "unmap_with",
            |tree, at, bytes, gather| {
                let mut told = 0;
                let each = |leaf: LeafOf<F>| told += leaf.bytes;
                let done = tree.unmap_with(Gva::new(at), bytes, each, gather).unwrap();
                assert_eq!(told, done);
                done
            },
            true,
        ),
        (
            "protect",
            |tree, at, bytes, gather| tree.protect(Gva::new(at), bytes, Prot::R, gather).unwrap(),
            false,
        ),
        (
            "modify",
            |tree, at, bytes, gather| {
                let edit = |leaf: LeafOf<F>| leaf.attributes.with_memory(Memory::Device);
                tree.modify(Gva::new(at), bytes, edit, gather).unwrap()
            },
            false,
        ),
        (
            "set_attributes",
            |tree, at, bytes, gather| {
                tree.set_attributes(Gva::new(at), bytes, Prot::RX.into(), gather).unwrap()
            },
            false,
        ),
    ];
    for (name, change, unmaps) in changes {
        // The first page, the last, some in the middle, all but the first.
        for (first, pages) in [(0, 1), (entries - 1, 1), (3, 2), (1, entries - 1), (0, entries)] {
            let arena = Arena::new(4 << 20);
            let tables = Tables::new(&arena);
            let mut tree = tree(format, &arena, &tables);
            map(&mut tree, size, 8 * size, 2 * size, Leaves::Largest);
            assert_eq!(grouped(&words(&arena, &tree, size, 2 * entries)), 2 * entries);
            let (start, bytes) = (size + first * page, pages * page);
            let by = listening(&arena, &tree, size + (first + pages - 1) * page);
            let mut gather = Gather::new(&by, ());
            assert_eq!(
                change(&mut tree, start, bytes, &mut gather),
                bytes,
                "{name} {first} {pages}"
            );
            let case = format!("{name} of {pages} pages from {first} on");
            let whole = pages == entries;
            if !whole {
                let told = by.told.take();
                let out = (vec![(size, 2 * size - page, format.geometry().page_shift())], false);
                assert_eq!(told.first(), Some(&out), "{case}");
            }
            gather.finish(&&tables).unwrap();
            let after = words(&arena, &tree, size, 2 * entries);
            let left = if whole && !unmaps { 2 * entries } else { entries };
            assert_eq!(grouped(&after), left, "{case}");
            for n in 0..2 * entries {
                let at = Gva::new(size + n * page + 5);
                let found = tree.walker().query(at).unwrap();
                let changed = n >= first && n < first + pages;
                assert_eq!(found.is_none(), changed && unmaps, "{case}: page {n}");
                if let Some(found) = found {
                    assert_eq!(found.output.get(), 8 * size + n * page + 5, "{case}: page {n}");
                    let same = found.attributes == F::Attributes::from(Prot::RW);
                    assert_eq!(same, !changed, "{case}: page {n}");
                }
            }
            // The books are right: everything goes, and the tables with it.
            let mut gather = Gather::new(&Unused, ());
            let rest = if unmaps { 2 * size - bytes } else { 2 * size };
            assert_eq!(tree.unmap(Gva::new(0), 4 * size, &mut gather), Ok(rest), "{case}");
            gather.finish(&&tables).unwrap();
            assert_eq!(tables.live(), 1, "{case}");
        }
    }
}

#[test]
fn napot_in_part() {
    in_part(NAPOT, 16, N);
}

#[test]
fn contiguous_in_part() {
    in_part(Lpa::CONTIGUOUS, 21, CONTIGUOUS);
}

/// Rights may change in place, the memory type may not (Arm ARM D8.16): then the whole group is out
/// while it is invalidated.
#[test]
fn a_group_changes_as_a_whole() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
    map(&mut tree, 0, 4 * M2, 6 * M2, Leaves::Largest);
    let by = listening(&arena, &tree, 5 * M2);
    let mut gather = Gather::new(&by, ());
    assert_eq!(tree.protect(Gva::new(0), 6 * M2, Prot::R, &mut gather), Ok(6 * M2));
    assert_eq!(by.told.take(), []);
    gather.finish(&&tables).unwrap();
    assert_eq!(by.told.take(), [(vec![(0, 6 * M2 - K64, 16)], true)]);
    let edit = |leaf: LeafOf<Lpa>| {
        assert_eq!(leaf.bytes, M2, "asked once for each group");
        leaf.attributes.with_memory(Memory::Device)
    };
    assert_eq!(tree.modify(Gva::new(0), 6 * M2, edit, &mut gather), Ok(6 * M2));
    gather.finish(&&tables).unwrap();
    // Four groups at a time, the last two with the address that is looked at.
    let told = [(vec![(0, 4 * M2 - K64, 16)], true), (vec![(4 * M2, 6 * M2 - K64, 16)], false)];
    assert_eq!(by.told.take(), told);
    assert_eq!(leaves(&tree, 0, 6 * M2).len(), 6);
    assert!(words(&arena, &tree, 0, 192).iter().all(|word| word & CONTIGUOUS != 0));
}

/// If the invalidation fails, everything is as it was.
#[test]
fn a_group_that_cannot_be_invalidated_stays() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    map(&mut tree, 0, 0, K64, Leaves::Largest);
    let before = words(&arena, &tree, 0, 16);
    let by = Listening { fails: true, ..listening(&arena, &tree, 0) };
    let mut gather = Gather::new(&by, ());
    let refused = RangeError { at: Gva::new(K4), error: Error::Invalidate(InvalidateFailed) };
    assert_eq!(tree.unmap(Gva::new(K4), K4, &mut gather), Err(refused));
    assert_eq!(words(&arena, &tree, 0, 16), before);
    drop(gather);
    // Promotion too.
    map(&mut tree, M2, 0, K64, Leaves::Exactly(12));
    let mut gather = Gather::new(&by, ());
    assert!(tree.promote(Gva::new(M2), K64, &mut gather).is_err());
    assert_eq!(leaves(&tree, M2, M2).len(), 16);
}

/// What hardware records in one entry counts for all: it is harvested for every page of the group,
/// and stays with each page when the group is broken.
#[test]
fn records_of_any_entry_count_for_all() {
    const D: u64 = 1 << 7;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = NAPOT.with_hardware_updates();
    let mut tree = tree(format, &arena, &tables);
    map(&mut tree, 0, 0, 3 * K64, Leaves::Largest);
    let harvest = |tree: &mut Tree<'_, Sv>, at: u64, pages: u64, writers| {
        let (mut bitmap, mut gather) = ([0], Gather::new(&Unused, ()));
        tree.harvest(Gva::new(at), pages * K4, Recorded::Dirty, writers, &mut bitmap, &mut gather)
            .unwrap();
        bitmap[0]
    };
    let dirty = |tree: &Tree<'_, Sv>| {
        let words = words(&arena, tree, 0, 48);
        words.iter().filter(|word| **word & D != 0).count()
    };
    assert_eq!(harvest(&mut tree, 0, 48, Writers::Running), (1 << 48) - 1);
    for writers in [Writers::Running, Writers::Stopped] {
        assert_eq!((dirty(&tree), harvest(&mut tree, 0, 48, writers)), (0, 0));
        tree.walker().access(Gva::new(K64 + 5 * K4 + 8), Access::WRITE).unwrap();
        assert_eq!(dirty(&tree), 1);
        // A part of the group is told and not cleared.
        assert_eq!(harvest(&mut tree, K64 + 4 * K4, 4, writers), 0xf);
        assert_eq!(dirty(&tree), 1);
        assert_eq!(harvest(&mut tree, 0, 48, writers), 0xffff << 16);
    }
    // Iteration and unmap_with tell of it, and the parts of a broken group are all dirty.
    tree.walker().access(Gva::new(7 * K4), Access::WRITE).unwrap();
    let is_dirty = |leaf: LeafOf<Sv>| leaf.attributes == SvAttributes::from(Prot::RW);
    let told: Vec<_> = tree
        .walker()
        .iter(Gva::new(0), 3 * K64)
        .unwrap()
        .map(Result::unwrap)
        .map(is_dirty)
        .collect();
    assert_eq!(told, [true, false, false]);
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.split(Gva::new(0), 3 * K64, 12, &mut gather), Ok(3));
    assert_eq!(dirty(&tree), 16);
    assert_eq!(harvest(&mut tree, 0, 48, Writers::Running), 0xffff);
    tree.walker().access(Gva::new(9 * K4), Access::WRITE).unwrap();
    assert_eq!(tree.promote(Gva::new(0), 3 * K64, &mut gather), Ok(3));
    let mut told = Vec::new();
    tree.unmap_with(
        Gva::new(0),
        3 * K64,
        |leaf| told.push((leaf.shift, is_dirty(leaf))),
        &mut gather,
    )
    .unwrap();
    assert_eq!(told, [(16, true), (16, false), (16, false)]);
}

/// Promotion makes groups of what says one thing, and larger leaves of tables full of groups.
#[test]
fn promotion_makes_groups() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    let mut gather = Gather::new(&Unused, ());
    map(&mut tree, M2, 4 * M2, M2, Leaves::Exactly(12));
    tree.protect(Gva::new(M2 + 35 * K4), K4, Prot::R, &mut gather).unwrap();
    let by = listening(&arena, &tree, M2 + 3 * K4);
    let mut heard = Gather::new(&by, ());
    // A range that holds one whole group.
    assert_eq!(tree.promote(Gva::new(M2), K64 + K4, &mut heard), Ok(1));
    heard.finish(&&tables).unwrap();
    assert_eq!(by.told.take(), [(vec![(M2, M2 + 15 * K4, 12)], false)]);
    // All but the one in which a page differs.
    assert_eq!(tree.promote(Gva::new(0), 4 * M2, &mut gather), Ok(30));
    assert_eq!(leaves(&tree, M2, M2).len(), 31 + 16);
    assert_eq!(tree.promote(Gva::new(0), 4 * M2, &mut gather), Ok(0));
    tree.protect(Gva::new(M2 + 35 * K4), K4, Prot::RW, &mut gather).unwrap();
    // A table of groups and pages is one leaf.
    assert_eq!(tree.promote(Gva::new(0), 4 * M2, &mut gather), Ok(1));
    assert_eq!(leaves(&tree, M2, M2), [(M2, 4 * M2, 21)]);
    assert_eq!(output(&tree, M2 + 0x12345), (4 * M2 + 0x12345, 21));
    // Split down to groups is split down to what they are made of.
    assert_eq!(tree.split(Gva::new(M2), M2, 16, &mut gather), Ok(1));
    assert_eq!(leaves(&tree, M2, M2).len(), 512);
    // A value without groups makes none.
    let plain = PageTable::new(Sv::SV48, arena.memory::<Gpa>(), &tables);
    let mut plain: Tree<'_, Sv> = plain.unwrap();
    map(&mut plain, 0, 0, K64, Leaves::Largest);
    assert_eq!(plain.promote(Gva::new(0), M2, &mut gather), Ok(0));
    gather.finish(&&tables).unwrap();
}

/// Blocks above the last level: one page goes out of a group of them.
#[test]
fn a_group_of_blocks_is_broken() {
    let arena = Arena::new(8 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
    let (at, to, block) = (1u64 << 40, 1u64 << 44, 1u64 << 29);
    map(&mut tree, at, to, 1 << 34, Leaves::Largest);
    let mut gather = Gather::new(&Unused, ());
    let hole = at + 5 * block + 7 * K64;
    assert_eq!(tree.unmap(Gva::new(hole), K64, &mut gather), Ok(K64));
    for (input, mapped) in [(at, true), (hole - 1, true), (hole, false), (hole + K64, true)] {
        let found = tree.walker().query(Gva::new(input)).unwrap();
        assert_eq!(found.map(|it| it.output.get()), mapped.then(|| input - at + to), "{input:#x}");
    }
    // The other 31 are blocks by themselves, and groups again where that is asked for.
    assert_eq!(
        tree.map(Gva::new(hole), Gpa::new(hole - at + to), K64, Prot::RW.into(), Leaves::Largest),
        Ok(())
    );
    assert_eq!(tree.promote(Gva::new(at), 1 << 34, &mut gather), Ok(2));
    assert_eq!(leaves(&tree, at, 1 << 34), [(at, to, 34)]);
    assert_eq!(tree.unmap(Gva::new(at), 1 << 34, &mut gather), Ok(1 << 34));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// A whole block of a group of them goes, or changes: the others stay what they were.
#[test]
fn one_block_of_a_group() {
    let (at, block) = (1u64 << 40, 1u64 << 29);
    for unmaps in [true, false] {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        map(&mut tree, at, at, 1 << 34, Leaves::Largest);
        let mut gather = Gather::new(&Unused, ());
        let (start, bytes) = (Gva::new(at + 3 * block), 2 * block);
        let done = if unmaps {
            tree.unmap(start, bytes, &mut gather)
        } else {
            tree.protect(start, bytes, Prot::R, &mut gather)
        };
        assert_eq!(done, Ok(bytes));
        gather.finish(&&tables).unwrap();
        let shifts: Vec<_> = leaves(&tree, at, 1 << 34).iter().map(|leaf| leaf.2).collect();
        assert_eq!(shifts, vec![29; if unmaps { 30 } else { 32 }]);
        let words = words(&arena, &tree, at, 32);
        assert!(words.iter().all(|word| word & CONTIGUOUS == 0), "{words:x?}");
    }
}

/// A cursor takes one page out of a group, beside pages that it has mapped itself.
#[test]
fn a_cursor_breaks_groups() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = tree(NAPOT, &arena, &tables);
    map(&mut tree, 0, 0, K64, Leaves::Largest);
    let mut gather = Gather::new(&Unused, ());
    let mut cursor = tree.cursor(&mut gather);
    cursor.map(Gva::new(K64), Gpa::new(K64), Prot::RW.into()).unwrap();
    assert_eq!(cursor.query(Gva::new(5 * K4 + 1)).unwrap().unwrap().output.get(), 5 * K4 + 1);
    assert_eq!(cursor.unmap(Gva::new(3 * K4)), Ok(true));
    assert_eq!(cursor.unmap(Gva::new(3 * K4)), Ok(false));
    assert_eq!(cursor.query(Gva::new(3 * K4)), Ok(None));
    assert_eq!(cursor.query(Gva::new(5 * K4 + 1)).unwrap().unwrap().shift, 12);
    cursor.finish().unwrap();
    assert_eq!(leaves(&tree, 0, M2).len(), 16);
    assert_eq!(tree.unmap(Gva::new(0), M2, &mut gather), Ok(16 * K4));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

/// A guest writes groups that are incomplete. Each entry counts for itself; every verb ends, and
/// what is mapped elsewhere stays.
#[test]
fn incomplete_groups() {
    type Odd = fn(u64) -> u64;
    let odd: [(&str, Odd); 6] = [
        ("absent", |_| 0),
        ("no group", |word| word & !CONTIGUOUS),
        ("elsewhere", |word| word + (1 << 40)),
        ("swapped", |word| word ^ 1 << 16),
        ("other memory", |word| word ^ 2 << 2),
        ("used", |word| word & !AF),
    ];
    for (name, odd) in odd {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        map(&mut tree, 0, 4 * M2, 2 * M2, Leaves::Largest);
        let at = 5 * K64;
        let word = odd(words(&arena, &tree, at, 1)[0]);
        write(&arena, &tree, at, word);
        // The entry that is indexed counts.
        let position = pgtable::Position { level: pgtable::Level(0), shift: 16 };
        let want = match tree.format().decode(word, position) {
            Entry::Leaf { output, .. } => Some(output.get()),
            _ => None,
        };
        let found = tree.walker().query(Gva::new(at)).unwrap();
        assert_eq!(found.map(|found| found.output.get()), want, "{name}");
        assert_eq!(output(&tree, 6 * K64).0, 4 * M2 + 6 * K64, "{name}");
        let expected = match name {
            "used" => 2,
            "absent" => 31 + 1,
            _ => 32 + 1,
        };
        assert_eq!(leaves(&tree, 0, 2 * M2).len(), expected, "{name}");
        let mut gather = Gather::new(&Unused, ());
        let device = |leaf: LeafOf<Lpa>| leaf.attributes.with_memory(Memory::Device);
        let mapped = if name == "absent" { 2 * M2 - K64 } else { 2 * M2 };
        assert_eq!(tree.protect(Gva::new(0), 2 * M2, Prot::R, &mut gather), Ok(mapped), "{name}");
        assert_eq!(tree.modify(Gva::new(0), 2 * M2, device, &mut gather), Ok(mapped), "{name}");
        let mut bitmap = [0];
        let harvested = (Recorded::Accessed, Writers::Running);
        tree.harvest(Gva::new(0), 2 * M2, harvested.0, harvested.1, &mut bitmap, &mut gather)
            .unwrap();
        tree.promote(Gva::new(0), 2 * M2, &mut gather).unwrap();
        tree.split(Gva::new(0), 2 * M2, 16, &mut gather).unwrap();
        let found = tree.walker().query(Gva::new(at)).unwrap();
        assert_eq!(found.map(|found| found.output.get()), want, "{name}");
        assert_eq!(tree.unmap(Gva::new(0), 4 * K64, &mut gather), Ok(4 * K64), "{name}");
        assert_eq!(tree.unmap(Gva::new(0), 2 * M2, &mut gather), Ok(mapped - 4 * K64), "{name}");
        gather.finish(&&tables).unwrap();
        assert_eq!(leaves(&tree, 0, 1 << 40), [], "{name}");
    }
}

/// What hardware records while a group is being changed is not lost: it is judged again.
#[test]
fn late_records_are_kept_by_a_change() {
    let late = |leaves, edit: fn(LpaAttributes) -> LpaAttributes, dirty: &[u64]| {
        let arena = Arena::new(4 << 20);
        let tables = Tables::new(&arena);
        let mut tree = tree(Lpa::CONTIGUOUS, &arena, &tables);
        let clean = LpaAttributes::from(Prot::RW).with_clean(true);
        tree.map(Gva::new(0), Gpa::new(0), M2, clean, leaves).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let walker = Walker::new(Lpa::CONTIGUOUS, arena.memory::<Gpa>(), tree.root());
        let mut store = Some(9 * K64);
        let modify = |leaf: LeafOf<Lpa>| {
            // A store by hardware between the edit and its being stored.
            let here = |at: &mut u64| *at - leaf.input.get() < leaf.bytes;
            if let Some(at) = store.take_if(here) {
                walker.access(Gva::new(at), Access::WRITE).unwrap();
            }
            edit(leaf.attributes)
        };
        assert_eq!(tree.modify(Gva::new(0), M2, modify, &mut gather), Ok(M2));
        gather.finish(&&tables).unwrap();
        for page in 0..32 {
            let found = tree.walker().query(Gva::new(page * K64)).unwrap().unwrap();
            let before = if dirty.contains(&page) { clean.with_clean(false) } else { clean };
            assert_eq!(found.attributes, edit(before), "{page}");
        }
    };
    let read_only = |old: LpaAttributes| old.with_prot(Prot::R);
    // In place: the entry in which hardware recorded.
    late(Leaves::Exactly(16), read_only, &[9]);
    late(Leaves::Exactly(21), read_only, &[9]);
    // Taken out: what any entry of the group recorded counts for all.
    let device = |old: LpaAttributes| old.with_prot(Prot::R).with_memory(Memory::Device);
    late(Leaves::Exactly(16), device, &[9]);
    late(Leaves::Exactly(21), device, &(0..32).collect::<Vec<_>>());
}
