//! How many words a two-stage walk loads, counted.

use std::cell::Cell;
use std::sync::atomic::AtomicU64;

use pgtable::cache::{Generation, TranslationCache};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, Gva, Hpa};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};

use crate::row::Trees as _;
use crate::two_stage::Both;
use bench_harness::work::Work;

/// Table memory that counts.
struct Counting<'c> {
    memory: DirectMap<'static, Hpa>,
    loads: &'c Cell<u64>,
}

impl ReadMemory<Hpa> for Counting<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Counting<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.loads.set(self.loads.get() + 1);
        self.memory.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.loads.set(self.loads.get() + words as u64);
        self.memory.table(address, words)
    }

    fn wrote(&self, address: Hpa, words: usize) {
        self.memory.wrote(address, words);
    }
}

/// Loads per walk.
pub struct Loads {
    pub without_cache: u64,
    pub with_cache: u64,
}

/// The most loads of any walk to one of some pages, and of any walk to the same page again with a
/// cache.
pub fn worst() -> Loads {
    let work = Work::new(12);
    let mut both = Both::new(ProcessScoped::new(Granule::K4), PartitionScoped::new(Granule::K4));
    both.map_each(&work);
    let count = Cell::new(0);
    let memory = Counting { memory: *both.host.memory(), loads: &count };
    let walker = || Walker::new(*both.host.format(), &memory, both.host.root());
    let generation = Generation::new();
    let cache = TranslationCache::<_, 1024>::new(&generation);
    let plain = TwoStage::new(*both.guest.format(), both.guest.root(), walker());
    let cached =
        TwoStage::new(*both.guest.format(), both.guest.root(), walker()).with_cache(&cache);
    let mut loads = Loads { without_cache: 0, with_cache: 0 };
    for index in (0..1 << 20).step_by(4099) {
        let address = Gva::new(work.input(index));
        count.set(0);
        plain.translate(address, Access::READ).unwrap();
        loads.without_cache = loads.without_cache.max(count.get());
        cached.translate(address, Access::READ).unwrap();
        count.set(0);
        cached.translate(address, Access::READ).unwrap();
        loads.with_cache = loads.with_cache.max(count.get());
    }
    loads
}
