//! Boot tables: what the registers say is what was asked for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::AtomicU64;

use pgtable::bytes::Translate;
use pgtable::memory::DirectMap;
use pgtable::{Access, Attributes, Gpa, Gva, Memory, Prot};
use pgtable_aarch64::{
    BootError, BootMapping, GvaError, Hcr, Paging, Processor, Regime, Registers, Stage1Attributes,
    Stage1Controls, Tcr, Unsupported, boot_tables, gva_to_gpa,
};
use support::{GRANULES, S1};

#[test]
fn an_identity_map_and_a_kernel() {
    for granule in GRANULES {
        for input_bits in [39, 48] {
            let words: Vec<_> = (0..0x20_0000 / 8).map(|_| AtomicU64::new(!0)).collect();
            let memory = DirectMap::new(&words, Gpa::new(0));
            let controls = Stage1Controls { granule, input_bits, ..S1 };
            let kernel = u64::MAX << input_bits;
            let image = BootMapping::new(
                Gva::new(kernel),
                Gpa::new(0x4000_0000),
                0x400_0000,
                Prot::RX.into(),
            );
            let identity = BootMapping::identity(1 << 32, Prot::RW.into());
            let area = Gpa::new(0x1234)..Gpa::new(0x20_0000);
            let boot = boot_tables(controls, &memory, area, &[identity], &[image]).unwrap();
            let paging = Paging::of(Regime::El10, boot.registers, &Processor::MAX).unwrap();
            let walker = paging.walker(&memory);
            for (gva, access, want) in [
                (0x1234_5678, Access::WRITE, Some(0x1234_5678)),
                (0x1234_5678, Access::FETCH, None),
                (1 << 32, Access::READ, None),
                (kernel + 0x12_3456, Access::FETCH, Some(0x4012_3456)),
                (kernel + 0x12_3456, Access::WRITE, None),
                (kernel + 0x400_0000, Access::READ, None),
            ] {
                let found = walker.translate(Gva::new(gva), access).ok();
                let found = found.map(|page| page.output.get());
                assert_eq!(found, want, "{access} at {gva:#x}, {controls:?}");
                let gpa = gva_to_gpa(&boot.registers, memory, Gva::new(gva), access);
                assert_eq!(gpa.ok().map(Gpa::get), want, "{access} at {gva:#x}");
            }
            assert!(boot.end <= Gpa::new(0x20_0000));
        }
    }
}

#[test]
fn one_range_and_none() {
    let words: Vec<_> = (0..0x1_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let identity = BootMapping::identity(1 << 30, Prot::RW.into());
    let area = Gpa::new(0x1000)..Gpa::new(0x3000);
    let boot = boot_tables(S1, &memory, area.clone(), &[identity], &[]).unwrap();
    let Registers { tcr, tcr2, ttbr0, ttbr1, sctlr, hcr, pan } = boot.registers;
    assert_eq!((ttbr0, ttbr1), (0x1000, 0));
    assert_eq!((tcr2, sctlr, hcr, pan), (0, 0x1005, 1 << 31, false));
    let tcr = Tcr::from_bits(tcr);
    assert!(tcr.epd1() && !tcr.epd0());
    assert_eq!(boot.end, Gpa::new(0x3000));
    let small = Gpa::new(0x1000)..Gpa::new(0x2000);
    let full = boot_tables(S1, &memory, small, &[identity], &[]).unwrap_err();
    assert!(matches!(full, BootError::Tables(_)), "{full}");
    let none = Stage1Controls { input_bits: 53, ..S1 };
    let shape = boot_tables(none, &memory, area, &[identity], &[]).unwrap_err();
    assert_eq!(shape.to_string(), "an input address size of 53 bits is not one of 25 to 48");
}

/// Memory that does not begin at 0, beside devices, for each regime: what the registers say is what
/// was asked for, with the types that MAIR names.
#[test]
fn devices_and_memory_in_every_regime() {
    let ram = Gpa::new(0x4000_0000);
    let words: Vec<_> = (0..0x1_0000 / 8).map(|_| AtomicU64::new(!0)).collect();
    let memory = DirectMap::new(&words, ram);
    let area = ram..Gpa::new(0x4001_0000);
    let devices = Stage1Attributes::from(Prot::RW).with_memory(Memory::Device);
    let lower = [
        BootMapping::identity(1 << 30, devices),
        BootMapping::identity_at(ram, 1 << 30, Prot::RWX.into()),
    ];
    for regime in [Regime::El10, Regime::El2, Regime::El20] {
        let controls = Stage1Controls { regime, wxn: regime == Regime::El20, ..S1 };
        let boot = boot_tables(controls, &memory, area.clone(), &lower, &[]).unwrap();
        let paging = Paging::of(regime, boot.registers, &Processor::MAX).unwrap();
        // E2H says which regime EL2 has, before any other bit is read.
        let e2h = Hcr::from_bits(boot.registers.hcr).e2h();
        assert_eq!(e2h, regime == Regime::El20);
        let other = if e2h { Regime::El2 } else { Regime::El20 };
        let wrong = Paging::of(other, boot.registers, &Processor::MAX);
        assert_eq!(wrong, Err(Unsupported::E2h { e2h }), "{regime:?} as {other:?}");
        for (gva, access, want) in [
            (0x900_0000, Access::WRITE, Some(0x04)),
            (0x900_0000, Access::FETCH, None),
            (0x4123_4567, Access::WRITE, Some(0xff)),
            (0x4123_4567, Access::FETCH, Some(0xff).filter(|_| !controls.wxn)),
            (0x8000_0000, Access::READ, None),
        ] {
            let found = paging.translate(memory, Gva::new(gva), access);
            let kind = found.map(|page| {
                assert_eq!(page.output.get(), gva);
                boot.mair.attr(page.attributes.unwrap().attr_index())
            });
            assert_eq!(kind.ok(), want, "{access} at {gva:#x}, {regime:?}");
        }
    }
    let controls = Stage1Controls { regime: Regime::El2, ..S1 };
    let upper = boot_tables(controls, &memory, area, &[], &lower[1..]).unwrap_err();
    assert_eq!(upper, BootError::NoUpperRange);
}

/// Why an address has no guest-physical one.
#[test]
fn gva_errors() {
    let words: Vec<_> = (0..512).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let gva = Gva::new(0x1234);
    let off = gva_to_gpa(&Registers::default(), memory, gva, Access::READ);
    assert_eq!(off, Ok(Gpa::new(0x1234)));
    let on = Registers { tcr: 16 | 1 << 23, sctlr: 1, ..Registers::default() };
    match gva_to_gpa(&on, memory, gva, Access::WRITE.by_user()) {
        Err(GvaError::Fault(fault)) => assert_eq!(fault.arch.into_bits(), 0x9200_0044),
        other => panic!("{other:?}"),
    }
    let aarch32 = Registers { hcr: 0, ..on };
    let refused = gva_to_gpa(&aarch32, memory, gva, Access::READ);
    assert_eq!(refused, Err(GvaError::Unsupported(Unsupported::AArch32)));
}
