//! Memory for a hashed table, and the table in it: as far from address 0 as it is large.

use std::sync::atomic::AtomicU64;

use pgtable::Gpa;
use pgtable::memory::DirectMap;
use pgtable_ppc64::hash::{Hpt, HptOrder, Layout};

pub type Table<'m> = Hpt<Gpa, DirectMap<'m, Gpa>>;

/// The words of a table of `2^order` bytes.
pub fn memory(order: u64) -> Vec<AtomicU64> {
    (0..1_u64 << (order - 3)).map(|_| AtomicU64::new(0)).collect()
}

/// The table that fills `words`.
pub fn table(words: &[AtomicU64], layout: Layout) -> Table<'_> {
    let order = HptOrder::new(u64::from(words.len().trailing_zeros()) + 3).unwrap();
    let base = Gpa::new(order.bytes());
    Hpt::new(DirectMap::new(words, base), base, order, layout).unwrap()
}
