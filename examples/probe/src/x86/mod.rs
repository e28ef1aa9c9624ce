//! x86-64: a guest in long mode, behind 4-level trees and, where the CPU has them, 5-level ones.
//!
//! Each access is made by a vCPU. Its end (error code and CR2, or the place that was reached) and
//! every entry on its way afterwards (accessed, dirty) must be what
//! [`Walker::access`](pgtable::walk::Walker::access) made of a copy of the same tables. When all
//! accesses to an image of tables are done, all of it is compared, so a stray store shows.
//! KVM_TRANSLATE, the kernel's own walker, is a second witness, and of 32-bit and PAE paging the
//! only one here ([`kernel`]).
//!
//! What the guest's CPU cannot do (CPUID) is listed as not covered.

mod controls;
mod host;
mod image;
mod judge;
mod random;
mod systematic;

use std::error::Error;

use kvm_ioctls::Kvm;
use kvm_x86::Features;

use crate::Asked;
use crate::report::Report;
use crate::x86_legacy::kernel;
use image::Machine;
use judge::Judge;

/// Probes: all systematic cases, and as many random ones as are asked for.
pub fn run(asked: &Asked, report: &mut Report) -> Result<(), Box<dyn Error>> {
    if asked.only.is_some() {
        return Err(
            "the accesses to an image leave marks for those that follow: none can be had alone"
                .into(),
        );
    }
    let kvm = Kvm::new().map_err(|error| format!("/dev/kvm is not usable: {error}"))?;
    let (features, _) = Features::supported(&kvm)?;
    report.fact("a guest's CPU", features);
    kernel::run(&kvm, asked, report)?;
    let machine = Machine::new(&features)?;
    let mut judge = Judge::new(&kvm, &machine, features)?;
    for &levels in features.levels() {
        for controls in controls::each(&features) {
            systematic::run(&mut judge, levels, controls, report)?;
        }
    }
    random::run(&mut judge, &features, (asked.cases, asked.seed), report)?;
    judge.tell(report);
    for (name, there) in features.named() {
        if !there {
            report.fact("not covered", format!("{name}: this CPU has none"));
        }
    }
    // One Linux host (kvm_pvm) has mappings of its own there, which a guest's user mode meets; the
    // microVM looks there on all others.
    report.fact("not covered", "PML4 slot 256 of 4-level trees");
    Ok(())
}
