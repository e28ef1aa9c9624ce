//! Entries of which an MMU has cached that they are absent.

use std::collections::BTreeMap;

use pgtable::low_bits;

/// Absent entries: by the first offset and log2 of the bytes that each covers, the offset at which
/// a walk came to it.
#[derive(Clone, Debug, Default)]
pub struct AbsentEntries(BTreeMap<(u64, u8), u64>);

impl AbsentEntries {
    /// A walk to `offset` came to an absent entry, which covers `2^shift` bytes.
    pub fn insert(&mut self, offset: u64, shift: u8) {
        self.0.insert((offset & !low_bits(shift), shift), offset);
    }

    /// Removes those that cover anything from `first` to `last`.
    pub fn remove(&mut self, first: u64, last: u64) {
        self.0.retain(|&(start, shift), _| start > last || start + low_bits(shift) < first);
    }

    /// Removes all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// The offsets at which walks came to them.
    pub fn offsets(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.values().copied()
    }
}
