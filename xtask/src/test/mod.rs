//! `cargo xtask test`: everything that must hold before a change goes in, step by step.
//!
//! The steps are data (see [`steps`]); this runs those that were asked for, in two lanes (see
//! [`lanes`]), and closes with a table of outcomes and times. A step that takes twice its budget of
//! CPU time fails: wall time is the machine's, which may do other things too.

mod claims;
mod examples;
mod lanes;
mod loom;
mod no_std;
mod package;
mod sanitize;
mod steps;
mod times;
mod verbs;
mod width;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::report;
use crate::xtask::Xtask;
use sanitize::Tool;
use steps::{STEPS, Step};
use times::Times;

/// What may be asked for on the command line.
#[derive(Args)]
pub struct Options {
    /// Only these steps
    #[arg(value_parser = PossibleValuesParser::new(STEPS.iter().map(|step| step.name)))]
    names: Vec<String>,
    /// Go on after a step that failed
    #[arg(long)]
    keep_going: bool,
    /// Leave out what runs on an emulated processor
    #[arg(long)]
    quick: bool,
    /// Tell the steps, and run none
    #[arg(long)]
    list: bool,
    /// Run no step, but the libraries' tests under this tool, one of address, thread and valgrind
    #[arg(long, value_name = "TOOL", num_args = 0..=1, default_missing_value = "address")]
    sanitize: Option<Tool>,
}

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed(Times),
    Failed(Times),
    NotRun,
}

impl Options {
    /// What is wrong with the options together.
    pub fn wrong(&self) -> Option<String> {
        let none = chosen(&self.names, self.quick).is_empty();
        none.then(|| "--quick leaves out each of these steps".to_owned())
    }
}

/// Runs the steps; fails if one of them does.
pub fn run(xtask: &Xtask, options: &Options) -> Result<ExitCode> {
    if options.list {
        for step in STEPS {
            println!("{:<14}{}", step.name, step.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(tool) = options.sanitize {
        return sanitize::run(xtask, tool).map(|()| ExitCode::SUCCESS);
    }
    let steps = chosen(&options.names, options.quick);
    let outcomes = match steps[..] {
        [step] => vec![run_one(step, || (step.run)(xtask))],
        _ => {
            let needed: Vec<_> = steps.iter().flat_map(|step| step.tools).copied().collect();
            xtask.toolbox.set_up(&needed)?;
            lanes::run(&steps, options.keep_going, &xtask.toolbox.arguments())
        }
    };
    report::note(&format!("summary\n{}", table(&steps, &outcomes)));
    let passed = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Passed(_)));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String], quick: bool) -> Vec<&'static Step> {
    let named = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    STEPS.iter().filter(named).filter(|step| !(quick && step.emulated)).collect()
}

/// Runs a step under a heading.
fn run_one(step: &Step, run: impl FnOnce() -> Result<()>) -> Outcome {
    report::heading(&format!("{}: {}", step.name, step.about));
    let clock = times::Clock::start();
    let result = run();
    let times = clock.stop();
    let result = result.and_then(|()| times.within(step.cpu_seconds));
    report::note(&times.telling(step.name));
    match result {
        Ok(()) => Outcome::Passed(times),
        Err(error) => {
            report::failure(&error);
            Outcome::Failed(times)
        }
    }
}

fn table(steps: &[&Step], outcomes: &[Outcome]) -> String {
    let mut table = format!("  {:<22}{:>10}{:>12}{:>10}\n", "", "wall", "CPU", "budget");
    let mut total = Times::default();
    for (step, outcome) in steps.iter().zip(outcomes) {
        let (word, times) = match *outcome {
            Outcome::Passed(times) => ("ok", times),
            Outcome::Failed(times) => ("FAILED", times),
            Outcome::NotRun => ("not run", Times::default()),
        };
        total = total + times;
        let budget = step.cpu_seconds;
        table.push_str(&format!("  {:<14}{word:<8}{times}{budget:>8} s\n", step.name));
    }
    table + &format!("  {:<22}{total}", "sum")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use anyhow::bail;

    use super::*;

    #[test]
    fn a_step_fails_by_its_work_or_by_its_time() {
        let step = STEPS[0];
        assert!(matches!(run_one(&step, || Ok(())), Outcome::Passed(_)));
        assert!(matches!(run_one(&step, || bail!("no")), Outcome::Failed(_)));
        let hasty = Step { cpu_seconds: 0, ..step };
        let slow = || {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(200) {
                std::hint::spin_loop();
            }
            Ok(())
        };
        assert!(matches!(run_one(&hasty, slow), Outcome::Failed(_)));
    }

    #[test]
    fn the_table_has_a_row_for_each_step() {
        let steps: Vec<_> = STEPS.iter().take(3).collect();
        let times = Times::default();
        let outcomes = [Outcome::Passed(times), Outcome::Failed(times), Outcome::NotRun];
        let table = table(&steps, &outcomes);
        let words: Vec<_> =
            table.lines().map(|row| row.get(16..24).unwrap_or_default().trim()).collect();
        assert_eq!(words, ["", "ok", "FAILED", "not run", ""]);
    }

    #[test]
    fn quick_leaves_out_emulation() {
        assert!(chosen(&[], true).iter().all(|step| !step.emulated));
        assert_eq!(chosen(&[], false).len(), STEPS.len());
        let names: Vec<_> =
            chosen(&["microvm".into(), "fmt".into()], true).iter().map(|step| step.name).collect();
        assert_eq!(names, ["fmt"]);
    }
}
