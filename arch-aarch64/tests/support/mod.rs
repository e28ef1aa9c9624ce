//! Formats to be tested.
#![allow(dead_code, reason = "not every test uses all")]

use pgtable_aarch64::{Stage1Controls, Stage2Controls, VmsaStage1, VmsaStage2};

/// Controls to start from.
pub const S1: Stage1Controls = Stage1Controls::new();
pub const S2: Stage2Controls = Stage2Controls::new();

pub fn stage1(controls: Stage1Controls) -> VmsaStage1 {
    VmsaStage1::new(controls).unwrap_or_else(|error| panic!("{error}: {controls:?}"))
}

pub fn stage2(controls: Stage2Controls) -> VmsaStage2 {
    VmsaStage2::new(controls).unwrap_or_else(|error| panic!("{error}: {controls:?}"))
}

pub mod model;

use model::Params;
use pgtable_aarch64::{Granule, Regime, VaRange};

/// The model's parameters of a stage-1 format.
pub fn params1(c: &Stage1Controls) -> Params {
    let granule = u32::from(c.granule.shift());
    Params {
        stage2: false,
        el2: c.regime == Regime::El2,
        upper: c.range == VaRange::Upper,
        granule,
        input_bits: c.input_bits.into(),
        start: model::stage1_start(granule, c.input_bits.into()),
        output_bits: c.output_bits.into(),
        lpa: c.physical_bits == 52,
        ds: c.ds,
        contiguous: c.contiguous,
        ha: c.ha,
        hd: c.hd,
        hpd: c.hpd,
        tbi: c.tbi,
        wxn: c.wxn,
        pan: c.pan,
        epan: c.epan,
        xnx: false,
        fwb: false,
    }
}

/// The model's parameters of a stage-2 format.
pub fn params2(c: &Stage2Controls) -> Params {
    let Stage2Controls { granule, input_bits, start_level, output_bits, .. } = *c;
    let Stage2Controls { physical_bits, ds, contiguous, ha, hd, xnx, fwb, .. } = *c;
    Params {
        stage2: true,
        input_bits: input_bits.into(),
        start: start_level.into(),
        output_bits: output_bits.into(),
        granule: u32::from(granule.shift()),
        lpa: physical_bits == 52,
        ds,
        contiguous,
        ha,
        hd,
        xnx,
        fwb,
        ..params1(&S1)
    }
}

/// Every access.
pub const ACCESSES: [pgtable::Access; 6] = pgtable_conformance::words::ACCESSES;
pub const GRANULES: [Granule; 3] = [Granule::K4, Granule::K16, Granule::K64];

/// A generator of numbers that are the same on every run.
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
