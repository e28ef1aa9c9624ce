//! The test stand: the guest, its memory, and the kernel's tree, which no case touches.
//!
//! The page of stubs is mapped by process 0's tree in quadrant 3, so a case may do what it likes to
//! the tree of the process that runs. A case's words are put into memory before it and taken out
//! after; in between the guest runs `tlbie`, so that no two cases meet.

use std::error::Error;
use std::time::Duration;

use kvm_ppc::Kvm;
use pgtable::{Access, AccessKind, Gpa, Gva, Stage1};
use pgtable_ppc64::radix::{Amr, Granule, Iamr, ProcessScoped, ProcessTableWord, Ric, Rs, Tlbie};
use probe_guest::Probe;
use probe_guest::ppc64::{Outcome, ProbeGuest, Start, StubsAt};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::case::{C, Case, L, R, Shape, Slot, TREE, V};
use super::layout::{KERNEL, REGIONS, STUBS, is_data, prte};
use super::prediction::Prediction;
use super::seen::Seen;
use super::tables::Tables;
use crate::ppc64::end::{End, Hangs};
use crate::ppc64::otherwise::Otherwise;

/// How long an access may take: ten thousand times as long as it does, as an emulated host may have
/// a hundredth of a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

/// The memory of the stand, which everything else borrows.
pub fn memory() -> Result<GuestMemoryMmap, Box<dyn Error>> {
    Ok(GuestMemoryMmap::from_ranges(&REGIONS.map(|(start, bytes)| (GuestAddress(start), bytes)))?)
}

/// What the guest's registers were set to last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Registers {
    pidr: u32,
    amr: u64,
    iamr: u64,
    process_table: u64,
}

/// The test stand.
pub struct Stand<'m> {
    guest: ProbeGuest,
    memory: &'m GuestMemoryMmap,
    tables: Tables<'m>,
    format: ProcessScoped,
    otherwise: Otherwise,
    registers: Option<Registers>,
    asked: u64,
    hangs: Hangs,
}

impl<'m> Stand<'m> {
    /// Sets the stand up.
    pub fn new(memory: &'m GuestMemoryMmap, otherwise: Otherwise) -> Result<Self, Box<dyn Error>> {
        let mut guest = ProbeGuest::new(&Kvm::new()?, memory.clone())?;
        guest.set_patience(PATIENCE);
        let [supervisor, user] = STUBS.map(Gva::new);
        guest.set_stubs(StubsAt { supervisor, user });
        let stubs = guest.stubs().get();
        let tables = Tables::new(memory)?;
        let format = ProcessScoped::new(Granule::K64);
        let mut stand = Self {
            guest,
            memory,
            tables,
            format,
            otherwise,
            registers: None,
            asked: 0,
            hangs: Hangs::default(),
        };
        let [root, second, third, last] = KERNEL;
        for (address, word) in [
            (prte(0), root | TREE),
            (root, V | second | 9),
            (second, V | third | 9),
            (third, V | last | 9),
            // Readable and executable; for privileged state, and for problem state.
            (last + 8 * 0x10, V | L | R | C | stubs | 0xd),
            (last + 8 * 0x11, V | L | R | C | stubs | 0x5),
        ] {
            stand.tables.store(Slot { address, word })?;
        }
        stand.set_registers(&Shape::PLAIN.case("", Access::READ))?;
        // Problem state cannot mask interrupts; this puts the decrementer's off.
        match stand.guest.hello()? {
            Outcome::Completed { .. } => Ok(stand),
            outcome => Err(format!("the guest's first words: {outcome}").into()),
        }
    }

    /// Says how the hardware is supposed to behave.
    pub fn set_format(&mut self, format: ProcessScoped) {
        self.format = format;
    }

    /// Carries a case out: what the library predicts, and what is seen. `None`: it meets an
    /// [alias](super::tables::SECOND_STAGE).
    ///
    /// A case whose access would write to tables, or run them, becomes a load; so does one that
    /// would fetch from where there is no memory, which KVM-HV tries again without end.
    pub fn run(&mut self, case: &mut Case) -> Result<Option<(Seen, Seen)>, Box<dyn Error>> {
        let (mut predicted, mut words) = self.prepare(case)?;
        let harmful = match (case.access.kind, &predicted.end) {
            (AccessKind::Write | AccessKind::Fetch, End::Done(address)) => !is_data(address.get()),
            (AccessKind::Fetch, End::NoMemory(_)) => true,
            _ => false,
        };
        if harmful {
            case.access.kind = AccessKind::Read;
            (predicted, words) = self.prepare(case)?;
        }
        let seen = match self.tables.met_an_alias() {
            true => None,
            false => {
                let end = self.ask(case, &predicted.end)?;
                Some(Seen { end, words: self.tables.reload(&words)? })
            }
        };
        self.tables.store_all(&words)?;
        for &Slot { address, .. } in case.slots() {
            self.tables.store(Slot { address, word: 0 })?;
        }
        Ok(seen.map(|seen| (predicted, seen)))
    }

    /// Puts a case's words into memory; says what the library predicts, and which words matter.
    fn prepare(&self, case: &Case) -> Result<(Seen, Vec<Slot>), Box<dyn Error>> {
        self.tables.store_all(case.slots())?;
        let start = self.guest.start(case.access);
        let start = Start { msr: self.otherwise.msr(start.msr), ..start };
        let prediction = Prediction::new(case, self.format, &self.tables, start);
        let words = prediction.words()?;
        let predicted = prediction.seen(&words)?;
        self.tables.store_all(&words)?;
        Ok((predicted, words))
    }

    /// Has the guest make the access.
    fn ask(&mut self, case: &Case, predicted: &End) -> Result<End, Box<dyn Error>> {
        self.set_registers(case)?;
        let pid = if case.address >> 62 == 3 { 0 } else { case.pidr };
        self.invalidate(pid)?;
        self.asked += 1;
        // No two cases have the same value, and none stands anywhere in memory.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let addend = (self.asked & 0x3fff) as i16 + 1;
        let there = match *predicted {
            End::Done(address) => Some((GuestAddress(address.get()), is_data(address.get()))),
            _ => None,
        };
        let mut wanted = value;
        match (case.access.kind, there) {
            (AccessKind::Read, Some((at, true))) => self.memory.write_obj(value.to_le(), at)?,
            (AccessKind::Read, Some((at, false))) => {
                wanted = u64::from_le(self.memory.read_obj(at)?);
            }
            (AccessKind::Write, Some((at, true))) => self.memory.write_obj(!value, at)?,
            (AccessKind::Fetch, Some((at, true))) => {
                self.memory.write_slice(&self.guest.target(addend), at)?;
                wanted = value.wrapping_add(addend as u64);
            }
            (AccessKind::Write | AccessKind::Fetch, Some((_, false))) => {
                return Err("a case would destroy tables".into());
            }
            (_, None) => {}
        }
        let given = if case.access.kind == AccessKind::Read { 0 } else { value };
        let outcome = self.guest.probe(&Probe {
            address: Gva::new(case.address),
            access: case.access,
            value: given,
        })?;
        let stored = match there {
            Some((at, _)) if case.access.kind == AccessKind::Write => {
                u64::from_le(self.memory.read_obj(at)?)
            }
            _ => wanted,
        };
        if let Some((at, true)) = there {
            self.memory.write_obj(0_u64, at)?;
        }
        let at = there.map(|(at, _)| Gpa::new(at.0));
        self.hangs.end_of(&outcome, at, wanted, stored)
    }

    fn set_registers(&mut self, case: &Case) -> Result<(), Box<dyn Error>> {
        let Case { pidr, amr, iamr, process_table, .. } = *case;
        let last = self.registers.replace(Registers { pidr, amr, iamr, process_table });
        if last.is_none_or(|last| last.process_table != process_table) {
            self.guest.set_process_table(ProcessTableWord::from_bits(process_table))?;
        }
        if last.is_none_or(|last| last.pidr != pidr) {
            self.guest.set_pid(pidr)?;
        }
        if last.is_none_or(|last| (last.amr, last.iamr) != (amr, iamr)) {
            self.guest.set_authority(Amr::from_bits(amr), Iamr::from_bits(iamr))?;
        }
        Ok(())
    }

    /// Nothing of process `pid` stays cached.
    fn invalidate(&mut self, pid: u32) -> Result<(), Box<dyn Error>> {
        match self.guest.tlbie(Tlbie::<Stage1>::space(Ric::All, Rs::new().with_pid(pid)))? {
            Outcome::Completed { .. } => Ok(()),
            outcome => Err(format!("tlbie: {outcome}").into()),
        }
    }
}
