//! Assembles what keeps vector registers over `KVM_RUN` when the target is POWER.

fn main() {
    let source = "src/keep_vectors.S";
    println!("cargo::rerun-if-changed={source}");
    let target = |key: &str| std::env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if target("ARCH") == "powerpc64" && target("ENDIAN") == "little" {
        cc::Build::new().file(source).flag("-mcpu=power9").compile("kvm_ppc");
    }
}
