//! See `pgtable_fuzz::x86_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(x86_walk);
