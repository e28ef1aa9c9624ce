//! See `pgtable_fuzz::vmsa_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(vmsa_walk);
