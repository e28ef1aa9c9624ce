//! Memory that may be read only, or not at all, by the host's protection or by an embedder's
//! restriction: what every verb answers there.

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::invalidate::{Gather, Unused};
use pgtable::iommu::TableIommu;
use pgtable::memory::{GuestTables, HostAccess, MemoryError, ReadMemory, Refusal, TableMemory};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, Cause, Error, Gpa, Gva, Hpa, Leaves, Prot, RangeError};
use pgtable_x86::{Ept, EptControls, Levels, LongMode};
use vm_memory::iommu::Iommu;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion, Permissions,
};

use crate::{LONG, ROOT, TREE};

/// A file that holds the tree.
fn image() -> File {
    let mut bytes = vec![0_u8; 0x8000];
    for (at, word) in TREE {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("pgtable-{}-{number}", std::process::id()));
    let options = File::options().read(true).write(true).create_new(true).clone();
    let mut file = options.open(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    file.write_all(&bytes).unwrap();
    file.rewind().unwrap();
    file
}

/// The tree at guest address 0, mapped with this protection, and 64 KiB of ordinary memory at
/// 1 MiB.
fn mapped(protection: i32) -> GuestMemoryMmap {
    let file = FileOffset::new(image(), 0);
    let tree = MmapRegion::build(Some(file), 0x8000, protection, libc::MAP_SHARED).unwrap();
    let plain = MmapRegion::new(0x1_0000).unwrap();
    GuestMemoryMmap::from_regions(vec![
        GuestRegionMmap::new(tree, GuestAddress(0)).unwrap(),
        GuestRegionMmap::new(plain, GuestAddress(0x10_0000)).unwrap(),
    ])
    .unwrap()
}

/// What tables in a piece of memory answer.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Answer {
    /// Everything, and accesses are recorded.
    Recorded,
    /// Everything that reads; nothing is recorded.
    Read,
    /// Nothing.
    Refused,
}

/// Every way to get at the same memory, with what it answers.
fn each_memory(check: impl Fn(&str, &GuestTables<'_, Gpa>, Answer)) {
    let (read, both) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    for (protection, access, want) in [
        (both, HostAccess::ReadWrite, Answer::Recorded),
        (both, HostAccess::Read, Answer::Read),
        (both, HostAccess::None, Answer::Refused),
        (read, HostAccess::ReadWrite, Answer::Read),
        (read, HostAccess::Read, Answer::Read),
        (read, HostAccess::None, Answer::Refused),
        (libc::PROT_NONE, HostAccess::ReadWrite, Answer::Refused),
        (libc::PROT_NONE, HostAccess::None, Answer::Refused),
    ] {
        let memory = mapped(protection);
        let less = [(Gpa::new(0)..Gpa::new(0x8000), access)];
        let tables = GuestTables::restricted(&memory, &less).unwrap();
        check(&format!("protection {protection}, {access:?}"), &tables, want);
    }
    let memory = mapped(libc::PROT_READ);
    check("new", &GuestTables::new(&memory).unwrap(), Answer::Read);
}

fn leaf(tables: &GuestTables<'_, Gpa>) -> Option<u64> {
    tables.load(Gpa::new(0x4000)).ok().map(u64::from_le)
}

#[test]
fn case_b1_walkers_and_recorders() {
    each_memory(|what, tables, want| {
        let walker = Walker::new(LONG, tables, ROOT);
        let translated = walker.translate(Gva::new(0x123), Access::READ);
        assert_eq!(
            translated.map(|found| found.output).map_err(|fault| fault.cause),
            if want == Answer::Refused { Err(Cause::TableAccess) } else { Ok(Gpa::new(0x5123)) },
            "{what}"
        );
        for (access, bits) in [(Access::READ, 0x20), (Access::WRITE, 0x60)] {
            let made = walker.access(Gva::new(0x123), access);
            assert_eq!(made.is_ok(), want != Answer::Refused, "{what}: {made:?}");
            let after = match want {
                Answer::Recorded => Some(0x5007 | bits),
                Answer::Read => Some(0x5007),
                Answer::Refused => None,
            };
            assert_eq!(leaf(tables), after, "{what}, {access}");
        }
        let refused = MemoryError::outside(ROOT, 1);
        let query = walker.query(Gva::new(0)).map(|found| found.is_some());
        assert_eq!(query, if want == Answer::Refused { Err(refused.into()) } else { Ok(true) });
        let depth = if want == Answer::Refused { 0 } else { 4 };
        assert_eq!(walker.trace(Gva::new(0)).len(), depth, "{what}");
        let mut output = [None; 2];
        let batch = [Gva::new(0x10), Gva::new(0x20)];
        let there = if want == Answer::Refused { 0 } else { 2 };
        assert_eq!(walker.translate_batch(&batch, Access::READ, &mut output), there, "{what}");
        let (mut leaves, mut visited) = (0, 0);
        let each = walker.for_each(Gva::new(0), 1 << 30, |_| {
            leaves += 1;
            ControlFlow::<()>::Continue(())
        });
        let iterated = walker.iter(Gva::new(0), 1 << 30).unwrap().filter(Result::is_ok).count();
        let found = usize::from(want != Answer::Refused);
        assert_eq!((each.is_ok(), leaves, iterated), (found == 1, found, found), "{what}");
        let mut entries = 0;
        let _ = walker.for_each_table(|table| {
            visited += 1;
            entries += table.entries().count();
            ControlFlow::<()>::Continue(())
        });
        let all = if want == Answer::Refused { (1, 0) } else { (4, 4 * 512) };
        assert_eq!((visited, entries), all, "{what}");
        // Runs are in place: what may only be read is not given so.
        let runs = walker.for_each_run(Gva::new(0), 0x1000, |_| ControlFlow::<()>::Continue(()));
        let refusal = runs.err().map(|error| match error.error {
            Error::Memory(error) => error.refusal,
            other => panic!("{other}"),
        });
        let wanted = match want {
            Answer::Recorded => None,
            Answer::Read => Some(Refusal::ReadOnly),
            Answer::Refused => Some(Refusal::Outside),
        };
        assert_eq!(refusal, wanted, "{what}");
        let generation = Generation::new();
        let cache: TranslationCache<'_, LongMode, 4> = TranslationCache::new(&generation);
        let cached = cache.translate(&walker, Gva::new(8), Access::READ);
        assert_eq!(cached.is_ok(), want != Answer::Refused, "{what}");
    });
}

#[test]
fn case_b1_iommus() {
    each_memory(|what, tables, want| {
        let plain: TableIommu<_, _, 4> = TableIommu::new(LONG, tables, ROOT);
        let recording: TableIommu<_, _, 4> = TableIommu::new(LONG, tables, ROOT).recording();
        for (name, iommu) in [("plain", &plain), ("recording", &recording)] {
            for access in [Permissions::Read, Permissions::Write, Permissions::ReadWrite] {
                let found = iommu.translate(GuestAddress(0x123), 8, access);
                assert_eq!(found.is_ok(), want != Answer::Refused, "{what}, {name}, {access:?}");
                drop(found);
                iommu.forget();
            }
        }
        let recorded = if want == Answer::Recorded { 0x5067 } else { 0x5007 };
        assert_eq!(leaf(tables).unwrap_or(0x5007), recorded, "{what}");
    });
}

/// A copy of the tree is made from memory that may only be read, and finds no difference.
#[test]
fn case_b1_snapshots() {
    each_memory(|what, tables, want| {
        let base = Gpa::new(0x10_0000);
        let frames = Frames::new(Region::new(tables, base, 1, 16).unwrap()).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let walker = Walker::new(LONG, tables, ROOT);
        match walker.snapshot(tables, &cache) {
            Ok(copy) => {
                assert_ne!(want, Answer::Refused, "{what}");
                let mut changes = 0;
                let compared = walker.diff(&copy.walker(), Gva::new(0), 1 << 30, |_| {
                    changes += 1;
                    ControlFlow::<()>::Continue(())
                });
                assert_eq!((compared.is_ok(), changes), (true, 0), "{what}");
                copy.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
            }
            Err(error) => {
                assert_eq!(want, Answer::Refused, "{what}");
                assert!(matches!(error, Error::Memory(_)), "{what}: {error}");
            }
        }
        cache.close().unwrap();
        assert!(frames.census().all_home(), "{what}");
    });
}

/// Both stages stand in such memory: the second stage is walked by value too.
#[test]
fn case_b1_two_stages() {
    let (read, both) = (libc::PROT_READ, libc::PROT_READ | libc::PROT_WRITE);
    for (protection, there) in [(both, true), (read, true), (libc::PROT_NONE, false)] {
        let memory = mapped(protection);
        let tables = GuestTables::<Hpa>::new(&memory).unwrap();
        // One large page at 0, which EPT's tables map to themselves: by hand, in ordinary memory.
        let put = |at: u64, word: u64| {
            tables.word(Hpa::new(at)).unwrap().store(word.to_le(), Ordering::Relaxed);
        };
        put(0x10_0000, 0x10_1107);
        put(0x10_1000, 0x10_2107);
        put(0x10_2000, 0x3b7);
        let ept = Ept::new(Levels::Four, EptControls::new());
        let stage2 = Walker::new(ept, &tables, Hpa::new(0x10_0000));
        let both = TwoStage::new(LONG, ROOT, stage2);
        let found = both.translate(Gva::new(0x123), Access::READ);
        assert_eq!(found.is_ok(), there, "protection {protection}: {found:?}");
        if let Err(fault) = found {
            assert!(
                matches!(fault, TwoStageFault::Stage1(fault) if fault.cause == Cause::TableAccess)
            );
        }
    }
}

/// A guest makes a tree lead to tables that are none of its allocator's: writers name the entry,
/// and touch nothing there.
#[test]
fn case_b1_writers() {
    each_memory(|what, tables, _| {
        let base = Gpa::new(0x10_0000);
        let frames = Frames::new(Region::new(tables, base, 1, 16).unwrap()).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
        let mut tree = PageTable::new(LONG, tables, &cache).unwrap();
        let root = tables.word(tree.root()).unwrap();
        root.store(0x2067_u64.to_le(), Ordering::Relaxed);
        let content = || TREE.map(|(at, _)| tables.load(Gpa::new(at as u64)));
        let (before, mut gather) = (content(), Gather::new(&Unused, ()));
        let (first, second) = (Gva::new(0), Gva::new(0x1000));
        let largest = Leaves::Largest;
        let mut bitmap = [0];
        let writers = Writers::Running;
        let results: [Result<(), RangeError<Gva>>; 4] = [
            tree.map(second, Gpa::new(0), 0x1000, Prot::RW.into(), largest).map(drop),
            tree.unmap(first, 0x1000, &mut gather).map(drop),
            tree.protect(first, 0x1000, Prot::R, &mut gather).map(drop),
            tree.harvest(first, 0x1000, Recorded::Dirty, writers, &mut bitmap, &mut gather)
                .map(drop),
        ];
        for (verb, result) in results.into_iter().enumerate() {
            let Err(RangeError { error: Error::Malformed { entry, .. }, .. }) = result else {
                panic!("{what}, verb {verb}: {result:?}");
            };
            assert_eq!(entry, base.get(), "{what}, verb {verb}");
        }
        assert_eq!(content(), before, "{what}");
        root.store(0, Ordering::Relaxed);
        gather.finish(tree.tables()).unwrap();
        tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    });
}

/// An allocator that hands out one place, whatever memory there is.
struct At(Gpa, TableState);

impl TableAllocator<Gpa> for At {
    fn allocate(&self, _: TableLayout) -> Result<Gpa, AllocError> {
        Ok(self.0)
    }

    fn free(&self, _: Gpa, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Ok(())
    }

    fn state(&self, table: Gpa, _: TableLayout) -> Option<&TableState> {
        (table == self.0).then_some(&self.1)
    }
}

/// Tables that an allocator hands out where nothing can be stored.
#[test]
fn case_b1_allocators() {
    each_memory(|what, tables, want| {
        let tree = PageTable::new(LONG, tables, At(Gpa::new(0x6000), TableState::new()));
        let refusal = match tree.map(drop) {
            Ok(()) => None,
            Err(Error::Memory(error)) => Some(error.refusal),
            Err(error) => panic!("{what}: {error}"),
        };
        let wanted = match want {
            Answer::Recorded => None,
            Answer::Read => Some(Refusal::ReadOnly),
            Answer::Refused => Some(Refusal::Outside),
        };
        assert_eq!(refusal, wanted, "{what}");
    });
}
