//! See `pgtable_fuzz::radix_walk`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(radix_walk);
