use super::*;
use pgtable::{Gpa, Gva, Level, Prot};

const ROOT: Position = Position { level: Level(3), shift: 39 };
const G1: Position = Position { level: Level(2), shift: 30 };
const M2: Position = Position { level: Level(1), shift: 21 };
const K4: Position = Position { level: Level(0), shift: 12 };
const K64: Position = Position { level: Level(0), shift: 16 };

fn process(strictness: Strictness) -> ProcessScoped {
    ProcessScoped::new(Granule::K64).with_strictness(strictness)
}

fn table(address: u64, width: u8) -> EntryOf<ProcessScoped> {
    Entry::Table { table: Gpa::new(address), width }
}

fn leaf(word: u64, output: u64) -> EntryOf<ProcessScoped> {
    Entry::Leaf { output: Gpa::new(output), attributes: PageAttributes::of(word.into()) }
}

/// What becomes of a word at a place: as QEMU, as KVM, as the manual.
#[test]
fn decoded() {
    let bad = Entry::Malformed;
    for (word, at, answers) in [
        // Valid.
        (0x8000_0000_0012_1009, M2, [table(0x12_1000, 9); 3]),
        (0x8000_0000_0012_1009, G1, [table(0x12_1000, 9); 3]),
        (0x8000_0000_0012_1009, ROOT, [table(0x12_1000, 9); 3]),
        (0x8000_0000_0014_0105, M2, [table(0x14_0100, 5); 3]),
        (0xc000_0000_0200_0187, M2, [leaf(0x187, 0x200_0000); 3]),
        (0xc000_0000_4000_0187, G1, [leaf(0x187, 0x4000_0000); 3]),
        (0xc000_0000_0000_210c, K4, [leaf(0x10c, 0x2000); 3]),
        (0xc000_0000_0002_018f, K64, [leaf(0x18f, 0x2_0000); 3]),
        // Absent, whatever the other bits are.
        (0, ROOT, [Entry::Absent; 3]),
        (0x7fff_ffff_ffff_ffff, K4, [Entry::Absent; 3]),
        (0x4000_0000_0000_2000, K64, [Entry::Absent; 3]),
        // Sizes that the level does not support.
        (0x8000_0000_0014_0105, G1, [bad; 3]),
        (0x8000_0000_0014_0105, ROOT, [bad; 3]),
        (0x8000_0000_0012_1009, K4, [bad; 3]),
        (0x8000_0000_0012_1005, K64, [bad; 3]),
        (0x8000_0000_0012_1000, M2, [bad; 3]),
        (0x8000_0000_0012_1008, M2, [bad; 3]),
        (0x8000_0000_0012_101f, M2, [bad; 3]),
        (0x8000_0000_0012_000d, ROOT, [bad; 3]),
        // A leaf in the root.
        (0xc000_0080_0000_0187, ROOT, [leaf(0x187, 0x80_0000_0000), bad, bad]),
        // Not aligned: NLB to the table, RPN to the page.
        (0x8000_0000_0012_1109, M2, [table(0x12_1000, 9), bad, bad]),
        (0xc000_0000_0200_1187, M2, [leaf(0x187, 0x200_0000), bad, bad]),
        (0xc000_0000_0002_118f, K64, [leaf(0x18f, 0x2_0000), bad, bad]),
        // Reserved bits.
        (0xb000_0000_0012_10e9, M2, [table(0x12_1000, 9), table(0x12_1000, 9), bad]),
        (0xc000_0000_0200_01c7, M2, [leaf(0x187, 0x200_0000), leaf(0x187, 0x200_0000), bad]),
        (0xde00_0000_0200_0187, M2, [leaf(0x187, 0x200_0000), leaf(0x187, 0x200_0000), bad]),
    ] {
        for (strictness, want) in
            [Strictness::Qemu, Strictness::Kvm, Strictness::Strict].into_iter().zip(answers)
        {
            assert_eq!(
                process(strictness).decode(word, at),
                want,
                "{word:#018x} at {at:?}, {strictness:?}"
            );
        }
    }
}

#[test]
fn encoded() {
    let format = process(Strictness::Strict);
    for (address, width, at, want) in [
        (0x12_1000, 9, M2, Some(0x8000_0000_0012_1009)),
        (0x12_1000, 9, G1, Some(0x8000_0000_0012_1009)),
        (0x12_1000, 9, ROOT, Some(0x8000_0000_0012_1009)),
        (0x14_0100, 5, M2, Some(0x8000_0000_0014_0105)),
        (0x14_0100, 9, M2, None),
        (0x14_0080, 5, M2, None),
        (0x12_1000, 5, G1, None),
        (0x12_1000, 9, K64, None),
        (1 << 60, 9, M2, None),
    ] {
        assert_eq!(
            format.table(Gpa::new(address), width, at).ok(),
            want,
            "{address:#x} {width} {at:?}"
        );
    }
    let attributes = PageAttributes::from(Prot::RWX.for_user());
    for (at, want) in [(K4, true), (K64, true), (M2, true), (G1, true), (ROOT, false)] {
        assert_eq!(format.leaves(pgtable::Address::new(0), attributes, at).is_ok(), want, "{at:?}");
    }
    assert_eq!(
        format.leaves(
            pgtable::Address::new(0),
            attributes,
            Position { level: Level(0), shift: 21 }
        ),
        Err(Unencodable { at: Position { level: Level(0), shift: 21 } })
    );
    let leaves = format.leaves(Gpa::new(0x200_0000), attributes, M2).unwrap();
    assert_eq!((leaves.first, leaves.step), (0xc000_0000_0200_0187, 0x20_0000));
    assert_eq!(leaves.skip(leaves.count - 1).first, 0xc1ff_ffff_ffe0_0187);
    let Bits { present, accessed, dirty, table, .. } = format.bits(G1);
    assert_eq!((present, table), (1 << 63, Record::NONE));
    assert_eq!((accessed, dirty), (Record::set(0x100), Record::set(0x80)));
}

#[test]
fn predicted() {
    for (granule, word, at, want) in [
        (Granule::K64, 0x8000_0000_0014_0105, M2, Some(0x14_0100)),
        (Granule::K4, 0x8000_0000_0014_0105, M2, None),
        (Granule::K4, 0x8000_0000_0012_1009, M2, Some(0x12_1000)),
        (Granule::K64, 0x8000_0000_0012_1009, M2, None),
        (Granule::K64, 0x8000_0000_0012_1009, G1, Some(0x12_1000)),
        (Granule::K64, 0x8000_0000_0012_1009, ROOT, Some(0x12_1000)),
        (Granule::K64, 0x8000_0000_0012_1109, ROOT, None),
        (Granule::K64, 0xa000_0000_0012_1009, ROOT, None),
        (Granule::K64, 0xc000_0000_0012_1009, ROOT, None),
        (Granule::K64, 0x8000_0000_0012_1005, K64, None),
        (Granule::K64, 0, ROOT, None),
    ] {
        assert_eq!(
            ProcessScoped::new(granule)
                .shortcuts(None)
                .and_then(|all| all.step(at.level.0).address(word))
                .filter(|_| at.level.0 > 0),
            want,
            "{granule:?} {word:#018x} {at:?}"
        );
    }
}

#[test]
fn quadrants() {
    const Q3: u64 = 0xc000_0000_0000_0000;
    for (quadrants, address, want) in [
        (Quadrants::Zero, 0x1234, Some(0x1234)),
        (Quadrants::Zero, 0x000f_ffff_ffff_ffff, Some(0x000f_ffff_ffff_ffff)),
        (Quadrants::Zero, 0x0010_0000_0000_0000, None),
        (Quadrants::Zero, Q3, None),
        (Quadrants::Three, 0x1234, None),
        (Quadrants::Three, Q3 | 0x1234, Some(0x1234)),
        (Quadrants::Three, 0xc010_0000_0000_0000, None),
        (Quadrants::Three, 0x8000_0000_0000_0000, None),
        (Quadrants::Three, 0x4000_0000_0000_0000, None),
        (Quadrants::ZeroAndThree, 0x1234, Some(0x1234)),
        (Quadrants::ZeroAndThree, Q3 | 0x1234, Some(0x1234)),
        (Quadrants::ZeroAndThree, 0x4000_0000_0000_1234, None),
    ] {
        let format = process(Strictness::Strict).with_quadrants(quadrants);
        assert_eq!(format.offset(Gva::new(address)), want, "{quadrants:?} {address:#x}");
    }
    let partition = PartitionScoped::new(Granule::K64);
    assert_eq!(partition.offset(Gpa::new((1 << 52) - 1)), Some((1 << 52) - 1));
    assert_eq!(partition.offset(Gpa::new(1 << 52)), None);
}

/// Every authority against every access: the table of facts that an emulated POWER9 agrees with.
#[test]
fn judged() {
    let free = process(Strictness::Qemu).with_rc(RcPolicy::HardwareUpdate);
    let kuap = free.with_amr(Amr::from_bits(3 << 62)).with_iamr(Iamr::from_bits(1 << 62));
    let partition = PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    for eaa in 0..16_u64 {
        let (privileged, read, write, execute) =
            (eaa & 8 != 0, eaa & 6 != 0, eaa & 2 != 0, eaa & 1 != 0);
        for (access, right) in
            [(Access::READ, read), (Access::WRITE, write), (Access::FETCH, execute)]
        {
            let word = 0xc000_0000_0000_0000 | eaa;
            let seen = |ok: Result<(), Interrupt>| ok.is_ok();
            assert_eq!(seen(free.check(word, K4, (), access)), right, "{eaa:#x} {access}");
            assert_eq!(
                seen(kuap.check(word, K4, (), access)),
                right && privileged,
                "{eaa:#x} {access} AMR"
            );
            let user = access.by_user();
            assert_eq!(
                seen(free.check(word, K4, (), user)),
                right && !privileged,
                "{eaa:#x} {user}"
            );
            assert_eq!(
                seen(kuap.check(word, K4, (), user)),
                right && !privileged,
                "{eaa:#x} {user} AMR"
            );
            assert_eq!(
                seen(partition.check(word, K4, (), access)),
                right,
                "{eaa:#x} {access} partition"
            );
            assert_eq!(
                seen(partition.check(word, K4, (), user)),
                right,
                "{eaa:#x} {user} partition"
            );
        }
    }
}

#[test]
fn reported() {
    let process = process(Strictness::Strict);
    let hardware = process.with_rc(RcPolicy::HardwareUpdate);
    let partition = PartitionScoped::new(Granule::K4);
    let show = |interrupt: Interrupt| (interrupt.vector.offset(), interrupt.status.into_bits());
    for (name, seen, want) in [
        ("segment", process.fault(Cause::Address, Access::READ, None, 0), (0x380, 0)),
        ("segment, store", process.fault(Cause::Address, Access::WRITE, None, 0), (0x380, 0)),
        ("segment, fetch", process.fault(Cause::Address, Access::FETCH, None, 0), (0x480, 0)),
        ("absent", process.fault(Cause::NotPresent, Access::READ, None, 0), (0x300, 0x4000_0000)),
        (
            "absent, store",
            process.fault(Cause::NotPresent, Access::WRITE, None, 0),
            (0x300, 0x4200_0000),
        ),
        (
            "absent, fetch",
            process.fault(Cause::NotPresent, Access::FETCH, None, 0),
            (0x400, 0x4000_0000),
        ),
        ("malformed", process.fault(Cause::Malformed, Access::READ, None, 0), (0x300, 0x0008_0000)),
        (
            "malformed, store",
            process.fault(Cause::Malformed, Access::WRITE, None, 0),
            (0x300, 0x0208_0000),
        ),
        (
            "malformed, fetch",
            process.fault(Cause::Malformed, Access::FETCH, None, 0),
            (0x400, 0x0008_0000),
        ),
        ("table", process.fault(Cause::TableAccess, Access::READ, None, 0), (0xe00, 0x4002_0000)),
        (
            "table, store",
            process.fault(Cause::TableAccess, Access::WRITE, None, 0),
            (0xe00, 0x4002_0000),
        ),
        (
            "table, fetch",
            process.fault(Cause::TableAccess, Access::FETCH, None, 0),
            (0xe00, 0x4002_0000),
        ),
        (
            "table, fetch, reflected",
            process.with_table_fault(TableFault::Reflected).fault(
                Cause::TableAccess,
                Access::FETCH,
                None,
                0,
            ),
            (0x300, 0x4002_0000),
        ),
        (
            "absent in stage 2",
            partition.fault(Cause::NotPresent, Access::WRITE, None, 0),
            (0xe00, 0x4200_0000),
        ),
        (
            "absent in stage 2, fetch",
            partition.fault(Cause::NotPresent, Access::FETCH, None, 0),
            (0xe20, 0x4000_0000),
        ),
        (
            "beyond stage 2",
            partition.fault(Cause::Address, Access::READ, None, 0),
            (0xe00, 0x4000_0000),
        ),
        (
            "denied in stage 2",
            partition.fault(Cause::Denied, Access::READ, None, 0),
            (0xe00, 0x0800_0000),
        ),
        (
            "denied in stage 2, fetch",
            partition.fault(Cause::Denied, Access::FETCH, None, 0),
            (0xe20, 0x1000_0000),
        ),
    ] {
        assert_eq!(show(seen), want, "{name}");
    }
    for (name, format, word, access, want) in [
        ("protection", process, 0x180 | 0xc, Access::WRITE, Some((0x300, 0x0a00_0000))),
        ("protection, load", process, 0x180 | 0x1, Access::READ, Some((0x300, 0x0800_0000))),
        ("no-execute", process, 0x180 | 0xe, Access::FETCH, Some((0x400, 0x1000_0000))),
        ("guarded, executable", process, 0x180 | 0x2f, Access::FETCH, Some((0x400, 0x1000_0000))),
        ("guarded, load", process, 0x180 | 0x2f, Access::READ, None),
        ("tolerant, fetch", process, 0x180 | 0x3f, Access::FETCH, None),
        ("R", process, 0x080 | 0xf, Access::READ, Some((0x300, 0x0004_0000))),
        ("R, store", process, 0x080 | 0xf, Access::WRITE, Some((0x300, 0x0204_0000))),
        ("R, fetch", process, 0x080 | 0xf, Access::FETCH, Some((0x400, 0x0004_0000))),
        ("C, store", process, 0x100 | 0xf, Access::WRITE, Some((0x300, 0x0204_0000))),
        ("C, load", process, 0x100 | 0xf, Access::READ, None),
        ("C, fetch", process, 0x100 | 0xf, Access::FETCH, None),
        ("permission before R and C", process, 0xc, Access::WRITE, Some((0x300, 0x0a00_0000))),
        ("R and C by hardware", hardware, 0xf, Access::WRITE, None),
    ] {
        let seen = format.check(0xc000_0000_0000_0000 | word, K4, (), access).err().map(show);
        assert_eq!(seen, want, "{name}");
    }
    let seen = partition.check(0xc000_0000_0000_010f, K4, (), Access::WRITE).err().map(show);
    assert_eq!(seen, Some((0xe00, 0x0204_0000)), "C in stage 2");
}

#[test]
fn what_hardware_records() {
    let software = process(Strictness::Strict);
    let hardware = software.with_rc(RcPolicy::HardwareUpdate);
    for (access, want) in [(Access::READ, 0x100), (Access::FETCH, 0x100), (Access::WRITE, 0x180)] {
        assert_eq!(hardware.recorded(0xf, access), 0xf | want, "{access}");
        assert_eq!(software.recorded(0xf, access), 0xf, "{access}");
    }
}
