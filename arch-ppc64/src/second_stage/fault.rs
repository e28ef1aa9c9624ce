//! What to do about an access that the second stage refused: a pure function of the interrupt and
//! the memory slots.
//!
//! In this order, which is that of Linux (`kvmppc_book3s_radix_page_fault`):
//!
//! | the interrupt says | and | so |
//! | --- | --- | --- |
//! | nothing (the canary is still there) | | retry |
//! | unsupported tables | | bad |
//! | bad access | | DSI, cause unchanged |
//! | anything | no slot; a table, or R or C | DSI, cause unchanged |
//! | anything | no slot; a fetch | bad: KVM retries it for ever |
//! | anything | no slot | emulate the access |
//! | store | slot is read-only | DSI: store, protection |
//! | R or C missing | | set them; if something else was wrong too, or there is no leaf, go on |
//! | anything | | fault the page in |

use pgtable::second_stage::MemorySlot;
use pgtable::{AccessKind, Gpa, Gva};

use crate::interrupt::{Status, Vector};
use crate::radix::HypervisorFault;

/// What a hypervisor puts into HDSISR before it enters the guest, to recognise an interrupt by
/// which hardware did not write it.
pub const HDSISR_CANARY: Status = Status::from_bits(0x7fff);

/// The address bits of ASDR.
const ASDR: u64 = 0x0fff_ffff_ffff_f000;

/// Why nobody can do anything about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Reason {
    /// Hardware does not support the tables: ours, or those that the guest made.
    UnsupportedTables,
    /// A fetch from where there is no memory: nobody can emulate it.
    FetchFromDevice,
}

/// What is to be done about a fault of the second stage.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// Nothing: let the guest go on.
    Retry,
    /// Nobody can help.
    Bad(Reason),
    /// Give the guest a DSI.
    ReflectDsi {
        /// What its DAR holds.
        dar: Gva,
        /// What its DSISR holds.
        dsisr: Status,
    },
    /// Emulate the access: no memory is there.
    Mmio {
        /// The address.
        gpa: Gpa,
        /// Whether it is a store.
        store: bool,
    },
    /// Set R, and for a store C ([`record`](super::SecondStage::record)). If that
    /// cannot be done, or unless it is all that is `missing`, go on as for
    /// [`Instantiate`](Self::Instantiate).
    SetRc {
        /// The address.
        gpa: Gpa,
        /// The access.
        kind: AccessKind,
        /// The interrupt names no other cause.
        alone: bool,
    },
    /// Fault the page in ([`SecondStage::fault_in`](super::SecondStage::fault_in)).
    Instantiate {
        /// The address.
        gpa: Gpa,
        /// The access.
        kind: AccessKind,
    },
}

/// The interrupt as a hypervisor reads it: what DSISR would say, the access, and the address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StorageFault {
    /// The cause in DSISR's terms.
    pub status: Status,
    /// What the access did to the address that was refused. (Of a table that is being read: a
    /// load.)
    pub kind: AccessKind,
    /// The guest real address that was refused. For a table its low 12 bits are not known, and
    /// zero.
    pub gpa: Gpa,
    /// The effective address of the guest's access.
    pub ea: Gva,
}

impl StorageFault {
    /// What the hardware reported.
    ///
    /// A fetch that had to write a table entry and could not (HSRR1 0x00010000) counts as a store
    /// to that table.
    #[must_use]
    pub fn of(fault: &HypervisorFault) -> Self {
        let fetch = fault.interrupt.vector == Vector::HypervisorInstructionStorage;
        let reported = fault.interrupt.status;
        let store = reported.store() || (fetch && reported.update_failed());
        let status =
            if fetch { reported.with_store(store).with_update_failed(false) } else { reported };
        let kind = match (store, fetch && !status.table_access()) {
            (true, _) => AccessKind::Write,
            (false, true) => AccessKind::Fetch,
            (false, false) => AccessKind::Read,
        };
        let within = if status.table_access() { 0 } else { fault.hdar.get() & 0xfff };
        Self { status, kind, gpa: Gpa::new((fault.asdr.get() & ASDR) | within), ea: fault.hdar }
    }

    /// What is to be done about it, given the memory slot at an address.
    pub fn action(&self, slot: impl FnOnce(Gpa) -> Option<MemorySlot>) -> Action {
        let Self { status, ea, .. } = *self;
        if status == HDSISR_CANARY {
            return Action::Retry;
        }
        if status.bad_configuration() {
            return Action::Bad(Reason::UnsupportedTables);
        }
        if status.bad_access() {
            return Action::ReflectDsi { dar: ea, dsisr: status };
        }
        self.action_at(self.gpa, slot)
    }

    /// The same, from where the address matters; it is at `gpa` that memory is looked for.
    pub(crate) fn action_at(
        &self,
        gpa: Gpa,
        slot: impl FnOnce(Gpa) -> Option<MemorySlot>,
    ) -> Action {
        let Self { status, kind, ea, .. } = *self;
        let store = kind == AccessKind::Write;
        let Some(slot) = slot(gpa) else {
            return match kind {
                _ if status.table_access() || status.reference_change() => {
                    Action::ReflectDsi { dar: ea, dsisr: status }
                }
                AccessKind::Fetch => Action::Bad(Reason::FetchFromDevice),
                AccessKind::Read | AccessKind::Write => Action::Mmio { gpa, store },
            };
        };
        if slot.read_only && store {
            return Action::ReflectDsi {
                dar: ea,
                dsisr: Status::new().with_store(true).with_protection(true),
            };
        }
        if status.reference_change() {
            return Action::SetRc { gpa, kind, alone: self.nothing_else() };
        }
        Action::Instantiate { gpa, kind }
    }

    /// Whether R or C is all that is missing.
    pub(crate) fn nothing_else(&self) -> bool {
        self.status.with_store(false).with_reference_change(false) == Status::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interrupt::Interrupt;

    fn slot(gpa: Gpa) -> Option<MemorySlot> {
        let memory = MemorySlot {
            gpa: Gpa::new(0),
            bytes: 1 << 30,
            hva: 0,
            read_only: false,
            logged: false,
        };
        let rom = MemorySlot { gpa: Gpa::new(1 << 30), read_only: true, ..memory };
        [memory, rom].into_iter().find(|slot| slot.contains(gpa))
    }

    /// Every row of the table, in its order, with its precedence over the rows below.
    #[test]
    fn every_row() {
        use AccessKind::{Fetch, Read, Write};
        const EA: u64 = 0xc000_0000_0000_0678;
        const MEMORY: u64 = 0x1234_5000;
        const ROM: u64 = 0x4000_5000;
        const NONE: u64 = 0x9000_0000;
        let dsi =
            |dsisr: u32| Action::ReflectDsi { dar: Gva::new(EA), dsisr: Status::from_bits(dsisr) };
        let mmio = |store| Action::Mmio { gpa: Gpa::new(NONE | 0x678), store };
        let new = |gpa, kind| Action::Instantiate { gpa: Gpa::new(gpa), kind };
        let set = |gpa, kind, alone| Action::SetRc { gpa: Gpa::new(gpa), kind, alone };
        let bad = Action::Bad(Reason::UnsupportedTables);
        let (hdsi, hisi) = (Vector::HypervisorDataStorage, Vector::HypervisorInstructionStorage);
        for (name, vector, status, asdr, want) in [
            ("canary", hdsi, 0x7fff, NONE, Action::Retry),
            ("unsupported", hdsi, 0x0008_0000, MEMORY, bad),
            ("unsupported before all else", hdsi, 0x4e0e_0000, NONE, bad),
            ("bad access", hdsi, 0x0400_0000, MEMORY, dsi(0x0400_0000)),
            ("bad access before slots", hdsi, 0x4600_0000, NONE, dsi(0x4600_0000)),
            ("no slot, load", hdsi, 0x4000_0000, NONE, mmio(false)),
            ("no slot, store", hdsi, 0x4200_0000, NONE, mmio(true)),
            ("no slot, fetch", hisi, 0x4000_0000, NONE, Action::Bad(Reason::FetchFromDevice)),
            ("no slot, table", hdsi, 0x4002_0000, NONE, dsi(0x4002_0000)),
            ("no slot, table, for a store", hdsi, 0x4202_0000, NONE, dsi(0x4202_0000)),
            ("no slot, R/C", hdsi, 0x0204_0000, NONE, dsi(0x0204_0000)),
            ("no slot, R/C, fetch", hisi, 0x0004_0000, NONE, dsi(0x0004_0000)),
            ("rom, store", hdsi, 0x4200_0000, ROM, dsi(0x0a00_0000)),
            ("rom, store, R/C", hdsi, 0x0204_0000, ROM, dsi(0x0a00_0000)),
            ("rom, load", hdsi, 0x4000_0000, ROM, new(ROM | 0x678, Read)),
            ("rom, fetch", hisi, 0x4000_0000, ROM, new(ROM | 0x678, Fetch)),
            ("rom, load, R", hdsi, 0x0004_0000, ROM, set(ROM | 0x678, Read, true)),
            ("R", hdsi, 0x0004_0000, MEMORY, set(MEMORY | 0x678, Read, true)),
            ("C", hdsi, 0x0204_0000, MEMORY, set(MEMORY | 0x678, Write, true)),
            ("R, fetch", hisi, 0x0004_0000, MEMORY, set(MEMORY | 0x678, Fetch, true)),
            ("C and protection", hdsi, 0x0a04_0000, MEMORY, set(MEMORY | 0x678, Write, false)),
            ("R and no translation", hdsi, 0x4004_0000, MEMORY, set(MEMORY | 0x678, Read, false)),
            ("R of a table's page", hdsi, 0x0006_0000, MEMORY, set(MEMORY, Read, false)),
            ("load", hdsi, 0x4000_0000, MEMORY, new(MEMORY | 0x678, Read)),
            ("store", hdsi, 0x4200_0000, MEMORY, new(MEMORY | 0x678, Write)),
            ("store, protection", hdsi, 0x0a00_0000, MEMORY, new(MEMORY | 0x678, Write)),
            ("fetch", hisi, 0x4000_0000, MEMORY, new(MEMORY | 0x678, Fetch)),
            ("fetch, no execute", hisi, 0x1000_0000, MEMORY, new(MEMORY | 0x678, Fetch)),
            ("table", hdsi, 0x4002_0000, MEMORY, new(MEMORY, Read)),
            (
                "table of a fetch that was to be written",
                hisi,
                0x0003_0000,
                MEMORY,
                new(MEMORY, Write),
            ),
            ("the same in rom", hisi, 0x0003_0000, ROM, dsi(0x0a00_0000)),
            (
                "top bits of ASDR",
                hdsi,
                0x4000_0000,
                0xf000_0000_0000_0fff | MEMORY,
                new(MEMORY | 0x678, Read),
            ),
        ] {
            let interrupt = Interrupt { vector, status: Status::from_bits(status) };
            let fault = HypervisorFault { interrupt, hdar: Gva::new(EA), asdr: Gpa::new(asdr) };
            assert_eq!(StorageFault::of(&fault).action(slot), want, "{name}");
        }
    }
}
