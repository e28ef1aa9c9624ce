//! See `pgtable_fuzz::image_kdump`.

pgtable_fuzz::fuzz_target!(image_kdump);
