//! Trees of RISC-V, of one stage and of two, on MMUs that we did not write: those of bare simulated
//! harts.
//!
//! The library builds trees in an image of memory, and says of each access where it goes, or how
//! the hart traps: cause, stval, htval, htinst, hstatus, and what all entries on the way hold
//! afterwards. A tiny hypervisor (`hypervisor.S`) makes these accesses; the image that it leaves
//! behind is compared. The program runs on any machine; `cargo xtask probe --arch riscv64` runs it,
//! then QEMU, then it again; and the same with Spike.
//!
//! With one stage the trap is taken in M-mode, where mcause, mtval, mtval2 and mtinst take the
//! place of scause, stval, htval and htinst.

mod bench;
mod deviations;
mod modes;
mod random;
mod records;
mod scene;
mod state;
mod systematic;
mod walks;

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use clap::Args;
use fastrand::Rng;
use pgtable_riscv64::Mode;

use crate::Asked;
use crate::report::{Ended, Report};
use bench::{Bench, Case, Prediction, Values};
use deviations::{DEVIATIONS, Deviation};
use records::{Answer, End, Order, ROOM, Seen, TABLES};
use scene::{Builder, Instruction};
use state::{Machine, Simulator, Updates};

/// What may be asked for.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Write a memory image for a bare RISC-V hart; needs no RISC-V machine
    #[arg(long, value_name = "FILE", conflicts_with = "riscv_seen")]
    riscv_image: Option<PathBuf>,
    /// Judge what the bare hart made of that image; same cases and seed
    #[arg(long, value_name = "FILE")]
    riscv_seen: Option<PathBuf>,
    /// Which simulator that is
    #[arg(long, value_enum, default_value_t)]
    riscv_machine: Simulator,
    /// The modes of the first stage and of the second: 39, 48 or 57 each
    #[arg(long, num_args = 2, value_parser = mode, default_values = ["39", "39"])]
    riscv_stages: Vec<Mode>,
    /// Who sets A and D on that machine
    #[arg(long, value_enum, default_value_t)]
    riscv_updates: Updates,
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "39" => Ok(Mode::Sv39),
        "48" => Ok(Mode::Sv48),
        "57" => Ok(Mode::Sv57),
        _ => Err("39, 48 or 57".to_owned()),
    }
}

impl Options {
    fn machine(&self) -> Machine {
        let [first, second] = self.riscv_stages[..] else { unreachable!("clap takes two values") };
        let (simulator, updates) = (self.riscv_machine, self.riscv_updates);
        Machine { first, second, simulator, updates }
    }

    /// Writes the image for a bare machine, if that is asked for.
    pub fn write_image(&self, asked: &Asked) -> Option<Result<(), Box<dyn Error>>> {
        Some(write(self.riscv_image.as_deref()?, self.machine(), asked))
    }

    /// Judges the image that a bare machine left behind, if that is asked for.
    pub fn judge_image(
        &self,
        asked: &Asked,
        report: &mut Report,
    ) -> Option<Result<(), Box<dyn Error>>> {
        Some(judge(self.riscv_seen.as_deref()?, self.machine(), asked, report))
    }
}

/// A case, what the machine is told of it, and what the library says to it.
struct Planned {
    case: Case,
    prediction: Prediction,
    /// What of the machine's own ways it is due to.
    due: Vec<Deviation>,
    order: Order,
}

fn write(path: &Path, machine: Machine, asked: &Asked) -> Result<(), Box<dyn Error>> {
    with_cases(machine, asked, |bench, planned, _| {
        let orders: Vec<_> = planned.iter().map(|planned| planned.order.clone()).collect();
        let tables = (TABLES.0..TABLES.1)
            .step_by(8)
            .map(|at| bench.load(at))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(fs::write(path, records::write(&orders, tables.into_iter()))?)
    })
}

fn judge(
    path: &Path,
    machine: Machine,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    with_cases(machine, asked, |bench, planned, left_out| {
        let seen = Seen::new(&fs::read(path)?)?;
        let facts = seen.facts();
        report.fact("stages", format!("{:?}, {:?}x4", machine.first, machine.second));
        report.fact("satp", format!("{:#x}", facts.satp));
        report.fact("hgatp", format!("{:#x}", facts.hgatp));
        report.fact("menvcfg, henvcfg", format!("{:#x}, {:#x}", facts.menvcfg, facts.henvcfg));
        report.fact("senvcfg", format!("{:#x}", facts.senvcfg));
        if !machine.has(&facts) {
            return Err("the machine is not the one that the image was made for".into());
        }
        let mut due = vec![0_usize; DEVIATIONS.len()];
        for (number, (planned, answer)) in
            planned.iter().zip(seen.answers(planned.iter().map(|it| &it.order))).enumerate()
        {
            let differences = planned.differences(&answer);
            let mismatch = (!differences.is_empty()).then(|| {
                let list = differences.join("\n            ");
                format!("{}\n  case      {number}\n  differs   {list}", planned.describe(bench))
            });
            let done = matches!(answer.end.cause, 8..=10);
            let ended = if done { Ended::Done } else { Ended::Refused };
            report.case(planned.case.kind, ended, mismatch.as_deref());
            for (row, count) in DEVIATIONS.iter().zip(&mut due) {
                *count += usize::from(planned.due.contains(&row.deviation));
            }
        }
        let mut strays = String::new();
        for (at, word) in seen.tables() {
            let wanted = bench.load(at)?;
            if word != wanted {
                writeln!(strays, "  {at:#x}: {word:#018x}, expected {wanted:#018x}")?;
            }
        }
        report.comparison("all tables afterwards", &strays);
        println!();
        report.fact(
            "left out",
            format!("{left_out} cases, of which the library or the machine cannot tell"),
        );
        for (row, count) in DEVIATIONS.iter().zip(due) {
            if row.simulator != machine.simulator {
                continue;
            }
            report.fact(row.what, format!("{count} cases, {}", row.version));
            report.fact("  the manual", row.manual);
            // A hart that sets neither A nor D has no use for some of them.
            if count == 0 && machine.updates == Updates::Adue {
                return Err(format!("no case needs the deviation {:?}", row.deviation).into());
            }
        }
        Ok(())
    })
}

/// Builds the tables and makes the cases, the same for the same seed, and calls `act` with them,
/// and with how many there are besides of which nothing can be told: they lead to tables or pages
/// where none are.
fn with_cases(
    machine: Machine,
    asked: &Asked,
    act: impl FnOnce(&Bench<'_>, &[Planned], usize) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = (TABLES.0..TABLES.1).step_by(8).map(|_| AtomicU64::new(0)).collect();
    let bench = Bench { words: &words, machine };
    for instruction in Instruction::ALL {
        bench.store(instruction.place(), instruction.word())?;
    }
    let mut builder = Builder::new(&words, machine);
    let mut rng = Rng::with_seed(asked.seed);
    let values = Values::default();
    let mut cases = systematic::cases(&bench, &mut builder, &values)?;
    cases.extend(modes::cases(&mut builder, &values)?);
    cases.extend(random::cases(&bench, &mut builder, &values, (asked.cases, &mut rng))?);
    let (mut planned, all) = (Vec::new(), cases.len());
    for mut case in cases {
        case.state = case.state.on(&machine);
        let Some((prediction, due)) = bench.predict(&case)? else { continue };
        let Some(order) = bench.order(&case, &prediction) else { continue };
        planned.push(Planned { case, prediction, due, order });
    }
    if planned.len() > ROOM {
        return Err(format!("there is room for {ROOM} cases, not for {}", planned.len()).into());
    }
    act(&bench, &planned, all - planned.len())
}

impl Planned {
    /// In what the machine's answer is another.
    fn differences(&self, answer: &Answer) -> Vec<String> {
        let mut all = Vec::new();
        let mut field = |name: &str, expected: u64, seen: u64| {
            if expected != seen {
                all.push(format!("{name}: expected {expected:#x}, seen {seen:#x}"));
            }
        };
        let End { cause, tval, tval2, tinst, hstatus, epc, a0, mode } = self.prediction.end;
        let seen = answer.end;
        field("mode", mode, seen.mode);
        field("cause", cause, seen.cause);
        field("tval", tval, seen.tval);
        field("tval2", tval2, seen.tval2);
        field("tinst", tinst, seen.tinst);
        field("hstatus", hstatus, seen.hstatus);
        field("epc", epc, seen.epc);
        field("a0", a0, seen.a0);
        for (&(address, expected), &word) in self.prediction.watches.iter().zip(&answer.watched) {
            field(&format!("word at {address:#x}"), expected, word);
        }
        all
    }

    fn describe(&self, bench: &Bench<'_>) -> String {
        let Case { roots, patches, state, address, act, .. } = &self.case;
        let mut text = format!("  access    {act:?} at {address:#x}, {roots:x?}");
        for (at, word) in patches {
            let before = bench.load(*at).unwrap_or_default();
            text += &format!("\n  entry     {at:#x}: {word:#018x}, was {before:#018x}");
        }
        text + &format!("\n  state     {state:?}\n  expected  {:x?}", self.prediction.end)
    }
}
