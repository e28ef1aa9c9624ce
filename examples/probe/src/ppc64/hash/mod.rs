//! Hashed page tables: a guest of KVM-HV makes hypercalls that the kernel carries out, and accesses
//! that the hardware translates through the table that so comes about. The library carries out the
//! same steps on a table of its own.
//!
//! Compared are what each call answers, what comes of each access, what pages hold, the SLB, and
//! again and again the whole table, read through KVM's file descriptor. On the way the guest
//! migrates to another VM while it changes its table, goes on in a fresh VM that our table was
//! written into, and gets tables of other sizes.
//!
//! | file | what |
//! | --- | --- |
//! | `layout` | what is where |
//! | `step` | a call, an access, or instructions on the SLB, as plain numbers |
//! | `systematic`, `random` | which steps there are |
//! | `model`, `model::verdict` | asking the library |
//! | `devices` | what KVM remembers of entries for devices |
//! | `htab` | a VM's table as a stream |
//! | `compare` | what of an answer is compared |
//! | `stand` | asking the machine |
//! | `slots` | where KVM enters what need not stand at one place |
//! | `resizing` | asking it for tables of other sizes |
//! | `journey` | a guest that comes from another host, and goes to one |

mod compare;
mod devices;
mod htab;
mod journey;
mod layout;
mod model;
mod random;
mod resizing;
mod slots;
mod stand;
mod step;
mod systematic;

use std::error::Error;
use std::fmt;
use std::path::PathBuf;

use clap::Args;
use kvm_ppc::host::Host;
use pgtable_ppc64::hash::{HptOrder, PageSize};

use crate::Asked;
use crate::ppc64::otherwise::Otherwise;
use crate::report::{Ended, Report};
use layout::ORDER;
use random::Random;
use stand::Stand;

/// How many steps there are between two comparisons of all of the table.
const BETWEEN: usize = 24;

/// What happens beside the steps, and after which part of them, in hundredths.
const EVENTS: [(usize, Event); 14] = [
    (20, Event::BeginToMigrate),
    (35, Event::Migrate),
    (50, Event::MoveToOurs),
    (65, Event::MakeWay(ORDER + 2)),
    (65, Event::UseBolted),
    (65, Event::Resize(ORDER + 2)),
    (80, Event::UseBolted),
    (80, Event::Resize(ORDER)),
    (85, Event::MakeWay(ORDER)),
    (85, Event::UseDevice),
    (85, Event::UseBolted),
    (85, Event::Resize(ORDER)),
    (85, Event::MeetDevice),
    (95, Event::MoveToOurs),
];

#[derive(Clone, Copy, Debug)]
enum Event {
    /// Another VM gets what the table holds.
    BeginToMigrate,
    /// The other VM gets what changed, and the guest goes on there.
    Migrate,
    /// The guest goes on in a fresh VM, with our table.
    MoveToOurs,
    /// The guest takes out bolted entries that would meet others in a table of this order. Even in
    /// a larger one there may be such, put into a group where their page is not looked for: for
    /// Linux 6.1 that is a reason to stop the host (`BUG_ON` in `resize_hpt_rehash_hpte`).
    MakeWay(u64),
    /// The guest uses pages of bolted entries, and nobody reads the table before the next event.
    UseBolted,
    /// The guest accesses a device of whose entry KVM takes note.
    UseDevice,
    /// It does so again, when that entry is gone.
    MeetDevice,
    /// The guest gets a table of this order; or does not, if bolted entries meet.
    Resize(u64),
}

/// Where the guest comes from, and where it goes.
#[derive(Args, Clone, Debug)]
#[group(skip)]
pub struct Journey {
    /// Write the guest's table into a file in the end, so that it can go on on another host (hash)
    #[arg(long, value_name = "FILE")]
    leave: Option<PathBuf>,
    /// Go on with a guest that has left another host with this file (hash)
    #[arg(long, value_name = "FILE")]
    arrive: Option<PathBuf>,
}

impl Journey {
    /// Whether the guest stays where it is.
    pub fn is_none(&self) -> bool {
        self.leave.is_none() && self.arrive.is_none()
    }
}

/// Probes.
pub fn run(
    host: &Host,
    journey: &Journey,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let backing = PageSize::ALL.into_iter().find(|size| size.shift() == host.page_shift());
    let backing = backing.ok_or("the host's pages are no size of a hashed table's")?;
    let otherwise = Otherwise::of(host);
    // The systematic steps are about a table in which nothing is yet.
    let (mut stand, systematic) = match &journey.arrive {
        Some(file) => (journey::arrive(file, backing, otherwise, report)?, vec![]),
        None => (Stand::new(backing, otherwise)?, systematic::steps()),
    };
    // If few are asked for, half of them are systematic ones from all over, whole scenes of eight
    // or fewer.
    let taken = systematic.len().min(asked.cases / 2);
    report.fact("systematic steps", taken);
    let first = systematic.len() - taken;
    let mut steps = Random::new(asked.seed, systematic.into_iter().skip(first).collect());
    // A table of another size has its bolted entries only: whoever leaves takes all along.
    let stays = |event: &Event| !matches!(event, Event::Resize(_) | Event::MakeWay(_));
    let leaves = journey.leave.is_some();
    let events: Vec<_> = EVENTS.iter().filter(|(_, it)| !leaves || stays(it)).collect();
    let mut left_out = 0;
    let mut number = 0;
    while report.cases() < asked.cases && asked.only.is_none_or(|only| number <= only) {
        for (_, event) in events.iter().filter(|(part, _)| number == asked.cases * part / 100) {
            if asked.trace {
                println!("before step {number}: {event:?}");
            }
            let mut found = happen(*event, &mut stand, report)
                .map_err(|error| format!("{event:?} before step {number}: {error}"))?;
            if !matches!(event, Event::UseBolted) {
                found.extend(stand.compare_tables()?);
            }
            let mismatch =
                differs(format_args!("  event     {event:?}, before step {number}\n"), &found);
            report.case("migration and resizing", Ended::Done, mismatch.as_deref());
        }
        let mut step = steps.step(stand.model());
        if asked.trace {
            println!("step {number}, {}:\n{step}", step.kind);
        }
        let tried =
            stand.run(&mut step).map_err(|error| format!("step {number}: {error}\n{step}"))?;
        match tried {
            Some(tried) => {
                let mismatch =
                    differs(format_args!("{step}\n  step      {number}\n"), &tried.differences);
                report.case(step.kind, tried.ended, mismatch.as_deref());
            }
            None => left_out += 1,
        }
        if number % BETWEEN == 0 {
            let found = stand.compare_tables()?;
            let mismatch = differs(format_args!("  after     step {number}\n"), &found);
            report.case("whole table, read back", Ended::Done, mismatch.as_deref());
        }
        number += 1;
    }
    let (passed_over, entered) = stand.passed_over();
    report.fact("free places", format!("{passed_over} passed over in {entered} H_ENTERs"));
    report.fact("without one answer", format!("{left_out} accesses left out"));
    journey.leave.as_ref().map_or(Ok(()), |file| journey::leave(&mut stand, file, report))
}

fn happen(event: Event, stand: &mut Stand, report: &Report) -> Result<Vec<String>, Box<dyn Error>> {
    match event {
        Event::BeginToMigrate => stand.begin_to_migrate()?,
        Event::Migrate => {
            report.fact("migrated", format!("{} bytes of changes", stand.migrate()?));
        }
        Event::MoveToOurs => stand.move_to_ours()?,
        Event::MakeWay(order) => {
            return stand.make_way(HptOrder::new(order).ok_or("no such order")?);
        }
        Event::UseBolted => return stand.use_bolted(),
        Event::UseDevice => return stand.use_device(),
        Event::MeetDevice => return stand.meet_device(),
        Event::Resize(order) => {
            let (lost, differences) = stand.resize(HptOrder::new(order).ok_or("no such order")?)?;
            report.fact("resized", format!("{order}: KVM lost R or C of {lost} entries"));
            return Ok(differences);
        }
    }
    Ok(vec![])
}

/// What a mismatch shows of `case`: the first `differences`, if there are any.
fn differs(case: impl fmt::Display, differences: &[String]) -> Option<String> {
    let list: Vec<_> = differences.iter().take(10).map(String::as_str).collect();
    (!list.is_empty()).then(|| format!("{case}  differs   {}", list.join("\n            ")))
}
