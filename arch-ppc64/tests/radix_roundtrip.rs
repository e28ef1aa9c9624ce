//! decode ∘ encode = identity, and what else holds for every word at every place.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use arch_ppc64::radix::{
    Granule, PageAttributes, PageSize, PartitionScoped, PartitionTable, Pde, ProcessScoped,
    ProcessTable, Ptcr, Pte, Quadrants, Radix, RadixRoot, Rb, Scope, Strictness,
};
use pgtable::{
    Access, Address, Entry, Format, Gpa, Gva, Hpa, Level, Position, Prot, Stage1, Stage2,
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

fn leaf_survives<S: Scope>(
    format: Radix<S>,
    attributes: PageAttributes,
    output: u64,
    at: Position,
) -> Result<(), TestCaseError> {
    let output = output & format.output_mask(at);
    let word = format.leaf_word(attributes, at).unwrap() | output;
    prop_assert_eq!(
        format.decode(word, at),
        Entry::Leaf { output: Address::new(output), attributes }
    );
    prop_assert_ne!(word & format.present_mask(), 0);
    Ok(())
}

fn word_is_understood<S: Scope>(
    format: Radix<S>,
    word: u64,
    at: Position,
) -> Result<(), TestCaseError> {
    let entry = format.decode(word, at);
    let again = match entry {
        Entry::Absent => {
            prop_assert_eq!(word & format.present_mask(), 0);
            None
        }
        Entry::Malformed => None,
        Entry::Table { table, width } => {
            prop_assert!((1..=20).contains(&width) && width < at.shift);
            let word = format.table_word(table, width, at).unwrap();
            prop_assert_eq!(
                format.predicted_table(word, at).is_some(),
                width == format.geometry().width(Level(at.level.0 - 1))
            );
            Some(word)
        }
        Entry::Leaf { output, attributes } => {
            prop_assert_eq!(output.get() & !format.output_mask(at), 0);
            for access in [Access::READ, Access::WRITE, Access::FETCH] {
                let _ = (
                    format.check(word, at, (), access),
                    format.check(word, at, (), access.by_user()),
                );
            }
            if at.level == Level(3) {
                prop_assert_eq!(format.strictness(), Strictness::Qemu);
                return Ok(());
            }
            Some(format.leaf_word(attributes, at).unwrap() | output.get())
        }
    };
    if let Some(again) = again {
        prop_assert_eq!(format.decode(again, at), entry);
        if format.strictness() == Strictness::Strict {
            prop_assert_eq!(again, word);
        }
    }
    if let Some(table) = format.predicted_table(word, at) {
        let width = format.geometry().width(Level(at.level.0 - 1));
        prop_assert_eq!(entry, Entry::Table { table: Address::new(table), width });
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
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn leaves(attributes in attributes(), output: u64, at in leaf_place(), granule in granule(), strictness in strictness()) {
        leaf_survives(ProcessScoped::new(granule).with_strictness(strictness), attributes, output, at)?;
        leaf_survives(PartitionScoped::new(granule).with_strictness(strictness), attributes, output, at)?;
    }

    #[test]
    fn tables(table: u64, width in 0u8..32, at in place(), granule in granule(), strictness in strictness()) {
        let format = PartitionScoped::new(granule).with_strictness(strictness);
        for table in [table, table & 0x0fff_ffff_ffff_f000, table & 0x0fff_ffff_ffff_ff00] {
            if let Some(word) = format.table_word(Hpa::new(table), width, at) {
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

    /// No level and no shift makes a format panic.
    #[test]
    fn anywhere(word in word(), level: u8, shift: u8, width: u8, output: u64, strictness in strictness()) {
        let at = Position { level: Level(level), shift };
        let format = ProcessScoped::new(Granule::K64).with_strictness(strictness);
        let _ = (format.decode(word, at), format.predicted_table(word, at), format.output_mask(at));
        let _ = (format.table_word(Gpa::new(output), width & 63, at), format.leaf_word(PageAttributes::from(Prot::RWX), at));
        let _ = format.check(word, at, (), Access::WRITE);
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
