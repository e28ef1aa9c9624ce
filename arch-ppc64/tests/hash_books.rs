//! What a hashed table's owner counts, names and asks for: streams of many entries, sizes that were
//! not prepared, the operands that forget a range, authority.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hash/backing.rs"]
mod backing;

use std::cell::RefCell;
use std::collections::BTreeSet;

use backing::{memory, table};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, Unused};
use pgtable::memory::DirectMap;
use pgtable::{
    Access, AddressSpace, Attributes, Error, Gpa, Gva, Leaves, Prot, RangeError, Stage1,
};
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_ppc64::hash::{
    Action, Context, HashAttributes, HashTlbie, HashedSpace, HptOrder, Hpte, HpteR, HpteV, Layout,
    Loaded, Pages, Pass, Rehashed, Resize, ResizeError, ReturnCode, StreamReader, chunks, load,
};

/// More entries in a row, and more empty places, than a chunk's 16 bits count: the stream goes on
/// in another chunk. What was loaded counts as changed.
#[test]
fn streams_of_more_than_a_chunk_counts() {
    let (here, there) = (memory(21), memory(21));
    let (here, there) = (table(&here, Layout::V3), table(&there, Layout::V2));
    let entries = here.order().entries();
    assert_eq!((entries, here.root()), (1 << 17, 1 << 21 | 3));
    let valid = 70_000;
    let hpte = |ptex: u64| {
        let r = HpteR::new().with_rpn(ptex).with_pp(2);
        Hpte { v: HpteV::new().with_v(true).with_avpn(ptex << 1), r }
    };
    for ptex in 0..valid {
        here.slot(ptex).unwrap().unwrap().put(here.layout().encode(hpte(ptex)));
    }
    let mut reader = StreamReader::new(0, Pass::First, false);
    let mut stream = vec![0; 4 << 20];
    let length = reader.read(&here, &mut stream).unwrap();
    stream.truncate(length);
    let counts: Vec<_> = chunks(&stream)
        .map(|chunk| chunk.unwrap())
        .map(|chunk| {
            (u64::from(chunk.index), chunk.entries.len() as u64, u64::from(chunk.n_invalid))
        })
        .collect();
    let rest = entries - valid;
    assert_eq!(
        counts,
        [(0, 65_535, 0), (65_535, valid - 65_535, rest.min(65_535))],
        "and nothing is said of what is empty and was never told of"
    );
    assert_eq!(load(&there, &stream).unwrap(), Loaded { stored: valid, emptied: rest.min(65_535) });
    let mut left = there.entries(0);
    assert!(
        (0..valid)
            .all(|ptex| left.next().is_some_and(|(at, it)| at == ptex && it.r == hpte(ptex).r))
    );
    assert!(left.next().is_none());
    // Who reads the changes of the copy, to send it on, gets all of it.
    let mut onwards = StreamReader::new(0, Pass::Changes, false);
    let mut stream = vec![0; 4 << 20];
    let length = onwards.read(&there, &mut stream).unwrap();
    let sent: u64 =
        chunks(&stream[..length]).map(|chunk| chunk.unwrap().entries.len() as u64).sum();
    assert_eq!(sent, valid);
}

/// A table of another size than the prepared one is not committed, and the prepared one stays; nor
/// is one whose preparation failed, of whatever size.
#[test]
fn only_what_was_prepared_is_committed() {
    let order = |order: u64| HptOrder::new(order).unwrap();
    let never = |_: &&str| -> Result<Rehashed, ResizeError> { panic!("nothing to rehash") };
    let mut resize = Resize::new(true, order(24));
    assert_eq!(resize.commit(0, 20, never), Err((ReturnCode::Closed, None)));
    assert_eq!(resize.prepare(0, 20), (ReturnCode::LongBusy100Ms, Action::Allocate(order(20))));
    assert_eq!(resize.commit(0, 20, never), Err((ReturnCode::Busy, None)));
    assert_eq!(
        resize.commit(0, 21, never),
        Err((ReturnCode::Closed, None)),
        "being prepared, but not that"
    );
    resize.allocated(order(20), Ok("20")).unwrap();
    assert_eq!(
        resize.commit(0, 21, never),
        Err((ReturnCode::Closed, None)),
        "prepared, but not that"
    );
    assert_eq!(resize.prepare(0, 20), (ReturnCode::Success, Action::Nothing), "it is still there");
    assert_eq!(
        resize.commit(0, 20, |table| Ok(Rehashed { moved: table.len() as u64, dropped: 0 })),
        Ok("20")
    );
    // One that could not be had says so once: to who commits, and to who asks again.
    for (asked, code) in [(22, ReturnCode::Closed), (23, ReturnCode::NoMem)] {
        assert_eq!(resize.prepare(0, 23), (ReturnCode::LongBusy100Ms, Action::Allocate(order(23))));
        resize.allocated(order(23), Err(ReturnCode::NoMem)).unwrap();
        assert_eq!(resize.commit(0, asked, never), Err((code, None)));
        let again = if asked == 22 { ReturnCode::NoMem } else { ReturnCode::LongBusy100Ms };
        assert_eq!(resize.prepare(0, 23).0, again);
        let _ = resize.prepare(0, 0);
    }
    assert_eq!(resize.prepare(0, 23), (ReturnCode::LongBusy100Ms, Action::Allocate(order(23))));
    resize.allocated(order(23), Err(ReturnCode::NoMem)).unwrap();
    assert_eq!(
        resize.prepare(0, 22),
        (ReturnCode::LongBusy100Ms, Action::Allocate(order(22))),
        "that one failed, this one has not been tried"
    );
}

/// Hears what is stale, and forms the operands by a space of the same context.
struct Operands<'s, 't>(
    &'s HashedSpace<DirectMap<'t, Gpa>, &'t Tables<'t>, DirectMap<'t, Gpa>>,
    RefCell<BTreeSet<u64>>,
);

impl Invalidate<Stage1> for Operands<'_, '_> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        let mut operands = self.1.borrow_mut();
        let listed = self.0.tlbies(stale, |operand| _ = operands.insert(operand.rb()));
        assert_ne!(listed, stale.everything());
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
        panic!("a gather was dropped");
    }
}

/// The operands for what was unmapped are those of the entries that there were, wherever these
/// stood.
#[test]
fn operands_of_a_range_are_those_of_its_entries() {
    for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
        let arenas = [Arena::new(4 << 20), Arena::new(1 << 20)];
        let tables = [Tables::new(&arenas[0]), Tables::new(&arenas[1])];
        let words = [memory(18), memory(18)];
        let space = |n: usize| {
            let context = Context::new(12).unwrap();
            HashedSpace::new(
                table(&words[n], Layout::V3),
                arenas[n].memory(),
                &tables[n],
                pages,
                context,
            )
            .unwrap()
        };
        let (mut space, other) = (space(0), space(1));
        let size = 1_u64 << space.leaf_shifts()[0];
        let attributes = HashAttributes::from(Prot::RW);
        let mut mapped =
            vec![(Gva::new(1 << 40), 7 * size), (Gva::new((1 << 41) + 0x10 * size), size)];
        if pages == Pages::K64 {
            mapped.push((Gva::new(1 << 30), 2 << 24));
        }
        for &(start, bytes) in &mapped {
            space.map(start, Gpa::new(0), bytes, attributes, Leaves::Largest).unwrap();
            for at in (0..bytes).step_by(0x1000) {
                space.translate(Gva::new(start.get() + at), Access::READ).unwrap();
            }
        }
        let hpt = space.hpt();
        let wanted: BTreeSet<u64> =
            hpt.entries(0).map(|(ptex, hpte)| HashTlbie::of(hpte, ptex).unwrap().rb()).collect();
        // The operand of an entry of a 16M page has four bits of where in the page it is.
        let large = if pages == Pages::K64 { 2 * (256 - 16) } else { 0 };
        assert_eq!(wanted.len() + large, hpt.entries(0).count());
        let operands = Operands(&other, RefCell::default());
        let mut gather = Gather::new(&operands, ());
        for &(start, bytes) in &mapped {
            space.unmap(start, bytes, &mut gather).unwrap();
        }
        gather.finish(&&tables[0]).unwrap();
        assert_eq!(*operands.1.borrow(), wanted, "{pages:?}");
    }
}

/// AMR and IAMR are the space's as they are the processor's.
#[test]
fn authority_is_asked() {
    let (arena, words) = (Arena::new(1 << 20), memory(18));
    let tables = Tables::new(&arena);
    let context = Context::new(4).unwrap();
    let hpt = table(&words, Layout::V3);
    let mut space = HashedSpace::new(hpt, arena.memory(), &tables, Pages::K64, context).unwrap();
    let attributes = HashAttributes::from(Prot::RWX);
    space.map(Gva::new(0x1_0000), Gpa::new(0), 0x1_0000, attributes, Leaves::Largest).unwrap();
    let (no_store, no_load) = (1 << 63, 1 << 62);
    for (amr, iamr, allowed) in [
        (0, 0, [true, true, true]),
        (no_store, 0, [true, false, true]),
        (no_load, 0, [false, true, true]),
        (no_load | no_store, 0, [false, false, true]),
        (0, no_load, [true, true, false]),
        (!(no_load | no_store), !no_load, [true, true, true]),
    ] {
        space.set_authority(pgtable_ppc64::hash::Authority { amr, iamr });
        let seen = [Access::READ, Access::WRITE, Access::FETCH]
            .map(|it| space.translate(Gva::new(0x1_0000), it).is_ok());
        assert_eq!(seen, allowed, "AMR {amr:#x}, IAMR {iamr:#x}");
    }
}

/// What may be written or executed may be read: POWER's hashed pages know nothing less.
#[test]
fn rights_imply_reading() {
    for bits in 0..16 {
        let prot = Prot::from_bits(bits);
        let attributes = HashAttributes::from(prot);
        let any = prot.read() || prot.write() || prot.execute();
        assert_eq!(attributes.eaa().read(), any, "{prot:?}");
        assert_eq!(attributes.prot(), prot.with_read(any));
        for (write, execute) in [(true, false), (false, true)] {
            let eaa = attributes.eaa().with_read(false).with_write(write).with_execute(execute);
            let seen = attributes.with_eaa(eaa).prot();
            assert_eq!((seen.read(), seen.write(), seen.execute()), (true, write, execute));
        }
    }
}

const M16: u64 = 1 << 24;
const K64: u64 = 1 << 16;

/// What is changed of a 16M page in part is split first. If there is no memory for that, all that
/// comes before the page is changed nevertheless, the error says where it stopped, and the page is
/// what it was.
#[test]
fn a_page_that_cannot_be_split_stays() {
    let (arena, words) = (Arena::new(4 << 20), memory(18));
    let tables = Tables::new(&arena);
    let hpt = table(&words, Layout::V3);
    let mut space =
        HashedSpace::new(hpt, arena.memory(), &tables, Pages::K64, Context::new(6).unwrap())
            .unwrap();
    let start = (1 << 30) + M16;
    let at = |page: u64| Gva::new(start + page * K64);
    let output = |page: u64| Gpa::new((7 << 30) + page * K64);
    space.map(at(0), output(0), 3 * M16, Prot::RW.into(), Leaves::Exactly(24)).unwrap();
    let use_all = |space: &HashedSpace<_, _, _>, from: u64, to: u64| {
        for page in from..to {
            let found = space.translate(Gva::new(at(page).get() + 0x123), Access::WRITE);
            assert_eq!(
                found.map(|it| it.output),
                Ok(Gpa::new(output(page).get() + 0x123)),
                "page {page}"
            );
        }
    };
    use_all(&space, 0, 768);
    assert_eq!(space.hpt().entries(0).count(), 768);
    let change = |space: &mut HashedSpace<_, _, _>, from: u64, pages: u64, unmap: bool| {
        let mut gather = Gather::new(&Unused, ());
        let result = if unmap {
            space.unmap(at(from), pages * K64, &mut gather)
        } else {
            space.protect(at(from), pages * K64, Prot::R, &mut gather)
        };
        tables.budget.set(usize::MAX);
        gather.finish(&&tables).unwrap();
        result
    };
    let stopped = |result: Result<u64, RangeError<Gva>>| match result {
        Err(RangeError { at, error: Error::Alloc(_) }) => (at.get() - start) / K64,
        other => panic!("{other:?}"),
    };
    tables.budget.set(0);
    assert_eq!(
        stopped(change(&mut space, 0, 512 + 5, true)),
        512,
        "two pages, and no part of the third"
    );
    assert!((0..512).all(|page| space.translate(at(page), Access::READ).is_err()));
    assert_eq!(
        space.hpt().entries(0).count(),
        0,
        "those of the third page were taken out for the split"
    );
    use_all(&space, 512, 768);
    assert_eq!(space.hpt().entries(0).count(), 256);
    // In the middle, and at the beginning.
    for (from, pages) in [(512 + 9, 3), (512, 5), (512 + 250, 6)] {
        for unmap in [true, false] {
            tables.budget.set(0);
            assert_eq!(stopped(change(&mut space, from, pages, unmap)), from);
            use_all(&space, 512, 768);
        }
    }
    assert_eq!(change(&mut space, 512 + 9, 3, true), Ok(3 * K64));
    assert_eq!(space.hpt().entries(0).count(), 0, "split: all of it is used anew");
    use_all(&space, 512, 512 + 9);
    use_all(&space, 512 + 12, 768);
    assert!((9..12).all(|page| space.translate(at(512 + page), Access::READ).is_err()));
    assert_eq!(space.hpt().entries(0).count(), 253);
    assert_eq!(change(&mut space, 512, 256, true), Ok(253 * K64));
    assert_eq!((space.hpt().entries(0).count(), tables.live()), (0, 1));
}

/// Each 16M page has an array for its slots; where these run out what was mapped ends, and what is
/// said to be mapped is.
#[test]
fn pages_without_an_array_are_not_mapped() {
    let (arena, words) = (Arena::new(4 << 20), memory(18));
    let tables = Tables::new(&arena);
    let hpt = table(&words, Layout::V3);
    let mut space =
        HashedSpace::new(hpt, arena.memory(), &tables, Pages::K64, Context::new(6).unwrap())
            .unwrap();
    let mut came = BTreeSet::new();
    for budget in 0..12 {
        let start = Gva::new((3 << 30) - 2 * M16);
        tables.budget.set(budget);
        let result = space.map(start, Gpa::new(1 << 30), 5 * M16, Prot::RW.into(), Leaves::Largest);
        tables.budget.set(usize::MAX);
        let done = match result {
            Ok(()) => 5,
            Err(RangeError { at, error: Error::Alloc(_) }) => (at.get() - start.get()) / M16,
            Err(error) => panic!("{error}"),
        };
        came.insert(done);
        for page in 0..5 {
            for piece in [0, 77, 255] {
                let address = Gva::new(start.get() + page * M16 + piece * K64);
                let found = space.translate(address, Access::WRITE);
                assert_eq!(
                    found.is_ok(),
                    page < done,
                    "budget {budget}: {done} pages, page {page}"
                );
            }
        }
        assert_eq!(space.hpt().entries(0).count() as u64, done * 3);
        let mut gather = Gather::new(&Unused, ());
        assert_eq!(space.unmap(start, 5 * M16, &mut gather), Ok(done * M16));
        gather.finish(&&tables).unwrap();
        assert_eq!(
            (space.hpt().entries(0).count(), tables.live()),
            (0, 1),
            "budget {budget}: arrays are lost"
        );
    }
    assert_eq!(came, (0..=5).collect(), "each number of pages once");
}

/// Nothing beyond the space's end is changed, nor said to be in it.
#[test]
fn a_space_ends() {
    for pages in [Pages::K4, Pages::K64, Pages::K64In4K] {
        let (arena, words) = (Arena::new(4 << 20), memory(18));
        let tables = Tables::new(&arena);
        let context = Context::new(6).unwrap();
        let hpt = table(&words, Layout::V3);
        let mut space = HashedSpace::new(hpt, arena.memory(), &tables, pages, context).unwrap();
        let (_, end) = space.range();
        let page = 1_u64 << space.leaf_shifts()[0];
        space
            .map(Gva::new(end - page), Gpa::new(0), page, Prot::RW.into(), Leaves::Largest)
            .unwrap();
        assert!(space.translate(Gva::new(end - 1), Access::WRITE).is_ok());
        assert!(
            space.segment(Gva::new(end - 1)).is_some() && space.segment(Gva::new(end)).is_none()
        );
        let mut gather = Gather::new(&Unused, ());
        for (start, bytes) in
            [(end - page, 2 * page), (end, page), (u64::MAX - page + 1, page), (0, end + page)]
        {
            let start = Gva::new(start);
            let mapped = space.map(start, Gpa::new(0), bytes, Prot::RW.into(), Leaves::Largest);
            let unmapped = space.unmap(start, bytes, &mut gather);
            let protected = space.protect(start, bytes, Prot::R, &mut gather);
            for error in [mapped.unwrap_err(), unmapped.unwrap_err(), protected.unwrap_err()] {
                assert_eq!((error.at, error.error), (start, Error::Range), "{pages:?}");
            }
        }
        assert!(space.translate(Gva::new(end - 1), Access::WRITE).is_ok());
        gather.finish(&&tables).unwrap();
    }
}
