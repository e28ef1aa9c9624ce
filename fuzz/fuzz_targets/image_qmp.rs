//! See `pgtable_fuzz::image_qmp`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(image_qmp);
