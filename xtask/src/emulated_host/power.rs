//! The POWER hosts: bare metal and logical partitions (LPARs), each with the kernels that run KVM
//! on it.
//!
//! On bare metal KVM-HV runs in hypervisor state. In an LPAR it asks the hypervisor to run its
//! guests: by PAPR's nested API v2 (what PowerVM has) or by Linux's own older API v1. Guests of an
//! LPAR have radix trees only.

use clap::ValueEnum;

use super::Platform;
use crate::toolbox::table::{
    QEMU_PPC, SYSTEM_PPC64EL, SYSTEM_PPC64EL_6_12, SYSTEM_PPC64EL_6_12_4K, Tool,
};

/// A POWER host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Host {
    /// POWER9, bare metal
    #[default]
    Power9,
    /// POWER10, bare metal
    Power10,
    /// POWER9 LPAR, nested API v2
    Power9Lpar,
    /// POWER10 LPAR, nested API v2
    Power10Lpar,
    /// POWER11 LPAR, nested API v2
    Power11Lpar,
    /// POWER10 LPAR, nested API v1
    Power10LparV1,
}

/// A host's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HostKernel {
    /// Debian 12's, with pages of 64 KiB
    #[value(name = "6.1")]
    V6_1,
    /// Debian 13's, with pages of 64 KiB
    #[value(name = "6.12")]
    V6_12,
    /// Debian 13's, with pages of 4 KiB
    #[value(name = "6.12-4k")]
    V6_12With4K,
}

/// How KVM runs guests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Api {
    /// Itself, in hypervisor state.
    Bare,
    /// `H_ENTER_NESTED`.
    V1,
    /// `H_GUEST_RUN_VCPU`.
    V2,
}

/// What a host is.
struct Row {
    name: &'static str,
    api: Api,
    machine: &'static str,
    /// The first release of QEMU that has it, of those that there are packages of.
    qemu: [u32; 2],
}

const fn row(name: &'static str, api: Api, machine: &'static str, qemu: [u32; 2]) -> Row {
    Row { name, api, machine, qemu }
}

/// Without the IPMI controller a powernv machine can’t power itself off: the firmware asks that.
#[rustfmt::skip]
const ROWS: &[(Host, Row)] = &[
    (Host::Power9, row("POWER9", Api::Bare, "-machine powernv9 -cpu POWER9 -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10", [7, 2])),
    (Host::Power10, row("POWER10", Api::Bare, "-machine powernv10 -cpu POWER10 -device ipmi-bmc-sim,id=bmc0 -device isa-ipmi-bt,bmc=bmc0,irq=10", [7, 2])),
    (Host::Power9Lpar, row("POWER9 LPAR (nested API v2)", Api::V2, "-machine pseries,cap-nested-papr=on -cpu POWER9", [10, 0])),
    (Host::Power10Lpar, row("POWER10 LPAR (nested API v2)", Api::V2, "-machine pseries,cap-nested-papr=on -cpu POWER10", [10, 0])),
    (Host::Power11Lpar, row("POWER11 LPAR (nested API v2)", Api::V2, "-machine pseries,cap-nested-papr=on -cpu POWER11", [10, 0])),
    (Host::Power10LparV1, row("POWER10 LPAR (nested API v1)", Api::V1, "-machine pseries,cap-nested-hv=on -cpu POWER10", [7, 2])),
];

impl Host {
    fn row(self) -> &'static Row {
        let found = ROWS.iter().find(|(host, _)| *host == self);
        &found.unwrap_or(&ROWS[0]).1
    }

    /// The kernel that it boots unless another is asked for.
    pub fn usual_kernel(self) -> HostKernel {
        match self.row().api {
            Api::V2 => HostKernel::V6_12,
            Api::Bare | Api::V1 => HostKernel::V6_1,
        }
    }

    /// Why KVM does not run on this host with this kernel, if it does not.
    pub fn refuses(self, kernel: HostKernel) -> Option<String> {
        let old = self.row().api == Api::V2 && kernel == HostKernel::V6_1;
        let name = self.row().name;
        old.then(|| format!("{name}: KVM of Linux 6.1 knows no nested API v2 (6.12 does)"))
    }

    /// Whether guests may have hashed page tables.
    pub fn has_hashed_guests(self) -> bool {
        self.row().api == Api::Bare
    }

    /// As a person calls it.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The machine with its usual kernel.
    pub fn usual(self) -> Platform {
        self.platform(self.usual_kernel())
    }

    /// The machine with a kernel.
    pub fn platform(self, kernel: HostKernel) -> Platform {
        let Row { name, machine, qemu, .. } = *self.row();
        let (described, system) = kernel.row();
        Platform {
            name,
            qemu: "qemu-system-ppc64",
            emulator: &QEMU_PPC,
            oldest_qemu: qemu,
            machine,
            console: "hvc0",
            kernel: described,
            system,
            image: "vmlinux-",
            modules: &["kvm", "kvm-hv"],
        }
    }
}

impl HostKernel {
    fn row(self) -> (&'static str, &'static Tool) {
        match self {
            Self::V6_1 => ("Linux 6.1, pages of 64 KiB", &SYSTEM_PPC64EL),
            Self::V6_12 => ("Linux 6.12, pages of 64 KiB", &SYSTEM_PPC64EL_6_12),
            Self::V6_12With4K => ("Linux 6.12, pages of 4 KiB", &SYSTEM_PPC64EL_6_12_4K),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_host_has_one_row_and_a_kernel_that_runs_kvm() {
        for &host in Host::value_variants() {
            assert_eq!(ROWS.iter().filter(|(it, _)| *it == host).count(), 1, "{host:?}");
            assert_eq!(host.refuses(host.usual_kernel()), None, "{host:?}");
            let platform = host.usual();
            let lpar = platform.machine.contains("pseries");
            assert_eq!(host.has_hashed_guests(), !lpar, "{host:?}");
        }
        assert_eq!(ROWS.len(), Host::value_variants().len());
    }

    #[test]
    fn names_on_the_command_line() {
        let names = |names: &mut dyn Iterator<Item = Option<clap::builder::PossibleValue>>| {
            names
                .map(|it| it.map_or_else(String::new, |it| it.get_name().to_owned()))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let hosts = names(&mut Host::value_variants().iter().map(ValueEnum::to_possible_value));
        let expected = "power9 power10 power9-lpar power10-lpar power11-lpar power10-lpar-v1";
        assert_eq!(hosts, expected);
        let kernels =
            names(&mut HostKernel::value_variants().iter().map(ValueEnum::to_possible_value));
        assert_eq!(kernels, "6.1 6.12 6.12-4k");
    }
}
