//! A guest's radix tables in arbitrary memory.

use std::sync::atomic::AtomicU64;

use arbitrary::{Arbitrary, Unstructured};
use pgtable::memory::DirectMap;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Gpa, Gva, Hpa, Privilege};
use pgtable_ppc64::radix::{
    Amr, Granule, GuestMmu, Iamr, PartitionScoped, ProcessScoped, ProcessTableWord, RcPolicy,
    Strictness,
};

use crate::case::{access, bit, image, neighbours, words};
use crate::oracle::radix::{Machine, ours, reference};
use crate::reading::Tree;

/// As much as a root has entries. The process table and all tables stand in the same words, over
/// each other.
const MOST: usize = 1 << 13;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    access: u8,
    pidr: u32,
    process_table: u64,
    ea: u64,
    bytes: u32,
}

/// Arbitrary memory as process table and tables; one effective address and its neighbours.
///
/// # Oracles
/// The reference walker of `pgtable-ppc64`'s tests for translation and interrupt, both granules;
/// for the same tree as a partition's, the same reference. All ways to read agree, and none reads
/// more than it may.
pub fn radix_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { flags, ea, .. } = header;
    let given = words(input);
    let access = access(header.access);
    let it = Machine {
        strictness: [Strictness::Qemu, Strictness::Kvm, Strictness::Strict][usize::from(flags) % 3],
        rc_faults: bit(flags, 2),
        amr: u64::from(flags >> 3 & 3) << 62,
        iamr: u64::from(flags >> 5 & 1) << 62,
        reflected: bit(flags, 6),
    };
    let process_table =
        if bit(flags, 7) { header.process_table } else { header.process_table & 0x1000 };
    let pidr = if bit(flags, 8) { header.pidr } else { header.pidr & 0xff };
    let image = image(&given, MOST >> (2 * (flags >> 9 & 3)));
    let memory: Vec<AtomicU64> = image.iter().map(|word| AtomicU64::new(word.to_be())).collect();

    let inputs = neighbours(ea, &given);
    for granule in [Granule::K4, Granule::K64] {
        for &ea in inputs.iter().take(6) {
            let want = reference(&image, process_table, pidr.into(), ea, access, it);
            let seen = ours(&memory, process_table, pidr.into(), ea, access, it, granule);
            assert_eq!(seen, want, "{granule:?}, PIDR {pidr}, EA {ea:#x}, {access}");
        }
    }

    let granule = if bit(flags, 11) { Granule::K4 } else { Granule::K64 };
    let rc = if it.rc_faults { RcPolicy::Fault } else { RcPolicy::HardwareUpdate };
    let format = ProcessScoped::new(granule).with_strictness(it.strictness).with_rc(rc);
    let process = format.with_amr(Amr::from_bits(it.amr)).with_iamr(Iamr::from_bits(it.iamr));
    let mmu = GuestMmu::new(ProcessTableWord::from_bits(process_table), pidr, process);
    let map = DirectMap::new(&memory, Gpa::new(0));
    let pid = mmu.process(Gva::new(ea)).unwrap_or(pidr);
    let Ok(walker) = mmu.walker(map, pid) else { return };

    // The same tree as a partition's: what a supervisor may do without keys, anybody may do there.
    let root = Hpa::new(walker.root().get());
    let partition = PartitionScoped::new(granule).with_strictness(it.strictness).with_rc(rc);
    let second = Walker::new(partition, DirectMap::new(&memory, Hpa::new(0)), root);
    let keyless = Machine { amr: 0, iamr: 0, ..it };
    let supervisor = Access { privilege: Privilege::Supervisor, ..access };
    for &ea in inputs.iter().take(6).filter(|&&ea| mmu.process(Gva::new(ea)) == Some(pid)) {
        let Some(offset) = pgtable::format::Format::offset(walker.format(), Gva::new(ea)) else {
            continue;
        };
        let want = reference(&image, process_table, pidr.into(), ea, supervisor, keyless);
        match (second.translate(Gpa::new(offset), access), want) {
            // KVM's walker takes a guest's write without read for write only. No partition does,
            // and it may miss a record there.
            (Ok(_) | Err(_), Err((0x300, 0x0800_0000)))
                if is_write_only(&second, offset, it.strictness) =>
            {
                assert_eq!(access.kind, AccessKind::Read);
            }
            (Ok(found), want) => assert_eq!(Ok((found.output.get(), found.shift)), want),
            // QEMU's order of checks is the guest's side only.
            (Err(fault), Err((_, status)))
                if fault.cause != Cause::TableAccess && status != 0x4002_0000 =>
            {
                assert_eq!(fault.arch.status.into_bits(), status, "{fault}");
            }
            (Err(_), Err(_)) => {}
            (Err(fault), Ok(want)) => panic!("{fault}, and not {want:x?}"),
        }
    }

    let bytes = u64::from(header.bytes);
    Tree { format: *walker.format(), memory: map, root: walker.root() }
        .check(&inputs, access, bytes);
    let memory = DirectMap::new(&memory, Hpa::new(0));
    Tree { format: partition, memory, root }.check(&inputs, access, bytes);
}

/// Whether the leaf at `offset` is write only to a process by `strictness`.
fn is_write_only(
    tree: &Walker<PartitionScoped, DirectMap<'_, Hpa>>,
    offset: u64,
    strictness: Strictness,
) -> bool {
    const READ: u64 = 4;
    const WRITE: u64 = 2;
    let leaf = tree.trace(Gpa::new(offset)).last().map_or(0, |step| step.word);
    strictness == Strictness::Kvm && leaf & (READ | WRITE) == WRITE
}
