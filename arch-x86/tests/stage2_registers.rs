//! Second stages from the fields of a VMCS or a VMCB, and what EPT tells of a guest's accesses.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::vcpu::Effect;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Hpa};
use pgtable_x86::{
    Controls, Ept, EptControls, EptFault, Eptp, Levels, LongMode, Npt, NptControls, Privacy,
    Registers, STAGE2_BITS, Stage2Register, Stage2Unsupported,
};

const EPT: u32 = 1 << 1;
const EPTP: u64 = 0x8000 | 3 << 3 | 6;

fn ept(eptp: u64, secondary: u32, tertiary: u64) -> Result<(Ept, Hpa), Stage2Unsupported> {
    let processor = EptControls { maxphyaddr: 46, ..EptControls::new() };
    Ept::of(Eptp::from_bits(eptp), secondary, tertiary, processor)
}

fn host(cr4: u64, efer: u64) -> Registers {
    Registers::from_raw(1 << 31 | 1, 0, 1 << 5 | cr4, 1 << 10 | 1 << 8 | efer)
}

fn npt(control: u64, cr3: u64, host: Registers) -> Result<(Npt, Hpa), Stage2Unsupported> {
    let privacy = Privacy::Encrypted { bit: 47 };
    Npt::of(control, cr3, host, NptControls { maxphyaddr: 43, privacy, ..NptControls::new() })
}

/// Every bit of every field, one at a time: what the list says of it is done.
#[test]
fn case_every_bit() {
    let whole = (ept(EPTP, EPT, 0), npt(1, 0x8000, host(0, 1 << 11)));
    for register in [
        Stage2Register::Eptp,
        Stage2Register::Secondary,
        Stage2Register::Tertiary,
        Stage2Register::NestedControl,
        Stage2Register::NestedCr3,
    ] {
        let width = if register == Stage2Register::Secondary { 32 } else { 64 };
        for bit in 0..width {
            let flip = 1_u64 << bit;
            let got = match register {
                Stage2Register::Eptp => (ept(EPTP ^ flip, EPT, 0), whole.1),
                Stage2Register::Secondary => (ept(EPTP, EPT ^ flip as u32, 0), whole.1),
                Stage2Register::Tertiary => (ept(EPTP, EPT, flip), whole.1),
                Stage2Register::NestedControl => (whole.0, npt(1 ^ flip, 0x8000, host(0, 1 << 11))),
                Stage2Register::NestedCr3 => (whole.0, npt(1, 0x8000 ^ flip, host(0, 1 << 11))),
            };
            let row = STAGE2_BITS
                .iter()
                .find(|row| row.register == register && row.mask() >> bit & 1 != 0);
            let refused = |name: &str| {
                let bits = [got.0.err(), got.1.err()];
                bits.iter().flatten().any(|error| match error {
                    Stage2Unsupported::Bit(it) => {
                        (it.register, it.bit, it.name) == (register, bit, name)
                    }
                    _ => false,
                })
            };
            let what = format!("{register} bit {bit}: {row:?}: {got:?}");
            match row.map(|row| (row.effect, row.name)) {
                None => assert!(refused("reserved"), "{what}"),
                Some((Effect::Refused, name)) => assert!(refused(name), "{what}"),
                Some((Effect::None, _)) => assert_eq!(got, whole, "{what}"),
                // The C-bit is taken off.
                Some((Effect::Modelled, _))
                    if register == Stage2Register::NestedCr3 && bit == 47 =>
                {
                    assert_eq!(got, whole, "{what}");
                }
                Some((Effect::Modelled, _)) => assert_ne!(got, whole, "{what}"),
            }
        }
    }
}

#[test]
fn case_values() {
    let (format, root) = ept(EPTP | 1 << 6 | 1 << 7, EPT | 1 << 22, 0).unwrap();
    let controls = *format.controls();
    assert_eq!(root, Hpa::new(0x8000));
    assert!(controls.accessed_dirty && controls.supervisor_shadow_stack);
    assert!(controls.mode_based_execute);
    assert_eq!(format.eptp(root), Eptp::from_bits(EPTP | 1 << 6 | 1 << 7));
    for (eptp, levels) in [(EPTP, Some(4)), (EPTP ^ 7 << 3, Some(5)), (EPTP ^ 1 << 3, None)] {
        assert_eq!(ept(eptp, EPT, 0).ok().map(|(it, _)| it.geometry().levels()), levels);
    }
    assert_eq!(ept(EPTP, 0, 0), Err(Stage2Unsupported::Off));
    assert!(ept(EPTP ^ 4, EPT, 0).is_err(), "memory type 2");
    assert!(ept(EPTP ^ 6, EPT, 0).is_ok(), "uncacheable tables");
    let refused = ept(EPTP, EPT, 1 << 2).unwrap_err().to_string();
    assert!(refused.contains("paging-write"), "{refused}");
    let (format, root) = npt(1, 1 << 47 | 0x8000, host(1 << 12, 0)).unwrap();
    assert_eq!((root, format.geometry().levels()), (Hpa::new(0x8000), 5));
    assert!(!format.controls().nxe, "the host's EFER");
    assert!(npt(1, 0x8000, Registers::default()).is_err(), "a host without long mode");
}

/// The exit qualification of a guest's access, bits 11:7, as the manual has them: of the final
/// access with the linear address's rights, of table entries without.
#[test]
fn case_advanced_information() {
    const XD: u64 = 1 << 63;
    let words = Vec::from_iter((0..0x1_0000 / 8).map(|_| AtomicU64::new(0)));
    let set = |address: usize, word| words[address / 8].store(word, Ordering::Relaxed);
    // EPT: the guest's page n at host page 8 + n; page 7 is what the rows change.
    for table in 0..3 {
        set(0x8000 + table * 0x1000, 0x9007 + table as u64 * 0x1000);
    }
    let identity = |word: u64| {
        for page in 0..7_u64 {
            set(0xb000 + page as usize * 8, page << 12 | 0x37);
        }
        set(0xb000 + 7 * 8, 7 << 12 | 0x30 | word);
    };
    // The guest: tables at 0 to 3, all marked accessed.
    for table in 0..3 {
        set(table * 0x1000, (table as u64 + 1) << 12 | 0x27);
    }
    let (read, write, fetch) = (Access::READ, Access::WRITE, Access::FETCH);
    for (leaf, ept, access, advanced, want) in [
        (0x7067, 0, read, false, 0x181),
        (0x7067, 0, read, true, 0x781), // a user's address, writable, executable
        (0x7065, 0, read, true, 0x381),
        (0x7063, 0, read, true, 0x581),
        (XD | 0x7061, 0, read, true, 0x981),
        (0x7067, 1, write, true, 0x78a),
        (0x7067, 3, fetch, true, 0x79c),
        (0x7067, 5, write, true, 0x7aa),
    ] {
        identity(ept);
        set(0x3000, leaf);
        let controls = EptControls {
            advanced_information: advanced,
            accessed_dirty: false,
            ..EptControls::new()
        };
        let second = Walker::new(
            Ept::new(Levels::Four, controls),
            DirectMap::new(&words, Hpa::new(0)),
            Hpa::new(0x8000),
        );
        let first = LongMode::new(Levels::Four, Controls::new());
        let both = TwoStage::new(first, Gpa::new(0), second);
        let found = both.translate(Gva::new(0x678), access);
        let Err(TwoStageFault::Stage2 { fault, table: None, .. }) = found else {
            panic!("{found:?}");
        };
        let EptFault::Violation(violation) = fault.arch else { panic!("{fault}") };
        let bits = violation.into_bits();
        assert_eq!(bits, want, "{access}, leaf {leaf:#x}, EPT {ept:#x}: {bits:#x}");
    }
    // A table entry's: read and write both, where EPT has accessed and dirty flags.
    identity(0);
    set(0x2000, 0x7027);
    for (accessed_dirty, want) in [(true, 0x83), (false, 0x81)] {
        let controls =
            EptControls { advanced_information: true, accessed_dirty, ..EptControls::new() };
        let second = Walker::new(
            Ept::new(Levels::Four, controls),
            DirectMap::new(&words, Hpa::new(0)),
            Hpa::new(0x8000),
        );
        let first = LongMode::new(Levels::Four, Controls::new());
        let found = TwoStage::new(first, Gpa::new(0), second).translate(Gva::new(0x678), read);
        let Err(TwoStageFault::Stage2 { fault, table: Some(_), .. }) = found else {
            panic!("{found:?}");
        };
        let EptFault::Violation(violation) = fault.arch else { panic!("{fault}") };
        assert_eq!(violation.into_bits(), want);
    }
}
