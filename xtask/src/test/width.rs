//! Comments and documents are at most 100 columns wide; rustfmt looks at code only.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use crate::xtask::files;

/// The most columns of a line of prose.
const COLUMNS: usize = 100;
/// What begins a comment, by the file's extension.
const COMMENTS: [(&str, &[&str]); 3] =
    [("rs", &["///", "//!", "//"]), ("toml", &["#"]), ("sh", &["#"])];

/// Checks every Rust, TOML, shell and Markdown file that git knows, of all workspaces.
pub fn check(root: &Path) -> Result<()> {
    let mut found = Vec::new();
    let mut looked_at = 0;
    for file in files(root, "")? {
        let extension = file.rsplit_once('.').map_or("", |(_, extension)| extension);
        if extension == "md" || !marks(extension).is_empty() {
            let text = fs::read_to_string(root.join(&file)).with_context(|| file.clone())?;
            found.extend(too_wide(&text, extension).map(|line| format!("{file}:{line}")));
            looked_at += 1;
        }
    }
    ensure!(looked_at > 0, "the repository has no text");
    ensure!(
        found.is_empty(),
        "comments and documents have at most {COLUMNS} columns:\n{}",
        found.join("\n")
    );
    Ok(())
}

fn marks(extension: &str) -> &'static [&'static str] {
    COMMENTS.iter().find(|(of, _)| *of == extension).map_or(&[], |(_, marks)| marks)
}

/// The numbers of the lines of prose that are too wide and could be broken.
fn too_wide<'t>(text: &'t str, extension: &str) -> impl Iterator<Item = usize> + use<'t> {
    let marks = marks(extension);
    let is_document = extension == "md";
    let mut is_code = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let begin = line.trim_start();
        let mark = marks.iter().find(|mark| begin.starts_with(**mark));
        let prose = match mark {
            Some(mark) => &begin[mark.len()..],
            None if is_document => begin,
            None => {
                is_code = false;
                return None;
            }
        };
        let prose = prose.trim_start();
        if prose.starts_with("```") {
            is_code = !is_code;
            return None;
        }
        let is_prose = !is_code && !prose.starts_with('|') && !prose.contains("://");
        let is_wide = line.chars().count() > COLUMNS;
        (is_prose && is_wide && can_break(prose)).then_some(number + 1)
    })
}

/// Whether a line has a space that is not within a quotation, a link or an item's mark.
fn can_break(prose: &str) -> bool {
    let item = prose.strip_prefix("- ").unwrap_or(prose);
    let (mut quoted, mut depth) = (false, 0_u32);
    item.trim_end().chars().any(|letter| {
        match letter {
            '`' => quoted = !quoted,
            '[' | '(' if !quoted => depth += 1,
            ']' | ')' if !quoted => depth = depth.saturating_sub(1),
            ' ' => return !quoted && depth == 0,
            _ => {}
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prose_is_too_wide_and_what_cannot_be_broken_is_not() {
        let words = "word ".repeat(20);
        let long = "x".repeat(100);
        let rows = [
            ("rs", format!("/// {words}word\n"), true),
            ("rs", format!("    // {words}word\n"), true),
            ("rs", "/// ".to_owned() + &words[..95] + "\n", false),
            ("rs", format!("let it = \"{words}word\";\n"), false),
            ("rs", format!("//! ```text\n//! {words}word\n//! ```\n"), false),
            ("rs", format!("//! ```text\n//! a\n//! ```\n//! {words}word\n"), true),
            ("rs", format!("//! | {words}word | b |\n"), false),
            ("rs", format!("/// [`{long}`]\n"), false),
            ("rs", format!("// see https://host.example/{long} {words}\n"), false),
            ("md", format!("{words}word\n"), true),
            ("md", format!("- `replace {words}with {long}`:\n"), false),
            ("md", format!("- `replace {words}with {long}`: only slower\n"), true),
            ("md", format!("  [words and words](docs/{long}.md)\n"), false),
            ("toml", format!("# {words}word\n"), true),
            ("toml", format!("description = \"{words}word\"\n"), false),
        ];
        for (extension, text, expected) in rows {
            let found = too_wide(&text, extension).next().is_some();
            assert_eq!(found, expected, "{extension}: {text}");
        }
    }

    #[test]
    fn a_line_is_named_by_its_number() {
        let text = format!("# A\n\n{}\n", "word ".repeat(21));
        assert_eq!(too_wide(&text, "md").collect::<Vec<_>>(), [3]);
    }
}
