//! What people see: aligned lines, like those of the kernel's own dump, and tables of counts.

use std::borrow::Cow;
use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

use console::{Style, Term, style};
use table_dump::{Census, Difference, HashCensus, Range, Repeats, Rights, Side, State, TreeCensus};

use crate::address::{human, push};
use crate::options::{Colour, OutputOptions};
use crate::regions::Regions;

/// Says something on standard error, if anybody reads it.
pub fn tell(what: impl Display) {
    let _ = writeln!(io::stderr(), "{what}");
}

/// The same without control characters, which a terminal would obey: the image may hold anything.
pub fn printable(text: &str) -> Cow<'_, str> {
    let obeyed = |it: char| it.is_control() && it != '\n';
    if !text.contains(obeyed) {
        return text.into();
    }
    let shown = |it: char| if obeyed(it) { it.escape_debug().to_string() } else { it.to_string() };
    text.chars().map(shown).collect()
}

/// Writes lines; in colours or not.
pub struct Text {
    colours: bool,
    quiet: bool,
}

impl Text {
    pub fn new(options: &OutputOptions) -> Self {
        let colours = match options.color {
            Colour::Always => true,
            Colour::Never => false,
            Colour::Auto => {
                Term::stdout().features().colors_supported() && console::colors_enabled()
            }
        };
        Self { colours, quiet: options.quiet }
    }

    fn paint(&self, text: &str, style: Style) -> String {
        if self.colours {
            style.force_styling(true).apply_to(text).to_string()
        } else {
            text.to_owned()
        }
    }

    /// Says something about the work, on standard error.
    pub fn note(&self, text: &str) {
        if !self.quiet {
            tell(style(printable(text)).for_stderr().dim());
        }
    }

    /// Says what the user should not overlook, on standard error.
    pub fn warning(&self, text: &str) {
        if !self.quiet {
            let text = printable(text);
            tell(format_args!("{} {text}", style("ptdump: warning:").for_stderr().yellow()));
        }
    }

    /// What stands above `range` if something begins with it: a part of the address space, a
    /// process.
    pub fn heading(
        &self,
        regions: Option<Regions>,
        last: Option<&Range>,
        range: &Range,
    ) -> Option<String> {
        let region = |range: &Range| regions.zip(range.va).map(|(regions, va)| regions.name(va));
        let heading = if range.vsid.is_some() {
            if last.map(|last| last.context) == Some(range.context) {
                return None;
            }
            match (range.context, range.va) {
                (Some(0), _) => "kernel".to_owned(),
                (Some(context), _) => format!("context {context}"),
                (None, Some(_)) => "the segments given".to_owned(),
                (None, None) => "segments of no known address space".to_owned(),
            }
        } else {
            let name = region(range)?;
            if last.and_then(region) == Some(name) {
                return None;
            }
            name.to_owned()
        };
        Some(self.paint(&format!("---[ {heading} ]---"), Style::new().bold()))
    }

    /// A range of a list.
    pub fn range(&self, range: &Range) -> String {
        let bytes = range.bytes.or(range.size).unwrap_or(1);
        let span = match (range.va, range.vsid) {
            (Some(va), _) => format!("{va:#018x}-{:#018x}", va.wrapping_add(bytes - 1)),
            (None, vsid) => format!("{:37}", format!("vsid {:#x}", vsid.unwrap_or(0))),
        };
        match (range.pa, &range.fault) {
            (Some(pa), _) => {
                let size = human(range.size.unwrap_or(0));
                let rights = self.rights(range.rights.unwrap_or_default());
                let line = format!(
                    "{span}  {pa:#018x}  {:>7}  {rights}  {size:>4}  {}",
                    human(bytes),
                    range.attributes
                );
                let repeats = range.repeats.map_or(String::new(), |it| {
                    let Repeats { count, stride } = it;
                    let last = range.va.map_or(0, |va| va.wrapping_add(stride * (count - 1)));
                    format!(
                        "  (and {} times more, every {}, the last at {last:#018x})",
                        count - 1,
                        human(stride)
                    )
                });
                format!("{}{repeats}", line.trim_end())
            }
            (None, fault) => {
                let fault = fault_text(range.state, fault.as_deref());
                format!(
                    "{span}  {:18}  {:>7}  {}",
                    "",
                    human(bytes),
                    self.paint(&fault, Style::new().red())
                )
            }
        }
    }

    /// Rights; what is writable and executable stands out.
    fn rights(&self, rights: Rights) -> String {
        if !self.colours {
            return rights.to_string();
        }
        let both = |prot: pgtable::Prot| prot.write() && prot.execute();
        let style = if both(rights.supervisor) || both(rights.user) {
            Style::new().red()
        } else if rights.user.read() || rights.user.execute() {
            Style::new().green()
        } else {
            Style::new()
        };
        self.paint(&rights.to_string(), style)
    }

    /// Where an address goes, and the walk there if it was asked for.
    pub fn translation(&self, range: &Range) -> String {
        let va = range.va.unwrap_or(0);
        let mut text = match (range.pa, &range.fault) {
            (Some(pa), _) => {
                // Many are asked for at once.
                let mut text = String::with_capacity(128);
                push(&mut text, va);
                text.push_str("  ");
                push(&mut text, pa);
                text.push_str("  ");
                text.push_str(&self.rights(range.rights.unwrap_or_default()));
                let size = human(range.size.unwrap_or(0));
                text.extend(std::iter::repeat_n(' ', 2 + 4_usize.saturating_sub(size.len())));
                text.push_str(&size);
                if !range.attributes.is_empty() {
                    text.push_str("  ");
                    text.push_str(&range.attributes);
                }
                text
            }
            (None, fault) => {
                let fault = fault_text(range.state, fault.as_deref());
                format!("{va:#018x}  {}", self.paint(&fault, Style::new().red()))
            }
        };
        for step in &range.walk {
            let _ = write!(
                text,
                "\n    {:<12} {:#018x}  {:#018x}  {}",
                step.name, step.address, step.word, step.entry
            );
        }
        text
    }

    /// An address that leads to a physical one.
    pub fn alias(&self, range: &Range) -> String {
        let va = match (range.va, range.vsid) {
            (Some(va), _) => format!("{va:#018x}"),
            (None, vsid) => format!("vsid {:#x}", vsid.unwrap_or(0)),
        };
        let context = match range.context {
            Some(0) => "  kernel".to_owned(),
            Some(context) => format!("  context {context}"),
            None => String::new(),
        };
        let repeats = range.repeats.map_or(String::new(), |it| {
            format!("  (and {} times more, every {})", it.count - 1, human(it.stride))
        });
        let size = human(range.size.unwrap_or(0));
        let rights = self.rights(range.rights.unwrap_or_default());
        format!("{va}{context}  {rights}  {size:>4}  {}", range.attributes).trim_end().to_owned()
            + &repeats
    }

    /// A range that two images translate differently.
    pub fn difference(&self, difference: &Difference) -> String {
        let span = match difference.va {
            Some(va) => {
                format!("{va:#018x}-{:#018x}", va.wrapping_add(difference.bytes.saturating_sub(1)))
            }
            None => format!("{:37}", "no address known"),
        };
        let side = |side: &Option<Side>| match side {
            Some(side) => format!("{:#018x} {} {}", side.pa, side.rights, side.attributes)
                .trim_end()
                .to_owned(),
            None => "nothing".to_owned(),
        };
        let rest = match &difference.fault {
            Some(fault) => {
                let state = difference.state.unwrap_or(State::Malformed);
                self.paint(&fault_text(state, Some(fault)), Style::new().red())
            }
            None => {
                let before = self.paint(&side(&difference.before), Style::new().red());
                let after = self.paint(&side(&difference.after), Style::new().green());
                format!("{before} -> {after}")
            }
        };
        format!("{span}  {:>7}  {rest}", human(difference.bytes))
    }

    /// Counts.
    pub fn census(&self, census: &Census) -> String {
        match census {
            Census::Tree(census) => self.tree(census),
            Census::Hash(census) => hash(census),
        }
    }

    fn tree(&self, census: &TreeCensus) -> String {
        let mut text = String::from(
            "level   tables      bytes    entries       live      pages  full  shared  wrong\n",
        );
        for level in &census.levels {
            let wrong = level.malformed + level.missing;
            let wrong = if wrong > 0 {
                self.paint(&wrong.to_string(), Style::new().red())
            } else {
                "0".to_owned()
            };
            let _ = writeln!(
                text,
                "{:>5}  {:>7}  {:>9}  {:>9}  {:>9}  {:>9}  {:>3}%  {:>6}  {wrong:>5}",
                level.level,
                level.tables,
                human(level.bytes),
                level.slots,
                level.live,
                level.leaves,
                percent(level.live, level.slots),
                level.shared,
            );
        }
        let slots: u64 = census.levels.iter().map(|level| level.slots).sum();
        let live: u64 = census.levels.iter().map(|level| level.live).sum();
        let _ = writeln!(
            text,
            "  all  {:>7}  {:>9}  {slots:>9}  {live:>9}  {:>9}  {:>3}%",
            census.tables(),
            human(census.bytes()),
            census.pages.values().sum::<u64>(),
            percent(live, slots),
        );
        let frames = census.frames * census.frame_bytes;
        let _ = writeln!(
            text,
            "frames  {} of {} hold tables, at most {} each; {}% of their bytes are tables",
            census.frames,
            human(census.frame_bytes),
            census.most_in_a_frame,
            percent(census.bytes().min(frames), frames)
        );
        if census.fragments > 0 {
            let _ =
                writeln!(text, "fragments  {} tables are smaller than a frame", census.fragments);
        }
        text + &pages(&census.pages) + &format!("mapped  {}\n", human(census.mapped()))
    }
}

/// What became of an address: what is unknown says so itself.
fn fault_text(state: State, fault: Option<&str>) -> String {
    let fault = fault.unwrap_or("none");
    if state == State::Unknown { fault.to_owned() } else { format!("fault: {fault}") }
}

fn pages(pages: &std::collections::BTreeMap<u64, u64>) -> String {
    let mut text = String::from("pages");
    for (size, count) in pages {
        let _ = write!(text, "  {count} of {}", human(*size));
    }
    text + "\n"
}

fn hash(census: &HashCensus) -> String {
    let entries = census.groups * 8;
    let mut text = format!(
        "table    {} in {} groups of 8\nentries  {} valid ({}%), {} bolted, {} secondary, {} malformed\n",
        human(census.bytes),
        census.groups,
        census.valid,
        percent(census.valid, entries),
        census.bolted,
        census.secondary,
        census.malformed,
    );
    if census.missing > 0 {
        let _ = writeln!(text, "missing  {} groups are not in the image", census.missing);
    }
    text.push_str("groups with");
    for (valid, groups) in census.fill.iter().enumerate() {
        let _ = write!(text, "  {valid}: {groups}");
    }
    text + "\n" + &pages(&census.pages)
}

fn percent(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 100 / u128::from(whole.max(1))).unwrap_or(0)
}
