//! See `pgtable_fuzz::sv_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(sv_walk);
