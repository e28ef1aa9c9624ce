//! Guest memory of many regions, word by word around every boundary, against a search through the
//! list of regions.

use pgtable::Gpa;
use pgtable::memory::{GuestTables, TableMemory};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// (start, bytes) of each region.
type Regions = &'static [(u64, usize)];

const LAYOUTS: [Regions; 9] = [
    &[(0, 0x1000)],
    &[(0x1000, 0x1000), (0x2000, 0x3000)],
    &[(8, 0x18), (0x20, 8), (0x30, 0x1008)],
    // What is left of a region behind its last whole word is none.
    &[(0x100, 0x1f), (0x120, 0x27), (0x150, 7)],
    &[(0, 0xa_0000), (0x10_0000, 0x30_0000), (1 << 32, 0x10_0000)],
    // Regions so far apart, and so crooked, that no table of granules has one for each.
    &[(0, 0x1000), (1 << 40, 0x18), ((1 << 40) + 0x20, 0x1000), ((1 << 40) + 0x1020, 8)],
    &[(0x7fff_f008, 0xff8), (1 << 44, 0x1000), ((1 << 44) + 0x1008, 0x10)],
    &[((1 << 52) - 0x1000, 0x1000)],
    &[(0, 8), (16, 8), (32, 8), (48, 8), (1 << 20, 8), ((1 << 20) + 16, 8)],
];

#[test]
fn every_word_of_every_region_and_no_other() {
    for layout in LAYOUTS {
        let ranges: Vec<_> =
            layout.iter().map(|&(start, bytes)| (GuestAddress(start), bytes)).collect();
        let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
        let tables = GuestTables::<Gpa>::new(&memory).unwrap();
        let boundaries = layout.iter().flat_map(|&(start, bytes)| [start, start + bytes as u64]);
        let far = (0..63).map(|bit| 1_u64 << bit).chain([0, u64::MAX - 7]);
        for around in boundaries.chain(far) {
            for address in (0..80).map(|n| around.wrapping_sub(40).wrapping_add(n)) {
                for words in [1, 2, 3, 5, 0x200, usize::MAX / 8] {
                    let bytes = words as u64 * 8;
                    // The low three bits do not count.
                    let first = address & !7;
                    let holds = |&&(start, size): &&(u64, usize)| {
                        start <= first
                            && first
                                .checked_add(bytes)
                                .is_some_and(|end| end <= start + (size as u64 & !7))
                    };
                    let there = layout.iter().find(holds).is_some();
                    let found = tables.table(Gpa::new(address), words);
                    assert_eq!(
                        found.is_ok(),
                        there,
                        "{words} words at {address:#x} of {layout:x?}"
                    );
                    let Ok(found) = found else { continue };
                    let host = memory.get_host_address(GuestAddress(first)).unwrap();
                    assert_eq!(
                        (found.as_ptr().cast::<u8>(), found.len()),
                        (host.cast_const(), words)
                    );
                    assert!(std::ptr::eq(tables.word(Gpa::new(address)).unwrap(), &found[0]));
                }
                if tables.table(Gpa::new(address), 1).is_err() {
                    assert!(tables.word(Gpa::new(address)).is_err());
                }
            }
        }
    }
}

/// Words must be words of host memory too.
#[test]
fn a_region_that_begins_between_two_words_is_refused() {
    for (start, ok) in [(0x1000, true), (0x1008, true), (0x1004, false), (0x1001, false)] {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(start), 0x1000)]).unwrap();
        assert_eq!(GuestTables::<Gpa>::new(&memory).is_ok(), ok, "{start:#x}");
    }
}
