//! See `pgtable_fuzz::htab_stream`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(htab_stream);
