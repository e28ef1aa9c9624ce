//! Translation of many addresses at once, so that their cache misses overlap.
//!
//! A walk is a chain of dependent loads, and the last one misses. Lanes of a chunk therefore go
//! down level by level side by side, and two chunks are in flight: while the leaf entries of one
//! are on their way into the cache, the next chunk is located. Where all lanes of a chunk go
//! through one entry, it is read once for all. With feature `prefetch` the leaf entries are asked
//! for by prefetch instructions, where the host's architecture has any.

use core::sync::atomic::AtomicU64;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::format::{Format, Input, Output};
use crate::geometry::{Level, Position};
use crate::memory::ReadMemory;
use crate::walk::Walker;
use crate::word::Word;

/// Addresses per chunk: enough that the misses of one fill the time that the next one takes to
/// locate.
const LANES: usize = 32;

/// The leaf entries of a chunk.
struct Chunk<'m> {
    /// The entry; `None` for a lane that has to be walked alone (a larger leaf, a hole, anything
    /// odd).
    entries: [Option<&'m AtomicU64>; LANES],
    offsets: [u64; LANES],
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// Translates `access` at each of `inputs` into the `outputs` of the same index; returns how
    /// many translated.
    ///
    /// An output is `None` where the access faults; [`translate`](Self::translate) says why. Inputs
    /// beyond the length of `outputs` are left out. Several times as fast as one call per address
    /// where the tables are larger than the caches; no faster where they are hot.
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
    fn locate<'m>(&'m self, inputs: &[Input<F>], access: Access, chunk: &mut Chunk<'m>) {
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
        let step = |table: u64, level: u8, offset: u64| {
            let entry = table.wrapping_add(format.entry_offset(level, offset));
            let word = memory.load(<Output<F> as Address>::new(entry)).ok()?;
            let word = F::BYTE_ORDER.swap(word);
            format.quick_table(
                word,
                Position { level: Level(level), shift: format.shift(level) },
                access,
            )
        };
        let (mut level, mut top) = (format.geometry().root().0, Some(self.root().get()));
        while level > 0 && apart >> format.shift(level) == 0 {
            top = top.and_then(|table| step(table, level, first));
            level -= 1;
        }
        let Some(top) = top else {
            entries.fill(None);
            return;
        };
        let mut tables = [top; LANES];
        for level in (1..=level).rev() {
            for (lane, (table, &offset)) in tables.iter_mut().zip(offsets).enumerate() {
                match step(*table, level, offset) {
                    Some(next) => *table = next,
                    None => odd |= 1 << lane,
                }
            }
        }
        for (lane, ((entry, table), &offset)) in
            entries.iter_mut().zip(tables).zip(offsets).enumerate()
        {
            let address =
                <Output<F> as Address>::new(table.wrapping_add(format.entry_offset(0, offset)));
            let here = odd & 1 << lane == 0;
            // Words that memory gives by value only are read alone.
            let word = memory.in_place(address, 1).filter(|_| here).and_then(<[_]>::first);
            *entry = word.inspect(|memory| prefetch(memory));
        }
    }

    /// Reads the leaf entries of a chunk that was located before.
    #[inline]
    fn read(
        &self,
        chunk: &Chunk<'_>,
        inputs: &[Input<F>],
        access: Access,
        outputs: &mut [Option<Output<F>>],
    ) -> usize {
        let format = self.format();
        let within = low_bits(format.shift(0));
        let mut translated = 0;
        let lanes = chunk.entries.iter().zip(&chunk.offsets);
        for ((&input, output), (&entry, &offset)) in inputs.iter().zip(outputs).zip(lanes) {
            let quickly =
                entry.and_then(|memory| format.quick_page(Word::<F>::new(memory).load(), access));
            *output = match quickly {
                Some((page, _)) => {
                    Some(<Output<F> as Address>::new(page.get().wrapping_add(offset & within)))
                }
                None => self.translate_alone(input, access),
            };
            translated += usize::from(output.is_some());
        }
        translated
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
fn prefetch(memory: &AtomicU64) {
    prefetch_index::prefetch_index(core::slice::from_ref(memory), 0);
}

#[cfg(not(feature = "prefetch"))]
#[inline(always)]
fn prefetch(_: &AtomicU64) {}
