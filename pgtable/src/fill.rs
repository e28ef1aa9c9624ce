//! Filling entries of one table with neighbouring leaves.

use crate::address::Address;
use crate::allocator::TableAllocator;
use crate::descent::Node;
use crate::error::Error;
use crate::format::{Format, Groups, Output, Presence, Words};
use crate::geometry::Position;
use crate::group::has_groups;
use crate::memory::TableMemory;
use crate::table::PageTable;
use crate::word::{Word, load_raw};

impl<F, M, A> PageTable<F, M, A>
where
    F: Format,
    M: TableMemory<Output<F>>,
    A: TableAllocator<Output<F>>,
{
    /// The words of leaves of `node`'s table, in groups of `2^group`, the first of which maps
    /// `output`.
    pub(crate) fn encode(
        &self,
        output: u64,
        attributes: F::Attributes,
        (node, group): (Node, u8),
    ) -> Result<Words, Error> {
        let (format, at) = (&self.format, node.position());
        let output = <Output<F> as Address>::new(output);
        Ok(match group {
            1.. if has_groups::<F>() => format.group_leaves(output, attributes, at, group)?,
            _ => format.leaves(output, attributes, at)?,
        })
    }

    /// Stores leaves into the entries of `run`, whatever they hold: the first maps `output` and is
    /// the first of `words`, and each further one maps what follows. They stand in `node`'s table,
    /// in groups of `2^group`.
    pub(crate) fn fill(
        &self,
        run: &[F::Word],
        words: Words,
        output: u64,
        attributes: F::Attributes,
        (node, group): (Node, u8),
    ) -> Result<(), Error> {
        let equal = per_word::<F>(group);
        self.pieces(run, words, output, attributes, (node, group), |here, words| {
            if equal > 1 {
                for (here, n) in here.chunks(equal as usize).zip(0..words.count) {
                    store::<F>(here, Words { step: 0, ..words.skip(n) });
                }
            } else {
                store::<F>(here, words);
            }
            here.len()
        })
        .map(|_| ())
    }

    /// The same, ungrouped, up to the first entry that is taken; returns how many.
    pub(crate) fn fill_free(
        &self,
        run: &[F::Word],
        words: Words,
        output: u64,
        attributes: F::Attributes,
        node: Node,
        free: Free,
    ) -> Result<usize, Error> {
        self.pieces(run, words, output, attributes, (node, 0), |here, words| {
            store_free(&self.format, here, words, free)
        })
    }

    /// Does `each` to the pieces of `run` whose leaves have neighbouring words, until one is not
    /// done to its end; returns how many entries are done.
    #[inline(always)]
    fn pieces(
        &self,
        run: &[F::Word],
        words: Words,
        output: u64,
        attributes: F::Attributes,
        (node, group): (Node, u8),
        each: impl Fn(&[F::Word], Words) -> usize,
    ) -> Result<usize, Error> {
        let (mut rest, mut words, mut output, mut done) = (run, words, output, 0);
        let equal = per_word::<F>(group);
        loop {
            let count = words.count.saturating_mul(equal).clamp(1, rest.len().max(1) as u64);
            let (here, after) = rest.split_at((count as usize).min(rest.len()));
            let here_done = each(here, words);
            done += here_done;
            if after.is_empty() || here_done < here.len() {
                return Ok(done);
            }
            output = output.checked_add(count << node.shift).ok_or(Error::Range)?;
            (rest, words) = (after, self.encode(output, attributes, (node, group))?);
        }
    }
}

/// How many neighbouring entries in groups of `2^group` are equal.
#[inline(always)]
pub(crate) fn per_word<F: Format>(group: u8) -> u64 {
    if matches!(F::GROUPS, Groups::Alike) { 1 << group } else { 1 }
}

/// Which entries of one place a leaf may be stored into.
#[derive(Clone, Copy)]
pub(crate) struct Free {
    entries: Presence,
    /// Entries may be annotated: then what is not zero is taken.
    annotated: bool,
}

impl Free {
    pub(crate) fn at<F: Format>(format: &F, at: Position, annotated: bool) -> Self {
        Self { entries: Presence::at(format, at), annotated }
    }

    #[inline(always)]
    pub(crate) fn is<F: Format>(self, format: &F, memory: &F::Word) -> bool {
        if self.annotated { load_raw(memory) == 0 } else { self.entries.is_absent(format, memory) }
    }

    /// Whether all of these are free, as far as that is known by one look at all of them.
    #[inline(always)]
    fn are<F: Format>(self, eight: &[F::Word]) -> bool {
        let any = eight.iter().fold(0, |any, memory| any | load_raw(memory));
        if self.annotated { any == 0 } else { self.entries.none_of(any) }
    }
}

/// Stores the first of `words` into the entries of `run`.
fn store<F: Format>(run: &[F::Word], words: Words) {
    let Words { first: mut word, step, .. } = words;
    let mut eights = run.chunks_exact(8);
    for eight in &mut eights {
        word = store_eight::<F>(eight, word, step);
    }
    store_each::<F>(eights.remainder(), word, step);
}

/// The same as far as the entries are free; returns how many.
fn store_free<F: Format>(format: &F, run: &[F::Word], words: Words, free: Free) -> usize {
    let Words { first: mut word, step, .. } = words;
    let (mut done, mut eights) = (0, run.chunks_exact(8));
    for eight in &mut eights {
        if !free.are::<F>(eight) {
            break;
        }
        word = store_eight::<F>(eight, word, step);
        done += 8;
    }
    let rest = run.get(done..).unwrap_or_default();
    let taken = rest.iter().position(|memory| !free.is(format, memory)).unwrap_or(rest.len());
    store_each::<F>(&rest[..taken], word, step);
    done + taken
}

/// Eight stores at once: the compiler does not unroll loops of atomic accesses. Returns the word
/// after the last.
#[inline(always)]
fn store_eight<F: Format>(eight: &[F::Word], word: u64, step: u64) -> u64 {
    for (index, memory) in (0..).zip(eight) {
        Word::<F>::new(memory).store(word.wrapping_add(step.wrapping_mul(index)));
    }
    word.wrapping_add(step.wrapping_mul(8))
}

fn store_each<F: Format>(run: &[F::Word], mut word: u64, step: u64) {
    for memory in run {
        Word::<F>::new(memory).store(word);
        word = word.wrapping_add(step);
    }
}
