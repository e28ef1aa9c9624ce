//! What the rooms' own tests compare with: no second copy of it.

#[path = "../../arch-ppc64/tests/hash_hcall.rs"]
pub(crate) mod hash_hcall;
#[path = "../../arch-ppc64/tests/radix_reference.rs"]
pub(crate) mod radix;
#[path = "../../arch-riscv64/tests/support/mod.rs"]
pub(crate) mod riscv_model;
#[path = "../../arch-aarch64/tests/support/mod.rs"]
pub(crate) mod vmsa;
#[path = "../../arch-x86/tests/legacy.rs"]
pub(crate) mod x86_legacy;
#[path = "../../arch-x86/tests/stage1.rs"]
pub(crate) mod x86_stage1;
#[path = "../../arch-x86/tests/stage2.rs"]
pub(crate) mod x86_stage2;
