//! Counting a bench’s goals.
//!
//! A bench prints a line for each of its goals that holds the word `goal` and ends in the verdict:
//! `ok` if this run reached it, `short` if not.

use std::fmt;

/// Goals reached, and the lines of those that were not.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Goals {
    reached: usize,
    short: Vec<String>,
}

impl Goals {
    /// Takes a line of the bench’s output.
    pub fn count(&mut self, line: &str) {
        let words =
            line.split_whitespace().skip_while(|word| word.trim_end_matches(':') != "goal").skip(1);
        match words.last() {
            Some("ok") => self.reached += 1,
            Some("short") => self.short.push(line.trim().to_owned()),
            _ => {}
        }
    }
}

impl fmt::Display for Goals {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (reached, short) = (self.reached, self.short.len());
        if reached + short == 0 {
            return write!(out, "no goals");
        }
        write!(out, "{reached} of {} goals reached", reached + short)?;
        self.short.iter().try_for_each(|line| write!(out, "\n  {line}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_lines_with_a_verdict() {
        let mut goals = Goals::default();
        assert_eq!(goals.to_string(), "no goals");
        for line in [
            "map, cursor        2.0 ns   goal < 6.4 ns   ok",
            "goal cursor-map 0.310 0.500 ok",
            "goal: unmap 4.7 < 2.6 short",
            "the goal of this bench is ok to read",
            "goal",
            "short",
        ] {
            goals.count(line);
        }
        assert_eq!(goals.to_string(), "2 of 3 goals reached\n  goal: unmap 4.7 < 2.6 short");
    }
}
