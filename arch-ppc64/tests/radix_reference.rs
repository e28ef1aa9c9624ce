//! The walker against a reference that is written the obvious way, from the manual's masks, on
//! random memory.
//!
//! The reference shares nothing with the crate: no bit-field, no geometry, no prediction; plain
//! numbers as the facts about POWER9, QEMU and KVM give them.

use core::sync::atomic::AtomicU64;

use pgtable::memory::DirectMap;
use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};
use pgtable_ppc64::radix::{
    Amr, Granule, GuestMmu, Iamr, ProcessScoped, ProcessTableWord, RcPolicy, Strictness, TableFault,
};
use proptest::prelude::*;

const MEMORY: u64 = 1 << 18;
const WORDS: usize = (MEMORY / 8) as usize;

/// What a walk comes to: an address and log2 of the page, or a vector and DSISR/SRR1.
pub(crate) type Outcome = Result<(u64, u8), (u16, u32)>;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) strictness: Strictness,
    pub(crate) rc_faults: bool,
    pub(crate) amr: u64,
    pub(crate) iamr: u64,
    pub(crate) reflected: bool,
}

fn at(memory: &[u64], address: u64) -> Option<u64> {
    assert_eq!(address % 8, 0);
    memory.get((address / 8) as usize).copied()
}

pub(crate) fn reference(
    memory: &[u64],
    process_table: u64,
    pidr: u64,
    ea: u64,
    access: Access,
    it: Machine,
) -> Outcome {
    let fetch = access.kind == AccessKind::Fetch;
    let store = access.kind == AccessKind::Write;
    let fail = |cause: u32| match (fetch, store) {
        (true, _) => (0x400, cause),
        (false, true) => (0x300, cause | 0x0200_0000),
        (false, false) => (0x300, cause),
    };
    let no_table = (if it.reflected { 0x300 } else { 0xe00 }, 0x4002_0000);
    let (no_translation, bad_configuration) = (fail(0x4000_0000), fail(0x0008_0000));
    let qemu = it.strictness == Strictness::Qemu;
    let strict = it.strictness == Strictness::Strict;
    let kvm = it.strictness == Strictness::Kvm;

    let pid = match ea >> 62 {
        0 => pidr,
        3 => 0,
        _ => return Err((if fetch { 0x480 } else { 0x380 }, 0)),
    };
    if ea & 0x3ff0_0000_0000_0000 != 0 {
        return Err((if fetch { 0x480 } else { 0x380 }, 0));
    }
    let ea = ea & 0x000f_ffff_ffff_ffff;

    let base = process_table & 0x0fff_ffff_ffff_f000;
    let size = 1u64 << (12 + (process_table & 0x1f));
    if base % size != 0 && !kvm || !qemu && process_table & 0x1f > 24 {
        return Err(bad_configuration);
    }
    // Reserved bits of the word that names the table. (Linux sets bit 0.)
    if strict && process_table & 0x7000_0000_0000_0fe0 != 0 {
        return Err(bad_configuration);
    }
    if pid * 16 >= size {
        return Err(no_translation);
    }
    let prte = at(memory, base + pid * 16).ok_or(no_table)?;
    let reserved = at(memory, base + pid * 16 + 8).ok_or(no_table)?;

    let covers = 31 + ((prte >> 61 & 3) << 3 | prte >> 5 & 7);
    let mut shift = covers;
    let mut bits = prte & 0x1f;
    let mut table = prte & 0x0fff_ffff_ffff_ff00;
    if !qemu && (covers != 52 || bits != 13 || table % 0x1_0000 != 0) {
        return Err(bad_configuration);
    }
    if strict && (reserved != 0 || prte >> 63 != 0 || prte >> 60 & 1 != 0) {
        return Err(bad_configuration);
    }
    for level in 0.. {
        // A size that the level does not support: QEMU looks for the table first.
        let supported = match level {
            0 => covers == 52 && bits == 13,
            1 | 2 => bits == 9,
            3 => bits == 9 || bits == 5,
            _ => false,
        };
        if !supported && !qemu {
            return Err(bad_configuration);
        }
        let count = shift.wrapping_sub(bits) & 63;
        let entry = table + 8 * (ea >> count & ((1 << bits) - 1));
        let word = at(memory, entry).ok_or(no_table)?;
        if !supported {
            return Err(bad_configuration);
        }
        shift -= bits;
        if word >> 63 == 0 {
            return Err(no_translation);
        }
        if word >> 62 & 1 == 0 {
            bits = word & 0x1f;
            table = word & 0x0fff_ffff_ffff_ff00;
            if strict && word & 0x3000_0000_0000_00e0 != 0 {
                return Err(bad_configuration);
            }
            let misaligned = table % (1 << (bits + 3)) != 0;
            if misaligned && !qemu {
                return Err(bad_configuration);
            }
            table &= !((1 << (bits + 3)) - 1);
            continue;
        }
        let within = (1u64 << shift) - 1;
        let page = word & 0x01ff_ffff_ffff_f000;
        if !qemu && (level == 0 || page & within != 0)
            || strict && word & 0x1e00_0000_0000_0040 != 0
        {
            return Err(bad_configuration);
        }
        if fetch && word >> 4 & 3 == 2 {
            return Err(fail(0x1000_0000));
        }
        let mut allowed = match word & 0xf {
            eaa if eaa & 8 != 0 && access.privilege == Privilege::User => 0,
            eaa if eaa & 2 != 0 && !kvm => eaa | 4,
            eaa => eaa,
        };
        if word & 8 == 0 && access.privilege == Privilege::Supervisor {
            if it.amr >> 63 & 1 != 0 {
                allowed &= !2;
            }
            if it.amr >> 62 & 1 != 0 {
                allowed &= !4;
            }
            if it.iamr >> 62 & 1 != 0 {
                allowed &= !1;
            }
        }
        let needed = match access.kind {
            AccessKind::Read => 4,
            AccessKind::Write => 2,
            AccessKind::Fetch => 1,
        };
        if allowed & needed == 0 {
            return Err(fail(if fetch { 0x1000_0000 } else { 0x0800_0000 }));
        }
        if it.rc_faults && (word & 0x100 == 0 || store && word & 0x80 == 0) {
            return Err(fail(0x0004_0000));
        }
        return Ok((page & !within | ea & within, shift as u8));
    }
    unreachable!()
}

/// The crate's answer to the same question.
pub(crate) fn ours(
    memory: &[AtomicU64],
    process_table: u64,
    pidr: u64,
    ea: u64,
    access: Access,
    it: Machine,
    granule: Granule,
) -> Outcome {
    let memory = DirectMap::new(memory, Gpa::new(0));
    let format = ProcessScoped::new(granule)
        .with_strictness(it.strictness)
        .with_rc(if it.rc_faults { RcPolicy::Fault } else { RcPolicy::HardwareUpdate })
        .with_amr(Amr::from_bits(it.amr))
        .with_iamr(Iamr::from_bits(it.iamr))
        .with_table_fault(if it.reflected {
            TableFault::Reflected
        } else {
            TableFault::ToHypervisor
        });
    let mmu = GuestMmu::new(ProcessTableWord::from_bits(process_table), pidr as u32, format);
    match mmu.translate_ea(&memory, Gva::new(ea), access) {
        Ok(translation) => Ok((translation.output.get(), translation.shift)),
        Err(fault) => {
            assert_eq!(fault.address, Gva::new(ea));
            assert_eq!(fault.access, access);
            Err((fault.interrupt.vector.offset(), fault.interrupt.status.into_bits()))
        }
    }
}

fn accesses() -> impl Strategy<Value = Access> {
    (
        prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)],
        prop_oneof![Just(Privilege::User), Just(Privilege::Supervisor)],
    )
        .prop_map(|(kind, privilege)| Access { kind, privilege })
}

fn machines() -> impl Strategy<Value = Machine> {
    let strictness =
        prop_oneof![Just(Strictness::Qemu), Just(Strictness::Kvm), Just(Strictness::Strict)];
    (strictness, any::<bool>(), 0..4u64, 0..2u64, any::<bool>()).prop_map(
        |(strictness, rc_faults, amr, iamr, reflected)| Machine {
            strictness,
            rc_faults,
            amr: amr << 62,
            iamr: iamr << 62,
            reflected,
        },
    )
}

/// The low bits of a word that is almost right: sometimes not aligned, sometimes with reserved
/// bits.
fn noise() -> impl Strategy<Value = u64> {
    prop_oneof![
        20 => Just(0u64),
        2 => (0..63u32).prop_map(|bit| 1 << bit),
        1 => any::<u64>(),
    ]
}

/// A directory entry that is mostly right for its level.
fn directory(last: bool) -> impl Strategy<Value = u64> {
    let table = prop_oneof![8 => 0..MEMORY, 1 => MEMORY - 0x4000..2 * MEMORY, 1 => any::<u64>()];
    let width = prop_oneof![
        8 => if last { prop_oneof![Just(9u64), Just(5)].boxed() } else { Just(9u64).boxed() },
        1 => 0..32u64,
    ];
    let v = prop_oneof![15 => Just(1u64 << 63), 1 => Just(0)];
    (table, width, v, noise()).prop_map(|(table, width, v, noise)| {
        (table & 0x0fff_ffff_ffff_ff00 & !((1 << (width + 3)) - 1) | width | v) ^ noise
    })
}

/// A leaf that is mostly right for a page of `2^shift` bytes.
fn leaf(shift: u8) -> impl Strategy<Value = u64> {
    let v = prop_oneof![15 => Just(3u64 << 62), 1 => Just(1 << 62)];
    let rc = prop_oneof![4 => Just(0x180u64), 1 => Just(0x100), 1 => Just(0x80), 1 => Just(0)];
    (any::<u64>(), 0..0x40u64, v, rc, noise()).prop_map(move |(page, low, v, rc, noise)| {
        (page & 0x000f_ffff_ffff_f000 & !((1 << shift) - 1) | low | v | rc) ^ noise
    })
}

/// Three directory entries and the last one, each a directory entry or a leaf.
fn entries() -> impl Strategy<Value = [u64; 4]> {
    [
        prop_oneof![12 => directory(false), 1 => leaf(39)].boxed(),
        prop_oneof![9 => directory(false), 2 => leaf(30)].boxed(),
        prop_oneof![9 => directory(true), 2 => leaf(21)].boxed(),
        prop_oneof![12 => leaf(16), 6 => leaf(12), 1 => directory(true)].boxed(),
    ]
}

fn addresses() -> impl Strategy<Value = u64> {
    let offset = prop_oneof![4 => 0..1u64 << 52, 1 => 0..1u64 << 21];
    let top = prop_oneof![6 => Just(0u64), 4 => Just(3 << 62), 1 => Just(1 << 62), 1 => Just(2 << 62), 1 => (52..62u32).prop_map(|bit| 1 << bit)];
    (offset, top).prop_map(|(offset, top)| offset | top)
}

const PROCESS_TABLE: u64 = 0x1_0000;
const ROOT: u64 = 0x2_0000;

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(4096))]

    /// A chain of entries along the path of one address, each mostly right and sometimes wrong in
    /// one way or in all.
    #[test]
    fn one_path(
        entries in entries(),
        root in prop_oneof![12 => Just(0x4000_0000_0000_00ad | ROOT), 1 => Just(0), 1 => (0..64u32).prop_map(|bit| 0x4000_0000_0000_00ad | ROOT ^ 1 << bit), 1 => any::<u64>()],
        reserved in prop_oneof![9 => Just(0u64), 1 => any::<u64>()],
        process_table in prop_oneof![9 => Just(PROCESS_TABLE), 1 => Just(PROCESS_TABLE | 4), 1 => Just(PROCESS_TABLE | 5), 1 => Just(PROCESS_TABLE | 1 << 63), 1 => Just(PROCESS_TABLE | 0x20), 1 => Just(1 << 40), 1 => 0u64..32],
        pidr in prop_oneof![4 => 0..4u64, 1 => 250..260u64, 1 => 0xf_ff00..0x10_0000u64],
        ea in addresses(),
        access in accesses(),
        it in machines(),
    ) {
        let mut memory = vec![0u64; WORDS];
        let pid = if ea >> 62 == 3 { 0 } else { pidr };
        let entry = (PROCESS_TABLE / 8 + pid * 2) as usize;
        if entry + 1 < WORDS {
            memory[entry] = root;
            memory[entry + 1] = reserved;
        }
        // Each entry where a walk that QEMU makes would look for it.
        let offset = ea & 0x000f_ffff_ffff_ffff;
        let (mut table, mut bits, mut shift) = (root & 0x0fff_ffff_ffff_ff00, root & 0x1f, 52u64);
        for word in entries {
            let count = shift.wrapping_sub(bits) & 63;
            let at = table.wrapping_add(8 * (offset >> count & ((1 << bits) - 1)));
            match memory.get_mut((at / 8) as usize) {
                Some(slot) => *slot = word,
                None => break,
            }
            shift = shift.saturating_sub(bits);
            bits = word & 0x1f;
            table = word & 0x0fff_ffff_ffff_ff00 & !((1 << (bits + 3)) - 1);
        }
        compare(&memory, process_table, pidr, ea, access, it)?;
    }

    /// Memory where any word may be met anywhere.
    #[test]
    fn any_memory(
        words in proptest::collection::vec(prop_oneof![6 => directory(true), 3 => leaf(12), 1 => any::<u64>()], 64),
        ea in addresses(),
        pidr in 0..300u64,
        access in accesses(),
        it in machines(),
    ) {
        let mut memory: Vec<u64> = words.iter().copied().cycle().take(WORDS).collect();
        for pid in 0..256 {
            memory[(PROCESS_TABLE / 8) as usize + 2 * pid] = 0x4000_0000_0000_00ad | ROOT;
            memory[(PROCESS_TABLE / 8) as usize + 2 * pid + 1] = 0;
        }
        compare(&memory, PROCESS_TABLE, pidr, ea, access, it)?;
    }
}

fn compare(
    memory: &[u64],
    process_table: u64,
    pidr: u64,
    ea: u64,
    access: Access,
    it: Machine,
) -> Result<(), TestCaseError> {
    let want = reference(memory, process_table, pidr, ea, access, it);
    let big_endian: Vec<AtomicU64> =
        memory.iter().map(|word| AtomicU64::new(word.to_be())).collect();
    for granule in [Granule::K4, Granule::K64] {
        let seen = ours(&big_endian, process_table, pidr, ea, access, it, granule);
        prop_assert_eq!(seen, want, "{:?}, PIDR {}, EA {:#x}, {}", granule, pidr, ea, access);
    }
    Ok(())
}

/// What the random cases reach: every outcome that there is, so that the comparison is not an empty
/// one.
#[test]
fn the_cases_reach_every_outcome() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    use std::collections::BTreeSet;

    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    let cases = (entries(), addresses(), accesses(), machines());
    for _ in 0..6000 {
        let (entries, ea, access, it) = cases.new_tree(&mut runner).unwrap().current();
        let offset = ea & 0x000f_ffff_ffff_ffff;
        let mut memory = std::collections::BTreeMap::new();
        let (mut table, mut bits, mut shift) = (ROOT, 13, 52u64);
        for word in entries {
            memory.insert(
                table + 8 * (offset >> (shift.wrapping_sub(bits) & 63) & ((1 << bits) - 1)),
                word,
            );
            shift = shift.saturating_sub(bits);
            bits = word & 0x1f;
            table = word & 0x0fff_ffff_ffff_ff00 & !((1 << (bits + 3)) - 1);
            if table >= MEMORY {
                break;
            }
        }
        let mut words = vec![0u64; WORDS];
        for (address, word) in memory {
            if let Some(slot) = words.get_mut((address / 8) as usize) {
                *slot = word;
            }
        }
        for pid in [0, 1] {
            words[(PROCESS_TABLE / 8) as usize + 2 * pid] = 0x4000_0000_0000_00ad | ROOT;
        }
        seen.insert(reference(&words, PROCESS_TABLE, 1, ea, access, it).map(|(_, shift)| shift));
    }
    for shift in [12, 16, 21, 30, 39] {
        assert!(seen.contains(&Ok(shift)), "a page of 2^{shift}: {seen:x?}");
    }
    for fault in [
        (0x380, 0),
        (0x480, 0),
        (0x300, 0x4000_0000),
        (0x300, 0x4200_0000),
        (0x400, 0x4000_0000),
        (0x300, 0x0008_0000),
        (0x300, 0x0208_0000),
        (0x400, 0x0008_0000),
        (0x300, 0x0800_0000),
        (0x300, 0x0a00_0000),
        (0x400, 0x1000_0000),
        (0x300, 0x0004_0000),
        (0x300, 0x0204_0000),
        (0x400, 0x0004_0000),
        (0x300, 0x4002_0000),
        (0xe00, 0x4002_0000),
    ] {
        assert!(seen.contains(&Err(fault)), "{fault:x?}: {seen:x?}");
    }
}
