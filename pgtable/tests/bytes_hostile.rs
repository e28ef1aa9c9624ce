//! Bytes through tables that somebody else wrote, and through translations and memory that lie;
//! what is recorded; bytes beside others that change.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the models use the rest")]
#[path = "support/mod.rs"]
mod support;

use core::cell::Cell;
use core::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use pgtable::bytes::{
    ByteMemory, Debugger, GuestBytes, Reason, Recording, Short, Stopped, Translate, WordBytes,
};
use pgtable::format::{Format, Input, Output};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Address, Gpa, Gva, Hpa, Leaves, Prot, Translation};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_x86::{Controls, EptControls, Levels, LongMode};
use proptest::prelude::*;
use support::{Arena, Tables};

/// Any bytes of any tables are what one-byte translations say, and no verb panics.
fn agrees<F: Format>(format: F, words: &[AtomicU64], start: u64, bytes: usize) {
    let memory = DirectMap::new(words, Output::<F>::new(0));
    let walker = Walker::new(format, memory, Output::<F>::new(0));
    let behind = WordBytes(memory);
    let at = Input::<F>::new(start);
    let one = |done: u64, access: Option<Access>| {
        let at = Input::<F>::new(start.checked_add(done)?);
        let found = match access {
            Some(access) => walker.translate(at, access).ok()?,
            None => walker.debug_translate(at, Access::READ).ok()?,
        };
        let word =
            memory.bytes().checked_sub(found.output.get() + 1).map(|_| found.output.get())?;
        let value = words[(word / 8) as usize].load(Ordering::Relaxed).to_ne_bytes();
        Some(value[(word % 8) as usize])
    };
    let want = |access| (0..bytes as u64).map_while(|done| one(done, access)).collect::<Vec<_>>();
    let mut buffer = vec![0; bytes];
    for access in [Some(Access::READ), None] {
        let want = want(access);
        let result = match access {
            Some(_) => GuestBytes::new(&walker, &behind).read(at, &mut buffer),
            None => GuestBytes::new(Debugger(&walker), &behind).read(at, &mut buffer),
        };
        let done = result.err().map_or(bytes as u64, |stopped| stopped.done);
        assert_eq!((done as usize, &buffer[..want.len()]), (want.len(), &want[..]), "{start:#x}");
        let pieces = GuestBytes::new(&walker, &behind);
        let pieces = pieces.segments(at, bytes as u64, AccessKind::Read).collect::<Vec<_>>();
        let reached: u64 = pieces.iter().flatten().map(|segment| segment.bytes).sum();
        assert!(access.is_none() || reached >= done, "{start:#x}");
        assert!(pieces.len() <= bytes / 0x1000 + 2, "no more translations than pages");
    }
}

/// Words that are likely entries: small addresses, in any order of bytes, and all bits random.
fn word() -> impl Strategy<Value = u64> {
    let x86 =
        (0..8_u64, prop_oneof![Just(0x67_u64), Just(0xe7), Just(1), Just(0x8000_0000_0000_0067)]);
    let power = (0..8_u64, prop_oneof![Just(9_u64), Just(5), Just(13)]);
    prop_oneof![
        4 => x86.prop_map(|(table, bits)| (table << 12 | bits).to_le()),
        2 => power.prop_map(|(table, nls)| (1 << 63 | table << 12 | nls).to_be()),
        2 => (0..8_u64).prop_map(|page| (0xc000_0000_0000_018f | page << 12).to_be()),
        1 => any::<u64>(),
        1 => Just(0),
    ]
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(96))]
    #[test]
    fn any_tables(words in proptest::collection::vec(word(), 64), far in any::<u64>(), near in 0..0x3000_u64, bytes in 0..0x2400_usize, top in any::<bool>()) {
        // Tables of 8 pages, in which the same words stand again and again.
        let words: Vec<_> = (0..4096).map(|n| AtomicU64::new(words[(n % 64) ^ (n / 512 % 8)])).collect();
        let start = if top { u64::MAX - near } else { (far & 0x0000_7fc0_1fe0_1000).wrapping_add(near) };
        agrees(LongMode::new(Levels::Four, Controls::new()), &words, start, bytes);
        agrees(LongMode::new(Levels::Five, Controls::new()), &words, start, bytes);
        agrees(ProcessScoped::new(Granule::K64), &words, start, bytes);
    }
}

/// A translation that says whatever it is told.
struct Says(Translation<Gpa, ()>);

impl Translate for Says {
    type Input = Gva;
    type Output = Gpa;
    type Attributes = ();
    type Fault = Infallible;

    fn translate(&self, _: Gva, _: Access) -> Result<Translation<Gpa, ()>, Infallible> {
        Ok(self.0)
    }
}

/// Memory that has everything, or says that it did more than it was asked for.
struct Boundless(Option<usize>);

impl ByteMemory<Gpa> for Boundless {
    type Error = std::fmt::Error;

    fn read(&self, _: Gpa, _: &mut [u8]) -> Result<(), Short<std::fmt::Error>> {
        self.0.map_or(Ok(()), |done| Err(Short { done, error: std::fmt::Error }))
    }

    fn write(&self, at: Gpa, bytes: &[u8]) -> Result<(), Short<std::fmt::Error>> {
        self.read(at, &mut bytes.to_vec())
    }
}

/// Pages of impossible sizes, addresses at the end of both spaces, memory that claims too much.
#[test]
fn translations_and_memory_that_lie() {
    let words = [const { AtomicU64::new(0) }; 8];
    let small = WordBytes(DirectMap::new(&words, Gpa::new(u64::MAX - 63)));
    for shift in [0, 1, 3, 12, 62, 63, 64, 200, 255] {
        for output in [0, 5, u64::MAX - 70, u64::MAX - 3, u64::MAX] {
            let says = Says(Translation { output: Gpa::new(output), shift, attributes: () });
            for start in [0, 1, 0xffe, 1 << 63, u64::MAX - 9, u64::MAX] {
                for bytes in [0, 1, 8, 10, 11, 2000] {
                    let mut buffer = vec![0; bytes];
                    let at = Gva::new(start);
                    let room = (u64::MAX - start).saturating_add(1);
                    let done = room.min(bytes as u64);
                    let everything = GuestBytes::new(&says, &Boundless(None));
                    let result = everything.read(at, &mut buffer);
                    let end = Stopped { at: Gva::new(u64::MAX), done, reason: Reason::End };
                    let want = if done < bytes as u64 { Err(end) } else { Ok(()) };
                    assert_eq!(result, want, "{shift} {output:#x} {start:#x} {bytes}");
                    assert_eq!(everything.check(at, bytes as u64, AccessKind::Write), want);
                    assert_eq!(everything.copy(at, at, bytes as u64), want);
                    // Some memory, which ends with the space.
                    let _ = GuestBytes::new(&says, &small).write(at, &buffer);
                    let _ = GuestBytes::new(&says, &small).compare(at, &buffer);
                    if bytes > 0 {
                        let too_much = GuestBytes::new(&says, &Boundless(Some(usize::MAX)));
                        let stopped = too_much.read(at, &mut buffer).unwrap_err();
                        assert!(
                            stopped.done < bytes as u64 && stopped.at.get() - start == stopped.done
                        );
                    }
                }
            }
            assert!(everything_ends(&says));
        }
    }
}

/// A guest that changes its tables within a comparison or a copy: a page is where it was when its
/// first byte was come to, up to its last.
#[test]
fn case_b2_a_page_is_translated_once() {
    /// Leads each page to another place each time that it is asked.
    struct Moves(Cell<u64>);
    impl Translate for Moves {
        type Input = Gva;
        type Output = Gpa;
        type Attributes = ();
        type Fault = Infallible;

        fn translate(&self, at: Gva, _: Access) -> Result<Translation<Gpa, ()>, Infallible> {
            let asked = self.0.get();
            self.0.set(asked + 1);
            let output = Gpa::new((asked % 4) << 12 | at.get() & 0xfff);
            Ok(Translation { output, shift: 12, attributes: () })
        }
    }
    // The byte of each of four pages is its number.
    let words: Vec<_> =
        (0..4 * 512).map(|n| AtomicU64::new(n / 512 * 0x0101_0101_0101_0101)).collect();
    let memory = WordBytes(DirectMap::new(&words, Gpa::new(0)));
    let moves = Moves(Cell::new(0));
    let bytes = GuestBytes::new(&moves, &memory);
    let at = Gva::new(0x10);
    assert_eq!(bytes.compare(at, &[0; 0xff0]).unwrap(), None);
    assert_eq!(moves.0.get(), 1);
    assert_eq!(bytes.compare(at, &[1; 0x1000]).unwrap(), Some(0xff0), "the next is the second");
    moves.0.set(0);
    assert_eq!(bytes.compare_with(at, at, 0xff0).unwrap(), Some(0));
    assert_eq!(moves.0.get(), 2);
    // From the third to the fourth.
    bytes.copy(at, at, 0xff0).unwrap();
    assert_eq!(moves.0.get(), 4);
    let held = |page: usize| words[page * 512 + 2].load(Ordering::Relaxed) & 0xff;
    let last = |page: usize| words[page * 512 + 511].load(Ordering::Relaxed) & 0xff;
    assert_eq!([0, 1, 2, 3].map(held), [0, 1, 2, 2]);
    assert_eq!([0, 1, 2, 3].map(last), [0, 1, 2, 2]);
}

/// The segments of the whole space end, whatever their size; of those of one byte the first are
/// enough.
fn everything_ends(says: &Says) -> bool {
    let mut segments = pgtable::bytes::Segments::new(says, Gva::new(0), u64::MAX, Access::READ);
    let bytes: u64 = segments.by_ref().take(64).flatten().map(|it| it.bytes).sum();
    says.0.shift < 58 || (bytes == u64::MAX && segments.next().is_none())
}

/// What an access records is recorded of the pages that it reached, and of no other.
#[test]
fn what_is_recorded() {
    const PAGE: u64 = 4096;
    let arena = Arena::new(1 << 18);
    let tables = Tables::new(&arena);
    let format = LongMode::new(Levels::Four, Controls::new());
    let memory = arena.memory::<Gpa>();
    let behind: Vec<_> = (0..3 * 512).map(AtomicU64::new).collect();
    let behind = WordBytes(DirectMap::new(&behind, Gpa::new(0)));
    let clean = pgtable_x86::PageAttributes::from(Prot::RW).with_accessed(false).with_dirty(false);
    let fresh = |tree: &mut PageTable<_, _, _>| {
        let mut gather = pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ());
        tree.unmap(Gva::new(0), 4 * PAGE, &mut gather).unwrap();
        gather.finish(&tables).unwrap();
        tree.map(Gva::new(0), Gpa::new(0), 2 * PAGE, clean, Leaves::Largest).unwrap();
        let only = pgtable_x86::PageAttributes::from(Prot::R);
        let only = only.with_accessed(false).with_dirty(false);
        tree.map(Gva::new(2 * PAGE), Gpa::new(2 * PAGE), PAGE, only, Leaves::Largest).unwrap();
    };
    let mut tree = PageTable::new(format, memory, &tables).unwrap();
    let root = tree.root();
    let walker = || Walker::new(format, memory, root);
    let marks = || {
        [0, 1, 2].map(|page| {
            let found = walker().query(Gva::new(page * PAGE)).unwrap().unwrap().attributes;
            (found.accessed(), found.dirty())
        })
    };
    let (none, read, written) = ((false, false), (true, false), (true, true));
    let (at, mut two) = (Gva::new(PAGE - 1), [0; 2]);

    fresh(&mut tree);
    let judged = GuestBytes::new(walker(), &behind);
    judged.write(at, &[1, 2]).unwrap();
    let debugger = GuestBytes::new(Debugger(walker()), &behind);
    debugger.write(Gva::new(2 * PAGE - 1), &[1, 2]).unwrap();
    assert_eq!(marks(), [none; 3], "neither records");

    let recording = GuestBytes::new(Recording(walker()), &behind);
    recording.read(at, &mut two).unwrap();
    assert_eq!(marks(), [read, read, none]);
    recording.write(Gva::new(0), &[1]).unwrap();
    assert_eq!(marks(), [written, read, none]);
    // Stopped at the read-only page, which is not marked.
    let stopped = recording.write(Gva::new(2 * PAGE - 1), &[1, 2]).unwrap_err();
    assert_eq!((stopped.done, stopped.at), (1, Gva::new(2 * PAGE)));
    assert_eq!(marks(), [written, written, none]);
    // A difference in the first page: the second is not reached.
    fresh(&mut tree);
    assert_eq!(recording.compare(Gva::new(PAGE - 2), &[0xaa; 4]), Ok(Some(0)));
    assert_eq!(marks(), [read, none, none]);
    let mut gather = pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ());
    tree.unmap(Gva::new(0), 4 * PAGE, &mut gather).unwrap();
    gather.finish(&tables).unwrap();
    tree.destroy(pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ()))
        .map_err(|(_, error)| error)
        .unwrap();
}

/// Through both stages a segment is no larger than the smaller page, and a fault says whose it is.
#[test]
fn through_both_stages() {
    const PAGE: u64 = 4096;
    let arena = Arena::new(1 << 18);
    let tables = Tables::new(&arena);
    let memory = arena.memory::<Hpa>();
    let second = pgtable_x86::Ept::new(Levels::Four, EptControls::new());
    let mut host = PageTable::new(second, memory, &tables).unwrap();
    // The guest's memory is the host's, but for two pages that are exchanged.
    host.map(
        Gpa::new(0x4000_0000),
        Hpa::new(0x4000_0000),
        1 << 18,
        Prot::RWX.into(),
        Leaves::Largest,
    )
    .unwrap();
    for (gpa, hpa) in [(0x20_0000, 0x20_1000), (0x20_1000, 0x20_0000)] {
        host.map(Gpa::new(gpa), Hpa::new(hpa), PAGE, Prot::RWX.into(), Leaves::Largest).unwrap();
    }
    let format = LongMode::new(Levels::Four, Controls::new());
    let mut guest = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    guest.map(Gva::new(0), Gpa::new(0x20_0000), 2 << 20, Prot::RW.into(), Leaves::Largest).unwrap();

    let behind: Vec<_> = (0..0x400).map(|_| AtomicU64::new(0)).collect();
    let behind = WordBytes(DirectMap::new(&behind, Hpa::new(0x20_0000)));
    let both: TwoStage<'_, _, _, _> =
        TwoStage::new(format, guest.root(), Walker::new(second, memory, host.root()));
    let bytes = GuestBytes::new(&both, &behind);
    bytes.write(Gva::new(PAGE - 2), &[1, 2, 3, 4]).unwrap();
    let mut found = [0; 2];
    behind.read(Hpa::new(0x20_1ffe), &mut found).unwrap();
    assert_eq!(found, [1, 2], "the first page is the host's second");
    behind.read(Hpa::new(0x20_0000), &mut found).unwrap();
    assert_eq!(found, [3, 4]);
    let stopped = bytes.write(Gva::new(2 * PAGE - 3), &[1; 8]).unwrap_err();
    assert_eq!((stopped.done, stopped.at), (3, Gva::new(2 * PAGE)));
    let Reason::Fault(pgtable::two_stage::TwoStageFault::Stage2 { address, table: None, .. }) =
        stopped.reason
    else {
        panic!("{stopped}")
    };
    assert_eq!(address, Gva::new(2 * PAGE));
    guest
        .destroy(pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ()))
        .map_err(|(_, error)| error)
        .unwrap();
    host.destroy(pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ()))
        .map_err(|(_, error)| error)
        .unwrap();
}

/// Bytes written into a word do not bring back what others wrote beside them.
#[test]
fn neighbours_in_a_word_are_kept() {
    let words = [const { AtomicU64::new(0) }];
    let memory = WordBytes(DirectMap::new(&words, Gpa::new(0)));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut turn = 0_u8;
            while !done.load(Ordering::Relaxed) {
                turn = turn.wrapping_add(1);
                ByteMemory::<Gpa>::write(&memory, Gpa::new(3), &[turn, turn]).unwrap();
            }
        });
        for turn in 0..200_000_u32 {
            let (first, last) = ((turn as u8), (turn >> 8) as u8);
            ByteMemory::<Gpa>::write(&memory, Gpa::new(0), &[first, last, first]).unwrap();
            let mut found = [0; 3];
            ByteMemory::<Gpa>::read(&memory, Gpa::new(0), &mut found).unwrap();
            assert_eq!(found, [first, last, first]);
        }
        done.store(true, Ordering::Relaxed);
    });
    // Every place and length in two words, against the slice.
    let words = [const { AtomicU64::new(0) }; 2];
    let memory = WordBytes(DirectMap::new(&words, Gpa::new(0)));
    let mut model = [0_u8; 16];
    for first in 0..16_usize {
        for end in first..=16 {
            let new: Vec<u8> = (first..end).map(|n| (n * 16 + first) as u8).collect();
            ByteMemory::<Gpa>::write(&memory, Gpa::new(first as u64), &new).unwrap();
            model[first..end].copy_from_slice(&new);
            let mut found = [0; 16];
            ByteMemory::<Gpa>::read(&memory, Gpa::new(0), &mut found).unwrap();
            assert_eq!(found, model, "{first}..{end}");
        }
    }
    let past = ByteMemory::<Gpa>::write(&memory, Gpa::new(14), &[1, 2, 3]).unwrap_err();
    assert_eq!((past.done, past.error.address), (2, 16));
}
