//! One access: made by the processor, predicted by the software walker on the model, and compared.

use std::error::Error;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use kvm_ioctls::Kvm;
use kvm_x86::Features;
use pgtable::format::Entry;
use pgtable::memory::{GuestTables, TableMemory};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Fault, Gpa, Gva, Level};
use pgtable_x86::{Controls, Levels, LongMode, LongModeFault};
use probe_guest::Probe;
use probe_guest::x86::{Outcome, ProbeGuest, vector};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::controls;
use super::host::Faults;
use super::image::{CORNER, IMAGE, Image, Machine, Model, load};
use crate::report::{Ended, Report};

type Failure = Box<dyn Error>;

/// A table entry's A.
const ACCESSED: u64 = 0x20;

/// One access.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub kind: &'static str,
    pub address: Gva,
    pub access: Access,
    /// Whether the kernel's walker is asked too.
    pub witness: bool,
}

/// The guest, and what is known of its tables.
pub struct Judge<'m> {
    machine: &'m Machine,
    guest: ProbeGuest,
    /// As the processor walks them.
    tables: GuestTables<'m, Gpa>,
    model: Model<'m>,
    asked: u64,
    images: usize,
    witnessed: usize,
    /// Entries above the one at which a walk ended in a fault, and leaves that refused, that were
    /// marked accessed all the same.
    marked_above: usize,
    marked_leaves: usize,
    pub faults: Faults,
}

impl<'m> Judge<'m> {
    pub fn new(kvm: &Kvm, machine: &'m Machine, features: Features) -> Result<Self, Failure> {
        let (tables, model) = machine.tables()?;
        let format = LongMode::new(Levels::Four, features.controls());
        Ok(Self {
            machine,
            guest: ProbeGuest::new(kvm, machine.memory.clone(), CORNER)?,
            tables,
            model: Walker::new(format, model, Gpa::new(IMAGE.start)),
            asked: 0,
            images: 0,
            witnessed: 0,
            marked_above: 0,
            marked_leaves: 0,
            faults: Faults::known(),
        })
    }

    /// Begins a new image.
    pub fn image(&self, levels: Levels) -> Image<'m> {
        self.machine.image(levels)
    }

    /// Lets the processor walk the image, under `controls`.
    pub fn use_image(
        &mut self,
        image: Image<'m>,
        levels: Levels,
        controls: Controls,
    ) -> Result<(), Failure> {
        image.done()?;
        let format = LongMode::new(levels, controls);
        self.model = Walker::new(format, *self.model.memory(), Gpa::new(IMAGE.start));
        self.guest.set_registers(format.registers(self.model.root()));
        self.guest.set_alignment_check(controls.ac);
        // A host that shadows has not seen the new image: it was not the guest that wrote it.
        self.guest.forget_tables()?;
        if controls.pke {
            match self.guest.write_pkru(controls.pkru.0)? {
                Outcome::Completed { .. } => {}
                outcome => return Err(format!("setting PKRU: {outcome}").into()),
            }
        }
        self.images += 1;
        Ok(())
    }

    /// Compares the whole image, when all accesses are done.
    pub fn finish_image(&mut self, report: &mut Report) -> Result<(), Failure> {
        let mut strays = String::new();
        for address in IMAGE.step_by(8).map(Gpa::new) {
            let (seen, wanted) =
                (load(&self.tables, address)?, load(self.model.memory(), address)?);
            if seen != wanted {
                writeln!(strays, "  {address}: {seen:#018x}, model {wanted:#018x}")?;
            }
        }
        report.comparison("whole images afterwards", &strays);
        Ok(())
    }

    /// Makes one access.
    pub fn case(&mut self, case: &Case, report: &mut Report) -> Result<(), Failure> {
        let Case { kind, address, access, witness } = *case;
        let predicted = self.model.translate(address, access);
        let there = predicted.as_ref().ok().map(|translation| translation.output);
        if access.kind == AccessKind::Fetch && there.is_some_and(|gpa| !self.is_memory(gpa)) {
            // Code where there is no memory is no matter of tables: KVM gives up on it.
            return Ok(());
        }
        if predicted.as_ref().is_err_and(outside_at_its_own_offset) {
            return Ok(());
        }
        self.asked += 1;
        // No two accesses have the same value.
        let value = self.asked.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.plant(access.kind, there, value)?;
        let before: Vec<_> = self.model.trace(address).iter().map(|entry| entry.word).collect();

        let given = if access.kind == AccessKind::Write { value } else { 0 };
        let outcome = self.guest.probe(&Probe { address, access, value: given })?;
        let predicted = self.model.access(address, access);
        let mut wrong = Vec::new();
        match &predicted {
            Ok(translation) => {
                wrong.extend(self.not_reached(translation.output, access.kind, value, &outcome)?);
            }
            Err(fault) => wrong.extend(self.not_faulted(fault.arch, address, access, &outcome)),
        }
        let stop = predicted.as_ref().err().map(|fault| fault.entry);
        self.compare_entries(address, stop, &mut wrong)?;
        if witness {
            wrong.extend(self.ask_kernel(address)?);
            self.compare_entries(address, None, &mut wrong)?;
        }
        let ended = match outcome {
            Outcome::Completed { .. } => Ended::Done,
            Outcome::NoMemory { .. } => Ended::NoMemory,
            _ => Ended::Refused,
        };
        let mismatch = if wrong.is_empty() {
            None
        } else {
            let predicted =
                predicted.map_or_else(|fault| fault.to_string(), |page| page.output.to_string());
            let mut text = format!(
                "  {access} of {address}, {} levels, {}\n  walker    {predicted}\n  processor {outcome}\n",
                self.model.format().levels() as usize + 4,
                controls::words(self.model.format().controls())
            );
            for (entry, before) in self.model.trace(address).iter().zip(before) {
                writeln!(text, "  {} {}: {before:#018x}", entry.at.level, entry.address)?;
            }
            for line in &wrong {
                writeln!(text, "  wrong: {line}")?;
            }
            Some(text)
        };
        report.case(kind, ended, mismatch.as_deref());
        Ok(())
    }

    /// Says what the cases have shown besides.
    pub fn tell(&self, report: &Report) {
        report.fact("images of tables", self.images);
        report.fact("KVM_TRANSLATE", format!("asked {} times", self.witnessed));
        let marked = format!(
            "{} entries above a fault, {} leaves that refused",
            self.marked_above, self.marked_leaves
        );
        report.fact("marked accessed", format!("{marked} (both allowed)"));
        for fault in self.faults.named() {
            report.fact("THIS HOST IS WRONG", fault);
        }
    }

    fn is_memory(&self, gpa: Gpa) -> bool {
        self.machine.memory.address_in_range(GuestAddress(gpa.get()))
    }

    /// Puts what a read is to find, a fetch to run, or a store to overwrite, to where the walker
    /// says.
    fn plant(&self, kind: AccessKind, there: Option<Gpa>, value: u64) -> Result<(), Failure> {
        let Some(there) = there.filter(|gpa| self.is_memory(*gpa)) else { return Ok(()) };
        let there = GuestAddress(there.get());
        match kind {
            AccessKind::Read => self.machine.memory.write_obj(value.to_le(), there)?,
            AccessKind::Write => self.machine.memory.write_obj(!value, there)?,
            AccessKind::Fetch => {
                self.machine.memory.write_slice(&self.guest.target(value as u32), there)?;
            }
        }
        Ok(())
    }

    /// What is wrong, if the access did not reach `there`.
    fn not_reached(
        &self,
        there: Gpa,
        kind: AccessKind,
        value: u64,
        outcome: &Outcome,
    ) -> Result<Option<String>, Failure> {
        let right = match *outcome {
            Outcome::Completed { value: seen } if self.is_memory(there) => match kind {
                AccessKind::Read => seen == value,
                AccessKind::Fetch => seen == value & 0xffff_ffff,
                AccessKind::Write => {
                    let stored: u64 = self.machine.memory.read_obj(GuestAddress(there.get()))?;
                    u64::from_le(stored) == value
                }
            },
            Outcome::NoMemory { address } => address == there && !self.is_memory(there),
            _ => false,
        };
        Ok((!right).then(|| format!("the access did not reach {there}")))
    }

    /// What is wrong, if the access did not take `fault`.
    fn not_faulted(
        &self,
        fault: LongModeFault,
        address: Gva,
        access: Access,
        outcome: &Outcome,
    ) -> Option<String> {
        let Outcome::Trapped(trap) = outcome else {
            return Some("the access took no exception".into());
        };
        let right = match fault {
            LongModeFault::PageFault(code) => {
                let code = code.with_p(code.p() && !(self.faults.rsvd_without_p && code.rsvd()));
                (trap.vector, trap.code, trap.cr2)
                    == (vector::PAGE_FAULT, code.into_bits().into(), address.get())
            }
            LongModeFault::GeneralProtection => {
                (trap.vector, trap.code) == (vector::GENERAL_PROTECTION, 0)
            }
        };
        (!right || !self.guest.is_of(trap, address, access))
            .then(|| "the exception is another".into())
    }

    /// Compares each entry on the way; after a fault, `stop` is the entry at which the walk ended,
    /// if it began. After that the model has what the processor has, so that a mismatch shows once.
    ///
    /// A walk that faults may have marked the valid entries that it read accessed: "whenever the
    /// processor uses a paging-structure entry as part of linear-address translation, it sets the
    /// accessed flag" (SDM §4.8), whether or not the translation comes about. Some processors do
    /// and some don't. D is set by stores that are made, and by nothing else.
    fn compare_entries(
        &mut self,
        address: Gva,
        stop: Option<Option<Gpa>>,
        wrong: &mut Vec<String>,
    ) -> Result<(), Failure> {
        for entry in self.model.trace(address) {
            let seen = load(&self.tables, entry.address)?;
            if seen == entry.word {
                continue;
            }
            let marked = stop.is_some() && seen == entry.word | ACCESSED;
            match entry.entry {
                Entry::Table { .. } if marked && stop != Some(Some(entry.address)) => {
                    self.marked_above += 1;
                }
                Entry::Leaf { .. } if marked => self.marked_leaves += 1,
                Entry::Malformed
                    if marked && entry.at.level == Level(2) && self.faults.malformed_gib_marked => {
                }
                _ => {
                    let (level, place) = (entry.at.level, entry.address);
                    wrong.push(format!(
                        "{level} {place} holds {seen:#018x}, model {:#018x}",
                        entry.word
                    ));
                }
            }
            self.model.memory().word(entry.address)?.store(seen.to_le(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Asks KVM_TRANSLATE, which is a supervisor's load.
    fn ask_kernel(&mut self, address: Gva) -> Result<Option<String>, Failure> {
        if matches!(self.model.translate(address, Access::READ), Err(fault) if fault.at.is_none()) {
            // It does not ask whether an address is canonical.
            return Ok(None);
        }
        self.witnessed += 1;
        let seen = self.guest.translate(address)?.output;
        let wanted =
            self.model.access(address, Access::READ).ok().map(|translation| translation.output);
        let words = |output: Option<Gpa>| output.map_or("nowhere".into(), |gpa| gpa.to_string());
        Ok((seen != wanted)
            .then(|| format!("KVM_TRANSLATE leads to {}, walker {}", words(seen), words(wanted))))
    }
}

/// Whether the walk ends at a table that lies outside memory, at an entry whose offset in its page
/// is the address's own.
///
/// Left out: on a host with EPT or NPT, KVM takes the one for the other
/// (`emulator_read_write_onepage` goes by the offset), and the access for one to a device.
fn outside_at_its_own_offset(fault: &Fault<LongMode>) -> bool {
    let offset = |address: u64| address & 0xfff;
    fault.cause == Cause::TableAccess
        && fault.entry.is_some_and(|entry| offset(entry.get()) == offset(fault.address.get()))
}
