//! Every verb of `pgtable` has an example, which `cargo test` compiles and runs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::xtask::files;

/// Where they stand.
const SOURCES: &str = "pgtable/src/";
/// The types whose methods are verbs: what changes trees, reads them, and says what is stale.
const TYPES: [&str; 14] = [
    "Anchored",
    "Cursor",
    "Gather",
    "Generation",
    "GuestBytes",
    "LockedRange",
    "PageTable",
    "SharedPageTable",
    "TableIommu",
    "TranslationCache",
    "TwoStage",
    "Walker",
    "Watch",
    "Writer",
];

/// Checks the public methods of [`TYPES`] that take more than `&self`.
pub fn check(root: &Path) -> Result<()> {
    let (mut verbs, mut without) = (0, Vec::new());
    for file in files(root, ".rs")?.into_iter().filter(|file| file.starts_with(SOURCES)) {
        let text = fs::read_to_string(root.join(&file)).with_context(|| file.clone())?;
        for verb in verbs_of(&text) {
            verbs += 1;
            if !verb.has_example {
                without.push(format!("{file}:{}: {}", verb.line, verb.name));
            }
        }
    }
    ensure!(verbs > 80, "only {verbs} verbs were found");
    ensure!(without.is_empty(), "verbs without an example:\n{}", without.join("\n"));
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Verb<'t> {
    name: &'t str,
    line: usize,
    has_example: bool,
}

/// The verbs that a file of code declares, in `impl` blocks and in macros that write them.
fn verbs_of(text: &str) -> Vec<Verb<'_>> {
    let lines: Vec<_> = text.lines().collect();
    let mut of_a_type = false;
    let mut verbs = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        if line.starts_with("impl") {
            of_a_type = type_of(line).is_some_and(|name| TYPES.contains(&name));
        } else if line.starts_with("macro_rules! verbs") {
            of_a_type = true;
        } else if line.starts_with(|letter: char| letter.is_alphabetic()) && *line != "where" {
            of_a_type = false;
        }
        let Some(name) = of_a_type.then(|| method(line)).flatten() else { continue };
        let signature = lines[index..].join(" ");
        let parameters = signature.split_once('(').map_or("", |(_, rest)| rest.trim_start());
        if parameters.starts_with("&self)") {
            continue;
        }
        let above = lines[..index].iter().rev().map(|line| line.trim_start());
        let mut docs = above.take_while(|line| line.starts_with("///") || line.starts_with("#["));
        let has_example = docs.any(|line| line.starts_with("/// ```"));
        verbs.push(Verb { name, line: index + 1, has_example });
    }
    verbs
}

/// The name of the type that an `impl` line is about.
fn type_of(line: &str) -> Option<&str> {
    let mut rest = line.strip_prefix("impl")?;
    if rest.starts_with('<') {
        let mut depth = 0;
        let end = rest.char_indices().find(|&(at, letter)| {
            depth += match letter {
                '<' => 1,
                '>' if !rest[..at].ends_with(['-', '=']) => -1,
                _ => 0,
            };
            depth == 0
        })?;
        rest = &rest[end.0 + 1..];
    }
    rest.trim_start().split(|letter: char| !letter.is_alphanumeric()).next()
}

/// The name of the public method that begins on this line.
fn method(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub ")?;
    let rest = rest.strip_prefix("const ").unwrap_or(rest);
    let rest = rest.strip_prefix("unsafe ").unwrap_or(rest).strip_prefix("fn ")?;
    rest.split(['<', '(']).next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_a_verb() {
        let doc = "    /// Does.\n    ///\n    /// ```\n    /// a();\n    /// ```\n    #[inline]\n";
        let rows = [
            ("impl Walker {", "    pub fn a(&self, b: u8) {}", Some(true)),
            ("impl<F: Format> Walker<F> {", "    pub fn a(\n        self,\n    ) {}", Some(true)),
            ("impl<F: Fn() -> u8> Walker<F>\nwhere\n    F: A,\n{", "    pub fn a() {}", Some(true)),
            ("macro_rules! verbs {", "        pub fn a<T>($self: T) {}", Some(true)),
            ("impl Walker {", "    pub fn a(&self) {}", None),
            ("impl Walker {", "    pub(crate) fn a(&self, b: u8) {}", None),
            ("impl Walkers {", "    pub fn a(&self, b: u8) {}", None),
            ("impl Iterator for Walker {", "    pub fn a(&self, b: u8) {}", None),
            ("impl Walker {\n}\n\nimpl Other {", "    pub fn a(&self, b: u8) {}", None),
        ];
        for (begin, method, expected) in rows {
            for (doc, with) in [(doc, true), ("    /// Does.\n", false)] {
                let text = format!("{begin}\n{doc}{method}\n}}\n");
                let found = verbs_of(&text);
                let found = found.first().map(|verb| (verb.name, verb.has_example));
                assert_eq!(found, expected.map(|_| ("a", with)), "{text}");
            }
        }
    }
}
