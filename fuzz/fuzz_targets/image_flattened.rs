//! See `pgtable_fuzz::image_flattened`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(image_flattened);
