//! `reverse`: which addresses lead to a physical one.

use std::io;
use std::ops::ControlFlow;

use anyhow::{Result, anyhow};
use serde::Serialize;
use table_dump::{Fold, Located, Process, Range, Space, State, of_process, processes};

use super::{Answers, keep};
use crate::cli::Physical;
use crate::progress::Progress;
use crate::session::{Session, Verdict};

/// An address that leads to a physical one.
#[derive(Serialize)]
struct Alias<'p> {
    /// The physical address that was asked for.
    physical: String,
    /// Whose tables say so, where those of all processes are asked; the kernel's have neither.
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'p str>,
    #[serde(flatten)]
    range: Range,
}

/// Looks for physical addresses in tables, one after the other.
struct Search<'s, 'p> {
    session: &'s Session<'s>,
    physical: &'p Physical,
    /// Which are found.
    found: Vec<bool>,
    verdict: Verdict,
    answers: Answers,
}

pub fn run(session: &Session<'_>, physical: &Physical) -> Result<u8> {
    let mut search = Search::new(session, physical)?;
    search.space(session.space, None, &|_| true)?;
    search.end()
}

/// The same in the tables of the kernel, whose this session is, and of all its processes.
pub fn run_all(session: &Session<'_>, physical: &Physical) -> Result<u8> {
    let kernel = session.located;
    let listed = {
        let progress = Progress::new("looking for the kernel", session.options.output.quiet);
        let progress = |done, total| progress.at(done, total);
        processes(session.image, session.space, kernel, &progress)
            .map_err(|why| anyhow!("{why}"))?
    };
    let mut search = Search::new(session, physical)?;
    search.space(session.space, None, &|_| true)?;
    // The kernel's part is the same in each.
    let start = kernel.kernel_start();
    for process in listed.processes.iter().filter(|it| it.root.is_some()) {
        search.process(&of_process(kernel, process)?, process, start)?;
    }
    if let Some(fault) = &listed.fault {
        search.verdict.unknown = true;
        session.text.warning(&format!("there may be more processes: {fault}"));
    }
    search.end()
}

impl<'s, 'p> Search<'s, 'p> {
    fn new(session: &'s Session<'s>, physical: &'p Physical) -> Result<Self> {
        let (found, verdict) = (vec![false; physical.addresses.len()], Verdict::default());
        let answers = Answers::begin(session, "aliases")?;
        Ok(Self { session, physical, found, verdict, answers })
    }

    fn process(&mut self, located: &Located, process: &Process, kernel: u64) -> Result<()> {
        let session = self.session;
        let tables = session.image.tables(session.tables.left()).without(located.foreign);
        let space = Space::of(session.image, &tables, located)?;
        let below = |range: &Range| range.va.is_none_or(|va| va < kernel);
        self.space(&space, Some(process), &below)?;
        session.tables.spend(tables.cost().0);
        session.tables.fail_as(&tables);
        Ok(())
    }

    /// Shows the addresses of one space, of those ranges that are meant.
    fn space(
        &mut self,
        space: &Space<'_>,
        process: Option<&Process>,
        meant: &dyn Fn(&Range) -> bool,
    ) -> Result<()> {
        let Self { session, physical, found, verdict, .. } = self;
        let mut all: Vec<Vec<Range>> = vec![Vec::new(); physical.addresses.len()];
        {
            let progress = Progress::new("reading tables", session.options.output.quiet);
            let mut take = |range: Range| {
                if !meant(&range) {
                    return ControlFlow::Continue(());
                }
                verdict.unknown |= range.state == State::Unknown;
                let (Some(pa), Some(bytes)) = (range.pa, range.bytes) else {
                    return ControlFlow::Continue(());
                };
                for (n, at) in physical.addresses.iter().enumerate() {
                    let Some(within) = at.checked_sub(pa).filter(|within| *within < bytes) else {
                        continue;
                    };
                    found[n] = true;
                    if !session.tables.keep(size_of::<Range>() as u64) {
                        return ControlFlow::Break(());
                    }
                    let va = range.va.map(|va| va + within);
                    all[n].push(Range { va, pa: Some(*at), bytes: Some(1), ..range.clone() });
                }
                ControlFlow::Continue(())
            };
            space.list(&mut take, &|done, total| progress.at(done, total));
        }
        let mut result = Ok(());
        for (at, aliases) in physical.addresses.iter().zip(all) {
            let mut fold = Fold::new(|range| keep(&mut result, self.show(*at, process, range)));
            for range in aliases {
                if fold.take(range).is_break() {
                    break;
                }
            }
            let _ = fold.finish();
        }
        Ok(result?)
    }

    fn show(&mut self, at: u64, process: Option<&Process>, range: Range) -> io::Result<()> {
        let (pid, name) =
            (process.and_then(|it| it.pid), process.and_then(|it| it.name.as_deref()));
        let whose = match pid {
            Some(pid) => format!("  process {pid} ({})", name.unwrap_or("").escape_debug()),
            None if self.physical.all_processes => "  kernel".to_owned(),
            None => String::new(),
        };
        let text = format!("{at:#018x}  {}{whose}", self.session.text.alias(&range));
        self.answers.show(&Alias { physical: format!("{at:#x}"), pid, name, range }, || text)
    }

    fn end(mut self) -> Result<u8> {
        for (at, _) in self.physical.addresses.iter().zip(&self.found).filter(|(_, found)| !**found)
        {
            self.verdict.not_so = true;
            self.session.text.warning(&format!("nothing leads to {at:#x}"));
        }
        self.session.say_unknown(self.verdict);
        self.answers.end(self.session, self.verdict)
    }
}
