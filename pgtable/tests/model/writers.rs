//! Many writers on one tree: each page is what its owner made of it, and no table is lost or left
//! behind empty. (What one of them does alone is in the conformance kit.)
//!
//! Tables come from frag-alloc and wait there until nobody descends through them any more. There is
//! so little memory that they are used again at once.

use std::cell::Cell;
use std::sync::atomic::Ordering;

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::TableMemory;
use pgtable::shared::{ReadSide, SharedPageTable};
use pgtable::tree::PageTable;
use pgtable::{Error, Leaves, Prot, RangeError};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::sharing::{Alone, Impatient, Shareable};
use crate::support::{Arena, Tables};

const REGION: u64 = 1 << 21;

/// A writer that gives up waiting gets an error, and has changed nothing.
#[derive(Debug, Default)]
struct Counting;

thread_local! {
    static WAITED: Cell<u32> = const { Cell::new(0) };
}

impl ReadSide for Counting {
    type Reading<'r> = ();

    fn read(&mut self) {}

    fn wait(turns: u32) -> bool {
        WAITED.set(turns + 1);
        turns < 9
    }
}

#[test]
fn waiting_ends() {
    // Of who says nothing else: long after any verb of another is done.
    assert!(Alone::wait(0) && Alone::wait((1 << 25) - 1) && !Alone::wait(1 << 25));
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let allocator = Shareable::<Counting>::new(&tables);
    let shared = SharedPageTable::from(PageTable::new(format, arena.memory(), allocator).unwrap());
    let (one, other) = (shared.writer().unwrap(), shared.writer().unwrap());
    let map = |at: u64| {
        let (input, output) = (pgtable::Gva::new(at), pgtable::Gpa::new(0x1000));
        other.map(input, output, 0x1000, Prot::RW.into(), Leaves::Largest)
    };
    map(0x1000).unwrap();
    let cursor = one.lock(pgtable::Gva::new(0), REGION).unwrap();
    let contended = RangeError { at: pgtable::Gva::new(0x2000), error: Error::Contended };
    assert_eq!(map(0x2000), Err(contended));
    assert_eq!(WAITED.get(), 10);
    // What the other does not cover goes on; and so does what he covers, once he is gone.
    map(REGION).unwrap();
    drop(cursor);
    map(0x2000).unwrap();

    // Nested: who covers both waits for who covers one, also on the way down.
    let cursor = one.lock(pgtable::Gva::new(0), REGION).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let around = other.unmap(pgtable::Gva::new(0), 2 * REGION, &mut gather);
    assert_eq!(around, Err(RangeError { at: pgtable::Gva::new(0), error: Error::Contended }));
    drop(cursor);
    assert_eq!(other.unmap(pgtable::Gva::new(0), 2 * REGION, &mut gather), Ok(3 * 0x1000));
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}

#[test]
fn a_circle_that_somebody_else_made_is_an_error() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<pgtable::Gpa>();
    let format = LongMode::new(Levels::Four, Controls::new());
    let allocator = Shareable::<Impatient>::new(&tables);
    let shared = SharedPageTable::from(PageTable::new(format, memory, allocator).unwrap());
    let writer = shared.writer().unwrap();
    // The root's first entry leads to the root.
    let root = shared.root();
    memory.word(root).unwrap().store(root.get() | 7, Ordering::Relaxed);
    let mut gather = Gather::new(&Unused, ());
    let error = writer.unmap(pgtable::Gva::new(0), 1 << 40, &mut gather).unwrap_err();
    assert!(
        matches!(error.error, Error::Malformed { entry, .. } if entry == root.get()),
        "{error}"
    );
    // The same by a table that has left the tree.
    memory.word(root).unwrap().store(0, Ordering::Relaxed);
    let page = (pgtable::Gva::new(0), pgtable::Gpa::new(0x1000));
    writer.map(page.0, page.1, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
    let link = memory.word(root).unwrap().load(Ordering::Relaxed);
    writer.unmap(page.0, 0x1000, &mut gather).unwrap();
    memory.word(root).unwrap().store(link, Ordering::Relaxed);
    let error = writer.map(page.0, page.1, 0x1000, Prot::RW.into(), Leaves::Largest).unwrap_err();
    assert!(
        matches!(error.error, Error::Malformed { entry, .. } if entry == root.get()),
        "{error}"
    );
    memory.word(root).unwrap().store(0, Ordering::Relaxed);
    gather.finish(&&tables).unwrap();
}
