//! Words and rights of long mode, as rows.

use pgtable_conformance::words::{any_word, leaves, offsets, word as conforms_at};
use proptest::prelude::*;

use super::*;
use crate::controls::KeyRegister;
use crate::page_fault::PageFaultCode;
use pgtable::format::Entry;
use pgtable::{Attributes, Level, Prot};

const INTEL: LongMode = LongMode::new(Levels::Four, Controls { maxphyaddr: 46, ..Controls::new() });
const NO_NXE: LongMode = LongMode::new(Levels::Four, Controls { nxe: false, ..Controls::new() });
const NO_GIB: LongMode =
    LongMode::new(Levels::Four, Controls { gib_pages: false, ..Controls::new() });
const AMD: LongMode =
    LongMode::new(Levels::Five, Controls { amd: true, maxphyaddr: 48, ..Controls::new() });

const XD: u64 = 1 << 63;

fn leaf(format: LongMode, attributes: PageAttributes, at: Position) -> Result<u64, Unencodable> {
    Ok(format.leaves(Gpa::new(0), attributes, at)?.first)
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

fn kind(format: LongMode, word: u64, level: u8) -> Kind {
    match format.decode(word, at(level)) {
        Entry::Absent => Kind::Absent,
        Entry::Table { table, width: 9 } => Kind::Table(table.get()),
        Entry::Leaf { output, .. } => Kind::Leaf(output.get()),
        Entry::Malformed | Entry::Table { .. } => Kind::Malformed,
    }
}

#[test]
fn words() {
    use Kind::{Absent, Leaf, Malformed, Table};
    for (format, level, word, want) in [
        (INTEL, 0, 0, Absent),
        (INTEL, 3, !1, Absent),
        (INTEL, 0, 0x1067, Leaf(0x1000)),
        (INTEL, 0, 0x10e7, Leaf(0x1000)), // PAT, not PS
        (INTEL, 0, XD | 0x3fff_ffff_f001, Leaf(0x3fff_ffff_f000)),
        (INTEL, 0, 1 << 46 | 1, Malformed),
        (INTEL, 0, 1 << 51 | 1, Malformed),
        (INTEL, 0, 0x7ff0_0000_0000_0001, Leaf(0)), // software's bits and a protection key
        (INTEL, 1, 0x20_1063, Table(0x20_1000)),
        (INTEL, 1, 0x20_00e3, Leaf(0x20_0000)),
        (INTEL, 1, 0x20_10e3, Leaf(0x20_0000)), // PAT
        (INTEL, 1, 0x20_20e3, Malformed),
        (INTEL, 1, 0x30_00e3, Malformed),
        (INTEL, 2, 0x4000_00e3, Leaf(0x4000_0000)),
        (INTEL, 2, 0x6000_00e3, Malformed),
        (NO_GIB, 2, 0x4000_00e3, Malformed),
        (NO_GIB, 2, 0x4000_0063, Table(0x4000_0000)),
        (INTEL, 3, 0x1163, Table(0x1000)),
        (INTEL, 3, 0x10e3, Malformed), // PS
        (INTEL, 3, 1 << 46 | 1, Malformed),
        (NO_NXE, 3, XD | 0x1003, Malformed),
        (NO_NXE, 0, XD | 0x1003, Malformed),
        (AMD, 4, 0x1003, Table(0x1000)),
        (AMD, 4, 0x1103, Malformed), // bit 8
        (AMD, 3, 0x1103, Malformed),
        (AMD, 2, 0x1103, Table(0x1000)),
        (AMD, 4, 0x1083, Malformed),
    ] {
        assert_eq!(kind(format, word, level), want, "{word:#x} at level {level}");
    }
}

#[test]
fn canonical() {
    for (format, address, offset) in [
        (INTEL, 0, Some(0)),
        (INTEL, 0x7fff_ffff_ffff, Some(0x7fff_ffff_ffff)),
        (INTEL, 0x8000_0000_0000, None),
        (INTEL, 0xffff_7fff_ffff_ffff, None),
        (INTEL, 0xffff_8000_0000_0000, Some(0x8000_0000_0000)),
        (INTEL, u64::MAX, Some(0xffff_ffff_ffff)),
        (AMD, 0xff_ffff_ffff_ffff, Some(0xff_ffff_ffff_ffff)),
        (AMD, 0x100_0000_0000_0000, None),
        (AMD, 0xff00_0000_0000_0000, Some(0x100_0000_0000_0000)),
    ] {
        assert_eq!(format.offset(Gva::new(address)), offset, "{address:#x}");
        if let Some(offset) = offset {
            assert_eq!(format.address(offset), Gva::new(address));
        }
    }
}

/// The access rights of SDM §4.6.1 and the error codes of §4.7: each row is what the entries grant,
/// the controls, the access, and the error code or nothing.
#[test]
fn rights() {
    const BASE: Controls = Controls::new();
    const NO_WP: Controls = Controls { wp: false, ..BASE };
    const SMEP: Controls = Controls { smep: true, ..BASE };
    const SMAP: Controls = Controls { smap: true, ..BASE };
    const SMAP_AC: Controls = Controls { ac: true, ..SMAP };
    const PLAIN: Controls = Controls { nxe: false, ..BASE };
    const PKE_AD: Controls = Controls { pke: true, pkru: KeyRegister(1 << 10), ..BASE };
    const PKE_WD: Controls = Controls { pke: true, pkru: KeyRegister(2 << 10), ..BASE };
    const PKE_WD_NO_WP: Controls = Controls { wp: false, ..PKE_WD };
    const PKS_AD: Controls = Controls { pks: true, pkrs: KeyRegister(1 << 10), ..BASE };
    const PKS_WD: Controls = Controls { pks: true, pkrs: KeyRegister(2 << 10), ..BASE };
    const PKS_WD_NO_WP: Controls = Controls { wp: false, ..PKS_WD };
    const SHADOW: Controls = Controls { smap: true, cet: true, shadow_stack: true, ..BASE };
    const SHADOW_PKE_WD: Controls = Controls { pke: true, pkru: KeyRegister(2 << 10), ..SHADOW };
    const D: u64 = 0x40;
    // A page (or a table) with everything, and with one right less; the key of all of them is 5.
    const KEY: u64 = 5 << 59;
    const ALL: u64 = KEY | 7;
    const RO: u64 = KEY | 5;
    const SUP: u64 = KEY | 3;
    const SUP_RO: u64 = KEY | 1;
    const NX: u64 = XD | ALL;
    const R: Access = Access::READ;
    const W: Access = Access::WRITE;
    const X: Access = Access::FETCH;
    const UR: Access = Access::READ.by_user();
    const UW: Access = Access::WRITE.by_user();
    const UX: Access = Access::FETCH.by_user();
    for (table, leaf, controls, access, want) in [
        (ALL, ALL, BASE, UR, None),
        (ALL, ALL, BASE, UW, None),
        (ALL, ALL, BASE, UX, None),
        (ALL, RO, BASE, UR, None),
        (ALL, RO, BASE, UW, Some(0x7)),
        (RO, ALL, BASE, UW, Some(0x7)),
        (ALL, NX, BASE, UX, Some(0x15)),
        (NX, ALL, BASE, UX, Some(0x15)),
        (ALL, SUP, BASE, UR, Some(0x5)),
        (SUP, ALL, BASE, UR, Some(0x5)),
        (SUP, ALL, BASE, UX, Some(0x15)),
        (SUP, ALL, PLAIN, UX, Some(0x5)),
        (ALL, SUP, BASE, R, None),
        (ALL, RO, BASE, W, Some(0x3)),
        (RO, SUP, BASE, W, Some(0x3)),
        (ALL, RO, NO_WP, W, None),
        (ALL, RO, NO_WP, UW, Some(0x7)),
        (ALL, NX, BASE, X, Some(0x11)),
        (ALL, ALL, BASE, X, None),
        (ALL, ALL, SMEP, X, Some(0x11)),
        (ALL, SUP, SMEP, X, None),
        (SUP, ALL, SMEP, X, None), // a supervisor-mode address: one U/S = 0 is enough
        (ALL, ALL, SMEP, R, None),
        (ALL, ALL, SMAP, R, Some(0x1)),
        (ALL, ALL, SMAP, W, Some(0x3)),
        (ALL, ALL, SMAP, X, None),
        (ALL, ALL, SMAP, UR, None),
        (ALL, SUP, SMAP, R, None),
        (ALL, ALL, SMAP_AC, R, None),
        (ALL, RO, SMAP_AC, W, Some(0x3)),
        (ALL, ALL, PKE_AD, R, Some(0x21)),
        (ALL, ALL, PKE_AD, UR, Some(0x25)),
        (ALL, ALL, PKE_AD, UX, None),
        (ALL, RO, PKE_AD, UW, Some(0x27)),
        (ALL, SUP, PKE_AD, R, None),
        (ALL, SUP, PKE_AD, UR, Some(0x5)),
        (ALL, ALL, PKE_WD, R, None),
        (ALL, ALL, PKE_WD, W, Some(0x23)),
        (ALL, ALL, PKE_WD_NO_WP, W, None),
        (ALL, ALL, PKE_WD_NO_WP, UW, Some(0x27)),
        (ALL, SUP, PKS_AD, R, Some(0x21)),
        (ALL, SUP, PKS_AD, X, None),
        (ALL, ALL, PKS_AD, R, None),
        (ALL, SUP, PKS_WD, R, None),
        (ALL, SUP, PKS_WD, W, Some(0x23)),
        (ALL, SUP_RO, PKS_WD_NO_WP, W, None),
        (ALL, RO | D, SHADOW, UW, None),
        (ALL, RO | D, SHADOW, UR, None),
        (ALL, RO | D, SHADOW, UX, None), // no shadow-stack access
        (ALL, RO | D, SHADOW, W, Some(0x43)),
        (ALL, RO, SHADOW, UR, Some(0x45)),
        (ALL, ALL | D, SHADOW, UW, Some(0x47)),
        (RO, RO | D, SHADOW, UW, Some(0x47)),
        (ALL, SUP_RO | D, SHADOW, W, None),
        (SUP, RO | D, SHADOW, W, None),
        (ALL, SUP_RO | D, SHADOW, UW, Some(0x47)),
        (ALL, RO | D, SHADOW_PKE_WD, UR, None),
        (ALL, RO | D, SHADOW_PKE_WD, UW, Some(0x67)),
    ] {
        let format = LongMode::new(Levels::Four, controls);
        let path = format.restrict(Path::default(), table, at(1));
        let got = format.check(leaf, at(0), path, access);
        let want = want
            .map_or(Ok(()), |code| Err(LongModeFault::PageFault(PageFaultCode::from_bits(code))));
        assert_eq!(got, want, "{access} through {table:#x} to {leaf:#x} under {controls:?}");
    }
}

#[test]
fn other_faults() {
    let page_fault = |code| LongModeFault::PageFault(PageFaultCode::from_bits(code));
    for (format, cause, access, want) in [
        (INTEL, Cause::Address, Access::READ, LongModeFault::GeneralProtection),
        (INTEL, Cause::NotPresent, Access::READ, page_fault(0)),
        (INTEL, Cause::NotPresent, Access::WRITE.by_user(), page_fault(6)),
        (INTEL, Cause::NotPresent, Access::FETCH.by_user(), page_fault(0x14)),
        (NO_NXE, Cause::NotPresent, Access::FETCH.by_user(), page_fault(4)),
        (INTEL, Cause::Malformed, Access::WRITE, page_fault(0xb)),
        (INTEL, Cause::TableAccess, Access::WRITE, page_fault(2)),
    ] {
        assert_eq!(format.fault(cause, access, None, 0), want, "{cause:?} {access}");
    }
}

#[test]
fn what_has_no_encoding() {
    let rw = PageAttributes::from(Prot::RW);
    assert!(leaf(INTEL, rw, at(0)).is_ok());
    assert_eq!(leaf(INTEL, rw, at(3)), Err(Unencodable { at: at(3) }));
    assert_eq!(leaf(NO_GIB, rw, at(2)), Err(Unencodable { at: at(2) }));
    assert_eq!(leaf(NO_NXE, rw, at(0)), Err(Unencodable { at: at(0) }), "XD is reserved");
    assert!(leaf(NO_NXE, Prot::RWX.into(), at(0)).is_ok());
    assert!(
        leaf(INTEL, Prot::new().with_execute(true).into(), at(0)).is_err(),
        "reads cannot be forbidden"
    );
    assert_eq!(INTEL.table(Gpa::new(0x1000), 9, at(1)), Ok(0x1027));
    assert!(INTEL.table(Gpa::new(0x1001), 9, at(1)).is_err());
    assert!(INTEL.table(Gpa::new(1 << 46), 9, at(1)).is_err());
    assert!(INTEL.table(Gpa::new(0x1000), 5, at(1)).is_err());
    assert!(INTEL.table(Gpa::new(0x1000), 9, at(0)).is_err());
    assert!(INTEL.table(Gpa::new(0x1000), 9, at(4)).is_err());
}

prop_compose! {
    fn any_format()(five: bool, gib_pages: bool, nxe: bool, amd: bool, maxphyaddr in 32_u8..=52) -> LongMode {
        let levels = if five { Levels::Five } else { Levels::Four };
        LongMode::new(levels, Controls { gib_pages, nxe, amd, maxphyaddr, ..Controls::new() })
    }
}

proptest! {
    #[test]
    fn conforms(format in any_format(), word in any_word(), present: bool, level in 0_u8..6) {
        conforms_at(&format, word | u64::from(present), at(level));
        offsets(&format, word);
    }

    /// A leaf is encoded again bit by bit, and every table takes the fast path.
    #[test]
    fn every_bit_survives(format in any_format(), word: u64, level in 0_u8..5) {
        let (word, at) = (word | 1, at(level));
        match format.decode(word, at) {
            Entry::Leaf { output, attributes } => {
                prop_assert_eq!(format.leaves(output, attributes, at).unwrap().first, word);
                prop_assert!(attributes.prot().read());
            }
            Entry::Table { table, .. } if word & format.tree.bits().present != 0 && word & 0x100 == 0 => {
                let predicted = format.shortcuts(None).and_then(|all| all.step(level).address(word));
                prop_assert_eq!(predicted, Some(table.get()));
            }
            _ => {}
        }
    }

    /// Whatever can be said: it is decoded as it was said.
    #[test]
    fn encode_then_decode(
        format in any_format(), prot in 0_u8..16, pat in 0_u8..8, key in 0_u8..16, software in 0_u16..1024,
        global: bool, address: u64, level in 0_u8..6,
    ) {
        let attributes = PageAttributes::from(Prot::from_bits(prot))
            .with_pat(pat).with_protection_key(key).with_software(software).with_global(global);
        let at = at(level);
        leaves(&format, Gpa::new(address & 0x000f_ffff_ffff_f000 & !(at.size() - 1)), attributes, at);
    }
}
