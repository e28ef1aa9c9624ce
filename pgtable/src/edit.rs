//! Edits of leaves, one entry at a time: what a leaf is to say, and how that gets into its entry.

use arrayvec::ArrayVec;

use crate::access::{Attributes, Prot};
use crate::alike::{Alike, EIGHT, edit_alike, exchange_alike};
use crate::change::{BATCH, Broken, Done, Refusal, Verb};
use crate::format::{Bits, Entry, Format, Presence};
use crate::geometry::Position;
use crate::group::{Unit, group_of, has_groups, joined, own_output_of, unit_in};
use crate::record::Writers;
use crate::space::Mapping;
use crate::walk::LeafOf;
use crate::word::Word;

/// How often an edit is made anew because hardware changed the entry meanwhile. It has a few bits
/// to set there.
pub(crate) const TRIES: usize = 16;

/// What an edit makes of leaves.
pub(crate) trait Edit<F: Format> {
    /// The result depends on the attributes alone, not on where the leaf is and where it leads.
    const ALIKE: bool;

    /// What hardware recorded stays, whatever the new attributes say.
    const KEEPS_RECORDS: bool;

    /// The new attributes of a leaf.
    fn edit(&mut self, leaf: LeafOf<F>) -> F::Attributes;
}

/// Other attributes for all leaves.
pub(crate) struct Replace<T>(pub(crate) T);

impl<F: Format> Edit<F> for Replace<F::Attributes> {
    const ALIKE: bool = true;
    const KEEPS_RECORDS: bool = true;

    #[inline(always)]
    fn edit(&mut self, _: LeafOf<F>) -> F::Attributes {
        self.0
    }
}

/// Other rights for all leaves.
pub(crate) struct Rights(pub(crate) Prot);

impl<F: Format> Edit<F> for Rights {
    const ALIKE: bool = true;
    const KEEPS_RECORDS: bool = false;

    #[inline(always)]
    fn edit(&mut self, leaf: LeafOf<F>) -> F::Attributes {
        leaf.attributes.with_prot(self.0)
    }
}

/// The same rights but for writing.
pub(crate) struct ReadOnly;

impl<F: Format> Edit<F> for ReadOnly {
    const ALIKE: bool = true;
    const KEEPS_RECORDS: bool = false;

    #[inline(always)]
    fn edit(&mut self, leaf: LeafOf<F>) -> F::Attributes {
        leaf.attributes.with_prot(leaf.attributes.prot().with_write(false))
    }
}

/// Whatever a function says.
pub(crate) struct Each<E>(pub(crate) E);

impl<F: Format, E: FnMut(LeafOf<F>) -> F::Attributes> Edit<F> for Each<E> {
    const ALIKE: bool = false;
    const KEEPS_RECORDS: bool = false;

    #[inline(always)]
    fn edit(&mut self, leaf: LeafOf<F>) -> F::Attributes {
        (self.0)(leaf)
    }
}

/// An edit as a verb on runs of entries.
pub(crate) struct Modify<E> {
    pub(crate) edit: E,
    writers: Writers,
}

impl<E> Modify<E> {
    pub(crate) fn new(edit: E, writers: Writers) -> Self {
        Self { edit, writers }
    }

    /// What the leaf `word` at `at`, whose first byte has the offset `offset`, is to hold.
    #[inline(always)]
    pub(crate) fn new_word<F: Format>(
        &mut self,
        format: &F,
        bits: &Bits,
        word: u64,
        (at, offset): (Position, u64),
    ) -> Result<u64, Refusal>
    where
        E: Edit<F>,
    {
        let Entry::Leaf { output, attributes } = format.decode(word, at) else {
            return Err(Refusal::NoLeaf(word));
        };
        let (input, output) =
            (format.address(offset), own_output_of(format, output, offset, at, word));
        let leaf = Mapping { input, output, bytes: at.size(), shift: at.shift, attributes };
        let edited = self.edit.edit(leaf);
        if edited == attributes {
            return Ok(word);
        }
        let words = format.leaves(output, edited, at).map_err(|_| Refusal::Unencodable)?;
        Ok(if E::KEEPS_RECORDS { carried(bits, word, words.first) } else { words.first })
    }
}

impl<E> Modify<E> {
    /// Edits one entry, which holds `old`; whether that changes it.
    #[inline(always)]
    fn one<F: Format>(
        &mut self,
        format: &F,
        bits: &Bits,
        memory: &F::Word,
        old: u64,
        place: (Position, u64),
        alike: &mut Alike,
    ) -> Result<bool, Refusal>
    where
        E: Edit<F>,
    {
        let slot = Word::<F>::new(memory);
        let mut old = old;
        for _ in 0..TRIES {
            let new = self.new_word(format, bits, old, place)?;
            if (old ^ new) & !bits.in_place != 0 {
                return Err(Refusal::Break);
            }
            alike.learn::<F>(old, new);
            if new == old {
                return Ok(false);
            }
            match self.writers {
                Writers::Stopped => {
                    slot.store(new);
                    return Ok(true);
                }
                Writers::Running if slot.mark(old, new) => return Ok(true),
                Writers::Running => old = slot.load(),
            }
        }
        Err(Refusal::Contended)
    }
}

/// `new` with the records that `old` has, and without those that it has not, where both keep them.
#[inline(always)]
pub(crate) fn carried(bits: &Bits, old: u64, new: u64) -> u64 {
    [bits.accessed, bits.dirty].iter().fold(new, |new, record| {
        if !record.is_kept_in(old) {
            new
        } else if record.is_in(old) {
            record.made(new)
        } else {
            record.cleared_from(new)
        }
    })
}

/// Whether the entry in `memory` says that it belongs to a group.
#[inline(always)]
fn in_group<F: Format>(format: &F, memory: &F::Word, at: Position) -> bool {
    group_of(format, Word::<F>::new(memory).load(), at) > 0
}

impl<F: Format, E: Edit<F>> Verb<F> for Modify<E> {
    #[inline]
    fn run(&mut self, format: &F, run: &[F::Word], at: Position, offset: u64) -> Done {
        let bits = format.bits(at);
        let entries = Presence::at(format, at);
        let mut alike = Alike::new::<F, E>(format, at);
        let mut done = Done::default();
        if has_groups::<F>() && run.iter().any(|memory| in_group(format, memory, at)) {
            return self.run_units(format, run, at, offset);
        }
        let mut index = 0;
        while let Some(rest @ [_, ..]) = run.get(index..) {
            let before = alike.last;
            if let Some(last) = before {
                let (edited, changes) = match self.writers {
                    Writers::Stopped => edit_alike(rest, last),
                    Writers::Running => exchange_alike(rest, last),
                };
                if changes && edited > 0 {
                    done.stale.add(index, index + edited - 1);
                }
                done.present += edited;
                index += edited;
            }
            for memory in run.iter().skip(index).take(EIGHT) {
                if let Some(old) = entries.load(format, memory) {
                    let place = (at, offset + ((index as u64) << at.shift));
                    match self.one(format, &bits, memory, old, place, &mut alike) {
                        Ok(false) => {}
                        Ok(true) => done.stale.add(index, index),
                        Err(refusal) => return Done { stopped: Some((index, refusal)), ..done },
                    }
                    done.present += 1;
                }
                index += 1;
                // One is enough to learn from, where no whole cache line has to follow.
                if before.is_none() && alike.last.is_some() && self.writers == Writers::Running {
                    break;
                }
            }
        }
        done
    }

    fn take_out(
        &mut self,
        format: &F,
        run: &[F::Word],
        at: Position,
        offset: u64,
    ) -> Result<Broken, Refusal> {
        let (bits, entries) = (format.bits(at), Presence::at(format, at));
        let mut broken = Broken { entries: ArrayVec::new(), seen: 0 };
        while let Some(memory) = run.get(broken.seen) {
            if broken.entries.is_full() {
                break;
            }
            let Some(old) = entries.load(format, memory) else {
                broken.seen += 1;
                continue;
            };
            let unit = unit_in(format, (at, offset), run, broken.seen, old);
            if broken.entries.remaining_capacity() < unit.entries().len() {
                // A group goes as a whole.
                break;
            }
            let words = run.get(unit.entries()).unwrap_or_default();
            let mut old = ArrayVec::<u64, BATCH>::new();
            let new = self.edited(format, unit, (at, offset)).and_then(|new| {
                old.extend(words.iter().map(|memory| Word::<F>::new(memory).take()));
                // With what hardware recorded since the entries were judged.
                let word = match old.first() {
                    Some(&word) if unit.group == 0 => word,
                    _ => old.iter().fold(unit.word, |all, &word| joined(&bits, all, word)),
                };
                match word == unit.word {
                    true => Ok(new),
                    false => self.edited(format, Unit { word, ..unit }, (at, offset)),
                }
            });
            let new = match new {
                Ok(new) => new,
                Err(refusal) => {
                    for (memory, &old) in words.iter().zip(&old) {
                        Word::<F>::new(memory).store(old);
                    }
                    if broken.entries.is_empty() {
                        return Err(refusal);
                    }
                    // What was taken out before has to go back first.
                    break;
                }
            };
            for ((index, &old), n) in unit.entries().zip(&old).zip(0..) {
                let new = new.word(&bits, n, old);
                // There is room.
                let _ = broken.entries.try_push((index, old, new));
            }
            broken.seen = unit.entries().end;
        }
        match broken.entries.is_empty() {
            // A group of more entries than can be taken out at once.
            true if broken.seen < run.len() => Err(Refusal::TooLarge),
            _ => Ok(broken),
        }
    }
}
