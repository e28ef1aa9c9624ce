//! Where partition and process tables are, and what is invalidated when their entries change: the
//! whole space, as everything that is stale of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Gpa, Gva, Hpa, Leaves, Prot, Stage1, Stage2};
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_ppc64::radix::{
    Granule, Invalidation, PartitionScoped, PartitionTable, Pate, ProcessScoped, ProcessTable,
    Processor, Prte, Reach, Ric, RptInvalidate, Step, TableError,
};

/// An entry stands sixteen bytes behind the one before it, and what is written there is what is
/// read.
#[test]
fn entries_are_where_they_say() {
    let words: Vec<AtomicU64> = (0..2 << 10).map(|_| AtomicU64::new(0)).collect();
    let partitions = PartitionTable::new(Hpa::new(0x1_2000), 1).unwrap();
    let memory = DirectMap::new(&words, Hpa::new(0x1_2000));
    assert_eq!((partitions.base(), partitions.entries()), (Hpa::new(0x1_2000), 512));
    for lpid in [0, 1, 77, 511] {
        let entry = Pate {
            tree: (0xabc0 + u64::from(lpid)).into(),
            process_table: (0xdef0 + u64::from(lpid)).into(),
        };
        let at = partitions.entry(lpid).unwrap();
        assert_eq!(at, Hpa::new(0x1_2000 + u64::from(lpid) * 16));
        partitions.write(&memory, lpid, entry).unwrap();
        let stored = [0, 8]
            .map(|word| memory.word(Hpa::new(at.get() + word)).unwrap().load(Ordering::Relaxed));
        assert_eq!(
            stored.map(u64::from_be),
            [u64::from(entry.tree), u64::from(entry.process_table)]
        );
        assert_eq!(partitions.read(&memory, lpid).unwrap(), entry);
    }
    assert_eq!(partitions.entry(512), Err(TableError::Beyond { index: 512, entries: 512 }));
    let processes = ProcessTable::new(Gpa::new(0x4000), 0).unwrap();
    assert_eq!((processes.base(), processes.entries()), (Gpa::new(0x4000), 256));
    assert_eq!(processes.entry(255), Ok(Gpa::new(0x4ff0)));
    assert_eq!(processes.entry(256), Err(TableError::Beyond { index: 256, entries: 256 }));
    let memory = DirectMap::new(&words, Gpa::new(0x4000));
    let entry = Prte { tree: 0x1234.into(), reserved: 0 };
    processes.write(&memory, 255, entry).unwrap();
    assert_eq!(processes.read(&memory, 255).unwrap(), entry);
}

/// The steps for what a gather says is stale, and for all.
struct Steps<S>(Invalidation<S>, RefCell<Vec<Step<S>>>);

macro_rules! steps {
    ($stage:ty) => {
        impl Invalidate<$stage> for Steps<$stage> {
            type Identity = ();

            fn invalidate(
                &self,
                (): (),
                stale: &Stale<<$stage as pgtable::Stage>::Input>,
            ) -> Result<(), InvalidateFailed> {
                self.0.steps(stale, |step| self.1.borrow_mut().push(step));
                Ok(())
            }

            fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
                panic!("a gather was dropped");
            }
        }

        impl Steps<$stage> {
            fn all(&self) -> Vec<Step<$stage>> {
                let mut steps = Vec::new();
                self.0.all(|step| steps.push(step));
                steps
            }
        }
    };
}
steps!(Stage1);
steps!(Stage2);

const WAYS: [(Reach, Processor); 4] = [
    (Reach::Global, Processor::POWER9),
    (Reach::Global, Processor::POWER10),
    (Reach::Local, Processor::POWER9),
    (Reach::Local, Processor::POWER10),
];

/// Of process 0, which is the kernel in every quadrant, one page is as much as everything; of
/// others it is one page.
#[test]
fn the_kernel_is_invalidated_whole() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree =
        PageTable::new(ProcessScoped::new(Granule::K64), arena.memory(), &tables).unwrap();
    for (reach, processor) in WAYS {
        for (pid, whole) in [(0, true), (7, false)] {
            let by = Steps(Invalidation::of_process(pid, 3, reach, processor), RefCell::default());
            // A page that shares its table with another one, so that no table leaves.
            tree.map(Gva::new(0x10_0000), Gpa::new(0), 2 << 16, Prot::RW.into(), Leaves::Largest)
                .unwrap();
            let mut gather = Gather::new(&by, ());
            tree.unmap(Gva::new(0x10_0000), 1 << 16, &mut gather).unwrap();
            gather.finish(&&tables).unwrap();
            let one = by.1.take();
            assert_eq!(one == by.all(), whole, "process {pid}, {reach:?}, {processor:?}: {one:?}");
            let mut gather = Gather::new(&by, ());
            gather.everything();
            gather.finish(&&tables).unwrap();
            assert_eq!(by.1.take(), by.all(), "everything is all there is");
            let mut gather = Gather::new(&by, ());
            tree.unmap(Gva::new(0x10_0000), 1 << 20, &mut gather).unwrap();
            gather.finish(&&tables).unwrap();
            by.1.take();
        }
    }
}

/// All of a partition: translations, directories and the entry of the partition table, of that
/// partition; POWER9's second `tlbie`, for what the first leaves behind, is of partition 0, which
/// is nobody's.
#[test]
fn all_of_a_partition() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree =
        PageTable::new(PartitionScoped::new(Granule::K64), arena.memory::<Hpa>(), &tables).unwrap();
    for (reach, processor) in WAYS {
        let by = Steps(Invalidation::of_partition(5, reach, processor), RefCell::default());
        let told = by.all();
        let lookups = told.iter().filter_map(|step| match step {
            Step::Tlbie(it) | Step::Tlbiel(it) => Some((it.ric(), it.rs().lpid())),
            _ => None,
        });
        let lookups: Vec<_> = lookups.collect();
        assert!(lookups.contains(&(Ric::All, 5)), "{reach:?} {processor:?}: {lookups:?}");
        let nobody = lookups.iter().any(|(_, lpid)| *lpid == 0);
        assert_eq!(nobody, processor.erat_bug && reach == Reach::Global, "{lookups:?}");
        // The same for pages.
        tree.map(Gpa::new(0x10_0000), Hpa::new(0), 2 << 16, Prot::RW.into(), Leaves::Exactly(16))
            .unwrap();
        let mut gather = Gather::new(&by, ());
        tree.unmap(Gpa::new(0x10_0000), 1 << 16, &mut gather).unwrap();
        gather.finish(&&tables).unwrap();
        let lpids: Vec<_> =
            by.1.take()
                .into_iter()
                .filter_map(|step| match step {
                    Step::Tlbie(it) | Step::Tlbiel(it) => Some(it.rs().lpid()),
                    _ => None,
                })
                .collect();
        assert!(lpids.contains(&5));
        assert_eq!(lpids.contains(&0), nobody, "{lpids:?}");
        let mut gather = Gather::new(&by, ());
        tree.unmap(Gpa::new(0x10_0000), 1 << 20, &mut gather).unwrap();
        gather.finish(&&tables).unwrap();
        by.1.take();
    }
}

/// Collects the hypercalls for what a gather says is stale.
#[derive(Default)]
struct Calls(RefCell<Vec<[u64; 6]>>);

impl Invalidate<Stage1> for Calls {
    type Identity = u32;

    fn invalidate(&self, pid: u32, stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        RptInvalidate::each::<Stage1>(stale, pid, false, |call| {
            self.0.borrow_mut().push(call.arguments());
        });
        Ok(())
    }

    fn abandoned(&self, _: u32, _: usize, _: Result<(), InvalidateFailed>) {
        panic!("a gather was dropped");
    }
}

/// Pages of a size that radix does not have are no range that the hypervisor could be told of: then
/// it is the whole process; any number of others is one call.
#[test]
fn pages_of_no_size_are_everything() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    const TLB: u64 = 2;
    for (shift, last, start, end) in [
        (16, 0x5555_0000, 0x1000_0000, 0x5556_0000),
        (12, 0xf_ffff_f000, 0x1000_0000, 0x10_0000_0000),
        (13, 0x5555_0000, 0, u64::MAX),
    ] {
        let by = Calls::default();
        let mut gather = Gather::new(&by, 9);
        gather.pages(Gva::new(0x1000_0000), Gva::new(last), shift);
        gather.finish(&&tables).unwrap();
        let calls = by.0.take();
        let told: Vec<_> =
            calls.iter().map(|call| (call[0], call[2] & TLB, call[4], call[5])).collect();
        assert_eq!(told, [(9, TLB, start, end)], "2^{shift}");
    }
}
