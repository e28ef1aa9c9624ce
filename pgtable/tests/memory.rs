//! Table memory as embedders have it: mappings that may not be written or read, regions that lie
//! about their length, logs of what was written behind wrappers, memory that gives words by value
//! only.

#![cfg(feature = "iommu")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs::File;
use std::io::{Seek, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::{Output, SecondStage};
use pgtable::invalidate::{Gather, Unused};
use pgtable::iommu::TableIommu;
use pgtable::memory::{
    DirectMap, GuestTables, HostAccess, LoadWith, MemoryError, ReadMemory, Refusal, TableMemory,
    TrackedTables,
};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, Cause, Error, Gpa, Gva, Hpa, Leaves, Prot, RangeError};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessTable, Prte, RcPolicy};
use pgtable_ppc64::shadow::L1Memory;
use pgtable_x86::{Controls, Ept, EptControls, EptFault, Levels, LongMode, Npt, NptControls};
use vm_memory::bitmap::{AtomicBitmap, Bitmap};
use vm_memory::iommu::Iommu;
use vm_memory::{
    FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryError, GuestMemoryMmap,
    GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionMmap, GuestUsize, MemoryRegionAddress,
    MmapRegion, Permissions, VolatileSlice,
};

const LONG: LongMode = LongMode::new(Levels::Four, Controls::new());
const ROOT: Gpa = Gpa::new(0x1000);
/// A tree by hand: table entries that are accessed, and a leaf that is neither accessed nor dirty.
const TREE: [(usize, u64); 4] =
    [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067), (0x4000, 0x5007)];

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

/// A region of a type that is none of ours: it claims more than it gives.
#[derive(Debug)]
struct Liar {
    honest: GuestRegionMmap<()>,
    start: u64,
    claims: u64,
}

impl GuestMemoryRegion for Liar {
    type B = ();

    fn len(&self) -> GuestUsize {
        self.claims
    }

    fn start_addr(&self) -> GuestAddress {
        GuestAddress(self.start)
    }

    fn bitmap(&self) {}

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> Result<VolatileSlice<'_, ()>, GuestMemoryError> {
        self.honest.get_slice(offset, count.min(self.honest.len() as usize))
    }
}

impl GuestMemoryRegionBytes for Liar {}

struct Lies(Liar);

impl GuestMemoryBackend for Lies {
    type R = Liar;

    fn iter(&self) -> impl Iterator<Item = &Liar> {
        std::iter::once(&self.0)
    }
}

#[test]
fn case_a3_lengths_are_those_of_slices() {
    for (start, claims) in
        [(0, 1 << 40), (0, u64::MAX), (1 << 40, 1 << 20), (u64::MAX - 0xfff, u64::MAX), (0, 0x1000)]
    {
        let honest = GuestRegionMmap::<()>::from_range(GuestAddress(0), 0x1000, None).unwrap();
        let memory = Lies(Liar { honest, start, claims });
        // SAFETY: what the region gives out is mapped for reads and writes.
        let tables = unsafe {
            GuestTables::<Gpa>::assuming(&memory, &[], |_| HostAccess::ReadWrite).unwrap()
        };
        let last = start.wrapping_add(0xff8);
        let there = start.checked_add(0x1000).is_some();
        if there {
            tables.word(Gpa::new(last)).unwrap().store(7, Ordering::Relaxed);
            assert_eq!(tables.load(Gpa::new(last)), Ok(7), "{start:#x}");
        }
        for beyond in [start.wrapping_add(0x1000), start.wrapping_add(1 << 39), u64::MAX - 7] {
            if (start..start.saturating_add(0x1000)).contains(&beyond) {
                continue;
            }
            assert!(tables.load(Gpa::new(beyond)).is_err(), "{start:#x}: {beyond:#x}");
            assert!(tables.word(Gpa::new(beyond)).is_err(), "{start:#x}: {beyond:#x}");
        }
        assert!(tables.table(Gpa::new(last), 2).is_err(), "{start:#x}");
    }
}

type Tracked = GuestMemoryMmap<AtomicBitmap>;

fn tracked() -> Tracked {
    Tracked::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap()
}

fn dirty(memory: &Tracked) -> Vec<usize> {
    let region = memory.iter().next().unwrap();
    (0..256).filter(|page| region.bitmap().dirty_at(page * 4096)).collect()
}

/// The 4-KiB pages that the log has after a store to this one: all of its host page.
fn after_a_store_to(page: usize) -> Vec<usize> {
    let memory = tracked();
    memory.iter().next().unwrap().bitmap().mark_dirty(page * 4096, 8);
    dirty(&memory)
}

/// A tree is built and changed through a memory; which pages the log has then.
fn logged<M: TableMemory<Gpa>>(memory: &Tracked, through: M) -> Vec<usize> {
    let plain = GuestTables::<Gpa>::new(memory).unwrap();
    let frames = Frames::new(Region::new(&plain, Gpa::new(0), 16, 16).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let mut tree = PageTable::new(LONG, through, &cache).unwrap();
    let page = (Gva::new(0x1000), Gpa::new(0x5000));
    tree.map(page.0, page.1, 4096, Prot::RW.into(), Leaves::Largest).unwrap();
    dirty(memory)
}

#[test]
fn case_a7_wrappers_pass_on_what_was_written() {
    let memory = tracked();
    let want = logged(&memory, TrackedTables::new(&memory).unwrap());
    assert!(!want.is_empty());
    let through = |name: &str, log: &dyn Fn(&Tracked) -> Vec<usize>| {
        let memory = tracked();
        assert_eq!(log(&memory), want, "{name}");
    };
    through("&", &|memory| logged(memory, TrackedTables::<_, Gpa>::new(memory).unwrap()));
    through("Box", &|memory| logged(memory, Box::new(TrackedTables::new(memory).unwrap())));
    through("Arc", &|memory| logged(memory, Arc::new(TrackedTables::new(memory).unwrap())));
    through("Rc", &|memory| logged(memory, std::rc::Rc::new(TrackedTables::new(memory).unwrap())));
    through("Region", &|memory| {
        let tables = TrackedTables::<_, Gpa>::new(memory).unwrap();
        logged(memory, Region::new(&tables, Gpa::new(0x8_0000), 1, 16).unwrap())
    });
}

/// L1's tree of one page, by hand: R and C are clear.
fn l1_tree(put: impl Fn(u64, u64)) {
    put(0x1_0000, 1 << 63 | 0x2_0000 | 9);
    put(0x2_0000, 1 << 63 | 0x2_1000 | 9);
    put(0x2_1000, 1 << 63 | 0x2_2000 | 5);
    put(0x2_2000, 3 << 62 | 0x5_0000 | 7);
}

#[test]
fn case_a7_records_in_a_nested_hypervisors_tables() {
    let memory = tracked();
    let tables = TrackedTables::<_, Gpa>::new(&memory).unwrap();
    l1_tree(|at, word| {
        tables.word(Gpa::new(at)).unwrap().store(word.to_be(), Ordering::Relaxed);
    });
    assert!(dirty(&memory).is_empty());
    let format = PartitionScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    let walker = Walker::new(format, L1Memory(&tables), Hpa::new(0x1_0000));
    walker.access(Gpa::new(0x123), Access::WRITE).unwrap();
    assert_eq!(dirty(&memory), after_a_store_to(0x22));
    let leaf = u64::from_be(tables.load(Gpa::new(0x2_2000)).unwrap());
    assert_eq!(leaf, 3 << 62 | 0x5_0000 | 0x187);
    // In L1's memory that may only be read nothing is recorded.
    let less = [(Gpa::new(0x2_2000)..Gpa::new(0x2_3000), HostAccess::Read)];
    let tables = TrackedTables::over(GuestTables::restricted(&memory, &less).unwrap(), &memory);
    let walker = Walker::new(format, L1Memory(&tables), Hpa::new(0x1_0000));
    assert!(walker.access(Gpa::new(0x123), Access::WRITE).is_ok());
}

#[test]
fn case_a7_process_tables() {
    let memory = tracked();
    let tables = TrackedTables::<_, Gpa>::new(&memory).unwrap();
    let table = ProcessTable::new(Gpa::new(0x3_0000), 0).unwrap();
    table.write(&tables, 1, Prte::of_tree(0x4_0000).unwrap()).unwrap();
    assert_eq!(dirty(&memory), after_a_store_to(0x30));
}

/// EPT without accessed and dirty flags records nothing, and says so.
#[test]
fn case_b8_a_record_that_the_format_does_not_have() {
    let base = Hpa::new(0x10_0000);
    for (accessed_dirty, recorded) in
        [(true, Recorded::Dirty), (false, Recorded::Dirty), (false, Recorded::Accessed)]
    {
        let words: Vec<AtomicU64> = (0..16 << 13).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, base);
        let frames = Frames::new(Region::new(memory, base, 16, 16).unwrap()).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::Kernel, Policy::Reuse);
        let format = Ept::new(Levels::Four, EptControls { accessed_dirty, ..EptControls::new() });
        let mut tree = PageTable::new(format, memory, &cache).unwrap();
        let (from, to) = (Gpa::new(0), Hpa::new(0x4000_0000));
        tree.map(from, to, 0x1_0000, Prot::RWX.into(), Leaves::Largest).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let mut bitmap = [0];
        let writers = Writers::Running;
        let found = tree.harvest(from, 0x1_0000, recorded, writers, &mut bitmap, &mut gather);
        if accessed_dirty {
            assert_eq!((found, bitmap), (Ok(16), [0xffff]));
        } else {
            let error = Error::NoRecord;
            assert_eq!((found, bitmap), (Err(RangeError { at: from, error }), [0]));
        }
        gather.finish(tree.tables()).unwrap();
    }
}

/// Both stages by hand in one block: the guest's tables at 0x1000 to 0x4000, its page at 0x5000;
/// stage 2 maps page for page, with `rights` for the page of one guest table.
struct Nested {
    words: Vec<AtomicU64>,
}

impl Nested {
    fn new(guest: &[(u64, u64)], leaf: impl Fn(u64) -> u64, table: u64) -> Self {
        let this = Self { words: (0..0x2_0000 / 8).map(|_| AtomicU64::new(0)).collect() };
        for &(at, word) in guest {
            this.put(at, word);
        }
        for level in 0..3 {
            this.put(0x1_0000 + level * 0x1000, (0x1_1000 + level * 0x1000) | table);
        }
        for page in 0..16 {
            this.put(0x1_3000 + page * 8, page << 12 | leaf(page));
        }
        this
    }

    fn put(&self, at: u64, word: u64) {
        self.words[at as usize / 8].store(word.to_le(), Ordering::Relaxed);
    }

    fn translate<F: SecondStage>(
        &self,
        second: F,
        access: Access,
        cached: bool,
    ) -> Result<Hpa, TwoStageFault<LongMode, F>> {
        let memory = DirectMap::new(&self.words, Hpa::new(0));
        let stage2 = Walker::new(second, memory, Hpa::new(0x1_0000));
        let generation = Generation::new();
        let cache = TranslationCache::<F, 64>::new(&generation);
        let stages = TwoStage::new(LONG, ROOT, stage2);
        if cached {
            let stages = stages.with_cache(&cache);
            // Everything is remembered after reads of entries that are marked.
            let _ = stages.translate(Gva::new(0x123), Access::READ);
            return stages.translate(Gva::new(0x123), access).map(|found| found.output());
        }
        stages.translate(Gva::new(0x123), access).map(|found| found.output())
    }
}

/// The update of a guest's accessed and dirty flags is a data write of its own (SDM §29.3.3.2).
#[test]
fn case_b9_a_guests_own_update_through_ept() {
    let marked = [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067), (0x4000, 0x5067)];
    let with = |at: u64, word: u64| {
        let mut words = marked;
        words[(at / 0x1000 - 1) as usize] = (at, word);
        words
    };
    let (read, write) = (Access::READ, Access::WRITE);
    // (guest's words, the page of guest table that is restricted and its rights, access, what EPT
    // says)
    for (guest, page, rights, access, want) in [
        (marked, 4, 0x1, read, None),
        (marked, 4, 0x1, write, None),
        (with(0x4000, 0x5007), 4, 0x1, read, Some(0x8b)),
        (with(0x4000, 0x5007), 4, 0x5, read, Some(0xab)),
        (with(0x4000, 0x5007), 4, 0x3, read, None),
        (with(0x4000, 0x5027), 4, 0x1, read, None),
        (with(0x4000, 0x5027), 4, 0x1, write, Some(0x8b)),
        (with(0x3000, 0x4007), 3, 0x1, read, Some(0x8b)),
        (with(0x1000, 0x2007), 1, 0x5, read, Some(0xab)),
        // The guest's own fault comes first: nothing is recorded for it.
        (with(0x4000, 0x5005), 4, 0x1, write, None),
    ] {
        let leaf = |number: u64| if number == page { rights | 0x30 } else { 0x37 };
        let nested = Nested::new(&guest, leaf, 0x7);
        let controls = EptControls { accessed_dirty: false, ..EptControls::new() };
        let ept = Ept::new(Levels::Four, controls);
        for cached in [false, true] {
            let found = nested.translate(ept, access, cached);
            let violation = match &found {
                Err(TwoStageFault::Stage2 { table: Some(at), fault, .. }) => {
                    assert_eq!(u64::from(at.level.0), 4 - page);
                    let EptFault::Violation(violation) = fault.arch else { panic!("{fault}") };
                    Some(violation.into_bits())
                }
                _ => None,
            };
            assert_eq!(violation, want, "{guest:x?}, page {page}: {rights:#x}, {access}, {cached}");
            if want.is_none() && guest[3].1 & 2 != 0 {
                assert_eq!(found.unwrap(), Hpa::new(0x5123));
            }
        }
        // With accessed and dirty flags, and in nested paging, the load is a write already.
        let with_flags = Ept::new(Levels::Four, EptControls::new());
        let writable = rights & 2 != 0;
        assert_eq!(nested.translate(with_flags, read, false).is_ok(), writable);
        let npt = Npt::new(Levels::Four, NptControls::new());
        let leaf = |number: u64| if number == page && !writable { 0x65 } else { 0x67 };
        let nested = Nested::new(&guest, leaf, 0x67);
        assert_eq!(nested.translate(npt, read, false).is_ok(), writable);
    }
}

/// Bytes, a callback, and words in place give the same walks.
#[test]
fn words_by_value() {
    let mut bytes = vec![0_u8; 0x6000];
    for (at, word) in TREE {
        bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    }
    let words: Vec<AtomicU64> = bytes
        .chunks_exact(8)
        .map(|word| AtomicU64::new(u64::from_ne_bytes(word.try_into().unwrap())))
        .collect();
    let direct = DirectMap::new(&words, Gpa::new(0));
    let callback = LoadWith(|at: Gpa| {
        let word = words.get(at.get() as usize / 8).ok_or(MemoryError::outside(at, 1))?;
        Ok(word.load(Ordering::Relaxed))
    });
    fn check<M: ReadMemory<Output<LongMode>>>(name: &str, memory: M) {
        let walker = Walker::new(LONG, &memory, ROOT);
        let found = walker.translate(Gva::new(0x123), Access::WRITE).unwrap();
        assert_eq!(found.output, Gpa::new(0x5123), "{name}");
        let fault = walker.translate(Gva::new(1 << 30), Access::READ).unwrap_err();
        assert_eq!(fault.cause, Cause::NotPresent, "{name}");
        assert!(walker.access(Gva::new(0x123), Access::WRITE).is_ok(), "{name}");
        let leaves: Vec<_> = walker.iter(Gva::new(0), 1 << 39).unwrap().collect();
        assert_eq!(leaves.len(), 1, "{name}");
        let mut outputs = [None; 3];
        let inputs = [Gva::new(0), Gva::new(0xff8), Gva::new(0x1000)];
        assert_eq!(walker.translate_batch(&inputs, Access::READ, &mut outputs), 2, "{name}");
        assert!(memory.load(Gpa::new(0x6000)).is_err() && memory.load(Gpa::new(u64::MAX)).is_err());
        assert_eq!(memory.load(Gpa::new(0x4007)), memory.load(Gpa::new(0x4000)), "{name}");
    }
    // SAFETY: the tree leads nowhere outside the block, and only addresses of it are asked for
    // below.
    let trusted = unsafe { direct.trusted() };
    let walker = Walker::new(LONG, trusted, ROOT);
    assert_eq!(walker.translate(Gva::new(0x123), Access::READ).unwrap().output, Gpa::new(0x5123));
    check("bytes", &bytes[..]);
    check("callback", callback);
    check("boxed", Box::new(LoadWith(|at: Gpa| direct.load(at))));
    check("direct", direct);
    let after = words[0x4000 / 8].load(Ordering::Relaxed);
    assert_eq!(u64::from_le(after), 0x5067, "recorded in place");
}
