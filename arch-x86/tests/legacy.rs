//! PAE and 32-bit paging against walkers that are written straight from the manuals' prose: every
//! combination of the bits that count, and random tables.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

pub(crate) mod support;

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::FirstStage;
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_x86::{Controls, LongModeFault, Pae, Paging32, Privacy};
use proptest::prelude::*;
use support::{Dice, Image, access};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// Guest-physical address and log2 of the page size.
    Page(u64, u8),
    /// The address of the entry at which the walk ended, and the error code.
    PageFault(u64, u32),
}
use Outcome::{Page, PageFault};

/// What the entries of the way say.
struct Way {
    tables_writable: bool,
    all_user: bool,
    any_xd: bool,
}

/// SDM vol. 3 §4.6.1, as one reads it: whether a leaf with R/W `writable` and D `dirty` allows the
/// access.
fn allowed(c: &Controls, way: &Way, writable: bool, dirty: bool, access: Access) -> bool {
    let user = access.privilege == Privilege::User;
    let all_writable = way.tables_writable && writable;
    match access.kind {
        AccessKind::Fetch => {
            let smep = !user && way.all_user && c.smep;
            (!user || way.all_user) && !smep && !way.any_xd
        }
        AccessKind::Read | AccessKind::Write if c.shadow_stack => {
            let shadow_stack = way.tables_writable && !writable && dirty;
            shadow_stack && way.all_user == user
        }
        AccessKind::Read if user => way.all_user,
        AccessKind::Write if user => way.all_user && all_writable,
        AccessKind::Read => !(way.all_user && c.smap && !c.ac),
        AccessKind::Write => !(way.all_user && c.smap && !c.ac) && (all_writable || !c.wp),
    }
}

/// The bits of the error code that the access decides (§4.7).
fn code(c: &Controls, nxe: bool, access: Access) -> u32 {
    let fetch = access.kind == AccessKind::Fetch;
    let mut code = 0;
    code |= u32::from(access.kind == AccessKind::Write) << 1;
    code |= u32::from(access.privilege == Privilege::User) << 2;
    code |= u32::from(fetch && (nxe || c.smep)) << 4;
    code | u32::from(c.shadow_stack && !fetch) << 6
}

/// SDM vol. 3 §4.4, with PDPTEs in memory (APM vol. 2 §15.25.10).
pub(crate) fn pae(
    read: impl Fn(u64) -> Option<u64>,
    root: u64,
    c: &Controls,
    gva: u64,
    access: Access,
) -> Outcome {
    let code = code(c, c.nxe, access);
    let frame = 0x000f_ffff_ffff_f000 & !c.privacy.mask();
    let beyond =
        |entry: u64| (u32::from(c.maxphyaddr)..52).any(|n| entry & !c.privacy.mask() & 1 << n != 0);

    let at = root + (gva >> 30) * 8;
    let Some(pdpte) = read(at).filter(|entry| entry & 1 != 0) else { return PageFault(at, code) };
    if pdpte & 0xfff0_0000_0000_01e6 != 0 || beyond(pdpte) {
        return PageFault(at, code | 9);
    }
    let mut way = Way { tables_writable: true, all_user: true, any_xd: false };
    let reserved = |entry: u64| {
        entry & 0x7ff0_0000_0000_0000 != 0 || beyond(entry) || entry >> 63 != 0 && !c.nxe
    };
    let leaf = |mut way: Way, at: u64, entry: u64, shift: u8| {
        way.all_user &= entry & 4 != 0;
        way.any_xd |= entry >> 63 != 0;
        if !allowed(c, &way, entry & 2 != 0, entry & 0x40 != 0, access) {
            return PageFault(at, code | 1);
        }
        let within = (1_u64 << shift) - 1;
        Page(entry & frame & !within | gva & within, shift)
    };

    let at = (pdpte & frame) + (gva >> 21 & 511) * 8;
    let Some(pde) = read(at).filter(|entry| entry & 1 != 0) else { return PageFault(at, code) };
    let huge = pde & 0x80 != 0;
    if reserved(pde) || huge && pde & 0x1f_e000 & !c.privacy.mask() != 0 {
        return PageFault(at, code | 9);
    }
    if huge {
        return leaf(way, at, pde, 21);
    }
    way.tables_writable &= pde & 2 != 0;
    way.all_user &= pde & 4 != 0;
    way.any_xd |= pde >> 63 != 0;

    let at = (pde & frame) + (gva >> 12 & 511) * 8;
    let Some(pte) = read(at).filter(|entry| entry & 1 != 0) else { return PageFault(at, code) };
    if reserved(pte) {
        return PageFault(at, code | 9);
    }
    leaf(way, at, pte, 12)
}

/// SDM vol. 3 §4.3.
pub(crate) fn bits32(
    read: impl Fn(u64) -> Option<u32>,
    root: u64,
    c: &Controls,
    gva: u64,
    access: Access,
) -> Outcome {
    let code = code(c, false, access);
    let mut way = Way { tables_writable: true, all_user: true, any_xd: false };
    let leaf = |mut way: Way, at: u64, entry: u32, page: u64, shift: u8| {
        way.all_user &= entry & 4 != 0;
        if allowed(c, &way, entry & 2 != 0, entry & 0x40 != 0, access) {
            Page(page | gva & ((1 << shift) - 1), shift)
        } else {
            PageFault(at, code | 1)
        }
    };
    let at = root + (gva >> 22) * 4;
    let Some(pde) = read(at).filter(|entry| entry & 1 != 0) else { return PageFault(at, code) };
    if pde & 0x80 != 0 && c.pse {
        // Table 4-4: bits (M-20):13 are bits (M-1):32 of the address, those up to 21 are reserved.
        let m = if c.pse36 { u32::from(c.maxphyaddr).clamp(32, 40) } else { 32 };
        if (m - 19..=21).any(|n| pde >> n & 1 != 0) {
            return PageFault(at, code | 9);
        }
        let page = u64::from(pde & 0xffc0_0000) | u64::from(pde >> 13 & 0xff) << 32;
        return leaf(way, at, pde, page, 22);
    }
    way.tables_writable = pde & 2 != 0;
    way.all_user = pde & 4 != 0;
    let at = u64::from(pde & 0xffff_f000) + (gva >> 12 & 1023) * 4;
    let Some(pte) = read(at).filter(|entry| entry & 1 != 0) else { return PageFault(at, code) };
    leaf(way, at, pte, u64::from(pte & 0xffff_f000), 12)
}

pub(crate) fn outcome<F>(
    format: F,
    memory: DirectMap<'_, Gpa>,
    root: u64,
    gva: u64,
    access: Access,
) -> Outcome
where
    F: FirstStage<Fault = LongModeFault>,
{
    match Walker::new(format, memory, Gpa::new(root)).translate(Gva::new(gva), access) {
        Ok(page) => Page(page.output.get(), page.shift),
        Err(fault) => match fault.arch {
            LongModeFault::PageFault(code) => {
                PageFault(fault.entry.unwrap().get(), code.into_bits())
            }
            LongModeFault::GeneralProtection => panic!("{fault}"),
        },
    }
}

const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];

/// Every set of the control bits that count here.
fn every_control() -> impl Iterator<Item = Controls> {
    (0..128_u32).map(|bits| {
        let bit = |n: u32| bits >> n & 1 != 0;
        Controls {
            wp: bit(0),
            smep: bit(1),
            smap: bit(2),
            ac: bit(3),
            nxe: bit(4),
            pse: bit(5),
            shadow_stack: bit(6),
            cet: bit(6),
            maxphyaddr: 36,
            ..Controls::new()
        }
    })
}

/// The sets of `bits`, one after the other.
fn subsets(bits: &[u64]) -> Vec<u64> {
    let pick = |chosen: usize| {
        let picked = bits.iter().enumerate().filter(|(n, _)| chosen >> n & 1 != 0);
        picked.fold(0, |word, (_, bit)| word | bit)
    };
    (0..1 << bits.len()).map(pick).collect()
}

fn memory() -> Vec<AtomicU64> {
    (0..0x4000 / 8).map(|_| AtomicU64::new(0)).collect()
}

fn read(words: &[AtomicU64], address: u64) -> Option<u64> {
    words.get(usize::try_from(address / 8).unwrap()).map(|word| word.load(Ordering::Relaxed))
}

/// Half a word.
fn read32(words: &[AtomicU64], address: u64) -> Option<u32> {
    read(words, address).map(|word| (word >> (address % 8 * 8)) as u32)
}

/// PDE × PTE × controls × accesses: three million walks.
#[test]
fn case_pae_every_combination() {
    const XD: u64 = 1 << 63;
    let words = memory();
    let set = |address: usize, word| words[address / 8].store(word, Ordering::Relaxed);
    let gva = 0x4020_3678;
    set(8, 0x1001); // PDPTE 1
    let formats: Vec<_> = every_control().map(|c| (c, Pae::new(c))).collect();
    // Which reserved bit it is changes from row to row.
    let reserved = [1 << 52, 1 << 58, 1 << 62, 1 << 36, 1 << 51];
    let (mut next, mut pages) = (0, 0);
    for pde in subsets(&[1, 2, 4, 0x80, XD, 1 << 52]) {
        for pte in subsets(&[1, 2, 4, 0x40, XD, 1 << 52]) {
            let stray = |word: u64| {
                if word & 1 << 52 == 0 { word } else { word & !(1 << 52) | reserved[next % 5] }
            };
            let frame = if pde & 0x80 != 0 { 0x20_0000 | pte & 0x40 } else { 0x2000 };
            set(0x1008, stray(pde) | frame);
            set(0x2018, stray(pte) | 0x9_8765_4000);
            next += 1;
            for (c, format) in &formats {
                for access in ACCESSES {
                    let want = pae(|at| read(&words, at), 0, c, gva, access);
                    let memory = DirectMap::new(&words, Gpa::new(0));
                    let got = outcome(*format, memory, 0, gva, access);
                    assert_eq!(got, want, "{access}, PDE {pde:#x}, PTE {pte:#x}, {c:?}");
                    pages += u32::from(matches!(want, Page(..)));
                }
            }
        }
    }
    assert!(pages > 100_000, "{pages}");
}

/// Each bit of a PDPTE: none grants or denies, and most are reserved.
#[test]
fn case_pae_pdptes() {
    let words = memory();
    words[512].store(0x2007, Ordering::Relaxed);
    words[1024].store(0x3007, Ordering::Relaxed);
    for maxphyaddr in [32, 36, 40, 52] {
        for privacy in [Privacy::None, Privacy::Encrypted { bit: 47 }] {
            let c = Controls { maxphyaddr, privacy, nxe: true, ..Controls::new() };
            let format = Pae::new(c);
            for bit in 0..64 {
                words[0].store(0x1001 ^ 1 << bit, Ordering::Relaxed);
                let memory = DirectMap::new(&words, Gpa::new(0));
                let want = pae(|at| read(&words, at), 0, &c, 0x678, Access::WRITE.by_user());
                let got = outcome(format, memory, 0, 0x678, Access::WRITE.by_user());
                assert_eq!(got, want, "bit {bit}, {maxphyaddr} bits, {privacy:?}");
                // What a MOV to CR3 says.
                let loads = format.load_pdptes(memory, Gpa::new(0)).is_ok();
                let malformed = matches!(want, PageFault(0, code) if code & 8 != 0);
                assert_eq!(loads, !malformed, "bit {bit}, {maxphyaddr} bits, {privacy:?}");
                // The accessed flag that QEMU sets is the only difference of its images.
                let marked = format.with_marked_pdptes().load_pdptes(memory, Gpa::new(0)).is_ok();
                assert_eq!(marked, loads || bit == 5, "bit {bit}, {maxphyaddr} bits, {privacy:?}");
            }
        }
    }
}

/// PDE × PTE × controls × accesses × address widths: three million walks.
#[test]
fn case_32_every_combination() {
    let words = memory();
    let halves = |address: usize, word: u64| {
        words[address / 8].store(word << (address % 8 * 8), Ordering::Relaxed);
    };
    let gva = 0x0040_3678;
    let widths = [(32, true), (36, true), (40, true), (52, false)];
    let formats: Vec<_> = every_control()
        .filter(|c| c.nxe)
        .flat_map(|c| widths.map(|(maxphyaddr, pse36)| Controls { maxphyaddr, pse36, ..c }))
        .map(|c| (c, Paging32::new(c)))
        .collect();
    // 4-MiB pages with a bit of each kind: 35:32, 39:36, reserved, PAT.
    let fields = [1 << 13, 1 << 16, 1 << 17, 1 << 20, 1 << 21, 1 << 12];
    let (mut next, mut huge) = (0, 0);
    for pde in subsets(&[1, 2, 4, 0x80, 0x40, 1 << 21]) {
        for pte in subsets(&[1, 2, 4, 0x40, 0x80]) {
            let field = if pde & 1 << 21 == 0 { 0 } else { fields[next % 6] };
            let table = if pde & 0x80 != 0 && pte & 0x80 != 0 { 0xffc0_0000 } else { 0x1000 };
            halves(4, pde & !(1 << 21) | field | table);
            halves(0x100c, pte | 0x8765_4000);
            next += 1;
            for (c, format) in &formats {
                for access in ACCESSES {
                    let want = bits32(|at| read32(&words, at), 0, c, gva, access);
                    let memory = DirectMap::new(&words, Gpa::new(0));
                    let got = outcome(*format, memory, 0, gva, access);
                    assert_eq!(got, want, "{access}, PDE {pde:#x}|{field:#x}, PTE {pte:#x}, {c:?}");
                    huge += u32::from(matches!(want, Page(_, 22)));
                }
            }
        }
    }
    assert!(huge > 10_000, "{huge}");
}

/// An entry of PAE paging, mostly a good one.
fn word(dice: &mut Dice) -> u64 {
    let mut word = dice.word() & 0xe7e | dice.stray() | 1;
    for (one_in, bit) in [(15, 0), (5, 1), (5, 2)] {
        word &= !(u64::from(dice.one_in(one_in)) << bit);
    }
    word |= u64::from(dice.one_in(6)) << 63 | u64::from(dice.one_in(60)) << 55;
    if dice.one_in(5) { word | 0x80 | dice.huge() } else { word & !0x80 | dice.table() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_manual_agrees(
        bits: u16, maxphyaddr in prop_oneof![Just(52_u8), 32_u8..52], seed: u64, access in access(),
    ) {
        let bit = |n: u16| bits >> n & 1 == 1;
        let c = Controls {
            wp: bit(0), smep: bit(1), smap: bit(2), ac: bit(3), nxe: bits & 0x600 != 0, pse: bit(5),
            pse36: bit(6), shadow_stack: bit(7), pke: bit(8), pks: bit(8), maxphyaddr, ..Controls::new()
        };
        let mut dice = Dice(seed);
        let image = Image::new(|| word(&mut dice));
        for _ in 0..64 {
            let gva = dice.word() >> 32;
            // The root anywhere in a page.
            let root = dice.word() % 128 * 32;
            let pdpte = Gpa::new(root + (gva >> 30) * 8);
            image.memory().word(pdpte).unwrap().store(dice.table() | 1, Ordering::Relaxed);
            let want = pae(|at| image.read(at), root, &c, gva, access);
            let got = outcome(Pae::new(c), image.memory(), root, gva, access);
            prop_assert_eq!(got, want, "{} at {:#x}", access, gva);
            let half = |at: u64| image.read(at).map(|word| (word >> (at % 8 * 8)) as u32);
            let want = bits32(half, 0, &c, gva, access);
            let got = outcome(Paging32::new(c), image.memory(), 0, gva, access);
            prop_assert_eq!(got, want, "{} at {:#x}", access, gva);
        }
    }
}

/// A 4-MiB page beyond 4 GiB cannot be broken: no smaller page maps what would be left of it.
#[test]
fn case_32_pages_beyond_4_gib_are_whole() {
    let memory = Vec::from_iter((0..0x3000 / 8).map(|_| AtomicU64::new(0)));
    let map = DirectMap::new(&memory, Gpa::new(0));
    let format = Paging32::new(Controls::new());
    let mut tree = pgtable::tree::PageTable::new(format, map, Bump::default()).unwrap();
    for (output, whole) in [(0x1_0040_0000, true), (0x40_0000, false)] {
        let (gva, bytes) = (Gva::new(0x80_0000), 4 << 20);
        let gpa = Gpa::new(output);
        tree.map(gva, gpa, bytes, pgtable::Prot::RW.into(), pgtable::Leaves::Largest).unwrap();
        let mut gather = pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ());
        let unmapped = tree.unmap(gva, 0x1000, &mut gather).map_err(|failed| failed.error);
        let refused = matches!(unmapped, Err(pgtable::Error::Unencodable { .. }));
        assert_eq!((refused, unmapped.is_ok()), (whole, !whole), "{output:#x}: {unmapped:?}");
        let found = tree.walker().query(Gva::new(0x80_1000)).unwrap().unwrap();
        assert_eq!(found.output.get(), output + 0x1000, "what was not unmapped stays");
        tree.unmap(gva, bytes, &mut gather).unwrap();
        gather.finish(tree.tables()).unwrap();
    }
}

/// Pages from address 0 on.
#[derive(Default)]
struct Bump {
    used: std::cell::Cell<usize>,
    states: [pgtable::allocator::TableState; 3],
}

impl pgtable::allocator::TableAllocator<Gpa> for Bump {
    fn allocate(
        &self,
        layout: pgtable::allocator::TableLayout,
    ) -> Result<Gpa, pgtable::allocator::AllocError> {
        let table = self.used.get();
        if table == self.states.len() {
            return Err(pgtable::allocator::AllocError::Exhausted { layout });
        }
        self.used.set(table + 1);
        Ok(Gpa::new(table as u64 * 0x1000))
    }

    fn free(
        &self,
        _: Gpa,
        _: pgtable::allocator::TableLayout,
        _: pgtable::allocator::Contents,
    ) -> Result<(), pgtable::allocator::AllocError> {
        Ok(())
    }

    fn state(
        &self,
        table: Gpa,
        _: pgtable::allocator::TableLayout,
    ) -> Option<&pgtable::allocator::TableState> {
        self.states.get(usize::try_from(table.get() / 0x1000).ok()?)
    }
}
