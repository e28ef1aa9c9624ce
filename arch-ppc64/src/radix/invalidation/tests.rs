extern crate std;

use std::vec::Vec;
use std::{format, string::String};

use pgtable::{Gpa, Gva};

use super::*;

const NO_BUGS: Processor = Processor { isa_3_1: false, erat_bug: false, store_queue_bug: false };

fn range<A: Address>(start: u64, last: u64, shift: u8) -> StaleRange<A> {
    StaleRange { start: A::new(start), last: A::new(last), shift }
}

/// The steps as an assembler listing: `tlbie RB RS RIC`.
fn listing<S: Scope>(
    it: Invalidation<S>,
    plan: Plan,
    ranges: &[StaleRange<S::Input>],
) -> Vec<String> {
    let mut lines = Vec::new();
    it.run(plan, ranges, &mut |step: Step<S>| {
        let operands = |it: Tlbie<S>| {
            format!("{:#x} {:#x} {:?}", it.rb().into_bits(), it.rs().into_bits(), it.ric())
        };
        lines.push(match step {
            Step::Ptesync => "ptesync".into(),
            Step::Tlbie(it) => format!("tlbie {}", operands(it)),
            Step::Tlbiel(it) => format!("tlbiel {}", operands(it)),
            Step::Eieio => "eieio".into(),
            Step::Tlbsync => "tlbsync".into(),
            Step::CpAbort => "cp_abort".into(),
            Step::Slbia { ih } => format!("slbia {ih}"),
            Step::Isync => "isync".into(),
        });
    });
    lines
}

#[test]
fn as_linux_chooses() {
    let pages = |walk_cache| Plan::Pages { walk_cache };
    for (ranges, tables, ceiling, want) in [
        (&[range(0x1000, 0x1000, 12)][..], false, 33, pages(false)),
        (&[range(0x1000, 0x1000, 12)], true, 33, pages(true)),
        (&[range(0, 32 << 16, 16)], false, 33, pages(false)),
        (&[range(0, 33 << 16, 16)], false, 33, Plan::Space(Ric::Tlb)),
        (&[range(0, 33 << 16, 16)], true, 33, Plan::Space(Ric::All)),
        (&[range(0, 255 << 16, 16)], false, 256, pages(false)),
        (&[range(0, 256 << 16, 16)], false, 256, Plan::Space(Ric::Tlb)),
        (
            &[range(0, 20 << 12, 12), range(1 << 30, (1 << 30) + (12 << 21), 21)],
            false,
            33,
            Plan::Space(Ric::Tlb),
        ),
        (&[], true, 33, Plan::Space(Ric::WalkCache)),
        (&[range(0, 0, 39)], false, 33, Plan::Space(Ric::Tlb)),
        (&[range(0, 0, 255)], true, 33, Plan::Space(Ric::All)),
        (&[range(0x2000, 0x1000, 12)], false, 33, Plan::Space(Ric::Tlb)),
        (&[range(0, u64::MAX, 12), range(0, u64::MAX, 12)], false, 33, Plan::Space(Ric::Tlb)),
    ] {
        assert_eq!(
            Plan::of_ranges::<Gva>(ranges, tables, ceiling),
            want,
            "{ranges:?} {tables} {ceiling}"
        );
    }
    assert_eq!(Space::of::<Stage1>(0), Space::Kernel);
    assert_eq!(Space::of::<Stage1>(1), Space::Ordinary);
    assert_eq!(Space::of::<Stage2>(0), Space::Ordinary);
}

#[test]
fn one_page_everywhere() {
    let ranges = [range::<Gva>(0x1234_5000, 0x1234_5000, 12)];
    let pages = Plan::Pages { walk_cache: false };
    let it = |processor| Invalidation::of_process(0x42, 0, Reach::Global, processor);
    assert_eq!(
        listing(it(NO_BUGS), pages, &ranges),
        ["ptesync", "tlbie 0x12345000 0x4200000000 Tlb", "eieio", "tlbsync", "ptesync"]
    );
    assert_eq!(
        listing(it(Processor::POWER9), pages, &ranges),
        [
            "ptesync",
            "tlbie 0x12345000 0x4200000000 Tlb",
            "ptesync",
            "tlbie 0x12345000 0x0 Tlb",
            "ptesync",
            "tlbie 0x12345000 0x4200000000 Tlb",
            "eieio",
            "tlbsync",
            "ptesync",
        ]
    );
}

#[test]
fn a_range_and_tables_everywhere() {
    let ranges = [range::<Gva>(0x1_0000, 0x2_0000, 16)];
    let it = Invalidation::of_process(1, 9, Reach::Global, Processor::POWER9);
    assert_eq!(
        listing(it, Plan::Pages { walk_cache: true }, &ranges),
        [
            "ptesync",
            "tlbie 0x400 0x100000009 WalkCache",
            "tlbie 0x100a0 0x100000009 Tlb",
            "tlbie 0x200a0 0x100000009 Tlb",
            "ptesync",
            "tlbie 0x400 0x9 Tlb",
            "ptesync",
            "tlbie 0x200a0 0x100000009 Tlb",
            "eieio",
            "tlbsync",
            "ptesync",
        ]
    );
}

#[test]
fn a_whole_space_everywhere() {
    let process = Invalidation::of_process(1, 0, Reach::Global, Processor::POWER9);
    assert_eq!(
        listing(process, Plan::Space(Ric::All), &[]),
        [
            "ptesync",
            "tlbie 0x400 0x100000000 All",
            "ptesync",
            "tlbie 0x400 0x0 Tlb",
            "ptesync",
            "tlbie 0xffffffffff0a0 0x100000000 Tlb",
            "eieio",
            "tlbsync",
            "ptesync",
        ]
    );
    assert_eq!(
        listing(process, Plan::Space(Ric::WalkCache), &[]),
        ["ptesync", "tlbie 0x400 0x100000000 WalkCache", "eieio", "tlbsync", "ptesync"]
    );
    let partition = Invalidation::of_partition(7, Reach::Global, Processor::POWER10);
    assert_eq!(
        listing(partition, Plan::Space(Ric::All), &[]),
        ["ptesync", "tlbie 0x800 0x7 All", "eieio", "tlbsync", "ptesync"]
    );
    assert!(listing(partition, Plan::Nothing, &[]).is_empty());
}

#[test]
fn here() {
    let process = |processor| Invalidation::of_process(1, 0, Reach::Local, processor);
    let ranges = [range::<Gva>(0x20_0000, 0x40_0000, 21)];
    assert_eq!(
        listing(process(Processor::POWER9), Plan::Pages { walk_cache: true }, &ranges),
        [
            "ptesync",
            "tlbiel 0x400 0x100000000 WalkCache",
            "tlbiel 0x200020 0x100000000 Tlb",
            "tlbiel 0x400020 0x100000000 Tlb",
            "ptesync",
        ]
    );
    let sets = listing(process(Processor::POWER9), Plan::Space(Ric::All), &[]);
    assert_eq!(sets.len(), 1 + 128 + 3);
    assert_eq!(sets[1], "tlbiel 0x400 0x100000000 All");
    assert_eq!(sets[6], "tlbiel 0x5400 0x100000000 Tlb");
    assert_eq!(sets[128..], ["tlbiel 0x7f400 0x100000000 Tlb", "ptesync", "slbia 3", "isync"]);
    assert_eq!(
        listing(process(Processor::POWER10), Plan::Space(Ric::Tlb), &[]),
        ["ptesync", "tlbiel 0x400 0x100000000 Tlb", "ptesync", "cp_abort", "slbia 3", "isync"]
    );
    assert_eq!(
        listing(process(Processor::POWER9), Plan::Space(Ric::WalkCache), &[]),
        ["ptesync", "tlbiel 0x400 0x100000000 WalkCache", "ptesync"]
    );
    let partition = Invalidation::of_partition(7, Reach::Local, Processor::POWER9);
    let sets = listing(partition, Plan::Space(Ric::All), &[]);
    assert_eq!((&*sets[1], &*sets[130]), ("tlbiel 0x800 0x7 All", "slbia 6"));
    let page = [range::<Gpa>(0x4000_0000, 0x4000_0000, 30)];
    assert_eq!(
        listing(partition, Plan::Pages { walk_cache: false }, &page),
        ["ptesync", "tlbiel 0x40000040 0x7 Tlb", "ptesync"]
    );
}

#[test]
fn processors_by_pvr() {
    let fixed = Processor { store_queue_bug: false, ..Processor::POWER9 };
    for (pvr, want) in [
        (0x004e_1200, Processor::POWER9),
        (0x004e_1202, Processor::POWER9),
        (0x004e_1203, fixed),
        (0x004e_0203, fixed),
        (0x004e_2102, Processor::POWER9),
        (0x004e_2103, fixed),
        (0x004e_c203, Processor::POWER9),
        (0x0f00_0005, Processor::POWER9),
        (0x0080_0200, Processor::POWER10),
        (0x0f00_0006, Processor::POWER10),
    ] {
        assert_eq!(Processor::of_pvr(pvr), want, "{pvr:#x}");
    }
}
