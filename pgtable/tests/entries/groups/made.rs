//! Groups are made where alignment allows, by mapping and by promotion, with the words that the
//! manuals give.

use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Error, Gpa, Gva, Leaves, Prot, RangeError};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;

use super::{
    CONTIGUOUS, K4, K64, M2, N, NAPOT, Tree, leaves, listening, map, output, tree, words, write,
};
use crate::support::{Arena, Tables};

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
