//! Random cases and pseudo-random choices.

use std::cell::Cell;
use std::fmt::Debug;

use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestError, TestRunner};

/// The number of random cases, or of a thread's rounds, of a test that usually runs `usual`: the
/// percentage of it that the environment variable `PGTABLE_CASES` gives, at least one. 1000 makes a
/// long run.
///
/// # Panics
/// If the variable is no number.
#[must_use]
pub fn number(usual: u32) -> u32 {
    let percent = std::env::var("PGTABLE_CASES").ok();
    let percent = percent.map_or(100, |it| it.parse().expect("PGTABLE_CASES is a percentage"));
    scaled(usual, percent)
}

fn scaled(usual: u32, percent: u32) -> u32 {
    let cases = u64::from(usual) * u64::from(percent) / 100;
    u32::try_from(cases).unwrap_or(u32::MAX).max(1)
}

/// Random cases in the [`number`] of `usual`; a failure is printed, and not kept in a file.
#[must_use]
pub fn config(usual: u32) -> Config {
    let cases = number(usual);
    Config { cases, max_shrink_iters: 2000, failure_persistence: None, ..Config::default() }
}

/// Runs `test` on the [`number`] of `cases` random values of `strategy`. Compiled once for each
/// type of value: what depends on a format stands behind `test`.
///
/// # Panics
/// With the smallest value on which `test` panics, and with its message.
pub fn run<T: Debug>(cases: u32, strategy: &BoxedStrategy<T>, test: &dyn Fn(&T)) {
    let result = TestRunner::new(config(cases)).run(strategy, |value| {
        test(&value);
        Ok(())
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, value)) => panic!("{reason}\nthe smallest case: {value:#?}"),
        Err(error) => panic!("{error}"),
    }
}

/// A generator of pseudo-random numbers (xorshift), by `&self`.
#[derive(Debug)]
pub struct Random(Cell<u64>);

impl Random {
    /// The sequence of `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Cell::new(seed | 1 << 63))
    }

    /// The next number below `bound`, which is not 0.
    pub fn below(&self, bound: u64) -> u64 {
        let mut state = self.0.get();
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.0.set(state);
        (state >> 11) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentage_of_the_cases_is_run() {
        let rows = [(64, 100, 64), (64, 10, 6), (64, 1000, 640), (3, 10, 1), (64, 0, 1)];
        for (usual, percent, cases) in rows {
            assert_eq!(scaled(usual, percent), cases, "{percent} % of {usual}");
        }
        assert_eq!(scaled(u32::MAX, 200), u32::MAX);
    }
}
