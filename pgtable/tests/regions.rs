//! Guest memory of the embedder's own regions: the same words as `vm_memory`'s, and refusals.

#![cfg(feature = "vm-memory")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use core::sync::atomic::AtomicU64;

use pgtable::Gpa;
use pgtable::memory::{GuestTables, HostAccess, HostRegion, ReadMemory, Refusal, TableMemory};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

fn region(start: u64, words: &[AtomicU64], skip: usize, bytes: usize) -> HostRegion<Gpa> {
    let host = words.as_ptr().cast_mut().cast::<u8>().wrapping_add(skip);
    HostRegion { start: Gpa::new(start), host, bytes, access: HostAccess::ReadWrite }
}

/// Each region, in any order and of any access; what leaves no table is named.
#[test]
fn what_is_refused() {
    let words = [const { AtomicU64::new(0) }; 64];
    let at = |start, bytes| region(start, &words, 0, bytes);
    let odd = |start, skip| region(start, &words, skip, 64);
    for (name, regions, want) in [
        ("none", vec![], None),
        ("neighbours", vec![at(0x40, 64), at(0, 64)], None),
        ("overlap by a word", vec![at(0x38, 64), at(0, 64)], Some(0x38)),
        ("the same twice", vec![at(0, 64), at(0, 64)], Some(0)),
        ("one within another", vec![at(0, 256), at(0x10, 8), at(0x400, 8)], Some(0x10)),
        ("odd guest address", vec![at(0, 64), odd(0x104, 0)], Some(0x104)),
        ("odd host address", vec![odd(0x100, 4)], Some(0x100)),
        ("beyond the space", vec![at(u64::MAX - 63, 128)], Some(u64::MAX - 63)),
        ("up to its end", vec![at(u64::MAX - 63, 63)], None),
        ("empty", vec![at(8, 0), at(8, 7), at(8, 64)], None),
    ] {
        // SAFETY: nothing is accessed.
        let made = unsafe { GuestTables::from_regions(regions) };
        assert_eq!(made.err().map(|error| error.start), want, "{name}");
    }
}

/// Word for word what the same memory is through `vm_memory`.
#[test]
fn the_same_words() {
    let ranges = [(0, 0x3000), (0x3000, 0x1000), (0x8000, 0x18), (0x8020, 0x25), (1 << 40, 0x1000)];
    let at = ranges.map(|(start, bytes)| (GuestAddress(start), bytes));
    let memory = GuestMemoryMmap::<()>::from_ranges(&at).unwrap();
    let theirs = GuestTables::<Gpa>::new(&memory).unwrap();
    let regions = at.map(|(start, bytes)| HostRegion {
        start: Gpa::from(start),
        host: memory.get_host_address(start).unwrap(),
        bytes,
        access: HostAccess::ReadWrite,
    });
    // SAFETY: the memory outlives both, and is accessed by them alone.
    let ours = unsafe { GuestTables::<Gpa>::from_regions(regions) }.unwrap();
    for (start, bytes) in ranges {
        for border in [start, start + bytes as u64] {
            for address in (0..8).map(|word| (border & !7).wrapping_add(word * 8).wrapping_sub(32))
            {
                let address = Gpa::new(address);
                for words in [1, 2, 4, 1 << 20] {
                    let place = |tables: &GuestTables<'_, Gpa>| {
                        tables.table(address, words).map(<[AtomicU64]>::as_ptr)
                    };
                    assert_eq!(place(&ours), place(&theirs), "{words} words at {address}");
                }
                assert_eq!(ours.load(address), theirs.load(address), "{address}");
            }
        }
    }
}

/// What may only be read is read and not given in place; what is unplugged is not there.
#[test]
fn access() {
    let words = [const { AtomicU64::new(5) }; 8];
    for (access, read, write) in [
        (HostAccess::None, Err(Refusal::Outside), Some(Refusal::Outside)),
        (HostAccess::Read, Ok(5), Some(Refusal::ReadOnly)),
        (HostAccess::ReadWrite, Ok(5), None),
    ] {
        let one = HostRegion { access, ..region(0x1000, &words, 0, 64) };
        // SAFETY: the words outlive the tables.
        let tables = unsafe { GuestTables::from_regions([one]) }.unwrap();
        let at = Gpa::new(0x1008);
        assert_eq!(tables.load(at).map_err(|error| error.refusal), read, "{access:?}");
        assert_eq!(tables.word(at).err().map(|error| error.refusal), write, "{access:?}");
    }
}
