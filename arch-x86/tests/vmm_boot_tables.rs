//! Boot tables as VMMs of others build them, word for word: Firecracker, crosvm, cloud-hypervisor,
//! alioth, uhyve, openvmm.
//!
//! Each row is written from what the VMM's own test expects, or from what its builder stores. Every
//! word of the area is compared; what no rule names is zero.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::DirectMap;
use pgtable::vcpu::{BootError, link_boot_table};
use pgtable::{Error, Gpa, Gva, Leaves, Prot, RangeError};
use pgtable_x86::{
    BootMapping, Controls, Levels, LongMode, PageAttributes, Privacy, TableEntry, boot_tables,
};

const GIB: u64 = 1 << 30;
const MIB2: u64 = 1 << 21;
const KIB4: u64 = 1 << 12;

/// What a VMM writes into entries, and how many levels its tables have.
#[derive(Clone, Copy)]
struct Style {
    levels: Levels,
    /// Into those that refer to tables, besides P and R/W.
    accessed_tables: bool,
    /// A and D of leaves.
    accessed: bool,
    dirty: bool,
    /// The C-bit.
    c_bit: Option<u8>,
}

/// Entries are P and R/W (0x003), leaves have PS besides (0x083).
const PLAIN: Style = Style {
    levels: Levels::Four,
    accessed_tables: false,
    accessed: false,
    dirty: false,
    c_bit: None,
};
/// As UEFI does: tables A (0x023), leaves A and D (0x0e3).
const AS_UEFI: Style = Style { accessed_tables: true, accessed: true, dirty: true, ..PLAIN };

impl Style {
    fn privacy(self) -> Privacy {
        self.c_bit.map_or(Privacy::None, |bit| Privacy::Encrypted { bit })
    }

    fn format(self) -> LongMode {
        let controls = Controls { privacy: self.privacy(), ..Controls::new() };
        let entry = TableEntry::new().with_rw(true).with_a(self.accessed_tables);
        LongMode::new(self.levels, controls).with_table_entry(entry)
    }

    fn attributes(self, prot: Prot) -> PageAttributes {
        let it = PageAttributes::from(prot).with_accessed(self.accessed).with_dirty(self.dirty);
        it.with_private(self.privacy(), true)
    }

    /// `bytes` bytes at their own addresses.
    fn identity(self, from: u64, to: u64, prot: Prot, leaves: Leaves) -> BootMapping {
        let attributes = self.attributes(prot);
        let map = BootMapping::new(Gva::new(from), Gpa::new(from), to - from, attributes);
        BootMapping { leaves, ..map }
    }
}

/// The words that are not zero, by their guest addresses.
type Words = BTreeMap<u64, u64>;

/// Builds tables at `at`, with room for 32, and returns their words and where they end.
fn built(
    style: Style,
    at: u64,
    mappings: &[BootMapping],
    link: Option<(u64, u64)>,
) -> (Words, u64) {
    let words: Vec<_> = (0..32 << 9).map(|_| AtomicU64::new(u64::MAX)).collect();
    let memory = DirectMap::new(&words, Gpa::new(at));
    let format = style.format();
    let area = Gpa::new(at)..Gpa::new(at + (32 << 12));
    let boot = boot_tables(format, &memory, area, mappings).unwrap();
    if let Some((gva, table)) = link {
        link_boot_table(format, &memory, Gpa::new(at), Gva::new(gva), Gpa::new(table)).unwrap();
    }
    let root = boot.registers.cr3.into_bits();
    assert_eq!(root, at | style.privacy().mask(), "the root is the first table");
    let end = boot.end.get();
    let used = ((end - at) / 8) as usize;
    assert!(
        words[used..].iter().all(|it| it.load(Ordering::Relaxed) == u64::MAX),
        "beyond the end"
    );
    let word =
        |(index, word): (usize, &AtomicU64)| (at + index as u64 * 8, word.load(Ordering::Relaxed));
    let words = words[..used].iter().enumerate().map(word).filter(|(_, word)| *word != 0);
    (words.collect(), end)
}

/// PDEs of 2 MiB at `table` on, for `gibs` GiB from 0.
fn pdes(table: u64, gibs: u64, bits: u64) -> impl Iterator<Item = (u64, u64)> {
    (0..gibs * 512).map(move |page| (table + page * 8, page << 21 | bits))
}

/// Firecracker, `src/vmm/src/arch/x86_64/regs.rs`: its test `validate_page_tables`.
#[test]
fn firecracker() {
    let mapping = PLAIN.identity(0, GIB, Prot::RWX, Leaves::Exactly(21));
    let mut want = Words::from([(0x9000, 0xa003), (0xa000, 0xb003)]);
    want.extend(pdes(0xb000, 1, 0x83));
    assert_eq!(built(PLAIN, 0x9000, &[mapping], None), (want, 0xc000));
}

/// crosvm, `x86_64/src/regs.rs`: its test `page_tables`, and what `setup_page_tables` stores.
#[test]
fn crosvm() {
    let mapping = PLAIN.identity(0, 4 * GIB, Prot::RWX, Leaves::Exactly(21));
    let mut want = Words::from([(0x9000, 0xa003)]);
    want.extend((0..4).map(|gib| (0xa000 + gib * 8, 0xb003 + gib * 0x1000)));
    want.extend(pdes(0xb000, 4, 0x83));
    assert_eq!(built(PLAIN, 0x9000, &[mapping], None), (want, 0xf000));
}

/// cloud-hypervisor, `arch/src/x86_64/regs.rs` as long as it had tables (until 2021; now it boots
/// by PVH alone): its test `page_tables`, on a processor with and without LA57.
#[test]
fn cloud_hypervisor() {
    let mapping = PLAIN.identity(0, GIB, Prot::RWX, Leaves::Exactly(21));
    let mut want = Words::from([(0xa000, 0xb003), (0xb000, 0xc003)]);
    want.extend(pdes(0xc000, 1, 0x83));
    assert_eq!(built(PLAIN, 0xa000, &[mapping], None), (want.clone(), 0xd000));
    want.insert(0x9000, 0xa003);
    let five = Style { levels: Levels::Five, ..PLAIN };
    assert_eq!(built(five, 0x9000, &[mapping], None), (want, 0xd000));
}

/// alioth, `alioth/src/loader/linux/linux_amd64.rs`: as many pages of 1 GiB as the kernel needs.
#[test]
fn alioth() {
    for gibs in [1, 2, 5, 512] {
        let mapping = PLAIN.identity(0, gibs * GIB, Prot::RWX, Leaves::Exactly(30));
        let mut want = Words::from([(0x3000, 0x4003)]);
        want.extend((0..gibs).map(|gib| (0x4000 + gib * 8, gib << 30 | 0x83)));
        assert_eq!(built(PLAIN, 0x3000, &[mapping], None), (want, 0x5000));
    }
}

/// uhyve, `src/arch/x86_64/paging.rs`: pages of 2 MiB from the guest's first address on, tables
/// behind the root, and a recursive entry, which its test `test_virt_to_phys` walks through.
#[test]
fn uhyve() {
    for base in [0, 0x1120_0000, 0xe120_0000] {
        let root = base + 0x1_0000;
        let mapping = PLAIN.identity(base, base + 5 * MIB2, Prot::RWX, Leaves::Exactly(21));
        let recursive = (0xffff_ff80_0000_0000, root);
        let mut want = Words::from([
            (root, root + 0x1003),
            (root + 511 * 8, root | 3),
            (root + 0x1000 + (base >> 30) * 8, root + 0x2003),
        ]);
        let first = root + 0x2000 + (base >> 21 & 511) * 8;
        want.extend((0..5).map(|page| (first + page * 8, base + page * MIB2 + 0x83)));
        assert_eq!(built(PLAIN, root, &[mapping], Some(recursive)), (want, root + 0x3000));
    }
}

/// openvmm, `vm/loader/page_table/src/x64.rs`, `IdentityMapBuilder`: 4 or 8 GiB by 2-MiB pages, a
/// linked entry, and the C-bit in every entry (its test
/// `identity_map_builder_sets_confidential_bit`).
#[test]
fn openvmm_identity() {
    for (gibs, link, c_bit) in [
        (4, None, None),
        (8, None, None),
        (8, Some((0x80_0000_0000, 0x12_3000)), None),
        (4, None, Some(51)),
    ] {
        let (at, style) = (0x4000, Style { c_bit, ..AS_UEFI });
        let mapping = style.identity(0, gibs * GIB, Prot::RWX, Leaves::Exactly(21));
        let mut want = Words::from([(at, 0x5023)]);
        want.extend((0..gibs).map(|gib| (0x5000 + gib * 8, 0x6023 + gib * 0x1000)));
        want.extend(pdes(0x6000, gibs, 0xe3));
        want.extend(link.map(|(gva, table): (u64, u64)| (at + (gva >> 39) * 8, table | 0x23)));
        let private = c_bit.map_or(0, |bit| 1 << bit);
        want.values_mut().for_each(|word| *word |= private);
        assert_eq!(built(style, at, &[mapping], link), (want, 0x6000 + gibs * 0x1000));
    }
}

/// openvmm, the same file, `PageTableBuilder`: the largest pages that fit. The numbers of tables
/// are those of its test `test_page_table_entry_sizing`.
#[test]
fn openvmm_ranges() {
    for (from, to, tables) in [
        (0, GIB, 2),
        (0, MIB2, 3),
        (0, KIB4, 4),
        (KIB4, GIB, 4),
        (MIB2, GIB, 3),
        (MIB2, GIB + KIB4, 5),
        (MIB2, GIB + MIB2, 4),
    ] {
        for (prot, rights) in [(Prot::RWX, 0x63), (Prot::RX, 0x61)] {
            let mapping = AS_UEFI.identity(from, to, prot, Leaves::Largest);
            let (words, end) = built(AS_UEFI, 0, &[mapping], None);
            assert_eq!(end, tables * 0x1000, "{from:#x}..{to:#x}");
            let mut want = Words::from([(0, 0x1023)]);
            let mut next = 2;
            let mut at = from;
            let mut below = BTreeMap::<u64, u64>::new();
            let mut table = |entry: u64, want: &mut Words| {
                *below.entry(entry).or_insert_with(|| {
                    want.insert(entry, (next << 12) | 0x23);
                    next += 1;
                    (next - 1) << 12
                })
            };
            while at < to {
                let fits = |size: u64| at % size == 0 && at + size <= to;
                let pdpte = 0x1000 + (at >> 30) * 8;
                if fits(GIB) {
                    want.insert(pdpte, at | 0x80 | rights);
                    at += GIB;
                    continue;
                }
                let pde = table(pdpte, &mut want) + (at >> 21 & 511) * 8;
                if fits(MIB2) {
                    want.insert(pde, at | 0x80 | rights);
                    at += MIB2;
                    continue;
                }
                let pte = table(pde, &mut want) + (at >> 12 & 511) * 8;
                want.insert(pte, at | rights);
                at += KIB4;
            }
            assert_eq!(words, want, "{from:#x}..{to:#x} {prot:?}");
        }
    }
}

/// An entry is linked once, where the root has it, to what it can hold.
#[test]
fn what_cannot_be_linked() {
    let words: Vec<_> = (0..4 << 9).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Gpa::new(0));
    let format = PLAIN.format();
    let mapping = PLAIN.identity(0, GIB, Prot::RWX, Leaves::Largest);
    let area = Gpa::new(0)..Gpa::new(0x4000);
    boot_tables(format, &memory, area, [mapping]).unwrap();
    let link = |root, gva, table| match link_boot_table(
        format,
        &memory,
        Gpa::new(root),
        Gva::new(gva),
        Gpa::new(table),
    ) {
        Ok(()) => None,
        Err(BootError::Mapping(RangeError { at, error })) if at == Gva::new(gva) => Some(error),
        Err(error) => panic!("{error}"),
    };
    assert!(matches!(link(0, 0x1000, 0), Some(Error::Mapped { .. })), "in use");
    assert!(matches!(link(0, 1 << 62, 0), Some(Error::Range)), "no address");
    assert!(matches!(link(0x8000, 1 << 40, 0), Some(Error::Memory(_))), "no memory");
    for table in [0x123, 1 << 60] {
        assert!(matches!(link(0, 1 << 40, table), Some(Error::Unencodable { .. })), "{table:#x}");
    }
    assert_eq!(link(0, 1 << 40, 0x7000), None);
    assert!(matches!(link(0, 1 << 40, 0x7000), Some(Error::Mapped { .. })), "in use now");
    assert_eq!(words[2].load(Ordering::Relaxed), 0x7003);
}
