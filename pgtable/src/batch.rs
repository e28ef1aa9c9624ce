//! Translation of many addresses at once, so that their cache misses overlap.
//!
//! A walk is a chain of dependent loads, and the last one misses. Lanes of a chunk therefore go down level by level side
//! by side, and two chunks are in flight: while the leaf entries of one are on their way into the cache, the next
//! chunk is located. With feature `prefetch` the leaf entries are asked for by prefetch instructions, where the host's architecture has any.

use core::sync::atomic::AtomicU64;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::format::{Entry, Format, Input, Output};
use crate::geometry::{Level, Position};
use crate::memory::TableMemory;
use crate::walk::Walker;
use crate::word::Word;

/// Addresses per chunk: enough that the misses of one fill the time that the next one takes to locate.
const LANES: usize = 32;

/// The leaf entries of a chunk, as far as prediction goes.
struct Chunk<'m, F: Format> {
    /// The entry; `None` for a lane that has to be walked alone (a larger leaf, a hole, anything odd).
    entries: [Option<&'m AtomicU64>; LANES],
    offsets: [u64; LANES],
    paths: [F::Path; LANES],
}

impl<F: Format, M: TableMemory<Output<F>>> Walker<F, M> {
    /// Translates `access` at each of `inputs` into the `outputs` of the same index; returns how many translated.
    ///
    /// An output is `None` where the access faults; [`translate`](Self::translate) says why. Inputs beyond the length of `outputs` are left
    /// out. Several times as fast as one call per address where the tables are larger than the caches; no faster where they are hot.
    pub fn translate_batch(&self, inputs: &[Input<F>], access: Access, outputs: &mut [Option<Output<F>>]) -> usize {
        let count = inputs.len().min(outputs.len());
        let (inputs, outputs) = (&inputs[..count], &mut outputs[..count]);
        let mut translated = 0;
        let mut located = inputs.chunks(LANES).map(|inputs| self.locate(inputs)).peekable();
        for (inputs, outputs) in inputs.chunks(LANES).zip(outputs.chunks_mut(LANES)) {
            let Some(chunk) = located.next() else { break };
            // The next chunk's misses are under way before this one's entries are read.
            let _ = located.peek();
            translated += self.read(&chunk, inputs, access, outputs);
        }
        translated
    }

    /// Brings every lane down to its last-level table, level by level: all lanes stand at the same level, so only the
    /// address of a table is carried from one to the next. A lane that is odd walks along at the root, and is walked again by itself.
    #[inline]
    fn locate(&self, inputs: &[Input<F>]) -> Chunk<'_, F> {
        let (format, memory) = (self.format(), self.memory());
        let geometry = format.geometry();
        let root = geometry.root();
        let mut chunk = Chunk::<F> { entries: [None; LANES], offsets: [0; LANES], paths: [F::Path::default(); LANES] };
        let mut tables = [self.root().get(); LANES];
        let mut odd = 0u32;
        for (lane, &input) in inputs.iter().enumerate().take(LANES) {
            match format.offset(input) {
                Some(offset) => chunk.offsets[lane] = offset,
                None => odd |= 1 << lane,
            }
        }
        for level in (1..=root.0).rev() {
            let at = Position { level: Level(level), shift: geometry.shift(Level(level)) };
            for (lane, table) in tables.iter_mut().enumerate().take(inputs.len()) {
                let entry = table.wrapping_add(format.entry_offset(level, chunk.offsets[lane]));
                let word = memory.word(<Output<F> as Address>::new(entry)).map(|memory| Word::<F>::new(memory).load());
                match word.ok().and_then(|word| Some((word, format.predicted_table(word, at)?))) {
                    Some((word, next)) => {
                        *table = next;
                        chunk.paths[lane] = format.restrict(chunk.paths[lane], word);
                    }
                    None => odd |= 1 << lane,
                }
            }
        }
        for (lane, table) in tables.iter().enumerate().take(inputs.len()) {
            let entry = table.wrapping_add(format.entry_offset(0, chunk.offsets[lane]));
            if odd & (1 << lane) == 0 {
                chunk.entries[lane] =
                    memory.word(<Output<F> as Address>::new(entry)).ok().inspect(|memory| prefetch(memory));
            }
        }
        chunk
    }

    /// Reads the leaf entries of a chunk that was located before.
    #[inline]
    fn read(
        &self,
        chunk: &Chunk<'_, F>,
        inputs: &[Input<F>],
        access: Access,
        outputs: &mut [Option<Output<F>>],
    ) -> usize {
        let mut translated = 0;
        for (lane, (&input, output)) in inputs.iter().zip(outputs).enumerate().take(LANES) {
            *output = match chunk.entries[lane] {
                Some(memory) => self.read_leaf(memory, chunk.offsets[lane], chunk.paths[lane], access),
                None => self.translate(input, access).ok().map(|translation| translation.output),
            };
            translated += usize::from(output.is_some());
        }
        translated
    }

    #[inline(always)]
    fn read_leaf(&self, memory: &AtomicU64, offset: u64, path: F::Path, access: Access) -> Option<Output<F>> {
        let format = self.format();
        let at = Position { level: Level(0), shift: format.geometry().page_shift() };
        let word = Word::<F>::new(memory).load();
        let Entry::Leaf { output, .. } = format.decode(word, at) else { return None };
        format.check(word, at, path, access).ok()?;
        Some(<Output<F> as Address>::new(output.get().wrapping_add(offset & low_bits(at.shift))))
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
