//! A page of rustdoc's: the declarations on it, as text.

use std::path::Path;

/// What stands on a page of an item: its declaration, then its own methods, then its traits.
const DECLARATION: (&str, &str) = ("<pre class=\"rust item-decl\"><code>", "</code></pre>");
/// What is declared below it, and what begins it.
const METHOD: (&str, &str) = ("<h4 class=\"code-header\">", "</h4>");
const IMPL: (&str, &str) = ("<h3 class=\"code-header\">", "</h3>");
/// A name of another crate that a module gives out.
const REEXPORT: (&str, &str) = ("id=\"reexport.", "</code>");
/// Where parts of a page begin.
const ALIASED: &str = "<h2 id=\"aliased-type\"";
const REQUIRED: &str = "<h2 id=\"required-";
const PROVIDED: &str = "<h2 id=\"provided-";
const FOREIGN: &str = "<h2 id=\"foreign-impls\"";
const IMPLEMENTORS: &str = "<h2 id=\"implementors\"";
const OWN: &str = "<h2 id=\"implementations\"";
const TRAITS: &str = "<h2 id=\"trait-implementations\"";
const AUTOMATIC: &str = "<h2 id=\"synthetic-implementations\"";
const BLANKET: &str = "<h2 id=\"blanket-implementations\"";

/// What is read of a part of a page.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// The item's own declaration.
    Declaration,
    /// `impl` blocks with all that they declare.
    Whole,
    /// What is implemented, not how: that is the trait's.
    Headers,
    /// Automatic traits, of which only what is missing is told.
    Missing,
    /// Nothing: it stands on other pages, or in the declaration.
    Nothing,
}

/// The path of the item that a file is the page of: `a/b/struct.C.html` is `a::b::C`.
pub fn path(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?.strip_suffix(".html")?;
    let mut parts: Vec<_> = file.parent()?.iter().filter_map(|part| part.to_str()).collect();
    if name != "index" {
        parts.push(name.split_once('.')?.1);
    }
    Some(parts.join("::"))
}

/// The lines that declare something on a page: none on one that leads to another.
pub fn declarations(html: &str) -> Vec<String> {
    let marks = [
        (ALIASED, Part::Nothing),
        (REQUIRED, Part::Nothing),
        (PROVIDED, Part::Nothing),
        (FOREIGN, Part::Headers),
        (IMPLEMENTORS, Part::Nothing),
        (OWN, Part::Whole),
        (TRAITS, Part::Headers),
        (AUTOMATIC, Part::Missing),
        (BLANKET, Part::Nothing),
    ];
    let mut begins: Vec<_> = marks
        .iter()
        .filter_map(|&(mark, part)| html.find(mark).map(|at| (at, part)))
        .chain([(0, Part::Declaration)])
        .collect();
    begins.sort_by_key(|&(at, _)| at);
    let ends = begins.iter().skip(1).map(|&(at, _)| at).chain([html.len()]);
    let mut lines = Vec::new();
    for (&(at, part), end) in begins.iter().zip(ends) {
        lines.extend(part.lines(&html[at..end]));
    }
    lines
}

impl Part {
    fn lines(self, html: &str) -> Vec<String> {
        match self {
            Self::Declaration => {
                let declared = between(html, DECLARATION).next().map(|(_, text)| text);
                let lines = declared.into_iter().flat_map(|text| {
                    let text = without_summaries(text);
                    text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>()
                });
                let reexports = between(html, REEXPORT).filter_map(|(_, html)| {
                    html.split_once("<code>").map(|(_, html)| one_line(html))
                });
                lines.filter(|line| !line.is_empty()).chain(reexports).collect()
            }
            Self::Whole => {
                let methods = between(html, METHOD).map(|(at, html)| (at, "    ", html));
                let headers = between(html, IMPL).map(|(at, html)| (at, "", html));
                let mut all: Vec<_> = methods.chain(headers).collect();
                all.sort_by_key(|&(at, ..)| at);
                let lines = all.into_iter().map(|(_, indent, html)| (indent, one_line(html)));
                // What bitfield-struct writes beside `with_x` and `set_x`.
                let lines = lines.filter(|(_, line)| !line.contains("_checked("));
                lines.map(|(indent, line)| format!("{indent}{line}")).collect()
            }
            Self::Headers => {
                let all = between(html, IMPL).map(|(_, html)| one_line(html));
                // The compiler's own, which goes with `PartialEq`.
                all.filter(|line| !line.contains("StructuralPartialEq")).collect()
            }
            Self::Missing => {
                let all = between(html, IMPL).map(|(_, html)| one_line(html));
                all.filter(|line| line.contains("!Send") || line.contains("!Sync")).collect()
            }
            Self::Nothing => Vec::new(),
        }
    }
}

/// What stands between each pair of marks, and where.
fn between<'h>(
    html: &'h str,
    (begin, end): (&'static str, &'static str),
) -> impl Iterator<Item = (usize, &'h str)> {
    html.match_indices(begin).filter_map(move |(at, _)| {
        let text = &html[at + begin.len()..];
        Some((at, &text[..text.find(end)?]))
    })
}

/// The text of a declaration, without the words on what can be unfolded.
fn without_summaries(html: &str) -> String {
    let mut rest = html;
    let mut kept = String::new();
    while let Some((before, summary)) = rest.split_once("<summary") {
        kept += before;
        rest = summary.split_once("</summary>").map_or("", |(_, after)| after);
    }
    text(&(kept + rest))
}

/// A declaration in one line.
fn one_line(html: &str) -> String {
    text(html)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace("( ", "(")
        .replace(", )", ")")
}

/// HTML without its tags: blocks begin and end lines.
fn text(html: &str) -> String {
    let mut text = String::new();
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text += before;
        let (tag, after) = tag.split_once('>').unwrap_or((tag, ""));
        if tag.starts_with("div") || tag == "/div" || tag.starts_with("br") {
            text.push('\n');
        }
        rest = after;
    }
    text += rest;
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&#34;", "\"")];
    for (entity, character) in entities {
        text = text.replace(entity, character);
    }
    text.replace("&nbsp;", " ").replace("&#38;", "&").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_pages() {
        for (file, expected) in [
            ("a/index.html", Some("a")),
            ("a/b/struct.C.html", Some("a::b::C")),
            ("a/macro.m.html", Some("a::m")),
            ("a/all.html", None),
            ("a/sidebar-items.js", None),
        ] {
            assert_eq!(path(Path::new(file)).as_deref(), expected, "{file}");
        }
    }

    #[test]
    fn what_a_page_declares() {
        let page = concat!(
            "<pre class=\"rust item-decl\"><code><div class=\"code-attribute\">#[non_exhaustive]",
            "</div>pub struct <a href=\"x\">C</a>&lt;'a&gt;(<span>/* private fields */</span>);",
            "</code></pre><h2 id=\"implementations\"><h3 class=\"code-header\">impl&lt;'a&gt; ",
            "C&lt;'a&gt;<div class=\"where\">where\n    T: A,</div></h3>",
            "<h4 class=\"code-header\">pub fn <a>f</a>(&amp;self) -&gt; u8</h4>",
            "<h4 class=\"code-header\">pub fn with_x_checked(self)</h4>",
            "<h2 id=\"trait-implementations\"><h3 class=\"code-header\">impl Debug for C</h3>",
            "<h3 class=\"code-header\">impl StructuralPartialEq for C</h3>",
            "<h4 class=\"code-header\">fn fmt()</h4>",
            "<h2 id=\"synthetic-implementations\"><h3 class=\"code-header\">impl !Send for C</h3>",
            "<h3 class=\"code-header\">impl Unpin for C</h3>",
            "<h2 id=\"blanket-implementations\"><h3 class=\"code-header\">impl Any for T</h3>",
        );
        let expected = [
            "#[non_exhaustive]",
            "pub struct C<'a>(/* private fields */);",
            "impl<'a> C<'a> where T: A,",
            "    pub fn f(&self) -> u8",
            "impl Debug for C",
            "impl !Send for C",
        ];
        assert_eq!(declarations(page), expected);
        assert!(declarations("<p>Redirecting to <a href=\"x\">x</a>...</p>").is_empty());
    }

    #[test]
    fn what_a_module_gives_out() {
        let page =
            "<div class=\"item-name\" id=\"reexport.E\"><code>pub use <a>b</a>::E;</code></div>";
        assert_eq!(declarations(page), ["pub use b::E;"]);
    }
}
