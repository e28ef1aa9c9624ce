//! Every format of this workspace, and some of no architecture of ours, runs through the
//! conformance kit.

use arch_ppc64::radix::{Amr, Granule, Iamr, PartitionScoped, ProcessScoped, RcPolicy, Strictness};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls, TableEntry};
use deep::{Deep, EIGHT, FIVE, FOUR, SIX, THREE, TWO};
use pgtable_conformance::amd::Amd;
use pgtable_conformance::conformance;
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;

#[path = "model/deep.rs"]
mod deep;

const SMALL: Controls = Controls { nxe: false, maxphyaddr: 40, ..Controls::new() };
const SMAP: Controls = Controls { smap: true, smep: true, ..Controls::new() };
const BY_XU: EptControls = EptControls { mode_based_execute: true, ..EptControls::new() };
const NO_FLAGS: EptControls =
    EptControls { accessed_dirty: false, execute_only: false, ..EptControls::new() };

conformance! {
    two_levels: Deep::new(&TWO);
    three_levels: Deep::new(&THREE);
    four_levels: Deep::new(&FOUR);
    five_levels: Deep::new(&FIVE);
    six_levels: Deep::new(&SIX);
    eight_levels: Deep::new(&EIGHT);
    no_shortcuts: Deep::new(&FOUR).slow();
    long_mode: LongMode::new(Levels::Four, Controls::new());
    long_mode_5: LongMode::new(Levels::Five, Controls::new());
    long_mode_small: LongMode::new(Levels::Four, SMALL);
    long_mode_smap: LongMode::new(Levels::Four, SMAP);
    long_mode_keys: LongMode::new(Levels::Four, Controls { pke: true, ..Controls::new() });
    long_mode_amd: LongMode::new(Levels::Five, Controls { amd: true, ..Controls::new() });
    long_mode_tables: LongMode::new(Levels::Four, Controls::new())
        .with_table_entry(TableEntry::new().with_rw(true));
    ept: Ept::new(Levels::Four, EptControls::new());
    ept_5: Ept::new(Levels::Five, BY_XU);
    ept_plain: Ept::new(Levels::Four, NO_FLAGS);
    npt: Npt::new(Levels::Four, NptControls::new());
    npt_5: Npt::new(Levels::Five, NptControls::new());
    radix_4k: ProcessScoped::new(Granule::K4);
    radix_64k: ProcessScoped::new(Granule::K64).with_strictness(Strictness::Kvm);
    radix_qemu: ProcessScoped::new(Granule::K4).with_strictness(Strictness::Qemu);
    radix_keys: ProcessScoped::new(Granule::K4)
        .with_amr(Amr::from_bits(3 << 62))
        .with_iamr(Iamr::from_bits(1 << 62));
    sv39: Sv::SV39;
    sv48: Sv::SV48.with_sum();
    sv57: Sv::SV57.with_hardware_updates();
    sv39_napot: Sv::SV39.with_napot();
    lpa: Lpa::PLAIN;
    lpa_contiguous: Lpa::CONTIGUOUS;
    amd: Amd;
    radix_partition: PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
}
