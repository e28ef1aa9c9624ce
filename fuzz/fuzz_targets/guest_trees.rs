//! See `pgtable_fuzz::guest_trees`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(guest_trees);
