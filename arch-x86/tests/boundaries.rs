//! Words with nothing in them but what is asked about: each row by itself, so that no other bit
//! hides a mistake.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::format::{Entry, Format, Output};
use pgtable::{Hpa, Level, Position, Prot};
use pgtable_x86::{
    Controls, Ept, EptAttributes, EptControls, EptFault, EptViolation, Levels, LongMode,
    MemoryType, Npt, NptAttributes, NptControls, PageAttributes,
};

/// R, W and X alone, of a table of EPT (Intel SDM 3C §29.3.3.1, "EPT Misconfigurations"): writable
/// but not readable never; executable but not readable only where the CPU can.
#[test]
fn rights_of_an_ept_entry_and_nothing_else() {
    const TABLE: Position = Position { level: Level(1), shift: 21 };
    const XU: u64 = 1 << 10;
    for execute_only in [false, true] {
        for mode_based_execute in [false, true] {
            let controls = EptControls { execute_only, mode_based_execute, ..EptControls::new() };
            let format = Ept::new(Levels::Four, controls);
            for (word, present, good) in [
                (0, false, true),
                (1, true, true),
                (2, true, false),
                (3, true, true),
                (4, true, execute_only),
                (5, true, true),
                (6, true, false),
                (7, true, true),
                (XU, mode_based_execute, execute_only),
                (XU | 1, true, true),
                (XU | 2, true, false),
                (XU | 4, true, execute_only),
            ] {
                let want = match (present, good) {
                    (false, _) => Entry::Absent,
                    (true, false) => Entry::Malformed,
                    (true, true) => Entry::Table { table: Hpa::new(0), width: 9 },
                };
                let case = format!(
                    "{word:#x}, execute-only {execute_only}, mode-based {mode_based_execute}"
                );
                assert_eq!(format.decode(word, TABLE), want, "{case}");
                // Foretold is only what everything is granted by.
                assert_eq!(
                    format.shortcuts(None).and_then(|all| all.step(1).address(word)),
                    (word & 7 == 7).then_some(0),
                    "{case}"
                );
            }
        }
    }
}

/// Intel SDM appendix C, "VMX Basic Exit Reasons": 48 and 49.
#[test]
fn exit_reasons_of_ept() {
    assert_eq!(EptFault::Violation(EptViolation::new()).exit_reason(), 48);
    assert_eq!(EptFault::Misconfiguration.exit_reason(), 49);
}

const PAGE: Position = Position { level: Level(0), shift: 12 };

/// Each attribute of `rows` is these bits of a last-level entry and no others, and what is decoded
/// has it again.
fn attributes_are_bits<F: Format>(format: F, rows: &[(&str, F::Attributes, u64)]) {
    let none =
        format.leaves(pgtable::Address::new(0), F::Attributes::from(Prot::R), PAGE).unwrap().first;
    for &(name, attributes, bits) in rows {
        let word = format.leaves(pgtable::Address::new(0), attributes, PAGE).unwrap().first;
        assert_eq!(word ^ none, bits, "{name}");
        let decoded = format.decode(word, PAGE);
        let Entry::Leaf { attributes: again, output } = decoded else {
            panic!("{name}: {decoded:?}")
        };
        assert_eq!(
            (again, output),
            (attributes, <Output<F> as pgtable::Address>::new(0)),
            "{name}"
        );
    }
}

/// Bits of a 4 KiB page's entry: Intel SDM 3A §4.5, table 4-20; AMD APM 2 §5.3. Pages are made
/// accessed and dirty, so taking that away changes the entry.
#[test]
fn attributes_of_long_mode() {
    let page = || PageAttributes::from(Prot::R);
    attributes_are_bits(
        LongMode::new(Levels::Four, Controls { pke: true, ..Controls::new() }),
        &[
            ("PAT index 1", page().with_pat(1), 1 << 3),
            ("PAT index 2", page().with_pat(2), 1 << 4),
            ("PAT index 4", page().with_pat(4), 1 << 7),
            ("PAT index 7", page().with_pat(7), 0x98),
            ("global", page().with_global(true), 1 << 8),
            ("key 1", page().with_protection_key(1), 1 << 59),
            ("key 15", page().with_protection_key(15), 15 << 59),
            ("software 1", page().with_software(1), 1 << 9),
            ("software, all", page().with_software(0x3ff), 0xe00 | 0x7f << 52),
            ("not accessed", page().with_accessed(false), 1 << 5),
            ("not dirty", page().with_dirty(false), 1 << 6),
        ],
    );
    for n in 0..8 {
        assert_eq!(
            (page().with_pat(n).pat(), page().with_protection_key(n + 8).protection_key()),
            (n, n + 8)
        );
    }
    for on in [false, true] {
        let it = page().with_global(on).with_accessed(!on).with_dirty(on);
        assert_eq!((it.global(), it.accessed(), it.dirty()), (on, !on, on));
        let it = it.with_dirty(!on).with_accessed(on);
        assert_eq!(
            (it.accessed(), it.dirty(), it.with_software(0x2a5).software()),
            (on, !on, 0x2a5)
        );
    }
}

#[test]
fn attributes_of_npt() {
    let page = || NptAttributes::from(Prot::R);
    attributes_are_bits(
        Npt::new(Levels::Four, NptControls::new()),
        &[
            ("PAT index 1", page().with_pat(1), 1 << 3),
            ("PAT index 2", page().with_pat(2), 1 << 4),
            ("PAT index 4", page().with_pat(4), 1 << 7),
            ("software, all", page().with_software(0x3ff), 0xe00 | 0x7f << 52),
            ("not accessed", page().with_accessed(false), 1 << 5),
            ("not dirty", page().with_dirty(false), 1 << 6),
        ],
    );
    for on in [false, true] {
        let it = page().with_accessed(!on).with_dirty(on);
        assert_eq!((it.accessed(), it.dirty()), (!on, on));
    }
    for n in 0..8 {
        assert_eq!((page().with_pat(n).pat(), page().with_software(0x155).software()), (n, 0x155));
    }
}

/// Intel SDM 3C §29.3.2, table 29-7. Pages are made of write-back memory.
#[test]
fn attributes_of_ept() {
    let page = || EptAttributes::from(Prot::R);
    let mut rows = vec![
        ("ignore PAT", page().with_ignore_pat(true), 1 << 6),
        ("suppress #VE", page().with_suppress_ve(true), 1 << 63),
        ("supervisor shadow stack", page().with_supervisor_shadow_stack(true), 1 << 60),
        ("paging write", page().with_paging_write(true), 1 << 58),
        ("verify guest paging", page().with_verify_guest_paging(true), 1 << 57),
        ("user execute", page().with_user_execute(true), 1 << 10),
    ];
    for (memory_type, bits) in [
        (MemoryType::Uncacheable, 0),
        (MemoryType::WriteCombining, 1),
        (MemoryType::WriteThrough, 4),
        (MemoryType::WriteProtected, 5),
        (MemoryType::WriteBack, 6),
    ] {
        let it = page().with_memory_type(memory_type);
        assert_eq!(it.memory_type(), memory_type);
        rows.push(("memory type", it, (bits ^ 6) << 3));
    }
    let controls =
        EptControls { mode_based_execute: true, accessed_dirty: true, ..EptControls::new() };
    attributes_are_bits(Ept::new(Levels::Four, controls), &rows);
    for on in [false, true] {
        let it =
            page().with_accessed(on).with_dirty(!on).with_user_execute(on).with_ignore_pat(!on);
        assert_eq!(
            (it.accessed(), it.dirty(), it.user_execute(), it.ignore_pat()),
            (on, !on, on, !on)
        );
        let it = page().with_suppress_ve(on).with_paging_write(!on).with_verify_guest_paging(on);
        assert_eq!((it.suppress_ve(), it.paging_write(), it.verify_guest_paging()), (on, !on, on));
    }
}
