//! The hashed address space against a flat map, through the harness of the
//! conformance kit; and what only it has: a table that is too small, slots, resizing.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hash/backing.rs"]
mod backing;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use backing::{memory, table};
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::Recorded;
use pgtable::{Access, AddressSpace, Attributes, Gpa, Gva, Leaves, Prot};
use pgtable_conformance::flat::Flat;
use pgtable_conformance::memory::{Arena, Tables, ranges};
use pgtable_conformance::ops::{Op, ops};
use pgtable_conformance::tlb::{Tlb, TlbOf};
use pgtable_ppc64::hash::{
    Context, GROUP_ENTRIES, HashAttributes, HashFault, HashTranslation, HashedSpace, Hpte, Layout,
    Pages, VirtualPage,
};
use proptest::prelude::*;

type Space<'t> = HashedSpace<DirectMap<'t, Gpa>, &'t Tables<'t>, DirectMap<'t, Gpa>>;

/// How many entries the table has, and that each is of a page that is mapped and stands where a
/// search finds it.
fn check_entries(harness: &Flat<'_, TlbOf<'_>, Space<'_>>, pages: Pages) -> usize {
    let hpt = harness.space.hpt();
    let mut seen = BTreeSet::new();
    for (ptex, hpte) in hpt.entries(0) {
        let page = VirtualPage::of_entry(hpte, ptex / GROUP_ENTRIES as u64, hpt.order()).unwrap();
        assert!(seen.insert((page.vsid, page.offset)), "{page:?} has two entries");
        assert_eq!(hpt.find(&page).unwrap().unwrap().ptex, ptex);
        let sizes = hpte.sizes().unwrap();
        assert_eq!(sizes.base(), pages.base());
    }
    seen.len()
}

/// The entry that translated an access is where it is said to be.
fn check_place(space: &Space<'_>, made: &HashTranslation) {
    let (ptex, there) = space.hpt().entries(made.ptex).next().unwrap();
    let of = |hpte: Hpte| (hpte.v.avpn(), hpte.r.rpn());
    assert_eq!((ptex, of(there)), (made.ptex, of(made.hpte)));
}

fn against_a_flat_map(pages: Pages, layout: Layout, ops: &[Op]) {
    let arena = Arena::new(16 << 20);
    let tables = Tables::new(&arena);
    let memory = memory(18);
    let space = HashedSpace::new(
        table(&memory, layout),
        arena.memory(),
        &tables,
        pages,
        Context::new(5).unwrap(),
    )
    .unwrap();
    let tlb = TlbOf::new(&tables);
    let mut harness = Flat::new(space, &tlb);
    harness.check();
    for op in ops {
        harness.apply(op);
    }
    check_entries(&harness, pages);
    let mut gather = harness.gather();
    let (start, bytes) = harness.space.range();
    harness.space.unmap(start, bytes, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 1, "only the root is left");
    assert_eq!(check_entries(&harness, pages), 0, "no entry outlives its page");
    let mut gather = harness.gather();
    harness.space.destroy(&mut gather).unwrap();
    gather.finish(&tables).unwrap();
    assert_eq!(tables.live(), 0);
}

macro_rules! spaces {
    ($($name:ident: $pages:expr, $layout:expr;)*) => {$(
        mod $name {
            use super::*;
            proptest! {
                #![proptest_config(pgtable_conformance::cases::config(32))]
                #[test]
                fn a_flat_map(ops in ops(20)) {
                    against_a_flat_map($pages, $layout, &ops);
                }
            }
        }
    )*};
}

spaces! {
    pages_4k: Pages::K4, Layout::V3;
    pages_64k: Pages::K64, Layout::V3;
    pages_64k_in_4k: Pages::K64In4K, Layout::V2;
}

/// A table with a sixteenth of the entries that the pages want: whatever is used translates, and
/// nothing that was known about a page is lost.
#[test]
fn a_full_table_evicts_and_refaults() {
    for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
        let arena = Arena::new(64 << 20);
        let tables = Tables::new(&arena);
        let memory = memory(18);
        let hpt = table(&memory, Layout::V3);
        let entries = hpt.order().entries();
        let mut space =
            HashedSpace::new(hpt, arena.memory(), &tables, pages, Context::new(77).unwrap())
                .unwrap();
        let shift = space.leaf_shifts()[0];
        let size = 1_u64 << shift;
        let count = entries * 5 / 4;
        let clean = HashAttributes::from(Prot::RW.for_user()).with_r(false).with_c(false);
        let start = Gva::new(0x1000_0000);
        space.map(start, Gpa::new(0), count * size, clean, Leaves::Exactly(shift)).unwrap();
        // Of pages that are made of sixteen entries, each time another one.
        let piece = |page: u64| if pages == Pages::K64In4K { ((page >> 7) % 16) << 12 } else { 0 };
        let address = |page: u64| Gva::new(start.get() + page * size + piece(page));
        for page in 0..count {
            let access = if page % 3 == 0 { Access::WRITE } else { Access::READ }.by_user();
            let translation = space.translate(address(page), access).unwrap();
            assert_eq!(translation.output.get(), page * size + piece(page));
            let wanted = clean.with_r(true).with_c(page % 3 == 0);
            assert_eq!(translation.attributes, wanted, "page {page}");
        }
        // Neighbours fill every group to the last place, but for the one in sixteen that a nibble
        // cannot name.
        let full = space.hpt().entries(0).count() as u64;
        let room = if pages == Pages::K4 { entries } else { entries - entries / 16 };
        assert!(full >= room * 98 / 100 && full <= entries, "{pages:?}: {full} of {entries}");
        // A second round: what was evicted comes back, and R and C are what they were.
        for page in 0..count {
            let made = space.access(address(page), Access::READ.by_user()).unwrap();
            assert_eq!(made.real, page * size + piece(page));
            assert_eq!(made.hpte.r.c(), page % 3 == 0, "page {page}");
            check_place(&space, &made);
        }
        let mut gather = Gather::new(&Unused, ());
        space.destroy(&mut gather).unwrap();
        gather.finish(&&tables).unwrap();
        assert_eq!(tables.live(), 0);
        assert_eq!(table(&memory, Layout::V3).entries(0).count(), 0);
    }
}

/// A first store to a page that was only read is noticed although the entry is there.
#[test]
fn the_first_store_is_noticed() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = memory(18);
    let context = Context::new(1).unwrap();
    let mut space =
        HashedSpace::new(table(&memory, Layout::V3), arena.memory(), &tables, Pages::K64, context)
            .unwrap();
    let clean = HashAttributes::from(Prot::RW).with_r(false).with_c(false);
    let page = Gva::new(0x5555_0000);
    space.map(page, Gpa::new(0x10_0000), 0x1_0000, clean, Leaves::Largest).unwrap();
    for (access, r, c, entries) in [
        (Access::READ, true, false, 1),
        (Access::READ, true, false, 1),
        (Access::WRITE, true, true, 1),
    ] {
        let translation = space.translate(page, access).unwrap();
        assert_eq!((translation.attributes.r(), translation.attributes.c()), (r, c), "{access}");
        assert_eq!(space.hpt().entries(0).count(), entries);
        assert_eq!(translation.output, Gpa::new(0x10_0000));
    }
    for (address, access, interrupt) in [
        (page, Access::READ.by_user(), "DSI 0x300, DSISR 0x08000000: protection"),
        (page, Access::FETCH, "ISI 0x400, SRR1 0x10000000: no-execute or guarded"),
        (
            Gva::new(0x5556_0000),
            Access::WRITE,
            "DSI 0x300, DSISR 0x42000000: no translation, store",
        ),
        (Gva::new(1 << 49), Access::READ, "DSEG 0x380"),
        (Gva::new(u64::MAX), Access::FETCH, "ISEG 0x480"),
    ] {
        assert_eq!(
            space.translate(address, access).unwrap_err().to_string(),
            interrupt,
            "{address}"
        );
    }
}

/// Rounds of uses: each harvest has the pages that were used, or written, since the last one, and
/// no others; whatever was cleared is stale in hardware, and whatever was not used keeps its entry.
#[test]
fn harvested_since_the_last_time() {
    for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
        let arena = Arena::new(8 << 20);
        let tables = Tables::new(&arena);
        let memory = memory(18);
        let context = Context::new(3).unwrap();
        let mut space =
            HashedSpace::new(table(&memory, Layout::V3), arena.memory(), &tables, pages, context)
                .unwrap();
        let shift = space.leaf_shifts()[0];
        let large = space.leaf_shifts().contains(&24);
        let (start, count) = (1_u64 << 32, 1_u64 << 9);
        let clean = HashAttributes::from(Prot::RW).with_r(false).with_c(false);
        // If there are large pages, the second half of the range is some.
        let small = if large { count / 2 } else { count };
        space
            .map(Gva::new(start), Gpa::new(0), small << shift, clean, Leaves::Exactly(shift))
            .unwrap();
        if large {
            let rest = Gva::new(start + (small << shift));
            space
                .map(rest, Gpa::new(1 << 30), (count - small) << shift, clean, Leaves::Exactly(24))
                .unwrap();
        }
        let per_large = 1 << (24 - shift);
        // The pages that `page` stands and falls with.
        let whole = |page: u64| {
            if page < small {
                page..page + 1
            } else {
                page / per_large * per_large..(page / per_large + 1) * per_large
            }
        };
        let mut rng = 88_172_645_463_325_252_u64;
        for round in 0..12 {
            let (mut used, mut written) = (BTreeSet::new(), BTreeSet::new());
            for _ in 0..round * 7 {
                rng ^= rng << 13;
                rng ^= rng >> 7;
                rng ^= rng << 17;
                let page = rng % count;
                let access = if rng >> 40 & 1 == 0 { Access::READ } else { Access::WRITE };
                space
                    .translate(Gva::new(start + (page << shift) + (rng >> 50 & 0xfff)), access)
                    .unwrap();
                used.extend(whole(page));
                if access == Access::WRITE {
                    written.extend(whole(page));
                }
            }
            let entries = space.hpt().entries(0).count();
            let tlb = Tlb::default();
            tlb.cached
                .borrow_mut()
                .extend(used.iter().map(|page| (start + (page << shift), (0, 0))));
            for (recorded, wanted) in [(Recorded::Dirty, &written), (Recorded::Accessed, &used)] {
                let mut bitmap = vec![0; count as usize / 64];
                let mut gather = Gather::new(&tlb, 7);
                let set = space
                    .harvest(Gva::new(start), u64::MAX, recorded, &mut bitmap, &mut gather)
                    .unwrap();
                let seen: BTreeSet<u64> = (0..count)
                    .filter(|page| bitmap[*page as usize / 64] >> (page % 64) & 1 != 0)
                    .collect();
                assert_eq!(
                    (set, &seen),
                    (wanted.len() as u64, wanted),
                    "{pages:?} round {round} {recorded:?}"
                );
                gather.finish(&&tables).unwrap();
                let known =
                    |page: &&u64| tlb.cached.borrow().contains_key(&(start + (**page << shift)));
                assert_eq!(
                    wanted.iter().find(known),
                    None,
                    "{pages:?}: hardware goes on as before"
                );
            }
            assert!(space.hpt().entries(0).count() <= entries);
            assert!(
                used.is_empty() || space.hpt().entries(0).count() == 0,
                "whatever was used was harvested"
            );
        }
        let mut gather = Gather::new(&Unused, ());
        space.destroy(&mut gather).unwrap();
        gather.finish(&&tables).unwrap();
        assert_eq!(tables.live(), 0);
    }
}

/// What is taken out is told of to the page, of every size, and no more is taken out than was asked
/// for.
#[test]
fn what_is_taken_out_is_stale() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let memory = memory(18);
    let context = Context::new(3).unwrap();
    let mut space =
        HashedSpace::new(table(&memory, Layout::V3), arena.memory(), &tables, Pages::K64, context)
            .unwrap();
    let (large, small) = (1u64 << 24, 1u64 << 16);
    let clean = HashAttributes::from(Prot::RW.for_user()).with_r(false).with_c(false);
    let start = Gva::new(1 << 30);
    space.map(start, Gpa::new(0), 3 * large, clean, Leaves::Exactly(24)).unwrap();
    let pages = Gva::new(2 << 30);
    space.map(pages, Gpa::new(3 * large), 16 * small, clean, Leaves::Exactly(16)).unwrap();
    let used = [0, 1, 2].map(|page| start.get() + page * large + page * 0x2_3456);
    let used = used.into_iter().chain([3, 4, 7].map(|page| pages.get() + page * small));
    for address in used.clone() {
        space.access(Gva::new(address), Access::WRITE.by_user()).unwrap();
    }
    let entries = |space: &Space<'_>| space.hpt().entries(0).count();
    assert_eq!(entries(&space), 6);
    let mut harvest = |input: u64, bytes: u64| {
        let mut gather = Gather::new(&Unused, ());
        let set = space
            .harvest(Gva::new(input), bytes, Recorded::Dirty, &mut [0; 16], &mut gather)
            .unwrap();
        (set, ranges(gather.stale()), entries(&space))
    };
    let second = start.get() + large;
    assert_eq!(harvest(second, large), (256, vec![(second, second, 24)], 5));
    assert_eq!(harvest(second, large), (0, vec![], 5));
    let page = |number: u64| pages.get() + number * small;
    assert_eq!(
        harvest(page(0), 16 * small),
        (3, vec![(page(3), page(4), 16), (page(7), page(7), 16)], 2)
    );
    // What was taken out is made again when it is used, and is where it is said to be.
    for address in used {
        let made = space.access(Gva::new(address), Access::READ.by_user()).unwrap();
        check_place(&space, &made);
    }
    assert_eq!(entries(&space), 6);

    // No memory for the slots of the second of three large pages: it is not mapped, nor is the
    // third.
    let far = Gva::new(1 << 36);
    space.map(far, Gpa::new(0), large, clean, Leaves::Exactly(24)).unwrap();
    // What is mapped beyond stays.
    let beyond = Gva::new(far.get() + 9 * large);
    space.map(beyond, Gpa::new(0), small, clean, Leaves::Exactly(16)).unwrap();
    tables.budget.set(1);
    let next = Gva::new(far.get() + large);
    let refused =
        space.map(next, Gpa::new(large), 3 * large, clean, Leaves::Exactly(24)).unwrap_err();
    tables.budget.set(usize::MAX);
    assert_eq!(refused.at.get(), next.get() + large);
    assert!(matches!(refused.error, pgtable::Error::Alloc(_)), "{refused}");
    for page in 0..4 {
        let access = space.access(Gva::new(far.get() + page * large + 5), Access::READ.by_user());
        assert_eq!(access.is_ok(), page < 2, "large page {page}");
    }
    assert!(space.access(beyond, Access::READ.by_user()).is_ok());
    let mut gather = Gather::new(&Unused, ());
    space.destroy(&mut gather).unwrap();
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 0);
}

/// The second half is half of one fragment: sixteen page tables of 64K pages in a frame, and a slot
/// array in a fragment of its own.
#[test]
fn a_page_table_and_its_slots_are_one_fragment() {
    let words: Vec<AtomicU64> = (0..64 << 13).map(|_| AtomicU64::new(!0)).collect();
    let start = Gpa::new(0x100_0000);
    let region = Region::new(DirectMap::new(&words, start), start, 64, 16).unwrap();
    let frames = Frames::new(region).unwrap();
    let cache = Cache::new(&frames, Owner(3), Kind::User, Policy::Reuse);
    let memory = memory(18);
    let table_memory = DirectMap::new(&words, start);
    let context = Context::new(9).unwrap();
    let mut space =
        HashedSpace::new(table(&memory, Layout::V3), table_memory, &cache, Pages::K64, context)
            .unwrap();
    let one_table = 256_u64 << 16;
    for table in 0..16 {
        let address = Gva::new(table * one_table);
        space.map(address, Gpa::new(0x1_0000), 1 << 16, Prot::RW.into(), Leaves::Largest).unwrap();
        space.translate(address, Access::WRITE).unwrap();
    }
    // Root 2K, one directory of 8K, one of 8K + 8K, sixteen page tables of 2K + 2K: each size has
    // frames of its own.
    assert_eq!((frames.census().live, frames.census().table_frames), (19, 4));
    let walker = space.tree().walker();
    let entry = walker.trace(Gva::new(0)).last().unwrap().address;
    assert_eq!(entry.get() % 4096, 0, "a fragment of 4 KiB");
    let nibble = u64::from_be(
        table_memory.word(Gpa::new(entry.get() + 2048)).unwrap().load(Ordering::Relaxed),
    );
    assert!((1..=15).contains(&nibble), "{nibble:#x}");
    space
        .map(Gva::new(1 << 30), Gpa::new(0), 1 << 24, Prot::RW.into(), Leaves::Exactly(24))
        .unwrap();
    let before = frames.census().live;
    space.translate(Gva::new((1 << 30) + 0x12_3456), Access::READ).unwrap();
    assert_eq!(frames.census().live, before, "no fragment is needed when a page is used");
    let mut gather = Gather::new(&Unused, ());
    space.destroy(&mut gather).unwrap();
    gather.finish(&&cache).unwrap();
    cache.close().unwrap();
    assert!(frames.census().all_home(), "{:?}", frames.census());
}

/// Slots stay true when the table grows and shrinks; what a smaller table has no place for
/// refaults.
#[test]
fn resized_with_every_entry() {
    for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
        let arena = Arena::new(8 << 20);
        let tables = Tables::new(&arena);
        let memories = [18, 20, 18].map(memory);
        let context = Context::new(2).unwrap();
        let mut space = HashedSpace::new(
            table(&memories[0], Layout::V2),
            arena.memory(),
            &tables,
            pages,
            context,
        )
        .unwrap();
        let shift = space.leaf_shifts()[0];
        let count = 9000_u64;
        let at = |page: u64| Gva::new((1 << 40) + (page << shift));
        let attributes = HashAttributes::from(Prot::RWX);
        space.map(at(0), Gpa::new(0), count << shift, attributes, Leaves::Exactly(shift)).unwrap();
        (0..count).for_each(|page| assert!(space.translate(at(page), Access::READ).is_ok()));
        for (memory, layout) in [(&memories[1], Layout::V3), (&memories[2], Layout::V2)] {
            let before = space.hpt().entries(0).count() as u64;
            let mut gather = Gather::new(&Unused, ());
            let (_, rehashed) = space.resize(table(memory, layout), &mut gather).unwrap();
            gather.finish(&&tables).unwrap();
            assert_eq!(rehashed.moved + rehashed.dropped, before);
            assert_eq!(rehashed.moved, space.hpt().entries(0).count() as u64);
            // Half of them only: the others stay where they are, for the last unmap to find by
            // their slots.
            for page in (0..count).step_by(2) {
                let translation = space.translate(at(page), Access::WRITE).unwrap();
                assert_eq!(
                    (translation.output.get(), translation.attributes.prot()),
                    (page << shift, Prot::RWX)
                );
            }
        }
        let mut gather = Gather::new(&Unused, ());
        space.destroy(&mut gather).unwrap();
        gather.finish(&&tables).unwrap();
        assert_eq!(table(&memories[2], Layout::V2).entries(0).count(), 0);
    }
}

/// Many threads use the pages of one space at once, in a table too small for them.
#[test]
fn threads_refault_and_evict_each_other() {
    let memory = memory(18);
    let words: Vec<AtomicU64> = (0..64 << 13).map(|_| AtomicU64::new(0)).collect();
    let start = Gpa::new(0x100_0000);
    let region = Region::new(DirectMap::new(&words, start), start, 64, 16).unwrap();
    let frames = Frames::new(region).unwrap();
    let cache = Cache::new(&frames, Owner(3), Kind::User, Policy::Reuse);
    let context = Context::new(9).unwrap();
    let table_memory = DirectMap::new(&words, start);
    let mut space =
        HashedSpace::new(table(&memory, Layout::V3), table_memory, &cache, Pages::K4, context)
            .unwrap();
    let count = 20_000_u64;
    space.map(Gva::new(0), Gpa::new(0), count << 12, Prot::RW.into(), Leaves::Largest).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..3_u64 {
            let space = &space;
            scope.spawn(move || {
                for step in 0..count {
                    let page = (step * 7 + thread * 6_667) % count;
                    let access = if step % 2 == 0 { Access::READ } else { Access::WRITE };
                    let translation = space.access(Gva::new(page << 12), access);
                    assert_eq!(translation.map(|it| it.real), Ok::<_, HashFault>(page << 12));
                }
            });
        }
    });
    let mut pages = BTreeSet::new();
    for (ptex, hpte) in space.hpt().entries(0) {
        assert!(pages.insert(hpte.r.rpn()), "{ptex:#x}: a page has two entries");
    }
    let mut gather = Gather::new(&Unused, ());
    space.destroy(&mut gather).unwrap();
    gather.finish(&&cache).unwrap();
    assert_eq!(table(&memory, Layout::V3).entries(0).count(), 0, "every slot was known");
}
