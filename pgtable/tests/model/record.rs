//! Accessed and dirty: what a harvest tells of large pages and odd entries, and what is recorded
//! meanwhile. (Random uses and harvests are in the conformance kit.)

use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Arena, Tables};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::walk::Walker;
use pgtable::{Access, Address, Error, Gpa, Gva, Hpa, Leaves, Prot};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, PageAttributes};

/// Large pages, several in a row and beyond both ends of what is asked for; entries that only look
/// recorded; ranges that are none of whole pages.
#[test]
fn whole_pages_and_leaves_only() {
    const PAGE: u64 = 0x1000;
    const LARGE: u64 = 2 << 20;
    /// SDM §29.3.3.2.
    const DIRTY: u64 = 1 << 9;
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Hpa>();
    let format = Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() });
    let mut tree = PageTable::new(format, memory, &tables).unwrap();
    tree.map(Gpa::new(0), Hpa::new(0), 32 * LARGE, Prot::RW.into(), Leaves::Largest).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let mut bits = vec![0u64; 256];
    let mut harvest =
        |tree: &mut PageTable<Ept, DirectMap<'_, Hpa>, &Tables<'_>>, at: u64, bytes: u64| {
            bits.fill(0);
            let set = tree.harvest(
                Gpa::new(at),
                bytes,
                Recorded::Dirty,
                Writers::Stopped,
                &mut bits,
                &mut gather,
            );
            let counted: u32 = bits.iter().map(|word| word.count_ones()).sum();
            assert!(set.is_err() || set == Ok(u64::from(counted)));
            set.map_err(|error| (error.at.get(), error.error))
        };
    // From within the first to within the last: these two are reported and not cleared.
    assert_eq!(harvest(&mut tree, 5 * PAGE, 31 * LARGE), Ok(31 * 512));
    assert_eq!(harvest(&mut tree, 5 * PAGE, 31 * LARGE), Ok(507 + 5));
    assert_eq!(harvest(&mut tree, 0, 32 * LARGE), Ok(2 * 512), "the first and the last");
    assert_eq!(harvest(&mut tree, 0, 32 * LARGE), Ok(0));
    for (at, bytes) in [(1, PAGE), (0, PAGE + 1), (0x800, PAGE), (PAGE, 0x800)] {
        assert_eq!(harvest(&mut tree, at, bytes), Err((at, Error::Unaligned { shift: 12 })));
    }

    // An entry that is not present may hold anything: it is neither dirty nor changed.
    let page = Gpa::new(40 * LARGE);
    tree.map(page, Hpa::new(0), 4 * PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
    assert_eq!(harvest(&mut tree, page.get(), 4 * PAGE), Ok(4));
    let entry = tree.walker().trace(page).last().unwrap().address;
    let absent = memory.word(entry.checked_add(5 * 8).unwrap()).unwrap();
    absent.store(DIRTY.to_le(), Ordering::Relaxed);
    assert_eq!(harvest(&mut tree, page.get(), 64 * PAGE), Ok(0));
    assert_eq!(absent.swap(0, Ordering::Relaxed), DIRTY.to_le());
    gather.finish(&tables).unwrap();
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}

/// What a CPU records while its page is protected is not lost.
#[test]
fn protection_beside_a_cpu_that_stores() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    const PAGES: u64 = 8;
    let (start, bytes) = (Gva::new(1 << 30), PAGES << 12);
    let recorded_nothing =
        |prot: Prot| PageAttributes::from(prot).with_accessed(false).with_dirty(false);
    tree.map(start, Gpa::new(1 << 30), bytes, recorded_nothing(Prot::RW), Leaves::Exactly(12))
        .unwrap();
    let walker = Walker::new(format, arena.memory::<Gpa>(), tree.root());
    // The CPU stores to each page in turn `n` when `begun` is n, and says so in `done`.
    let [begun, done] = [const { AtomicU64::new(0) }; 2];
    let turns = 1..=100_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in turns.clone() {
                while begun.load(Ordering::Acquire) < turn {
                    std::hint::spin_loop();
                }
                for page in 0..PAGES {
                    walker.access(Gva::new(start.get() + (page << 12)), Access::WRITE).unwrap();
                }
                done.store(turn, Ordering::Release);
            }
        });
        for turn in turns.clone() {
            begun.store(turn, Ordering::Release);
            let mut gather = Gather::new(&Unused, ());
            while done.load(Ordering::Acquire) < turn {
                for prot in [Prot::RWX, Prot::RW] {
                    tree.protect(start, bytes, prot, &mut gather).unwrap();
                    let cleared = recorded_nothing(prot);
                    tree.set_attributes(start, bytes, cleared, &mut gather).unwrap();
                }
            }
            // Nor beside nobody.
            tree.protect_beside(start, bytes, Prot::RWX, Writers::Stopped, &mut gather).unwrap();
            let mut dirty = [0];
            tree.harvest(start, bytes, Recorded::Dirty, Writers::Stopped, &mut dirty, &mut gather)
                .unwrap();
            if dirty != [(1 << PAGES) - 1] {
                begun.store(u64::MAX, Ordering::Release);
                panic!("turn {turn}: {dirty:x?}");
            }
            gather.finish(&tables).unwrap();
        }
    });
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
}
