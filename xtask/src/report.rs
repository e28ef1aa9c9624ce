//! What the commands say about their own work: short lines on standard error.

use std::time::Duration;

use anyhow::Error;
use indicatif::ProgressBar;

/// Says what is being done, or what was found.
pub fn note(text: &str) {
    eprintln!("xtask: {text}");
}

/// Sets off what follows.
pub fn heading(text: &str) {
    eprintln!("\nxtask: == {text}");
}

/// Says why a command failed: the error and what it came from.
pub fn failure(error: &Error) {
    eprintln!("xtask: error: {error:#}");
}

/// Says what is being done and turns a spinner until dropped; on a terminal only, elsewhere the
/// line is all.
pub fn busy(text: &str) -> Busy {
    note(text);
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    Busy(spinner)
}

/// A spinner that goes away when dropped.
#[must_use = "the spinner goes away when this is dropped"]
pub struct Busy(ProgressBar);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
