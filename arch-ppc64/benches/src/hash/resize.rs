//! Moving every entry to a table of twice the size; and as much memory read and written with
//! nothing computed in between, as the bound.

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable_ppc64::hash::{Keep, rehash};

use crate::keys::{Random, entry, page};
use crate::memory::{Table, clear, table, words};
use crate::row::{Load, RESIZED, Row};
use bench_harness::Contestant;

/// How many entries there are to move.
const ENTRIES: usize = (1 << (RESIZED - 4)) * Load::High as usize / 100;

/// Our rehashing.
#[derive(Default)]
pub struct Rehash(Option<[Table; 2]>);

impl Contestant<Row> for Rehash {
    fn name(&self) -> &'static str {
        "rehash"
    }

    fn has(&self, row: Row) -> bool {
        row == Row::Resize
    }

    fn prepare(&mut self, _: Row) {
        let [_, new] = self.0.get_or_insert_with(|| {
            let old = table(RESIZED);
            let mut random = Random(11);
            let mut entered = 0;
            while entered < ENTRIES {
                let address = random.next() >> 36 << 12;
                let page = page(address);
                let free = old.find(&page).unwrap().is_none();
                entered += usize::from(
                    free && old.insert(&page, entry(&page, address)).unwrap().is_some(),
                );
            }
            [old, table(RESIZED + 1)]
        });
        for group in 0..new.order().groups() {
            for index in 0..8 {
                new.group(group).unwrap().slot(index).put([0, 0]);
            }
        }
    }

    fn run(&mut self, _: Row) {
        let Some([old, new]) = &self.0 else { return };
        assert_eq!(rehash(old, new, Keep::All).unwrap().moved, ENTRIES as u64);
    }

    fn verify(&mut self, _: Row) {
        let Some([old, new]) = &self.0 else { return };
        assert_eq!(old.entries(0).count(), new.entries(0).count());
    }
}

/// The words of the old table, read once and written to both halves of the new.
#[derive(Default)]
pub struct Copy(Option<[&'static [AtomicU64]; 2]>);

impl Contestant<Row> for Copy {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn has(&self, row: Row) -> bool {
        row == Row::Resize
    }

    fn prepare(&mut self, _: Row) {
        let [_, new] = self.0.get_or_insert_with(|| [words(1 << RESIZED), words(2 << RESIZED)]);
        clear(new);
    }

    fn run(&mut self, _: Row) {
        let Some([old, new]) = &self.0 else { return };
        let (low, high) = new.split_at(old.len());
        for ((from, low), high) in old.iter().zip(low).zip(high) {
            let word = from.load(Ordering::Relaxed);
            low.store(word, Ordering::Relaxed);
            high.store(word, Ordering::Relaxed);
        }
    }

    fn verify(&mut self, _: Row) {}
}
