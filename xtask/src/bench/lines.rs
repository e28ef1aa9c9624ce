//! `cargo xtask bench lines`: cache lines, counted from every access that an operation makes.
//!
//! `valgrind`'s lackey prints the accesses of the program, and the program prints between them what
//! belongs to what (`pgtable/benches/instructions/src/lines`). Of an operation alone the distinct
//! lines are counted. Of CPUs side by side a line is followed from cache to cache: it moves where a
//! CPU reads what another one wrote since, or writes what another one has. What no CPU wrote since
//! the model began does not move.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::io::BufRead;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::report;

/// log2 of a line's bytes.
const LINE: u32 = 6;
/// Marks of the program, by the word that is stored to.
const END: u64 = 0;
const COUNTS: u64 = 1;
const FIRST: u64 = 2;

/// What the program did, as far as it is read.
#[derive(Debug, Default)]
pub struct Trace {
    rows: Vec<Row>,
    ranges: BTreeMap<String, Vec<(u64, u64)>>,
    /// The CPU whose operation is read.
    cpu: Option<u64>,
    counts: bool,
    ended: bool,
}

/// One operation, or one that many CPUs do.
#[derive(Debug, Default)]
struct Row {
    name: String,
    /// `None`: alone.
    cpus: Option<u64>,
    operations: u64,
    touched: HashMap<u64, bool>,
    lines: HashMap<u64, Held>,
    /// How often each line moved.
    moved: HashMap<u64, u64>,
}

/// Where a line is.
#[derive(Debug, Default)]
struct Held {
    /// The CPUs that have it as it is now.
    by: HashSet<u64>,
    /// Some CPU wrote it.
    written: bool,
}

impl Trace {
    /// Takes a line of what lackey and the program print.
    pub fn take(&mut self, line: &str) -> Result<()> {
        if let Some(name) = line.strip_prefix("row ") {
            self.begin(Row { name: name.to_owned(), ..Row::default() });
        } else if let Some(model) = line.strip_prefix("model ") {
            let (name, cpus) = model.split_once(" | ").with_context(|| line.to_owned())?;
            let cpus = Some(cpus.parse().with_context(|| line.to_owned())?);
            self.begin(Row { name: name.to_owned(), cpus, ..Row::default() });
        } else if let Some(range) = line.strip_prefix("range ") {
            let words: Vec<_> = range.split(' ').collect();
            let [name, start, end] = words[..] else { bail!("no range: {line}") };
            let (start, end) = (hex(start)?, hex(end)?);
            self.ranges.entry(name.to_owned()).or_default().push((start, end));
        } else if line == "end" {
            self.ended = true;
        } else if let (Some(access), Some(address)) = (line.get(..3), line.get(3..)) {
            let (reads, writes) = match access {
                " L " => (true, false),
                " S " => (false, true),
                " M " => (true, true),
                _ => return Ok(()),
            };
            let Some((address, bytes)) = address.split_once(',') else { return Ok(()) };
            let (address, bytes) = (hex(address)?, bytes.trim().parse().unwrap_or(1));
            self.access(address, bytes, reads, writes);
        }
        Ok(())
    }

    fn begin(&mut self, row: Row) {
        self.rows.push(row);
        (self.cpu, self.counts) = (None, false);
    }

    fn is_in(&self, name: &str, address: u64) -> Option<u64> {
        let ranges = self.ranges.get(name)?;
        ranges
            .iter()
            .find(|(start, end)| (*start..*end).contains(&address))
            .map(|it| address - it.0)
    }

    fn access(&mut self, address: u64, bytes: u64, reads: bool, writes: bool) {
        if let Some(mark) = self.is_in("marks", address) {
            if writes {
                self.mark(mark / 8);
            }
            return;
        }
        if self.is_in("stack", address).is_some() {
            return;
        }
        let (Some(cpu), Some(row)) = (self.cpu, self.rows.last_mut()) else { return };
        for line in address >> LINE..=(address + bytes.max(1) - 1) >> LINE {
            row.access(line, cpu, (reads, writes), self.counts);
        }
    }

    fn mark(&mut self, mark: u64) {
        match mark {
            END => self.cpu = None,
            COUNTS => self.counts = true,
            cpu => {
                self.cpu = Some(cpu - FIRST);
                if let (true, Some(row)) = (self.counts, self.rows.last_mut()) {
                    row.operations += 1;
                }
            }
        }
    }

    /// The rows as text: what the record holds.
    pub fn text(&self) -> Result<String> {
        if !self.ended {
            bail!("the program did not come to its end");
        }
        let mut text = String::new();
        let is_table = |line: u64| self.is_in("tables", line << LINE).is_some();
        let _ = writeln!(text, "# One operation alone: lines of tables read, written | others");
        for row in self.rows.iter().filter(|row| row.cpus.is_none()) {
            let count = |table, write| {
                let of = |(line, written): &(&u64, &bool)| {
                    is_table(**line) == table && **written == write
                };
                row.touched.iter().filter(of).count()
            };
            let _ = writeln!(
                text,
                "{} | {} {} | {} {}",
                row.name,
                count(true, false),
                count(true, true),
                count(false, false),
                count(false, true)
            );
        }
        let _ = writeln!(
            text,
            "# CPUs side by side: lines that move per operation, of tables and others | the one\n\
             # that moves most, per operation"
        );
        for row in &self.rows {
            let Some(cpus) = row.cpus else { continue };
            let per = |moves: u64| moves as f64 / row.operations.max(1) as f64;
            let of = |table| {
                let moves = row.moved.iter().filter(|(line, _)| is_table(**line) == table);
                per(moves.map(|(_, moves)| moves).sum())
            };
            let most = per(row.moved.values().copied().max().unwrap_or(0));
            let (tables, others) = (of(true), of(false));
            let _ =
                writeln!(text, "{}, {cpus} CPUs | {tables:.2} {others:.2} | {most:.2}", row.name);
        }
        Ok(text)
    }
}

impl Row {
    fn access(&mut self, line: u64, cpu: u64, (reads, writes): (bool, bool), counts: bool) {
        if counts {
            *self.touched.entry(line).or_default() |= writes;
        }
        if self.cpus.is_none() {
            return;
        }
        let held = self.lines.entry(line).or_default();
        let missed = held.written && !held.by.contains(&cpu);
        let taken = writes && held.by.iter().any(|&by| by != cpu);
        let moves = reads && missed || taken || writes && missed;
        if writes {
            held.by.clear();
            held.written = true;
        }
        held.by.insert(cpu);
        if moves && counts {
            *self.moved.entry(line).or_default() += 1;
        }
    }
}

fn hex(text: &str) -> Result<u64> {
    let digits = text.trim().trim_start_matches("0x");
    u64::from_str_radix(digits, 16).with_context(|| text.to_owned())
}

/// Reads what lackey and the program print.
pub fn read(output: impl BufRead) -> Result<Trace> {
    let mut trace = Trace::default();
    for line in output.split(b'\n') {
        trace.take(&String::from_utf8_lossy(&line?))?;
    }
    Ok(trace)
}

/// The numbers of each row in a record.
fn rows(text: &str) -> BTreeMap<&str, Vec<f64>> {
    let row = |line: &'_ str| !line.starts_with('#') && line.contains(" | ");
    let numbers = |text: &str| text.split([' ', '|']).filter_map(|it| it.parse().ok()).collect();
    text.lines()
        .filter(|line| row(line))
        .filter_map(|line| line.split_once(" | "))
        .map(|(name, rest)| (name, numbers(rest)))
        .collect()
}

/// Compares with the record at `path`, or renews it.
///
/// Another compiler makes other code: then nothing is a failure.
pub fn conclude(path: &Path, text: &str, rustc: &str, renew: bool) -> Result<()> {
    let head = format!("# rustc {rustc}, by `cargo xtask bench lines -- --record`\n");
    if renew {
        return Ok(fs::write(path, head + text)?);
    }
    let record = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    if !record.starts_with(&head) {
        report::note("the record is of another rustc: what grew is no failure");
        return Ok(());
    }
    let grown = grown(&record, text);
    if !grown.is_empty() {
        bail!("more lines than on record:\n  {}", grown.join("\n  "));
    }
    Ok(())
}

/// The rows of `text` of which any number is larger than in `record`.
///
/// Of one operation alone only lines of tables count: how many lines the other values have, which
/// stand on the stack of the program, depends on where that begins, and so on the environment.
fn grown(record: &str, text: &str) -> Vec<String> {
    let (before, now) = (rows(record), rows(text));
    let judged = |name: &str| if name.contains(" CPU") { usize::MAX } else { 2 };
    let larger = |name: &str, now: &[f64], before: &[f64]| {
        now.iter().zip(before).take(judged(name)).any(|(now, before)| now > before)
    };
    now.iter()
        .filter_map(|(name, numbers)| Some((name, numbers, before.get(name)?)))
        .filter(|(name, now, before)| larger(name, now, before))
        .map(|(name, now, before)| format!("{name}: {before:?} on record, {now:?} now"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(lines: &[&str]) -> Trace {
        let mut trace = Trace::default();
        for line in
            ["range stack 0x9000 0xa000", "range marks 0x100 0x200", "range tables 0x1000 0x2000"]
        {
            trace.take(line).unwrap();
        }
        lines.iter().for_each(|line| trace.take(line).unwrap());
        trace.take("end").unwrap();
        trace
    }

    #[test]
    fn lines_of_an_operation_are_counted_once() {
        let trace = trace(&[
            "==1== Lackey",
            "row map",
            " S 1000,8",
            " S 00000108,8",
            " S 00000110,8",
            "I  00001100,4",
            " L 1000,8",
            " L 1040,8",
            " S 1040,8",
            " M 3000,8",
            " L 303c,8",
            " S 9010,8",
            " S 00000100,8",
            " L 1080,8",
        ]);
        let text = trace.text().unwrap();
        assert_eq!(rows(&text)["map"], [1.0, 1.0, 1.0, 1.0], "{text}");
        assert!(Trace::default().text().is_err());
    }

    #[test]
    fn a_line_moves_when_another_cpu_needs_it() {
        let begins = |cpu: u64| format!(" S {:x},8", 0x110 + cpu * 8);
        let (end, counts) = (" S 100,8", " S 108,8");
        let (first, second) = (begins(0), begins(1));
        let turn = [
            &first,
            " M 1000,8",
            " L 1040,8",
            " S 3000,8",
            end,
            &second,
            " M 1000,8",
            " L 1040,8",
            " S 3040,8",
            end,
        ];
        let mut lines = vec!["model add | 2"];
        lines.extend(turn);
        lines.push(counts);
        lines.extend(turn);
        lines.extend(turn);
        let text = trace(&lines).text().unwrap();
        // The word that both write moves each time: what both read, and what each has alone, never.
        assert_eq!(rows(&text)["add, 2 CPUs"], [1.0, 0.0, 1.0], "{text}");
    }

    #[test]
    fn what_grows_is_named() {
        let record = "# rustc 1\nmap | 4 1 | 0 1\nadd, 2 CPUs | 1.00 0.00 | 1.00\n";
        assert!(grown(record, record).is_empty());
        let now = "map | 4 1 | 1 2\nadd, 2 CPUs | 1.00 0.00 | 0.50\nnew | 9 9 | 9 9\n";
        assert!(grown(record, now).is_empty(), "lines of other values");
        let now = "map | 4 2 | 0 1\nadd, 2 CPUs | 1.00 0.00 | 1.50\n";
        assert_eq!(
            grown(record, now),
            [
                "add, 2 CPUs: [1.0, 0.0, 1.0] on record, [1.0, 0.0, 1.5] now",
                "map: [4.0, 1.0, 0.0, 1.0] on record, [4.0, 2.0, 0.0, 1.0] now",
            ]
        );
    }
}
