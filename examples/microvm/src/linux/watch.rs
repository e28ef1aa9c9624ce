//! What happens next in a guest: it speaks, it ends, or its time is over.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::compare::Comparison;
use super::given::Statement;
use super::{Event, Options};
use crate::report::Failure;

/// What a machine lets the one who watches it do.
pub trait Watched {
    /// Types into the guest's console.
    fn type_in(&self, bytes: &[u8]);

    /// Its bytes of memory, from address 0 on.
    fn memory(&self) -> u64;

    /// Stops the guest, and compares its statement with its tables.
    fn compare(&self, statement: &Statement) -> Result<Comparison, Failure>;

    /// Where a guest is that says nothing any more, and what its last words were. Ends nothing.
    fn diagnosis(&self) -> String;
}

/// Watches until the guest ends; returns what the last line says of it.
///
/// # Errors
/// The guest ended badly, or not at all, or lied.
pub fn watch(
    guest: &impl Watched,
    events: &Receiver<Event>,
    options: &Options,
    verbose: bool,
) -> Result<String, Failure> {
    let deadline = Instant::now() + options.limit();
    let mut statement = Statement::new(guest.memory());
    let mut outcome: Option<Comparison> = None;
    let mut answered = false;
    if !options.introspect {
        type_lines(guest, options);
    }
    loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Said(line)) => {
                if let Some(typed) = line.strip_prefix("@ bye ") {
                    answered = options.typed.first().is_none_or(|line| line == typed);
                } else if statement.take(&line)? {
                    let comparison = guest.compare(&statement)?;
                    show(&comparison, verbose);
                    outcome = Some(comparison);
                    type_lines(guest, options);
                }
            }
            Ok(Event::Ended(true, how)) => {
                return match outcome {
                    Some(it) if it.mismatches > 0 => Err(format!(
                        "{} mismatches, the first: {}",
                        it.mismatches,
                        it.shown.join("; ")
                    )
                    .into()),
                    Some(it) if it.pages == 0 || it.symbols == 0 => {
                        Err("nothing was compared".into())
                    }
                    Some(_) if !answered => Err("what was typed did not reach the guest".into()),
                    Some(it) => Ok(it.ok()),
                    None if options.introspect => {
                        Err(format!("{how}, and said nothing of its pages").into())
                    }
                    None => Ok(format!("ok {how}")),
                };
            }
            Ok(Event::Ended(false, how)) => return Err(format!("{how}{}", after(guest)).into()),
            Ok(Event::Broken(how)) => return Err(format!("{how}{}", after(guest)).into()),
            Err(RecvTimeoutError::Timeout) => {
                let seconds = options.limit;
                return Err(
                    format!("the guest did not end within {seconds} s{}", after(guest)).into()
                );
            }
            Err(RecvTimeoutError::Disconnected) => return Err("all vCPUs are gone".into()),
        }
    }
}

fn after(guest: &impl Watched) -> String {
    let diagnosis = guest.diagnosis();
    if diagnosis.is_empty() { String::new() } else { format!("; {diagnosis}") }
}

fn type_lines(guest: &impl Watched, options: &Options) {
    let default = if options.introspect { vec!["go on".to_owned()] } else { Vec::new() };
    let lines = if options.typed.is_empty() { &default } else { &options.typed };
    for line in lines {
        guest.type_in(format!("{line}\n").as_bytes());
    }
}

/// Says what was found; the whole address space with `verbose`, else its beginning.
fn show(comparison: &Comparison, verbose: bool) {
    let sizes: Vec<_> = comparison
        .sizes
        .iter()
        .map(|(shift, count)| format!("{count} of {} KiB", 1_u64 << shift.saturating_sub(10)))
        .collect();
    println!("linux: the guest stands still; its /init has leaves: {}", sizes.join(", "));
    let kinds: Vec<_> =
        comparison.kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    println!("linux: pages: {}", kinds.join(", "));
    let shown = if verbose { usize::MAX } else { 8 };
    for (leaf, bytes) in comparison.ranges.iter().take(shown) {
        println!("linux:   {leaf}, {} KiB", bytes >> 10);
    }
    if comparison.ranges.len() > shown {
        println!("linux:   … {} ranges in all (--verbose lists them)", comparison.ranges.len());
    }
    for text in &comparison.shown {
        println!("linux: MISMATCH {text}");
    }
}

/// How long stopping all vCPUs may take: a run ends at the next tick.
pub const PATIENCE: Duration = Duration::from_secs(10);
