//! `cargo xtask bench instructions`: counts by `callgrind`, beside those on record and the goals.
//!
//! The program prints what each total is of, and `callgrind` writes a file for each: both in one
//! order.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::report;

/// How much more than on record is a failure.
const MORE: f64 = 1.03;

/// A row of the record: `name | instructions | goal`, of which the goal may be missing.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    name: String,
    instructions: f64,
    goal: Option<f64>,
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
            let mut cells = line.split('|').map(str::trim);
            let (Some(name), Some(instructions)) = (cells.next(), cells.next()) else {
                bail!("no row: {line}");
            };
            let instructions = instructions.parse().with_context(|| line.to_owned())?;
            let goal = cells.next().filter(|goal| !goal.is_empty()).map(str::parse).transpose();
            record.rows.push(Row {
                name: name.to_owned(),
                instructions,
                goal: goal.with_context(|| line.to_owned())?,
            });
        }
        Ok(record)
    }

    fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == name)
    }

    /// What is written after `counted` was measured by `rustc`: the goals stay.
    fn renewed(&self, counted: &[(String, f64)], rustc: &str) -> String {
        let mut text = format!(
            "# Instructions per operation and their goals, by `cargo xtask bench instructions -- \
             --record`.\n# rustc {rustc}\n"
        );
        for (name, instructions) in counted {
            let goal = self.row(name).and_then(|row| row.goal);
            let goal = goal.map(|goal| format!(" {goal}")).unwrap_or_default();
            let _ = writeln!(text, "{name} | {instructions:.1} |{goal}");
        }
        text
    }

    /// What is said of `counted`, and the rows that grew by too much.
    fn judge(&self, counted: &[(String, f64)]) -> (String, Vec<String>) {
        let (mut text, mut grown) = (String::new(), Vec::new());
        let width = counted.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, instructions) in counted {
            let before = self.row(name).map(|row| row.instructions);
            let change = before.map(|before| (instructions / before - 1.0) * 100.0);
            let change = change.map(|change| format!("{change:+.1} %")).unwrap_or_default();
            let _ = writeln!(text, "{name:width$}  {instructions:>8.1}  {change:>8}");
            if before.is_some_and(|before| *instructions > before * MORE) {
                grown.push(format!(
                    "{name}: {:.1} on record, {instructions:.1} now",
                    before.unwrap_or(0.0)
                ));
            }
        }
        for (name, instructions) in counted {
            if let Some(goal) = self.row(name).and_then(|row| row.goal) {
                let verdict = if *instructions <= goal { "ok" } else { "short" };
                let name = name.replace(", ", "-").replace(' ', "-");
                let _ = writeln!(text, "goal {name} {instructions:.1} {goal} {verdict}");
            }
        }
        (text, grown)
    }
}

/// What `callgrind` counted, by the program's rows.
pub fn counted(rows: &str, totals: &[u64]) -> Result<Vec<(String, f64)>> {
    let rows: Vec<_> = rows.lines().filter_map(|line| line.split_once('\t')).collect();
    ensure!(
        rows.len() == totals.len() && !rows.is_empty(),
        "{} rows and {} totals of callgrind",
        rows.len(),
        totals.len()
    );
    rows.iter()
        .zip(totals)
        .map(|(&(name, operations), &total)| {
            let operations: f64 = operations.parse().with_context(|| name.to_owned())?;
            // What a row does once is not of the operation: a tenth is exact enough.
            Ok((name.to_owned(), (total as f64 / operations * 10.0).round() / 10.0))
        })
        .collect()
}

/// The totals in the files that `callgrind` wrote beside `base`, in order.
pub fn totals(base: &Path) -> Result<Vec<u64>> {
    let mut totals = Vec::new();
    for part in 1.. {
        let mut path = base.as_os_str().to_owned();
        path.push(format!(".{part}"));
        let path = PathBuf::from(path);
        let Ok(text) = fs::read_to_string(&path) else { break };
        let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
        totals
            .push(total.with_context(|| format!("{}: no total", path.display()))?.trim().parse()?);
    }
    Ok(totals)
}

/// Compares with the record at `path`, or renews it.
///
/// Another compiler makes other code: then nothing is a failure.
pub fn conclude(
    path: &Path,
    counted: &[(String, f64)],
    rustc: &str,
    renew: bool,
) -> Result<String> {
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

    const TEXT: &str = "# Words.\n# rustc 1.95.0\nx86, map | 100.0 | 90\nx86, unmap | 50.0 |\n";

    #[test]
    fn a_record_is_read_and_renewed() {
        let record = Record::parse(TEXT).unwrap();
        assert_eq!(record.rustc, "1.95.0");
        assert_eq!(record.rows.len(), 2);
        let counted = [("x86, map".to_owned(), 89.0), ("new".to_owned(), 1.5)];
        let renewed = Record::parse(&record.renewed(&counted, "1.96.0")).unwrap();
        assert_eq!(renewed.rustc, "1.96.0");
        let row =
            |name: &str, instructions, goal| Row { name: name.to_owned(), instructions, goal };
        assert_eq!(renewed.rows, [row("x86, map", 89.0, Some(90.0)), row("new", 1.5, None)]);
        assert!(Record::parse("x86, map | many |").is_err());
    }

    #[test]
    fn what_grows_by_more_than_three_per_cent_is_named() {
        let record = Record::parse(TEXT).unwrap();
        let judge = |map: f64| record.judge(&[("x86, map".to_owned(), map)]);
        for (map, grew, verdict) in
            [(89.0, false, "ok"), (102.9, false, "short"), (103.1, true, "short")]
        {
            let (text, grown) = judge(map);
            assert_eq!(!grown.is_empty(), grew, "{map}");
            assert!(text.ends_with(&format!("goal x86-map {map:.1} 90 {verdict}\n")), "{text}");
        }
    }

    #[test]
    fn rows_and_totals_belong_together() {
        let rows = "warning: not a row\na\t10\nb\t4\n";
        assert_eq!(
            counted(rows, &[1000, 10]).unwrap(),
            [("a".to_owned(), 100.0), ("b".to_owned(), 2.5)]
        );
        assert!(counted(rows, &[1000]).is_err());
        assert!(counted("", &[]).is_err());
    }
}
