//! What break-before-make took out of a table and put back, because the edit failed then, is told
//! to a log of written memory: the log may have seen the place empty.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Attributes, Error, Gpa, Gva, Leaves, Memory, Prot};
use pgtable_aarch64::{Stage1Attributes, Stage1Controls};
use pgtable_conformance::memory::{Arena, Tables};
use support::{S1, stage1};

/// Memory that notes which words it was told of.
struct Noting<'m> {
    map: DirectMap<'m, Gpa>,
    told: RefCell<Vec<(u64, usize)>>,
}

impl ReadMemory<Gpa> for Noting<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Noting<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        self.map.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.map.table(address, words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.told.borrow_mut().push((address.get(), words));
    }
}

#[test]
fn case_a7_what_was_put_back_is_told() {
    const AF: u64 = 1 << 10;
    let arena = Arena::new(1 << 16);
    let tables = Tables::new(&arena);
    let memory = Noting { map: arena.memory(), told: RefCell::default() };
    let format = stage1(Stage1Controls { ha: true, hd: true, ..S1 });
    let mut tree = PageTable::new(format, &memory, &tables).unwrap();
    let old = Stage1Attributes::from(Prot::RW).with_accessed(false);
    tree.map(Gva::new(0), Gpa::new(0), 4096, old, Leaves::Largest).unwrap();
    let entry = tree.walker().trace(Gva::new(0)).last().unwrap().address;
    let mut gather = Gather::new(&Unused, ());
    memory.told.borrow_mut().clear();
    let mut calls = 0;
    let done = tree.modify(
        Gva::new(0),
        4096,
        |leaf| {
            calls += 1;
            if calls <= 2 {
                // Judged in place, then to be taken out; then hardware marks it.
                let mark = if calls == 2 { AF } else { 0 };
                memory.map.word(entry).unwrap().fetch_or(mark, Ordering::Relaxed);
                return leaf.attributes.with_memory(Memory::Device);
            }
            // No encoding.
            Prot::new().into()
        },
        &mut gather,
    );
    assert!(matches!(done, Err(error) if matches!(error.error, Error::Unencodable { .. })));
    assert_eq!(calls, 3);
    let stands = memory.map.word(entry).unwrap().load(Ordering::Relaxed);
    assert!(stands & AF != 0 && stands & 1 != 0, "it was put back: {stands:#x}");
    let told = |&(at, words): &(u64, usize)| (at..at + words as u64 * 8).contains(&entry.get());
    assert!(memory.told.borrow().iter().any(told), "{:x?}", memory.told);
    gather.finish(&&tables).unwrap();
    tree.destroy(gather).map_err(|(_, error)| error).unwrap();
}
