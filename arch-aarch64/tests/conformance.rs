//! The conformance kit: trees of each granule and kind; words of every address size and set of
//! controls.

mod support;

use pgtable_aarch64::Granule::{K4, K16, K64};
use pgtable_aarch64::{Regime, Stage1Controls, Stage2Controls, TableDescriptor, VaRange};
use support::{S1, S2, stage1, stage2};

pgtable_conformance::conformance! {
    k4_48: stage1(S1);
    k4_39_upper: stage1(Stage1Controls { range: VaRange::Upper, input_bits: 39, tbi: true, ..S1 });
    k4_25: stage1(Stage1Controls { input_bits: 25, output_bits: 32, ..S1 });
    k4_52: stage1(Stage1Controls { input_bits: 52, output_bits: 52, ds: true, ha: true, hd: true, ..S1 });
    k16_47: stage1(Stage1Controls { granule: K16, input_bits: 47, ha: true, wxn: true, ..S1 });
    k64_48: stage1(Stage1Controls { granule: K64, ha: true, hd: true, wxn: true, ..S1 });
    k64_17: stage1(Stage1Controls { granule: K64, input_bits: 17, small_tables: true, ..S1 });
    restricting: stage1(S1).with_table_descriptor(TableDescriptor::new().with_pxn_table(true).with_read_only(true));
    k4_contiguous: stage1(Stage1Controls { contiguous: true, ha: true, hd: true, ..S1 });
    k16_contiguous: stage1(Stage1Controls { granule: K16, input_bits: 47, contiguous: true, ..S1 });
    s2_k4_40: stage2(S2);
    s2_k16_40: stage2(Stage2Controls { xnx: false, ha: true, ..S2.with_input(K16, 40) });
    s2_k64_46: stage2(Stage2Controls { fwb: true, ha: true, hd: true, ..S2.with_input(K64, 46) });
    s2_k4_contiguous: stage2(Stage2Controls { contiguous: true, ha: true, hd: true, ..S2 });
}

// How their trees are built is as above.
pgtable_conformance::codec! {
    k4_16: stage1(Stage1Controls { input_bits: 16, small_tables: true, ..S1 });
    k4_ds_narrow: stage1(Stage1Controls { output_bits: 44, ds: true, ..S1 });
    k16_48: stage1(Stage1Controls { granule: K16, hpd: true, pan: true, ..S1 });
    k16_36: stage1(Stage1Controls { granule: K16, input_bits: 36, pan: true, epan: true, ..S1 });
    k16_52: stage1(Stage1Controls { granule: K16, input_bits: 52, output_bits: 52, ds: true, ..S1 });
    k64_42: stage1(Stage1Controls { granule: K64, input_bits: 42, physical_bits: 52, ..S1 });
    k64_52: stage1(Stage1Controls { granule: K64, input_bits: 52, output_bits: 52, physical_bits: 52, lva: true, ha: true, hd: true, ..S1 });
    el2: stage1(Stage1Controls { regime: Regime::El2, ha: true, hd: true, wxn: true, ..S1 });
    el20: stage1(Stage1Controls { regime: Regime::El20, pan: true, ..S1 });
    k64_contiguous: stage1(Stage1Controls { granule: K64, contiguous: true, ha: true, ..S1 });
    k4_25_contiguous: stage1(Stage1Controls { input_bits: 25, contiguous: true, ..S1 });
    s2_k4_48: stage2(S2.with_input(K4, 48));
    s2_k4_24: stage2(Stage2Controls { small_tables: true, ..S2 }.with_input(K4, 24));
    s2_k4_52: stage2(Stage2Controls { ds: true, physical_bits: 52, output_bits: 52, ha: true, hd: true, ..S2.with_input(K4, 52) });
    s2_k4_52_deep: stage2(Stage2Controls { ds: true, physical_bits: 52, output_bits: 52, input_bits: 52, start_level: -1, ..S2 });
    s2_k16_52: stage2(Stage2Controls { ds: true, fwb: true, physical_bits: 52, output_bits: 52, ..S2.with_input(K16, 52) });
    s2_k16_contiguous: stage2(Stage2Controls { contiguous: true, ..S2.with_input(K16, 40) });
    s2_k64_52: stage2(Stage2Controls { physical_bits: 52, output_bits: 52, ..S2.with_input(K64, 52) });
}
