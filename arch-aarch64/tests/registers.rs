//! Registers: every bit is modelled, without effect, or refused by name; what they say is what the
//! formats are.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use pgtable::bytes::{Debugger, Translate};
use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::{Access, Cause, Gpa, Gva, Hpa, Level, Position};
use pgtable_aarch64::{
    CONTROL_BITS, ControlRegister, Effect, FaultKind, FaultStatus, Granule, Hcr, Mair, Paging,
    Processor, Regime, Registers, Stage1Controls, Stage2Controls, Stage2Memory, Tcr, Tree, Ttbr,
    Unsupported, VaRange, VmsaStage1, VmsaStage2, combined_memory, hpfar, stage2_of,
};
use support::{GRANULES, S1, S2, stage1, stage2};

const REGISTERS: [ControlRegister; 6] = [
    ControlRegister::Tcr,
    ControlRegister::TcrEl2,
    ControlRegister::Tcr2,
    ControlRegister::Sctlr,
    ControlRegister::Hcr,
    ControlRegister::Vtcr,
];

/// Registers of EL1&0 with both ranges of 48 bits.
fn plain() -> Registers {
    let lower = stage1(S1).tcr();
    let upper = stage1(Stage1Controls { range: VaRange::Upper, ..S1 }).tcr();
    let tcr = Tcr::from_bits(lower.into_bits() | upper.into_bits());
    Registers {
        tcr: tcr.with_epd0(false).with_epd1(false).into_bits(),
        ttbr0: 0x1000,
        ttbr1: 0x2000,
        sctlr: 1,
        hcr: Hcr::new().with_rw(true).into_bits(),
        ..Registers::default()
    }
}

/// What the library says to registers in which one bit is set besides.
fn with_bit(register: ControlRegister, bit: u8) -> Result<(), Unsupported> {
    let word = 1u64 << bit;
    let plain = plain();
    let (regime, registers) = match register {
        ControlRegister::Tcr => (Regime::El10, Registers { tcr: plain.tcr | word, ..plain }),
        ControlRegister::TcrEl2 => (Regime::El2, Registers { tcr: 16 | word, ..plain }),
        ControlRegister::Tcr2 => (Regime::El10, Registers { tcr2: word, ..plain }),
        ControlRegister::Sctlr => (Regime::El10, Registers { sctlr: 1 | word, ..plain }),
        ControlRegister::Hcr => (Regime::El10, Registers { hcr: plain.hcr | word, ..plain }),
        ControlRegister::Vtcr => {
            let vtcr = stage2(S2).vtcr().into_bits() | word;
            return stage2_of(vtcr, 0, 1, &Processor::MAX).map(|_| ());
        }
    };
    Paging::of(regime, registers, &Processor::MAX).map(|_| ())
}

#[test]
fn every_control_bit() {
    for register in REGISTERS {
        for bit in 0..64u8 {
            let rows: Vec<_> = CONTROL_BITS
                .iter()
                .filter(|row| row.register == register && row.mask() >> bit & 1 == 1)
                .collect();
            assert!(rows.len() <= 1, "{register} bit {bit}: {rows:?}");
            let (name, effect) =
                rows.first().map_or(("reserved", Effect::Refused), |row| (row.name, row.effect));
            let refused = match with_bit(register, bit) {
                Err(Unsupported::Bit(refused)) => {
                    Some((refused.register, refused.bit, refused.name))
                }
                _ => None,
            };
            let want = (effect == Effect::Refused).then_some((register, bit, name));
            assert_eq!(refused, want, "{register} bit {bit}");
            if effect == Effect::None {
                assert_eq!(with_bit(register, bit), Ok(()), "{register} bit {bit} ({name})");
            }
        }
    }
}

/// A bit without effect changes nothing; a modelled one changes what the library makes of it.
#[test]
fn modelled_bits_count() {
    let plain = plain();
    let paging = |registers| Paging::of(Regime::El10, registers, &Processor::MAX);
    let mut counted = 0;
    for row in CONTROL_BITS {
        for bit in row.first..row.first + row.count {
            let word = 1u64 << bit;
            let changed = match row.register {
                ControlRegister::Tcr => Registers { tcr: plain.tcr ^ word, ..plain },
                ControlRegister::Sctlr => Registers { sctlr: plain.sctlr ^ word, ..plain },
                _ => continue,
            };
            let same = paging(changed) == paging(plain);
            match row.effect {
                Effect::None => assert!(same, "{row:?}"),
                // With 4-KiB granules, HD counts with HA only.
                Effect::Modelled => {
                    assert!(!same, "{row:?}, bit {bit}");
                    counted += 1;
                }
                Effect::Refused => {}
            }
        }
    }
    assert!(counted > 30, "{counted}");
}

#[test]
fn before_a_walk() {
    let plain = plain();
    let tree = |registers: Registers, gva: u64, access: Access| {
        let processor = Processor { physical_bits: 48, ..Processor::MAX };
        let paging = Paging::of(Regime::El10, registers, &processor).unwrap();
        match paging.tree(Gva::new(gva), access) {
            Ok(Tree::Off { output: gpa, .. }) => Ok((None, gpa.get())),
            Ok(Tree::On { format, root, .. }) => Ok((Some(format.controls().range), root.get())),
            Err(fault) => Err(fault.arch.into_bits()),
        }
    };
    let tcr = |set: fn(Tcr) -> Tcr| Registers {
        tcr: set(Tcr::from_bits(plain.tcr)).into_bits(),
        ..plain
    };
    let off = Registers { sctlr: 0, ..plain };
    let read = Access::READ;
    let (lower, upper) = (Ok((Some(VaRange::Lower), 0x1000)), Ok((Some(VaRange::Upper), 0x2000)));
    let high = 0xffff_0000_0000_0000;
    for (registers, gva, access, want) in [
        (plain, 0, read, lower),
        (plain, high, read, upper),
        (plain, 1 << 48, read, Err(0x9600_0004)),
        (plain, high - 1, read.by_user(), Err(0x9200_0004)),
        (plain, 0x5a00_0000_0000_1000, Access::WRITE, Err(0x9600_0044)),
        (plain, 0x5a00_0000_0000_1000, Access::FETCH, Err(0x8600_0004)),
        (tcr(|tcr| tcr.with_tbi0(true)), 0x5a00_0000_0000_1000, read, lower),
        (tcr(|tcr| tcr.with_tbi1(true)), 0x5aff_0000_0000_1000, read, upper),
        (tcr(|tcr| tcr.with_tbi0(true)), 0x5a00_0000_0000_1000, Access::FETCH, lower),
        (
            tcr(|tcr| tcr.with_tbi0(true).with_tbid0(true)),
            0x5a00_0000_0000_1000,
            Access::FETCH.by_user(),
            Err(0x8200_0004),
        ),
        (tcr(|tcr| tcr.with_epd0(true)), 0, read, Err(0x9600_0004)),
        (tcr(|tcr| tcr.with_epd0(true)), high, read, upper),
        // The size of a range without walks does not count.
        (tcr(|tcr| tcr.with_epd1(true).with_t1sz(0)), 0, read, lower),
        (tcr(|tcr| tcr.with_e0pd0(true)), 0, read, lower),
        (tcr(|tcr| tcr.with_e0pd0(true)), 0, read.by_user(), Err(0x9200_0004)),
        (tcr(|tcr| tcr.with_e0pd1(true)), high, Access::FETCH.by_user(), Err(0x8200_0004)),
        (tcr(|tcr| tcr.with_ips(0)), 0, read, lower),
        (Registers { ttbr0: 1 << 40, ..tcr(|tcr| tcr.with_ips(0)) }, 0, read, Err(0x9600_0000)),
        (off, 0x1234, read, Ok((None, 0x1234))),
        (off, 1 << 48, read, Err(0x9600_0000)),
        // DC, and TGE without E2H: stage 1 of EL1&0 is off.
        (Registers { hcr: plain.hcr | 1 << 12, ..plain }, 0x1234, read, Ok((None, 0x1234))),
        (Registers { hcr: plain.hcr | 1 << 27, ..plain }, 0x1234, read, Ok((None, 0x1234))),
        (Registers { hcr: plain.hcr | 1 << 34, ..plain }, 0, read, lower),
    ] {
        assert_eq!(tree(registers, gva, access), want, "{access} at {gva:#x} by {registers:x?}");
    }
    // E0PD is a right: a debugger's access goes on to the tables, of which there are none here.
    let e0pd = Paging::of(Regime::El10, tcr(|tcr| tcr.with_e0pd0(true)), &Processor::MAX).unwrap();
    let walker = e0pd.walker(DirectMap::new(&[], Gpa::new(0)));
    let judged = walker.translate(Gva::new(0), read.by_user()).unwrap_err();
    let debugged = Debugger(&walker).translate(Gva::new(0), read.by_user()).unwrap_err();
    assert_eq!([judged.cause, debugged.cause], [Cause::Address, Cause::TableAccess]);
    let refused = |hcr| {
        let registers = Registers { hcr, ..plain };
        Paging::of(Regime::El10, registers, &Processor::MAX).unwrap_err()
    };
    assert_eq!(refused(0), Unsupported::AArch32);
    assert_eq!(refused(1 << 34 | 1 << 31 | 1 << 27), Unsupported::Tge);
    let tg0 = Registers { tcr: plain.tcr | 3 << 14, ..plain };
    assert_eq!(
        Paging::of(Regime::El10, tg0, &Processor::MAX).unwrap_err().to_string(),
        "the granule of TCR.TG0 is reserved"
    );
}

/// TCR and VTCR of every shape are read back as the same format.
#[test]
fn registers_of_every_shape() {
    for granule in GRANULES {
        for input_bits in 16..=52u8 {
            for (range, ds) in [(VaRange::Lower, false), (VaRange::Upper, true)] {
                let controls = Stage1Controls {
                    range,
                    granule,
                    input_bits,
                    output_bits: 52,
                    physical_bits: 52,
                    lva: true,
                    ds: ds && granule != Granule::K64,
                    small_tables: true,
                    ha: true,
                    hd: ds,
                    hpd: !ds,
                    tbi: ds,
                    ..S1
                };
                let Ok(format) = VmsaStage1::new(controls) else { continue };
                // Bits 51:48 stand in the register with 64-KiB granules, or under DS.
                let wide = controls.ds || granule == Granule::K64;
                let root = if wide { 0xf_0000_1230_0000 } else { 0x1230_0000 };
                let ttbr = Ttbr::of(root, 0x77, wide).into_bits();
                assert_eq!(format.ttbr(Gpa::new(root), 0x77).into_bits(), ttbr, "{controls:?}");
                let registers = Registers {
                    tcr: format.tcr().into_bits(),
                    ttbr0: ttbr,
                    ttbr1: ttbr,
                    ..plain()
                };
                let paging = Paging::of(Regime::El10, registers, &Processor::MAX).unwrap();
                let half = paging.half(range).unwrap();
                assert_eq!((half.format, half.root.get()), (format, root), "{controls:?}");
            }
            for start_level in -1..=3 {
                let controls = Stage2Controls {
                    granule,
                    input_bits,
                    start_level,
                    output_bits: 52,
                    physical_bits: 52,
                    ds: granule != Granule::K64,
                    small_tables: true,
                    ha: true,
                    fwb: true,
                    ..S2
                };
                let Ok(format) = VmsaStage2::new(controls) else { continue };
                let hcr = format.hcr().into_bits();
                assert_eq!(hcr, 1 << 46 | 1, "VM and FWB");
                let vttbr = Ttbr::of(0x4000_0000, 5, true).into_bits();
                assert_eq!(format.vttbr(Hpa::new(0x4000_0000), 5).into_bits(), vttbr);
                let read = stage2_of(format.vtcr().into_bits(), vttbr, hcr, &Processor::MAX);
                assert_eq!(read, Ok(Some((format, Hpa::new(0x4000_0000)))), "{controls:?}");
            }
        }
    }
    // VM, DC, TGE, E2H: which of them turn stage 2 on.
    for (bits, want) in [
        ([false; 4], false),
        ([true, false, false, false], true),
        ([false, true, false, false], true),
        ([true, false, true, false], true),
        ([true, false, false, true], true),
        ([false, false, true, false], false),
        ([true, true, true, true], false),
    ] {
        let [vm, dc, tge, e2h] = bits;
        let hcr = Hcr::new().with_rw(true).with_vm(vm).with_dc(dc).with_tge(tge).with_e2h(e2h);
        let vtcr = stage2(S2).vtcr().into_bits();
        let read = stage2_of(vtcr, 0, hcr.into_bits(), &Processor::MAX);
        assert_eq!(read.map(|stage| stage.is_some()), Ok(want), "{hcr:?}");
    }
}

/// What hardware makes of root addresses and of start levels that nobody should write.
#[test]
fn case_roots_and_start_levels() {
    let hcr = Hcr::new().with_vm(true).with_rw(true).into_bits();
    let root_of = |vtcr, vttbr| {
        let read = stage2_of(vtcr, vttbr, hcr, &Processor::MAX);
        read.map(|stage| stage.map(|(_, root)| root.get()))
    };
    // SL2 with another SL0 than 0.
    for vtcr in [0x3_8024_005b, 0x3_8062_0092] {
        assert!(matches!(root_of(vtcr, 0x1_0000), Err(Unsupported::Shape(_))), "{vtcr:#x}");
    }
    // A root beyond PS = 32 bits; and the last one within.
    let vtcr = 24 | 1 << 6 | 1 << 31;
    assert_eq!(root_of(vtcr, 1 << 40), Err(Unsupported::Root { root: 1 << 40 }));
    assert_eq!(root_of(vtcr, 0xffff_e000), Ok(Some(0xffff_e000)));
    // Bits below the root's size count as 0.
    assert_eq!(root_of(0x8044_8058, 0xd73_8a98_9dfc), Ok(Some(0xd73_8a98_0000)));
    let beyond = Unsupported::Root { root: 0xf_0d73_8a98_0000 };
    assert_eq!(root_of(0x3_8044_8058, 0xd73_8a98_9dfc), Err(beyond));
    for (tcr, ttbr0, want) in [
        // PS = 6, 4 KiB, no DS: bits 5:2 are no address bits.
        (16 | 1 << 23 | 6 << 32, 0x1_0004, 0x1_0000),
        (23 | 1 << 23 | 6 << 32, 0x1_0024, 0x1_0020),
        (16 | 1 << 23 | 6 << 32 | 1 << 59, 0x1_0004, 0x1_0000_0001_0000),
    ] {
        let registers = Registers { tcr, ttbr0, ..plain() };
        let paging = Paging::of(Regime::El10, registers, &Processor::MAX).unwrap();
        assert_eq!(paging.half(VaRange::Lower).unwrap().root.get(), want, "{tcr:#x}");
    }
    // Bits 5:2 are address bits 51:48 under DS whatever PS says, and with 64-KiB granules where PS
    // is 6 and the processor has FEAT_LPA (`AArch64.S1TTBaseAddress`, `AArch64.S2TTBaseAddress`).
    // Beyond the output size they are an address size fault at level 0, of stage 2 a refusal.
    const WIDE: u64 = 0x3_0000_0010_0000;
    const NARROW: u64 = 0x10_0000;
    let (k4, k16, k64) = (0, 2, 1);
    for (tg, ds, ps, physical_bits, want) in [
        (k4, true, 6, 52, WIDE),
        (k4, true, 5, 52, WIDE),
        (k4, true, 6, 48, WIDE),
        (k4, true, 2, 48, WIDE),
        (k4, false, 6, 52, NARROW),
        (k16, true, 6, 52, WIDE),
        (k16, true, 5, 48, WIDE),
        (k16, false, 6, 52, NARROW),
        (k64, false, 6, 52, WIDE),
        (k64, true, 6, 52, WIDE),
        (k64, false, 5, 52, NARROW),
        (k64, false, 6, 48, NARROW),
        (k64, true, 6, 48, NARROW),
        (k64, true, 7, 52, NARROW),
    ] {
        let processor = Processor { physical_bits, ..Processor::MAX };
        let case = format!("TG {tg}, DS {ds}, PS {ps}, {physical_bits} bits");
        let tcr = 16 | 1 << 23 | tg << 14 | ps << 32 | u64::from(ds) << 59;
        let registers = Registers { tcr, ttbr0: NARROW | 0xc, ..plain() };
        let paging = Paging::of(Regime::El10, registers, &processor).unwrap();
        let root = paging.half(VaRange::Lower).unwrap().root.get();
        let output_bits =
            if ps >= 6 { physical_bits } else { [32, 36, 40, 42, 44, 48][ps as usize] };
        let fits = root >> output_bits == 0;
        assert_eq!(root, want, "{case}");
        match paging.tree(Gva::new(0), Access::READ) {
            Ok(_) => assert!(fits, "{case}"),
            Err(fault) => {
                assert_eq!((fits, fault.arch.into_bits()), (false, 0x9600_0000), "{case}");
            }
        }
        let vtcr = 24 | 1 << 6 | tg << 14 | ps << 16 | 1 << 31 | u64::from(ds) << 32;
        let read = stage2_of(vtcr, NARROW | 0xc, hcr, &processor);
        let root = match read {
            Ok(stage) => stage.map(|(_, root)| root.get()),
            Err(Unsupported::Root { root }) => {
                assert!(!fits, "{case}");
                Some(root)
            }
            Err(error) => panic!("{error}, {case}"),
        };
        assert_eq!(root, Some(want), "{case}");
    }
    // Level 0 of 4-KiB granules needs 44 physical bits, level 1 of 16-KiB granules 42, DS or not.
    for (granule, input_bits, start_level, least) in
        [(Granule::K4, 42, 0, 44), (Granule::K16, 40, 1, 42)]
    {
        for (ds, physical_bits) in
            [false, true].into_iter().flat_map(|ds| [(ds, least - 2), (ds, least)])
        {
            let controls =
                Stage2Controls { granule, input_bits, start_level, physical_bits, ds, ..S2 };
            let controls = Stage2Controls { output_bits: physical_bits, ..controls };
            let made = VmsaStage2::new(controls);
            assert_eq!(made.is_ok(), physical_bits == least, "{controls:?}");
        }
    }
}

/// Feature registers as QEMU 10's processors have them.
#[test]
fn processors() {
    let max = Processor::from_id(
        [0x2100_0323_1020_1126, 0x0110_1120_1031_2122, 0x1221_0111_1201_1011],
        [1 << 4, 0],
    );
    assert_eq!(max, Processor::MAX);
    let a53 = Processor::from_id([0x1122, 0, 0], [0; 2]);
    assert_eq!((a53.physical_bits, a53.access_flag, a53.lpa2), (40, false, [false; 2]));
    assert_eq!(Processor::from_id([5, 0, 0], [0; 2]).physical_bits, 48);
    // Controls on a processor are never more than it has.
    for processor in [max, a53, Processor { physical_bits: 44, xnx: true, ..a53 }] {
        let (first, second) = (S1.on(&processor), S2.on(&processor));
        let bits = processor.physical_bits.min(48);
        assert_eq!((first.output_bits, second.output_bits), (bits, bits));
        assert_eq!(
            (first.ha, first.hd, first.lva),
            (processor.access_flag, processor.dirty_state, processor.lva)
        );
        assert_eq!(
            (second.ha, second.hd, second.xnx),
            (processor.access_flag, processor.dirty_state, processor.xnx)
        );
        assert_eq!([first.small_tables, second.small_tables], [processor.small_tables; 2]);
        let of_id = Registers { tcr: stage1(first).tcr().into_bits(), ..plain() };
        let paging = Paging::of(Regime::El10, of_id, &processor).unwrap();
        assert_eq!(*paging.half(VaRange::Lower).unwrap().format.controls(), first);
        let second = stage2(second);
        let read = stage2_of(second.vtcr().into_bits(), 0, second.hcr().into_bits(), &processor);
        assert_eq!(read, Ok(Some((second, Hpa::new(0)))));
    }
    // FEAT_PAuth by each of its algorithms: addresses (APA, API, APA3), generic (GPA, GPI, GPA3).
    for bit in 0..128 {
        let word = 1_u128 << bit;
        let paired = Processor::from_id([0; 3], [word as u64, (word >> 64) as u64]);
        let pauth = matches!(bit, 4..12 | 24..32 | 72..80);
        assert_eq!(paired.tbid, pauth, "bit {bit}");
    }
}

#[test]
fn words() {
    assert_eq!(hpfar(Gpa::new(0x9_8000_1234_5678)), 0x0980_0012_3450);
    assert_eq!(Mair::USUAL.attr(2), 0x44);
    let mut statuses = 0;
    for bits in 0..64 {
        if let Some(status) = FaultStatus::from_bits(bits) {
            assert_eq!(status.into_bits(), bits, "{status:?}");
            assert_eq!(FaultStatus::new(status.kind(), status.level()), Some(status));
            statuses += 1;
        }
    }
    // What has no bits cannot be said: DDI 0487, "ESR_EL1", has 4 levels of each kind, and level −1
    // of those that need no leaf.
    assert_eq!(statuses, 5 * 4 + 3);
    for (kind, levels) in [
        (FaultKind::AddressSize, -1..=3),
        (FaultKind::Translation, -1..=3),
        (FaultKind::WalkAbort, -1..=3),
        (FaultKind::AccessFlag, 0..=3),
        (FaultKind::Permission, 0..=3),
    ] {
        for level in i8::MIN..=i8::MAX {
            let said = FaultStatus::new(kind, level).is_some();
            assert_eq!(said, levels.contains(&level), "{kind:?} {level}");
        }
    }
    // A leaf's fault is never told of level −1, even if a caller asks where no leaf stands.
    let format = stage1(Stage1Controls { ds: true, input_bits: 52, ..S1 });
    let root = Position { level: Level(4), shift: 48 };
    let esr = format.check(1 << 10, root, 0, Access::WRITE.by_user()).unwrap_err();
    assert_eq!(esr.fault(), FaultStatus::new(FaultKind::Permission, 0));
    for (first, second, fwb, want) in [
        (0xff, Stage2Memory::WriteBack, false, 0xff),
        (0xff, Stage2Memory::WriteThrough, false, 0xbb),
        (0xff, Stage2Memory::NonCacheable, false, 0x44),
        (0xff, Stage2Memory::DeviceNgnre, false, 0x04),
        (0x44, Stage2Memory::WriteBack, false, 0x44),
        (0x0c, Stage2Memory::DeviceNgnre, false, 0x04),
        (0x00, Stage2Memory::DeviceGre, false, 0x00),
        (0x00, Stage2Memory::WriteBack, false, 0x00),
        (0x00, Stage2Memory::WriteBack, true, 0xff),
        (0x00, Stage2Memory::NonCacheable, true, 0x00),
        (0xbb, Stage2Memory::NonCacheable, true, 0x44),
        (0xbb, Stage2Memory::Stage1, true, 0xbb),
        (0x00, Stage2Memory::DeviceGre, true, 0x00),
        (0x0c, Stage2Memory::DeviceNgnre, true, 0x04),
        (0x44, Stage2Memory::DeviceGre, true, 0x0c),
        // Hints are stage 1's, and whether they are transient.
        (0x11, Stage2Memory::WriteBack, false, 0x11),
        (0x52, Stage2Memory::WriteThrough, false, 0x12),
        (0x11, Stage2Memory::Other(0b0110), false, 0x41),
        (0x99, Stage2Memory::WriteBack, true, 0xdd),
        (0x11, Stage2Memory::WriteBack, true, 0x55),
        (0x4d, Stage2Memory::WriteBack, true, 0xfd),
        (0x44, Stage2Memory::WriteBack, true, 0xff),
        (0x11, Stage2Memory::Stage1, true, 0x11),
        // XS and tags are left out.
        (0x40, Stage2Memory::WriteBack, false, 0x44),
        (0xa0, Stage2Memory::WriteBack, false, 0xaa),
        (0xf0, Stage2Memory::WriteBack, false, 0xff),
        (0xf0, Stage2Memory::WriteThrough, false, 0xbb),
        (0xf0, Stage2Memory::Stage1, true, 0xf0),
    ] {
        assert_eq!(combined_memory(first, second, fwb), want, "{first:#x} {second:?} {fwb}");
    }
    let format = stage1(Stage1Controls { range: VaRange::Upper, input_bits: 39, ..S1 });
    assert_eq!(format.address(0x1000), Gva::new(0xffff_ff80_0000_1000));
}
