//! What a Linux guest says of its own memory: lines on its console, which its `/init` prints and
//! the VMM compares with its own translation.
//!
//! Each line begins with [`MARK`]. Addresses are hexadecimal, without `0x`.
//!
//! | line | says |
//! | --- | --- |
//! | `@ system ARCH page=BYTES` | the architecture, and the size of a page |
//! | `@ text START END` | the program’s code: where its CPU is while it waits |
//! | `@ vma START END PERMISSIONS NAME` | from `/proc/self/maps` |
//! | `@ pages VA RUN RUN …` | from `/proc/self/pagemap`: the pages from VA on, as [`Run`]s |
//! | `@ tagged START END` | each page of this range holds its own address in its first eight bytes |
//! | `@ iomem START END NAME` | from `/proc/iomem`; END is the last byte |
//! | `@ symbol VA NAME` | from `/proc/kallsyms` |
//! | `@ log TEXT` | from the kernel’s log, without its time |
//! | `@ end LINES` | that is all: how many lines there were before this one |
//!
//! Then it waits, in user mode, for a line on the console, says `@ bye LINE`, and powers the
//! machine off.
#![cfg(target_os = "linux")]

use std::fmt;
use std::str::FromStr;

/// How a line begins.
pub const MARK: &str = "@ ";

/// Neighbouring pages whose page frames are of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Run {
    /// `-N`: pages that are not present.
    Absent(u64),
    /// `PFN+N`: page frames in order.
    Rising {
        /// The first.
        pfn: u64,
        /// How many pages.
        pages: u64,
    },
    /// `PFN*N`: one page frame for all, as of the page of zeros.
    Same {
        /// Which.
        pfn: u64,
        /// How many pages.
        pages: u64,
    },
}

impl Run {
    /// How many pages.
    #[must_use]
    pub const fn pages(self) -> u64 {
        match self {
            Self::Absent(pages) | Self::Rising { pages, .. } | Self::Same { pages, .. } => pages,
        }
    }

    /// The page frame of page `index` of the run; `None`: it is absent.
    #[must_use]
    pub const fn pfn(self, index: u64) -> Option<u64> {
        match self {
            Self::Absent(_) => None,
            Self::Rising { pfn, .. } => Some(pfn.wrapping_add(index)),
            Self::Same { pfn, .. } => Some(pfn),
        }
    }

    /// The run with the next page added, if it is of its kind.
    #[must_use]
    pub const fn with(self, next: Option<u64>) -> Option<Self> {
        match (self, next) {
            (Self::Absent(pages), None) => Some(Self::Absent(pages + 1)),
            (Self::Rising { pfn, pages }, Some(next)) if next == pfn.wrapping_add(pages) => {
                Some(Self::Rising { pfn, pages: pages + 1 })
            }
            (Self::Rising { pfn, pages: 1 }, Some(next)) if next == pfn => {
                Some(Self::Same { pfn, pages: 2 })
            }
            (Self::Same { pfn, pages }, Some(next)) if next == pfn => {
                Some(Self::Same { pfn, pages: pages + 1 })
            }
            _ => None,
        }
    }

    /// The run of one page.
    #[must_use]
    pub const fn of(page: Option<u64>) -> Self {
        match page {
            None => Self::Absent(1),
            Some(pfn) => Self::Rising { pfn, pages: 1 },
        }
    }

    /// The runs of these pages.
    pub fn all(pages: impl IntoIterator<Item = Option<u64>>) -> Vec<Self> {
        let mut runs: Vec<Self> = Vec::new();
        for page in pages {
            match runs.last_mut() {
                Some(last) if last.with(page).is_some() => *last = last.with(page).unwrap_or(*last),
                _ => runs.push(Self::of(page)),
            }
        }
        runs
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(pages) => write!(f, "-{pages:x}"),
            Self::Rising { pfn, pages } => write!(f, "{pfn:x}+{pages:x}"),
            Self::Same { pfn, pages } => write!(f, "{pfn:x}*{pages:x}"),
        }
    }
}

/// A line that says nothing that is known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest says \"{0}\", which means nothing")]
pub struct Unintelligible(pub String);

impl FromStr for Run {
    type Err = Unintelligible;

    fn from_str(text: &str) -> Result<Self, Unintelligible> {
        let wrong = || Unintelligible(text.into());
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| wrong());
        // What no address space has is no run.
        let count = |text: &str| {
            number(text).and_then(|it| if it >> 52 == 0 { Ok(it) } else { Err(wrong()) })
        };
        if let Some(pages) = text.strip_prefix('-') {
            return Ok(Self::Absent(count(pages)?));
        }
        if let Some((pfn, pages)) = text.split_once('+') {
            return Ok(Self::Rising { pfn: number(pfn)?, pages: count(pages)? });
        }
        let (pfn, pages) = text.split_once('*').ok_or_else(wrong)?;
        Ok(Self::Same { pfn: number(pfn)?, pages: count(pages)? })
    }
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// The architecture as Rust names it, and the size of a page.
    System {
        /// `powerpc64`, `x86_64`.
        arch: String,
        /// Bytes.
        page: u64,
    },
    /// Where the program's CPU is while it waits.
    Text {
        /// The first byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// A virtual memory area.
    Vma {
        /// The first byte.
        start: u64,
        /// One past the last.
        end: u64,
        /// `rwxp`.
        permissions: String,
        /// The file, or what it is.
        name: String,
    },
    /// Pages and their page frames.
    Pages {
        /// Of the first.
        va: u64,
        /// In order.
        runs: Vec<Run>,
    },
    /// Pages that hold their own address.
    Tagged {
        /// The first byte.
        start: u64,
        /// One past the last.
        end: u64,
    },
    /// A range of physical addresses.
    Iomem {
        /// The first byte.
        start: u64,
        /// The last byte.
        end: u64,
        /// What it is.
        name: String,
    },
    /// A symbol of the kernel.
    Symbol {
        /// Its address.
        va: u64,
        /// Its name.
        name: String,
    },
    /// A message of the kernel.
    Log(String),
    /// The last line of the statement.
    End(u64),
    /// What was typed.
    Bye(String),
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MARK)?;
        match self {
            Self::System { arch, page } => write!(f, "system {arch} page={page:x}"),
            Self::Text { start, end } => write!(f, "text {start:x} {end:x}"),
            Self::Vma { start, end, permissions, name } => {
                write!(f, "vma {start:x} {end:x} {permissions} {name}")
            }
            Self::Pages { va, runs } => {
                write!(f, "pages {va:x}")?;
                runs.iter().try_for_each(|run| write!(f, " {run}"))
            }
            Self::Tagged { start, end } => write!(f, "tagged {start:x} {end:x}"),
            Self::Iomem { start, end, name } => write!(f, "iomem {start:x} {end:x} {name}"),
            Self::Symbol { va, name } => write!(f, "symbol {va:x} {name}"),
            Self::Log(text) => write!(f, "log {text}"),
            Self::End(lines) => write!(f, "end {lines:x}"),
            Self::Bye(line) => write!(f, "bye {line}"),
        }
    }
}

impl FromStr for Line {
    type Err = Unintelligible;

    /// Takes a line without its end.
    fn from_str(line: &str) -> Result<Self, Unintelligible> {
        let wrong = || Unintelligible(line.into());
        let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| wrong());
        let told = line.strip_prefix(MARK).ok_or_else(wrong)?;
        let (word, rest) = told.split_once(' ').unwrap_or((told, ""));
        let mut parts = rest.splitn(4, ' ');
        let mut part = || parts.next().ok_or_else(wrong);
        Ok(match word {
            "system" => {
                let arch = part()?.into();
                Self::System {
                    arch,
                    page: number(part()?.strip_prefix("page=").ok_or_else(wrong)?)?,
                }
            }
            "text" => Self::Text { start: number(part()?)?, end: number(part()?)? },
            "vma" => Self::Vma {
                start: number(part()?)?,
                end: number(part()?)?,
                permissions: part()?.into(),
                name: part().unwrap_or_default().into(),
            },
            "pages" => {
                let (va, runs) = rest.split_once(' ').unwrap_or((rest, ""));
                let runs = runs.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
                Self::Pages { va: number(va)?, runs }
            }
            "tagged" => Self::Tagged { start: number(part()?)?, end: number(part()?)? },
            "iomem" => {
                let mut parts = rest.splitn(3, ' ');
                let mut part = || parts.next().ok_or_else(wrong);
                let (start, end) = (number(part()?)?, number(part()?)?);
                Self::Iomem { start, end, name: part()?.into() }
            }
            "symbol" => Self::Symbol { va: number(part()?)?, name: part()?.into() },
            "log" => Self::Log(rest.into()),
            "end" => Self::End(number(rest)?),
            "bye" => Self::Bye(rest.into()),
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_through() {
        for text in [
            "@ system powerpc64 page=10000",
            "@ text 10000000 10040000",
            "@ vma 10000000 10040000 r-xp /init",
            "@ vma 7fff8000 7fff9000 rw-p ",
            "@ pages 7fff00000000 1a2b+3 -2 4*10",
            "@ tagged 7fff00000000 7fff00010000",
            "@ iomem 0 fffffff System RAM",
            "@ symbol c000000000000000 _text",
            "@ log radix-mmu: Mapped 0x0-0x1 with 64.0 KiB pages",
            "@ end 1f4",
            "@ bye go on",
        ] {
            assert_eq!(text.parse::<Line>().map(|line| line.to_string()), Ok(text.to_owned()));
        }
        for text in [
            "",
            "@",
            "@ what",
            "pages 1",
            "@ pages x",
            "@ pages 1 2",
            "@ pages 1 -ffffffffffffffff",
            "@ text 1",
        ] {
            assert!(text.parse::<Line>().is_err(), "{text}");
        }
    }

    #[test]
    fn runs_give_their_pages_back() {
        let pages = [
            None,
            None,
            Some(4),
            Some(4),
            Some(4),
            Some(5),
            Some(6),
            Some(9),
            None,
            Some(8),
            Some(8),
        ];
        let runs = Run::all(pages);
        let text: Vec<_> = runs.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["-2", "4*3", "5+2", "9+1", "-1", "8*2"]);
        let back: Vec<_> =
            runs.iter().flat_map(|run| (0..run.pages()).map(|index| run.pfn(index))).collect();
        assert_eq!(back, pages);
    }
}
