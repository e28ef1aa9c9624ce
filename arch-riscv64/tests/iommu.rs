//! The IOMMU's words, bit by bit as its specification has them, and a walk from the directory to
//! the trees that they refer to.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::{Gpa, Hpa};
use pgtable_riscv64::{
    Controls, DeviceContext, Extensions, GuestControls, Iohgatp, Mode, ProcessDirectory, Satp, Sv,
    SvX4, TranslationControl, ddtp, device_indices, directory_entry, process_context,
    process_indices,
};

const ADUE: Extensions = Extensions { adue: true, ..Extensions::new() };

#[test]
fn translation_control() {
    let new = TranslationControl::new;
    for (name, word, bit) in [
        ("V", new().with_valid(true), 0),
        ("EN_ATS", new().with_en_ats(true), 1),
        ("EN_PRI", new().with_en_pri(true), 2),
        ("T2GPA", new().with_t2gpa(true), 3),
        ("DTF", new().with_dtf(true), 4),
        ("PDTV", new().with_pdtv(true), 5),
        ("PRPR", new().with_prpr(true), 6),
        ("GADE", new().with_gade(true), 7),
        ("SADE", new().with_sade(true), 8),
        ("DPE", new().with_dpe(true), 9),
        ("SBE", new().with_sbe(true), 10),
        ("SXL", new().with_sxl(true), 11),
    ] {
        assert_eq!(word.into_bits(), 1_u64 << bit, "{name}");
    }
    assert_eq!(new().with_custom(0xff).into_bits(), 0xff00_0000);
}

#[test]
fn device_contexts() {
    for (mode, code) in [(Mode::Sv39, 8), (Mode::Sv48, 9), (Mode::Sv57, 10_u64)] {
        for (extensions, first_updates, second_updates) in
            [(Extensions::new(), 0, 0), (ADUE, 1 << 8, 1 << 7)]
        {
            let first = Sv::new(mode, Controls { extensions, ..Controls::new() });
            let second = SvX4::new(mode, GuestControls { extensions, ..GuestControls::new() });
            let none = DeviceContext::new();
            assert_eq!(none.words(), [1, 0, 0, 0]);
            let guest = none.with_second_stage(&second, Hpa::new(0x8000_4000), 0xffff);
            let iohgatp = code << 60 | 0xffff << 44 | 0x8_0004;
            assert_eq!(guest.words(), [1 | second_updates, iohgatp, 0, 0]);
            let both = guest.with_first_stage(&first, Gpa::new(0x1000), 0xf_ffff);
            let words = [1 | second_updates | first_updates, iohgatp, 0xffff_f000, code << 60 | 1];
            assert_eq!(both.words(), words);
            assert_eq!(both.extended_words()[..4], words);
            assert_eq!(both.extended_words()[4..], [0; 4]);
            for (directory, levels) in [
                (ProcessDirectory::Pd8, 1_u64),
                (ProcessDirectory::Pd17, 2),
                (ProcessDirectory::Pd20, 3),
            ] {
                let processes = both.with_processes(directory, Gpa::new(0x3000), false);
                let words = [1 | second_updates | 1 << 5, iohgatp, 0, levels << 60 | 3];
                assert_eq!(processes.words(), words);
                // And back to one address space.
                let again = processes.with_first_stage(&first, Gpa::new(0x1000), 0xf_ffff);
                assert_eq!(again, both);
            }
        }
    }
    let iohgatp = Iohgatp::from_bits(u64::MAX);
    assert_eq!((iohgatp.ppn(), iohgatp.gscid(), iohgatp.mode()), ((1 << 44) - 1, u16::MAX, 15));
}

#[test]
fn process_contexts() {
    for (sum, supervisor, low) in
        [(false, false, 1), (true, false, 1), (false, true, 3), (true, true, 7)]
    {
        let format = Sv::new(Mode::Sv48, Controls { sum, ..Controls::new() });
        let words = process_context(&format, Gpa::new(0x5000), 0x12345, supervisor);
        assert_eq!(words, [0x1234_5000 | low, 9 << 60 | 5], "{sum} {supervisor}");
        assert_eq!(Satp::from_bits(words[1]).root(), Gpa::new(0x5000));
    }
}

#[test]
fn directories() {
    assert_eq!(directory_entry(Hpa::new(0x8000_1000)), 0x8_0001 << 10 | 1);
    for (levels, word) in [(0, None), (1, Some(2)), (2, Some(3)), (3, Some(4)), (4, None)] {
        let want = word.map(|mode| 0x8_0001 << 10 | mode);
        assert_eq!(ddtp(Hpa::new(0x8000_1000), levels), want);
    }
    for (device, base, extended) in [
        (0, [0, 0, 0], [0, 0, 0]),
        (0x7f, [0x7f, 0, 0], [0x3f, 1, 0]),
        (0x80, [0, 1, 0], [0, 2, 0]),
        (0x8000, [0, 0x100, 0], [0, 0, 1]),
        (0xff_ffff, [0x7f, 0x1ff, 0xff], [0x3f, 0x1ff, 0x1ff]),
        // Beyond 24 bits nothing counts.
        (0xff00_0001, [1, 0, 0], [1, 0, 0]),
    ] {
        assert_eq!(device_indices(device, false), base, "{device:#x}");
        assert_eq!(device_indices(device, true), extended, "{device:#x}");
    }
    for (process, indices) in [
        (0xff, [0xff, 0, 0]),
        (0x100, [0, 1, 0]),
        (0x2_0000, [0, 0, 1]),
        (0xf_ffff, [0xff, 0x1ff, 7]),
    ] {
        assert_eq!(process_indices(process), indices, "{process:#x}");
    }
}
