//! `cargo xtask test`: everything that must hold before a change goes in, step by step.
//!
//! The steps are data (see [`steps`]); this runs those that were asked for, each under a heading,
//! and closes with a table of outcomes and times.

#[cfg(test)]
mod claims;
mod examples;
mod loom;
mod no_std;
mod package;
mod sanitize;
mod steps;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use crate::report;
use crate::xtask::Xtask;
use sanitize::Tool;
use steps::{STEPS, Step};

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
    Passed(Duration),
    Failed(Duration),
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
            println!("{:<10}{}", step.name, step.about);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(tool) = options.sanitize {
        return sanitize::run(xtask, tool).map(|()| ExitCode::SUCCESS);
    }
    let steps = chosen(&options.names, options.quick);
    let outcomes = run_each(&steps, options.keep_going, |step| (step.run)(xtask));
    report::note(&format!("summary\n{}", table(&steps, &outcomes)));
    let passed = outcomes.iter().all(|outcome| matches!(outcome, Outcome::Passed(_)));
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn chosen(names: &[String], quick: bool) -> Vec<&'static Step> {
    let named = |step: &&Step| names.is_empty() || names.iter().any(|name| name == step.name);
    STEPS.iter().filter(named).filter(|step| !(quick && step.emulated)).collect()
}

/// Runs `steps` in order, after a failure only with `keep_going`; one outcome for each.
fn run_each(steps: &[&Step], keep_going: bool, run: impl Fn(&Step) -> Result<()>) -> Vec<Outcome> {
    let mut failed = false;
    let mut outcomes = Vec::new();
    for step in steps {
        if failed && !keep_going {
            outcomes.push(Outcome::NotRun);
            continue;
        }
        report::heading(&format!("{}: {}", step.name, step.about));
        let start = Instant::now();
        let result = run(step);
        let time = start.elapsed();
        if let Err(error) = &result {
            report::failure(error);
            failed = true;
        }
        outcomes.push(if result.is_ok() { Outcome::Passed(time) } else { Outcome::Failed(time) });
    }
    outcomes
}

fn table(steps: &[&Step], outcomes: &[Outcome]) -> String {
    let mut table = String::new();
    let mut total = Duration::ZERO;
    for (step, outcome) in steps.iter().zip(outcomes) {
        let (word, time) = match *outcome {
            Outcome::Passed(time) => ("ok", time),
            Outcome::Failed(time) => ("FAILED", time),
            Outcome::NotRun => ("not run", Duration::ZERO),
        };
        total += time;
        table.push_str(&format!("  {:<10}{word:<8}{:>8.1} s\n", step.name, time.as_secs_f64()));
    }
    table + &format!("  {:<18}{:>8.1} s", "total", total.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    fn outcome_words(keep_going: bool) -> String {
        let steps: Vec<_> = STEPS.iter().take(3).collect();
        let second_fails =
            |step: &Step| if step.name == STEPS[1].name { bail!("no") } else { Ok(()) };
        let outcomes = run_each(&steps, keep_going, second_fails);
        let rows = table(&steps, &outcomes);
        rows.lines()
            .map(|row| row.get(12..20).unwrap_or_default().trim_end().to_owned() + ",")
            .collect()
    }

    #[test]
    fn a_failure_ends_it_unless_told_otherwise() {
        assert_eq!(outcome_words(false), "ok,FAILED,not run,,");
        assert_eq!(outcome_words(true), "ok,FAILED,ok,,");
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
