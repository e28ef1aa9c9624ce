//! A table to which there are two ways: from two ranges, from one, from two trees.

use pgtable::allocator::Contents;
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::{Error, Gpa, Gva, Leaves, Prot};

use crate::guest::{LARGE, PAGE, format, load, store};
use crate::{FAR, FIRST, NONE, SECOND, error, has_not, is_malformed, map, with};

/// A table that one writer has locked, and a guest linked into the locked range of another: the
/// other does not take it for its own, neither to change nor to unlock it.
#[test]
fn case_a1_a_lock_has_an_owner() {
    with(|shared, memory, [near, far], _| {
        let [one, other, third] = [0; 3].map(|_| shared.writer().unwrap());
        let mine = one.lock(Gva::new(FIRST), LARGE).unwrap();
        let mut theirs = other.lock(Gva::new(FAR), 2 * LARGE).unwrap();
        store(&memory, far, 1, load(&memory, near, 0));
        has_not(&mut theirs, NONE);
        // A verb by that way waits for the owner, and one by the right way does too.
        assert_eq!(error(map(&third, FIRST + PAGE)), Some(Error::Contended));
        drop(theirs);
        for at in [FIRST + PAGE, NONE + PAGE] {
            assert_eq!(error(map(&third, at)), Some(Error::Contended), "{at:#x}");
        }
        assert_eq!(error(other.lock(Gva::new(NONE), PAGE)), Some(Error::Contended));
        drop(mine);
        assert_eq!(map(&third, FIRST + PAGE), Ok(()));
        store(&memory, far, 1, 0);
    });
}

/// The same where the two ranges are one writer's.
#[test]
fn case_a1_two_ranges_of_one_writer_are_two_owners() {
    with(|shared, memory, [near, far], _| {
        let [one, other] = [0; 2].map(|_| shared.writer().unwrap());
        let mine = one.lock(Gva::new(FIRST), LARGE).unwrap();
        let mut second = one.lock(Gva::new(FAR), 2 * LARGE).unwrap();
        store(&memory, far, 1, load(&memory, near, 0));
        has_not(&mut second, NONE);
        second.finish(&mut Gather::new(&Unused, ()));
        assert_eq!(error(map(&other, FIRST + PAGE)), Some(Error::Contended));
        assert_eq!(error(map(&one, FIRST + PAGE)), Some(Error::Contended));
        drop(mine);
        assert_eq!(map(&other, FIRST + PAGE), Ok(()));
        store(&memory, far, 1, 0);
    });
}

/// A second way within the range: the table is taken out once, and what is left of the ways leads
/// nowhere.
#[test]
fn case_a1_a_second_way_within_a_range() {
    with(|shared, memory, [near, _], _| {
        let one = shared.writer().unwrap();
        let mut gather = Gather::new(&Unused, ());
        let mut range = one.lock(Gva::new(FIRST), 1 << 30).unwrap();
        store(&memory, near, 7, load(&memory, near, 0));
        assert_eq!(range.unmap(Gva::new(FIRST), LARGE, &mut gather), Ok(PAGE));
        has_not(&mut range, 7 * LARGE);
        range.finish(&mut gather);
        gather.finish(shared.tables()).unwrap();
        is_malformed(one.unmap(Gva::new(7 * LARGE), LARGE, &mut gather));
        // While the range is being locked, it is an error at once.
        store(&memory, near, 7, load(&memory, near, 1));
        is_malformed(one.lock(Gva::new(FIRST), 1 << 30).map(drop));
        assert_eq!(one.unmap(Gva::new(SECOND), LARGE, &mut gather), Ok(PAGE));
        gather.finish(shared.tables()).unwrap();
    });
}

/// A table of one tree that a guest linked into another tree of the same cache: nothing that the
/// other does touches it.
#[test]
fn case_a1_two_trees_of_one_cache() {
    with(|shared, memory, [near, _], cache| {
        let mut other = PageTable::new(format(), memory, cache).unwrap();
        for page in [FIRST, SECOND] {
            let (at, to) = (Gva::new(page), Gpa::new(0));
            other.map(at, to, PAGE, Prot::RW.into(), Leaves::Largest).unwrap();
        }
        let directory = other.walker().trace(Gva::new(0)).get(2).unwrap().address;
        let own = load(&memory, directory, 0);
        store(&memory, directory, 0, load(&memory, near, 0));
        store(&memory, directory, 3, load(&memory, near, 1));
        let mut gather = Gather::new(&Unused, ());
        let writer = shared.writer().unwrap();
        map(&writer, FIRST + PAGE).unwrap();
        for locked in [false, true] {
            let _range = locked.then(|| writer.lock(Gva::new(FIRST), 2 * LARGE).unwrap());
            for at in [FIRST, 3 * LARGE].map(Gva::new) {
                let (page, free) = (Prot::RW.into(), Gva::new(at.get() + 2 * PAGE));
                is_malformed(other.map(free, Gpa::new(0), PAGE, page, Leaves::Largest));
                is_malformed(other.map(free, Gpa::new(0), 2 * PAGE, page, Leaves::Largest));
                is_malformed(other.unmap(at, PAGE, &mut gather));
                is_malformed(other.unmap(at, LARGE, &mut gather));
                is_malformed(other.protect(at, LARGE, Prot::R, &mut gather));
                is_malformed(other.promote(at, LARGE, &mut gather));
                assert!(other.cursor(&mut gather).map(at, Gpa::new(0), page).is_err());
                assert!(other.relocate(|_, _| true, &mut gather).is_err());
            }
        }
        // By a writer of a shared tree too, which does not wait for it either.
        let live = load(&memory, near, 0);
        store(&memory, near, 5, own);
        is_malformed(writer.map(
            Gva::new(5 * LARGE),
            Gpa::new(0),
            PAGE,
            Prot::RW.into(),
            Leaves::Largest,
        ));
        is_malformed(writer.unmap(Gva::new(5 * LARGE), LARGE, &mut gather));
        is_malformed(writer.lock(Gva::new(5 * LARGE), LARGE).map(drop));
        store(&memory, near, 5, 0);
        // Its count is its own: with the second page that goes the table is empty.
        assert_eq!(load(&memory, near, 0), live);
        for page in [FIRST, FIRST + PAGE] {
            assert_eq!(writer.unmap(Gva::new(page), PAGE, &mut gather), Ok(PAGE));
        }
        assert_eq!(load(&memory, near, 0), 0, "the table left with its last page");
        assert_eq!(writer.unmap(Gva::new(SECOND), PAGE, &mut gather), Ok(PAGE));
        gather.finish(shared.tables()).unwrap();
        let done = other.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
        // The guest hid one of its tables, and that is all that stays.
        assert_eq!((done.tables, done.refused), (4, 0));
        cache.give(Gpa::new(own & 0x000f_ffff_ffff_f000), 12, Contents::Stale).unwrap();
    });
}
