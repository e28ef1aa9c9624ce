//! Tables that wait for readers.
#![cfg(not(loom))]

use std::sync::atomic::AtomicU64;

use frag_alloc::{Cache, Deferred, Epochs, Error, Frames, Kind, Owner, Policy, Region};
use pgtable::{Contents, DirectMap, Hpa};

#[test]
fn a_table_is_handed_out_again_only_when_its_readers_have_left() {
    let words: Vec<_> = (0..1 << 6).map(|_| AtomicU64::new(0)).collect();
    let source = Region::new(DirectMap::new(&words, Hpa::new(0)), Hpa::new(0), 1, 9).unwrap();
    let frames = Frames::new(source).unwrap();
    let epochs = Epochs::new(1);
    let tables = Deferred::new(Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse), &epochs);
    let mut reader = epochs.reader().unwrap();
    assert!(epochs.reader().is_none());
    let (kept, freed) = (tables.take(8).unwrap(), tables.take(8).unwrap());
    let reading = reader.read();
    tables.give(freed, 8, Contents::Stale).unwrap();
    assert!(
        matches!(tables.give(freed, 8, Contents::Stale), Err(Error::NotLive { .. })),
        "freed twice, though it waits"
    );
    assert_eq!((tables.collect(), tables.collect(), tables.waiting()), (Ok(0), Ok(0), 1));
    assert_eq!(tables.take(8), Err(Error::Exhausted { shift: 8 }));
    drop(reading);
    // A reader that comes later saw the tree without the table.
    let _reading = reader.read();
    assert_eq!(tables.take(8), Ok(freed));
    tables.give(kept, 8, Contents::Stale).unwrap();
    tables.give(freed, 8, Contents::Stale).unwrap();
    tables.cache().close().unwrap();
    assert_eq!(frames.census().fragments, 2, "those that wait are counted");
    drop(_reading);
    drop(tables);
    assert!(frames.census().all_home());
}
