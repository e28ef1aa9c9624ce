//! See `pgtable_fuzz::image_flattened`.

pgtable_fuzz::fuzz_target!(image_flattened);
