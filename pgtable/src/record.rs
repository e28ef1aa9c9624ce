//! What hardware records in the entries that it uses: accessed and dirty (POWER: R and C). Recorded
//! as hardware does it, and harvested.
//!
//! # Protocol
//! A record is made by setting bits, or by clearing them (AArch64's AP[2] under DBM); the format
//! says which ([`Record`]). Hardware makes records at any time. So software makes them by
//! compare-exchange on the word that was judged, and judges anew if it has changed; and it takes
//! them back by an atomic AND or OR that touches nothing else. What hardware records after that is
//! found by the next harvest. A record that stays in a bit of software's when an entry loses the
//! bits of hardware's ([`Record::software`]) is harvested in the same way.
//!
//! The translation is stale until the gather is finished, and hardware that still holds it as dirty
//! writes without recording. Hence the order of live migration: harvest, finish the gather, *then*
//! read the pages.

use crate::access::Access;
use crate::address::Address;
use crate::descent::{ByValue, Link, descend};
use crate::fault::{Cause, Fault};
use crate::format::{Bits, Entry, Format, Input, Output, Record};
use crate::group::translation_by;
use crate::memory::{MemoryError, ReadMemory, Refusal};
use crate::table_word::TableWord;
use crate::walk::{TranslationOf, Walker};
use crate::word::swap;

/// How often a walk starts anew because somebody else changed an entry between its being judged and
/// its being marked.
const TRIES: usize = 16;

/// Which record is harvested.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Recorded {
    /// Any use: working-set estimation.
    Accessed,
    /// Stores: live migration, dirty logs.
    Dirty,
}

impl Recorded {
    /// The record in leaves with these bits.
    pub(crate) fn of(self, bits: Bits) -> Record {
        match self {
            Self::Accessed => bits.accessed,
            Self::Dirty => bits.dirty,
        }
    }
}

/// Whether anybody else sets bits in the entries meanwhile.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Writers {
    /// Hardware does: each entry is cleared by an atomic AND.
    Running,
    /// Nobody: the CPUs that walk the tables are stopped. Plain stores, several times as fast.
    Stopped,
}

impl<F: Format, M: ReadMemory<Output<F>>> Walker<F, M> {
    /// Makes one access as hardware does: translates it, and records it in the entries that it used
    /// (accessed; dirty for a store), where the format has such bits. For instruction emulators,
    /// and for devices that walk a guest's tables.
    ///
    /// An entry in memory that may only be read is used as it is, and nothing is recorded in it, as
    /// KVM walks a guest's tables in a read-only slot.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: tree, gather);
    /// // A device writes a page of the guest's.
    /// let page = tree.walker().access(Gva::new(0x2468), Access::WRITE)?;
    /// assert_eq!(page.output, Gpa::new(0x80_2468));
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// The [`Fault`] that the hardware raises; [`Cause::Contended`] if others keep changing the
    /// entries under the walk.
    pub fn access(&self, input: Input<F>, access: Access) -> Result<TranslationOf<F>, Fault<F>> {
        (0..TRIES).find_map(|_| self.try_access(input, access).transpose()).unwrap_or_else(|| {
            let arch = self.format().fault(Cause::NotPresent, access, None, 0);
            Err(Fault {
                address: input,
                access,
                cause: Cause::Contended,
                at: None,
                entry: None,
                arch,
            })
        })
    }

    /// One attempt of [`access`](Self::access); `None` if an entry changed after it was judged.
    fn try_access(
        &self,
        input: Input<F>,
        access: Access,
    ) -> Result<Option<TranslationOf<F>>, Fault<F>> {
        let format = self.format();
        self.translate(input, access)?;
        // Judged once more on the way down, entry by entry, on the words that are marked.
        let Some(offset) = format.offset(input) else { return Ok(None) };
        let mut unmarked = arrayvec::ArrayVec::<Link, { crate::format::MAX_LEVELS }>::new();
        let enter = |_, link: Link| {
            if format.bits(link.at).table.made(link.word) != link.word {
                // A walk follows no more entries than a tree has levels.
                let _ = unmarked.try_push(link);
            }
        };
        let memory = ByValue(self.memory());
        let Ok(stop) = descend(format, memory, self.root_node(), offset, 0, enter) else {
            return Ok(None);
        };
        let at = stop.node.position();
        let Entry::Leaf { output, attributes } = stop.decode(format) else { return Ok(None) };
        if format.check(stop.word, at, stop.path, access).is_err() {
            return Ok(None);
        }
        for Link { at, entry, word } in unmarked {
            if !self.mark(entry, word, format.bits(at).table.made(word)) {
                return Ok(None);
            }
        }
        let marked = format.bits(at).used(stop.word, access);
        if marked != stop.word && !self.mark(stop.node.entry::<F>(offset), stop.word, marked) {
            return Ok(None);
        }
        Ok(Some(translation_by(format, stop.word, at, (output, attributes), offset)))
    }

    /// Stores `marked` at `entry` if it still holds `judged`; false if the walk has to begin anew.
    /// An entry that may only be read stays as it is: nothing is recorded in it.
    fn mark(&self, entry: u64, judged: u64, marked: u64) -> bool {
        let (judged, marked) = (swap::<F>(judged), swap::<F>(marked));
        let entry = <Output<F> as Address>::new(entry);
        match F::Word::exchange_in(self.memory(), entry, judged, marked) {
            Ok(stored) => stored,
            Err(MemoryError { refusal, .. }) => refusal == Refusal::ReadOnly,
        }
    }
}
