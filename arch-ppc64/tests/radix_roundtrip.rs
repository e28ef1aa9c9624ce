//! decode ∘ encode = identity, and what else holds for every word at every place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::format::{Entry, Format};
use pgtable::{Address, Gpa, Gva, Hpa, Level, Position, Stage1, Stage2};
use pgtable_conformance::words::{entry as conforms, leaves};
use pgtable_ppc64::radix::{
    Granule, PageAttributes, PageSize, PartitionScoped, PartitionTable, Pde, ProcessScoped,
    ProcessTable, Ptcr, Pte, Quadrants, Radix, RadixRoot, Rb, Scope, Strictness,
};
use proptest::prelude::*;

fn strictness() -> impl Strategy<Value = Strictness> {
    prop_oneof![Just(Strictness::Qemu), Just(Strictness::Kvm), Just(Strictness::Strict)]
}

fn granule() -> impl Strategy<Value = Granule> {
    prop_oneof![Just(Granule::K4), Just(Granule::K64)]
}

/// Every place where an entry can stand, the root included.
fn place() -> impl Strategy<Value = Position> {
    prop_oneof![Just((0, 12)), Just((0, 16)), Just((1, 21)), Just((2, 30)), Just((3, 39))]
        .prop_map(|(level, shift)| Position { level: Level(level), shift })
}

fn leaf_place() -> impl Strategy<Value = Position> {
    (0usize..4).prop_map(|size| Position {
        level: PageSize::ALL[size].level(),
        shift: PageSize::ALL[size].shift(),
    })
}

fn attributes() -> impl Strategy<Value = PageAttributes> {
    any::<u64>().prop_map(|word| PageAttributes::of(Pte::from_bits(word)))
}

fn word_is_understood<S: Scope>(
    format: Radix<S>,
    word: u64,
    at: Position,
) -> Result<(), TestCaseError> {
    conforms(&format, word, at);
    let again = match format.decode(word, at) {
        Entry::Table { table, width } => format.table(table, width, at).ok(),
        Entry::Leaf { .. } if at.level == Level(3) => {
            prop_assert_eq!(format.strictness(), Strictness::Qemu);
            return Ok(());
        }
        Entry::Leaf { output, attributes } => {
            Some(format.leaves(output, attributes, at).unwrap().first)
        }
        Entry::Absent | Entry::Malformed => return Ok(()),
    };
    if format.strictness() == Strictness::Strict {
        prop_assert_eq!(again, Some(word));
    }
    Ok(())
}

/// A word like one that somebody writes: any, or a valid one with at most one bit wrong.
fn word() -> impl Strategy<Value = u64> {
    let table = (any::<u64>(), prop_oneof![Just(5u64), Just(9), Just(13)])
        .prop_map(|(at, nls)| 1 << 63 | at & 0x0fff_ffff_ffff_f000 | nls);
    let leaf = any::<u64>().prop_map(|word| 3 << 62 | word & 0x21ff_ffff_c000_0fbf);
    let flip = prop_oneof![Just(0u64), (0..64u32).prop_map(|bit| 1 << bit)];
    prop_oneof![any::<u64>(), (prop_oneof![table, leaf], flip).prop_map(|(word, flip)| word ^ flip)]
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(4096))]

    #[test]
    fn encoded(attributes in attributes(), output: u64, at in leaf_place(), granule in granule(), strictness in strictness()) {
        let output = output & 0x01ff_ffff_ffff_f000 & !(at.size() - 1);
        let format = ProcessScoped::new(granule).with_strictness(strictness);
        prop_assert!(format.leaves(Gpa::new(output), attributes, at).is_ok());
        leaves(&format, Gpa::new(output), attributes, at);
        leaves(&PartitionScoped::new(granule).with_strictness(strictness), Hpa::new(output), attributes, at);
    }

    #[test]
    fn tables(table: u64, width in 0u8..32, at in place(), granule in granule(), strictness in strictness()) {
        let format = PartitionScoped::new(granule).with_strictness(strictness);
        for table in [table, table & 0x0fff_ffff_ffff_f000, table & 0x0fff_ffff_ffff_ff00] {
            if let Ok(word) = format.table(Hpa::new(table), width, at) {
                prop_assert_eq!(format.decode(word, at), Entry::Table { table: Hpa::new(table), width });
                let pde = Pde::from_bits(word);
                prop_assert_eq!((pde.v(), pde.l(), pde.nls(), pde.table()), (true, false, width, table));
            }
        }
    }

    #[test]
    fn words(word in word(), at in place(), granule in granule(), strictness in strictness()) {
        word_is_understood(ProcessScoped::new(granule).with_strictness(strictness), word, at)?;
        word_is_understood(PartitionScoped::new(granule).with_strictness(strictness), word, at)?;
    }

    #[test]
    fn addresses(offset in 0..1u64 << 52, address: u64) {
        for quadrants in [Quadrants::Zero, Quadrants::Three, Quadrants::ZeroAndThree] {
            let format = ProcessScoped::new(Granule::K4).with_quadrants(quadrants);
            prop_assert_eq!(format.offset(format.address(offset)), Some(offset));
            if let Some(offset) = format.offset(Gva::new(address)) {
                prop_assert_eq!(offset, address & 0x000f_ffff_ffff_ffff);
            }
        }
        let format = PartitionScoped::new(Granule::K4);
        prop_assert_eq!(format.offset(format.address(offset)), Some(offset));
    }

    #[test]
    fn roots(root: u64, rts in 0u8..32, base: u64, size in 0u8..=24) {
        let aligned = root & 0x0fff_ffff_ffff_0000;
        let word = RadixRoot::of_tree(aligned).unwrap();
        prop_assert_eq!(word.root(Strictness::Strict), Some(aligned));
        prop_assert_eq!(word.into_bits(), 0x4000_0000_0000_00ad | aligned);
        prop_assert_eq!(word.with_rts(rts).rts(), rts);
        let base = base & 0x0fff_ffff_ffff_f000 & !((1 << (12 + size)) - 1);
        let table = ProcessTable::new(Gpa::new(base), size).unwrap();
        prop_assert_eq!(table.word().into_bits(), 1 << 63 | base | u64::from(size));
        prop_assert_eq!(ProcessTable::of_word(table.word()), Some(table));
        let table = PartitionTable::new(Hpa::new(base), size).unwrap();
        prop_assert_eq!(table.ptcr().into_bits(), base | u64::from(size));
        prop_assert_eq!(PartitionTable::of_ptcr(table.ptcr()), Some(table));
        let _ = (PartitionTable::of_ptcr(Ptcr::from_bits(root)), Rb::from_bits(root).epn());
    }
}

#[test]
fn both_scopes_say_the_same_of_every_word() {
    fn shape<S: Scope>(word: u64, at: Position) -> Option<u64> {
        match Radix::<S>::new(Granule::K64).decode(word, at) {
            Entry::Table { table, .. } => Some(table.get()),
            Entry::Leaf { output, .. } => Some(output.get()),
            Entry::Absent | Entry::Malformed => None,
        }
    }
    let at = Position { level: Level(1), shift: 21 };
    for word in [0x8000_0000_0014_0105, 0x8000_0000_0012_1009, 0xc000_0000_0200_0187, 0, u64::MAX] {
        assert_eq!(shape::<Stage1>(word, at), shape::<Stage2>(word, at), "{word:#x}");
    }
}
