//! What each verb changes, and what it leaves as it was.

use std::cell::Cell;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::support::{Arena, Tables};
use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::TableMemory;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{
    Access, Address, AddressSpace, Attributes, Error, Gpa, Gva, Hpa, Leaves, Memory, Prot, Stage1,
};
use pgtable_conformance::lpa::{Lpa, LpaAttributes};
use pgtable_conformance::sv::Sv;
use pgtable_ppc64::radix::{
    Granule, PageAttributes as RadixAttributes, PartitionScoped, ProcessScoped,
};
use pgtable_x86::{
    Controls, Ept, EptAttributes, EptControls, EptTableEntry, Levels, LongMode, MemoryType, Npt,
    NptControls, PageAttributes, TableEntry,
};

const PAGE: u64 = 1 << 12;
const LARGE: u64 = 1 << 21;

/// EPT without accessed and dirty flags: nothing is recorded, and a harvest says so.
#[test]
fn case_b8() {
    for accessed_dirty in [true, false] {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let controls = EptControls { accessed_dirty, ..EptControls::new() };
        let format = Ept::new(Levels::Four, controls);
        let mut tree = PageTable::new(format, arena.memory::<Hpa>(), &tables).unwrap();
        let mut gather = Gather::new(&Unused, ());
        for mapped in [false, true] {
            if mapped {
                tree.map(Gpa::new(0), Hpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
            }
            for recorded in [Recorded::Dirty, Recorded::Accessed] {
                let mut bitmap = [0];
                let harvested = tree.harvest(
                    Gpa::new(0),
                    PAGE,
                    recorded,
                    Writers::Running,
                    &mut bitmap,
                    &mut gather,
                );
                match accessed_dirty {
                    true => assert_eq!(harvested, Ok(u64::from(mapped))),
                    false => assert_eq!(harvested.unwrap_err().error, Error::NoRecord),
                }
            }
        }
        gather.finish(&&tables).unwrap();
    }
}

/// What is mapped at `at`, found by the portable interface.
fn found<S: AddressSpace>(space: &S, at: pgtable::InputOf<S>) -> S::Attributes {
    let flow =
        space.for_each(at, 1 << space.page_shift(), |leaf| ControlFlow::Break(leaf.attributes));
    match flow.unwrap() {
        ControlFlow::Break(attributes) => attributes,
        ControlFlow::Continue(()) => panic!("nothing is mapped at {at}"),
    }
}

/// Rights change alone: memory type, software bits and what was recorded stay.
#[test]
fn case_b10() {
    fn rights<F: Format>(format: F, special: F::Attributes) {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
        let size = 1u64 << tree.page_shift();
        let at = |page: u64| Input::<F>::new((1 << 30) + page * size);
        let mut gather = Gather::new(&Unused, ());
        for pages in [1, 40] {
            let bytes = pages * size;
            let leaves = Leaves::Exactly(tree.page_shift());
            tree.map(at(0), Output::<F>::new(0), bytes, special, leaves).unwrap();
            for (prot, writers) in [(Prot::R, Writers::Running), (Prot::RW, Writers::Stopped)] {
                let prot = prot.with_user(special.prot().user());
                let changed = tree.protect_beside(at(0), bytes, prot, writers, &mut gather);
                assert_eq!(changed, Ok(bytes));
                for page in [0, pages / 2, pages - 1] {
                    let now = found(&tree, at(page));
                    assert_eq!(now, special.with_prot(prot), "{format:?}");
                    assert_eq!(now.with_prot(special.prot()), special, "{format:?}");
                }
            }
            assert_eq!(tree.write_protect(at(0), bytes, &mut gather), Ok(bytes));
            let read_only = special.prot().with_write(false);
            assert_eq!(found(&tree, at(pages - 1)), special.with_prot(read_only));
            // By each of its own.
            let by_page = |leaf: pgtable::walk::LeafOf<F>| {
                let even = (leaf.input.get() / size) % 2 == 0;
                leaf.attributes.with_memory(if even { Memory::Normal } else { Memory::Device })
            };
            assert_eq!(tree.modify(at(0), bytes, by_page, &mut gather), Ok(bytes));
            assert_eq!(found(&tree, at(0)).memory(), Memory::Normal);
            if pages > 1 {
                assert_eq!(found(&tree, at(pages - 1)).memory(), Memory::Device);
            }
            // All of it, but for what was recorded (where hardware records: in pages that may be
            // written).
            assert_eq!(tree.protect(at(0), bytes, special.prot(), &mut gather), Ok(bytes));
            let all = F::Attributes::from(Prot::RWX.with_user(special.prot().user()));
            assert_eq!(tree.set_attributes(at(0), bytes, all, &mut gather), Ok(bytes));
            assert_eq!(found(&tree, at(0)).memory(), Memory::Normal);
            let bits = pgtable_conformance::words::bits(&format);
            let word = tree.walker().trace(at(0)).last().unwrap().word;
            assert!(!bits.dirty.is_in(word), "{format:?} marked a clean page dirty: {word:#x}");
            assert_eq!(tree.unmap(at(0), bytes, &mut gather), Ok(bytes));
        }
        gather.finish(&&tables).unwrap();
    }
    let ept = EptAttributes::from(Prot::RW);
    let ept = ept.with_memory_type(MemoryType::Uncacheable).with_software(0x2a).with_dirty(false);
    rights(Ept::new(Levels::Four, EptControls::new()), ept);
    let page = PageAttributes::from(Prot::RW).with_pat(3).with_software(0x155).with_dirty(false);
    rights(LongMode::new(Levels::Five, Controls::new()), page);
    let npt = pgtable_x86::NptAttributes::from(Prot::RW).with_pat(7).with_dirty(false);
    rights(Npt::new(Levels::Four, NptControls::new()), npt);
    let radix = RadixAttributes::from(Prot::RW).with_software(5).with_c(false);
    rights(PartitionScoped::new(Granule::K64), radix.with_memory(Memory::Device));
    rights(Lpa::PLAIN, LpaAttributes::from(Prot::RW).with_attr(3).with_clean(true));
}

/// Memory types are portable, and rights and memory types do not touch each other.
#[test]
fn case_b11() {
    fn types<T: Attributes>() {
        for prot in [Prot::R, Prot::RW, Prot::RX, Prot::RWX.for_user()].map(T::from) {
            for memory in [Memory::Normal, Memory::Uncached, Memory::Device] {
                let of_type = prot.with_memory(memory);
                assert_eq!(of_type.memory(), memory);
                assert_eq!(of_type.prot(), prot.prot());
                assert_eq!(of_type.with_memory(memory), of_type);
                assert_eq!(of_type.with_memory(Memory::Normal), prot);
                assert_eq!(of_type.with_prot(Prot::R).memory(), memory);
            }
        }
    }
    types::<PageAttributes>();
    types::<pgtable_x86::NptAttributes>();
    types::<EptAttributes>();
    types::<RadixAttributes>();
    types::<LpaAttributes>();
    types::<pgtable_conformance::sv::SvAttributes>();
    // Nothing is fetched from devices on POWER.
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = ProcessScoped::new(Granule::K4);
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    let device = RadixAttributes::from(Prot::RWX).with_memory(Memory::Device);
    tree.map(Gva::new(0), Gpa::new(0), PAGE, device, Leaves::Largest).unwrap();
    assert!(tree.translate(Gva::new(0), Access::WRITE).is_ok());
    assert!(tree.translate(Gva::new(0), Access::FETCH).is_err());
}

/// The smallest page that a space makes of its own accord is one that its verbs work on.
#[test]
fn case_b13() {
    fn base<F: Format>(format: F, want: u8) {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
        let (at, size) = (Input::<F>::new(1 << 30), 1u64 << tree.page_shift());
        assert_eq!(size, 1 << want, "{format:?}");
        let mut gather = Gather::new(&Unused, ());
        tree.map(at, Output::<F>::new(0), 2 * size, Prot::RW.into(), Leaves::Largest).unwrap();
        assert_eq!(tree.protect(at, size, Prot::R, &mut gather), Ok(size));
        assert_eq!(tree.unmap(at, size, &mut gather), Ok(size));
        gather.finish(&&tables).unwrap();
    }
    base(PartitionScoped::new(Granule::K64), 16);
    base(PartitionScoped::new(Granule::K4), 12);
    base(LongMode::new(Levels::Four, Controls::new()), 12);
    base(Lpa::PLAIN, 16);
}

/// An address that is shifted in the word.
#[test]
fn case_b19() {
    for format in [Sv::SV39, Sv::SV48, Sv::SV57] {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
        for (at, to, bytes) in [
            (0x1000, 0x8000_0000, PAGE),
            (LARGE, 0x1_0020_0000, LARGE),
            (1 << 30, 1 << 40, 3 * PAGE),
        ] {
            tree.map(Gva::new(at), Gpa::new(to), bytes, Prot::RW.into(), Leaves::Largest).unwrap();
            for within in [0, bytes / 2 + 5, bytes - 1] {
                let found = tree.translate(Gva::new(at + within), Access::READ).unwrap();
                assert_eq!(found.output, Gpa::new(to + within), "{format:?} {at:#x}");
            }
        }
        let word = |at| tree.walker().trace(Gva::new(at)).last().unwrap().word;
        assert_eq!(word(0x1000), 0x2000_00c7, "PPN 0x80000, D A W R V");
    }
}

/// The bits of table entries are the format value's.
#[test]
fn case_b20() {
    let tables_of = |format: LongMode| {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
        tree.map(Gva::new(0), Gpa::new(0), PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        tree.translate(Gva::new(0), Access::WRITE).unwrap();
        let trace = tree.walker().trace(Gva::new(0));
        let [tables @ .., _] = trace.as_slice() else { panic!("no entry") };
        tables.iter().map(|entry| entry.word & 0xfff).collect::<Vec<_>>()
    };
    let plain = LongMode::new(Levels::Four, Controls::new());
    assert_eq!(tables_of(plain), [0x27; 3]);
    // Firecracker's and crosvm's.
    assert_eq!(tables_of(plain.with_table_entry(TableEntry::new().with_rw(true))), [0x3; 3]);
    let ept = Ept::new(Levels::Four, EptControls::new());
    let entry = EptTableEntry::new().with_r(true).with_w(true).with_x(true);
    let at = pgtable::Position { level: pgtable::Level(1), shift: 21 };
    assert_eq!(ept.table(Hpa::new(0x1000), 9, at), Ok(0x1107));
    assert_eq!(ept.with_table_entry(entry).table(Hpa::new(0x1000), 9, at), Ok(0x1007));
    assert!(ept.with_table_entry(EptTableEntry::new()).table(Hpa::new(0x1000), 9, at).is_err());
}

const K64: u64 = 1 << 16;
type LpaTree<'t> = PageTable<Lpa, pgtable::memory::DirectMap<'t, Gpa>, &'t Tables<'t>>;

fn lpa<'t>(arena: &'t Arena, tables: &'t Tables<'t>) -> LpaTree<'t> {
    PageTable::new(Lpa::PLAIN, arena.memory::<Gpa>(), tables).unwrap()
}

fn slot<'t>(arena: &'t Arena, tree: &LpaTree<'t>, at: u64) -> (&'t AtomicU64, u64) {
    let entry = *tree.walker().trace(Gva::new(at)).last().unwrap();
    (arena.word(entry.address.get()), entry.word)
}

/// Where an address field ends, a run goes on with another word.
#[test]
fn split_addresses() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = lpa(&arena, &tables);
    let to = (1u64 << 48) - 3 * K64;
    tree.map(Gva::new(0), Gpa::new(to), 9 * K64, Prot::RW.into(), Leaves::Largest).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let right = |tree: &LpaTree<'_>| {
        for page in 0..9 {
            let at = Gva::new(page * K64 + 5);
            let found = tree.translate(at, Access::READ).unwrap().output;
            assert_eq!(found, Gpa::new(to + page * K64 + 5), "page {page}");
        }
    };
    right(&tree);
    assert_eq!(tree.protect(Gva::new(0), 9 * K64, Prot::R, &mut gather), Ok(9 * K64));
    right(&tree);
    // A block above 2^48, split and promoted again.
    let (at, to) = (1u64 << 40, (1u64 << 50) + (1 << 29));
    tree.map(Gva::new(at), Gpa::new(to), 1 << 29, Prot::RW.into(), Leaves::Exactly(29)).unwrap();
    for _ in 0..2 {
        assert_eq!(tree.split(Gva::new(at), 1 << 29, 16, &mut gather), Ok(1));
        for page in [0, 1, 4095, 8191] {
            let found = tree.translate(Gva::new(at + page * K64), Access::READ).unwrap();
            assert_eq!((found.output, found.shift), (Gpa::new(to + page * K64), 16));
        }
        assert_eq!(tree.promote(Gva::new(at), 1 << 29, &mut gather), Ok(1));
        let found = tree.translate(Gva::new(at + 7 * K64), Access::READ).unwrap();
        assert_eq!((found.output, found.shift), (Gpa::new(to + 7 * K64), 29));
    }
    // 52 bits, and no more.
    let mut map = |to: u64| {
        tree.map(Gva::new(1 << 45), Gpa::new(to), 2 * K64, Prot::RW.into(), Leaves::Largest)
    };
    let refused = map((1 << 52) - K64).unwrap_err();
    assert!(matches!(refused.error, Error::Unencodable { .. }), "{refused}");
    assert_eq!(map((1 << 52) - 2 * K64), Ok(()));
    gather.finish(&&tables).unwrap();
}

/// What hardware records by clearing a bit is harvested, kept and merged, and pages that may not be
/// written do not become writable by it.
#[test]
fn dirt_that_is_a_cleared_bit() {
    const READ_ONLY: u64 = 1 << 7;
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = lpa(&arena, &tables);
    let pages = 8192u64;
    let clean = LpaAttributes::from(Prot::RW).with_clean(true);
    tree.map(Gva::new(0), Gpa::new(0), pages * K64, clean, Leaves::Exactly(16)).unwrap();
    let at = |page: u64| Gva::new((1 << 32) + page * K64);
    tree.map(at(0), Gpa::new(0), 16 * K64, clean.with_prot(Prot::R), Leaves::Exactly(16)).unwrap();
    let mut gather = Gather::new(&Unused, ());
    let mut harvest = |tree: &mut LpaTree<'_>, start, pages: u64, writers| {
        let mut bitmap = vec![0u64; pages.div_ceil(64) as usize];
        tree.harvest(start, pages * K64, Recorded::Dirty, writers, &mut bitmap, &mut gather)
            .unwrap();
        bitmap
    };
    for writers in [Writers::Running, Writers::Stopped] {
        assert!(harvest(&mut tree, Gva::new(0), pages, writers).iter().all(|word| *word == 0));
        // Stores, as hardware records them: to single pages, and to a cache line of them.
        for page in [3, 64, 65, 66, 67, 68, 69, 70, 71, 8191] {
            tree.walker().access(Gva::new(page * K64), Access::WRITE).unwrap();
        }
        let dirty = harvest(&mut tree, Gva::new(0), pages, writers);
        assert_eq!((dirty[0], dirty[1], dirty[127]), (8, 0xff, 1 << 63));
        assert_eq!(dirty.iter().map(|word| word.count_ones()).sum::<u32>(), 10);
        assert!(harvest(&mut tree, Gva::new(0), pages, writers).iter().all(|word| *word == 0));
        // Pages that are read-only and clean stay so.
        assert_eq!(harvest(&mut tree, at(0), 16, writers), [0]);
        assert!(tree.translate(at(3), Access::WRITE).is_err());
    }
    // The right to write goes, dirt stays.
    tree.walker().access(Gva::new(5 * K64), Access::WRITE).unwrap();
    let mut gather = Gather::new(&Unused, ());
    for prot in [Prot::R, Prot::RW] {
        tree.protect(Gva::new(0), 16 * K64, prot, &mut gather).unwrap();
        assert_eq!(tree.translate(Gva::new(5 * K64), Access::WRITE).is_ok(), prot.write());
    }
    assert_eq!(slot(&arena, &tree, 5 * K64).1 & READ_ONLY, 0, "dirty");
    assert_eq!(slot(&arena, &tree, 6 * K64).1 & READ_ONLY, READ_ONLY, "clean");
    // One dirty page makes a dirty block.
    assert_eq!(tree.promote(Gva::new(0), pages * K64, &mut gather), Ok(1));
    assert_eq!(slot(&arena, &tree, 0).1 & READ_ONLY, 0, "dirty");
    gather.finish(&&tables).unwrap();
}

/// A table that limits what is below it is not replaced by a leaf.
#[test]
fn promotion_under_a_limit() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = lpa(&arena, &tables);
    let bytes = 8192 * K64;
    tree.map(Gva::new(0), Gpa::new(0), bytes, Prot::RW.into(), Leaves::Exactly(16)).unwrap();
    let way = tree.walker().trace(Gva::new(0));
    let above = way[way.len() - 2];
    let memory = arena.memory::<Gpa>();
    // APTable[1]: read-only.
    memory.word(above.address).unwrap().fetch_or((1u64 << 62).to_le(), Ordering::Relaxed);
    assert!(tree.translate(Gva::new(0), Access::WRITE).is_err());
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.promote(Gva::new(0), bytes, &mut gather), Ok(0));
    assert!(tree.translate(Gva::new(0), Access::WRITE).is_err());
    memory.word(above.address).unwrap().fetch_and(!(1u64 << 62).to_le(), Ordering::Relaxed);
    assert_eq!(tree.promote(Gva::new(0), bytes, &mut gather), Ok(1));
    assert!(tree.translate(Gva::new(0), Access::WRITE).is_ok());
    gather.finish(&&tables).unwrap();
}

/// Looks at entries while it invalidates.
struct Watching<'t> {
    entry: Cell<Option<&'t AtomicU64>>,
    seen: Cell<usize>,
    fails: Cell<bool>,
}

impl Invalidate<Stage1> for Watching<'_> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        assert!(!stale.is_empty());
        if let Some(entry) = self.entry.get() {
            assert_eq!(entry.load(Ordering::Relaxed) & 1, 0, "the entry is still there");
            self.seen.set(self.seen.get() + 1);
        }
        if self.fails.get() { Err(InvalidateFailed) } else { Ok(()) }
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

/// What may not change in place is taken out and invalidated first; what may, is not.
#[test]
fn break_before_make() {
    let arena = Arena::new(4 << 20);
    let tables = Tables::new(&arena);
    let mut tree = lpa(&arena, &tables);
    let bytes = 200 * K64;
    tree.map(Gva::new(0), Gpa::new(1 << 50), bytes, Prot::RW.into(), Leaves::Exactly(16)).unwrap();
    let entry = slot(&arena, &tree, 70 * K64).0;
    let by =
        Watching { entry: Cell::new(Some(entry)), seen: Cell::new(0), fails: Cell::new(false) };
    let mut gather = Gather::new(&by, ());
    let device = LpaAttributes::from(Prot::RW).with_memory(Memory::Device);
    let whole = |tree: &mut LpaTree<'_>, gather: &mut Gather<'_, Stage1, Watching<'_>>| {
        tree.set_attributes(Gva::new(0), 64 * K64, device, gather).unwrap();
        tree.set_attributes(Gva::new(64 * K64), 64 * K64, device, gather)
    };
    by.entry.set(None);
    assert_eq!(whole(&mut tree, &mut gather), Ok(64 * K64));
    for page in [0, 63, 64, 127] {
        let found = tree.walker().query(Gva::new(page * K64)).unwrap().unwrap();
        assert_eq!(found.attributes.memory(), Memory::Device, "page {page}");
        assert_eq!(found.output, Gpa::new((1 << 50) + page * K64));
    }
    // Rights change in place: nothing is invalidated before the gather is finished.
    by.entry.set(Some(entry));
    tree.protect(Gva::new(0), bytes, Prot::R, &mut gather).unwrap();
    assert_eq!(by.seen.get(), 0);
    by.entry.set(None);
    gather.finish(&&tables).unwrap();
    // Back to normal memory, with the entry watched.
    by.entry.set(Some(entry));
    let normal = |leaf: pgtable::walk::LeafOf<Lpa>| leaf.attributes.with_memory(Memory::Normal);
    assert_eq!(tree.modify(Gva::new(64 * K64), 16 * K64, normal, &mut gather), Ok(16 * K64));
    assert_eq!(by.seen.get(), 1);
    let found = tree.walker().query(Gva::new(70 * K64)).unwrap().unwrap();
    assert_eq!((found.attributes.memory(), found.attributes.prot()), (Memory::Normal, Prot::R));
    // If nothing can be invalidated, everything is as it was.
    by.fails.set(true);
    let failed =
        tree.set_attributes(Gva::new(64 * K64), 16 * K64, device, &mut gather).unwrap_err();
    assert!(matches!(failed.error, Error::Invalidate(_)), "{failed}");
    assert_eq!(tree.walker().query(Gva::new(70 * K64)).unwrap().unwrap(), found);
    by.fails.set(false);
    by.entry.set(None);
    gather.finish(&&tables).unwrap();
}

/// What each leaf said last.
#[test]
fn unmap_with() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    let clean = PageAttributes::from(Prot::RW).with_dirty(false).with_accessed(false);
    tree.map(Gva::new(LARGE - 2 * PAGE), Gpa::new(0), 2 * PAGE, clean, Leaves::Largest).unwrap();
    tree.map(Gva::new(LARGE), Gpa::new(LARGE), 2 * LARGE, clean, Leaves::Largest).unwrap();
    tree.walker().access(Gva::new(LARGE - PAGE), Access::WRITE).unwrap();
    tree.walker().access(Gva::new(2 * LARGE), Access::READ).unwrap();
    let mut told = Vec::new();
    let mut gather = Gather::new(&Unused, ());
    let each = |leaf: pgtable::walk::LeafOf<LongMode>| {
        let at = leaf.attributes;
        told.push((leaf.input.get(), leaf.output.get(), leaf.bytes, at.accessed(), at.dirty()));
    };
    let all = 2 * PAGE + 2 * LARGE;
    assert_eq!(tree.unmap_with(Gva::new(0), 4 * LARGE, each, &mut gather), Ok(all));
    assert_eq!(
        told,
        [
            (LARGE - 2 * PAGE, 0, PAGE, false, false),
            (LARGE - PAGE, PAGE, PAGE, true, true),
            (LARGE, LARGE, LARGE, false, false),
            (2 * LARGE, 2 * LARGE, LARGE, true, false),
        ]
    );
    gather.finish(&&tables).unwrap();
    assert_eq!(tables.live(), 1);
}
