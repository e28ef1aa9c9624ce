//! See `pgtable_fuzz::ptdump_core`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(ptdump_core);
