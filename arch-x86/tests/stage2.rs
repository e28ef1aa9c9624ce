//! EPT and nested paging against walkers that are written straight from the manuals' prose, on
//! random tables.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod support;

use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Hpa, Privilege};
use pgtable_x86::{Ept, EptControls, EptFault, Levels, Npt, NptControls, Privacy};
use proptest::prelude::*;
use support::{Dice, Image, access};

#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Host-physical address and log2 of the page size.
    Page(u64, u8),
    /// Exit qualification or exit info.
    Fault(u64),
    Misconfiguration,
}

/// SDM vol. 3 §29.3.2 and §29.3.3, as one reads it. `level` counts as the manual does: 4 = EPT
/// PML4.
pub(crate) fn ept(
    image: &Image,
    levels: u32,
    c: &EptControls,
    gpa: u64,
    access: Access,
) -> Outcome {
    let mut qualification = 1 << 7 | 1 << 8;
    qualification |= match access.kind {
        AccessKind::Read => 1,
        AccessKind::Write => 2,
        AccessKind::Fetch => 4,
    };
    if c.shadow_stack && access.kind != AccessKind::Fetch {
        qualification |= 1 << 13;
    }
    if gpa >> (12 + 9 * levels) != 0 {
        return Outcome::Fault(qualification);
    }
    let mut table = 0;
    let mut level = levels;
    let (mut r, mut w, mut x, mut xu) = (true, true, true, true);
    loop {
        let shift = 12 + 9 * (level - 1);
        let Some(entry) = image.read(table + (gpa >> shift & 511) * 8) else {
            return Outcome::Fault(qualification);
        };
        let bit = |n: u32| entry >> n & 1 == 1;
        let field = |low: u32, high: u32| (low..=high).any(bit);
        if !(field(0, 2) || c.mode_based_execute && bit(10)) {
            return Outcome::Fault(qualification);
        }

        // §29.3.3.1.
        if !bit(0) && bit(1) {
            return Outcome::Misconfiguration;
        }
        if !c.execute_only && !bit(0) && (bit(2) || c.mode_based_execute && bit(10)) {
            return Outcome::Misconfiguration;
        }
        for n in u32::from(c.maxphyaddr)..52 {
            if bit(n) {
                return Outcome::Misconfiguration;
            }
        }
        let is_page = level == 1 || bit(7) && (level == 2 || level == 3 && c.gib_pages);
        if is_page {
            if [2, 3, 7].contains(&(entry >> 3 & 7)) || level > 1 && field(12, shift - 1) {
                return Outcome::Misconfiguration;
            }
        } else if field(3, 7) {
            return Outcome::Misconfiguration;
        }

        let tables_writable = w;
        r &= bit(0);
        w &= bit(1);
        x &= bit(2);
        xu &= bit(10);
        if !is_page {
            table = entry & 0x000f_ffff_ffff_f000;
            level -= 1;
            continue;
        }

        // §29.3.3.2.
        let user_fetch = c.mode_based_execute && access.privilege == Privilege::User;
        let shadow_stack = c.shadow_stack && access.kind != AccessKind::Fetch;
        let supervisor = access.privilege == Privilege::Supervisor;
        let allowed = match access.kind {
            _ if c.supervisor_shadow_stack && shadow_stack && supervisor => {
                r && tables_writable && bit(60)
            }
            AccessKind::Read => r,
            AccessKind::Write => w,
            AccessKind::Fetch => {
                if user_fetch {
                    xu
                } else {
                    x
                }
            }
        };
        if !allowed {
            let rights = [
                (r, 3),
                (w, 4),
                (x, 5),
                (xu && c.mode_based_execute, 6),
                (c.supervisor_shadow_stack && bit(60), 14),
            ];
            return Outcome::Fault(
                rights
                    .iter()
                    .fold(qualification, |sum, (granted, n)| sum | u64::from(*granted) << n),
            );
        }
        let offset = (1 << shift) - 1;
        return Outcome::Page(entry & 0x000f_ffff_ffff_f000 & !offset | gpa & offset, shift as u8);
    }
}

fn ept_word(dice: &mut Dice) -> u64 {
    let mut word = dice.word() & 0xfff0_0000_0000_0f00 | dice.stray();
    word |= match dice.word() % 12 {
        0 => dice.word() & 7,
        1 => 4,
        2 => 5,
        3 => 3,
        4 => 1,
        _ => 7,
    };
    if dice.one_in(25) {
        word |= dice.word() & 0x78;
    }
    if dice.one_in(10) { word | 0xb0 | dice.huge() } else { word | dice.table() }
}

/// APM vol. 2 §15.25, as one reads it: like long mode, but every access is a user's.
pub(crate) fn npt(
    image: &Image,
    levels: u32,
    c: &NptControls,
    gpa: u64,
    access: Access,
) -> Outcome {
    let mut info = 1 << 32 | 1 << 2;
    if access.kind == AccessKind::Write {
        info |= 1 << 1;
    }
    if access.kind == AccessKind::Fetch && c.nxe {
        info |= 1 << 4;
    }
    if gpa >> (12 + 9 * levels) != 0 {
        return Outcome::Fault(info);
    }
    let mut table = 0;
    let mut level = levels;
    let mut allowed = true;
    loop {
        let shift = 12 + 9 * (level - 1);
        let Some(entry) = image.read(table + (gpa >> shift & 511) * 8) else {
            return Outcome::Fault(info);
        };
        // APM §7.10: the C-bit is no address bit, and not reserved.
        let entry = entry & !c.privacy.mask();
        let bit = |n: u32| entry >> n & 1 == 1;
        if !bit(0) {
            return Outcome::Fault(info);
        }
        let is_page = level == 1 || bit(7);
        let reserved = (u32::from(c.maxphyaddr)..52).any(bit)
            || bit(63) && !c.nxe
            || bit(7) && (level >= 4 || level == 3 && !c.gib_pages)
            || bit(8) && level >= 4
            || is_page && (13..shift).any(bit);
        if reserved {
            return Outcome::Fault(info | 1 | 1 << 3);
        }
        allowed &= bit(2);
        allowed &= access.kind != AccessKind::Write || bit(1);
        allowed &= access.kind != AccessKind::Fetch || !bit(63);
        if !is_page {
            table = entry & 0x000f_ffff_ffff_f000;
            level -= 1;
        } else if allowed {
            let offset = (1 << shift) - 1;
            return Outcome::Page(
                entry & 0x000f_ffff_ffff_f000 & !offset | gpa & offset,
                shift as u8,
            );
        } else {
            return Outcome::Fault(info | 1);
        }
    }
}

fn npt_word(dice: &mut Dice) -> u64 {
    let mut word = dice.word() & 0x7ff0_0000_0000_0e78 | dice.stray();
    word |= match dice.word() % 10 {
        0 => dice.word() & 7,
        1 => 5,
        2 => 3,
        _ => 7,
    };
    if dice.one_in(6) {
        word |= 1 << 63;
    }
    if dice.one_in(30) {
        word |= 1 << 8;
    }
    if dice.one_in(10) { word | 0x80 | dice.huge() } else { word | dice.table() }
}

fn levels(five: bool) -> (Levels, u32) {
    if five { (Levels::Five, 5) } else { (Levels::Four, 4) }
}

/// An address within the tree, mostly.
fn address(dice: &mut Dice, levels: u32) -> u64 {
    if dice.one_in(40) { dice.word() } else { dice.word() >> (64 - (12 + 9 * levels)) }
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(400))]

    #[test]
    fn ept_as_the_manual_says(
        mode_based_execute: bool, accessed_dirty: bool, execute_only: bool, gib_pages: bool, five: bool, seed: u64,
        maxphyaddr in prop_oneof![Just(52_u8), 36_u8..52], access in access(), shadow in 0_u8..4,
    ) {
        let controls = EptControls {
            mode_based_execute, accessed_dirty, execute_only, gib_pages, maxphyaddr,
            supervisor_shadow_stack: shadow & 1 != 0, shadow_stack: shadow & 2 != 0,
            ..EptControls::new()
        };
        let mut dice = Dice(seed);
        let image = Image::new(|| ept_word(&mut dice));
        let (levels, number) = levels(five);
        let walker = Walker::new(Ept::new(levels, controls), image.memory(), Hpa::new(0));
        for _ in 0..64 {
            let gpa = address(&mut dice, number);
            let got = match walker.translate(Gpa::new(gpa), access) {
                Ok(page) => Outcome::Page(page.output.get(), page.shift),
                Err(fault) => match fault.arch {
                    EptFault::Violation(violation) => Outcome::Fault(violation.into_bits()),
                    EptFault::Misconfiguration => Outcome::Misconfiguration,
                },
            };
            prop_assert_eq!(got, ept(&image, number, &controls, gpa, access), "{} at {:#x}", access, gpa);
        }
    }

    #[test]
    fn npt_as_the_manual_says(
        nxe: bool, gib_pages: bool, five: bool, seed: u64, maxphyaddr in prop_oneof![Just(52_u8), 36_u8..52],
        access in access(), bit in prop_oneof![Just(0_u8), 32_u8..52],
    ) {
        let privacy = if bit == 0 { Privacy::None } else { Privacy::Encrypted { bit } };
        let controls = NptControls { nxe, gib_pages, maxphyaddr, privacy };
        let mut dice = Dice(seed);
        let image = Image::new(|| npt_word(&mut dice));
        let (levels, number) = levels(five);
        let walker = Walker::new(Npt::new(levels, controls), image.memory(), Hpa::new(0));
        for _ in 0..64 {
            let gpa = address(&mut dice, number);
            let got = match walker.translate(Gpa::new(gpa), access) {
                Ok(page) => Outcome::Page(page.output.get(), page.shift),
                Err(fault) => Outcome::Fault(fault.arch.into_bits()),
            };
            prop_assert_eq!(got, npt(&image, number, &controls, gpa, access), "{} at {:#x}", access, gpa);
        }
    }
}

/// What an exit handler reads of a fault is the access that the walk was asked for.
#[test]
fn accesses_of_faults() {
    let image = Image::new(|| 0);
    for access in pgtable_conformance::words::ACCESSES {
        let ept =
            Walker::new(Ept::new(Levels::Four, EptControls::new()), image.memory(), Hpa::new(0));
        let EptFault::Violation(violation) =
            ept.translate(Gpa::new(0x1000), access).unwrap_err().arch
        else {
            panic!("entries are absent")
        };
        assert_eq!(violation.access(), Access { privilege: Privilege::Supervisor, ..access });
        // The page of a table that is read, or, with accessed and dirty flags, written.
        let table = violation.of_guest_table();
        assert_eq!(table.access().kind, access.kind);
        for nxe in [false, true] {
            let format = Npt::new(Levels::Four, NptControls { nxe, ..NptControls::new() });
            let npt = Walker::new(format, image.memory(), Hpa::new(0));
            let fault = npt.translate(Gpa::new(0x1000), access).unwrap_err().arch;
            // Without EFER.NXE a fetch is not told.
            let kind = if nxe || access.kind == AccessKind::Write {
                access.kind
            } else {
                AccessKind::Read
            };
            let told = Access { kind, privilege: Privilege::User };
            assert_eq!(fault.access(), told, "{access}, NXE {nxe}");
            assert_eq!(fault.of_guest_table().access(), Npt::GUEST_TABLE_ACCESS);
            let code = fault.code().with_us(false);
            assert_eq!(code.access(), Access { privilege: Privilege::Supervisor, ..told });
        }
    }
}

/// The random tables are worth their while: all outcomes come up.
#[test]
fn every_outcome_comes_up() {
    let mut dice = Dice(1);
    let (mut intel, mut amd) = ([0; 6], [0; 6]);
    let count = |seen: &mut [u32; 6], outcome: Outcome, absent: u64| {
        let index = match outcome {
            Outcome::Page(_, shift) => usize::from(shift - 12) / 9,
            Outcome::Misconfiguration => 3,
            Outcome::Fault(info) if info == absent => 4,
            Outcome::Fault(_) => 5,
        };
        seen[index] += 1;
    };
    for _ in 0..200 {
        let (ept_image, npt_image) =
            (Image::new(|| ept_word(&mut dice)), Image::new(|| npt_word(&mut dice)));
        for _ in 0..64 {
            let gpa = address(&mut dice, 4);
            let of_ept = ept(&ept_image, 4, &EptControls::new(), gpa, Access::WRITE);
            count(&mut intel, of_ept, 0x182);
            let of_npt = match npt(&npt_image, 4, &NptControls::new(), gpa, Access::WRITE) {
                Outcome::Fault(info) if info & 8 != 0 => Outcome::Misconfiguration,
                other => other,
            };
            count(&mut amd, of_npt, 0x1_0000_0006);
        }
    }
    assert!(intel.iter().chain(&amd).all(|&times| times >= 10), "{intel:?} {amd:?}");
}
