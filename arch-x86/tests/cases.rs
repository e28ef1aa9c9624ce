//! Registers and tables that earlier versions answered wrongly.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::bytes::{Debugger, Recording, Translate};
use pgtable::memory::{DirectMap, Refusal};
use pgtable::walk::Walker;
use pgtable::{Access, Cause, Error, Gpa, Gva, Prot, RangeError};
use pgtable_x86::{
    BootError, BootMapping, CONTROL_BITS, ControlRegister, Controls, Cr0, Cr3, Cr4, Efer, Effect,
    GvaError, KeyRegister, Levels, LongMode, LongModeFault, Paging, PdpteError, Pdptes, RefusedBit,
    Registers, Unsupported, boot_tables, gva_to_gpa,
};

/// A vCPU in long mode, with the bits that no mode is without.
const LONG_MODE: Registers = Registers {
    cr0: Cr0::from_bits(1 << 31 | 1),
    cr3: Cr3::from_bits(0x7000),
    cr4: Cr4::from_bits(1 << 5),
    efer: Efer::from_bits(1 << 10 | 1 << 8),
};

const REGISTERS: [ControlRegister; 4] =
    [ControlRegister::Cr0, ControlRegister::Cr3, ControlRegister::Cr4, ControlRegister::Efer];

/// The registers with one bit the other way round.
fn flipped(register: ControlRegister, bit: u8) -> Registers {
    let mask = 1_u64 << bit;
    let Registers { cr0, cr3, cr4, efer } = LONG_MODE;
    match register {
        ControlRegister::Cr0 => {
            Registers { cr0: Cr0::from_bits(cr0.into_bits() ^ mask), ..LONG_MODE }
        }
        ControlRegister::Cr3 => {
            Registers { cr3: Cr3::from_bits(cr3.into_bits() ^ mask), ..LONG_MODE }
        }
        ControlRegister::Cr4 => {
            Registers { cr4: Cr4::from_bits(cr4.into_bits() ^ mask), ..LONG_MODE }
        }
        ControlRegister::Efer => {
            Registers { efer: Efer::from_bits(efer.into_bits() ^ mask), ..LONG_MODE }
        }
    }
}

/// Every bit of all four registers: one row at most names it, and `Paging::of` does what it says.
#[test]
fn case_b12_every_control_bit() {
    let plain = Paging::of(LONG_MODE, Controls::new()).unwrap();
    for register in REGISTERS {
        for bit in 0..64 {
            let rows: Vec<_> = CONTROL_BITS
                .iter()
                .filter(|row| row.register == register && row.mask() >> bit & 1 != 0)
                .collect();
            assert!(rows.len() <= 1, "{register} bit {bit}: {rows:?}");
            let effect = rows.first().map_or(Effect::Refused, |row| row.effect);
            let with = Paging::of(flipped(register, bit), Controls::new());
            let what = format!("{register} bit {bit}, {effect:?}: {with:?}");
            match effect {
                // 4-MiB pages are 32-bit paging's.
                Effect::Modelled if (register, bit) == (ControlRegister::Cr4, 4) => {
                    let of = |cr4| {
                        Paging::of(Registers::from_raw(1 << 31 | 1, 0, cr4, 0), Controls::new())
                    };
                    assert_eq!(with, Ok(plain), "{what}");
                    assert_ne!(of(1 << bit), of(0), "{what}");
                }
                Effect::Modelled => assert_ne!(with, Ok(plain), "{what}"),
                Effect::None => assert_eq!(with, Ok(plain), "{what}"),
                Effect::Refused => {
                    let Err(Unsupported::Bit(refused)) = with else { panic!("{what}") };
                    let name = rows.first().map_or("reserved", |row| row.name);
                    assert_eq!(refused, RefusedBit { register, bit, name }, "{what}");
                }
            }
        }
    }
}

/// Tagged pointers go where the tag says nothing, or nowhere; each half of the address space is its
/// owner's.
#[test]
fn case_b12_address_masking_and_separation() {
    let words: Vec<AtomicU64> = (0..0x8000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let format = LongMode::new(Levels::Four, Controls::new());
    let area = Gpa::new(0x1000)..Gpa::new(0x8000);
    let mapping = BootMapping::identity(1 << 30, Prot::RWX.into());
    let boot = boot_tables(format, &memory, area, [mapping]).unwrap().registers;
    let raw =
        (boot.cr0.into_bits(), boot.cr3.into_bits(), boot.cr4.into_bits(), boot.efer.into_bits());
    const LASS: u64 = 1 << 27;
    const SMAP: u64 = 1 << 21;
    let (read, fetch) = (Access::READ, Access::FETCH);
    // A pointer, an access, the bits of CR3, CR4 and EFER; whether it reaches 0x1234.
    for (gva, access, cr3, cr4, efer, reaches) in [
        (0x7abc_0000_0000_1234, read, 0, 0, 0, false),
        (0x7abc_0000_0000_1234, read, 1 << 62, 0, 0, true),
        (0x7abc_0000_0000_1234, fetch, 1 << 62, 0, 0, false),
        (0x7abc_0000_0000_1234, read, 1 << 61, 0, 0, false), // bits 56:48 are no tag
        (0x7e00_0000_0000_1234, read, 1 << 61, 0, 0, true),
        (0x7e00_0000_0000_1234, read, 1 << 61 | 1 << 62, 0, 0, true),
        (0x7e00_0000_0000_1234, read, 0, 1 << 28, 0, false), // not the supervisor's half
        (0xfe00_0000_0000_1234, read, 1 << 61, 0, 0, false),
        (0xfe00_0000_0000_1234, read, 0, 0, 1 << 20, true),
        (0xfe00_0000_0000_1234, fetch, 0, 0, 1 << 20, false),
        (0x7abc_0000_0000_1234, read, 0, 0, 1 << 20, false),
        (0x1234, read, 0, LASS, 0, true),
        (0x1234, read, 0, LASS | SMAP, 0, false),
        (0x1234, fetch, 0, LASS, 0, false),
        (0x7abc_0000_0000_1234, read, 1 << 62, LASS, 0, true),
    ] {
        let what = format!("{access} of {gva:#x}: CR3 {cr3:#x}, CR4 {cr4:#x}, EFER {efer:#x}");
        let [cr3, cr4, efer] = [raw.1 | cr3, raw.2 | cr4, raw.3 | efer];
        let found = gva_to_gpa(raw.0, cr3, cr4, efer, memory, Gva::new(gva), access);
        match found {
            Ok(gpa) => assert_eq!((gpa, reaches), (Gpa::new(0x1234), true), "{what}"),
            Err(GvaError::Fault(fault)) => {
                assert_eq!(
                    (fault.arch, reaches),
                    (LongModeFault::GeneralProtection, false),
                    "{what}"
                );
            }
            Err(error) => panic!("{what}: {error}"),
        }
    }
    // LASS is a right, and a debugger's accesses are not judged by rights; tags are part of the
    // address for both.
    let registers = Registers::from_raw(raw.0, raw.1 | 1 << 62, raw.2 | LASS | SMAP, raw.3);
    let walker = Paging::of(registers, Controls::new()).unwrap().walker(memory);
    for gva in [0x1234, 0x7abc_0000_0000_1234].map(Gva::new) {
        for access in [read, Access::WRITE] {
            assert!(walker.translate(gva, access).is_err(), "{access} of {gva}");
            let found = Debugger(walker).translate(gva, access).unwrap();
            assert_eq!(found.output, Gpa::new(0x1234), "{access} of {gva}");
        }
    }
    // Bits that no manual defines are refused.
    for (cr4, efer) in [(1 << 15, 0), (0, 1 << 63)] {
        let found =
            gva_to_gpa(raw.0, raw.1, raw.2 | cr4, raw.3 | efer, memory, Gva::new(0x1234), read);
        let Err(GvaError::Unsupported(Unsupported::Bit(refused))) = found else {
            panic!("{found:?}");
        };
        assert_eq!(refused.name, "reserved");
    }
    // In compatibility mode addresses have 32 bits.
    let registers = Registers::from_raw(raw.0, raw.1 | 1 << 62, raw.2 | LASS | SMAP, raw.3);
    let paging = Paging::of(registers, Controls::new()).unwrap().compatibility_mode();
    let page = paging.translate(memory, Gva::new(0xffff_ffff_0000_1234), read).unwrap();
    assert_eq!(page.output, Gpa::new(0x1234));
}

/// CR4 bits that need others.
#[test]
fn case_b12_bits_that_need_others() {
    let with = |cr0: u64, cr4: u64, efer: u64| {
        Paging::of(Registers::from_raw(1 << 31 | 1 | cr0, 0x7000, cr4, efer), Controls::new())
    };
    let impossible = |found| matches!(found, Err(Unsupported::Impossible(_)));
    const WP: u64 = 1 << 16;
    const PAE: u64 = 1 << 5;
    const CET: u64 = 1 << 23;
    const PCIDE: u64 = 1 << 17;
    const LONG: u64 = 1 << 10 | 1 << 8;
    for (cr0, cr4, efer, want) in [
        (0, CET, 0, true),
        (WP, CET, 0, false),
        (0, PAE | CET, LONG, true),
        (WP, PAE | CET, LONG, false),
        (0, PCIDE, 0, true),
        (0, PAE | PCIDE, 0, true),
        (0, PAE | PCIDE, LONG, false),
    ] {
        let found = with(cr0, cr4, efer);
        assert_eq!(impossible(found), want, "CR0 {cr0:#x}, CR4 {cr4:#x}, EFER {efer:#x}");
    }
    let shadow = Controls { shadow_stack: true, ..Controls::new() };
    assert!(impossible(Paging::of(LONG_MODE, shadow)), "a shadow-stack access without CET");
}

/// PAE paging by registers: they count, whatever stands in memory.
#[test]
fn case_b12_pdpte_registers() {
    let words: Vec<AtomicU64> = (0..0x8000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    words[0x2000 / 8].store(0x3067, Ordering::Relaxed);
    words[0x3000 / 8].store(0x4007, Ordering::Relaxed);
    let registers = Registers::from_raw(1 << 31 | 1, 0xffff_ffff_0000_1fe4, 1 << 5, 0);
    let paging = Paging::of(registers, Controls::new()).unwrap();
    let Paging::Pae { format, root, pdptes: None } = paging else { panic!("{paging:?}") };
    assert_eq!(root, Gpa::new(0x1fe0));
    // Not present in memory.
    let (gva, write) = (Gva::new(0x8000_0678), Access::WRITE);
    let fault = paging.translate(memory, gva, write).unwrap_err();
    assert_eq!((fault.cause, fault.entry), (Cause::NotPresent, Some(Gpa::new(0x1ff0))));
    // Loaded when memory held them, and changed since.
    words[0x1ff0 / 8].store(0x2001, Ordering::Relaxed);
    let loaded = format.load_pdptes(memory, root).unwrap();
    assert_eq!(loaded, Pdptes([0, 0, 0x2001, 0]));
    words[0x1ff0 / 8].store(0, Ordering::Relaxed);
    let by_registers = paging.with_pdptes(loaded).unwrap();
    let walker = Recording(by_registers.walker(memory));
    assert_eq!(walker.translate(gva, write).unwrap().output, Gpa::new(0x4678));
    assert_eq!(words[0x3000 / 8].load(Ordering::Relaxed), 0x4067, "accessed and dirty");
    let fault = by_registers.translate(memory, Gva::new(0x1000), write).unwrap_err();
    assert_eq!((fault.cause, fault.entry), (Cause::NotPresent, None), "a register has no address");
    // What no MOV to CR3 loads.
    words[0x1ff0 / 8].store(0x2003, Ordering::Relaxed);
    let refused = PdpteError::Reserved { index: 2, word: 0x2003 };
    assert_eq!(format.load_pdptes(memory, root), Err(refused));
    assert_eq!(paging.with_pdptes(Pdptes([0, 0, 0x2003, 0])), Err(refused));
    assert!(matches!(format.load_pdptes(memory, Gpa::new(0x8000)), Err(PdpteError::Memory(_))));
}

/// Registers that no processor holds together: every combination of the bits that make long mode.
#[test]
fn case_b12_impossible_registers() {
    for bits in 0..32_u64 {
        let bit = |index: u64| bits >> index & 1;
        let [pe, pg, pae, lme, lma] = [0, 1, 2, 3, 4].map(bit);
        let raw = (pg << 31 | pe, 0x1000, pae << 5, lma << 10 | lme << 8);
        let found = Paging::of(Registers::from_raw(raw.0, raw.1, raw.2, raw.3), Controls::new());
        let what = format!("PE {pe}, PG {pg}, PAE {pae}, LME {lme}, LMA {lma}: {found:?}");
        // What a processor can hold: no paging, 32-bit and PAE paging, and long mode.
        match (pe, pg, pae, lme, lma) {
            (_, 0, _, _, 0) => assert_eq!(found, Ok(Paging::Off), "{what}"),
            (1, 1, 0, 0, 0) => assert!(matches!(found, Ok(Paging::Bits32 { .. })), "{what}"),
            (1, 1, 1, 0, 0) => assert!(matches!(found, Ok(Paging::Pae { .. })), "{what}"),
            (1, 1, 1, 1, 1) => assert!(matches!(found, Ok(Paging::Long { .. })), "{what}"),
            _ => {
                let Err(error @ Unsupported::Impossible(bits)) = found else { panic!("{what}") };
                let named = [("PE = 0", pe), ("PG = 0", pg), ("PAE = 0", pae), ("LME = 0", lme)];
                assert!(
                    named.iter().all(|(name, bit)| !bits.contains(name) || *bit == 0),
                    "{what}"
                );
                assert!(bits.contains("LMA = 1") == (lma == 1 && (pe == 1 || pg == 0)), "{what}");
                assert!(error.to_string().contains(bits), "{error}");
            }
        }
    }
}

/// SDM volume 3, 4.6.2, decides what IA32_PKRS does to a supervisor's writes: WD of the page's key
/// forbids them if CR0.WP = 1, and with CR0.WP = 0 "does not affect write accesses to
/// supervisor-mode addresses"; AD forbids data accesses always. (The rule in 4.6.1 for CR0.WP = 0,
/// "a protection key for which write access is permitted", is read by that.) PKRU does the same to
/// a supervisor's writes to user-mode addresses, and a user's fail always.
#[test]
fn case_b12_write_disable_of_a_key_needs_wp() {
    let leaf = |user: u64| 3 << 59 | user << 2 | 3;
    // User page, user access, CR0.WP, AD, WD; whether a write is allowed.
    for (user_page, user_access, wp, ad, wd, allowed) in [
        (false, false, true, 0, 0, true),
        (false, false, true, 0, 1, false),
        (false, false, false, 0, 1, true),
        (false, false, true, 1, 0, false),
        (false, false, false, 1, 0, false),
        (false, false, false, 1, 1, false),
        (true, false, true, 0, 1, false),
        (true, false, false, 0, 1, true),
        (true, false, false, 1, 1, false),
        (true, true, true, 0, 1, false),
        (true, true, false, 0, 1, false),
        (true, true, false, 0, 0, true),
    ] {
        let key = KeyRegister((wd << 1 | ad) << 6);
        let controls = Controls { pke: true, pks: true, wp, ..Controls::new() };
        let controls = if user_page {
            Controls { pkru: key, ..controls }
        } else {
            Controls { pkrs: key, ..controls }
        };
        let format = LongMode::new(Levels::Four, controls);
        let word = leaf(user_page.into());
        let words: Vec<AtomicU64> = (0..0x4000 / 8).map(|_| AtomicU64::new(0)).collect();
        for table in 0..3_usize {
            words[table * 512].store((table as u64 + 1) << 12 | 7, Ordering::Relaxed);
        }
        words[3 * 512].store(word, Ordering::Relaxed);
        let memory = DirectMap::new(&words, Gpa::new(0));
        let access = if user_access { Access::WRITE.by_user() } else { Access::WRITE };
        let found = Walker::new(format, memory, Gpa::new(0)).translate(Gva::new(0), access);
        let row = (user_page, user_access, wp, ad, wd);
        assert_eq!(found.is_ok(), allowed, "{row:?}: {found:?}");
        if let Err(fault) = found {
            assert!(fault.to_string().contains("protection key"), "{row:?}: {fault}");
        }
    }
}

/// The C-bit of AMD's memory encryption stands beyond the MAXPHYADDR that such a guest sees.
#[test]
fn case_b12_encryption_bits() {
    for c_bit in [47, 51] {
        let cr3 = Cr3::from_bits(LONG_MODE.cr3.into_bits() | 1 << c_bit);
        let processor = Controls { maxphyaddr: 43, amd: true, ..Controls::new() };
        let refused = RefusedBit { register: ControlRegister::Cr3, bit: c_bit, name: "reserved" };
        let found = Paging::of(Registers { cr3, ..LONG_MODE }, processor);
        assert_eq!(found, Err(Unsupported::Bit(refused)));
    }
}

/// A root beyond MAXPHYADDR is one that no MOV to CR3 takes.
#[test]
fn case_b14_roots_beyond_maxphyaddr() {
    for (maxphyaddr, root, ok) in [
        (36, 1_u64 << 40, false),
        (36, 1 << 36, false),
        (36, (1 << 36) - 0x1000, true),
        (40, 1 << 36, true),
        (52, 1 << 51, true),
    ] {
        let processor = Controls { maxphyaddr, ..Controls::new() };
        let paging = Paging::of(Registers { cr3: Cr3::of(Gpa::new(root)), ..LONG_MODE }, processor);
        assert_eq!(paging.is_ok(), ok, "{maxphyaddr} bits, {root:#x}");
        let words: Vec<AtomicU64> = (0..0x1000 / 8).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Gpa::new(root));
        let format = LongMode::new(Levels::Four, processor);
        let area = Gpa::new(root)..Gpa::new(root + 0x1000);
        let boot = boot_tables(format, &memory, area, [] as [BootMapping; 0]);
        let refused = matches!(boot, Err(BootError::Area(Error::Unencodable { .. })));
        assert_eq!((boot.is_ok(), refused), (ok, !ok), "{maxphyaddr} bits, {root:#x}: {boot:?}");
    }
}

/// What is wrong with an area is said: no memory there is not "no room".
#[test]
fn case_b14_areas_outside_memory() {
    let words: Vec<AtomicU64> = (0..0x4000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let format = LongMode::new(Levels::Four, Controls { gib_pages: false, ..Controls::new() });
    let mappings = [BootMapping::identity(1 << 30, Prot::RWX.into())];
    for (start, end, want) in [
        (0x1000, 0x4000, "ok"),
        (0x1000, 0x3000, "full"),
        (0x4000, 0x8000, "root outside"),
        (1 << 40, 1 << 41, "root outside"),
        (0x2000, 0x8000, "table outside"),
        (0x1000, 0x1000, "no room for the root"),
        (0x1000, 0x1fff, "no room for the root"),
    ] {
        let area = Gpa::new(start)..Gpa::new(end);
        let boot = boot_tables(format, &memory, area, mappings);
        let outside = |error: &Error| matches!(error, Error::Memory(error) if error.refusal == Refusal::Outside);
        let seen = match &boot {
            Ok(_) => "ok",
            Err(BootError::Area(error)) if outside(error) => "root outside",
            Err(BootError::Area(Error::Alloc(_))) => "no room for the root",
            Err(BootError::Mapping(RangeError { error, .. })) if outside(error) => "table outside",
            Err(BootError::Mapping(RangeError { error: Error::Alloc(_), .. })) => "full",
            Err(error) => panic!("{error}"),
        };
        assert_eq!(seen, want, "{start:#x}..{end:#x}: {boot:?}");
    }
}
