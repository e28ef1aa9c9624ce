//! The slot cache: where the entries of a software page stand, so that nobody has to search for
//! them.
//!
//! # Protocol
//! Whoever makes an entry holds the page word's BUSY bit, stores the slot, then the page word with
//! HASHPTE and without BUSY (`Release`). Whoever takes entries out has the whole space for himself
//! (`&mut`), or holds BUSY. A slot says where an entry was *put*: it may have been evicted since,
//! so whoever goes there compares before he touches it. HASHPTE says that hardware may know the
//! page; it stays after an eviction.

use core::sync::atomic::{AtomicU64, Ordering};

use super::pages::Pages;
use crate::hash::order::Hidx;

/// Bits for a slot in the second half, whose value 0 stands for none.
const NIBBLE: usize = 4;
/// Slots of 16M pages stand in bytes: the slot above, valid below.
const BYTE: usize = 8;
/// Slots in a word of an array.
const BYTES: usize = 64 / BYTE;

/// Words of the array of a 16M page, which has a slot for each 64K of it.
pub(crate) const ARRAY_WORDS: usize = 256 / BYTES;
/// log2 of its bytes.
pub(crate) const ARRAY_SHIFT: u8 = 8;

/// Where the slots of a page are remembered.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Slots<'m> {
    /// In the page word itself.
    InWord,
    /// In a word of the second half, a nibble each.
    Nibbles(&'m AtomicU64),
    /// In an array, a byte each.
    Bytes(&'m [AtomicU64]),
}

impl Slots<'_> {
    /// Where the entry for piece `piece` of the page, whose word is `word`, was put.
    #[inline]
    pub(crate) fn get(&self, word: u64, piece: usize) -> Option<Hidx> {
        match self {
            Self::InWord => Pages::slot_in(word),
            Self::Nibbles(nibbles) => {
                let value = load(nibbles) >> (piece % 16 * NIBBLE) & 15;
                value.checked_sub(1).map(|hidx| Hidx::from_bits(hidx as u8))
            }
            Self::Bytes(array) => {
                let byte = load(array.get(piece / BYTES)?) >> (piece % BYTES * BYTE);
                (byte & 1 != 0).then(|| Hidx::from_bits((byte >> 1) as u8))
            }
        }
    }

    /// Which slots can be remembered, as a bit for each [`Hidx`]: a nibble has no value for the
    /// last.
    pub(crate) const fn usable(&self) -> u16 {
        match self {
            Self::Nibbles(_) => u16::MAX >> 1,
            Self::InWord | Self::Bytes(_) => u16::MAX,
        }
    }

    /// Remembers that the entry for `piece` was put `at`. The caller holds BUSY, and stores the
    /// page word afterwards.
    #[inline]
    pub(crate) fn set(&self, piece: usize, at: Hidx) {
        let (word, shift, value, mask) = match self {
            Self::InWord => return,
            Self::Nibbles(nibbles) => {
                (*nibbles, piece % 16 * NIBBLE, u64::from(at.into_bits()) + 1, 15)
            }
            Self::Bytes(array) => match array.get(piece / BYTES) {
                Some(word) => {
                    (word, piece % BYTES * BYTE, u64::from(at.into_bits()) << 1 | 1, 0xff)
                }
                None => return,
            },
        };
        let others = load(word) & !(mask << shift);
        word.store((others | (value & mask) << shift).to_be(), Ordering::Relaxed);
    }

    /// Forgets all slots of the page whose word was `word`, calling `each` with piece and slot.
    #[inline]
    pub(crate) fn drain<E>(
        &self,
        word: u64,
        mut each: impl FnMut(usize, Hidx) -> Result<(), E>,
    ) -> Result<(), E> {
        match self {
            Self::InWord => Pages::slot_in(word).map_or(Ok(()), |at| each(0, at)),
            Self::Nibbles(nibbles) => drain_word(nibbles, NIBBLE, |index, value| {
                each(index, Hidx::from_bits(value.wrapping_sub(1) as u8))
            }),
            Self::Bytes(array) => array.iter().enumerate().try_for_each(|(word, bytes)| {
                drain_word(bytes, BYTE, |index, value| {
                    each(word * BYTES + index, Hidx::from_bits((value >> 1) as u8))
                })
            }),
        }
    }
}

fn load(word: &AtomicU64) -> u64 {
    u64::from_be(word.load(Ordering::Relaxed))
}

/// Zeroes `word` and calls `each` with what its fields of `width` bits held that were not zero.
#[inline]
fn drain_word<E>(
    word: &AtomicU64,
    width: usize,
    mut each: impl FnMut(usize, u64) -> Result<(), E>,
) -> Result<(), E> {
    let mut left = load(word);
    if left == 0 {
        return Ok(());
    }
    word.store(0, Ordering::Relaxed);
    while left != 0 {
        let index = left.trailing_zeros() as usize / width;
        let field = ((1 << width) - 1) << (index * width);
        each(index, (left & field) >> (index * width))?;
        left &= !field;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use core::convert::Infallible;
    use std::vec::Vec;

    fn drained(slots: &Slots<'_>, word: u64) -> Vec<(usize, u8)> {
        let mut all = Vec::new();
        slots
            .drain(word, |piece, at| {
                all.push((piece, at.into_bits()));
                Ok::<(), Infallible>(())
            })
            .unwrap_or_else(|never| match never {});
        all
    }

    #[test]
    fn every_slot_of_every_piece() {
        let word = AtomicU64::new(0);
        let array: Vec<_> = (0..ARRAY_WORDS).map(|_| AtomicU64::new(0)).collect();
        for (slots, pieces) in [(Slots::Nibbles(&word), 16), (Slots::Bytes(&array), 256)] {
            for bits in 0..16 {
                let at = Hidx::from_bits(bits);
                if slots.usable() & 1 << bits == 0 {
                    continue;
                }
                for piece in [0, 1, pieces / 2, pieces - 1] {
                    assert_eq!(slots.get(0, piece), None);
                    slots.set(piece, at);
                    assert_eq!(slots.get(0, piece), Some(at));
                }
                let all = drained(&slots, 0);
                assert_eq!(all, [0, 1, pieces / 2, pieces - 1].map(|piece| (piece, bits)));
                assert_eq!(drained(&slots, 0), []);
            }
        }
        let at = Hidx::from_bits(13);
        assert_eq!(Slots::InWord.get(Pages::K4.hashed_at(at), 0), Some(at));
        assert_eq!(drained(&Slots::InWord, Pages::K4.hashed_at(at)), [(0, 13)]);
    }
}
