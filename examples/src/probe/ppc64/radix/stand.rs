//! The test stand: the guest, its memory, and the kernel's tree, which no case touches.
//!
//! The page of stubs is mapped by process 0's tree in quadrant 3, so a case may do what it likes to the tree of the process
//! that runs. A case's words are put into memory before it and taken out after; in between the guest runs `tlbie`, so that no two
//! cases meet.

use std::cell::Cell;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arch_ppc64::radix::{Amr, Granule, GuestMmu, Iamr, ProcessScoped, ProcessTableWord, Ric, Rs, Tlbie};
use examples::guest::Probe;
use examples::guest::ppc64::{Outcome, ProbeGuest, Start, StubsAt};
use examples::kvm_ppc::Kvm;
use pgtable::{Access, AccessKind, ByteOrder, Gpa, GuestTables, Gva, MemoryError, Stage1, TableMemory};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::case::{C, Case, L, R, Shape, Slot, TREE, V};
use super::layout::{KERNEL, REGIONS, STUBS, is_data, prte};
use super::seen::{End, Seen};

/// How long an access may take: a thousand times as long as it does.
const PATIENCE: Duration = Duration::from_secs(1);
/// The guest real addresses that a partition-scoped tree translates. QEMU's MMU ignores the bits beyond, so that an address with such a bit is
/// an alias of one without, but only while KVM happens to have that one mapped; else KVM hears of it, as of an address without memory.
/// So an alias of memory is no question with an answer, and no case may meet one.
const SECOND_STAGE: u64 = (1 << 52) - 1;
/// How often the guest may hang until it is not worth while to go on.
const HANGS: usize = 5;

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

/// The guest's memory as the hardware's walk finds it.
struct Memory<'m> {
    tables: GuestTables<'m, Gpa>,
    /// Whether an address was asked for that is an alias.
    aliased: Cell<bool>,
}

impl TableMemory<Gpa> for Memory<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        if address.get() > SECOND_STAGE && self.tables.word(Gpa::new(address.get() & SECOND_STAGE)).is_ok() {
            self.aliased.set(true);
        }
        self.tables.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.word(address)?;
        self.tables.table(address, words)
    }
}

/// The test stand.
pub struct Stand<'m> {
    guest: ProbeGuest,
    memory: &'m GuestMemoryMmap,
    tables: Memory<'m>,
    format: ProcessScoped,
    registers: Option<Registers>,
    asked: u64,
    hangs: usize,
}

impl<'m> Stand<'m> {
    /// Sets the stand up.
    pub fn new(memory: &'m GuestMemoryMmap) -> Result<Self, Box<dyn Error>> {
        let mut guest = ProbeGuest::new(&Kvm::new()?, memory.clone())?;
        guest.set_patience(PATIENCE);
        let [supervisor, user] = STUBS.map(Gva::new);
        guest.set_stubs(StubsAt { supervisor, user });
        let stubs = guest.stubs().get();
        let tables = Memory { tables: GuestTables::new(memory)?, aliased: Cell::new(false) };
        let format = ProcessScoped::new(Granule::K64);
        let mut stand = Self { guest, memory, tables, format, registers: None, asked: 0, hangs: 0 };
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
            stand.store(Slot { address, word })?;
        }
        stand.set_registers(&Shape::PLAIN.case("", Access::READ))?;
        // Problem state cannot mask interrupts; this puts the decrementer's off.
        match stand.guest.hello()? {
            Outcome::Completed { .. } => Ok(stand),
            outcome => Err(format!("the guest's first words: {outcome}").into()),
        }
    }

    /// The guest's MMU as the library sees it in this case.
    fn mmu(&self, case: &Case) -> GuestMmu {
        let format = self.format.with_amr(Amr::from_bits(case.amr)).with_iamr(Iamr::from_bits(case.iamr));
        GuestMmu::new(ProcessTableWord::from_bits(case.process_table), case.pidr, format)
    }

    /// Says how the hardware is supposed to behave.
    pub fn set_format(&mut self, format: ProcessScoped) {
        self.format = format;
    }

    /// Carries a case out: what the library predicts, and what is seen.
    ///
    /// A case whose access would write to tables, or run them, becomes a load; so does one that would fetch from where there is no
    /// memory, which KVM-HV tries again without end. One that would meet an alias of memory ([`SECOND_STAGE`]) loses it.
    pub fn run(&mut self, case: &mut Case) -> Result<(Seen, Seen), Box<dyn Error>> {
        let (mut predicted, mut words) = self.prepare(case)?;
        if self.tables.aliased.take() {
            case.slots_mut().for_each(|slot| slot.word &= !(0xff << 52));
            (predicted, words) = self.prepare(case)?;
        }
        let harmful = match (case.access.kind, &predicted.end) {
            (AccessKind::Write | AccessKind::Fetch, End::Done(address)) => !is_data(address.get()),
            (AccessKind::Fetch, End::NoMemory(_)) => true,
            _ => false,
        };
        if harmful {
            case.access.kind = AccessKind::Read;
            (predicted, words) = self.prepare(case)?;
        }
        if self.tables.aliased.take() {
            return Err("the case meets an alias".into());
        }
        let seen = self.ask(case, &predicted.end).and_then(|end| Ok(Seen { end, words: self.reread(&words)? }));
        self.restore(&words)?;
        for &Slot { address, .. } in case.slots() {
            self.store(Slot { address, word: 0 })?;
        }
        Ok((predicted, seen?))
    }

    /// Puts a case's words into memory, and says what the library predicts and what words matter.
    fn prepare(&self, case: &Case) -> Result<(Seen, Vec<Slot>), Box<dyn Error>> {
        for &slot in case.slots() {
            self.store(slot)?;
        }
        let words = self.words_on_the_way(case)?;
        let predicted = self.predict(case, &words)?;
        self.restore(&words)?;
        Ok((predicted, words))
    }

    /// The words that the case puts into memory, and those that the walk meets beside them.
    fn words_on_the_way(&self, case: &Case) -> Result<Vec<Slot>, Box<dyn Error>> {
        let mut addresses: Vec<_> = case.slots().map(|slot| slot.address).collect();
        let mmu = self.mmu(case);
        let address = Gva::new(case.address);
        if let Some(walker) = mmu.process(address).and_then(|pid| mmu.walker(&self.tables, pid).ok()) {
            addresses.extend(walker.trace(address).iter().map(|entry| entry.address.get()));
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses.into_iter().map(|address| self.load(address)).collect()
    }

    /// What the library says will come of it; what it records, it records in memory.
    fn predict(&self, case: &Case, words: &[Slot]) -> Result<Seen, Box<dyn Error>> {
        let end = match self.first_obstacle(case) {
            Some((address, access)) => self.interrupt(case, address, access),
            None => self.predict_access(case)?,
        };
        Ok(Seen { end, words: self.reread(words)? })
    }

    /// If the guest does not even come to the access: what it fetches in vain.
    fn first_obstacle(&self, case: &Case) -> Option<(Gva, Access)> {
        let stub = self.guest.start(case.access).pc;
        let fetch = Access { kind: AccessKind::Fetch, ..case.access };
        self.mmu(case).translate_ea(&self.tables, stub, fetch).is_err().then_some((stub, fetch))
    }

    fn predict_access(&self, case: &Case) -> Result<End, Box<dyn Error>> {
        let mmu = self.mmu(case);
        let address = Gva::new(case.address);
        let Ok(translation) = mmu.translate_ea(&self.tables, address, case.access) else {
            return Ok(self.interrupt(case, address, case.access));
        };
        let pid = mmu.process(address).ok_or("an address of no process translates")?;
        let walker = mmu.walker(&self.tables, pid).map_err(|cause| format!("process {pid} {cause}"))?;
        let leaf = walker.trace(address).pop().ok_or("a translation without a leaf")?;
        let accessed = walker.access(address, case.access).map(|it| it.output);
        let recorded = walker.format().recorded(leaf.word, case.access);
        let word = self.load(leaf.address.get())?.word;
        if accessed != Ok(translation.output) || word != recorded {
            return Ok(End::Odd(format!(
                "{} and {recorded:#x} by translation; {accessed:?} and {word:#x} by access",
                translation.output
            )));
        }
        let output = translation.output;
        Ok(if self.tables.word(output).is_ok() { End::Done(output) } else { End::NoMemory(output) })
    }

    /// The interrupt that the library says `access` takes, with every register as it goes with it.
    fn interrupt(&self, case: &Case, address: Gva, access: Access) -> End {
        let Err(fault) = self.mmu(case).translate_ea(&self.tables, address, access) else {
            return End::Odd("an interrupt that does not come".into());
        };
        let Start { pc, msr } = self.guest.start(case.access);
        let (vector, status) = (fault.interrupt.vector, fault.interrupt.status.into_bits());
        let data = fault.dar();
        End::Took(examples::guest::ppc64::Interrupt {
            vector: vector.offset().into(),
            // A fetch has left the stub when it takes its interrupt.
            srr0: if access.kind == AccessKind::Fetch { address.get() } else { pc.get() },
            srr1: if data.is_some() { msr } else { msr | u64::from(status) },
            dsisr: if data.is_some() { status } else { 0 },
            dar: data.map_or(0, |address| address.get()),
        })
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
            (AccessKind::Read, Some((at, false))) => wanted = u64::from_le(self.memory.read_obj(at)?),
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
        let outcome =
            self.guest.probe(&Probe { address: Gva::new(case.address), access: case.access, value: given })?;
        let stored = match there {
            Some((at, _)) if case.access.kind == AccessKind::Write => u64::from_le(self.memory.read_obj(at)?),
            _ => wanted,
        };
        if let Some((at, true)) = there {
            self.memory.write_obj(0_u64, at)?;
        }
        Ok(match (outcome, there) {
            (Outcome::Completed { value: seen }, Some((at, _))) if (seen, stored) == (wanted, wanted) => {
                End::Done(Gpa::new(at.0))
            }
            (Outcome::NoMemory { address }, _) => End::NoMemory(address),
            (Outcome::Interrupted(interrupt), _) => End::Took(interrupt),
            (Outcome::Completed { .. }, _) => End::Odd(format!("{outcome}, somewhere else")),
            (Outcome::Hung { .. }, _) => {
                self.hangs += 1;
                if self.hangs == HANGS {
                    return Err(format!("the guest has hung {HANGS} times").into());
                }
                End::Odd(outcome.to_string())
            }
        })
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

    fn restore(&self, words: &[Slot]) -> Result<(), Box<dyn Error>> {
        words.iter().try_for_each(|&slot| self.store(slot))
    }

    fn reread(&self, words: &[Slot]) -> Result<Vec<Slot>, Box<dyn Error>> {
        words.iter().map(|slot| self.load(slot.address)).collect()
    }

    fn load(&self, address: u64) -> Result<Slot, Box<dyn Error>> {
        let word = self.tables.word(Gpa::new(address))?.load(Ordering::Acquire);
        Ok(Slot { address, word: ByteOrder::Big.swap(word) })
    }

    fn store(&self, Slot { address, word }: Slot) -> Result<(), Box<dyn Error>> {
        self.tables.word(Gpa::new(address))?.store(ByteOrder::Big.swap(word), Ordering::Release);
        Ok(())
    }
}
