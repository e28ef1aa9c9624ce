//! POWER's radix formats run through the conformance kit.

use pgtable::Prot;
use pgtable_conformance::machine::Machine;
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_conformance::mmu::Caches;
use pgtable_conformance::ops::{Choice, Op, Pages, Place, TreeOp};
use pgtable_conformance::tree::{ARENA, run};
use pgtable_conformance::{codec, conformance};
use pgtable_ppc64::radix::{
    Amr, Granule, Iamr, PartitionScoped, ProcessScoped, RcPolicy, Strictness,
};

conformance! {
    process_64k: ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    process_4k: ProcessScoped::new(Granule::K4);
    partition_64k: PartitionScoped::new(Granule::K64);
    partition_4k: PartitionScoped::new(Granule::K4).with_rc(RcPolicy::HardwareUpdate);
}

codec! {
    process_kvm: ProcessScoped::new(Granule::K64).with_strictness(Strictness::Kvm);
    process_qemu: ProcessScoped::new(Granule::K4).with_strictness(Strictness::Qemu);
    process_keys: ProcessScoped::new(Granule::K4)
        .with_amr(Amr::from_bits(3 << 62))
        .with_iamr(Iamr::from_bits(1 << 62));
}

/// A cursor comes to a table of larger pages than its own, and to one of smaller pages.
#[test]
fn case_a9_a_cursor_meets_pages_of_another_size() {
    let at = Place { far: 0, near: 0 };
    // Of 64 KiB in a tree of 4 KiB pages (the second size), of 4 KiB in one of 64 KiB (the first).
    for (granule, size) in [(Granule::K4, 1), (Granule::K64, 0)] {
        let (prot, leaves, budget) = (Prot::RW, Choice::Exactly(size), usize::MAX);
        let map = Op::Map { at, pages: Pages::Small(32), output: 768, prot, leaves, budget };
        let over = TreeOp::Cursor(vec![(at, Some(0))], Prot::R, usize::MAX);
        let out = TreeOp::Cursor(vec![(at, None), (at, Some(0))], Prot::R, usize::MAX);
        let arena = Arena::new(ARENA);
        let tables = Tables::new(&arena);
        let format = PartitionScoped::new(granule);
        let machine = Machine::new(format, &arena, &tables, Caches::STRICT);
        run(&machine, &[TreeOp::Space(map), over, out], 1);
    }
}
