//! See `pgtable_fuzz::image_vmware`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(image_vmware);
