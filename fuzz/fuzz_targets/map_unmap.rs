//! See `pgtable_fuzz::map_unmap`.
#![cfg_attr(fuzzing, no_main)]
pgtable_fuzz::fuzz_target!(map_unmap);
