//! See `pgtable_fuzz::image_elf`.

pgtable_fuzz::fuzz_target!(image_elf);
