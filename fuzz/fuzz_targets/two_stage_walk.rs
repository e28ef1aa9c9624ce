//! See `pgtable_fuzz::two_stage_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(two_stage_walk);
