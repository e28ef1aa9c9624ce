//! Walks against a model that is written from the manual: every low bit of an entry with every
//! access and every control, and random trees through one stage and two.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::cache::{Generation, TranslationCache};
use pgtable::memory::DirectMap;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Fault, Gpa, Gva, Hpa, Privilege};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode, Sv, SvX4, Trap};
use support::{Dice, Hart, Memory, Outcome, Stage};

fn trap(trap: Trap) -> Outcome {
    let Trap { exception, stval, htval, htinst } = trap;
    Outcome::Trap { cause: exception.code().into(), stval, htval, htinst }
}

/// Tables in an image.
const TABLES: u64 = 24;

struct Image {
    words: Vec<AtomicU64>,
    memory: Memory,
}

impl Image {
    fn new(mut word: impl FnMut(u64) -> u64) -> Self {
        let words: Vec<u64> = (0..TABLES * 512).map(|n| word(n * 8)).collect();
        Self {
            memory: words.iter().enumerate().map(|(n, &word)| (n as u64 * 8, word)).collect(),
            words: words.into_iter().map(AtomicU64::new).collect(),
        }
    }

    /// The words that differ from what they were.
    fn written(&self) -> Vec<(u64, u64)> {
        let now = self.words.iter().map(|word| word.load(Ordering::Relaxed));
        let now = now.enumerate().map(|(n, word)| (n as u64 * 8, word));
        now.filter(|(address, word)| self.memory[address] != *word).collect()
    }
}

const ACCESSES: [AccessKind; 3] = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];

fn accesses() -> impl Iterator<Item = Access> {
    let privileges = [Privilege::User, Privilege::Supervisor];
    ACCESSES
        .into_iter()
        .flat_map(move |kind| privileges.map(|privilege| Access { kind, privilege }))
}

/// Every value of what `entry` involves, with all that it does not involve on and off.
fn extensions(entry: u64) -> impl Iterator<Item = Extensions> {
    (0..8).map(move |bits| {
        let involved = |mask| bits & if entry & mask != 0 { 2 } else { 4 } != 0;
        Extensions {
            adue: bits & 1 != 0,
            pbmte: involved(3 << 61),
            svnapot: involved(1 << 63),
            rsw60t59b: involved(3 << 59),
        }
    })
}

/// What stands in an entry above bit 7: RSW, an address, reserved bits, memory types, N.
fn high_parts() -> Vec<u64> {
    let address = (1_u64 << 39) >> 2;
    let mut parts = vec![0, 3 << 8, address, 1 << 10, 1 << 18, 1 << 19, 1 << 27, 1 << 28];
    parts.extend((54..64).map(|n| 1 << n));
    parts.extend([3 << 61, 3 << 59]);
    // Every size that N may encode.
    parts.extend((1..16).map(|size| size << 10 | 1 << 63));
    parts
}

/// All 256 low bytes of an entry at `level` in an otherwise plain way.
fn entries(mode: Mode, level: u64) -> impl Iterator<Item = (u64, u64)> {
    let root = u64::from(mode.levels()) - 1;
    // The tables of the way stand at 0x4000, 0x5000, …; the entry in the last of them.
    let at = if level == root { 0 } else { 0x4000 + (root - level - 1) * 0x1000 };
    high_parts().into_iter().flat_map(move |high| (0..256).map(move |low| (at, high | low)))
}

fn any_extensions(dice: &mut Dice) -> Extensions {
    let [adue, pbmte, svnapot, rsw60t59b] = [0; 4].map(|_| dice.one_in(2));
    Extensions { adue, pbmte, svnapot, rsw60t59b }
}

/// A plain way down to level 0.
fn way(mode: Mode) -> Image {
    let last = 0x4000 + (u64::from(mode.levels()) - 2) * 0x1000;
    Image::new(|address| match address {
        0 => 0x4000 >> 2 | 1,
        _ if address & 0xfff == 0 && (0x4000..last).contains(&address) => {
            (address + 0x1000) >> 2 | 1
        }
        _ => 0,
    })
}

#[test]
fn every_entry_of_a_first_stage() {
    for mode in Mode::ALL {
        let mut image = way(mode);
        for level in [0, 1, u64::from(mode.levels()) - 1] {
            for (at, entry) in entries(mode, level) {
                let plain = image.memory.insert(at, entry).unwrap();
                for extensions in extensions(entry) {
                    for (sum, mxr) in [(false, false), (true, false), (false, true), (true, true)] {
                        let controls = Controls { sum, mxr, extensions };
                        for access in accesses() {
                            first_stage(&image, at, entry, mode, controls, access);
                        }
                    }
                }
                image.words[at as usize / 8].store(plain, Ordering::Relaxed);
                let _ = image.memory.insert(at, plain);
            }
        }
    }
}

/// One access through the image whose word at `at` is `entry`; recorded bits are compared too.
fn first_stage(image: &Image, at: u64, entry: u64, mode: Mode, controls: Controls, access: Access) {
    image.words[at as usize / 8].store(entry, Ordering::Relaxed);
    let stage = Stage::first(mode, 0, controls);
    let load = |address| image.memory.get(&address).copied();
    let mut hart = Hart::new(&load, Some(stage), None);
    let want = hart.access(0x123, access);
    let case = || format!("{entry:#x} at {at:#x}: {access} in {mode:?} under {controls:?}");
    let memory = DirectMap::new(&image.words, Gpa::new(0));
    let walker = Walker::new(Sv::new(mode, controls), memory, Gpa::new(0));
    let outcome = |found: Result<_, Fault<Sv>>| match found {
        Ok((output, shift)) => Outcome::Page(Gpa::get(output), shift),
        Err(fault) => trap(Trap::from(&fault)),
    };
    let found = walker.translate(Gva::new(0x123), access);
    assert_eq!(outcome(found.map(|it| (it.output, it.shift.into()))), want, "{}", case());
    let found = walker.access(Gva::new(0x123), access);
    assert_eq!(outcome(found.map(|it| (it.output, it.shift.into()))), want, "{}", case());
    let now = image.words[at as usize / 8].load(Ordering::Relaxed);
    assert_eq!(now, hart.written.get(&at).copied().unwrap_or(entry), "written: {}", case());
}

/// A guest stage by itself: explicit loads are a user's.
#[test]
fn every_entry_of_a_guest_stage() {
    for mode in Mode::ALL {
        let mut image = way(mode);
        for level in [0, 1, u64::from(mode.levels()) - 1] {
            for (at, entry) in entries(mode, level) {
                let plain = image.memory.insert(at, entry).unwrap();
                image.words[at as usize / 8].store(entry, Ordering::Relaxed);
                for extensions in extensions(entry) {
                    for mxr in [false, true] {
                        let controls = GuestControls { mxr, extensions };
                        for kind in ACCESSES {
                            guest_stage(&image, entry, mode, controls, kind);
                        }
                    }
                }
                image.words[at as usize / 8].store(plain, Ordering::Relaxed);
                let _ = image.memory.insert(at, plain);
            }
        }
    }
}

fn guest_stage(image: &Image, entry: u64, mode: Mode, controls: GuestControls, kind: AccessKind) {
    let stage = Stage::guest(mode, 0, controls);
    let load = |address| image.memory.get(&address).copied();
    let mut hart = Hart::new(&load, None, Some(stage));
    let access = Access { kind, privilege: Privilege::User };
    let want = hart.access(0x120, access);
    let memory = DirectMap::new(&image.words, Hpa::new(0));
    let walker = Walker::new(SvX4::new(mode, controls), memory, Hpa::new(0));
    let found = match walker.translate(Gpa::new(0x120), access) {
        Ok(it) => Outcome::Page(it.output.get(), it.shift.into()),
        Err(fault) => trap(Trap::from(&fault)),
    };
    assert_eq!(found, want, "{entry:#x}: {access} in {mode:?}x4 under {controls:?}");
}

/// Any entry: a table in the image, or a page there, or nothing of the kind.
fn any_entry(dice: &mut Dice) -> u64 {
    let page = if dice.one_in(20) { dice.below(1 << 44) } else { dice.below(TABLES) };
    let low = match dice.below(8) {
        0 => dice.below(256),
        1..=3 => 1,
        4 => 0xdf & !(1 << dice.below(8)),
        5 => 0xd9,
        _ => 0x1f,
    };
    let superpage = if low & 0xe != 0 && dice.one_in(4) { page << 18 } else { page };
    let high = if dice.one_in(5) { 1 << (54 + dice.below(10)) } else { 0 };
    superpage << 10 & 0x003f_ffff_ffff_fc00 | low | dice.below(4) << 8 | high
}

/// The first half of the image are a guest stage's tables, which map low addresses to the second
/// half: mostly tables of a first stage, which lead to low addresses.
fn entry(dice: &mut Dice, address: u64) -> u64 {
    const HALF: u64 = TABLES / 2;
    let page = |dice: &mut Dice, from| from + dice.below(HALF);
    let recorded = |dice: &mut Dice| dice.of(&[0, 0x40, 0xc0, 0xc0, 0xc0, 0xc0, 0xc0]);
    if dice.one_in(25) {
        any_entry(dice)
    } else if address >> 12 >= HALF {
        // Tables at indices below 256, pages above: some huge, some beyond what the guest has.
        match dice.below(10) {
            _ if address & 0x800 == 0 => page(dice, HALF) << 10 | 1,
            0 => page(dice, HALF) << (19 + 9 * dice.below(2)) | 0x1f | recorded(dice),
            1 => page(dice, 2 * TABLES) << 10 | 0x1f | recorded(dice),
            _ => page(dice, HALF) << 10 | dice.of(&[0xf, 0x1f]) | recorded(dice),
        }
    } else if address & 0xfff == 0 && !dice.one_in(30) {
        page(dice, 0) << 10 | 1
    } else {
        page(dice, HALF) << 10
            | dice.of(&[0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x1f, 0x19, 0x13])
            | recorded(dice)
    }
}

/// An address that mostly leads through tables to a page; seldom one of no space.
fn address(dice: &mut Dice, bits: u32) -> u64 {
    let address = dice.word() & !7;
    match dice.below(12) {
        0 => address,
        1 => address >> (63 - bits),
        2..5 => ((address << (64 - bits)) as i64 >> (64 - bits)) as u64,
        _ => {
            let tables = (1..5).fold(0, |sum, level| sum | 1 << (20 + 9 * level));
            (address & !tables | 1 << 20) & ((1 << bits) - 1)
        }
    }
}

#[test]
fn random_trees_through_two_stages() {
    let (mut dice, generation) = (Dice(22), Generation::new());
    let (mut pages, mut own, mut guests, mut tables) = (0, 0, 0, 0);
    for _ in 0..150 {
        let image = Image::new(|address| entry(&mut dice, address));
        for _ in 0..800 {
            let (vs, g) = (dice.of(&Mode::ALL), dice.of(&Mode::ALL));
            let hs_mxr = dice.one_in(3);
            let controls = Controls {
                sum: dice.one_in(2),
                mxr: hs_mxr || dice.one_in(3),
                extensions: any_extensions(&mut dice),
            };
            let guest = GuestControls { mxr: hs_mxr, extensions: any_extensions(&mut dice) };
            let (root, guest_root) = (dice.below(TABLES) << 12, dice.below(TABLES / 8) << 14);
            let va = address(&mut dice, 12 + 9 * u32::from(vs.levels()));
            let access = dice.access();
            let load = |address| image.memory.get(&address).copied();
            let first = Stage::first(vs, root, controls);
            let mut hart = Hart::new(&load, Some(first), Some(Stage::guest(g, guest_root, guest)));
            let want = hart.access(va, access);
            match want {
                Outcome::Page(..) => pages += 1,
                Outcome::Trap { cause: ..=15, .. } => own += 1,
                Outcome::Trap { htinst: 0, .. } => guests += 1,
                Outcome::Trap { .. } => tables += 1,
            }

            let memory = DirectMap::new(&image.words, Hpa::new(0));
            let second = || {
                let memory = &memory;
                Walker::new(SvX4::new(g, guest), memory, Hpa::new(guest_root))
            };
            let first = Sv::new(vs, controls);
            let both = TwoStage::new(first, Gpa::new(root), second());
            let cache = TranslationCache::<SvX4>::new(&generation);
            let cached = TwoStage::new(first, Gpa::new(root), second()).with_cache(&cache);
            let case = || {
                format!(
                    "{access} at {va:#x} by {vs:?} at {root:#x} under {controls:?}, {g:?}x4 at {guest_root:#x} under {guest:?}"
                )
            };
            let found =
                |found: Result<pgtable::two_stage::TwoStageTranslation<Sv, SvX4>, _>| match found {
                    Ok(it) => Outcome::Page(it.output().get(), it.shift().into()),
                    Err(fault) => trap(Trap::from(&fault)),
                };
            assert_eq!(found(both.translate(Gva::new(va), access)), want, "{}", case());
            for _ in 0..2 {
                assert_eq!(found(cached.translate(Gva::new(va), access)), want, "{}", case());
            }
        }
        assert_eq!(image.written(), [], "two stages only judge");
    }
    // Every kind of outcome is there in numbers.
    for (name, seen) in [("pages", pages), ("own", own), ("guest", guests), ("tables", tables)] {
        assert!(seen > 3000, "{name}: {seen} of {pages} {own} {guests} {tables}");
    }
}
