//! Random cases and pseudo-random choices.

use std::cell::Cell;
use std::fmt::Debug;

use proptest::strategy::BoxedStrategy;
use proptest::test_runner::{Config, TestError, TestRunner};

/// Runs `test` on `cases` random values of `strategy`. Compiled once for each type of value: what
/// depends on a format stands behind `test`.
///
/// # Panics
/// With the smallest value on which `test` panics, and with its message.
pub fn run<T: Debug>(cases: u32, strategy: &BoxedStrategy<T>, test: &dyn Fn(&T)) {
    let config =
        Config { cases, max_shrink_iters: 2000, failure_persistence: None, ..Config::default() };
    let result = TestRunner::new(config).run(strategy, |value| {
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
