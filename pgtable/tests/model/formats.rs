//! What a format says in two ways: its shortcuts against its decoder, on words of any content.

use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped, Strictness};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};
use pgtable::{Address, Entry, Format, Geometry, Level, Position};
use proptest::prelude::*;

/// Every place of a leaf of the last level.
fn places(geometry: &Geometry) -> impl Iterator<Item = Position> + '_ {
    let shifts = geometry.leaf_shifts().into_iter();
    shifts.filter_map(|shift| {
        let (level, _) = geometry.leaf(shift)?;
        Some(Position { level, shift })
    })
}

/// A word that passes for a usual leaf is one, and its address is where the format says.
fn usual_leaves<F: Format>(format: F, word: u64) {
    let mut usual_at_last_level = 0;
    for at in places(format.geometry()) {
        let Some(usual) = format.usual_leaf(at) else { continue };
        usual_at_last_level += usize::from(at.level == Level(0));
        assert_eq!(usual.value & !usual.compared, 0);
        assert_ne!(usual.value & format.present_mask(), 0, "a usual leaf is present");
        let leaf = word & !usual.compared | usual.value;
        assert_eq!(usual.odd(leaf), 0);
        assert_ne!(usual.odd(0), 0);
        match format.decode(leaf, at) {
            Entry::Leaf { output, attributes } => {
                assert_eq!(output.get(), leaf & format.output_mask(at), "{leaf:#x} at {at:?}");
                // What protect writes over it keeps that address.
                let encoded = format.leaf_word(attributes, at);
                assert!(
                    encoded.is_ok_and(|encoded| encoded & format.output_mask(at) == 0),
                    "{leaf:#x} at {at:?}"
                );
            }
            entry => panic!("{leaf:#x} at {at:?} passes for a leaf, and is {entry:?}"),
        }
    }
    assert_ne!(usual_at_last_level, 0, "no shortcut");
}

proptest! {
    #[test]
    fn usual_leaves_are_leaves(word: u64) {
        for levels in [Levels::Four, Levels::Five] {
            for controls in [Controls::new(), Controls { nxe: false, maxphyaddr: 40, ..Controls::new() }] {
                usual_leaves(LongMode::new(levels, controls), word);
            }
            for controls in [EptControls::new(), EptControls { mode_based_execute: true, ..EptControls::new() }] {
                usual_leaves(Ept::new(levels, controls), word);
            }
            usual_leaves(Npt::new(levels, NptControls::new()), word);
        }
        for granule in [Granule::K4, Granule::K64] {
            for strictness in [Strictness::Strict, Strictness::Kvm, Strictness::Qemu] {
                usual_leaves(ProcessScoped::new(granule).with_strictness(strictness), word);
                usual_leaves(PartitionScoped::new(granule).with_strictness(strictness), word);
            }
        }
    }
}
