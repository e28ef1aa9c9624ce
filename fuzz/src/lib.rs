//! The fuzz targets, as plain functions: libFuzzer calls them, and so does the replay of the
//! corpora, on any compiler.
//!
//! A target takes arbitrary bytes, makes a case of them (never refusing any), and panics where the
//! code under test disagrees with an oracle: a reference that is written the obvious way, a flat
//! model, or another way to ask the same question. `README.md` says which.

mod case;
mod entries;
mod ept_walk;
mod fdt_hcall;
mod frag_alloc;
mod guest_trees;
mod hpt_hcalls;
mod htab_stream;
mod image_forms;
mod linux_kernel;
mod linux_model;
mod map_unmap;
mod memory;
#[allow(
    clippy::duplicate_mod,
    clippy::manual_is_multiple_of,
    dead_code,
    unused_imports,
    unused_macros,
    reason = "property tests of other packages, of which only the oracles are used here"
)]
mod oracle;
mod ptdump_core;
mod radix_walk;
mod reading;
mod sv_walk;
mod two_stage_walk;
mod vmsa_walk;
mod x86_walk;

pub use entries::entries;
pub use ept_walk::ept_walk;
pub use fdt_hcall::fdt_hcall;
pub use frag_alloc::frag_alloc;
pub use guest_trees::guest_trees;
pub use hpt_hcalls::hpt_hcalls;
pub use htab_stream::htab_stream;
pub use image_forms::{
    image_elf, image_flattened, image_kdump, image_lime, image_qmp, image_vmware,
};
pub use linux_kernel::linux_kernel;
pub use map_unmap::map_unmap;
pub use ptdump_core::ptdump_core;
pub use radix_walk::radix_walk;
pub use sv_walk::sv_walk;
pub use two_stage_walk::two_stage_walk;
pub use vmsa_walk::vmsa_walk;
pub use x86_walk::x86_walk;

/// A target: its name and itself.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("radix_walk", radix_walk),
    ("x86_walk", x86_walk),
    ("ept_walk", ept_walk),
    ("sv_walk", sv_walk),
    ("vmsa_walk", vmsa_walk),
    ("map_unmap", map_unmap),
    ("frag_alloc", frag_alloc),
    ("guest_trees", guest_trees),
    ("entries", entries),
    ("two_stage_walk", two_stage_walk),
    ("hpt_hcalls", hpt_hcalls),
    ("htab_stream", htab_stream),
    ("ptdump_core", ptdump_core),
    ("image_elf", image_elf),
    ("image_flattened", image_flattened),
    ("image_kdump", image_kdump),
    ("image_lime", image_lime),
    ("image_qmp", image_qmp),
    ("image_vmware", image_vmware),
    ("linux_kernel", linux_kernel),
    ("fdt_hcall", fdt_hcall),
];

/// Makes a program of a target: libFuzzer's under `cargo fuzz`, else one that replays the files
/// that it is given.
#[macro_export]
macro_rules! fuzz_target {
    ($name:ident) => {
        #[cfg(fuzzing)]
        libfuzzer_sys::fuzz_target!(|data: &[u8]| $crate::$name(data));

        #[cfg(not(fuzzing))]
        fn main() -> std::io::Result<()> {
            $crate::replay($crate::$name, std::env::args_os().skip(1))
        }
    };
}

/// Runs `target` on each of `files`.
///
/// # Errors
/// A file that cannot be read.
pub fn replay(
    target: fn(&[u8]),
    files: impl Iterator<Item = impl AsRef<std::path::Path>>,
) -> std::io::Result<()> {
    for file in files {
        target(&std::fs::read(file)?);
    }
    Ok(())
}
