//! The formats of this crate run through the kit.

use pgtable_conformance::amd::Amd;
use pgtable_conformance::deep::{Deep, EIGHT, FIVE, FOUR, SIX, THREE, TWO};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::srmmu::Srmmu;
use pgtable_conformance::sv::Sv;
use pgtable_conformance::{codec, conformance};

conformance! {
    sv39: Sv::SV39;
    sv48: Sv::SV48.with_sum();
    sv57: Sv::SV57.with_hardware_updates();
    sv39_napot: Sv::SV39.with_napot().with_hardware_updates();
    lpa: Lpa::PLAIN;
    lpa_contiguous: Lpa::CONTIGUOUS;
    amd: Amd;
    srmmu: Srmmu;
    two_levels: Deep::new(&TWO);
    three_levels: Deep::new(&THREE);
    four_odd_levels: Deep::new(&FOUR);
    five_odd_levels: Deep::new(&FIVE).slow();
    six_levels: Deep::new(&SIX);
    eight_levels: Deep::new(&EIGHT);
}

codec! {
    five_levels: Deep::new(&FIVE);
    no_shortcuts: Deep::new(&FOUR).slow();
}
