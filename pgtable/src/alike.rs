//! Edits of neighbouring leaves that are alike, a cache line at a time.

use core::sync::atomic::Ordering;

use crate::edit::Edit;
use crate::format::{Format, usual_leaf};
use crate::geometry::Position;
use crate::shortcut::Pattern;
use crate::table_word::TableWord;
use crate::word::swap;

/// The last edit of a usual leaf, for the leaves that differ from it in their address only. All in
/// memory order.
#[derive(Clone, Copy)]
pub(crate) struct Last {
    old: u64,
    /// The bits that the edit changed.
    changed: u64,
    /// The bits by which such leaves may not differ.
    compared: u64,
}

impl Last {
    #[inline(always)]
    pub(crate) fn differs(self, word: u64) -> u64 {
        (word ^ self.old) & self.compared
    }
}

/// Entries that are dealt with in one turn: a cache line. (The compiler does not unroll loops of
/// atomic accesses.)
pub(crate) const EIGHT: usize = 8;

/// What is known of leaves that are edited alike.
pub(crate) struct Alike {
    pub(crate) last: Option<Last>,
    pub(crate) usual: Pattern,
    /// The bits of the address in usual leaves.
    pub(crate) address: u64,
}

impl Alike {
    #[inline(always)]
    pub(crate) fn new<F: Format, E: Edit<F>>(format: &F, at: Position) -> Self {
        let usual = if E::ALIKE { usual_leaf(format, at) } else { Pattern::NONE };
        let address = format.shortcuts(None).map_or(0, |all| all.step(0).field().mask);
        Self { last: None, usual, address }
    }

    /// The edit of `old` made `new`.
    #[inline(always)]
    pub(crate) fn learn<F: Format>(&mut self, old: u64, new: u64) {
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
pub(crate) fn edit_alike<W: TableWord>(run: &[W], last: Last) -> (usize, bool) {
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
pub(crate) fn exchange_alike<W: TableWord>(run: &[W], last: Last) -> (usize, bool) {
    let exchanged = |memory: &W| {
        let old = memory.load_raw(Ordering::Relaxed);
        let new = old ^ last.changed;
        last.differs(old) == 0 && (new == old || memory.exchange_raw(old, new))
    };
    let edited = run.iter().position(|memory| !exchanged(memory)).unwrap_or(run.len());
    (edited, last.changed != 0)
}
