//! Accessed and dirty, recorded as hardware does and harvested, against sets of pages.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Arena, Tables, Tlb};
use arch_ppc64::radix::{Granule, PartitionScoped, ProcessScoped, RcPolicy};
use arch_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls, PageAttributes};
use pgtable::{
    Access, Address, AddressSpace, DirectMap, Error, Format, Gather, Gpa, Gva, Hpa, Input, Leaves,
    Output, PageTable, Prot, Recorded, TableMemory, Unused, Walker, Writers,
};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::sv::Sv;
use proptest::prelude::*;

/// Pages in the range that is used: two large leaves' worth and a bit.
const PAGES: u64 = 1100;

#[derive(Clone, Debug)]
enum Op {
    Use { page: u64, write: bool },
    Harvest { first: u64, pages: u64, recorded: Recorded, writers: Writers },
}

fn op() -> impl Strategy<Value = Op> {
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    let writers = prop_oneof![Just(Writers::Running), Just(Writers::Stopped)];
    prop_oneof![
        3 => (0..PAGES, any::<bool>()).prop_map(|(page, write)| Op::Use { page, write }),
        1 => (0..PAGES, 1..PAGES, recorded, writers)
            .prop_map(|(first, pages, recorded, writers)| Op::Harvest { first, pages, recorded, writers }),
    ]
}

fn run<F: Format>(format: F, ops: &[Op]) {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut space = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let shift = format.geometry().page_shift();
    let page_at = |page: u64| Input::<F>::new((1 << 30) + (page << shift));
    // The first half in the largest leaves that fit, the rest in pages; holes are made by two
    // unmapped pages.
    let attributes = F::Attributes::from(Prot::RW.for_user());
    let half = (PAGES / 2) & !31;
    space
        .map(page_at(0), Output::<F>::new(0), half << shift, attributes, Leaves::AtMost(21))
        .unwrap();
    let rest = (PAGES - half) << shift;
    space
        .map(
            page_at(half),
            Output::<F>::new(half << shift),
            rest,
            attributes,
            Leaves::Exactly(shift),
        )
        .unwrap();
    let tlb = Tlb::default();
    let mut gather = Gather::new(&tlb, 7);
    space.unmap(page_at(700), 2 << shift, &mut gather).unwrap();

    // leaf → the pages that it covers
    let mut leaf_of = vec![None; PAGES as usize];
    let walk = space.for_each(page_at(0), PAGES << shift, |leaf| {
        let first = (leaf.input.get() - page_at(0).get()) >> shift;
        let pages = leaf.bytes >> shift;
        (first..first + pages).for_each(|page| leaf_of[page as usize] = Some((first, pages)));
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert!(walk.unwrap().is_continue());

    // Everything was marked when it was mapped; the first harvests say so and clear it.
    let mut marked = [BTreeSet::new(), BTreeSet::new()];
    for set in &mut marked {
        set.extend(leaf_of.iter().flatten().map(|leaf| leaf.0));
    }
    for op in ops {
        match *op {
            Op::Use { page, write } => {
                let access = if write { Access::WRITE } else { Access::READ };
                let used = space
                    .walker()
                    .access(page_at(page), access)
                    .or_else(|_| space.walker().access(page_at(page), access.by_user()));
                match leaf_of[page as usize] {
                    Some((leaf, _)) => {
                        used.unwrap();
                        marked[0].insert(leaf);
                        if write {
                            marked[1].insert(leaf);
                        }
                    }
                    None => assert!(used.is_err()),
                }
            }
            Op::Harvest { first, pages, recorded, writers } => {
                let pages = pages.min(PAGES - first);
                let which = if recorded == Recorded::Accessed { 0 } else { 1 };
                tlb.cached.borrow_mut().extend(
                    (0..PAGES)
                        .filter(|page| leaf_of[*page as usize].is_some())
                        .map(|page| (page_at(page).get(), (0, 0))),
                );
                let mut bitmap = vec![0; pages.div_ceil(64) as usize];
                let set = space
                    .harvest(
                        page_at(first),
                        pages << shift,
                        recorded,
                        writers,
                        &mut bitmap,
                        &mut gather,
                    )
                    .unwrap();
                let got: BTreeSet<_> = (0..pages)
                    .filter(|bit| bitmap[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
                    .collect();
                let want: BTreeSet<_> = (0..pages)
                    .filter(|bit| {
                        leaf_of[(first + bit) as usize]
                            .is_some_and(|(leaf, _)| marked[which].contains(&leaf))
                    })
                    .collect();
                assert_eq!(got, want);
                assert_eq!(set, want.len() as u64);
                // Whole leaves are clean now, and no cached translation of them is left once the
                // gather is finished.
                let mut ended = std::mem::replace(&mut gather, Gather::new(&tlb, 7));
                ended.finish(&tables).unwrap();
                for bit in want {
                    let (leaf, size) = leaf_of[(first + bit) as usize].unwrap();
                    if leaf >= first && leaf + size <= first + pages {
                        marked[which].remove(&leaf);
                        assert!(!tlb.cached.borrow().contains_key(&page_at(first + bit).get()));
                    }
                }
            }
        }
    }
    gather.finish(&tables).unwrap();
    space.destroy(Gather::new(&tlb, 7)).map_err(|(_, error)| error).unwrap();
}

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
        assert_eq!(harvest(&mut tree, at, bytes), Err((at, Error::Range)));
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

macro_rules! formats {
    ($($name:ident: $format:expr;)*) => {
        proptest! {
            #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]
            $(#[test]
            fn $name(ops in proptest::collection::vec(op(), 1..60)) {
                run($format, &ops);
            })*
        }
    };
}

formats! {
    sv39: Sv::SV39.with_hardware_updates();
    lpa: Lpa::PLAIN;
    sv39_napot: Sv::SV39.with_hardware_updates().with_napot();
    lpa_contiguous: Lpa::CONTIGUOUS;
    radix_64k_process: ProcessScoped::new(Granule::K64).with_rc(RcPolicy::HardwareUpdate);
    radix_4k_partition: PartitionScoped::new(Granule::K4).with_rc(RcPolicy::HardwareUpdate);
    x86_4_level: LongMode::new(Levels::Four, Controls::new());
    npt: Npt::new(Levels::Four, NptControls::new());
    ept: Ept::new(Levels::Four, EptControls { accessed_dirty: true, ..EptControls::new() });
}
