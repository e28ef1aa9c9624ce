//! Registers and small fields, bit by bit as the manuals number them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::format::Format;
use pgtable::{Attributes, Gpa, Hpa, Position, Prot};
use pgtable_x86::{
    Controls, Cr0, Cr3, Cr3Pcid, Cr4, Efer, Ept, EptAttributes, EptControls, EptViolation, Levels,
    NestedPageFault, Paging, Pcid, Registers,
};

/// SDM Table 25-9: write-back, the walk's length less one, accessed and dirty flags, the root.
#[test]
fn eptp() {
    for (levels, accessed_dirty, low) in [
        (Levels::Four, true, 0b101_1110),
        (Levels::Four, false, 0b001_1110),
        (Levels::Five, true, 0b110_0110),
        (Levels::Five, false, 0b010_0110),
    ] {
        let ept = Ept::new(levels, EptControls { accessed_dirty, ..EptControls::new() });
        let root = Hpa::new(0x000f_edcb_a987_6000);
        assert_eq!(ept.eptp(root).into_bits(), root.get() | low);
        assert_eq!(
            ept.eptp(Hpa::new(0xfff)).into_bits(),
            low,
            "what is no frame's address does not count"
        );
    }
}

/// SDM Table 4-12: the PCID in bits 11:0, bit 63 of a MOV's operand.
#[test]
fn cr3_with_a_process_context() {
    let pcid = Pcid::new(0xabc).unwrap();
    assert_eq!((pcid.get(), Pcid::new(4096)), (0xabc, None));
    let cr3 = Cr3Pcid::of(Gpa::new(0x1234_5000), pcid);
    assert_eq!(cr3.into_bits(), 0x1234_5abc);
    assert_eq!(cr3.with_no_flush(true).into_bits(), 0x8000_0000_1234_5abc);
    assert_eq!(Cr3::of(Gpa::new(0x1234_5000)).root(), Gpa::new(0x1234_5000));
}

/// Bit 0 stands in the entry's bit 11, bits 5:1 in its bits 56:52; the rest of the word is what it
/// was.
#[test]
fn software_bits_of_ept() {
    let ept = Ept::new(Levels::Four, EptControls::new());
    let at = Position { level: pgtable::Level(0), shift: 12 };
    let plain = EptAttributes::from(Prot::RWX);
    for bits in 0..=u8::MAX {
        let page = plain.with_software(bits);
        assert_eq!(page.software(), bits & 0x3f);
        let bits = u64::from(bits);
        let word = ept.leaves(pgtable::Address::new(0), page, at).unwrap().first;
        assert_eq!(
            word ^ ept.leaves(pgtable::Address::new(0), plain, at).unwrap().first,
            (bits & 1) << 11 | (bits >> 1 & 0x1f) << 52
        );
        assert_eq!((page.prot(), page.memory_type()), (plain.prot(), plain.memory_type()));
    }
}

/// SDM Table 29-7: of a guest's page-table entry bit 8 is clear, and the access is a read besides.
/// AMD APM volume 2, 15.25.6: bit 33 instead of 32.
#[test]
fn faults_of_a_guests_tables() {
    let violation = EptViolation::from_bits(0x182);
    assert_eq!(violation.of_guest_table().into_bits(), 0x083);
    let fault = NestedPageFault::from_bits(1 << 32 | 7);
    assert_eq!(fault.of_guest_table().into_bits(), 1 << 33 | 7);
}

/// Each control is its register's bit, and no other's.
#[test]
fn how_a_vcpu_translates() {
    let long = Registers {
        cr0: Cr0::from_bits(1 << 31 | 1),
        cr3: Cr3::from_bits(0x7000),
        cr4: Cr4::from_bits(1 << 5),
        efer: Efer::from_bits(1 << 10 | 1 << 8),
    };
    let controls =
        |registers: Registers, processor: Controls| match Paging::of(registers, processor) {
            Ok(Paging::Long { format, root, .. }) => {
                assert_eq!(root, Gpa::new(0x7000));
                (*format.controls(), format.levels())
            }
            other => panic!("{other:?}"),
        };
    let none = Controls {
        wp: false,
        smep: false,
        smap: false,
        nxe: false,
        pke: false,
        pks: false,
        cet: false,
        ..Controls::new()
    };
    let all = Controls {
        wp: true,
        smep: true,
        smap: true,
        nxe: true,
        pke: true,
        pks: true,
        ..Controls::new()
    };
    // What the registers say counts, not what the processor is said to do.
    for processor in [none, all] {
        assert_eq!(controls(long, processor), (none, Levels::Four));
        let cr0 = |bits| Registers { cr0: Cr0::from_bits(long.cr0.into_bits() | bits), ..long };
        let cr4 = |bits| Registers { cr4: Cr4::from_bits(long.cr4.into_bits() | bits), ..long };
        let efer = |bits| Registers { efer: Efer::from_bits(long.efer.into_bits() | bits), ..long };
        assert_eq!(controls(cr0(1 << 16), processor).0, Controls { wp: true, ..none });
        assert_eq!(controls(cr4(1 << 20), processor).0, Controls { smep: true, ..none });
        assert_eq!(controls(cr4(1 << 21), processor).0, Controls { smap: true, ..none });
        assert_eq!(controls(cr4(1 << 22), processor).0, Controls { pke: true, ..none });
        assert_eq!(controls(cr4(1 << 24), processor).0, Controls { pks: true, ..none });
        let cet = Registers { cr0: Cr0::from_bits(1 << 31 | 1 << 16 | 1), ..cr4(1 << 23) };
        assert_eq!(controls(cet, processor).0, Controls { wp: true, cet: true, ..none });
        assert_eq!(controls(efer(1 << 11), processor).0, Controls { nxe: true, ..none });
        assert_eq!(controls(cr4(1 << 12), processor), (none, Levels::Five));
    }
}
