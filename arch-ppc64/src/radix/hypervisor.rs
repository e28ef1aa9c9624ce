//! What the hypervisor hears when the second stage of a guest's access fails: HDSI and HISI with
//! HDAR and ASDR.

use core::fmt;

use pgtable::{Fault, Gpa, Gva};

use super::format::PartitionScoped;
use crate::interrupt::{Interrupt, Vector};

/// A storage interrupt to the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HypervisorFault {
    /// HDSI or HISI, and what HDSISR or HSRR1 says.
    pub interrupt: Interrupt,
    /// What HDAR (or HSRR0) holds: the effective address of the guest's access.
    pub hdar: Gva,
    /// What ASDR holds: the guest real address that does not translate, down to 4 KiB.
    pub asdr: Gpa,
}

impl HypervisorFault {
    /// The second stage refused what the guest's access to `address` came to.
    #[must_use]
    pub fn of_access(fault: &Fault<PartitionScoped>, address: Gva) -> Self {
        Self { interrupt: fault.arch, hdar: address, asdr: Gpa::new(fault.address.get() & !0xfff) }
    }

    /// The second stage refused a table on the way: the guest's process table, or one of its tree
    /// for `address`. An HDSI whatever the access was, and, since tables are read by loads, never
    /// marked as a store.
    #[must_use]
    pub fn of_table(fault: &Fault<PartitionScoped>, address: Gva) -> Self {
        Self { interrupt: fault.arch.of_guest_table(), ..Self::of_access(fault, address) }
    }
}

impl fmt::Display for HypervisorFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asdr = self.asdr.get();
        match self.interrupt.vector {
            Vector::HypervisorInstructionStorage => {
                write!(f, "{}, HSRR0 {:#x}", self.interrupt, self.hdar)
            }
            _ => write!(f, "{}, HDAR {:#x}", self.interrupt, self.hdar),
        }?;
        write!(f, ", ASDR {asdr:#x}")
    }
}

impl core::error::Error for HypervisorFault {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::Granule;
    use core::sync::atomic::AtomicU64;
    use pgtable::memory::DirectMap;
    use pgtable::walk::Walker;
    use pgtable::{Access, Hpa};
    extern crate std;
    use std::string::ToString;
    use std::vec::Vec;

    #[test]
    fn as_the_hardware_reports() {
        let words: Vec<_> = (0..8192).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Hpa::new(0));
        let walker = Walker::new(PartitionScoped::new(Granule::K64), memory, Hpa::new(0));
        let fault = |access| walker.translate(Gpa::new(0x1_2345), access).unwrap_err();
        let address = Gva::new(0xc000_0000_0000_0678);
        for (seen, want) in [
            (
                HypervisorFault::of_access(&fault(Access::WRITE), address),
                "HDSI 0xe00, HDSISR 0x42000000: no translation, store, HDAR 0xc000000000000678, ASDR 0x12000",
            ),
            (
                HypervisorFault::of_access(&fault(Access::FETCH), address),
                "HISI 0xe20, HSRR1 0x40000000: no translation, HSRR0 0xc000000000000678, ASDR 0x12000",
            ),
            (
                HypervisorFault::of_table(&fault(Access::FETCH), address),
                "HDSI 0xe00, HDSISR 0x40020000: no translation, table access, HDAR 0xc000000000000678, ASDR 0x12000",
            ),
            (
                HypervisorFault::of_table(&fault(Access::WRITE), address),
                "HDSI 0xe00, HDSISR 0x40020000: no translation, table access, HDAR 0xc000000000000678, ASDR 0x12000",
            ),
        ] {
            assert_eq!(seen.to_string(), want);
        }
    }
}
