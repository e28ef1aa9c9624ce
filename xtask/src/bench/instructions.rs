//! `cargo xtask bench instructions`: counts by `callgrind`, beside those on record and the goals.
//!
//! The program prints what each total is of, and `callgrind` writes a file for each: both in one
//! order.

use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::report;

/// How much more than on record is a failure.
const MORE: f64 = 1.03;

/// What `callgrind` counted of an operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Counted {
    name: String,
    instructions: f64,
    /// Locked instructions: what an operation costs in cycles differs most by these.
    locked: f64,
}

/// A row of the record: `name | instructions | locked | goal`, of which locked instructions that
/// were not counted yet and the goal of instructions may be missing.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    instructions: f64,
    locked: Option<f64>,
    goal: Option<Goal>,
}

/// How many instructions an operation may take.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    /// So many.
    Most(f64),
    /// So many times those of the row of the same name with [`BY_HAND`]: written `1.3x`.
    Times(f64),
}

/// What the name of a row ends with that is the same work written out by hand.
const BY_HAND: &str = ", by hand";

impl Goal {
    fn parse(cell: &str) -> Result<Self> {
        Ok(match cell.strip_suffix('x') {
            Some(times) => Self::Times(times.parse()?),
            None => Self::Most(cell.parse()?),
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Most(most) => write!(out, "{most}"),
            Self::Times(times) => write!(out, "{times}x"),
        }
    }
}

/// The record: the compiler, and the rows.
#[derive(Debug, Default, PartialEq)]
pub struct Record {
    rustc: String,
    rows: Vec<Row>,
}

impl Record {
    /// Reads the record.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    fn parse(text: &str) -> Result<Self> {
        let mut record = Self::default();
        for line in text.lines().filter(|line| !line.is_empty()) {
            if let Some(rustc) = line.strip_prefix("# rustc ") {
                rustc.clone_into(&mut record.rustc);
                continue;
            }
            if line.starts_with('#') {
                continue;
            }
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            let [name, instructions, locked, goal] = cells[..] else { bail!("no row: {line}") };
            let number = |cell: &str| cell.parse().with_context(|| line.to_owned());
            record.rows.push(Row {
                name: name.to_owned(),
                instructions: number(instructions)?,
                locked: (!locked.is_empty()).then(|| number(locked)).transpose()?,
                goal: (!goal.is_empty())
                    .then(|| Goal::parse(goal).with_context(|| line.to_owned()))
                    .transpose()?,
            });
        }
        Ok(record)
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// What is written after `counted` was measured by `rustc`: the goals stay.
    fn renewed(&self, counted: &[Counted], rustc: &str) -> String {
        let mut text = format!(
            "# Operation | instructions | locked ones of them | goal of instructions, by\n\
             # `cargo xtask bench instructions -- --record`.\n# rustc {rustc}\n"
        );
        for Counted { name, instructions, locked } in counted {
            let goal = self.row(name).and_then(|row| row.goal);
            let goal = goal.map(|goal| format!(" {goal}")).unwrap_or_default();
            let _ = writeln!(text, "{name} | {instructions:.1} | {locked:.1} |{goal}");
        }
        text
    }

    /// What is said of `counted`, and the rows that grew by too much: instructions by more than 3
    /// %, locked ones by a tenth of one.
    fn judge(&self, counted: &[Counted]) -> (String, Vec<String>) {
        let (mut text, mut grown) = (String::new(), Vec::new());
        let width = counted.iter().map(|it| it.name.len()).max().unwrap_or(0);
        for Counted { name, instructions, locked } in counted {
            let before = self.row(name);
            let change = before.map(|before| (instructions / before.instructions - 1.0) * 100.0);
            let change = change.map(|change| format!("{change:+.1} %")).unwrap_or_default();
            let _ =
                writeln!(text, "{name:width$}  {instructions:>8.1}  {change:>8}  {locked:>5.1}");
            let Some(before) = before else { continue };
            if *instructions > before.instructions * MORE {
                let before = before.instructions;
                grown.push(format!("{name}: {before:.1} on record, {instructions:.1} now"));
            }
            if let Some(before) = before.locked.filter(|before| *locked > before + 0.05) {
                grown.push(format!("{name}: {before:.1} locked on record, {locked:.1} now"));
            }
        }
        for Counted { name, instructions, .. } in counted {
            let Some(goal) = self.row(name).and_then(|row| row.goal) else { continue };
            let by_hand = counted.iter().find(|it| it.name.strip_suffix(BY_HAND) == Some(name));
            let (measured, bound) = match (goal, by_hand) {
                (Goal::Most(most), _) => (*instructions, most),
                (Goal::Times(times), Some(by_hand)) => (instructions / by_hand.instructions, times),
                (Goal::Times(_), None) => continue,
            };
            // What is printed decides.
            let measured = format!("{measured:.2}");
            let reached = measured.parse::<f64>().is_ok_and(|measured| measured <= bound);
            let verdict = if reached { "ok" } else { "short" };
            let name = name.replace(", ", "-").replace(' ', "-");
            let _ = writeln!(text, "goal {name} {measured} {goal} {verdict}");
        }
        (text, grown)
    }
}

/// What `callgrind` counted, by the program's rows: totals of instructions and of locked ones.
pub fn counted(rows: &str, totals: &[[u64; 2]]) -> Result<Vec<Counted>> {
    let rows: Vec<_> = rows.lines().filter_map(|line| line.split_once('\t')).collect();
    ensure!(
        rows.len() == totals.len() && !rows.is_empty(),
        "{} rows and {} totals of callgrind",
        rows.len(),
        totals.len()
    );
    rows.iter()
        .zip(totals)
        .map(|(&(name, operations), totals)| {
            let operations: f64 = operations.parse().with_context(|| name.to_owned())?;
            // What a row does once is not of the operation: a tenth is exact enough.
            let [instructions, locked] =
                totals.map(|total| (total as f64 / operations * 10.0).round() / 10.0);
            Ok(Counted { name: name.to_owned(), instructions, locked })
        })
        .collect()
}

/// The totals in the files that `callgrind` wrote beside `base`, in order.
pub fn totals(base: &Path) -> Result<Vec<[u64; 2]>> {
    let mut totals = Vec::new();
    for part in 1.. {
        let mut path = base.as_os_str().to_owned();
        path.push(format!(".{part}"));
        let path = PathBuf::from(path);
        let Ok(text) = fs::read_to_string(&path) else { break };
        totals.push(total(&text).with_context(|| path.display().to_string())?);
    }
    Ok(totals)
}

/// The totals in one file: instructions, and bus events, which are left out if there are none.
fn total(text: &str) -> Result<[u64; 2]> {
    let line = |what| text.lines().find_map(|line: &str| line.strip_prefix(what));
    let events = line("events: ").context("no events")?;
    ensure!(events.trim() == "Ir Ge", "other events: {events}");
    let mut numbers = line("totals: ").context("no total")?.split_whitespace().map(str::parse);
    let instructions = numbers.next().context("no instructions")??;
    Ok([instructions, numbers.next().transpose()?.unwrap_or(0)])
}

/// Compares with the record at `path`, or renews it.
///
/// Another compiler makes other code: then nothing is a failure.
pub fn conclude(path: &Path, counted: &[Counted], rustc: &str, renew: bool) -> Result<String> {
    let record = Record::read(path)
        .or_else(|error| if renew { Ok(Record::default()) } else { Err(error) })?;
    let (text, grown) = record.judge(counted);
    if renew {
        fs::write(path, record.renewed(counted, rustc))?;
        return Ok(text);
    }
    if record.rustc != rustc {
        report::note(&format!(
            "the record is of rustc {}, and this is {rustc}: what grew is no failure",
            record.rustc
        ));
        return Ok(text);
    }
    if !grown.is_empty() {
        print!("{text}");
        bail!("more instructions than on record:\n  {}", grown.join("\n  "));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# Words.\n# rustc 1.95.0\nx86, map | 100.0 | 1.0 | 90\nx86, unmap | 50.0 | |\n";

    fn row(name: &str, instructions: f64, locked: f64) -> Counted {
        Counted { name: name.to_owned(), instructions, locked }
    }

    #[test]
    fn a_record_is_read_and_renewed() {
        let record = Record::parse(TEXT).unwrap();
        assert_eq!(record.rustc, "1.95.0");
        assert_eq!(record.rows.len(), 2);
        let counted = [row("x86, map", 89.0, 2.0), row("new", 1.5, 0.0)];
        let renewed = Record::parse(&record.renewed(&counted, "1.96.0")).unwrap();
        assert_eq!(renewed.rustc, "1.96.0");
        let locked = renewed.rows.iter().map(|row| row.locked).collect::<Vec<_>>();
        assert_eq!(locked, [Some(2.0), Some(0.0)]);
        let goals = renewed.rows.iter().map(|row| row.goal).collect::<Vec<_>>();
        assert_eq!(goals, [Some(Goal::Most(90.0)), None]);
        for bad in ["x86, map | many | 0.0 |", "x86, map | 1.0 |"] {
            assert!(Record::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_grows_by_more_than_three_per_cent_or_a_lock_is_named() {
        let record = Record::parse(TEXT).unwrap();
        for (map, locked, grew, verdict) in [
            (89.0, 1.0, 0, "ok"),
            (102.9, 1.0, 0, "short"),
            (103.1, 1.0, 1, "short"),
            (80.0, 1.1, 1, "ok"),
            (104.0, 2.0, 2, "short"),
        ] {
            let (text, grown) = record.judge(&[row("x86, map", map, locked)]);
            assert_eq!(grown.len(), grew, "{map} {locked}");
            assert!(record.judge(&[row("x86, unmap", 50.0, locked)]).1.is_empty());
            assert!(text.ends_with(&format!("goal x86-map {map:.2} 90 {verdict}\n")), "{text}");
        }
    }

    #[test]
    fn a_goal_may_be_so_many_times_what_it_takes_by_hand() {
        let text = "# rustc 1.95.0\njob | 10.0 | 0.0 | 1.3x\njob, by hand | 10.0 | 0.0 |\n";
        let record = Record::parse(text).unwrap();
        for (ours, said) in [(13.0, "1.30 1.3x ok"), (13.1, "1.31 1.3x short")] {
            let counted = [row("job", ours, 0.0), row("job, by hand", 10.0, 0.0)];
            let (judged, _) = record.judge(&counted);
            assert!(judged.ends_with(&format!("goal job {said}\n")), "{judged}");
            assert!(record.renewed(&counted, "1.95.0").contains(" | 1.3x\n"));
        }
        assert!(Record::parse("job | 10.0 | 0.0 | somex").is_err());
    }

    #[test]
    fn rows_and_totals_belong_together() {
        let rows = "warning: not a row\na\t10\nb\t4\n";
        assert_eq!(
            counted(rows, &[[1000, 10], [10, 0]]).unwrap(),
            [row("a", 100.0, 1.0), row("b", 2.5, 0.0)]
        );
        assert!(counted(rows, &[[1000, 0]]).is_err());
        assert!(counted("", &[]).is_err());
    }

    #[test]
    fn totals_of_a_file() {
        for (text, want) in [
            ("events: Ir Ge\ntotals: 1000 7\n", Some([1000, 7])),
            ("events: Ir Ge\ntotals: 1000\n", Some([1000, 0])),
            ("events: Ir\ntotals: 1000\n", None),
            ("events: Ir Ge\n", None),
        ] {
            assert_eq!(total(text).ok(), want, "{text}");
        }
    }
}
