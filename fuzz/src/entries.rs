//! Every layout of an entry: what is decoded can be encoded again, and says the same.

use arbitrary::{Arbitrary, Unstructured};
use frag_alloc::TaggedTable;
use pgtable::format::Format;
use pgtable::{Gpa, Hpa, Level, Position};
use pgtable_conformance::words;
use pgtable_ppc64::radix::{
    Granule, PartitionScoped, PartitionTable, ProcessScoped, ProcessTable, ProcessTableWord, Ptcr,
    RadixRoot, RcPolicy, Strictness,
};
use pgtable_x86::{Controls, Ept, EptControls, KeyRegister, Levels, LongMode, Npt, NptControls};

use crate::case::{bit, privacy};

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
/// Those of the conformance kit: decode ∘ encode is the identity; shortcuts say what decoding says;
/// permissions survive; nothing panics, at impossible places either.
pub fn entries(data: &[u8]) {
    let Ok(header) = Unstructured::new(data).arbitrary::<Header>() else { return };
    let Header { flags, word, address, .. } = header;
    let strictness =
        [Strictness::Qemu, Strictness::Kvm, Strictness::Strict][usize::from(flags) % 3];
    let rc = if bit(flags, 2) { RcPolicy::Fault } else { RcPolicy::HardwareUpdate };
    let granule = if bit(flags, 3) { Granule::K4 } else { Granule::K64 };
    let maxphyaddr = 32 + header.maxphyaddr % 21;
    let levels = if bit(flags, 4) { Levels::Five } else { Levels::Four };
    let controls = Controls {
        nxe: bit(flags, 5),
        gib_pages: bit(flags, 6),
        amd: bit(flags, 7),
        privacy: privacy(header.shift),
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
        supervisor_shadow_stack: bit(flags, 12),
        shadow_stack: bit(flags, 13),
        ..EptControls::new()
    };
    let npt = NptControls {
        nxe: controls.nxe,
        gib_pages: controls.gib_pages,
        maxphyaddr,
        privacy: controls.privacy,
    };
    let case = Case { word, address, level: header.place, shift: header.shift };
    case.check(ProcessScoped::new(granule).with_strictness(strictness).with_rc(rc));
    case.check(PartitionScoped::new(granule).with_strictness(strictness).with_rc(rc));
    case.check(LongMode::new(levels, controls));
    case.check(Npt::new(levels, npt));
    case.check(Ept::new(levels, ept));
    descriptors(word);
}

struct Case {
    word: u64,
    address: u64,
    level: u8,
    shift: u8,
}

impl Case {
    /// At each place where `format` has entries, and at one where it may not have any.
    fn check<F: Format>(&self, format: F) {
        let anywhere = Position { level: Level(self.level), shift: self.shift };
        words::word(&format, self.word, anywhere);
        words::leaves_of(&format, self.address, self.level);
        words::offsets(&format, self.address);
    }
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
                assert_eq!(
                    (made.base(), made.rts(), made.rpds()),
                    (base, root.rts(), root.rpds()),
                    "{word:#x}"
                );
                assert_eq!(made.root(Strictness::Strict), Some(base));
            }
        }
    }
    assert_eq!(root.with_rts(root.rts()), root);
    let processes = ProcessTableWord::from_bits(word);
    if let Some(table) = ProcessTable::of_word(processes) {
        assert_eq!(
            (table.word().base(), table.word().prts()),
            (processes.base(), processes.prts())
        );
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
