//! See `pgtable_fuzz::entries`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(entries);
