//! Boot tables: what the registers say is what was asked for.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::AtomicU64;

use arch_aarch64::{
    BootError, BootMapping, Hcr, Paging, Processor, Regime, Registers, Stage1Controls, boot_tables,
};
use pgtable::bytes::Translate;
use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva, Prot};
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
            let registers = Registers {
                tcr: boot.tcr.into_bits(),
                ttbr0: boot.ttbr0.into_bits(),
                ttbr1: boot.ttbr1.into_bits(),
                sctlr: 1,
                hcr: Hcr::new().with_rw(true).into_bits(),
                ..Registers::default()
            };
            let paging = Paging::of(Regime::El10, registers, &Processor::MAX).unwrap();
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
    assert_eq!((boot.ttbr0.into_bits(), boot.ttbr1.into_bits()), (0x1000, 0));
    assert!(boot.tcr.epd1() && !boot.tcr.epd0());
    assert_eq!(boot.end, Gpa::new(0x3000));
    let small = Gpa::new(0x1000)..Gpa::new(0x2000);
    let full = boot_tables(S1, &memory, small, &[identity], &[]).unwrap_err();
    assert!(matches!(full, BootError::Tables(_)), "{full}");
    let none = Stage1Controls { input_bits: 53, ..S1 };
    let shape = boot_tables(none, &memory, area, &[identity], &[]).unwrap_err();
    assert_eq!(shape.to_string(), "an input address size of 53 bits is not one of 25 to 48");
}
