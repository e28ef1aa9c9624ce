//! See `pgtable_fuzz::fdt_hcall`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(fdt_hcall);
