//! How long a step takes, on the clock and of the processors.

use std::fmt;
use std::fs;
use std::ops::Add;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// What a step took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    pub wall: Duration,
    /// Of all processors, for this process and for those that it started and that have ended.
    pub cpu: Duration,
}

impl Times {
    /// Fails if it was twice the budget or more.
    pub fn within(self, cpu_seconds: u64) -> Result<()> {
        if self.cpu > Duration::from_secs(2 * cpu_seconds) {
            let took = self.cpu.as_secs_f64();
            bail!("it took {took:.1} s of CPU time, and its budget is {cpu_seconds} s");
        }
        Ok(())
    }

    /// What is said of the step `name` for [`told`](Self::told).
    pub fn telling(self, name: &str) -> String {
        let [wall, cpu] = [self.wall, self.cpu].map(|time| time.as_secs_f64());
        format!("{name} took {wall:.1} s, {cpu:.1} s of CPU time")
    }

    /// The CPU time in what was said.
    pub fn told(said: &str, name: &str) -> Duration {
        let begin = format!("xtask: {name} took ");
        let line = said.lines().rev().find_map(|line| line.strip_prefix(&begin));
        let cpu = line.and_then(|line| line.split(' ').nth(2)?.parse().ok());
        cpu.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default()
    }
}

impl Add for Times {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { wall: self.wall + other.wall, cpu: self.cpu + other.cpu }
    }
}

impl fmt::Display for Times {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [wall, cpu] = [self.wall, self.cpu].map(|time| time.as_secs_f64());
        write!(out, "{wall:>8.1} s{cpu:>10.1} s")
    }
}

/// A running measurement.
pub struct Clock {
    start: Instant,
    cpu: Duration,
}

impl Clock {
    /// Begins.
    pub fn start() -> Self {
        Self { start: Instant::now(), cpu: cpu_so_far() }
    }

    /// What it took since then.
    pub fn stop(&self) -> Times {
        Times { wall: self.start.elapsed(), cpu: cpu_so_far().saturating_sub(self.cpu) }
    }
}

/// The CPU time of this process and of those below it that were waited for.
fn cpu_so_far() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks = ticks(&stat).unwrap_or_default() as f64;
    Duration::from_secs_f64(ticks / rustix::param::clock_ticks_per_second() as f64)
}

/// The sum of utime, stime, cutime and cstime: fields 14 to 17 of proc(5)'s `stat`. The name of the
/// program, the second field, stands in parentheses and may hold spaces.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let times = fields.split(' ').skip(11).take(4).map(|field| field.parse::<u64>().ok());
    times.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_four_fields() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 200 0 0 10 20 300 4000 20 0 1 0 5";
        assert_eq!(ticks(stat), Some(4330));
        assert_eq!(ticks(""), None);
    }

    #[test]
    fn a_budget_is_broken_at_its_double() {
        let took = |seconds| Times { cpu: Duration::from_secs(seconds), ..Times::default() };
        assert!(took(20).within(10).is_ok());
        let error = took(21).within(10).expect_err("more than twice");
        assert_eq!(error.to_string(), "it took 21.0 s of CPU time, and its budget is 10 s");
    }

    #[test]
    fn the_time_of_a_step_is_read_from_what_it_said() {
        let times = Times { wall: Duration::from_secs(3), cpu: Duration::from_millis(4500) };
        let said = format!("x\nxtask: {}\nxtask: summary\n", times.telling("fmt"));
        assert_eq!(Times::told(&said, "fmt"), times.cpu);
        assert_eq!(Times::told(&said, "test"), Duration::ZERO);
    }
}
