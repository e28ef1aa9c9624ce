//! What the host is: for the person who reads the output.

use kvm_ppc::Kvm;
use kvm_ppc::host::{Host, Translation};
use pgtable::Level;
use pgtable_ppc64::kvm::kvm_ppc_rmmu_info;
use pgtable_ppc64::radix::Granule;

use crate::report::{Failure, Report};

/// Asks the host what it can do, says so, and returns it.
///
/// # Errors
/// It has no guests with radix trees, or takes other trees than ours.
pub fn describe(kvm: &Kvm, report: &mut Report) -> Result<Host, Failure> {
    report.section("host");
    let host = Host::ask(kvm)?;
    for (name, value) in host.facts() {
        report.fact(name, value);
    }
    if let Some(refused) = host.refuses(Translation::Radix) {
        return Err(refused.into());
    }
    trees(&host.radix.unwrap_or_default(), report)?;
    Ok(host)
}

fn trees(mmu: &kvm_ppc_rmmu_info, report: &mut Report) -> Result<(), Failure> {
    for geometry in mmu.supported_geometries() {
        let bits: Vec<_> = geometry.level_bits().map(|bits| bits.to_string()).collect();
        let text = format!(
            "pages of 2^{} bytes, {} bits: {} from the last level up",
            geometry.page_shift(),
            geometry.address_bits(),
            bits.join(" + ")
        );
        report.fact("radix tree", text);
    }
    let sizes: Vec<_> = mmu
        .supported_ap_encodings()
        .map(|it| format!("2^{} (AP {})", it.page_shift, it.ap))
        .collect();
    report.fact("tlbie page sizes", sizes.join(", "));
    for granule in [Granule::K4, Granule::K64] {
        let ours = granule.geometry();
        let widths =
            |widths: &mut dyn Iterator<Item = u32>| format!("{:?}", widths.collect::<Vec<_>>());
        let theirs =
            mmu.supported_geometries().find(|it| it.page_shift() == u32::from(ours.page_shift()));
        let theirs = theirs.map_or("no such tree".into(), |it| widths(&mut it.level_bits()));
        let ours = widths(&mut (0..ours.levels()).map(|level| ours.width(Level(level)).into()));
        report.equal("the host takes our trees", &format!("granule {granule:?}"), ours, theirs)?;
    }
    Ok(())
}
