//! The table in the README: read, changed cell by cell, and written.

use std::fmt;

use anyhow::{Context, Result};
use clap::ValueEnum;

use super::Program;
use crate::debian::Release;
use crate::emulated_host::{HostKernel, PowerHost};

const BEGIN: &str = "<!-- hosts -->\n";
const END: &str = "<!-- /hosts -->\n";
const HEAD: &str = "| host | kernel | QEMU | microVM | radix | hash | Linux, radix | Linux, hash |\n\
                    | --- | --- | --- | --- | --- | --- | --- | --- |\n";
/// What stands in a cell that was never run.
const NOT_RUN: &str = "not run";
/// What stands in a cell whose last run failed.
pub const FAILED: &str = "FAILED";

/// A row: where programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub host: PowerHost,
    pub kernel: HostKernel,
    pub release: Release,
    pub qemu: [u32; 2],
}

/// A value as it is written on the command line.
pub fn word(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor] = self.qemu;
        write!(f, "{} | {} | {major}.{minor}", word(&self.host), word(&self.kernel))
    }
}

/// The rows: a key as text, and a cell per program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Table(Vec<(String, Vec<String>)>);

impl Table {
    /// The table that stands in a text.
    pub fn of_text(text: &str) -> Result<Self> {
        let (_, table, _) = parts(text)?;
        let rows = table.lines().skip(2).filter_map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            let (key, cells) = cells.split_at_checked(3)?;
            Some((key.join(" | "), cells.iter().map(|&cell| cell.to_owned()).collect()))
        });
        Ok(Self(rows.collect()))
    }

    /// Sets a cell.
    pub fn set(&mut self, key: Key, program: Program, words: &str) {
        let key = key.to_string();
        let row = self.0.iter().position(|(it, _)| *it == key).unwrap_or_else(|| {
            let empty = vec![NOT_RUN.to_owned(); Program::value_variants().len()];
            self.0.push((key, empty));
            self.0.len() - 1
        });
        let column = Program::value_variants().iter().position(|it| *it == program);
        if let Some(cell) = column.and_then(|column| self.0[row].1.get_mut(column)) {
            words.clone_into(cell);
        }
    }

    /// Puts the rows into this order; others come last.
    pub fn sort(&mut self, order: &[Key]) {
        let order: Vec<_> = order.iter().map(Key::to_string).collect();
        self.0.sort_by_key(|(key, _)| order.iter().position(|it| it == key).unwrap_or(order.len()));
    }

    /// Whether a cell tells of a run that did not fail.
    pub fn has(&self, key: Key, program: Program) -> bool {
        let key = key.to_string();
        let row = self.0.iter().find(|(it, _)| *it == key);
        let column = Program::value_variants().iter().position(|it| *it == program);
        let cell = row.zip(column).and_then(|((_, cells), column)| cells.get(column));
        cell.is_some_and(|cell| ![NOT_RUN, FAILED].contains(&cell.as_str()))
    }

    /// The table as Markdown.
    pub fn markdown(&self) -> String {
        let row =
            |(key, cells): &(String, Vec<String>)| format!("| {key} | {} |\n", cells.join(" | "));
        HEAD.to_owned() + &self.0.iter().map(row).collect::<String>()
    }

    /// The text with this table in place of its own.
    pub fn put_into(&self, text: &str) -> Result<String> {
        let (before, _, after) = parts(text)?;
        Ok(format!("{before}{BEGIN}{}{END}{after}", self.markdown()))
    }
}

/// What stands before the table, the table, and what comes after.
fn parts(text: &str) -> Result<(&str, &str, &str)> {
    let (before, rest) = text.split_once(BEGIN).context("README.md has no table of hosts")?;
    let (table, after) = rest.split_once(END).context("the table of hosts has no end")?;
    Ok((before, table, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_set_and_others_stay() -> Result<()> {
        let text = format!("a\n{BEGIN}{HEAD}{END}b\n");
        let mut table = Table::of_text(&text)?;
        let key = |host, qemu| Key {
            host,
            kernel: HostKernel::V6_12With4K,
            release: Release::Trixie,
            qemu,
        };
        table.set(key(PowerHost::Power9, [10, 0]), Program::Radix, "0 of 6000");
        table.set(key(PowerHost::Power9, [7, 2]), Program::Hash, "–");
        table.set(key(PowerHost::Power9, [10, 0]), Program::LinuxHash, "9 pages");
        table.set(key(PowerHost::Power10, [7, 2]), Program::Microvm, FAILED);
        for (host, qemu, program, has) in [
            (PowerHost::Power9, [10, 0], Program::Radix, true),
            (PowerHost::Power9, [7, 2], Program::Hash, true),
            (PowerHost::Power9, [10, 0], Program::Hash, false),
            (PowerHost::Power10, [7, 2], Program::Microvm, false),
            (PowerHost::Power10, [10, 0], Program::Microvm, false),
        ] {
            assert_eq!(table.has(key(host, qemu), program), has, "{host:?} {qemu:?} {program:?}");
        }
        let text = table.put_into(&text)?;
        let rows = "| power9 | 6.12-4k | 10.0 | not run | 0 of 6000 | not run | not run | 9 pages |\n\
                    | power9 | 6.12-4k | 7.2 | not run | not run | – | not run | not run |\n\
                    | power10 | 6.12-4k | 7.2 | FAILED | not run | not run | not run | not run |\n";
        assert_eq!(text, format!("a\n{BEGIN}{HEAD}{rows}{END}b\n"));
        assert_eq!(Table::of_text(&text)?, table);
        let rows = |table: &Table| {
            let hosts = table.0.iter().map(|(key, _)| key.split(' ').next().unwrap_or_default());
            hosts.map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(rows(&table), "power9 power9 power10");
        table.sort(&[key(PowerHost::Power10, [7, 2]), key(PowerHost::Power9, [7, 2])]);
        assert_eq!(rows(&table), "power10 power9 power9");
        assert!(Table::of_text("no table").is_err());
        Ok(())
    }
}
