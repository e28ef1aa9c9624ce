//! The crate is built for the model checker.

fn main() {
    println!("cargo::rustc-cfg=loom");
    println!("cargo::rerun-if-changed=../build.rs");
}
