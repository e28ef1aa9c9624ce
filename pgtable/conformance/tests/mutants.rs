//! The kit finds faults: an invalidation that leaves something out makes it fail, with the caches
//! of each architecture where these hold what was left out.

use pgtable_conformance::faults::{FAULTS, is_found};
use pgtable_conformance::machine::Forgets;
use pgtable_conformance::mmu::Caches;
use pgtable_conformance::sv::Sv;

/// What need not be said to an architecture's invalidations.
#[test]
fn what_is_left_out_is_found_where_it_matters() {
    for (name, caches, unneeded) in [
        ("strict", Caches::STRICT, &[][..]),
        ("x86", Caches::X86, &[Forgets::Sizes, Forgets::Tables, Forgets::Appeared]),
        ("POWER", Caches::POWER, &[Forgets::Appeared]),
        ("AArch64", Caches::AARCH64, &[Forgets::Sizes, Forgets::Tables, Forgets::Appeared]),
        ("RISC-V", Caches::RISCV, &[Forgets::Sizes]),
    ] {
        for fault in &FAULTS {
            let found = is_found(Sv::SV48.with_hardware_updates(), caches, fault);
            assert_eq!(found, !unneeded.contains(&fault.forgets), "{name}: {}", fault.name);
        }
    }
}
