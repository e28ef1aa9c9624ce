//! The owner of EPT and nested page tables, against the kit's list of leaves.

use pgtable_x86::{Ept, EptControls, Levels, Npt, NptControls};

const FLAGS: EptControls = EptControls { accessed_dirty: true, ..EptControls::new() };
const NO_FLAGS: EptControls = EptControls { accessed_dirty: false, ..EptControls::new() };

pgtable_conformance::second_stage! {
    ept: Ept::new(Levels::Four, FLAGS);
    ept_without_flags: Ept::new(Levels::Four, NO_FLAGS);
    ept_5: Ept::new(Levels::Five, FLAGS);
    npt: Npt::new(Levels::Four, NptControls::new());
}
