//! See `pgtable_fuzz::frag_alloc`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(frag_alloc);
