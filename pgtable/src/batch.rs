//! Translation of many addresses at once, so that their cache misses overlap.
//!
//! A walk is a chain of dependent loads, and the last one misses. Lanes of a chunk therefore go down level by level side
//! by side, and two chunks are in flight: while the leaf entries of one are on their way into the cache, the next
//! chunk is located. With feature `prefetch` the leaf entries are asked for by prefetch instructions, where the host's architecture has any.

use core::sync::atomic::AtomicU64;

use arrayvec::ArrayVec;

use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::descent::{Node, decode};
use crate::format::{Entry, Format, Input, Output};
use crate::geometry::Level;
use crate::memory::TableMemory;
use crate::walk::Walker;
use crate::word::Word;

/// Addresses per chunk: enough that the misses of one fill the time that the next one takes to locate.
const LANES: usize = 32;

/// Where the leaf entry of an address stands, as far as prediction goes.
struct Located<'m, F: Format> {
    memory: &'m AtomicU64,
    node: Node,
    offset: u64,
    path: F::Path,
}

/// The leaf entries of a chunk; `None` for a lane that has to be walked alone (a larger leaf, a hole, anything odd).
type Chunk<'m, F> = ArrayVec<Option<Located<'m, F>>, LANES>;

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

    /// Brings every lane down to its last-level table, level by level.
    #[inline]
    fn locate(&self, inputs: &[Input<F>]) -> Chunk<'_, F> {
        let format = *self.format();
        let geometry = format.geometry();
        let root = self.root_node();
        let mut lanes: ArrayVec<Option<(Node, u64, F::Path)>, LANES> =
            inputs.iter().map(|&input| format.offset(input).map(|offset| (root, offset, F::Path::default()))).collect();
        for level in (1..=root.level).rev() {
            let width = geometry.width(Level(level - 1));
            for lane in &mut lanes {
                let Some((node, offset, path)) = lane else { continue };
                let entry = <Output<F> as Address>::new(node.entry(*offset));
                let below = self.memory().word(entry).ok().and_then(|memory| {
                    let word = Word::<F>::new(memory).load();
                    let table = format.predicted_table(word, node.position())?;
                    Some((node.below(table, width), *offset, format.restrict(*path, word)))
                });
                *lane = below;
            }
        }
        lanes
            .iter()
            .map(|lane| {
                let (node, offset, path) = (*lane)?;
                let memory = self.memory().word(<Output<F> as Address>::new(node.entry(offset))).ok()?;
                prefetch(memory);
                Some(Located { memory, node, offset, path })
            })
            .collect()
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
        for ((located, &input), output) in chunk.iter().zip(inputs).zip(outputs) {
            *output = match located {
                Some(located) => self.read_leaf(located, access),
                None => self.translate(input, access).ok().map(|translation| translation.output),
            };
            translated += usize::from(output.is_some());
        }
        translated
    }

    #[inline(always)]
    fn read_leaf(&self, located: &Located<'_, F>, access: Access) -> Option<Output<F>> {
        let at = located.node.position();
        let word = Word::<F>::new(located.memory).load();
        let Entry::Leaf { output, .. } = decode(self.format(), word, at) else { return None };
        self.format().check(word, at, located.path, access).ok()?;
        let within = located.offset & low_bits(at.shift);
        Some(<Output<F> as Address>::new(output.get().wrapping_add(within)))
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
