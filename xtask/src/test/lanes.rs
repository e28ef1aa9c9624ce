//! Steps side by side: those that compute, and those that wait for emulators.
//!
//! Each step is a process of its own (`cargo xtask test NAME`), so that its output stays together:
//! it is shown when the step ends. A step that has not ended when the time for all is over is
//! ended, and what it said is shown.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use super::steps::Step;
use super::{Outcome, Times};
use crate::report;

/// All steps together take less, whatever else the machine does; who waits for us waits 90 minutes.
const ALL: Duration = Duration::from_secs(80 * 60);
/// How often a step is asked whether it has ended.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs `steps`, those that are emulated beside the others, each lane in order; after a failure
/// only with `keep_going`. One outcome for each.
pub fn run(steps: &[&Step], keep_going: bool, options: &[String]) -> Vec<Outcome> {
    let (failed, shown) = (AtomicBool::new(false), Mutex::new(()));
    let deadline = Instant::now() + ALL;
    let outcomes = Mutex::new(vec![Outcome::NotRun; steps.len()]);
    let lane = |emulated: bool| {
        for (number, step) in steps.iter().enumerate().filter(|(_, it)| it.emulated == emulated) {
            if failed.load(Ordering::Relaxed) && !keep_going {
                return;
            }
            report::note(&format!("{} begins", step.name));
            let outcome = run_one(step, options, deadline, &shown).unwrap_or_else(|error| {
                report::failure(&error.context(step.name));
                Outcome::Failed(Times::default())
            });
            failed.fetch_or(!matches!(outcome, Outcome::Passed(_)), Ordering::Relaxed);
            if let Ok(mut outcomes) = outcomes.lock() {
                outcomes[number] = outcome;
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(|| lane(true));
        lane(false);
    });
    outcomes.into_inner().unwrap_or_default()
}

fn run_one(
    step: &Step,
    options: &[String],
    deadline: Instant,
    shown: &Mutex<()>,
) -> Result<Outcome> {
    let start = Instant::now();
    let mut output = tempfile::tempfile()?;
    let mut child = Command::new(env::current_exe()?)
        .args(["test", step.name])
        .args(options)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?)
        .spawn()
        .context("starting a step")?;
    let ended = wait(&mut child, deadline)?;
    let said = everything(&mut output)?;
    let _alone = shown.lock();
    std::io::stdout().write_all(said.as_bytes())?;
    if ended.is_none() {
        report::note(&format!(
            "{}: ended, as all steps together took {} s",
            step.name,
            ALL.as_secs()
        ));
    }
    let times = Times { wall: start.elapsed(), cpu: Times::told(&said, step.name) };
    Ok(if ended == Some(true) { Outcome::Passed(times) } else { Outcome::Failed(times) })
}

/// Whether the child succeeded; `None`: the time is over, and the child and all its children are
/// ended.
fn wait(child: &mut Child, deadline: Instant) -> Result<Option<bool>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if Instant::now() > deadline {
            end_with_children(child.id());
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

/// Ends a process, those that it started, and so on.
fn end_with_children(process: u32) {
    let children = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
    let threads = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let of_threads = threads.filter_map(|it| fs::read_to_string(it.path().join("children")).ok());
    let all: Vec<String> = children.into_iter().chain(of_threads).collect();
    if let Some(pid) = i32::try_from(process).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, Signal::KILL);
    }
    let mut all: Vec<u32> =
        all.iter().flat_map(|it| it.split_whitespace()).filter_map(|it| it.parse().ok()).collect();
    all.dedup();
    all.into_iter().for_each(end_with_children);
}

fn everything(output: &mut File) -> Result<String> {
    let mut bytes = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended_with_what_it_started() -> Result<()> {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut sleeper = [0; 16];
        let length = child.stdout.as_mut().context("a pipe")?.read(&mut sleeper)?;
        let sleeper = String::from_utf8_lossy(&sleeper[..length]).trim().to_owned();
        assert_eq!(wait(&mut child, Instant::now())?, None);
        let state = || fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
        let gone = || state().is_empty() || state().contains(") Z ");
        let patience = Instant::now() + Duration::from_secs(10);
        while !gone() && Instant::now() < patience {
            thread::sleep(PAUSE);
        }
        assert!(gone(), "{}", state());
        Ok(())
    }
}
