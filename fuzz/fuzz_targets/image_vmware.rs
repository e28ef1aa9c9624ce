//! See `pgtable_fuzz::image_vmware`.

pgtable_fuzz::fuzz_target!(image_vmware);
