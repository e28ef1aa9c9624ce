//! See `pgtable_fuzz::linux_kernel`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(linux_kernel);
