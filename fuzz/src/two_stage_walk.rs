//! A guest's tables behind a hypervisor's, both in arbitrary memory.

use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Arbitrary, Unstructured};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::{ByteOrder, Entry, FirstStage, SecondStage};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{
    Access, AccessKind, Cause, Fault, Gpa, Gva, Hpa, Level, Position, Privilege, low_bits,
};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped, RcPolicy};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};

use crate::case::{access, bit, image, neighbours, words};
use crate::memory::Counted;

/// As much as a radix root has entries: both trees stand in the same words, over each other.
const MOST: usize = 1 << 13;

/// U/S, which every entry on the way to a user page of x86 has.
const USER: u64 = 1 << 2;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    access: u8,
    guest_root: u8,
    gva: u64,
}

/// Arbitrary memory as both stages' tables; one guest-virtual address and its neighbours.
///
/// # Oracles
/// A step-by-step composition that asks the second stage's walker for each address; the bound on
/// loads; a cache that must not change the answer.
pub fn two_stage_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(Header { flags, access: choice, guest_root, gva }) = input.arbitrary::<Header>() else {
        return;
    };
    let given = words(input);
    let access = access(choice);
    let root = u64::from(guest_root);
    let count = if flags & 3 < 2 { MOST } else { MOST / 2 };
    let image = image(&given, count);
    let memory = |order: ByteOrder| {
        image.iter().map(|&word| AtomicU64::new(order.swap(word))).collect::<Vec<_>>()
    };
    let controls = Controls { smep: bit(flags, 5), smap: bit(flags, 6), ..Controls::new() };
    let levels = if bit(flags, 7) { Levels::Five } else { Levels::Four };
    match flags & 3 {
        0 | 1 => {
            let memory = memory(ByteOrder::Big);
            let granule = |n| if bit(flags, n) { Granule::K4 } else { Granule::K64 };
            let rc = if bit(flags, 4) { RcPolicy::Fault } else { RcPolicy::HardwareUpdate };
            let first = ProcessScoped::new(granule(2)).with_rc(rc);
            let second = PartitionScoped::new(granule(3)).with_rc(rc);
            check(
                first,
                second,
                None,
                Gpa::new(root << 16),
                &memory,
                &neighbours(gva, &given),
                access,
            );
        }
        2 => {
            let second = EptControls {
                mode_based_execute: bit(flags, 2),
                accessed_dirty: bit(flags, 3),
                execute_only: bit(flags, 4),
                ..EptControls::new()
            };
            let asked =
                (second.mode_based_execute && access.kind == AccessKind::Fetch).then_some(USER);
            let (first, second) = (LongMode::new(levels, controls), Ept::new(Levels::Four, second));
            let memory = memory(ByteOrder::Little);
            check(
                first,
                second,
                asked,
                Gpa::new(root << 12),
                &memory,
                &neighbours(gva, &given),
                access,
            );
        }
        _ => {
            let (first, second) =
                (LongMode::new(levels, controls), Npt::new(Levels::Four, NptControls::new()));
            let memory = memory(ByteOrder::Little);
            check(
                first,
                second,
                None,
                Gpa::new(root << 12),
                &memory,
                &neighbours(gva, &given),
                access,
            );
        }
    }
}

/// What a walk comes to: the address and both page sizes, or the fault.
type Outcome<F1, F2> = Result<(Hpa, u8, u8), TwoStageFault<F1, F2>>;

/// `user` is the bit by which stage 2 knows a user page of stage 1's, if it asks.
fn check<F1, F2>(
    first: F1,
    second: F2,
    user: Option<u64>,
    root: Gpa,
    memory: &[AtomicU64],
    inputs: &[u64],
    access: Access,
) where
    F1: FirstStage,
    F2: SecondStage,
{
    let memory = Counted::of(DirectMap::new(memory, Hpa::new(0)));
    let walker = Walker::new(second, &memory, Hpa::new(0));
    let both = TwoStage::new(first, root, walker);
    let generation = Generation::new();
    let cache = TranslationCache::<F2, 8>::new(&generation);
    let cached = TwoStage::new(first, root, walker).with_cache(&cache);
    let (levels, levels_2) =
        (usize::from(first.geometry().levels()), usize::from(second.geometry().levels()));
    // Each update of a guest's entry is an access of its own.
    let updates = if second.guest_table_update().is_some() { levels * 2 * levels_2 } else { 0 };
    for &gva in inputs {
        let gva = Gva::new(gva);
        memory.loads();
        let translated = both.translate(gva, access);
        let most = levels * (2 * levels_2 + 1) + 2 * levels_2 + updates;
        assert!(memory.loads() <= most, "{gva}: more loads than two stages have");
        for _ in 0..2 {
            assert_eq!(cached.translate(gva, access), translated, "{gva}, with a cache");
        }
        let outcome =
            translated.map(|found| (found.output(), found.stage1.shift, found.stage2.shift));
        let expected = step_by_step(first, &walker, user, root, gva, access);
        match (&outcome, &expected) {
            (Err(TwoStageFault::Stage1(seen)), Err(TwoStageFault::Stage1(want))) => {
                assert_eq!(
                    (seen.cause, seen.at, seen.entry),
                    (want.cause, want.at, want.entry),
                    "{gva}"
                );
                assert_eq!((seen.address, seen.access, seen.arch), (gva, access, want.arch));
            }
            _ => assert_eq!(outcome, expected, "{access} at {gva}"),
        }
    }
}

/// Both stages, one word after the other.
fn step_by_step<F1, F2, M>(
    first: F1,
    second: &Walker<F2, M>,
    user: Option<u64>,
    root: Gpa,
    gva: Gva,
    access: Access,
) -> Outcome<F1, F2>
where
    F1: FirstStage,
    F2: SecondStage,
    M: TableMemory<Hpa>,
{
    let stage1 = |cause, at, entry, arch| {
        Err(TwoStageFault::Stage1(Fault { address: gva, access, cause, at, entry, arch }))
    };
    let Some(offset) = first.offset(gva) else {
        return stage1(Cause::Address, None, None, first.fault(Cause::Address, access, None, 0));
    };
    let mut level = first.geometry().root();
    let mut at = Position { level, shift: first.geometry().shift(level) };
    let (mut table, mut width, mut path) =
        (root, first.geometry().width(level), F1::Path::default());
    let mut all = !0;
    let mut unrecorded = Vec::new();
    loop {
        let entry = Gpa::new(table.get().wrapping_add((offset >> at.shift & low_bits(width)) * 8));
        let word = match second.translate(entry, second.format().guest_table_access()) {
            Ok(found) => second.memory().word(found.output),
            Err(fault) => {
                let fault = Fault {
                    arch: second.format().fault_of_guest_table(fault.arch, access),
                    ..fault
                };
                return Err(TwoStageFault::Stage2 { address: gva, access, table: Some(at), fault });
            }
        };
        let here = |cause, arch| stage1(cause, Some(at), Some(entry), arch);
        let Ok(word) = word else {
            return here(Cause::TableAccess, first.fault(Cause::TableAccess, access, Some(at), 0));
        };
        let word = F1::BYTE_ORDER.swap(word.load(Ordering::Relaxed));
        all &= word;
        match first.decode(word, at) {
            Entry::Absent => {
                return here(
                    Cause::NotPresent,
                    first.fault(Cause::NotPresent, access, Some(at), word),
                );
            }
            Entry::Malformed => {
                return here(
                    Cause::Malformed,
                    first.fault(Cause::Malformed, access, Some(at), word),
                );
            }
            Entry::Table { table: next, width: bits } => {
                if first.bits(at).table.made(word) != word {
                    unrecorded.push((entry, at));
                }
                path = first.restrict(path, word, at);
                level = Level(level.0 - 1);
                at = Position { level, shift: at.shift - bits };
                (table, width) = (next, bits);
            }
            Entry::Leaf { output, .. } => {
                if let Err(arch) = first.check(word, at, path, access) {
                    return here(Cause::Denied, arch);
                }
                let bits = first.bits(at);
                let used = bits.accessed.made(word);
                let used =
                    if access.kind == AccessKind::Write { bits.dirty.made(used) } else { used };
                if used != word {
                    unrecorded.push((entry, at));
                }
                for (entry, at) in unrecorded {
                    let Some(update) = second.format().guest_table_update() else { break };
                    if let Err(fault) = second.translate(entry, update) {
                        let arch = second.format().fault_of_guest_table(fault.arch, access);
                        let fault = Fault { arch, ..fault };
                        return Err(TwoStageFault::Stage2 {
                            address: gva,
                            access,
                            table: Some(at),
                            fault,
                        });
                    }
                }
                let gpa = Gpa::new(output.get() | offset & low_bits(at.shift));
                let privilege = match user {
                    Some(bit) if all & bit != 0 => Privilege::User,
                    Some(_) => Privilege::Supervisor,
                    None => access.privilege,
                };
                return match second.translate(gpa, Access { privilege, ..access }) {
                    Ok(found) => Ok((found.output, at.shift, found.shift)),
                    Err(fault) => {
                        Err(TwoStageFault::Stage2 { address: gva, access, table: None, fault })
                    }
                };
            }
        }
    }
}
