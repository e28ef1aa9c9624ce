//! See `pgtable_fuzz::image_lime`.

pgtable_fuzz::fuzz_target!(image_lime);
