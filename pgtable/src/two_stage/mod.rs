//! Both stages in one call: `Gva → Gpa → Hpa`, as hardware translates for a guest.
//!
//! # Protocol
//! The guest's tables stand at guest-physical addresses. Each of their words is reached through
//! stage 2, as is the final address: with four levels each, 24 entries at worst, those of stage 2
//! loaded at most twice each. Where stage 1's
//! entries still lack what hardware records in them (accessed, dirty), recording it is an access of
//! its own, which stage 2 must allow too ([`SecondStage::guest_table_update`]). A fault says whose
//! it is: the guest's own (stage 1), or the hypervisor's (stage 2), and then whether it hit a table
//! of the guest's or the final access.
//!
//! All tables stand in memory by host addresses. Where the guest's host is itself a guest (a VMM
//! looks at a hypervisor that it runs), these are that one's guest addresses, and its memory is a
//! `GuestTables<Hpa>`.
//!
//! A [`TwoStage`] takes no lock and writes nothing. With a
//! [`TranslationCache`] of the second stage it remembers
//! where the guest's tables stand; who changes the second stage invalidates through that cache's
//! [`Watch`](crate::cache::Watch).

mod guest_tables;

use core::cell::Cell;
use core::fmt;

use crate::access::{Access, Privilege};
use crate::address::{Gpa, Gva, Hpa};
use crate::cache::TranslationCache;
use crate::descent::{ByValue, Node, table_below};
use crate::fault::{Cause, Fault};
use crate::format::{FirstStage, Format, SecondStage};
use crate::geometry::{MAX_LEVELS, Position};
use crate::memory::ReadMemory;
use crate::quick::{entry, to_table};
use crate::stage::{Stage1, Stage2};
use crate::translate::{find, read_quickly};
use crate::walk::{TranslationOf, Walker};
use crate::word::swap;

use guest_tables::{Nested, Recorded, Remembered};

/// Where an address goes through both stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TwoStageTranslation<F1: Format<Stage = Stage1>, F2: Format<Stage = Stage2>> {
    /// What stage 1 says.
    pub stage1: TranslationOf<F1>,
    /// What stage 2 says about that.
    pub stage2: TranslationOf<F2>,
}

impl<F1: Format<Stage = Stage1>, F2: Format<Stage = Stage2>> TwoStageTranslation<F1, F2> {
    /// The final address.
    pub fn output(&self) -> Hpa {
        self.stage2.output
    }

    /// log2 of the range around the address that both stages translate as one: the smaller of the
    /// two pages.
    pub fn shift(&self) -> u8 {
        self.stage1.shift.min(self.stage2.shift)
    }
}

/// Why an access does not go through both stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TwoStageFault<F1: Format<Stage = Stage1>, F2: Format<Stage = Stage2>> {
    /// The guest's own fault.
    Stage1(Fault<F1>),
    /// The hypervisor's.
    Stage2 {
        /// The address that the guest wanted to use.
        address: Gva,
        /// The access that it wanted to make.
        access: Access,
        /// Where in the guest's tree the table entry stands that was to be read; `None` if it was
        /// the final access.
        table: Option<Position>,
        /// What stage 2 says. Its address is the guest-physical one.
        fault: Fault<F2>,
    },
}

impl<F1: Format<Stage = Stage1>, F2: Format<Stage = Stage2>> fmt::Display
    for TwoStageFault<F1, F2>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage1(fault) => fault.fmt(f),
            Self::Stage2 { address, access, table, fault } => {
                write!(f, "{access} at {address}, ")?;
                match table {
                    Some(at) => {
                        let level = F1::level_number(at.level);
                        write!(f, "reading the guest's table entry of level {level}: {fault}")
                    }
                    None => write!(f, "final access: {fault}"),
                }
            }
        }
    }
}

impl<F1: Format<Stage = Stage1>, F2: Format<Stage = Stage2>> core::error::Error
    for TwoStageFault<F1, F2>
{
}

/// A guest's tree, walked through the hypervisor's.
#[derive(Debug)]
pub struct TwoStage<'c, F1, F2: Format<Stage = Stage2>, M, const N: usize = 64> {
    stage1: F1,
    root: Gpa,
    stage2: Walker<F2, M>,
    cache: Option<&'c TranslationCache<'c, F2, N>>,
    /// With a cache: where the stage-1 table of each level of the last walks stands. Most walks
    /// share their upper tables, and a processor that guesses that right need not wait for one
    /// table's entry to begin with the next.
    steps: [Cell<Step>; MAX_LEVELS],
    /// The cache's count of invalidations since which they are remembered. The cache may be others'
    /// too, who make it current by themselves.
    seen: Cell<u64>,
}

/// The page of stage 2 in which a stage-1 table stands: where it begins, its bytes, and where it
/// begins behind stage 2.
#[derive(Clone, Copy, Debug)]
struct Step {
    page: u64,
    bytes: u64,
    output: u64,
}

const NOWHERE: Step = Step { page: 0, bytes: 0, output: 0 };

impl<'c, F1, F2, M> TwoStage<'c, F1, F2, M>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    /// The guest's tree of `stage1` with its root table at `root`, behind the second stage
    /// `stage2`.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(stages: guest, ept);
    /// let both = TwoStage::new(*guest.format(), guest.root(), ept.walker());
    /// let found = both.translate(Gva::new(0x1234), Access::READ)?;
    /// assert_eq!(found.output(), Hpa::new(0x80_1234));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(stage1: F1, root: Gpa, stage2: Walker<F2, M>) -> Self {
        let steps = [const { Cell::new(NOWHERE) }; MAX_LEVELS];
        Self { stage1, root, stage2, cache: None, steps, seen: Cell::new(0) }
    }

    /// The same, remembering what stage 2 said: most of a guest's walk goes through few of its
    /// pages.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(stages: guest, ept);
    /// let generation = Generation::new();
    /// let cache = TranslationCache::<_, 64>::new(&generation);
    /// let both = TwoStage::new(*guest.format(), guest.root(), ept.walker()).with_cache(&cache);
    /// for _ in 0..2 {
    ///     assert!(both.translate(Gva::new(0x1234), Access::READ).is_ok());
    /// }
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_cache<const N: usize>(
        self,
        cache: &'c TranslationCache<'c, F2, N>,
    ) -> TwoStage<'c, F1, F2, M, N> {
        let Self { stage1, root, stage2, steps, seen, .. } = self;
        TwoStage { stage1, root, stage2, cache: Some(cache), steps, seen }
    }
}

impl<'c, F1, F2, M, const N: usize> TwoStage<'c, F1, F2, M, N>
where
    F1: FirstStage,
    F2: SecondStage,
    M: ReadMemory<Hpa>,
{
    /// Translates one access of the guest's. Nothing is written: what hardware would record is only
    /// judged.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(stages: guest, ept);
    /// let both = TwoStage::new(*guest.format(), guest.root(), ept.walker());
    /// match both.translate(Gva::new(0x40_0000), Access::READ) {
    ///     Err(TwoStageFault::Stage1(fault)) => assert_eq!(fault.cause, Cause::NotPresent),
    ///     other => panic!("{other:?}"),
    /// }
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`TwoStageFault`].
    #[inline(always)]
    pub fn translate(
        &self,
        address: Gva,
        access: Access,
    ) -> Result<TwoStageTranslation<F1, F2>, TwoStageFault<F1, F2>> {
        match self.translate_remembered(address, access) {
            Some(translation) => Ok(translation),
            None => self.translate_properly(address, access),
        }
    }

    /// The translation, if all that stage 2 has to say to it is remembered, and stage 1's part is
    /// as [`descend_quickly`] knows it.
    #[inline(always)]
    fn translate_remembered(
        &self,
        address: Gva,
        access: Access,
    ) -> Option<TwoStageTranslation<F1, F2>> {
        let cache = self.cache.filter(|cache| cache.is_current_since(self.seen.get()))?;
        let second = self.stage2.format();
        if second.asks_whose_page(access) || second.guest_table_update().is_some() {
            return None;
        }
        let memory = self.remembered(access)?;
        self.walk_remembered(cache, &memory, address, access)
    }

    /// The same where stage 2 judges what stage 1 records: only if nothing is left to be recorded.
    fn translate_recorded(
        &self,
        address: Gva,
        access: Access,
    ) -> Option<TwoStageTranslation<F1, F2>> {
        let cache = self.cache.filter(|cache| cache.is_current_since(self.seen.get()))?;
        let second = self.stage2.format();
        if second.asks_whose_page(access) || second.guest_table_update().is_none() {
            return None;
        }
        let memory = Recorded { remembered: self.remembered(access)?, access };
        self.walk_remembered(cache, &memory, address, access)
    }

    /// The memory of stage 1's tables, as far as it is remembered, for a walk from the root.
    #[inline(always)]
    fn remembered(&self, access: Access) -> Option<Remembered<'_, 'c, F1, F2, M, N>> {
        let level = Cell::new(self.stage1.shortcuts(Some(access))?.root());
        Some(Remembered { stage: self, level })
    }

    /// The translation through usual entries of stage 1 in `memory`.
    #[inline(always)]
    fn walk_remembered(
        &self,
        cache: &TranslationCache<'c, F2, N>,
        memory: &impl ReadMemory<Gpa>,
        address: Gva,
        access: Access,
    ) -> Option<TwoStageTranslation<F1, F2>> {
        let format = &self.stage1;
        let shortcuts = format.shortcuts(Some(access))?;
        let offset = format.offset(address)?;
        let (memory, top) = (ByValue(memory), (shortcuts.root(), self.root.get()));
        let table = to_table::<F1, _>(&shortcuts, memory, top, 0, offset).ok()?;
        let last = entry::<F1, _>(&shortcuts, memory, (0, table), offset)?;
        let stage1 = read_quickly(format, &last, offset)?;
        let stage2 = cache.remembered(self.stage2.format(), stage1.output, access)?;
        Some(TwoStageTranslation { stage1, stage2 })
    }

    /// The same whatever is remembered.
    #[inline(never)]
    fn translate_properly(
        &self,
        address: Gva,
        access: Access,
    ) -> Result<TwoStageTranslation<F1, F2>, TwoStageFault<F1, F2>> {
        if let Some(translation) = self.translate_recorded(address, access) {
            return Ok(translation);
        }
        if let Some(cache) = self.cache {
            let now = cache.make_current();
            if self.seen.replace(now) != now {
                self.steps.iter().for_each(|step| step.set(NOWHERE));
            }
        }
        let words = [const { Cell::new((0, 0)) }; MAX_LEVELS];
        let nested = Nested { stage: self, taken: Cell::new(0), words, failed: Cell::new(None) };
        let (leaf, offset) =
            match find(&self.stage1, ByValue(&nested), self.root.get(), address, access) {
                Ok(found) => found,
                Err(fault) => return Err(self.of_table(fault, &nested)),
            };
        let stage1 = leaf.translation(&self.stage1, offset);
        self.judge_updates(&nested, address, access)?;
        let judged = if self.stage2.format().asks_whose_page(access) {
            let of_page = self.stage1.is_user_page(leaf.word, leaf.at, leaf.path);
            let privilege = if of_page { Privilege::User } else { Privilege::Supervisor };
            Access { privilege, ..access }
        } else {
            access
        };
        match self.second(stage1.output, judged) {
            Ok(stage2) => Ok(TwoStageTranslation { stage1, stage2 }),
            Err(fault) => {
                let rights = self.stage1.rights(leaf.word, leaf.at, leaf.path);
                let arch = self.stage2.format().fault_of_page(fault.arch, rights);
                let fault = Fault { arch, ..fault };
                Err(TwoStageFault::Stage2 { address, access, table: None, fault })
            }
        }
    }

    #[inline(always)]
    fn second(&self, gpa: Gpa, access: Access) -> Result<TranslationOf<F2>, Fault<F2>> {
        match self.cache {
            Some(cache) => cache.translate(&self.stage2, gpa, access),
            None => self.stage2.translate(gpa, access),
        }
    }

    /// Judges what hardware does to the entries that a successful walk of stage 1 read: it records
    /// in them, from the root down, before it goes on to the final address.
    fn judge_updates(
        &self,
        nested: &Nested<'_, '_, F1, F2, M, N>,
        address: Gva,
        access: Access,
    ) -> Result<(), TwoStageFault<F1, F2>> {
        let Some(update) = self.stage2.format().guest_table_update() else { return Ok(()) };
        let mut node = Node::root(&self.stage1, self.root.get());
        for (entry, word) in nested.words.iter().take(nested.taken.get()).map(Cell::get) {
            let (at, word) = (node.position(), swap::<F1>(word));
            let bits = self.stage1.bits(at);
            let recorded = match table_below(&self.stage1, node, word) {
                Some(below) => {
                    node = below;
                    bits.table.made(word)
                }
                None => bits.used(word, access),
            };
            if recorded == word {
                continue;
            }
            if let Err(second) = self.second(Gpa::new(entry), update) {
                let arch = self.stage2.format().fault_of_guest_table(second.arch, access);
                let fault = Fault { arch, ..second };
                return Err(TwoStageFault::Stage2 { address, access, table: Some(at), fault });
            }
        }
        Ok(())
    }

    /// Whose fault it is that stage 1's walk ended.
    #[cold]
    fn of_table(
        &self,
        fault: Fault<F1>,
        nested: &Nested<'_, '_, F1, F2, M, N>,
    ) -> TwoStageFault<F1, F2> {
        let (refused, table) = match fault.cause {
            Cause::TableAccess => (nested.failed.take(), fault.at),
            Cause::Malformed => (self.before_judged(&fault, nested), fault.at),
            _ => (None, None),
        };
        match refused {
            Some(second) => {
                let arch = self.stage2.format().fault_of_guest_table(second.arch, fault.access);
                let fault2 = Fault { arch, ..second };
                TwoStageFault::Stage2 {
                    address: fault.address,
                    access: fault.access,
                    table,
                    fault: fault2,
                }
            }
            None => TwoStageFault::Stage1(fault),
        }
    }

    /// What stage 2 says of the address that stage 1 looks for before it judges the malformed entry
    /// at which the walk ended, if it refuses it.
    #[cold]
    fn before_judged(
        &self,
        fault: &Fault<F1>,
        nested: &Nested<'_, '_, F1, F2, M, N>,
    ) -> Option<Fault<F2>> {
        let last = nested.taken.get().checked_sub(1)?;
        let (_, word) = nested.words.get(last % MAX_LEVELS)?.get();
        let word = swap::<F1>(word);
        let offset = self.stage1.offset(fault.address)?;
        let looked_for = self.stage1.looked_for_before_judged(word, fault.at?, offset)?;
        self.second(looked_for, self.stage2.format().guest_table_access()).err()
    }
}
