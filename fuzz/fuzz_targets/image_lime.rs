//! See `pgtable_fuzz::image_lime`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(image_lime);
