//! Words and rights of EPT, as rows.

use proptest::prelude::*;

use super::*;
use pgtable::{Attributes, Prot};
use pgtable_conformance::words::{any_word, leaves, word as conforms_at};

const EPT: Ept = Ept::new(Levels::Four, EptControls { maxphyaddr: 46, ..EptControls::new() });
const MBEC: Ept =
    Ept::new(Levels::Four, EptControls { mode_based_execute: true, ..EptControls::new() });
const NO_XO: Ept =
    Ept::new(Levels::Four, EptControls { execute_only: false, ..EptControls::new() });
const NO_XO_MBEC: Ept = Ept::new(
    Levels::Four,
    EptControls { execute_only: false, mode_based_execute: true, ..EptControls::new() },
);
const NO_GIB: Ept = Ept::new(Levels::Five, EptControls { gib_pages: false, ..EptControls::new() });
const NO_AD: Ept =
    Ept::new(Levels::Four, EptControls { accessed_dirty: false, ..EptControls::new() });

fn leaf(format: Ept, attributes: EptAttributes, at: Position) -> Result<u64, Unencodable> {
    Ok(format.leaves(Hpa::new(0), attributes, at)?.first)
}

const fn at(level: u8) -> Position {
    Position { level: Level(level), shift: 12 + 9 * level }
}

#[derive(Debug, PartialEq)]
enum Kind {
    Absent,
    Table(u64),
    Leaf(u64),
    Malformed,
}

#[test]
fn words() {
    use Kind::{Absent, Leaf, Malformed, Table};
    for (format, level, word, want) in [
        (EPT, 0, 0, Absent),
        (EPT, 3, !7, Absent), // suppress #VE and anything else
        (EPT, 0, 0x400, Absent),
        (MBEC, 0, 0x400, Leaf(0)), // XU alone makes it present
        (NO_XO_MBEC, 0, 0x400, Malformed),
        (EPT, 0, 0x1037, Leaf(0x1000)),
        (EPT, 0, 0x10b7, Leaf(0x1000)), // bit 7 is ignored in a PTE
        (EPT, 0, 0x1031, Leaf(0x1000)),
        (EPT, 0, 0x1032, Malformed), // -w-
        (EPT, 0, 0x1036, Malformed), // -wx
        (EPT, 0, 0x1034, Leaf(0x1000)),
        (NO_XO, 0, 0x1034, Malformed),
        (EPT, 0, 0x1007, Leaf(0x1000)), // UC
        (EPT, 0, 0x100f, Leaf(0x1000)), // WC
        (EPT, 0, 0x1017, Malformed),    // types 2, 3, 7
        (EPT, 0, 0x101f, Malformed),
        (EPT, 0, 0x1027, Leaf(0x1000)),
        (EPT, 0, 0x102f, Leaf(0x1000)),
        (EPT, 0, 0x103f, Malformed),
        (EPT, 0, 1 << 46 | 0x37, Malformed),
        (EPT, 0, 0xfff0_0000_0000_0f77, Leaf(0)),
        (EPT, 1, 0x1007, Table(0x1000)),
        (EPT, 1, 0x1f07, Table(0x1000)),
        (EPT, 1, 0x1001, Table(0x1000)),
        (EPT, 1, 0x100f, Malformed), // bits 6:3
        (EPT, 1, 0x1047, Malformed),
        (EPT, 1, 0x1002, Malformed),
        (EPT, 1, 0x20_00b7, Leaf(0x20_0000)),
        (EPT, 1, 0x20_10b7, Malformed), // bit 12 is address here, not PAT
        (EPT, 2, 0x4000_00b7, Leaf(0x4000_0000)),
        (EPT, 2, 0x4020_00b7, Malformed),
        (NO_GIB, 2, 0x4000_00b7, Malformed),
        (NO_GIB, 4, 0x1007, Table(0x1000)),
        (NO_GIB, 4, 0x1087, Malformed),
        (EPT, 3, 0x1087, Malformed),
    ] {
        let got = match format.decode(word, at(level)) {
            Entry::Absent => Absent,
            Entry::Table { table, .. } => Table(table.get()),
            Entry::Leaf { output, .. } => Leaf(output.get()),
            Entry::Malformed => Malformed,
        };
        assert_eq!(got, want, "{word:#x} at level {level}");
    }
}

#[test]
fn rights() {
    let (read, write, fetch) = (Access::READ, Access::WRITE, Access::FETCH);
    // Table word, leaf word, access, exit qualification or nothing.
    for (format, table, leaf, access, want) in [
        (EPT, 7, 0x37, read, None),
        (EPT, 7, 0x37, write, None),
        (EPT, 7, 0x37, fetch, None),
        (EPT, 7, 0x33, fetch, Some(0x19c)),
        (EPT, 3, 0x37, fetch, Some(0x19c)),
        (EPT, 7, 0x35, write, Some(0x1aa)),
        (EPT, 5, 0x33, write, Some(0x18a)),
        (EPT, 4, 0x37, read, Some(0x1a1)),
        (EPT, 4, 0x33, read, Some(0x181)), // present, and nothing is left
        (EPT, 7, 0x33, fetch.by_user(), Some(0x19c)),
        (MBEC, 0x407, 0x433, fetch.by_user(), None),
        (MBEC, 0x407, 0x433, fetch, Some(0x1dc)),
        (MBEC, 0x407, 0x037, fetch.by_user(), Some(0x1bc)),
        (MBEC, 0x007, 0x437, fetch.by_user(), Some(0x1bc)),
    ] {
        let path = format.restrict(EptPath::default(), table, at(1));
        let got = format.check(leaf, at(0), path, access);
        let want =
            want.map_or(Ok(()), |bits| Err(EptFault::Violation(EptViolation::from_bits(bits))));
        assert_eq!(got, want, "{access} through {table:#x} to {leaf:#x}");
    }
}

#[test]
fn other_faults() {
    let violation = |bits| EptFault::Violation(EptViolation::from_bits(bits));
    for (cause, access, want) in [
        (Cause::Address, Access::READ, violation(0x181)),
        (Cause::NotPresent, Access::WRITE, violation(0x182)),
        (Cause::TableAccess, Access::FETCH, violation(0x184)),
        (Cause::Malformed, Access::FETCH, EptFault::Misconfiguration),
    ] {
        assert_eq!(EPT.fault(cause, access, None, 0), want, "{cause:?}");
    }
    let EptFault::Violation(table) =
        EPT.fault(Cause::NotPresent, EPT.guest_table_access(), None, 0)
    else {
        panic!("a violation")
    };
    assert_eq!(table.of_guest_table().into_bits(), 0x83);
    let EptFault::Violation(table) =
        NO_AD.fault(Cause::NotPresent, NO_AD.guest_table_access(), None, 0)
    else {
        panic!("a violation")
    };
    assert_eq!(table.of_guest_table().into_bits(), 0x81);
}

#[test]
fn encodings() {
    let rw = EptAttributes::from(Prot::RW);
    assert_eq!(leaf(EPT, rw, at(0)), Ok(0x333));
    assert_eq!(leaf(EPT, rw, at(1)), Ok(0x3b3));
    assert_eq!(leaf(EPT, Prot::RWX.into(), at(2)), Ok(0x7b7));
    assert_eq!(
        leaf(EPT, rw.with_memory_type(MemoryType::Uncacheable).with_ignore_pat(true), at(0)),
        Ok(0x343)
    );
    assert_eq!(leaf(EPT, rw.with_suppress_ve(true), at(0)), Ok(1 << 63 | 0x333));
    assert_eq!(leaf(EPT, rw.with_software(0x3f), at(0)), Ok(0x01f0_0000_0000_0b33));
    assert!(leaf(EPT, rw, at(3)).is_err());
    assert!(leaf(NO_GIB, rw, at(2)).is_err());
    assert!(leaf(EPT, Prot::new().into(), at(0)).is_err());
    assert!(leaf(EPT, Prot::new().with_write(true).into(), at(0)).is_err());
    assert!(leaf(EPT, Prot::new().with_execute(true).into(), at(0)).is_ok());
    assert!(leaf(NO_XO, Prot::new().with_execute(true).into(), at(0)).is_err());
    assert_eq!(EPT.table(Hpa::new(0x1000), 9, at(1)), Ok(0x1107));
    assert_eq!(MBEC.table(Hpa::new(0x1000), 9, at(1)), Ok(0x1507));
    assert_eq!(NO_AD.table(Hpa::new(0x1000), 9, at(3)), Ok(0x1007));
    assert!(EPT.table(Hpa::new(1 << 46), 9, at(1)).is_err());
    assert_eq!(EPT.eptp(Hpa::new(0x1234_5000)).into_bits(), 0x1234_505e);
    assert_eq!(NO_GIB.eptp(Hpa::new(0x1000)).into_bits(), 0x1066);
    assert_eq!(NO_AD.eptp(Hpa::new(0x1000)).into_bits(), 0x101e);
    let records = |format: Ept| {
        let Bits { accessed, dirty, table, .. } = format.bits(at(0));
        [accessed, dirty, table].map(|record| record.hardware.mask)
    };
    assert_eq!(records(NO_AD), [0, 0, 0]);
    assert_eq!(records(EPT), [0x100, 0x200, 0x100]);
}

prop_compose! {
    fn any_format()(
        five: bool, mode_based_execute: bool, accessed_dirty: bool, execute_only: bool, gib_pages: bool,
        maxphyaddr in 32_u8..=52,
    ) -> Ept {
        let levels = if five { Levels::Five } else { Levels::Four };
        Ept::new(levels, EptControls { mode_based_execute, accessed_dirty, execute_only, gib_pages, maxphyaddr, ..EptControls::new() })
    }
}

proptest! {
    #[test]
    fn conforms(format in any_format(), word in any_word(), small: bool, level in 0_u8..6) {
        conforms_at(&format, if small { word & 0xfff } else { word }, at(level));
    }

    #[test]
    fn our_tables_take_the_fast_path(format in any_format(), level in 1_u8..5) {
        if let Ok(word) = format.table(Hpa::new(0x1000), 9, at(level)) {
            let table = format.shortcuts(None).and_then(|all| all.step(level).address(word));
            prop_assert_eq!(table, Some(0x1000));
        }
    }

    #[test]
    fn encode_then_decode(
        format in any_format(), prot in 0_u8..16, kind in 0_u8..8, software in 0_u8..64, flags in 0_u8..32, address: u64,
        level in 0_u8..6,
    ) {
        let Some(memory_type) = MemoryType::decode(kind) else { return Ok(()) };
        let attributes = EptAttributes::from(Prot::from_bits(prot))
            .with_memory_type(memory_type)
            .with_software(software)
            .with_user_execute(flags & 1 != 0)
            .with_ignore_pat(flags & 2 != 0)
            .with_suppress_ve(flags & 4 != 0)
            .with_accessed(flags & 8 != 0)
            .with_dirty(flags & 16 != 0);
        let at = at(level);
        leaves(&format, Hpa::new(address & 0x000f_ffff_ffff_f000 & !(at.size() - 1)), attributes, at);
        if leaf(format, attributes, at).is_ok() {
            prop_assert_eq!(attributes.software(), software);
            prop_assert_eq!(attributes.prot(), Prot::from_bits(prot).with_user(false));
        }
    }
}

/// Each bit alone, and values of processors.
#[test]
fn capabilities() {
    let none = EptControls {
        execute_only: false,
        gib_pages: false,
        accessed_dirty: false,
        ..EptControls::new()
    };
    for (capabilities, want) in [
        (0, none),
        (1, EptControls { execute_only: true, ..none }),
        (1 << 17, EptControls { gib_pages: true, ..none }),
        (1 << 21, EptControls { accessed_dirty: true, ..none }),
        (1 << 22, EptControls { advanced_information: true, ..none }),
        (!(1 | 1 << 17 | 1 << 21 | 1 << 22), none),
        // Without 1-GiB pages and flags; without advanced information; with all.
        (0x0f01_0611_4141, EptControls { execute_only: true, ..none }),
        (0x0f01_0633_4141, EptControls::new()),
        (0x0f01_0673_4141, EptControls { advanced_information: true, ..EptControls::new() }),
    ] {
        assert_eq!(EptControls::of_capabilities(capabilities), want, "{capabilities:#x}");
    }
}
