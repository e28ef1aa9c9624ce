//! The table of `Strictness`, row by row: what becomes of entries that break the manual's rules.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::radix::{
    Granule, GuestMmu, ProcessScoped, ProcessTableWord, RcPolicy, Strictness, TableFault,
};

const PROCESS_TABLE: u64 = 0x12_0000;
const ROOT: u64 = 0x10_0000;
const UPPER: u64 = 0x2_0000;
const MIDDLE: u64 = 0x2_1000;
const LAST: u64 = 0x2_2000;
/// Beyond the memory that there is.
const OUTSIDE: u64 = 0x100_0000;
const V: u64 = 1 << 63;
const LEAF: u64 = 3 << 62;
const RW: u64 = 0x186;
/// Where the last page stands.
const PAGE: u64 = 0x30_0000;
/// The address that is translated: the first page of everything.
const ADDRESS: u64 = 0x1234;

/// Where the access goes, or what DSISR says.
type Seen = Result<u64, u32>;
const MALFORMED: Seen = Err(0x0008_0000);
const OUTSIDE_MEMORY: Seen = Err(0x4002_0000);
const DENIED: Seen = Err(0x0800_0000);

/// A row: its name in the table, words that are changed, the process table's word, and what is seen
/// by QEMU's, KVM's and the strict reading.
type Row = (&'static str, Vec<(u64, u64)>, u64, [Seen; 3]);

fn rows() -> Vec<Row> {
    let table = V | PROCESS_TABLE | 4;
    let there = Ok(PAGE | ADDRESS);
    let [aligned, nls] = [LAST, MIDDLE].map(|at| V | at);
    vec![
        (
            "NLS that its level does not support; a table below the last level",
            vec![(UPPER, nls | 10)],
            table,
            [MALFORMED; 3],
        ),
        (
            "NLS that its level does not support; a table below the last level",
            vec![(LAST, V | LAST | 5)],
            table,
            [MALFORMED; 3],
        ),
        (
            "leaf in the root (512 GiB)",
            vec![(ROOT, LEAF | RW)],
            table,
            [Ok(ADDRESS), MALFORMED, MALFORMED],
        ),
        (
            "NLB not aligned to the table",
            vec![(UPPER, V | MIDDLE | 0x100 | 9)],
            table,
            [there, MALFORMED, MALFORMED],
        ),
        (
            "RPN not aligned to the page",
            vec![(LAST, LEAF | PAGE | 0x1000 | RW)],
            table,
            [there, MALFORMED, MALFORMED],
        ),
        (
            "RPDB (root) not aligned",
            vec![
                (PROCESS_TABLE, 0x4000_0000_0000_00ad | ROOT | 0x100),
                (ROOT + 0x100, V | UPPER | 9),
            ],
            table,
            [there, MALFORMED, MALFORMED],
        ),
        (
            "reserved bits set",
            vec![(MIDDLE, aligned | 5 | 1 << 60)],
            table,
            [there, there, MALFORMED],
        ),
        (
            "process table larger than 2^36 bytes (PRTS 25 to 31)",
            vec![(0, 0x4000_0000_0000_00ad | ROOT)],
            V | 25,
            [there, MALFORMED, MALFORMED],
        ),
        (
            "process table not aligned to its size",
            vec![(PROCESS_TABLE + 0x1000, 0x4000_0000_0000_00ad | ROOT)],
            table | 0x1000,
            [MALFORMED, there, MALFORMED],
        ),
        (
            "EAA of a process-scoped leaf: write without read",
            vec![(LAST, LEAF | PAGE | 0x182)],
            table,
            [there, DENIED, there],
        ),
        (
            "order: unsupported size of a table against a table outside memory",
            vec![(UPPER, V | OUTSIDE | 10)],
            table,
            [OUTSIDE_MEMORY, MALFORMED, MALFORMED],
        ),
    ]
}

fn seen(words: &[(u64, u64)], process_table: u64, strictness: Strictness) -> Seen {
    let memory: Vec<_> = (0..0x14_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    for &(at, word) in [
        (PROCESS_TABLE, 0x4000_0000_0000_00ad | ROOT),
        (ROOT, V | UPPER | 9),
        (UPPER, V | MIDDLE | 9),
        (MIDDLE, V | LAST | 5),
        (LAST, LEAF | PAGE | RW),
    ]
    .iter()
    .chain(words)
    {
        memory[at as usize / 8].store(word.to_be(), Ordering::Relaxed);
    }
    let format = ProcessScoped::new(Granule::K64)
        .with_strictness(strictness)
        .with_rc(RcPolicy::Fault)
        .with_table_fault(TableFault::Reflected);
    let mmu = GuestMmu::new(ProcessTableWord::from_bits(process_table), 0, format);
    let memory = DirectMap::new(&memory, Gpa::new(0));
    match mmu.translate_ea(&memory, Gva::new(ADDRESS), Access::READ.by_user()) {
        Ok(found) => Ok(found.output.get()),
        Err(fault) => Err(fault.interrupt.status.into_bits()),
    }
}

#[test]
fn case_b7_each_row_of_the_table() {
    let readings = [Strictness::Qemu, Strictness::Kvm, Strictness::Strict];
    let usual = V | PROCESS_TABLE | 4;
    assert_eq!(readings.map(|it| seen(&[], usual, it)), [Ok(PAGE | ADDRESS); 3], "as it should be");
    for (name, words, process_table, want) in rows() {
        assert_eq!(readings.map(|it| seen(&words, process_table, it)), want, "{name}");
    }
}

/// A write-only page of the second stage: nested KVM takes what may be written for readable.
#[test]
fn case_b7_the_second_stage_reads_what_it_may_write() {
    use pgtable::format::Format as _;
    use pgtable::{Level, Position};
    use pgtable_ppc64::radix::PartitionScoped;
    for strictness in [Strictness::Qemu, Strictness::Kvm, Strictness::Strict] {
        let format = PartitionScoped::new(Granule::K64).with_strictness(strictness);
        let at = Position { level: Level(0), shift: 16 };
        assert!(format.check(LEAF | 0x182, at, (), Access::READ).is_ok(), "{strictness:?}");
    }
}

/// A directory of an unsupported size, whose table the second stage does not map: QEMU's MMU looks
/// for the table first, and so the hypervisor hears of it; the others judge the size.
#[test]
fn case_b6_a_size_against_a_table_that_the_second_stage_does_not_map() {
    use pgtable::two_stage::{TwoStage, TwoStageFault};
    use pgtable::walk::Walker;
    use pgtable::{Fault, Hpa};
    use pgtable_ppc64::radix::PartitionScoped;
    /// The second stage's tables, behind the 2 MiB that it maps onto themselves.
    const HOST: u64 = 0x20_0000;
    let memory: Vec<_> = (0..0x24_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    let put = |at: u64, word: u64| memory[at as usize / 8].store(word.to_be(), Ordering::Relaxed);
    for (at, word) in [
        (HOST, V | (HOST + 0x1_0000) | 9),
        (HOST + 0x1_0000, V | (HOST + 0x1_1000) | 9),
        (HOST + 0x1_1000, LEAF | 0x187),
        (ROOT, V | UPPER | 9),
        (UPPER, V | MIDDLE | 9),
        (MIDDLE, V | LAST | 5),
        (LAST, LEAF | PAGE | RW),
    ] {
        put(at, word);
    }
    let malformed = (false, 0x0008_0000);
    // From whom, and what DSISR or HDSISR says.
    let not_mapped = (true, 0x4002_0000);
    for (name, at, word, qemu) in [
        ("root entry, not mapped", ROOT, V | OUTSIDE | 10, not_mapped),
        ("root entry, mapped", ROOT, V | UPPER | 10, malformed),
        ("directory, not mapped", UPPER, V | OUTSIDE | 10, not_mapped),
        ("a table below the last level", LAST, V | OUTSIDE | 5, not_mapped),
        ("a table below the last level, mapped", LAST, V | LAST | 5, malformed),
    ] {
        let before = u64::from_be(memory[at as usize / 8].load(Ordering::Relaxed));
        put(at, word);
        for (strictness, want) in [
            (Strictness::Qemu, qemu),
            (Strictness::Kvm, malformed),
            (Strictness::Strict, malformed),
        ] {
            let host = PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
            let direct = DirectMap::new(&memory, Hpa::new(0));
            let walker = Walker::new(host, direct, Hpa::new(HOST));
            let guest = ProcessScoped::new(Granule::K64).with_strictness(strictness);
            let both = TwoStage::new(guest, Gpa::new(ROOT), walker);
            let seen = match both.translate(Gva::new(ADDRESS), Access::WRITE.by_user()) {
                Err(TwoStageFault::Stage1(fault)) => (false, fault.arch.status),
                Err(TwoStageFault::Stage2 { fault: Fault { address, arch, .. }, .. }) => {
                    assert_eq!(address.get() & !0xffff, OUTSIDE, "{name}");
                    (true, arch.status)
                }
                Ok(found) => panic!("{name}: {found:?}"),
            };
            // A store says so, but a table is read by a load.
            let status = seen.1.with_store(false).into_bits();
            assert_eq!((seen.0, status), want, "{name}, {strictness:?}");
        }
        put(at, before);
    }
}

/// No row is documented that is not tested, and none tested that is not documented.
#[test]
fn case_b7_the_table_and_the_test_have_the_same_rows() {
    let source = include_str!("../src/radix/policy.rs");
    let table = source.split("| --- | --- | --- | --- |").nth(1).unwrap();
    let rows_of = table.lines().skip(1).map_while(|line| line.strip_prefix("/// | "));
    let documented: BTreeSet<_> =
        rows_of.map(|row| row.split(" | ").next().unwrap().to_owned()).collect();
    let tested: BTreeSet<_> = rows().into_iter().map(|(name, ..)| name.to_owned()).collect();
    assert_eq!(documented, tested);
}
