//! `ps`: the processes of a Linux kernel, with the roots of their tables.

use std::io::Write as _;

use anyhow::{Result, anyhow, bail};
use table_dump::{FoundBy, Process, Processes, processes, processes_by_looks};

use super::stdout;
use crate::json;
use crate::progress::Progress;
use crate::session::{Session, Verdict};

pub fn run(session: &Session<'_>, looks: bool) -> Result<u8> {
    let listed = {
        let progress = Progress::new("looking for the kernel", session.options.output.quiet);
        let progress = |done, total| progress.at(done, total);
        processes(session.image, session.space, session.located, &progress)
    };
    let found = match listed {
        Ok(listed) if looks => by_looks(session, &listed.processes)
            .ok_or_else(|| anyhow!("roots of {} have no looks", session.located.arch.name()))?,
        Ok(listed) => listed,
        Err(why) => {
            let Some(found) = by_looks(session, &[]) else {
                bail!("{why}; and roots of {} have no looks", session.located.arch.name());
            };
            session.text.warning(&format!("{why}: {}", by(found.found_by)));
            found
        }
    };
    let verdict = Verdict { unknown: found.fault.is_some(), not_so: found.processes.is_empty() };
    if session.options.output.json {
        json::whole(stdout(), session, "processes", &found)?;
        return Ok(session.end(verdict));
    }
    let mut out = stdout();
    writeln!(out, "    PID   PARENT  ROOT                NAME")?;
    for process in &found.processes {
        writeln!(out, "{}", line(process).trim_end())?;
    }
    out.flush()?;
    if let Some(fault) = &found.fault {
        session.text.warning(&format!("there may be more processes: {fault}"));
    }
    Ok(session.end(verdict))
}

/// The processes whose roots are found by their looks; those that are also in the kernel's list
/// have their names.
fn by_looks(session: &Session<'_>, listed: &[Process]) -> Option<Processes> {
    let progress = Progress::new("looking for root tables", session.options.output.quiet);
    let progress = |done, total| progress.at(done, total);
    let mut found = processes_by_looks(session.image, session.located, &progress)?;
    for process in &mut found.processes {
        let known = listed.iter().find(|it| it.root.is_some() && it.root == process.root);
        if let Some(known) = known {
            *process = Process { context: process.context, ..known.clone() };
        }
    }
    Some(found)
}

/// How processes were found, for one who expects the list of tasks.
fn by(found_by: FoundBy) -> &'static str {
    match found_by {
        FoundBy::TaskList => "the kernel's list of tasks",
        FoundBy::Looks => {
            "these are root tables that were found in memory by their looks, some perhaps of \
            processes that have ended (--root takes one)"
        }
        FoundBy::ProcessTable => "these are the entries of the process table (--pid takes one)",
    }
}

fn line(process: &Process) -> String {
    let number = |number: Option<u64>| number.map_or("-".to_owned(), |it| it.to_string());
    let root = process.root.map_or("-".to_owned(), |root| format!("{root:#018x}"));
    // A name may hold anything.
    let name = process.name.as_ref().map_or(String::new(), |name| name.escape_debug().to_string());
    let name = if process.kernel { format!("[{name}]") } else { name };
    let context = match process.context {
        Some(context) => format!("  (pid {context} of the MMU)"),
        None => String::new(),
    };
    let (pid, parent) = (process.pid.map(u64::from), process.parent.map(u64::from));
    format!("{:>7}  {:>7}  {root:18}  {name}{context}", number(pid), number(parent))
}
