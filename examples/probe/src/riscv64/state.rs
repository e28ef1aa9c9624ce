//! The hart's state that a case is carried out under, and which hart it is.

use arch_riscv64::{Controls, Extensions, GuestControls, Mode, Sv, SvX4};
use clap::ValueEnum;
use pgtable::{Gpa, Hpa, Privilege};

use super::records::{Csrs, Facts};

/// sstatus: SPP, SUM, MXR. hstatus: GVA, SPV, SPVP, and VSXL, which is 2 (64 bits).
const SPP: u64 = 1 << 8;
const SUM: u64 = 1 << 18;
const MXR: u64 = 1 << 19;
const GVA: u64 = 1 << 6;
const SPV: u64 = 1 << 7;
const SPVP: u64 = 1 << 8;
const VSXL: u64 = 2 << 32;
/// menvcfg and henvcfg: ADUE, PBMTE.
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

/// The hart.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// How many levels its first stage has,
    pub first: Mode,
    /// and its second.
    pub second: Mode,
    pub known: Known,
}

/// What a machine does otherwise than others. Each is told at the end of the run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// htinst (mtinst) holds the transformed instruction of an explicit load or store. A hart may
    /// do so, or leave 0 ("Transformed Instruction or Pseudoinstruction for mtinst or htinst").
    pub transforms: bool,
    /// The update of A or D in a guest's table is not judged by the guest stage, and sets no D
    /// there. The manual has it "checked as though for an implicit load or store" ("Guest Physical
    /// Address Translation"); QEMU's `get_physical_address` stores to the address that the load
    /// went to.
    pub updates_unasked: bool,
    /// sstatus.MXR lets the hart read a guest's tables from pages that are executable and not
    /// readable. The manual's MXR is for explicit loads; for QEMU's `get_physical_address` a load
    /// of a guest's table is one.
    pub mxr_for_tables: bool,
    /// If a table of the guest stage lies outside memory, a walk for a guest's table ends in a
    /// guest-page fault. The manual demands an access fault ("Virtual Address Translation Process",
    /// step 2); QEMU's `get_physical_address` reports every failure of that walk alike.
    pub tables_outside_refuse: bool,
    /// Access faults of a guest stage come with the guest-physical address in htval. The manual has
    /// zero there, as it is no guest-page fault ("Hypervisor Trap Value Register").
    pub access_faults_tell: bool,
}

impl Known {
    const fn of(simulator: Simulator) -> Self {
        let all = matches!(simulator, Simulator::Qemu);
        Self {
            transforms: all,
            updates_unasked: all,
            mxr_for_tables: all,
            tables_outside_refuse: all,
            access_faults_tell: all,
        }
    }

    /// Each by name, if the machine has it.
    pub fn named(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.transforms, "tinst holds the transformed instruction of explicit accesses"),
            (self.updates_unasked, "A and D of a guest’s tables are set without the guest stage"),
            (self.mxr_for_tables, "sstatus.MXR lets a guest’s tables be in execute-only pages"),
            (self.tables_outside_refuse, "a guest stage’s table outside memory refuses a guest’s"),
            (self.access_faults_tell, "access faults of a guest stage come with htval"),
        ];
        all.into_iter().filter_map(|(there, name)| there.then_some(name))
    }
}

impl Machine {
    pub const fn new(simulator: Simulator, first: Mode, second: Mode) -> Self {
        Self { first, second, known: Known::of(simulator) }
    }

    /// Whether the machine is the one that images are made for.
    pub fn has(facts: &Facts) -> bool {
        let mode = |word: u64, code: u64| word >> 60 == code;
        mode(facts.satp, 8)
            && mode(facts.satp_sv57, 10)
            && mode(facts.hgatp, 8)
            && mode(facts.hgatp_sv57, 10)
            && facts.menvcfg & facts.henvcfg & (ADUE | PBMTE) == ADUE | PBMTE
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
}

/// Where the trees stand.
#[derive(Clone, Copy, Debug)]
pub struct Roots {
    pub first: Gpa,
    /// The second stage's; `None`: one stage only.
    pub second: Option<Hpa>,
}

impl State {
    /// A and D are the hardware's, memory types are there.
    pub const USUAL: Self = {
        let extensions = Extensions { adue: true, pbmte: true, ..Extensions::new() };
        Self { sum: false, mxr: false, host_mxr: false, first: extensions, second: extensions }
    };

    /// The first stage: a guest's if there are two.
    pub fn first(&self, machine: &Machine, guest: bool) -> Sv {
        let Self { sum, mxr, host_mxr, first, second } = *self;
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

    /// The CSRs.
    pub fn csrs(&self, machine: &Machine, roots: Roots, privilege: Privilege) -> Csrs {
        let Self { sum, mxr, host_mxr, .. } = *self;
        let when = |wanted: bool, bits: u64| if wanted { bits } else { 0 };
        let environment = |it: Extensions| when(it.adue, ADUE) | when(it.pbmte, PBMTE);
        let supervisor = privilege == Privilege::Supervisor;
        let status = when(sum, SUM) | when(mxr, MXR);
        let first = self.first(machine, roots.second.is_some());
        let satp = first.satp(roots.first, 0).into_bits();
        let spp = when(supervisor, SPP);
        match roots.second {
            None => Csrs {
                satp,
                menvcfg: environment(self.first),
                sstatus: status | spp,
                ..Csrs::default()
            },
            Some(root) => Csrs {
                vsatp: satp,
                hgatp: self.second(machine).hgatp(root, 0).into_bits(),
                menvcfg: environment(self.second),
                henvcfg: environment(first.controls().extensions),
                sstatus: when(host_mxr, MXR) | spp,
                vsstatus: status,
                hstatus: SPV,
                medeleg: DELEGATED,
                ..Csrs::default()
            },
        }
    }
}

/// hstatus after a trap.
pub fn hstatus(guest: bool, privilege: Privilege, address_is_guests: bool) -> u64 {
    let supervisor = privilege == Privilege::Supervisor;
    let bits = if guest { SPV } else { 0 };
    let bits = bits | if guest && supervisor { SPVP } else { 0 };
    VSXL | bits | if address_is_guests { GVA } else { 0 }
}
