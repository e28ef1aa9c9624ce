//! What the library says will come of a case.

use std::error::Error;

use pgtable::memory::TableMemory;
use pgtable::{Access, AccessKind, Gva};
use pgtable_ppc64::radix::{Amr, GuestMmu, Iamr, ProcessScoped, ProcessTableWord};
use probe_guest::ppc64::{Interrupt, Start};

use super::case::{Case, Slot};
use super::seen::Seen;
use super::tables::Tables;
use crate::ppc64::end::End;

/// The library's view of a case whose words are in memory.
pub struct Prediction<'a> {
    case: &'a Case,
    mmu: GuestMmu,
    tables: &'a Tables<'a>,
    start: Start,
}

impl<'a> Prediction<'a> {
    /// `format` says how the hardware is supposed to behave; `start`, where the guest begins.
    pub fn new(
        case: &'a Case,
        format: ProcessScoped,
        tables: &'a Tables<'a>,
        start: Start,
    ) -> Self {
        let format =
            format.with_amr(Amr::from_bits(case.amr)).with_iamr(Iamr::from_bits(case.iamr));
        let mmu = GuestMmu::new(ProcessTableWord::from_bits(case.process_table), case.pidr, format);
        Self { case, mmu, tables, start }
    }

    /// The words that the case puts into memory, and those that the walk meets beside them, as they
    /// are now.
    pub fn words(&self) -> Result<Vec<Slot>, Box<dyn Error>> {
        let mut addresses: Vec<_> = self.case.slots().map(|slot| slot.address).collect();
        let address = Gva::new(self.case.address);
        if let Some(walker) =
            self.mmu.process(address).and_then(|pid| self.mmu.walker(self.tables, pid).ok())
        {
            addresses.extend(walker.trace(address).iter().map(|entry| entry.address.get()));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses
            .into_iter()
            .map(|address| self.tables.load(address))
            .collect::<Result<_, _>>()?)
    }

    /// What will come of it, and what `words` will hold. What the walker records, it records in
    /// memory: put the words back.
    pub fn seen(&self, words: &[Slot]) -> Result<Seen, Box<dyn Error>> {
        // The first thing that the guest does is to fetch the stub.
        let fetch = Access { kind: AccessKind::Fetch, ..self.case.access };
        let end = match self.interrupt(self.start.pc, fetch) {
            Some(interrupt) => End::Took(interrupt),
            None => self.access()?,
        };
        Ok(Seen { end, words: self.tables.reload(words)? })
    }

    /// What comes of the access itself.
    fn access(&self) -> Result<End, Box<dyn Error>> {
        let Case { access, address, .. } = *self.case;
        let address = Gva::new(address);
        if let Some(interrupt) = self.interrupt(address, access) {
            return Ok(End::Took(interrupt));
        }
        // Three ways to say what it does must agree: translate, `recorded`, and `Walker::access`.
        let pid = self.mmu.process(address).ok_or("an address of no process translates")?;
        let walker =
            self.mmu.walker(self.tables, pid).map_err(|cause| format!("process {pid} {cause}"))?;
        let leaf = walker.trace(address).pop().ok_or("a translation without a leaf")?;
        let recorded = walker.format().recorded(leaf.word, access);
        let output = self.mmu.translate_ea(self.tables, address, access)?.output;
        let accessed = walker.access(address, access).map(|it| it.output);
        let word = self.tables.load(leaf.address.get())?.word;
        if accessed != Ok(output) || word != recorded {
            let text =
                format!("translation: {output}, {recorded:#x}; access: {accessed:?}, {word:#x}");
            return Ok(End::Odd(text));
        }
        Ok(if self.tables.word(output).is_ok() { End::Done(output) } else { End::NoMemory(output) })
    }

    /// The interrupt that `access` takes, if any, with every register that goes with it.
    fn interrupt(&self, address: Gva, access: Access) -> Option<Interrupt> {
        let fault = self.mmu.translate_ea(self.tables, address, access).err()?;
        let Start { pc, msr } = self.start;
        let status = fault.interrupt.status.into_bits();
        let data = fault.dar();
        Some(Interrupt {
            vector: fault.interrupt.vector.offset().into(),
            // A fetch has left the stub when it takes its interrupt.
            srr0: if access.kind == AccessKind::Fetch { address.get() } else { pc.get() },
            srr1: if data.is_some() { msr } else { msr | u64::from(status) },
            dsisr: if data.is_some() { status } else { 0 },
            dar: data.map_or(0, Gva::get),
        })
    }
}
