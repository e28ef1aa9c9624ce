//! The second stage as its owner uses it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cases;
mod host;

use pgtable_ppc64::radix::{Granule, PartitionScoped, RcPolicy};

// Against the kit's list of leaves, with R and C by hardware and by software.
pgtable_conformance::second_stage! {
    k4: PartitionScoped::new(Granule::K4);
    k4_records: PartitionScoped::new(Granule::K4).with_rc(RcPolicy::HardwareUpdate);
    k64: PartitionScoped::new(Granule::K64);
    k64_records: PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
}
