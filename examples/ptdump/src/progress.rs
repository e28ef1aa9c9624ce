//! A bar on the terminal while long work is done; elsewhere nothing.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that goes away when dropped.
pub struct Progress(ProgressBar);

impl Progress {
    /// A bar for `what`. It is drawn on standard error, if that is a terminal and nobody wants it
    /// quiet.
    pub fn new(what: &'static str, quiet: bool) -> Self {
        if quiet {
            return Self(ProgressBar::hidden());
        }
        let bar = ProgressBar::new(1000).with_message(what);
        if let Ok(style) = ProgressStyle::with_template("{msg} {bar:40} {percent}% {elapsed}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(bar)
    }

    /// `done` of `total` is done.
    pub fn at(&self, done: u64, total: u64) {
        let part = u128::from(done.min(total)) * 1000 / u128::from(total.max(1));
        let part = u64::try_from(part).unwrap_or(0);
        if part != self.0.position() {
            self.0.set_position(part);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
