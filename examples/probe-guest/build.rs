//! Assembles the guest’s code when the target is POWER.
//!
//! A file of its own and not `global_asm!`: inline assembly for POWER is not stable in the oldest
//! Rust that this workspace builds with.

fn main() {
    let source = "src/ppc64/guest.S";
    println!("cargo::rerun-if-changed={source}");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("ARCH") == "powerpc64" && target("ENDIAN") == "little" {
        cc::Build::new().file(source).flag("-mcpu=power9").compile("probe_guest");
    }
}
