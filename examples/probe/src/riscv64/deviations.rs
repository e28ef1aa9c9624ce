//! What the machines do otherwise than each other, or than the manual: a row each. A row that no
//! case of a run needs is a mistake, and ends the run.

use super::state::Simulator;

/// Something that a machine does otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deviation {
    /// htinst or mtinst holds an explicit access's instruction.
    Transforms,
    /// A and D of a guest's tables are set without the guest stage.
    UpdatesUnasked,
    /// MXR counts for reads of a guest's tables.
    MxrForTables,
    /// A guest stage's table outside memory refuses a guest's table.
    TablesOutsideRefuse,
    /// Access faults of a guest stage come with htval.
    AccessFaultsTell,
    /// HLVX is judged as a fetch, and its page faults in both stages are those of fetches.
    HlvxFetches,
    /// Pointers are masked under MXR too.
    MxrMasks,
    /// In VS-mode pointers are masked as menvcfg says, unless the last trap into M-mode came from a
    /// guest.
    VsMaskedByMenvcfg,
    /// HLV, HLVX and HSV read a guest's tables with menvcfg's ADUE and PBMTE.
    HlvByMenvcfg,
    /// A masked pointer of HLV or HSV is shifted right by the masked bits.
    HlvMasksShift,
}

/// A row: who does it, and what the manual says.
pub struct Row {
    pub deviation: Deviation,
    pub simulator: Simulator,
    /// The versions that it was seen in.
    pub version: &'static str,
    pub what: &'static str,
    /// The manual's words on it, in ours, and the section.
    pub manual: &'static str,
}

/// Every row.
pub const DEVIATIONS: &[Row] = &[
    Row {
        deviation: Deviation::Transforms,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "tinst holds the transformed instruction of explicit accesses",
        manual: "may be that, or 0 (Transformed Instruction or Pseudoinstruction)",
    },
    Row {
        deviation: Deviation::UpdatesUnasked,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "A and D of a guest’s tables are set without the guest stage",
        manual: "an update is an implicit store (Guest Physical Address Translation)",
    },
    Row {
        deviation: Deviation::MxrForTables,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "sstatus.MXR lets a guest’s tables be in execute-only pages",
        manual: "MXR is for explicit loads (Guest Physical Address Translation)",
    },
    Row {
        deviation: Deviation::TablesOutsideRefuse,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "a guest stage’s table outside memory refuses a guest’s",
        manual: "an access fault (Virtual Address Translation Process, step 2)",
    },
    Row {
        deviation: Deviation::AccessFaultsTell,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "access faults of a guest stage come with htval",
        manual: "zero, as it is no guest-page fault (Hypervisor Trap Value Register)",
    },
    Row {
        deviation: Deviation::HlvxFetches,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "HLVX is a fetch: no SUM, its page faults in both stages have cause 12",
        manual: "a load that needs X (Hypervisor Virtual-Machine Load and Store Instructions)",
    },
    Row {
        deviation: Deviation::MxrMasks,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "pointers are masked under MXR too",
        manual: "none while MXR is in effect for the access (Pointer Masking)",
    },
    Row {
        deviation: Deviation::VsMaskedByMenvcfg,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "in VS-mode menvcfg.PMM masks pointers while mstatus.MPV = 0",
        manual: "henvcfg.PMM does (Pointer Masking, Ssnpm)",
    },
    Row {
        deviation: Deviation::HlvByMenvcfg,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "HLV, HLVX and HSV read a guest’s tables without henvcfg’s ADUE and PBMTE",
        manual: "henvcfg is for the VS stage, whoever walks it (Hypervisor Environment Configuration)",
    },
    Row {
        deviation: Deviation::HlvMasksShift,
        simulator: Simulator::Qemu,
        version: "10.0",
        what: "a masked pointer of HLV or HSV is shifted right by the masked bits",
        manual: "copies of the highest bit that is left, unless Bare (Pointer Masking)",
    },
];

/// Some of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Deviations(u32);

impl Deviations {
    /// Those of a machine.
    pub fn of(simulator: Simulator) -> Self {
        let rows = DEVIATIONS.iter().filter(|row| row.simulator == simulator);
        Self(rows.fold(0, |all, row| all | 1 << row.deviation as u32))
    }

    pub fn has(self, deviation: Deviation) -> bool {
        self.0 >> deviation as u32 & 1 != 0
    }

    /// All but one.
    pub fn without(self, deviation: Deviation) -> Self {
        Self(self.0 & !(1 << deviation as u32))
    }

    /// The rows of these.
    pub fn rows(self) -> impl Iterator<Item = &'static Row> {
        DEVIATIONS.iter().filter(move |row| self.has(row.deviation))
    }
}
