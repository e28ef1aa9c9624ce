//! What all cases are made of: an access, and words that fill a memory image.

use arbitrary::Unstructured;
use pgtable::{Access, AccessKind, Privilege};
use pgtable_x86::Privacy;

/// More words than this do not make a case more interesting.
const MOST_WORDS: usize = 512;

/// One of six accesses.
pub fn access(choice: u8) -> Access {
    let kind =
        [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][usize::from(choice >> 1) % 3];
    Access {
        kind,
        privilege: if choice & 1 == 0 { Privilege::Supervisor } else { Privilege::User },
    }
}

/// Whether bit `n` of `flags` is set.
pub fn bit(flags: u16, n: u32) -> bool {
    flags >> n & 1 != 0
}

/// A bit of an address that says whether memory is private, or none.
pub fn privacy(choice: u8) -> Privacy {
    let bit = 12 + choice % 40;
    match choice >> 6 {
        0 => Privacy::Encrypted { bit },
        1 => Privacy::Shared { bit },
        _ => Privacy::None,
    }
}

/// What is left of the input, as words; at least one.
pub fn words(rest: Unstructured<'_>) -> Vec<u64> {
    let chunks = rest.take_rest().chunks(8).take(MOST_WORDS);
    let mut words: Vec<u64> = chunks
        .map(|chunk| {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(bytes)
        })
        .collect();
    if words.is_empty() {
        words.push(0);
    }
    words
}

/// `given`, over and over, until there are `count` words.
pub fn image(given: &[u64], count: usize) -> Vec<u64> {
    let mut image = Vec::with_capacity(count + given.len());
    while image.len() < count {
        image.extend_from_slice(given);
    }
    image.truncate(count);
    image
}

/// Addresses around `first`, and as far from it as the case's words are: what batches and caches
/// are tried on.
pub fn neighbours(first: u64, words: &[u64]) -> Vec<u64> {
    let near = [0, 1, 0xfff, 0x1000, 0x1_0000, 0x20_0000, 0x4000_0000, 1 << 39, 1 << 47];
    let near = near.iter().flat_map(|&apart| [first.wrapping_add(apart), first ^ apart]);
    near.chain(words.iter().take(8).map(|&word| first ^ (word & 0x0000_ffff_ffff_f000))).collect()
}
