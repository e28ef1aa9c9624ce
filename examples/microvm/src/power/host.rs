//! What the host is: for the person who reads the output.

use std::fs;

use arch_ppc64::kvm::PpcMmu;
use arch_ppc64::radix::Granule;
use kvm_ppc::{Cap, Kvm};
use pgtable::Level;
use probe_guest::ppc64::ProbeGuest;

use crate::report::{Failure, Report};

/// Describes the host, and what its MMU offers to guests.
pub fn describe(kvm: &Kvm, guest: &ProbeGuest, report: &mut Report) -> Result<(), Failure> {
    report.section("host");
    let kernel =
        fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_else(|_| "unknown".into());
    report.fact("kernel", kernel.trim());
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    for key in ["cpu", "platform", "MMU"] {
        let value = cpuinfo
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.trim() == key);
        if let Some((_, value)) = value {
            report.fact(key, value.trim());
        }
    }
    let offers = [("radix", Cap::PpcMmuRadix), ("hash", Cap::PpcMmuHashV3)];
    for (name, cap) in offers {
        report.fact(
            &format!("KVM {name} v3"),
            if kvm.check_extension(cap)? > 0 { "yes" } else { "no" },
        );
    }
    let mmu = guest.vm().get_rmmu_info()?;
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
