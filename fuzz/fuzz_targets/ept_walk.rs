//! See `pgtable_fuzz::ept_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(ept_walk);
