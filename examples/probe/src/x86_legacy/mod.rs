//! 32-bit and PAE paging on MMUs that we did not write: those of bare emulated machines.
//!
//! Random trees stand in an image of memory. The program on the machine (`program.S`) makes one
//! access after the other behind them, in user and in supervisor mode, under CR0.WP, CR4.PSE,
//! CR4.SMEP, CR4.SMAP, EFLAGS.AC and EFER.NXE in all positions. The exception, its error code and
//! CR2, where a load or a fetch went, where a store went, and all tables afterwards must be what
//! [`Walker::access`] made of a copy. The program runs on any machine;
//! `cargo xtask probe --arch x86 --legacy` runs it, then the machine, then it again. On a host with
//! KVM, `--arch x86` asks KVM_TRANSLATE about such trees ([`kernel`]).
//!
//! Not covered: shadow stacks.

#[cfg(target_arch = "x86_64")]
pub mod kernel;
mod records;
mod scene;

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use clap::{Args, ValueEnum};
use fastrand::Rng;
use pgtable::format::FirstStage;
use pgtable::memory::{DirectMap, ReadMemory};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Gpa, Gva, Privilege, Translation};
use pgtable_x86::{Controls, LongModeFault, Registers};

use crate::Asked;
use crate::report::{Ended, Report};
use records::{Answer, DATA, Order, ROOM, SAID, Seen, TABLES, block, number};
use scene::{Builder, Mode, Tree};

/// Accesses behind one tree.
const PER_TREE: usize = 24;
const PAGE_FAULT: u32 = 14;
const GENERAL_PROTECTION: u32 = 13;
/// A, and in an error code P and RSVD.
const ACCESSED: u32 = 0x20;
const P: u32 = 1;
const RSVD: u32 = 8;

/// What may be asked for.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Write a memory image for a bare 32-bit x86 machine; needs no x86 machine
    #[arg(long, value_name = "FILE", conflicts_with = "legacy_seen")]
    legacy_image: Option<PathBuf>,
    /// Judge what the bare machine made of that image; same cases and seed
    #[arg(long, value_name = "FILE")]
    legacy_seen: Option<PathBuf>,
    /// Which machine that is
    #[arg(long, value_enum, default_value_t)]
    legacy_machine: Emulator,
}

/// Whose MMU is the judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Emulator {
    /// QEMU's `max` processor
    #[default]
    Qemu,
    /// Bochs' `corei7_skylake_x`
    Bochs,
    /// Bochs' `corei7_ivy_bridge_3770k`: without SMAP
    BochsSmall,
}

/// What the machine is.
#[derive(Clone, Copy, Debug)]
struct Machine {
    maxphyaddr: u8,
    smap: bool,
    known: Known,
}

/// In what an emulator is known to differ from the manual. Each is told at the end of the run, and
/// only there is anything but the manual taken for right.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    /// Error codes with RSVD lack P. "RSVD can be set only if P is also set" (SDM §4.7).
    rsvd_without_p: bool,
    /// PDPTEs are entries in memory, which each walk reads and marks in bit 5, and whose bits 8:5
    /// and 2:1 count for nothing. The processor loads PDPTEs into registers, refuses reserved bits
    /// with #GP, and these are among them (SDM §4.4.1, table 4-8). Such PDPTEs are left out.
    pdptes_in_memory: bool,
}

impl Emulator {
    fn machine(self) -> Machine {
        let qemu = self == Self::Qemu;
        Machine {
            maxphyaddr: 40,
            smap: self != Self::BochsSmall,
            known: Known { rsvd_without_p: qemu, pdptes_in_memory: qemu },
        }
    }
}

impl Options {
    /// Writes the image for a bare machine, if that is asked for.
    pub fn write_image(&self, asked: &Asked) -> Option<Result<(), Box<dyn Error>>> {
        let path = self.legacy_image.as_deref()?;
        Some(write(path, &self.legacy_machine.machine(), asked))
    }

    /// Judges the image that a bare machine left behind, if that is asked for.
    pub fn judge_image(
        &self,
        asked: &Asked,
        report: &mut Report,
    ) -> Option<Result<(), Box<dyn Error>>> {
        let path = self.legacy_seen.as_deref()?;
        Some(judge(path, &self.legacy_machine.machine(), asked, report))
    }
}

/// One access.
struct Case {
    tree: Tree,
    controls: Controls,
    address: u32,
    access: Access,
    value: u32,
}

impl Case {
    fn kind(&self) -> &'static str {
        match (self.tree.pae, self.controls.nxe, self.controls.pse) {
            (true, true, _) => "PAE, NXE",
            (true, false, _) => "PAE",
            (false, _, true) => "32-bit, PSE",
            (false, _, false) => "32-bit",
        }
    }

    fn order(&self) -> Order {
        let Registers { cr0, cr3, cr4, efer } = match self.tree.mode(self.controls) {
            Mode::Bits32(format) => format.registers(self.tree.root),
            Mode::Pae(format) => format.registers(self.tree.root),
        };
        let user = self.access.privilege == Privilege::User;
        Order {
            // ET and NE besides.
            cr0: cr0.into_bits() as u32 | 0x30,
            cr3: cr3.into_bits() as u32,
            cr4: cr4.into_bits() as u32,
            efer: efer.into_bits() as u32,
            address: self.address,
            kind: match self.access.kind {
                AccessKind::Read => 0,
                AccessKind::Write => 1,
                AccessKind::Fetch => 2,
            },
            user,
            ac: self.controls.ac,
            value: self.value,
        }
    }
}

/// The tables and the data, as the library has them.
struct Bench {
    words: Vec<AtomicU64>,
}

/// What the library says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prediction {
    /// It goes there.
    Done(u64),
    /// #PF.
    Fault(u32),
    /// #GP when paging is switched on.
    Refused,
    /// It leads to where no memory is, and what comes of it is not told.
    Nowhere,
}

impl Bench {
    fn new() -> Self {
        let count = (DATA.1 - TABLES.0) / 8;
        Self { words: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    fn memory(&self) -> DirectMap<'_, Gpa> {
        DirectMap::new(&self.words, Gpa::new(TABLES.0))
    }

    /// Makes the access: records it in the tables, and stores. `may` learns of the entries that the
    /// processor may mark accessed although it faults (SDM §4.8), by their addresses.
    fn make(&self, case: &Case, known: Known, may: &mut HashMap<u64, u32>) -> Prediction {
        match case.tree.mode(case.controls) {
            Mode::Bits32(format) => self.by(format, case, may),
            Mode::Pae(format) => {
                if known.pdptes_in_memory {
                    // The program's own pages are behind the first.
                    let root = case.tree.root.get();
                    may.insert(root, ACCESSED);
                    may.insert(root + u64::from(case.address >> 30) * 8, ACCESSED);
                } else if format.load_pdptes(self.memory(), case.tree.root).is_err() {
                    return Prediction::Refused;
                }
                self.by(format, case, may)
            }
        }
    }

    fn by<F>(&self, format: F, case: &Case, may: &mut HashMap<u64, u32>) -> Prediction
    where
        F: FirstStage<Fault = LongModeFault>,
    {
        let walker = Walker::new(format, self.memory(), case.tree.root);
        let address = Gva::new(case.address.into());
        match walker.access(address, case.access) {
            Ok(Translation { output, .. }) => {
                let output = output.get();
                if !(DATA.0..DATA.1).contains(&output) {
                    return Prediction::Nowhere;
                }
                if case.access.kind == AccessKind::Write {
                    if let Some(word) = self.words.get(((output - TABLES.0) / 8) as usize) {
                        word.store(u64::from(case.value).to_le(), Ordering::Relaxed);
                    }
                }
                Prediction::Done(output)
            }
            Err(fault) => {
                for entry in &walker.trace(address) {
                    *may.entry(entry.address.get()).or_default() |= ACCESSED;
                }
                match fault.arch {
                    _ if fault.cause == Cause::TableAccess => Prediction::Nowhere,
                    LongModeFault::PageFault(code) => Prediction::Fault(code.into_bits()),
                    LongModeFault::GeneralProtection => Prediction::Refused,
                }
            }
        }
    }

    /// The 32-bit word at `address`: of a table, or what was stored in data.
    fn at(&self, address: u64) -> u32 {
        let word = self.memory().load(Gpa::new(address & !7)).map_or(0, u64::from_le);
        (word >> (address % 8 * 8)) as u32
    }
}

/// Random trees, and accesses behind them: the same for the same seed.
fn cases(bench: &Bench, machine: &Machine, asked: &Asked) -> Result<Vec<Case>, Box<dyn Error>> {
    let mut dice = Rng::with_seed(asked.seed);
    let mut builder = Builder::new(&bench.words);
    let mut cases = Vec::new();
    while cases.len() < asked.cases.min(ROOM) {
        let Some(tree) = builder.tree(machine, &mut dice) else { break };
        for _ in 0..PER_TREE.min(asked.cases.min(ROOM) - cases.len()) {
            let smap = machine.smap && dice.bool();
            let controls = Controls {
                wp: dice.u8(..3) != 0,
                smep: dice.u8(..3) == 0,
                smap,
                ac: smap && dice.bool(),
                ..tree.controls
            };
            let kinds = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch];
            let kind = kinds[dice.usize(..3)];
            let privilege = if dice.bool() { Privilege::User } else { Privilege::Supervisor };
            // Code and what loads find stand in the first half of a block.
            let half = if kind == AccessKind::Write { 8 } else { 0 };
            let address = tree.address(&mut dice) | half;
            let access = Access { kind, privilege };
            cases.push(Case { tree, controls, address, access, value: dice.u32(..) });
        }
    }
    if cases.len() < asked.cases {
        return Err(format!("there is room for {} cases", cases.len()).into());
    }
    Ok(cases)
}

fn write(path: &Path, machine: &Machine, asked: &Asked) -> Result<(), Box<dyn Error>> {
    let bench = Bench::new();
    let cases = cases(&bench, machine, asked)?;
    let orders: Vec<_> = kept(&bench, &cases, machine).iter().map(|case| case.order()).collect();
    // As they are before the first access.
    let fresh = Bench::new();
    self::cases(&fresh, machine, asked)?;
    let count = ((TABLES.1 - TABLES.0) / 8) as usize;
    let words =
        fresh.words.iter().take(count).map(|word| u64::from_le(word.load(Ordering::Relaxed)));
    Ok(fs::write(path, records::write(&orders, words))?)
}

/// The cases that are carried out: fetches from where no memory is end emulators.
fn kept<'c>(bench: &Bench, cases: &'c [Case], machine: &Machine) -> Vec<&'c Case> {
    let mut may = HashMap::new();
    let nowhere = |case: &&Case| {
        case.access.kind == AccessKind::Fetch
            && bench.make(case, machine.known, &mut may) == Prediction::Nowhere
    };
    let mut nowhere = nowhere;
    cases.iter().filter(|case| !nowhere(case)).collect()
}

fn judge(
    path: &Path,
    machine: &Machine,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let seen = Seen::new(fs::read(path)?)?;
    let dry = Bench::new();
    let all = cases(&dry, machine, asked)?;
    let kept = kept(&dry, &all, machine);
    let bench = Bench::new();
    cases(&bench, machine, asked)?;
    let mut may = HashMap::new();
    for (number, case) in kept.iter().enumerate() {
        let predicted = bench.make(case, machine.known, &mut may);
        let answer = seen.answer(number);
        let wrong = difference(case, predicted, answer, machine.known);
        let ended = match predicted {
            Prediction::Done(_) => Ended::Done,
            Prediction::Nowhere => Ended::NoMemory,
            Prediction::Fault(_) | Prediction::Refused => Ended::Refused,
        };
        let mismatch = wrong.map(|wrong| {
            let Case { tree, controls, address, access, .. } = case;
            format!(
                "  case      {number}: {access} at {address:#x}, root {}\n  controls  {controls:?}\n  \
                 expected  {predicted:x?}\n  seen      {answer:x?}\n  differs   {wrong}",
                tree.root
            )
        });
        report.case(case.kind(), ended, mismatch.as_deref());
    }
    let (mut strays, mut early) = (String::new(), 0);
    let stored = (DATA.0..DATA.1).step_by(16).map(|block| block + 8);
    for address in (TABLES.0..TABLES.1).step_by(4).chain(stored) {
        let (is, wanted) = (seen.at(address), bench.at(address));
        let allowed = may.get(&address).copied().unwrap_or_default();
        early += usize::from(is != wanted && is == wanted | is & allowed);
        if is != wanted | is & allowed {
            writeln!(strays, "  {address:#x}: {is:#010x}, expected {wanted:#010x}")?;
        }
    }
    report.comparison("all tables and stores afterwards", &strays);
    println!();
    report.fact("left out", format!("{} fetches from where no memory is", all.len() - kept.len()));
    report.fact("marked early", format!("{early} entries, by accesses that faulted"));
    let Known { rsvd_without_p, pdptes_in_memory } = machine.known;
    for (there, name) in [
        (rsvd_without_p, "error codes with RSVD lack P: compared without P"),
        (pdptes_in_memory, "PDPTEs are entries in memory, and may be marked: some are left out"),
    ] {
        if there {
            report.fact("known", name);
        }
    }
    Ok(())
}

/// In what the machine's answer is another.
fn difference(case: &Case, predicted: Prediction, seen: Answer, known: Known) -> Option<String> {
    let without_p = |code: u32| {
        if known.rsvd_without_p && code & RSVD != 0 { code & !P } else { code }
    };
    let wanted = match predicted {
        Prediction::Nowhere => return (seen.vector != SAID).then(|| "it faults".to_owned()),
        Prediction::Refused => (GENERAL_PROTECTION, 0, None, None),
        Prediction::Fault(code) => (PAGE_FAULT, without_p(code), Some(case.address), None),
        Prediction::Done(output) => {
            let value = match case.access.kind {
                AccessKind::Read => block(output),
                AccessKind::Write => case.value,
                AccessKind::Fetch => number(output),
            };
            (SAID, 0, None, Some(value))
        }
    };
    let code = if seen.vector == PAGE_FAULT { without_p(seen.code) } else { seen.code };
    let (vector, wanted_code, cr2, value) = wanted;
    if (vector, wanted_code) != (seen.vector, code) {
        return Some(format!("vector {} error {code:#x}", seen.vector));
    }
    if cr2.is_some_and(|cr2| cr2 != seen.cr2) {
        return Some(format!("CR2 {:#x}", seen.cr2));
    }
    value.filter(|value| *value != seen.value).map(|value| format!("value: expected {value:#x}"))
}
