//! See `pgtable_fuzz::image_kdump`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(image_kdump);
