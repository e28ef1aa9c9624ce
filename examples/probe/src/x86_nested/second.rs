//! What a second stage has to say to be probed: how the machine is given it, and how the machine
//! tells what came of a case.

use std::fmt::{self, Debug};

use pgtable::format::SecondStage;
use pgtable::{Hpa, Level, Position, Privilege};
use pgtable_x86::{Controls, Levels, Registers};

use super::records::Answer;

/// Which machine it is: the processor's rules are the manual's, except where the [`Known`] things
/// of an emulator say otherwise.
#[derive(Clone, Copy, Debug)]
pub struct Machine {
    /// The processor is AMD's: SVM. Otherwise Intel's: VMX.
    pub amd: bool,
    /// How many levels both stages have.
    pub levels: Levels,
    /// MAXPHYADDR.
    pub maxphyaddr: u8,
    /// 1-GiB pages, in both stages.
    pub gib_pages: bool,
    /// CR4.SMAP.
    pub smap: bool,
    /// EPT has accessed and dirty flags.
    pub ept_accessed_dirty: bool,
    /// In what the emulator is known to differ from the manual.
    pub known: Known,
}

/// In what an emulator is known to differ from the manual. Each is told at the end of the run, and
/// only there is anything but the manual taken for right.
#[derive(Clone, Copy, Debug, Default)]
pub struct Known {
    /// Bit 8 of PML4E and PML5E is not reserved (APM §5.3.3): such entries are left out.
    pub mbz_ignored: bool,
    /// Error codes with RSVD lack P. "RSVD can be set only if P is also set" (SDM §4.7; APM
    /// §8.4.2).
    pub rsvd_without_p: bool,
    /// The exit info of a nested page fault tells a fetch (I/D) though the host's EFER.NXE is off
    /// (APM §8.4.2: "only defined if the no-execute feature is enabled"): Bochs'
    /// `nested_page_fault` does not ask.
    pub fetch_told: bool,
    /// The exit qualification of a guest's page walk that EPT's accessed and dirty flags make a
    /// write lacks the read (bit 0). SDM table 28-7, note: "the processor sets both bit 0 and bit
    /// 1". Bochs' `translate_guest_physical` makes it a write, and no read.
    pub table_read_untold: bool,
    /// Bit 12 of an EPT entry that maps 2 MiB or 1 GiB is not reserved (SDM tables 29-3 and 29-5:
    /// bits 20:12 and 29:12 must be 0): Bochs takes it for the PAT bit that stands there in stage
    /// 1. Such entries are left out.
    pub bit_12_ignored: bool,
    /// A guest's accessed and dirty flags are updated without asking EPT for a write (SDM
    /// §29.3.3.2: it is a data write): Bochs' `update_access_dirty_PAE` writes to the host-physical
    /// address that the load was translated to. Such accesses are left out.
    pub updates_unasked: bool,
}

impl Known {
    /// The bits that make a difference to the manual, and none to the machine, if `word` has them
    /// and is an entry of the kind that they are reserved in.
    pub fn ignored(self, word: u64) -> u64 {
        let huge = word & 1 << 7 != 0;
        u64::from(self.mbz_ignored) << 8 | u64::from(self.bit_12_ignored && huge) << 12
    }

    /// Each by name, if the machine has it.
    pub fn named(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.mbz_ignored, "bit 8 of PML4E is not reserved: left out"),
            (self.rsvd_without_p, "error codes with RSVD lack P: compared without P"),
            (self.updates_unasked, "a guest's A and D are set in pages without W: left out"),
            (self.bit_12_ignored, "bit 12 of large EPT pages is not reserved: left out"),
            (self.fetch_told, "exit info tells of fetches though NXE is off: compared without I/D"),
            (
                self.table_read_untold,
                "page walks that are writes are no reads: compared without bit 0",
            ),
        ];
        all.into_iter().filter_map(|(there, name)| there.then_some(name))
    }
}

/// What comes of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// It was done; then the guest called the hypervisor.
    Called,
    /// The guest's own #PF.
    PageFault { code: u64, address: u64 },
    /// The guest's own #GP.
    GeneralProtection,
    /// A nested page fault or EPT violation: guest-physical address, EXITINFO1 or exit
    /// qualification, and the guest-linear address where the processor tells it.
    Nested { gpa: u64, info: u64, linear: Option<u64> },
    /// An EPT misconfiguration.
    Misconfigured { gpa: u64 },
    /// Anything else, in words.
    Odd(String),
}

impl End {
    /// The same, as far as a machine tells it rightly. `nxe` is the host's EFER.NXE.
    pub fn known(mut self, known: Known, nxe: bool) -> Self {
        let rsvd = |code: u64| if known.rsvd_without_p && code & 1 << 3 != 0 { 1 } else { 0 };
        let fetch = if known.fetch_told && !nxe { 1 << 4 } else { 0 };
        match &mut self {
            Self::PageFault { code, .. } => *code &= !rsvd(*code),
            Self::Nested { info, linear: None, .. } => *info &= !(rsvd(*info) | fetch),
            // A write at a guest's table.
            Self::Nested { info, linear: Some(_), .. }
                if known.table_read_untold && *info & 0x102 == 2 =>
            {
                *info &= !1;
            }
            _ => {}
        }
        self
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Called => f.write_str("done"),
            Self::PageFault { code, address } => {
                write!(f, "#PF, error code {code:#x}, CR2 {address:#x}")
            }
            Self::GeneralProtection => f.write_str("#GP"),
            Self::Nested { gpa, info, linear } => {
                write!(f, "stage 2 refuses {gpa:#x}: {info:#x}")?;
                linear.map_or(Ok(()), |linear| write!(f, ", linear {linear:#x}"))
            }
            Self::Misconfigured { gpa } => write!(f, "stage 2 is misconfigured for {gpa:#x}"),
            Self::Odd(text) => f.write_str(text),
        }
    }
}

/// How a guest begins.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// CR0, CR3, CR4, EFER.
    pub registers: Registers,
    /// EFLAGS.AC.
    pub ac: bool,
    /// RIP.
    pub rip: u64,
    /// CPL 3 or 0.
    pub privilege: Privilege,
}

/// Where the entries of 4-KiB pages stand.
pub const PAGE: Position = Position { level: Level(0), shift: 12 };

/// A second stage.
pub trait Second: SecondStage {
    /// Its controls.
    type Controls: Copy + Debug;

    /// The format of so many levels under these controls.
    fn under(levels: Levels, controls: Self::Controls) -> Self;

    /// The usual controls first, then the others.
    fn controls(machine: &Machine) -> Vec<Self::Controls>;

    /// The second stage's and the guest's fault as it is reported; `linear` is the address that the
    /// guest wanted to use.
    fn end(fault: &pgtable::Fault<Self>, linear: u64) -> End;

    /// The fields that all cases share: field, value, and 0 or the MSR that limits it.
    fn setup(&self) -> Vec<(u64, u64, u64)>;

    /// The fields that tell what came of a case: at most seven.
    fn read() -> Vec<u64>;

    /// The fields of one case.
    fn fields(&self, root: Hpa, start: &Start) -> Vec<(u64, u64)>;

    /// The hypervisor's own EFER.
    fn host_efer(&self) -> u64;

    /// What the machine says, and RIP.
    fn seen(answer: &Answer) -> (End, u64);

    /// R/W, X and what else an entry allows: all combinations of these bits are tried.
    const RIGHTS: &'static [u64];

    /// Other bits of a leaf of which all combinations are tried.
    const LEAF_BITS: &'static [u64];
}

/// The guest's controls that a machine has.
pub fn guest_controls(machine: &Machine) -> Controls {
    let Machine { amd, maxphyaddr, gib_pages, .. } = *machine;
    Controls { amd, maxphyaddr, gib_pages, ..Controls::new() }
}

/// log2 of the sizes of pages.
pub fn shifts(machine: &Machine) -> &'static [u8] {
    if machine.gib_pages { &[12, 21, 30] } else { &[12, 21] }
}

/// All combinations of `bits`.
pub fn combinations(bits: &[u64]) -> impl Iterator<Item = u64> {
    (0..1_u64 << bits.len()).map(|set| {
        bits.iter().enumerate().filter(|(at, _)| set >> at & 1 != 0).map(|(_, bit)| bit).sum()
    })
}
