//! Translation of many addresses at once, so that their cache misses overlap.
//!
//! A walk is a chain of dependent loads, and the last one misses. Lanes of a chunk therefore go
//! down level by level side by side, and two chunks are in flight: while the leaf entries of one
//! are on their way into the cache, the next chunk is located. Where all lanes of a chunk go
//! through one entry, it is read once for all. With feature `prefetch` the leaf entries are asked
//! for by prefetch instructions, where the host's architecture has any.

use core::convert::Infallible;
use core::marker::PhantomData;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::descent::{ByValue, Recogniser, down};
use crate::format::{Format, Input, Output};
use crate::memory::ReadMemory;
use crate::quick::{below, to_table};
use crate::shortcut::{Shortcuts, Step};
use crate::table_word::TableWord;
use crate::walk::Walker;
use crate::word::Word;

/// Addresses per chunk: enough that the misses of one fill the time that the next one takes to
/// locate.
const LANES: usize = 32;

/// The leaf entries of a chunk.
struct Chunk<'m, W> {
    /// The entry; `None` for a lane that has to be walked alone (a larger leaf, a hole, anything
    /// odd).
    entries: [Option<&'m W>; LANES],
    offsets: [u64; LANES],
}

/// Brings the lanes of a chunk down side by side. A lane that meets an unusual entry is marked as
/// odd and walks along wherever it is.
struct Lanes<'c, F, M> {
    shortcuts: &'c Shortcuts,
    memory: &'c M,
    offsets: &'c [u64],
    odd: u32,
    format: PhantomData<F>,
}

impl<F: Format, M: ReadMemory<Output<F>>> Lanes<'_, F, M> {
    /// From `tables` of `level` to tables of the last level; with the lanes that are odd.
    #[inline(always)]
    fn descend(mut self, level: u8, tables: [u64; LANES]) -> ([u64; LANES], u32) {
        let Ok(tables) = down(&mut self, level, 0, tables);
        (tables, self.odd)
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Recogniser for Lanes<'_, F, M> {
    type Table = [u64; LANES];
    type End = Infallible;

    #[inline(always)]
    fn below(&mut self, level: u8, mut tables: [u64; LANES]) -> Result<[u64; LANES], Infallible> {
        let step = self.shortcuts.step(level);
        for (lane, (table, &offset)) in tables.iter_mut().zip(self.offsets).enumerate() {
            match below::<F, _>(step, ByValue(self.memory), *table, offset) {
                Some(next) => *table = next,
                None => self.odd |= 1 << lane,
            }
        }
        Ok(tables)
    }
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// Translates `access` at each of `inputs` into the `outputs` of the same index; returns how
    /// many translated.
    ///
    /// An output is `None` where the access faults; [`translate`](Self::translate) says why. Inputs
    /// beyond the length of `outputs` are left out. Several times as fast as one call per address
    /// where the tables are larger than the caches; no faster where they are hot.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// # let walker = tree.walker();
    /// let addresses: Vec<_> = (0..100).map(|page| Gva::new(page << 12)).collect();
    /// let mut outputs = vec![None; addresses.len()];
    /// assert_eq!(walker.translate_batch(&addresses, Access::READ, &mut outputs), 100);
    /// assert_eq!(outputs[7], Some(Gpa::new(0x80_7000)));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn translate_batch(
        &self,
        inputs: &[Input<F>],
        access: Access,
        outputs: &mut [Option<Output<F>>],
    ) -> usize {
        let count = inputs.len().min(outputs.len());
        let (inputs, outputs) = (&inputs[..count], &mut outputs[..count]);
        let mut chunks = [const { Chunk { entries: [None; LANES], offsets: [0; LANES] } }; 2];
        let mut ahead = inputs.chunks(LANES);
        if let Some(first) = ahead.next() {
            self.locate(first, access, &mut chunks[0]);
        }
        let mut translated = 0;
        for (turn, (inputs, outputs)) in
            inputs.chunks(LANES).zip(outputs.chunks_mut(LANES)).enumerate()
        {
            // The next chunk's misses are under way before this one's entries are read.
            if let Some(next) = ahead.next() {
                self.locate(next, access, &mut chunks[(turn + 1) % 2]);
            }
            translated += self.read(&chunks[turn % 2], inputs, access, outputs);
        }
        translated
    }

    /// Brings every lane down to its last-level table, level by level: all lanes stand at the same
    /// level, so only the address of a table is carried from one to the next. A lane that is odd
    /// walks along wherever it is, and is walked again by itself.
    #[inline]
    fn locate<'m>(&'m self, inputs: &[Input<F>], access: Access, chunk: &mut Chunk<'m, F::Word>) {
        let (format, memory) = (self.format(), self.memory());
        let lanes = inputs.len().min(LANES);
        let mut odd = 0u32;
        for (lane, (&input, offset)) in inputs.iter().zip(&mut chunk.offsets).enumerate() {
            match format.offset(input) {
                Some(of_input) => *offset = of_input,
                None => (*offset, odd) = (0, odd | 1 << lane),
            }
        }
        let (offsets, entries) = (&chunk.offsets[..lanes], &mut chunk.entries[..lanes]);
        let first = offsets.first().copied().unwrap_or_default();
        let apart = offsets.iter().fold(0, |apart, offset| apart | (offset ^ first));
        let Some(shortcuts) = format.shortcuts(Some(access)) else {
            entries.fill(None);
            return;
        };
        let root = shortcuts.root();
        let is_one = |&level: &u8| apart >> shortcuts.step(level).shift_of::<F>() == 0;
        // As far as one entry leads all lanes, it is read once.
        let level = root - (1..=root).rev().take_while(is_one).count() as u8;
        let from = (root, self.root().get());
        let Ok(top) = to_table::<F, _>(&shortcuts, ByValue(memory), from, level, first) else {
            entries.fill(None);
            return;
        };
        let lanes =
            Lanes::<F, M> { shortcuts: &shortcuts, memory, offsets, odd, format: PhantomData };
        let (tables, odd) = lanes.descend(level, [top; LANES]);
        let page = shortcuts.step(0);
        for (lane, ((entry, &table), &offset)) in
            entries.iter_mut().zip(&tables).zip(offsets).enumerate()
        {
            *entry = None;
            if odd & 1 << lane == 0 {
                let address = <Output<F> as Address>::new(page.entry(table, offset));
                // Words that memory gives by value only are read alone.
                let word = F::Word::in_place(memory, address, 1).and_then(<[_]>::first);
                *entry = word.inspect(|&memory| prefetch(memory));
            }
        }
    }

    /// Reads the leaf entries of a chunk that was located before: as many as there are outputs.
    #[inline]
    fn read(
        &self,
        chunk: &Chunk<'_, F::Word>,
        inputs: &[Input<F>],
        access: Access,
        outputs: &mut [Option<Output<F>>],
    ) -> usize {
        let page = self.format().shortcuts(Some(access)).map_or(Step::NONE, |all| all.step(0));
        let within = low_bits(page.shift_of::<F>());
        let mut missing = 0;
        let lanes = chunk.entries.iter().zip(&chunk.offsets);
        for ((&input, output), (&entry, &offset)) in inputs.iter().zip(outputs).zip(lanes) {
            let usual = entry.and_then(|memory| page.address(Word::<F>::new(memory).load()));
            *output = match usual {
                Some(page) => Some(<Output<F> as Address>::new(page.wrapping_add(offset & within))),
                None => {
                    let alone = self.translate_alone(input, access);
                    missing += usize::from(alone.is_none());
                    alone
                }
            };
        }
        inputs.len() - missing
    }

    /// A lane that is odd.
    #[cold]
    #[inline(never)]
    fn translate_alone(&self, input: Input<F>, access: Access) -> Option<Output<F>> {
        self.translate(input, access).ok().map(|translation| translation.output)
    }
}

#[cfg(feature = "prefetch")]
#[inline(always)]
fn prefetch<W: TableWord>(memory: &W) {
    prefetch_index::prefetch_index(core::slice::from_ref(memory), 0);
}

#[cfg(not(feature = "prefetch"))]
#[inline(always)]
fn prefetch<W: TableWord>(_: &W) {}
