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

use core::sync::atomic::{AtomicU64, Ordering};

use arrayvec::ArrayVec;

use crate::access::{Attributes, Prot};
use crate::allocator::TableAllocator;
use crate::change::{Broken, Done, Refusal, Verb};
use crate::error::RangeError;
use crate::format::{Bits, Entry, Format, Input, Output, Presence, Record, usual_leaf};
use crate::gather::{Gather, Invalidate};
use crate::geometry::Position;
use crate::memory::TableMemory;
use crate::record::Writers;
use crate::shortcut::Pattern;
use crate::space::Mapping;
use crate::table::PageTable;
use crate::walk::LeafOf;
use crate::word::Word;

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
        let input = format.address(offset);
        let leaf = Mapping { input, output, bytes: at.size(), shift: at.shift, attributes };
        let edited = self.edit.edit(leaf);
        if edited == attributes {
            return Ok(word);
        }
        let words = format.leaves(output, edited, at).map_err(|_| Refusal::Unencodable)?;
        Ok(if E::KEEPS_RECORDS { carried(bits, word, words.first) } else { words.first })
    }
}

/// `new` with the records that `old` has, and without those that it has not, where hardware keeps
/// them in both.
#[inline(always)]
fn carried(bits: &Bits, old: u64, new: u64) -> u64 {
    [bits.accessed, bits.dirty].iter().fold(new, |new, record| {
        if record.is_kept_in(old) && record.is_kept_in(new) {
            new & !record.mask | old & record.mask
        } else {
            new
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

/// Entries that are dealt with in one turn: a cache line. (The compiler does not unroll loops of
/// atomic accesses.)
const EIGHT: usize = 8;

impl<F: Format, E: Edit<F>> Verb<F> for Modify<E> {
    #[inline]
    fn run(&mut self, format: &F, run: &[AtomicU64], at: Position, offset: u64) -> Done {
        let bits = format.bits(at);
        let entries = Presence::at(format, at);
        let mut alike = Alike::new::<F, E>(format, at);
        let mut done = Done::default();
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
        run: &[AtomicU64],
        at: Position,
        offset: u64,
    ) -> Result<Broken, Refusal> {
        let (bits, entries) = (format.bits(at), Presence::at(format, at));
        let mut broken = Broken { entries: ArrayVec::new(), seen: 0 };
        for (index, memory) in run.iter().enumerate() {
            if broken.entries.is_full() {
                break;
            }
            if let Some(old) = entries.load(format, memory) {
                let place = (at, offset + ((index as u64) << at.shift));
                let new = match self.new_word(format, &bits, old, place) {
                    Ok(new) => new,
                    // What was taken out before has to go back first.
                    Err(_) if !broken.entries.is_empty() => break,
                    Err(refusal) => return Err(refusal),
                };
                let taken = Word::<F>::new(memory).take();
                // What hardware recorded since the entry was judged.
                let late = |new, record: Record| {
                    if record.is_in(taken) && !record.is_in(old) { record.made(new) } else { new }
                };
                let new = late(late(new, bits.accessed), bits.dirty);
                // The array is not full.
                let _ = broken.entries.try_push((index, taken, new));
            }
            broken.seen = index + 1;
        }
        Ok(broken)
    }
}

impl<E> Modify<E> {
    /// Edits one entry, which holds `old`; whether that changes it.
    #[inline(always)]
    fn one<F: Format>(
        &mut self,
        format: &F,
        bits: &Bits,
        memory: &AtomicU64,
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
            let swap = |word| F::BYTE_ORDER.swap(word);
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
fn edit_alike(run: &[AtomicU64], last: Last) -> (usize, bool) {
    let mut edited = 0;
    for eight in run.chunks_exact(EIGHT) {
        let Ok(eight) = <&[AtomicU64; EIGHT]>::try_from(eight) else { break };
        let old: [u64; EIGHT] = core::array::from_fn(|index| eight[index].load(Ordering::Relaxed));
        if old.iter().fold(0, |odd, &word| odd | last.differs(word)) != 0 {
            break;
        }
        if last.changed != 0 {
            for (memory, old) in eight.iter().zip(old) {
                memory.store(old ^ last.changed, Ordering::Relaxed);
            }
        }
        edited += EIGHT;
    }
    (edited, last.changed != 0)
}

/// The same beside hardware that records: entry by entry, as far as none changes meanwhile.
#[inline(always)]
fn exchange_alike(run: &[AtomicU64], last: Last) -> (usize, bool) {
    let exchanged = |memory: &AtomicU64| {
        let old = memory.load(Ordering::Relaxed);
        let (new, order) = (old ^ last.changed, Ordering::Relaxed);
        last.differs(old) == 0
            && (new == old || memory.compare_exchange(old, new, Ordering::AcqRel, order).is_ok())
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
    /// memory type and software bits. What hardware recorded (accessed, dirty) stays; where it
    /// keeps no record in the old leaf or the new one (AArch64: dirty, in pages that may not be
    /// written), `attributes` say. Returns how many bytes are mapped there.
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
