//! Changing what leaves say, and nothing else about them: rights, memory type, software bits.
//!
//! # Protocol
//! Hardware may set accessed and dirty in an entry at any time. A new word is therefore stored by
//! compare-exchange on the word that was judged, and judged anew if that word has changed; where
//! nothing else writes ([`Writers::Stopped`]), it is stored.
//!
//! # Break-before-make
//! Some architectures forbid that certain bits of a live leaf change (AArch64: the memory type).
//! The format says which bits may ([`Bits::in_place`]). Where an edit changes others, the leaves
//! are made absent, their translations invalidated, and then the new leaves stored; an access in
//! between faults, and the handler of the fault tries again.

use core::sync::atomic::Ordering;

use arrayvec::ArrayVec;

use crate::access::{Attributes, Prot};
use crate::allocator::TableAllocator;
use crate::change::{BATCH, Broken, Done, Refusal, Verb};
use crate::error::RangeError;
use crate::format::{Bits, Entry, Format, Groups, Input, Output, Presence, usual_leaf};
use crate::gather::{Gather, Invalidate};
use crate::geometry::Position;
use crate::group::{Unit, group_of, has_groups, joined, own_output_of, unit_in, unrecorded};
use crate::memory::TableMemory;
use crate::record::Writers;
use crate::shortcut::Pattern;
use crate::space::Mapping;
use crate::table::PageTable;
use crate::table_word::TableWord;
use crate::walk::LeafOf;
use crate::word::{Word, swap};

/// How often an edit is made anew because hardware changed the entry meanwhile. It has a few bits
/// to set there.
const TRIES: usize = 16;

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
    edit: E,
    writers: Writers,
}

impl<E> Modify<E> {
    pub(crate) fn new(edit: E, writers: Writers) -> Self {
        Self { edit, writers }
    }

    /// What the leaf `word` at `at`, whose first byte has the offset `offset`, is to hold.
    #[inline(always)]
    fn new_word<F: Format>(
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

/// `new` with the records that `old` has, and without those that it has not, where both keep them.
#[inline(always)]
fn carried(bits: &Bits, old: u64, new: u64) -> u64 {
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

/// The last edit of a usual leaf, for the leaves that differ from it in their address only. All in
/// memory order.
#[derive(Clone, Copy)]
struct Last {
    old: u64,
    /// The bits that the edit changed.
    changed: u64,
    /// The bits by which such leaves may not differ.
    compared: u64,
}

impl Last {
    #[inline(always)]
    fn differs(self, word: u64) -> u64 {
        (word ^ self.old) & self.compared
    }
}

/// Whether the entry in `memory` says that it belongs to a group.
#[inline(always)]
fn in_group<F: Format>(format: &F, memory: &F::Word, at: Position) -> bool {
    group_of(format, Word::<F>::new(memory).load(), at) > 0
}

/// Entries that are dealt with in one turn: a cache line. (The compiler does not unroll loops of
/// atomic accesses.)
const EIGHT: usize = 8;

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
            if let Some(last) = alike.last {
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

/// What the entries of a leaf are to hold: one entry, or those of a group.
#[derive(Clone, Copy)]
struct Edited {
    first: u64,
    /// The difference between neighbouring entries.
    step: u64,
    /// What hardware recorded in each entry stays with it.
    keeps_records: bool,
}

impl Edited {
    /// What the `n`th entry is to hold, which holds `old`.
    fn word(self, bits: &Bits, n: u64, old: u64) -> u64 {
        let new = self.first.wrapping_add(self.step.wrapping_mul(n));
        if self.keeps_records { carried(bits, old, new) } else { new }
    }
}

/// Leaf by leaf, for formats with groups, and where entries are taken out.
impl<E> Modify<E> {
    /// What the entries of `unit` are to hold, which stands at `at` among entries of which the
    /// first covers `base`.
    fn edited<F: Format>(
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
    fn run_units<F: Format>(
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

/// What is known of leaves that are edited alike.
struct Alike {
    last: Option<Last>,
    usual: Pattern,
    /// The bits of the address in usual leaves.
    address: u64,
}

impl Alike {
    #[inline(always)]
    fn new<F: Format, E: Edit<F>>(format: &F, at: Position) -> Self {
        let usual = if E::ALIKE { usual_leaf(format, at) } else { Pattern::NONE };
        let address = format.shortcuts(None).map_or(0, |all| all.step(0).field().mask);
        Self { last: None, usual, address }
    }

    /// The edit of `old` made `new`.
    #[inline(always)]
    fn learn<F: Format>(&mut self, old: u64, new: u64) {
        if self.usual.fits(old) {
            let swap = swap::<F>;
            self.last = Some(Last {
                old: swap(old),
                changed: swap(old ^ new),
                compared: swap(!self.address | self.usual.compared),
            });
        }
    }
}

/// Edits the leaves at the beginning of `run`, which nothing else writes, cache line by cache line
/// as far as they are all like the last. Returns how many, and whether they change.
// Not inlined: there it is short of registers.
#[inline(never)]
fn edit_alike<W: TableWord>(run: &[W], last: Last) -> (usize, bool) {
    let mut edited = 0;
    for eight in run.chunks_exact(EIGHT) {
        let Ok(eight) = <&[W; EIGHT]>::try_from(eight) else { break };
        let old: [u64; EIGHT] =
            core::array::from_fn(|index| eight[index].load_raw(Ordering::Relaxed));
        if old.iter().fold(0, |odd, &word| odd | last.differs(word)) != 0 {
            break;
        }
        if last.changed != 0 {
            for (memory, old) in eight.iter().zip(old) {
                memory.store_raw(old ^ last.changed, Ordering::Relaxed);
            }
        }
        edited += EIGHT;
    }
    (edited, last.changed != 0)
}

/// The same beside hardware that records: entry by entry, as far as none changes meanwhile.
#[inline(always)]
fn exchange_alike<W: TableWord>(run: &[W], last: Last) -> (usize, bool) {
    let exchanged = |memory: &W| {
        let old = memory.load_raw(Ordering::Relaxed);
        let new = old ^ last.changed;
        last.differs(old) == 0 && (new == old || memory.exchange_raw(old, new))
    };
    let edited = run.iter().position(|memory| !exchanged(memory)).unwrap_or(run.len());
    (edited, last.changed != 0)
}

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// Gives each leaf in the `bytes` bytes from `input` on the attributes that `edit` says;
    /// returns how many bytes are mapped there. Leaves that reach beyond the range are split. Holes
    /// are no error.
    ///
    /// `edit` is called again for a leaf that hardware changed meanwhile.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // Every second page becomes memory that is not cached.
    /// let edit = |page: LeafOf<Sv>| match page.input.get() & 0x1000 {
    ///     0 => page.attributes.with_memory(Memory::Uncached),
    ///     _ => page.attributes,
    /// };
    /// assert_eq!(tree.modify(Gva::new(0), 0x4000, edit, &mut gather)?, 0x4000);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`unmap`](Self::unmap), [`Error::Unencodable`](crate::Error::Unencodable), and
    /// [`Error::Contended`](crate::Error::Contended) for a leaf that
    /// keeps changing. Everything before the error's address is modified.
    pub fn modify<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        edit: impl FnMut(LeafOf<F>) -> F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Each(edit), Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Gives whatever is mapped in the `bytes` bytes from `input` on these rights, and changes
    /// nothing else: memory type, software bits and what hardware recorded stay. Returns how many
    /// bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.protect(Gva::new(0), 0x4000, Prot::R, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// assert!(tree.translate(Gva::new(0x4000), Access::WRITE).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        self.protect_beside(input, bytes, prot, Writers::Running, gather)
    }

    /// The same where it is known whether anything else sets bits in the entries meanwhile: if
    /// nothing does, entries are stored, not exchanged, which is several times as fast.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // The vCPUs are stopped.
    /// tree.protect_beside(Gva::new(0), 0x4000, Prot::R, Writers::Stopped, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn protect_beside<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        prot: Prot,
        writers: Writers,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Rights(prot), writers);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Takes the right to write from whatever is mapped in the `bytes` bytes from `input` on, and
    /// changes nothing else. Returns how many bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// tree.write_protect(Gva::new(0), 0x20_0000, &mut gather)?;
    /// assert!(tree.translate(Gva::new(0x3000), Access::WRITE).is_err());
    /// assert!(tree.translate(Gva::new(0x3000), Access::READ).is_ok());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn write_protect<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(ReadOnly, Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }

    /// Replaces all attributes of whatever is mapped in the `bytes` bytes from `input` on: rights,
    /// memory type and software bits. What hardware recorded (accessed, dirty) stays; where no
    /// record is kept in the old leaf or the new one (AArch64: dirty, in writable pages without
    /// DBM), `attributes` say. Returns how many bytes are mapped there.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// let registers = SvAttributes::from(Prot::RW).with_memory(Memory::Device);
    /// tree.set_attributes(Gva::new(0), 0x1000, registers, &mut gather)?;
    /// let found = tree.translate(Gva::new(0), Access::READ)?;
    /// assert_eq!(found.attributes.memory(), Memory::Device);
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`modify`](Self::modify).
    pub fn set_attributes<I: Invalidate<F::Stage>>(
        &mut self,
        input: Input<F>,
        bytes: u64,
        attributes: F::Attributes,
        gather: &mut Gather<'_, F::Stage, I>,
    ) -> Result<u64, RangeError<Input<F>>> {
        let verb = Modify::new(Replace(attributes), Writers::Running);
        self.alone(|trail| self.change_range(trail, (input, bytes), verb, gather))
    }
}
