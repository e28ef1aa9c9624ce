//! Second stages of x86 on MMUs that we did not write: nested paging (AMD) and EPT (Intel), as bare
//! emulated machines have them.
//!
//! The library builds a guest's tree and a second stage for it in an image of memory, and says of
//! each access of the guest where it goes through both stages, or whose fault it is: the guest's
//! own #PF, a nested page fault with its exit info, an EPT violation with its qualification, an EPT
//! misconfiguration; and what all entries of both stages on the way hold afterwards. A tiny
//! hypervisor (`hypervisor.S`) makes these accesses in a guest; the image that it leaves behind is
//! compared. The program runs on any machine; `cargo xtask probe --arch x86 --stage2` runs it, then
//! the machine, then it again.
//!
//! Not covered, since no emulator at hand has it: EPT with five levels, mode-based execute control,
//! paging-write and verify-guest-paging, EPT without support for execute-only pages. "EPT-violation
//! #VE" is off, so that suppress #VE is one more bit that is ignored.

mod bench;
mod random;
mod records;
mod scene;
mod second;
mod svm;
mod systematic;
mod vmx;

use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;

use clap::{Args, ValueEnum};
use fastrand::Rng;
use pgtable::Hpa;
use pgtable::memory::DirectMap;
use pgtable_x86::{Ept, Levels, Npt};

use crate::Asked;
use crate::report::{Ended, Report};
use bench::{Bench, Case, Prediction, Values};
use records::{Answer, Header, Order, ROOM, Seen, TABLES};
use scene::Builder;
use second::{End, Known, Machine, Second};

/// What may be asked for.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Options {
    /// Write a memory image for a bare x86-64 machine, to try nested paging or EPT on; needs no x86
    /// machine
    #[arg(long, value_name = "FILE", conflicts_with = "nested_seen")]
    nested_image: Option<PathBuf>,
    /// Judge what the bare machine made of that image; same cases and seed
    #[arg(long, value_name = "FILE")]
    nested_seen: Option<PathBuf>,
    /// Which machine that is
    #[arg(long, value_enum, default_value_t)]
    nested_machine: Emulator,
}

/// Whose MMU is the judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Emulator {
    /// QEMU's `max` processor as AMD's: nested paging
    #[default]
    Qemu,
    /// The same with five levels
    QemuLa57,
    /// The same without pages of 1 GiB
    QemuSmall,
    /// Bochs' `ryzen`: nested paging
    BochsSvm,
    /// Bochs' `corei7_skylake_x`: EPT
    BochsVmx,
    /// Bochs' `corei7_ivy_bridge_3770k`: EPT without pages of 1 GiB, accessed and dirty flags
    BochsVmxSmall,
}

impl Emulator {
    fn machine(self) -> Machine {
        let known = match self {
            Self::Qemu | Self::QemuLa57 | Self::QemuSmall => {
                Known { mbz_ignored: true, rsvd_without_p: true, ..Known::default() }
            }
            Self::BochsSvm => Known { mbz_ignored: true, fetch_told: true, ..Known::default() },
            Self::BochsVmx | Self::BochsVmxSmall => Known {
                table_read_untold: true,
                bit_12_ignored: true,
                updates_unasked: true,
                ..Known::default()
            },
        };
        Machine {
            amd: !matches!(self, Self::BochsVmx | Self::BochsVmxSmall),
            levels: if self == Self::QemuLa57 { Levels::Five } else { Levels::Four },
            maxphyaddr: 40,
            gib_pages: !matches!(self, Self::QemuSmall | Self::BochsVmxSmall),
            smap: self != Self::BochsVmxSmall,
            ept_accessed_dirty: self != Self::BochsVmxSmall,
            known,
        }
    }
}

impl Options {
    /// Writes the image for a bare machine, if that is asked for.
    pub fn write_image(&self, asked: &Asked) -> Option<Result<(), Box<dyn Error>>> {
        let path = self.nested_image.as_deref()?;
        let machine = self.nested_machine.machine();
        Some(if machine.amd {
            write::<Npt>(path, &machine, asked)
        } else {
            write::<Ept>(path, &machine, asked)
        })
    }

    /// Judges the image that a bare machine left behind, if that is asked for.
    pub fn judge_image(
        &self,
        asked: &Asked,
        report: &mut Report,
    ) -> Option<Result<(), Box<dyn Error>>> {
        let path = self.nested_seen.as_deref()?;
        let machine = self.nested_machine.machine();
        Some(if machine.amd {
            judge::<Npt>(path, &machine, asked, report)
        } else {
            judge::<Ept>(path, &machine, asked, report)
        })
    }
}

/// A case, what the machine is told of it, and what the library says to it.
struct Planned<S: Second> {
    case: Case<S>,
    prediction: Prediction,
    order: Order,
}

fn write<S: Second>(path: &Path, machine: &Machine, asked: &Asked) -> Result<(), Box<dyn Error>> {
    with_cases::<S>(machine, asked, |bench, planned, _| {
        let second = S::under(machine.levels, S::controls(machine)[0]);
        let header = Header {
            vmx: !machine.amd,
            five_levels: machine.levels == Levels::Five,
            setup: second.setup(),
            read: S::read(),
        };
        let orders: Vec<_> = planned.iter().map(|planned| planned.order.clone()).collect();
        let tables = (TABLES.0..TABLES.1)
            .step_by(8)
            .map(|at| bench.load(at))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(fs::write(path, records::write(&header, &orders, tables.into_iter()))?)
    })
}

fn judge<S: Second>(
    path: &Path,
    machine: &Machine,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    with_cases::<S>(machine, asked, |bench, planned, left_out| {
        let seen = Seen::new(&fs::read(path)?)?;
        let capabilities = seen.capabilities();
        report.fact("second stage", if machine.amd { "nested paging" } else { "EPT" });
        report.fact("levels", if machine.levels == Levels::Five { 5 } else { 4 });
        report.fact("physical address", format!("{} bits", capabilities.maxphyaddr));
        if !machine.amd {
            report.fact("EPT capabilities", format!("{:#x}", capabilities.ept_vpid_cap));
            report.fact("secondary controls", format!("{:#x}", capabilities.secondary >> 32));
        }
        if !capabilities.are_those_of(machine) {
            return Err("the machine is not the one that the image was made for".into());
        }
        let mut early = 0;
        for (number, (planned, answer)) in
            planned.iter().zip(seen.answers(planned.iter().map(|it| &it.order))).enumerate()
        {
            let differences = planned.differences(&answer, machine.known, &mut early);
            let mismatch = (!differences.is_empty()).then(|| {
                let list = differences.join("\n            ");
                format!("{}\n  case      {number}\n  differs   {list}", planned.describe(bench))
            });
            let ended =
                if S::seen(&answer).0 == End::Called { Ended::Done } else { Ended::Refused };
            report.case(planned.case.kind, ended, mismatch.as_deref());
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
        report.fact("marked early", format!("{early} words, by accesses that faulted"));
        machine.known.named().for_each(|name| report.fact("known", name));
        Ok(())
    })
}

/// Builds the tables and makes the cases, the same for the same seed, and calls `act` with them,
/// and with how many there are besides of which nothing can be told: they lead to tables or pages
/// where none are.
fn with_cases<S: Second>(
    machine: &Machine,
    asked: &Asked,
    act: impl FnOnce(&Bench<'_>, &[Planned<S>], usize) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let words: Vec<_> = (TABLES.0..TABLES.1).step_by(8).map(|_| AtomicU64::new(0)).collect();
    let bench = Bench {
        memory: DirectMap::new(&words, Hpa::new(TABLES.0)),
        vmx: !machine.amd,
        levels: machine.levels,
        maxphyaddr: machine.maxphyaddr,
        updates_unasked: machine.known.updates_unasked,
    };
    for (at, word) in scene::code(!machine.amd) {
        bench.store(at, word)?;
    }
    let mut builder = Builder::new(&words, machine.levels);
    let mut rng = Rng::with_seed(asked.seed);
    let values = Values::default();
    let mut cases = systematic::cases::<S>(&bench, &mut builder, machine, &values)?;
    cases.extend(random::cases::<S>(
        &bench,
        &mut builder,
        machine,
        &values,
        (asked.cases, &mut rng),
    )?);
    let (mut planned, all) = (Vec::new(), cases.len());
    for case in cases {
        let Some(prediction) = bench.predict(&case)? else { continue };
        // Where the machine ignores what the manual reserves, nothing is to be had from entries
        // that differ in just that.
        let patches = case
            .patches
            .iter()
            .map(|&(at, word)| (at, word & !machine.known.ignored(word)))
            .collect();
        let without = Case { patches, ..case.clone() };
        if without.patches != case.patches
            && bench.predict(&without)?.is_none_or(|without| without.end != prediction.end)
        {
            continue;
        }
        let Some(order) = bench.order(&case, &prediction) else { continue };
        planned.push(Planned { case, prediction, order });
    }
    if planned.len() > ROOM {
        return Err(format!("there is room for {ROOM} cases, not for {}", planned.len()).into());
    }
    act(&bench, &planned, all - planned.len())
}

impl<S: Second> Planned<S> {
    /// In what the machine's answer is another. Counts the words that are marked though the access
    /// faulted.
    fn differences(&self, answer: &Answer, known: Known, early: &mut usize) -> Vec<String> {
        let mut all = Vec::new();
        let Prediction { end, rip, rax, watches } = &self.prediction;
        let (seen, seen_rip) = S::seen(answer);
        let nxe = self.order.host_efer & 1 << 11 != 0;
        if end.clone().known(known, nxe) != seen.clone().known(known, nxe) {
            all.push(format!("end: expected {end}; seen {seen}"));
        }
        let mut field = |name: &str, expected: u64, seen: u64| {
            if expected != seen {
                all.push(format!("{name}: expected {expected:#x}, seen {seen:#x}"));
            }
        };
        field("RIP", *rip, seen_rip);
        if let Some(rax) = rax {
            field("RAX", *rax, answer.rax);
        }
        for (watch, &word) in watches.iter().zip(&answer.watched) {
            field(
                &format!("word at {:#x}", watch.address),
                watch.expected | word & watch.may,
                word,
            );
            *early += usize::from(word & watch.may & !watch.expected != 0);
        }
        all
    }

    fn describe(&self, bench: &Bench<'_>) -> String {
        let Case { scene, patches, guest, second, address, access, .. } = &self.case;
        let mut text = format!(
            "  access    {access} at {address:#x}, CR3 {}, stage 2 at {}",
            scene.first, scene.second
        );
        for (at, word) in patches {
            let before = bench.load(*at).unwrap_or_default();
            text += &format!("\n  entry     {at:#x}: {word:#018x}, was {before:#018x}");
        }
        text + &format!(
            "\n  controls  {guest:?}\n            {second:?}\n  expected  {}",
            self.prediction.end
        )
    }
}
