//! Boot tables as VMMs write them by hand, and what registers make of addresses in them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::bytes::{Debugger, Translate};
use pgtable::memory::DirectMap;
use pgtable::{Access, Error, Gpa, Gva, Prot};
use pgtable_conformance::log::Logged;
use pgtable_x86::{
    BootError, BootMapping, Controls, Cr0, Efer, GvaError, Levels, LongMode, LongModeFault, Paging,
    Registers, boot_tables, gva_to_gpa,
};

const GIB: u64 = 1 << 30;
const KERNEL: Gva = Gva::new(0xffff_ffff_8000_0000);

/// 128 KiB of guest memory that is not zero.
fn memory() -> Vec<AtomicU64> {
    (0..0x2_0000 / 8).map(|_| AtomicU64::new(u64::MAX)).collect()
}

fn word(words: &[AtomicU64], address: usize) -> u64 {
    words[address / 8].load(Ordering::Relaxed)
}

fn area(start: u64, end: u64) -> std::ops::Range<Gpa> {
    Gpa::new(start)..Gpa::new(end)
}

/// Guest memory with a log is told of every word: of the zeros in the tables too.
#[test]
fn case_a7_boot_tables_are_logged() {
    let words = memory();
    let memory = Logged::new(&words, Gpa::new(0));
    let format = LongMode::new(Levels::Four, Controls::new());
    let mappings = [BootMapping::identity(GIB, Prot::RWX.into())];
    boot_tables(format, &memory, area(0x9000, 0x2_0000), mappings).unwrap();
    memory.verify(0x2_0000);
}

/// A vCPU in long mode, with the bits that no mode is without.
const LONG: Registers = Registers {
    cr0: Cr0::from_bits(1 << 31 | 1),
    cr3: pgtable_x86::Cr3::from_bits(0x7000),
    cr4: pgtable_x86::Cr4::from_bits(1 << 5),
    efer: Efer::from_bits(1 << 10 | 1 << 8),
};

/// 1 GiB by 2-MiB pages, with the bits that a format sets by itself. What VMMs write by hand is in
/// `vmm_boot_tables.rs`.
#[test]
fn every_word() {
    let words = memory();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let format = LongMode::new(Levels::Four, Controls { gib_pages: false, ..Controls::new() });
    let mappings = [BootMapping::identity(GIB, Prot::RWX.into())];
    let boot = boot_tables(format, &memory, area(0x9000, 0x2_0000), mappings).unwrap();
    assert_eq!(boot.end, Gpa::new(0xc000));
    assert_eq!(word(&words, 0x9000), 0xa027, "PML4E");
    assert_eq!(word(&words, 0xa000), 0xb027, "PDPTE");
    for page in 0..512 {
        assert_eq!(word(&words, 0xb000 + page * 8), (page as u64) << 21 | 0xe3, "PDE {page}");
    }
    for address in (0x9008..0xa000).chain(0xa008..0xb000).step_by(8) {
        assert_eq!(word(&words, address), 0, "{address:#x}");
    }
    assert_eq!(word(&words, 0xc000), u64::MAX, "beyond the tables");
    let Registers { cr0, cr3, cr4, efer } = boot.registers;
    assert_eq!(cr0.into_bits(), 0x8001_0001, "PG, WP, PE");
    assert_eq!(cr3.into_bits(), 0x9000);
    assert_eq!(cr4.into_bits(), 0x20, "PAE");
    assert_eq!(efer.into_bits(), 0xd00, "NXE, LMA, LME");
}

#[test]
fn identity_and_higher_half() {
    for (levels, gib_pages, tables) in [
        (Levels::Four, true, 4),
        (Levels::Four, false, 8),
        (Levels::Five, true, 6),
        (Levels::Five, false, 10),
    ] {
        let words = memory();
        let memory = DirectMap::new(&words, Gpa::new(0));
        let format = LongMode::new(levels, Controls { gib_pages, smep: true, ..Controls::new() });
        let mappings = [
            BootMapping::identity(4 * GIB, Prot::RWX.into()),
            BootMapping::new(KERNEL, Gpa::new(0x100_0000), 0x20_0000, Prot::RX.into()),
        ];
        let boot = boot_tables(format, &memory, area(0x9001, 0x2_0000), mappings).unwrap();
        assert_eq!(boot.end, Gpa::new(0xa000 + tables * 0x1000), "{levels:?} {gib_pages}");
        let Registers { cr0, cr3, cr4, efer } = boot.registers;
        let (cr0, cr3, cr4, efer) =
            (cr0.into_bits(), cr3.into_bits(), cr4.into_bits(), efer.into_bits());
        let Ok(Paging::Long { addresses, .. }) = Paging::of(LONG, Controls::new()) else {
            panic!("long mode");
        };
        let paging = Paging::of(boot.registers, Controls { gib_pages, ..Controls::new() });
        assert_eq!(
            paging,
            Ok(Paging::Long { format, root: Gpa::new(0xa000), addresses }),
            "the registers say what the format is"
        );
        let go = |gva, access| {
            gva_to_gpa(cr0, cr3, cr4, efer, memory, Gva::new(gva), access).map(Gpa::get)
        };
        assert_eq!(go(0x1234_5678, Access::WRITE), Ok(0x1234_5678));
        assert_eq!(go(4 * GIB - 1, Access::READ), Ok(4 * GIB - 1));
        assert_eq!(go(KERNEL.get() + 0x1234, Access::FETCH), Ok(0x100_1234));
        let fault = |result: Result<u64, GvaError>| match result {
            Err(GvaError::Fault(fault)) => fault.arch,
            other => panic!("{other:?}"),
        };
        let code = |result| match fault(result) {
            LongModeFault::PageFault(code) => code.into_bits(),
            LongModeFault::GeneralProtection => panic!("#GP"),
        };
        assert_eq!(code(go(4 * GIB, Access::READ)), 0);
        assert_eq!(code(go(KERNEL.get(), Access::WRITE)), 3);
        assert_eq!(code(go(0x1000, Access::READ.by_user())), 5);
        assert_eq!(fault(go(1 << 62, Access::READ)), LongModeFault::GeneralProtection);
    }
}

#[test]
fn what_cannot_be_built() {
    let words = memory();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let format = LongMode::new(Levels::Four, Controls::new());
    let build = |start, end, mapping| {
        boot_tables(format, &memory, area(start, end), [mapping]).unwrap_err()
    };
    let identity = BootMapping::identity(GIB, Prot::RWX.into());
    assert!(matches!(build(0x9000, 0x9fff, identity), BootError::Area(Error::Alloc(_))));
    assert!(
        matches!(build(0x9000, 0xa000, identity), BootError::Mapping(at) if matches!(at.error, Error::Alloc(_)))
    );
    assert!(matches!(build(0x4000_0000, 0x5000_0000, identity), BootError::Area(Error::Memory(_))));
    assert!(matches!(
        build(u64::MAX - 5, u64::MAX, identity),
        BootError::Area(Error::Unencodable { .. })
    ));
    let odd = BootMapping { bytes: 0x1001, ..identity };
    assert!(matches!(build(0x9000, 0xf000, odd), BootError::Mapping(_)));
    let hole = BootMapping { gva: Gva::new(1 << 47), ..identity };
    assert!(
        matches!(build(0x9000, 0xf000, hole), BootError::Mapping(at) if at.error == Error::Range)
    );
    let text = build(0x9000, 0xa000, identity).to_string();
    assert_eq!(text, "boot tables: gva 0x0: no memory left for a table of 2^12 bytes");
}

#[test]
fn other_modes() {
    let words: Vec<_> = (0..0x1_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let go = |cr0, cr4, efer| {
        gva_to_gpa(cr0, 0x9000, cr4, efer, memory, Gva::new(0x12_3456_789a), Access::READ)
    };
    assert_eq!(go(0x1, 0, 0), Ok(Gpa::new(0x3456_789a)), "no paging: 32-bit linear addresses");
    // Addresses wrap at 4 GiB in 32-bit and PAE paging, whose tables are empty.
    for (cr4, entry) in [(0, 0x9344), (0x20, 0x9000)] {
        let Err(GvaError::Fault(fault)) = go(0x8000_0001, cr4, 0) else { panic!("CR4 {cr4:#x}") };
        assert_eq!(fault.address, Gva::new(0x3456_789a));
        assert_eq!(fault.entry, Some(Gpa::new(entry)));
        assert_eq!(
            fault.arch.to_string(),
            "#PF error 0x0: supervisor read of a page that is not present"
        );
    }
}

/// A debugger reads what the guest itself could not, and no more than is mapped.
#[test]
fn a_debugger_reads_what_is_mapped() {
    let words = memory();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let controls = Controls { smap: true, smep: true, pke: true, ..Controls::new() };
    let format = LongMode::new(Levels::Four, controls);
    let attributes = Prot::R.for_user().into();
    let mappings = [BootMapping { attributes, ..BootMapping::identity(0x20_0000, attributes) }];
    let boot = boot_tables(format, &memory, area(0x9000, 0x2_0000), mappings).unwrap();
    let paging = Paging::of(boot.registers, controls).unwrap();
    assert!(paging.translate(memory, Gva::new(0x5000), Access::READ).is_err(), "SMAP");
    let open = Debugger(paging.walker(memory));
    for access in [Access::READ, Access::WRITE, Access::FETCH] {
        let found = open.translate(Gva::new(0x5432), access).unwrap();
        assert_eq!((found.output, found.shift), (Gpa::new(0x5432), 21));
        assert_eq!(
            found.attributes,
            Some(attributes),
            "memory type and rights are those of the leaf"
        );
    }
    assert!(open.translate(Gva::new(0x20_0000), Access::READ).is_err());
    let off = Registers { cr0: Cr0::new(), efer: Efer::new(), ..boot.registers };
    let off = Debugger(Paging::of(off, controls).unwrap().walker(memory));
    let found = off.translate(Gva::new(0x1_2345_6789), Access::WRITE).unwrap();
    assert_eq!((found.output, found.shift, found.attributes), (Gpa::new(0x2345_6789), 32, None));
}
