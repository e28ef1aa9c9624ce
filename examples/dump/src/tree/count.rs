//! Counting a tree's tables, entries and pages.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::ControlFlow;

use pgtable::Address;
use pgtable::format::Entry;

use super::Tree;
use crate::census::{LevelCensus, TreeCensus};
use crate::describe::Describe;

impl<F: Describe> Tree<'_, F> {
    /// Counts tables, entries and pages.
    pub fn census(&self, progress: &dyn Fn(u64, u64)) -> TreeCensus {
        let geometry = self.walker.format().geometry();
        let mut levels: Vec<_> = (0..geometry.levels()).map(LevelCensus::of_level).collect();
        let mut seen = HashSet::new();
        let mut frames: HashMap<u64, (u64, u64)> = HashMap::new();
        let mut pages: BTreeMap<u64, u64> = BTreeMap::new();
        let flow = self.walker.for_each_table(|table| {
            let address = table.address().get();
            let Some(level) = levels.get_mut(usize::from(table.at().level.0)) else {
                return ControlFlow::Break(());
            };
            if self.tables.is_over() {
                return ControlFlow::Break(());
            }
            progress(
                self.walker.format().offset(table.input()).unwrap_or(0),
                geometry.address_mask(),
            );
            if table.words().is_err() {
                level.missing += 1;
                return ControlFlow::Continue(());
            }
            let first = seen.insert((address, table.width()));
            if first && !self.tables.keep(size_of::<(u64, u64, u64)>() as u64) {
                return ControlFlow::Break(());
            }
            if first {
                level.tables += 1;
                level.bytes += table.bytes();
                level.slots += 1 << table.width();
                let frame = frames.entry(address / F::FRAME).or_default();
                frame.0 += 1;
                frame.1 += table.bytes();
            } else {
                level.shared += 1;
            }
            for entry in table.entries() {
                match entry.entry {
                    Entry::Absent => {}
                    Entry::Malformed => level.malformed += u64::from(first),
                    Entry::Table { .. } => level.live += u64::from(first),
                    Entry::Leaf { .. } => {
                        level.live += u64::from(first);
                        level.leaves += u64::from(first);
                        *pages.entry(table.at().size()).or_default() += 1;
                    }
                }
            }
            ControlFlow::Continue(())
        });
        let _: ControlFlow<()> = flow;
        TreeCensus::new(levels, F::FRAME, frames.into_values(), pages)
    }
}
