//! See `pgtable_fuzz::hpt_hcalls`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(hpt_hcalls);
