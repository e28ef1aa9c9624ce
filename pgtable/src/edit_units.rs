//! Edits of leaves that are groups of entries.

use crate::change::{Done, Refusal};
use crate::edit::{Edit, Modify, TRIES, carried};
use crate::format::{Bits, Format, Groups, Presence};
use crate::geometry::Position;
use crate::group::{Unit, joined, unit_in, unrecorded};
use crate::word::Word;

/// What the entries of a leaf are to hold: one entry, or those of a group.
#[derive(Clone, Copy)]
pub(crate) struct Edited {
    first: u64,
    /// The difference between neighbouring entries.
    step: u64,
    /// What hardware recorded in each entry stays with it.
    keeps_records: bool,
}

impl Edited {
    /// What the `n`th entry is to hold, which holds `old`.
    pub(crate) fn word(self, bits: &Bits, n: u64, old: u64) -> u64 {
        let new = self.first.wrapping_add(self.step.wrapping_mul(n));
        if self.keeps_records { carried(bits, old, new) } else { new }
    }
}

/// Leaf by leaf, for formats with groups, and where entries are taken out.
impl<E> Modify<E> {
    /// What the entries of `unit` are to hold, which stands at `at` among entries of which the
    /// first covers `base`.
    pub(crate) fn edited<F: Format>(
        &mut self,
        format: &F,
        unit: Unit,
        (at, base): (Position, u64),
    ) -> Result<Edited, Refusal>
    where
        E: Edit<F>,
    {
        let bits = format.bits(at);
        if unit.group == 0 {
            let place = (at, base + ((unit.first as u64) << at.shift));
            let first = self.new_word(format, &bits, unit.word, place)?;
            return Ok(Edited { first, step: 0, keeps_records: false });
        }
        let leaf = unit.leaf(format, at, base).ok_or(Refusal::NoLeaf(unit.word))?;
        let edited = self.edit.edit(leaf);
        let words = format
            .group_leaves(leaf.output, edited, at, unit.group)
            .map_err(|_| Refusal::Unencodable)?;
        let step = if matches!(F::GROUPS, Groups::Apart) { words.step } else { 0 };
        // Attributes that stay say what hardware recorded in any entry.
        let keeps_records = E::KEEPS_RECORDS || edited == leaf.attributes;
        Ok(Edited { first: words.first, step, keeps_records })
    }

    /// [`Verb::run`], a leaf at a time.
    pub(crate) fn run_units<F: Format>(
        &mut self,
        format: &F,
        run: &[F::Word],
        at: Position,
        offset: u64,
    ) -> Done
    where
        E: Edit<F>,
    {
        let (bits, entries) = (format.bits(at), Presence::at(format, at));
        let mut done = Done::default();
        let mut index = 0;
        while let Some(memory) = run.get(index) {
            let Some(word) = entries.load(format, memory) else {
                index += 1;
                continue;
            };
            let unit = unit_in(format, (at, offset), run, index, word);
            match self.edit_unit(format, &bits, run, unit, (at, offset)) {
                Ok(changed) if changed => done.stale.add(unit.first, unit.entries().end - 1),
                Ok(_) => {}
                Err(refusal) => return Done { stopped: Some((index, refusal)), ..done },
            }
            done.present += unit.entries().len();
            index = unit.entries().end;
        }
        done
    }

    /// Edits the entries of `unit` in place; whether that changes any. If one of them must not
    /// change so, none is changed.
    fn edit_unit<F: Format>(
        &mut self,
        format: &F,
        bits: &Bits,
        run: &[F::Word],
        unit: Unit,
        place: (Position, u64),
    ) -> Result<bool, Refusal>
    where
        E: Edit<F>,
    {
        let new = self.edited(format, unit, place)?;
        let words = run.get(unit.entries()).unwrap_or_default();
        let mut judged = 0;
        for (memory, n) in words.iter().zip(0..) {
            let old = Word::<F>::new(memory).load();
            judged |= old ^ new.word(bits, n, old);
        }
        if judged & !bits.in_place != 0 {
            return Err(Refusal::Break);
        }
        let mut changed = false;
        for (memory, n) in words.iter().zip(0..) {
            changed |= self.edit_entry(format, bits, memory, (unit, n, new), place)?;
        }
        Ok(changed)
    }

    /// Edits the `n`th entry of `unit`, which is to hold what `new` says unless hardware changes it
    /// meanwhile; whether that changes it.
    fn edit_entry<F: Format>(
        &mut self,
        format: &F,
        bits: &Bits,
        memory: &F::Word,
        (unit, n, new): (Unit, u64, Edited),
        place: (Position, u64),
    ) -> Result<bool, Refusal>
    where
        E: Edit<F>,
    {
        let (slot, mut new) = (Word::<F>::new(memory), new);
        for _ in 0..TRIES {
            let old = slot.load();
            // What hardware recorded after the leaf was judged has to be judged too.
            let expected = unit.word.wrapping_add(new.step.wrapping_mul(n));
            let late = if unit.group == 0 { old } else { joined(bits, unit.word, old) };
            if unit.group > 0 && unrecorded(bits, old) != unrecorded(bits, expected) {
                return Err(Refusal::Contended);
            }
            if late != unit.word {
                new = self.edited(format, Unit { word: late, ..unit }, place)?;
            }
            let word = new.word(bits, n, old);
            if (old ^ word) & !bits.in_place != 0 {
                return Err(Refusal::Break);
            }
            if word == old || slot.mark(old, word) {
                return Ok(word != old);
            }
        }
        Err(Refusal::Contended)
    }
}
