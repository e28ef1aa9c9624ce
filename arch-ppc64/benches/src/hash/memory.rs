//! Memory for tables, brought in before anything is timed. It lives as long as the process.

use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::Gpa;
use pgtable::memory::DirectMap;
use pgtable_ppc64::hash::{Hpt, HptOrder, Layout};

/// A hashed page table of the benches.
pub type Table = Hpt<Gpa, DirectMap<'static, Gpa>>;

/// Where tables begin: a multiple of any table's size.
const START: u64 = 1 << 40;

/// `bytes` bytes of zeros.
pub fn words(bytes: u64) -> &'static [AtomicU64] {
    let words: Vec<_> = (0..bytes / 8).map(|_| AtomicU64::new(0)).collect();
    words.leak()
}

/// An empty table of `2^order` bytes.
pub fn table(order: u8) -> Table {
    let order = HptOrder::new(order.into()).unwrap();
    let memory = DirectMap::new(words(order.bytes()), Gpa::new(START));
    Hpt::new(memory, Gpa::new(START), order, Layout::V3).unwrap()
}

/// Empties a table.
pub fn clear(words: &[AtomicU64]) {
    words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
}
