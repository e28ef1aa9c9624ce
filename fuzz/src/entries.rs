//! Every layout of an entry: what is decoded can be encoded again, and says the same.

use arbitrary::{Arbitrary, Unstructured};
use arch_ppc64::radix::{
    Granule, PartitionScoped, PartitionTable, ProcessScoped, ProcessTable, ProcessTableWord, Ptcr, RadixRoot, RcPolicy,
    Strictness,
};
use arch_x86::{Controls, Ept, EptControls, KeyRegister, Levels, LongMode, Npt, NptControls};
use frag_alloc::TaggedTable;
use pgtable::{Access, Address, Attributes, Entry, Format, Gpa, Hpa, Input, Level, Output, Position, Prot};

use crate::case::bit;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    place: u8,
    shift: u8,
    maxphyaddr: u8,
    word: u64,
    address: u64,
}

/// One word, at every place of every format and as every other layout.
///
/// # Oracles
/// decode ∘ encode is the identity; prediction says what decoding says; permissions survive;
/// nothing panics, at impossible places either.
pub fn entries(data: &[u8]) {
    let Ok(header) = Unstructured::new(data).arbitrary::<Header>() else { return };
    let Header { flags, word, address, .. } = header;
    let strictness = [Strictness::Qemu, Strictness::Kvm, Strictness::Strict][usize::from(flags) % 3];
    let rc = if bit(flags, 2) { RcPolicy::Fault } else { RcPolicy::HardwareUpdate };
    let granule = if bit(flags, 3) { Granule::K4 } else { Granule::K64 };
    let maxphyaddr = 32 + header.maxphyaddr % 21;
    let levels = if bit(flags, 4) { Levels::Five } else { Levels::Four };
    let controls = Controls {
        nxe: bit(flags, 5),
        gib_pages: bit(flags, 6),
        amd: bit(flags, 7),
        pke: bit(flags, 8),
        pkru: KeyRegister(address as u32),
        maxphyaddr,
        ..Controls::new()
    };
    let ept = EptControls {
        mode_based_execute: bit(flags, 9),
        accessed_dirty: bit(flags, 10),
        execute_only: bit(flags, 11),
        gib_pages: controls.gib_pages,
        maxphyaddr,
    };
    let npt = NptControls { nxe: controls.nxe, gib_pages: controls.gib_pages, maxphyaddr };
    let case = Case { word, address, level: header.place, shift: header.shift };
    case.check(ProcessScoped::new(granule).with_strictness(strictness).with_rc(rc), &[12, 16]);
    case.check(PartitionScoped::new(granule).with_strictness(strictness).with_rc(rc), &[12, 16]);
    case.check(LongMode::new(levels, controls), &[12]);
    case.check(Npt::new(levels, npt), &[12]);
    case.check(Ept::new(levels, ept), &[12]);
    descriptors(word);
}

struct Case {
    word: u64,
    address: u64,
    level: u8,
    shift: u8,
}

impl Case {
    /// At each place where `format` has entries, those of the last level covering `2^shift` bytes
    /// for each of `finest`; and at one where it may not have any.
    fn check<F: Format>(&self, format: F, finest: &[u8]) {
        let geometry = format.geometry();
        for &shift in finest {
            self.at(format, Position { level: Level(0), shift });
        }
        for level in (1..geometry.levels()).map(Level) {
            self.at(format, Position { level, shift: geometry.shift(level) });
        }
        let anywhere = Position { level: Level(self.level), shift: self.shift };
        let _ = (format.decode(self.word, anywhere), format.predicted_table(self.word, anywhere));
        let _ = (
            format.output_mask(anywhere),
            format.table_word(Output::<F>::new(self.address), self.shift & 63, anywhere),
        );
        let _ = format.leaf_word(F::Attributes::from(Prot::RWX), anywhere);
        let _ = format.check(self.word, anywhere, F::Path::default(), Access::WRITE);

        if let Some(offset) = format.offset(Input::<F>::new(self.address)) {
            assert_eq!(offset & !geometry.address_mask(), 0);
            assert_eq!(format.offset(format.address(offset)), Some(offset));
        }
    }

    fn at<F: Format>(&self, format: F, at: Position) {
        let word = self.word;
        let entry = format.decode(word, at);
        let below = Level(at.level.0.wrapping_sub(1));
        assert_eq!(matches!(entry, Entry::Absent), absent(format, word), "{word:#x} at {at:?}: {entry:?}");
        if let Some(table) = format.predicted_table(word, at) {
            let width = format.geometry().width(below);
            assert_eq!(entry, Entry::Table { table: Output::<F>::new(table), width }, "{word:#x} at {at:?}");
        }
        match entry {
            Entry::Absent | Entry::Malformed => {}
            Entry::Table { table, width } => {
                assert!((1..=20).contains(&width) && width < at.shift, "{entry:?}");
                let made = format.table_word(table, width, at).expect("what was decoded has an encoding");
                assert_eq!(format.decode(made, at), entry, "{word:#x} → {made:#x} at {at:?}");
                if width == format.geometry().width(below) {
                    assert_eq!(format.predicted_table(made, at), Some(table.get()), "{made:#x} at {at:?}");
                }
            }
            Entry::Leaf { output, attributes } => {
                assert_eq!(output.get() & !format.output_mask(at), 0);
                // Permissions as far as all architectures can say them.
                let prot = attributes.prot();
                assert_eq!(F::Attributes::from(prot).prot(), prot, "{attributes:?}");
                for access in [Access::READ, Access::WRITE, Access::FETCH].into_iter().flat_map(|it| [it, it.by_user()])
                {
                    let _ = format.check(word, at, F::Path::default(), access);
                }
                // QEMU's MMU takes a leaf in the root of a radix tree; nobody makes one.
                if !format.geometry().is_leaf_level(at.level) {
                    assert_eq!(format.leaf_word(attributes, at).ok(), None);
                    return;
                }
                let made = format.leaf_word(attributes, at).expect("what was decoded has an encoding") | output.get();
                assert_eq!(format.decode(made, at), entry, "{word:#x} → {made:#x} at {at:?}");
                let marks = format.accessed_dirty();
                let marks = marks.accessed | marks.dirty;
                assert_eq!(made & marks, word & marks, "{word:#x} → {made:#x} at {at:?}");
            }
        }
    }
}

/// Nothing in the entry says that it is present. (POWER's L says nothing without V.)
fn absent<F: Format>(format: F, word: u64) -> bool {
    word & format.present_mask() == 0
}

/// The words by which trees and tables are found.
fn descriptors(word: u64) {
    let root = RadixRoot::from_bits(word);
    for strictness in [Strictness::Qemu, Strictness::Kvm, Strictness::Strict] {
        if let Some(base) = root.root(strictness) {
            let made = RadixRoot::of_tree(base);
            // Only QEMU's MMU takes a root that is not aligned.
            assert!(made.is_some() || strictness == Strictness::Qemu, "{word:#x}");
            if let Some(made) = made {
                assert_eq!((made.base(), made.rts(), made.rpds()), (base, root.rts(), root.rpds()), "{word:#x}");
                assert_eq!(made.root(Strictness::Strict), Some(base));
            }
        }
    }
    assert_eq!(root.with_rts(root.rts()), root);
    let processes = ProcessTableWord::from_bits(word);
    if let Some(table) = ProcessTable::of_word(processes) {
        assert_eq!((table.word().base(), table.word().prts()), (processes.base(), processes.prts()));
        assert_eq!(ProcessTable::of_word(table.word()), Some(table));
        assert_eq!(ProcessTable::new(Gpa::new(processes.base()), processes.prts()), Some(table));
    }
    if let Some(table) = PartitionTable::of_ptcr(Ptcr::from_bits(word)) {
        assert_eq!(PartitionTable::of_ptcr(table.ptcr()), Some(table));
    }
    if let Some(tagged) = TaggedTable::<Hpa>::from_raw(word) {
        assert_eq!(tagged.raw(), word);
        assert_eq!(TaggedTable::new(tagged.table(), tagged.kind()), Some(tagged));
    }
}
