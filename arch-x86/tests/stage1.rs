//! Long mode against a walker that is written straight from the manual's prose: same translation or
//! same fault, error code and all, on random tables.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod support;

use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_x86::{Controls, KeyRegister, Levels, LongMode, LongModeFault, Privacy};
use proptest::prelude::*;
use support::{Dice, Image, access};

#[derive(Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Guest-physical address and log2 of the page size.
    Page(u64, u8),
    /// The address of the entry at which the walk ended, and the error code.
    PageFault(u64, u32),
    GeneralProtection,
}

/// SDM vol. 3 §4.5 to §4.7, as one reads it. `levels` and `level` count as the manual does: 4 =
/// PML4.
pub(crate) fn reference(
    image: &Image,
    root: u64,
    levels: u32,
    c: &Controls,
    gva: u64,
    access: Access,
) -> Outcome {
    let user = access.privilege == Privilege::User;
    let write = access.kind == AccessKind::Write;
    let fetch = access.kind == AccessKind::Fetch;

    let upper = gva >> (levels * 9 + 11);
    if upper != 0 && upper != u64::MAX >> (levels * 9 + 11) {
        return Outcome::GeneralProtection;
    }

    let mut code = 0;
    if write {
        code |= 1 << 1;
    }
    if user {
        code |= 1 << 2;
    }
    if fetch && (c.nxe || c.smep) {
        code |= 1 << 4;
    }
    if c.shadow_stack && !fetch {
        code |= 1 << 6;
    }

    let mut table = root;
    let mut level = levels;
    let (mut all_writable, mut all_user, mut any_xd) = (true, true, false);
    loop {
        let shift = 12 + 9 * (level - 1);
        let address = table + (gva >> shift & 511) * 8;
        let Some(entry) = image.read(address) else {
            return Outcome::PageFault(address, code);
        };
        // APM §15.34.5: the C-bit is no address bit, and not reserved.
        let entry = entry & !c.privacy.mask();
        let bit = |n: u32| entry >> n & 1 == 1;
        if !bit(0) {
            return Outcome::PageFault(address, code);
        }
        let is_page = level == 1 || bit(7);
        let mut reserved = false;
        for n in u32::from(c.maxphyaddr)..52 {
            reserved |= bit(n);
        }
        if !c.nxe {
            reserved |= bit(63);
        }
        if level >= 4 {
            reserved |= bit(7);
            reserved |= c.amd && bit(8);
        }
        if level == 3 && !c.gib_pages {
            reserved |= bit(7);
        }
        if is_page && level > 1 {
            for n in 13..shift {
                reserved |= bit(n);
            }
        }
        if reserved {
            return Outcome::PageFault(address, code | 1 | 1 << 3);
        }
        let tables_writable = all_writable;
        all_writable &= bit(1);
        all_user &= bit(2);
        any_xd |= bit(63);
        if !is_page {
            table = entry & 0x000f_ffff_ffff_f000;
            level -= 1;
            continue;
        }

        // The rights: §4.6.1. "User-mode address": U/S = 1 in every entry.
        let shadow_stack = c.shadow_stack && !fetch;
        let allowed = if shadow_stack {
            // A shadow-stack page of the mode of the access.
            tables_writable && !bit(1) && bit(6) && all_user == user
        } else if user {
            all_user
                && match access.kind {
                    AccessKind::Read => true,
                    AccessKind::Write => all_writable,
                    AccessKind::Fetch => !any_xd,
                }
        } else if fetch {
            if all_user && c.smep { false } else { !any_xd }
        } else {
            let smap = all_user && c.smap && !c.ac;
            let write_protected = write && c.wp && !all_writable;
            !smap && !write_protected
        };

        // Protection keys: §4.6.2.
        let key = entry >> 59 & 15;
        let rights = if all_user { c.pkru.0 } else { c.pkrs.0 } >> (2 * key);
        let keys_on = if all_user { c.pke } else { c.pks };
        let access_disabled = rights & 1 == 1;
        let write_disabled = rights & 2 == 2 && (user || c.wp);
        let key_forbids = keys_on && !fetch && (access_disabled || write && write_disabled);

        if key_forbids {
            code |= 1 << 5;
        }
        if key_forbids || !allowed {
            return Outcome::PageFault(address, code | 1);
        }
        let page = entry & 0x000f_ffff_ffff_f000 & !((1 << shift) - 1);
        return Outcome::Page(page | gva & ((1 << shift) - 1), shift as u8);
    }
}

fn word(dice: &mut Dice) -> u64 {
    let mut word = dice.word() & 0x7ff0_0000_0000_0e7e | dice.stray();
    if !dice.one_in(15) {
        word |= 1;
    }
    if !dice.one_in(4) {
        word |= 2;
    }
    if !dice.one_in(4) {
        word |= 4;
    }
    if dice.one_in(6) {
        word |= 1 << 63;
    }
    if dice.one_in(20) {
        word |= 1 << 8;
    }
    if dice.one_in(10) {
        word | 0x80 | dice.huge() | (dice.word() & 1) << 12
    } else {
        word | dice.table()
    }
}

pub(crate) fn outcome(format: LongMode, image: &Image, gva: u64, access: Access) -> Outcome {
    match Walker::new(format, image.memory(), Gpa::new(0)).translate(Gva::new(gva), access) {
        Ok(page) => Outcome::Page(page.output.get(), page.shift),
        Err(fault) => match fault.arch {
            LongModeFault::GeneralProtection => Outcome::GeneralProtection,
            LongModeFault::PageFault(code) => {
                Outcome::PageFault(fault.entry.unwrap().get(), code.into_bits())
            }
        },
    }
}

/// No such bit, or any of those that the tables set now and then.
pub(crate) fn privacy() -> impl Strategy<Value = Privacy> {
    prop_oneof![
        Just(Privacy::None),
        (32_u8..52).prop_map(|bit| Privacy::Encrypted { bit }),
        (32_u8..52).prop_map(|bit| Privacy::Shared { bit }),
    ]
}

prop_compose! {
    fn controls()(
        bits: u16, ac: bool, pkru: u32, pkrs: u32, maxphyaddr in prop_oneof![Just(52_u8), 36_u8..52],
        privacy in privacy(),
    ) -> Controls {
        let bit = |n: u16| bits >> n & 1 == 1;
        Controls {
            wp: bit(0), smep: bit(1), smap: bit(2), ac, nxe: bits & 0x600 != 0, pke: bit(3), pks: bit(4),
            pkru: KeyRegister(pkru), pkrs: KeyRegister(pkrs), gib_pages: bit(5), maxphyaddr, amd: bit(6), privacy,
            cet: bit(7), shadow_stack: bit(7) && bit(8), ..Controls::new()
        }
    }
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(400))]

    #[test]
    fn the_manual_agrees(controls in controls(), five: bool, seed: u64, canonical in 0_u8..20, access in access()) {
        let mut dice = Dice(seed);
        let image = Image::new(|| word(&mut dice));
        let (levels, number) = if five { (Levels::Five, 5) } else { (Levels::Four, 4) };
        let format = LongMode::new(levels, controls);
        let unused = 64 - (12 + 9 * number);
        for _ in 0..64 {
            let any = dice.word();
            let gva = if canonical == 0 { any } else { ((any << unused) as i64 >> unused) as u64 };
            let want = reference(&image, 0, number, &controls, gva, access);
            prop_assert_eq!(outcome(format, &image, gva, access), want, "{} at {:#x}", access, gva);
        }
    }
}

/// The random tables are worth their while: all outcomes come up.
#[test]
fn every_outcome_comes_up() {
    let mut dice = Dice(1);
    let mut seen = std::collections::BTreeMap::<String, u32>::new();
    for _ in 0..200 {
        let image = Image::new(|| word(&mut dice));
        for _ in 0..64 {
            let gva = ((dice.word() << 16) as i64 >> 16) as u64;
            let controls = Controls {
                pke: true,
                pkru: KeyRegister(dice.word() as u32),
                maxphyaddr: 40,
                ..Controls::new()
            };
            let outcome = match reference(&image, 0, 4, &controls, gva, Access::WRITE.by_user()) {
                Outcome::Page(_, shift) => format!("page 2^{shift}"),
                Outcome::PageFault(_, code) => format!("#PF {code:#x}"),
                Outcome::GeneralProtection => "#GP".into(),
            };
            *seen.entry(outcome).or_default() += 1;
        }
    }
    for outcome in
        ["page 2^12", "page 2^21", "page 2^30", "#PF 0x6", "#PF 0x7", "#PF 0xf", "#PF 0x27"]
    {
        assert!(seen.get(outcome).is_some_and(|&times| times >= 10), "{outcome} among {seen:?}");
    }
}
