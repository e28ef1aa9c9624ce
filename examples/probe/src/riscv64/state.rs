//! The hart's state that a case is carried out under, and which hart it is.

use clap::ValueEnum;
use pgtable::{Gpa, Hpa, Privilege};
use pgtable_riscv64::{Controls, Extensions, GuestControls, Mode, Registers, Sv, SvX4};

use super::deviations::Deviations;
use super::records::{Csrs, Facts};

/// sstatus: SPP, SUM, MXR. hstatus: GVA, SPV, SPVP, and VSXL, which is 2 (64 bits).
const SPP: u64 = 1 << 8;
const SUM: u64 = 1 << 18;
pub const MXR: u64 = 1 << 19;
const GVA: u64 = 1 << 6;
const SPV: u64 = 1 << 7;
const SPVP: u64 = 1 << 8;
const VSXL: u64 = 2 << 32;
/// menvcfg, henvcfg and senvcfg: PMM, ADUE, PBMTE.
pub const PMM: u64 = 3 << PMM_SHIFT;
const PMM_SHIFT: u8 = 32;
const ADUE: u64 = 1 << 61;
const PBMTE: u64 = 1 << 62;
/// The exceptions that a hypervisor leaves to HS-mode: access faults, illegal instructions,
/// environment calls of a guest, page faults and guest-page faults.
const DELEGATED: u64 =
    1 << 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 10 | 0b1011 << 12 | 0b1011 << 20;

/// Whose MMU is the judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Simulator {
    /// QEMU 10
    #[default]
    Qemu,
    /// Spike, riscv-isa-sim
    Spike,
}

/// Who sets A and D.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Updates {
    /// Hardware, where menvcfg and henvcfg say so: Svade and Svadu.
    #[default]
    Adue,
    /// Software: Svade alone; ADUE is read-only zero.
    Never,
}

/// The hart.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// How many levels its first stage has,
    pub first: Mode,
    /// and its second.
    pub second: Mode,
    pub simulator: Simulator,
    pub updates: Updates,
}

impl Machine {
    /// What it does otherwise than others, or than the manual.
    pub fn deviations(&self) -> Deviations {
        Deviations::of(self.simulator)
    }

    /// What registers do not say.
    pub fn hart(&self) -> Extensions {
        Extensions { svnapot: true, ..Extensions::new() }
    }

    /// Whether the machine is the one that images are made for.
    pub fn has(&self, facts: &Facts) -> bool {
        let mode = |word: u64, code: u64| word >> 60 == code;
        let adue = if self.updates == Updates::Adue { ADUE } else { 0 };
        let masks = facts.menvcfg & facts.henvcfg & facts.senvcfg;
        mode(facts.satp, 8)
            && mode(facts.satp_sv57, 10)
            && mode(facts.hgatp, 8)
            && mode(facts.hgatp_sv57, 10)
            && facts.menvcfg & facts.henvcfg & (ADUE | PBMTE) == adue | PBMTE
            && masks & PMM == PMM
    }
}

/// What an access depends on besides the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// sstatus.SUM, or vsstatus.SUM with two stages; MXR likewise.
    pub sum: bool,
    pub mxr: bool,
    /// sstatus.MXR with two stages.
    pub host_mxr: bool,
    /// What entries of the first stage may say. With two stages its ADUE and PBMTE are henvcfg's,
    /// which are clear while menvcfg's are.
    pub first: Extensions,
    /// The same for the second stage.
    pub second: Extensions,
    /// PMM of supervisors' accesses and of users': menvcfg's or henvcfg's, and senvcfg's.
    pub masks: [u8; 2],
}

/// Where the trees stand; `None`: the stage is Bare.
#[derive(Clone, Copy, Debug)]
pub struct Roots {
    pub first: Option<Gpa>,
    pub second: Option<Hpa>,
    /// VS- and VU-mode: vsatp and hgatp count. Otherwise satp.
    pub guest: bool,
}

impl State {
    /// A and D are the hardware's, memory types are there, no pointer is masked.
    pub const USUAL: Self = {
        let extensions = Extensions { adue: true, pbmte: true, svnapot: true, ..Extensions::new() };
        Self {
            sum: false,
            mxr: false,
            host_mxr: false,
            first: extensions,
            second: extensions,
            masks: [0; 2],
        }
    };

    /// The same with menvcfg.ADUE and henvcfg.ADUE as the machine can have them.
    pub fn on(self, machine: &Machine) -> Self {
        let of = |it: Extensions| match machine.updates {
            Updates::Adue => it,
            Updates::Never => Extensions { adue: false, ..it },
        };
        Self { first: of(self.first), second: of(self.second), ..self }
    }

    /// The first stage: a guest's if there are two.
    pub fn first(&self, machine: &Machine, guest: bool) -> Sv {
        let Self { sum, mxr, host_mxr, first, second, .. } = *self;
        // sstatus.MXR applies to both stages.
        let mxr = mxr || guest && host_mxr;
        let extensions = if guest {
            let (adue, pbmte) = (first.adue && second.adue, first.pbmte && second.pbmte);
            Extensions { adue, pbmte, ..first }
        } else {
            first
        };
        Sv::new(machine.first, Controls { sum, mxr, extensions })
    }

    /// The second stage.
    pub fn second(&self, machine: &Machine) -> SvX4 {
        SvX4::new(machine.second, GuestControls { mxr: self.host_mxr, extensions: self.second })
    }

    /// The CSRs. `inside`: the access is made in the mode whose stages these are, and not by
    /// HS-mode with an instruction for a guest's memory.
    pub fn csrs(
        &self,
        machine: &Machine,
        roots: Roots,
        privilege: Privilege,
        inside: bool,
    ) -> Csrs {
        let Self { sum, mxr, host_mxr, masks: [supervisors, users], .. } = *self;
        let when = |wanted: bool, bits: u64| if wanted { bits } else { 0 };
        let by_register = machine.updates == Updates::Adue;
        let environment =
            |it: Extensions| when(it.adue && by_register, ADUE) | when(it.pbmte, PBMTE);
        let [mask, senvcfg] = [supervisors, users].map(|pmm| u64::from(pmm) << PMM_SHIFT);
        let supervisor = privilege == Privilege::Supervisor;
        let status = when(sum, SUM) | when(mxr, MXR);
        let first = self.first(machine, roots.guest);
        let satp = roots.first.map_or(0, |root| first.satp(root, 0).into_bits());
        if !roots.guest {
            return Csrs {
                satp,
                menvcfg: environment(self.first) | mask,
                senvcfg,
                sstatus: status | when(supervisor, SPP),
                ..Csrs::default()
            };
        }
        let second = self.second(machine);
        Csrs {
            vsatp: satp,
            hgatp: roots.second.map_or(0, |root| second.hgatp(root, 0).into_bits()),
            menvcfg: environment(self.second),
            henvcfg: environment(first.controls().extensions) | mask,
            senvcfg,
            sstatus: when(host_mxr, MXR) | when(supervisor || !inside, SPP),
            vsstatus: status,
            hstatus: when(inside, SPV) | when(supervisor, SPVP),
            medeleg: DELEGATED,
            ..Csrs::default()
        }
    }
}

/// The registers of the library that these CSRs are.
pub fn registers(csrs: &Csrs) -> Registers {
    let Csrs { satp, vsatp, hgatp, menvcfg, henvcfg, senvcfg, .. } = *csrs;
    let (sstatus, vsstatus, hstatus) = (csrs.sstatus, csrs.vsstatus, csrs.hstatus | VSXL);
    Registers { satp, sstatus, menvcfg, senvcfg, vsatp, vsstatus, hgatp, hstatus, henvcfg }
}

/// hstatus after a trap.
pub fn hstatus(inside_guest: bool, supervisor: bool, address_is_guests: bool) -> u64 {
    let when = |wanted: bool, bits: u64| if wanted { bits } else { 0 };
    VSXL | when(inside_guest, SPV) | when(supervisor, SPVP) | when(address_is_guests, GVA)
}
