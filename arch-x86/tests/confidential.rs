//! Memory encryption: the bit of an address that says whether memory is private.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::{Entry, Format, Unencodable};
use pgtable::memory::DirectMap;
use pgtable::walk::Walker;
use pgtable::{Access, Cause, Gpa, Gva, Hpa, Level, Position, Prot};
use pgtable_x86::{
    BootMapping, Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls, PageAttributes,
    Paging, Privacy, Registers, TableEntry, boot_tables,
};

const C47: Privacy = Privacy::Encrypted { bit: 47 };
const C51: Privacy = Privacy::Encrypted { bit: 51 };
const S47: Privacy = Privacy::Shared { bit: 47 };
const VTOM: Privacy = Privacy::Shared { bit: 46 };

const fn at(level: u8) -> Position {
    Position { level: Level(level), shift: 12 + 9 * level }
}

const fn long(privacy: Privacy, maxphyaddr: u8) -> LongMode {
    LongMode::new(Levels::Four, Controls { privacy, maxphyaddr, ..Controls::new() })
}

/// Leaves: the word, where it leads, whether it is private; and back again.
#[test]
fn case_leaves() {
    const XD: u64 = 1 << 63;
    for (privacy, maxphyaddr, level, word, output, private) in [
        (C47, 48, 0, 1 << 47 | 0x1234_5067_u64, 0x1234_5000_u64, true),
        (C47, 48, 0, 0x1234_5067, 0x1234_5000, false),
        (C47, 43, 1, XD | 1 << 47 | 0x1220_00e3, 0x1220_0000, true),
        (C47, 52, 0, 1 << 48 | 1 << 47 | 0x5067, 1 << 48 | 0x5000, true),
        (C51, 48, 2, 1 << 51 | 0x40_0000_00e3, 0x40_0000_0000, true),
        (C51, 48, 2, 0x40_0000_00e3, 0x40_0000_0000, false),
        (S47, 52, 0, 1 << 47 | 0x5067, 0x5000, false),
        (S47, 52, 0, 0x5067, 0x5000, true),
        (VTOM, 52, 1, 1 << 46 | 0x20_00e3, 0x20_0000, false),
        (VTOM, 52, 1, 0x20_00e3, 0x20_0000, true),
        (Privacy::None, 52, 0, 1 << 47 | 0x5067, 1 << 47 | 0x5000, true),
    ] {
        let format = long(privacy, maxphyaddr);
        let what = format!("{word:#x} under {privacy:?}");
        let Entry::Leaf { output: got, attributes } = format.decode(word, at(level)) else {
            panic!("{what}: no leaf");
        };
        assert_eq!((got, attributes.is_private(privacy)), (Gpa::new(output), private), "{what}");
        let again = format.leaves(got, attributes, at(level)).unwrap();
        assert_eq!(again.first, word, "{what}");
        let other = attributes.with_private(privacy, !private);
        let flipped = format.leaves(got, other, at(level)).unwrap().first;
        assert_eq!(flipped, word ^ privacy.mask(), "{what}");
    }
}

/// Address bits that stay reserved around the C-bit, and what has no encoding.
#[test]
fn case_reserved() {
    for (privacy, maxphyaddr, word, malformed) in [
        (C51, 48, 1 << 50 | 0x5067_u64, true),
        (C51, 48, 1 << 48 | 0x5067, true),
        (C51, 48, 1 << 51 | 0x5067, false),
        (C47, 43, 1 << 46 | 0x5067, true),
        (C47, 43, 1 << 47 | 0x5067, false),
        (Privacy::None, 43, 1 << 47 | 0x5067, true),
    ] {
        let format = long(privacy, maxphyaddr);
        let got = format.decode(word, at(0)) == Entry::Malformed;
        assert_eq!(got, malformed, "{word:#x} under {privacy:?}, {maxphyaddr} bits");
    }
    let page = PageAttributes::from(Prot::RW);
    let refused = Err(Unencodable { at: at(0) });
    let format = long(C47, 52);
    assert_eq!(format.leaves(Gpa::new(1 << 47), page, at(0)), refused, "the bit is no address");
    assert_eq!(format.table(Gpa::new(1 << 47), 9, at(1)), Err(Unencodable { at: at(1) }));
    let elsewhere = page.with_private(C51, true);
    assert_eq!(format.leaves(Gpa::new(0x1000), elsewhere, at(0)), refused, "another format's bit");
    // Neighbouring words, until the address would reach the bit.
    for (output, count) in
        [(0, 1 << 35), ((1 << 47) - 0x2000, 2), ((1 << 48) | 0x1000, (1 << 35) - 1)]
    {
        let words = format.leaves(Gpa::new(output), page, at(0)).unwrap();
        assert_eq!(words.count, count, "from {output:#x}");
    }
}

/// Entries for tables, and CR3, by the format's value.
#[test]
fn case_tables() {
    const OPEN: u64 = 0x27;
    for (format, entry, cr3) in [
        (long(C47, 48), 1 << 47 | 0x9000 | OPEN, 1 << 47 | 0x8000),
        (long(C51, 48), 1 << 51 | 0x9000 | OPEN, 1 << 51 | 0x8000),
        (long(C51, 48).with_private_tables(false), 0x9000 | OPEN, 0x8000),
        (long(S47, 52), 0x9000 | OPEN, 0x8000),
        (long(S47, 52).with_private_tables(false), 1 << 47 | 0x9000 | OPEN, 1 << 47 | 0x8000),
        (long(Privacy::None, 52), 0x9000 | OPEN, 0x8000),
        (
            long(C47, 48).with_table_entry(TableEntry::new().with_rw(true)),
            1 << 47 | 0x9003,
            1 << 47 | 0x8000,
        ),
        (
            long(C47, 48)
                .with_private_tables(false)
                .with_table_entry(TableEntry::new().with_rw(true)),
            0x9003,
            0x8000,
        ),
    ] {
        for level in 1..4 {
            assert_eq!(format.table(Gpa::new(0x9000), 9, at(level)), Ok(entry), "{format:?}");
            let table = Entry::Table { table: Gpa::new(0x9000), width: 9 };
            assert_eq!(format.decode(entry, at(level)), table, "{format:?}");
        }
        let registers = format.registers(Gpa::new(0x8000));
        assert_eq!(registers.cr3.into_bits(), cr3, "{format:?}");
        let processor = *format.controls();
        let Ok(Paging::Long { root, .. }) = Paging::of(registers, processor) else {
            panic!("{format:?}");
        };
        assert_eq!(root, Gpa::new(0x8000), "{format:?}");
    }
}

/// A guest with encrypted memory as its VMM boots it: everything but a shared buffer is encrypted,
/// and translates to where it stands.
#[test]
fn case_a_guest_boots() {
    let words: Vec<AtomicU64> = (0..0x1_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let controls =
        Controls { privacy: C51, maxphyaddr: 48, amd: true, gib_pages: false, ..Controls::new() };
    let format = LongMode::new(Levels::Four, controls);
    let private = PageAttributes::from(Prot::RWX).with_private(C51, true);
    let buffer = Gpa::new(0x20_0000);
    let boot = boot_tables(
        format,
        &memory,
        Gpa::new(0x1000)..Gpa::new(0x9000),
        [
            BootMapping::new(Gva::new(0), Gpa::new(0), 0x20_0000, private),
            BootMapping::new(Gva::new(0x20_0000), buffer, 0x20_0000, Prot::RW.into()),
        ],
    )
    .unwrap();
    assert_eq!(boot.registers.cr3.into_bits(), 1 << 51 | 0x1000);
    // The words, as Linux writes them for such a guest.
    let word = |address: usize| words[address / 8].load(Ordering::Relaxed);
    assert_eq!(word(0x1000), 1 << 51 | 0x2027);
    assert_eq!(word(0x2000), 1 << 51 | 0x3027);
    assert_eq!(word(0x3000), 1 << 51 | 0xe3);
    assert_eq!(word(0x3008), 1 << 63 | 0x20_00e3);

    let registers = boot.registers;
    let raw = Registers::from_raw(
        registers.cr0.into_bits(),
        registers.cr3.into_bits(),
        registers.cr4.into_bits(),
        registers.efer.into_bits(),
    );
    let paging = Paging::of(raw, controls).unwrap();
    for (gva, gpa, private) in [(0x1234, 0x1234, true), (0x20_0678, 0x20_0678, false)] {
        let page = paging.translate(memory, Gva::new(gva), Access::READ).unwrap();
        assert_eq!(page.output, Gpa::new(gpa));
        assert_eq!(page.attributes.unwrap().is_private(C51), private);
    }
    // Without the C-bit's position, CR3 is refused and entries have reserved bits.
    let blind = Controls { privacy: Privacy::None, ..controls };
    assert!(Paging::of(raw, blind).is_err());
    let walker = Walker::new(LongMode::new(Levels::Four, blind), &memory, Gpa::new(0x1000));
    let fault = walker.translate(Gva::new(0x1234), Access::READ).unwrap_err();
    assert_eq!(fault.cause, Cause::Malformed);
}

/// Nested paging under SME: the host's C-bit, and MAXPHYADDR less what encryption takes.
#[test]
fn case_nested_paging() {
    let controls =
        NptControls { maxphyaddr: 48, ..NptControls::new() }.with_memory_encryption(0x016f);
    assert_eq!((controls.maxphyaddr, controls.privacy), (43, C47));
    let npt = Npt::new(Levels::Four, controls);
    let page = pgtable_x86::NptAttributes::from(Prot::RW).with_private(C47, true);
    let word = npt.leaves(Hpa::new(0x5000), page, at(0)).unwrap().first;
    assert_eq!(word, 1 << 63 | 1 << 47 | 0x5067);
    assert_eq!(npt.table(Hpa::new(0x9000), 9, at(1)), Ok(1 << 47 | 0x9027));
    assert_eq!(npt.nested_cr3(Hpa::new(0x8000)), 1 << 47 | 0x8000);
    assert_eq!(npt.with_private_tables(false).nested_cr3(Hpa::new(0x8000)), 0x8000);
    let Entry::Leaf { output, attributes } = npt.decode(word, at(0)) else { panic!("a leaf") };
    assert_eq!((output, attributes), (Hpa::new(0x5000), page));
    assert!(attributes.is_private(C47));
    assert_eq!(npt.decode(1 << 43 | 0x5067, at(0)), Entry::Malformed, "a bit that encryption took");
    assert!(npt.leaves(Hpa::new(1 << 43), page, at(0)).is_err());
}

/// TDX's shared EPT holds the addresses with the shared bit, at the index that they have with it.
#[test]
fn case_shared_ept() {
    let words: Vec<AtomicU64> = (0..0x1_0000 / 8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(0));
    for (levels, bit) in [(Levels::Four, 47), (Levels::Five, 51)] {
        let shared = Privacy::Shared { bit };
        let ept = Ept::new(levels, EptControls::new()).with_shared_bit(bit);
        let gpa = Gpa::new(1 << bit | 0x1234);
        assert_eq!(ept.offset(gpa), Some(gpa.get()));
        assert_eq!(ept.address(gpa.get()), gpa);
        for absent in [shared.strip(gpa).get(), 1 << bit | 1 << 60, 0, u64::MAX] {
            assert_eq!(ept.offset(Gpa::new(absent)), None, "{absent:#x}");
        }
        // In the root, at index 256 or 8.
        let index = 1 << bit >> if levels == Levels::Four { 39 } else { 48 };
        words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        words[index].store(0x1107, Ordering::Relaxed);
        let walker = Walker::new(ept, &memory, Hpa::new(0));
        let fault = walker.translate(gpa, Access::READ).unwrap_err();
        assert_eq!(fault.at.unwrap().level, Level(if levels == Levels::Four { 2 } else { 3 }));
        let fault = walker.translate(shared.strip(gpa), Access::READ).unwrap_err();
        assert_eq!(fault.cause, Cause::Address);
    }
}
