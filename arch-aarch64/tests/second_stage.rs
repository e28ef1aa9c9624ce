//! The owner of a stage 2, against the kit's list of leaves: each granule, with and without
//! hardware's records, and with contiguous groups.

mod support;

use pgtable::{Attributes, Prot};
use pgtable_aarch64::Granule::{K16, K64};
use pgtable_aarch64::{Stage2Attributes, Stage2Controls, Stage2Execute};
use support::{S2, stage2};

pgtable_conformance::second_stage! {
    k4: stage2(S2);
    k4_records: stage2(Stage2Controls { ha: true, hd: true, ..S2 });
    k4_contiguous: stage2(Stage2Controls { contiguous: true, ha: true, hd: true, ..S2 });
    k16_accessed: stage2(Stage2Controls { ha: true, ..S2.with_input(K16, 40) });
    k64_records: stage2(Stage2Controls { fwb: true, ha: true, hd: true, ..S2.with_input(K64, 46) });
}

/// A verb that takes the right to write, or gives it back, changes no right to execute.
#[test]
fn execution_by_one_level_alone_stays() {
    use Stage2Execute::{All, El0, El1, None};
    for execute in [All, El0, El1, None] {
        let page = Stage2Attributes::from(Prot::RWX).with_execute(execute);
        let prot = page.prot();
        let read_only = page.with_prot(prot.with_write(false));
        assert_eq!(read_only.execute(), execute);
        assert_eq!(read_only.with_prot(prot), page);
    }
}
