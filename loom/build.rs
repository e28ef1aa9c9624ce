//! The crate is built for the model checker. The name is not `loom`, which an embedder sets for all
//! crates when it checks its own.

fn main() {
    println!("cargo::rustc-cfg=pgtable_loom");
    println!("cargo::rerun-if-changed=../build.rs");
}
