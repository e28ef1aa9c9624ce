//! The guest's statement, put together from its lines (see [`guest_init`]).
//!
//! The guest may say anything. What is taken in has bounds, ranges are ranges of memory that there
//! is, and areas come in order and apart: so that comparing is bounded too.

use std::collections::BTreeMap;
use std::ops::Range;

use guest_init::{Line, Run};

/// A virtual memory area of the guest's `/init`.
#[derive(Clone, Debug)]
pub struct Vma {
    pub range: Range<u64>,
    pub permissions: String,
    pub name: String,
}

/// All that the guest said.
#[derive(Clone, Debug, Default)]
pub struct Statement {
    pub page: u64,
    pub text: Range<u64>,
    pub vmas: Vec<Vma>,
    /// Every page that it spoke of, and its page frame.
    pub pages: BTreeMap<u64, Option<u64>>,
    pub tagged: Vec<Range<u64>>,
    pub iomem: Vec<(Range<u64>, String)>,
    pub symbols: Vec<(u64, String)>,
    pub log: Vec<String>,
    /// Bytes of memory, from address 0 on.
    memory: u64,
    lines: u64,
}

/// More pages than any guest of ours has: what it can make us keep has a bound.
const MOST_PAGES: u64 = 1 << 22;
/// More lines than any guest of ours says.
const MOST_LINES: u64 = 1 << 17;
/// More areas, or tagged ranges, than a guest of ours has.
const MOST_AREAS: usize = 1 << 10;

/// What `/proc/iomem` calls memory.
const RAM: &str = "System RAM";

/// A range of addresses, if it is one.
fn range(start: u64, end: u64) -> Result<Range<u64>, String> {
    if start <= end { Ok(start..end) } else { Err(format!("{start:#x} to {end:#x} is no range")) }
}

impl Statement {
    /// Of a guest with that many bytes of memory; nothing is said yet.
    pub fn new(memory: u64) -> Self {
        Self { memory, ..Self::default() }
    }

    /// Takes the next line. True: it was the last.
    ///
    /// # Errors
    /// A line that means nothing, or that cannot be: the console lost something, or the guest is
    /// not ours.
    pub fn take(&mut self, line: &str) -> Result<bool, String> {
        let line: Line =
            line.parse().map_err(|error: guest_init::Unintelligible| error.to_string())?;
        match line {
            Line::System { page, .. }
                if page.is_power_of_two() && (0x1000..=0x1_0000).contains(&page) =>
            {
                self.page = page;
            }
            Line::System { page, .. } => return Err(format!("pages of {page:#x} bytes")),
            Line::Text { start, end } => self.text = range(start, end)?,
            Line::Vma { start, end, permissions, name } => {
                if self.vmas.last().is_some_and(|last| last.range.end > start) {
                    return Err(format!("the area at {start:#x} is not in order"));
                }
                self.vmas.push(Vma { range: range(start, end)?, permissions, name });
            }
            Line::Pages { va, runs } => self.take_pages(va, &runs)?,
            Line::Tagged { start, end } => self.tagged.push(range(start, end)?),
            Line::Iomem { start, end, name } => {
                // Other ranges are no memory, and may be anywhere.
                let range = range(start, end.saturating_add(1))?;
                match name.as_str() {
                    RAM | "Kernel code" if range.end <= self.memory => {
                        self.iomem.push((range, name));
                    }
                    RAM | "Kernel code" => {
                        return Err(format!("memory to {end:#x}, of {:#x} bytes", self.memory));
                    }
                    _ => {}
                }
            }
            Line::Symbol { va, name } => self.symbols.push((va, name)),
            Line::Log(text) => self.log.push(text),
            Line::End(_) if self.page == 0 => {
                return Err("the guest does not say how large its pages are".into());
            }
            Line::End(lines) if lines == self.lines => return Ok(true),
            Line::End(lines) => {
                return Err(format!("the guest said {lines} lines, and {} came", self.lines));
            }
            Line::Bye(_) => {}
        }
        self.lines += 1;
        if self.lines > MOST_LINES || self.vmas.len().max(self.tagged.len()) > MOST_AREAS {
            Err("too many lines".into())
        } else {
            Ok(false)
        }
    }

    /// The ranges of memory.
    pub fn ram(&self) -> impl Iterator<Item = &Range<u64>> {
        self.iomem.iter().filter(|(_, name)| name == RAM).map(|(range, _)| range)
    }

    fn take_pages(&mut self, va: u64, runs: &[Run]) -> Result<(), String> {
        if self.page == 0 {
            return Err("the guest does not say how large its pages are".into());
        }
        let mut at = va;
        for run in runs {
            if self.pages.len() as u64 + run.pages() > MOST_PAGES {
                return Err(format!("more than {MOST_PAGES} pages"));
            }
            for index in 0..run.pages() {
                self.pages.insert(at, run.pfn(index));
                at = at.checked_add(self.page).ok_or("pages beyond the last address")?;
            }
        }
        Ok(())
    }

    /// Whether the page at `va` holds its own address.
    pub fn is_tagged(&self, va: u64) -> bool {
        self.tagged.iter().any(|range| range.contains(&va))
    }

    /// The symbol of this name.
    pub fn symbol(&self, name: &str) -> Option<u64> {
        self.symbols.iter().find(|(_, it)| it == name).map(|(va, _)| *va)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_pages_and_losses_are_noticed() {
        let lines = [
            "@ system powerpc64 page=10000",
            "@ pages 7fff00000000 10+2 -1 4*2",
            "@ tagged 7fff00000000 7fff00010000",
        ];
        let mut statement = Statement::new(1 << 20);
        for line in lines {
            assert_eq!(statement.take(line), Ok(false));
        }
        let pages: Vec<_> = statement.pages.values().copied().collect();
        assert_eq!(pages, [Some(0x10), Some(0x11), None, Some(4), Some(4)]);
        assert!(statement.is_tagged(0x7fff_0000_0000) && !statement.is_tagged(0x7fff_0001_0000));
        assert!(statement.clone().take("@ end 2").is_err(), "a line was lost");
        assert!(statement.clone().take("@ pages ffffffffffff0000 1+2").is_err());
        assert!(statement.clone().take("@ pages 0 -fffffffffffff").is_err());
        for nonsense in [
            "@ vma 2 1 rw-p ",
            "@ text 2 1",
            "@ tagged ffffffffffffffff 0",
            "@ iomem 0 100000 System RAM",
            "@ iomem ffffffffffffffff 0 System RAM",
            "@ system powerpc64 page=0",
            "@ system powerpc64 page=1001",
        ] {
            assert!(statement.clone().take(nonsense).is_err(), "{nonsense}");
        }
        assert!(Statement::new(0).take("@ pages 0 1+1").is_err(), "of what size?");
        assert!(Statement::new(0).take("@ end 0").is_err(), "of what size?");
        let mut areas = statement.clone();
        assert_eq!(areas.take("@ vma 1000 3000 rw-p "), Ok(false));
        assert!(areas.take("@ vma 2000 4000 rw-p ").is_err(), "they overlap");
        assert_eq!(statement.take("@ end 3"), Ok(true));
    }
}
