//! x86's formats run through the conformance kit.

use pgtable_conformance::{codec, conformance};
use pgtable_x86::{
    Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls, Pae, Paging32, Privacy,
    TableEntry,
};

const SMALL: Controls = Controls { nxe: false, maxphyaddr: 40, ..Controls::new() };
const SMAP: Controls = Controls { smap: true, smep: true, ..Controls::new() };
const BY_XU: EptControls = EptControls { mode_based_execute: true, ..EptControls::new() };
const FLAGS: EptControls = EptControls { accessed_dirty: true, ..EptControls::new() };
const NO_FLAGS: EptControls =
    EptControls { accessed_dirty: false, execute_only: false, ..EptControls::new() };

const SEV: Controls =
    Controls { privacy: Privacy::Encrypted { bit: 47 }, amd: true, ..Controls::new() };
const TDX: Controls = Controls { privacy: Privacy::Shared { bit: 51 }, ..Controls::new() };
const SHADOW: Controls = Controls { cet: true, shadow_stack: true, ..Controls::new() };
const SME: NptControls = NptControls::new().with_memory_encryption(0x4173);

conformance! {
    long_mode: LongMode::new(Levels::Four, Controls::new());
    long_mode_5: LongMode::new(Levels::Five, Controls::new());
    pae: Pae::new(Controls::new());
    // Without pages beyond 4 GiB, no part of which can be unmapped.
    paging32: Paging32::new(Controls { pse36: false, ..Controls::new() });
    long_mode_sev: LongMode::new(Levels::Four, SEV);
    npt: Npt::new(Levels::Four, NptControls::new());
    ept: Ept::new(Levels::Four, FLAGS);
    ept_5: Ept::new(Levels::Five, NO_FLAGS);
}

codec! {
    long_mode_small: LongMode::new(Levels::Four, SMALL);
    long_mode_smap: LongMode::new(Levels::Four, SMAP);
    long_mode_keys: LongMode::new(Levels::Four, Controls { pke: true, ..Controls::new() });
    long_mode_amd: LongMode::new(Levels::Five, Controls { amd: true, ..Controls::new() });
    long_mode_tables: LongMode::new(Levels::Four, Controls::new())
        .with_table_entry(TableEntry::new().with_rw(true));
    long_mode_shadow: LongMode::new(Levels::Four, SHADOW);
    pae_small: Pae::new(SMALL);
    pae_marked: Pae::new(Controls::new()).with_marked_pdptes();
    pae_sev: Pae::new(SEV);
    pae_smap: Pae::new(SMAP);
    paging32_pse36: Paging32::new(Controls::new());
    paging32_small: Paging32::new(Controls { maxphyaddr: 36, ..Controls::new() });
    paging32_plain: Paging32::new(Controls { pse: false, ..SMAP });
    paging32_shadow: Paging32::new(SHADOW);
    long_mode_tdx: LongMode::new(Levels::Five, TDX);
    npt_sme: Npt::new(Levels::Four, SME);
    ept_plain: Ept::new(Levels::Four, NO_FLAGS);
    ept_user: Ept::new(Levels::Five, BY_XU);
    npt_5: Npt::new(Levels::Five, NptControls::new());
}
