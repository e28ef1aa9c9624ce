//! Invalidation for who runs on the bare machine: from what a
//! [`Gather`](pgtable::invalidate::Gather) collected to the instructions, in order, as data.
//!
//! Which pages, when the whole space instead, and in which order is what Linux does
//! (`arch/powerpc/mm/book3s64/radix_tlb.c`), and so are the work-arounds for the errata of POWER9.
//!
//! When to invalidate: after V 1 → 0, after a permission was taken away, after an address changed,
//! and, with the page-walk cache, before the memory of a table is used for something else. Not
//! after V 0 → 1, nor after a permission was added: a `ptesync` is enough.

use core::marker::PhantomData;

use pgtable::invalidate::{Stale, StaleRange};
use pgtable::{Address, Stage1, Stage2};

use super::geometry::{ADDRESS_BITS, PageSize};
use super::scope::Scope;
use super::tlbie::{Ric, Rs, Tlbie};

/// Pages up to which a global invalidation goes page by page.
pub const GLOBAL_CEILING: u64 = 33;
/// Pages up to which a local invalidation goes page by page: twice the sets of POWER9's TLB.
pub const LOCAL_CEILING: u64 = 256;
/// Sets of POWER9's TLB in radix mode, each of which a `tlbiel` of a whole space reaches one.
pub const TLB_SETS: u16 = 128;

/// One instruction of an invalidation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Step<S> {
    /// `ptesync`.
    Ptesync,
    /// `tlbie`: on every processor.
    Tlbie(Tlbie<S>),
    /// `tlbiel`: on this processor.
    Tlbiel(Tlbie<S>),
    /// `eieio`.
    Eieio,
    /// `tlbsync`.
    Tlbsync,
    /// `cp_abort`.
    CpAbort,
    /// `slbia` with this IH: drops effective-to-real translations (ERAT), which POWER9's `tlbiel`
    /// by set leaves.
    Slbia {
        /// The IH field.
        ih: u8,
    },
    /// `isync`.
    Isync,
}

/// Which processors may hold the stale translations.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reach {
    /// Only the one that runs the steps.
    Local,
    /// Any.
    Global,
}

/// What a processor needs beyond the architecture.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Processor {
    /// ISA v3.1: `tlbiel` reaches a whole space at once, and needs a `cp_abort` after it.
    pub isa_3_1: bool,
    /// POWER9: a `tlbie` may leave an ERAT entry behind; another, of process (or partition) 0,
    /// drops it. Linux's `CPU_FTR_P9_TLBIE_ERAT_BUG`.
    pub erat_bug: bool,
    /// POWER9 before Nimbus DD2.3 and Cumulus DD1.3: a store may pass a `tlbie`; another one after
    /// a `ptesync` stops it. Linux's `CPU_FTR_P9_TLBIE_STQ_BUG`.
    pub store_queue_bug: bool,
}

impl Processor {
    /// POWER9 of any revision.
    pub const POWER9: Self = Self { isa_3_1: false, erat_bug: true, store_queue_bug: true };
    /// POWER10.
    pub const POWER10: Self = Self { isa_3_1: true, erat_bug: false, store_queue_bug: false };

    /// The processor whose Processor Version Register holds `pvr`. One that may be moved between
    /// revisions (a logical PVR of ISA v3.00) is taken for the oldest.
    #[must_use]
    pub const fn of_pvr(pvr: u32) -> Self {
        let revision = pvr & 0xfff;
        let fixed = match (pvr >> 16, pvr & 0xe000, pvr & 0xc000) {
            (0x004e, 0, _) => revision >= 0x203,
            (0x004e, _, 0) => revision >= 0x103,
            (0x004e | 0x004f, _, _) => false,
            _ if pvr == 0x0f00_0005 => false,
            _ => return Self::POWER10,
        };
        Self { store_queue_bug: !fixed, ..Self::POWER9 }
    }
}

/// What is to be invalidated, as Linux chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Plan {
    /// Nothing.
    Nothing,
    /// Page by page, each range at its own page size; before that the page-walk cache, if
    /// `walk_cache`.
    Pages { walk_cache: bool },
    /// The whole space.
    Space(Ric),
}

/// Whether pages may be invalidated one by one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Space {
    /// They may.
    Ordinary,
    /// Never: process 0, the kernel's, which Linux invalidates as a whole.
    Kernel,
}

impl Space {
    pub(crate) fn of<S: Scope>(id: u32) -> Self {
        if S::PROCESS_SCOPED && id == 0 { Self::Kernel } else { Self::Ordinary }
    }
}

impl Plan {
    /// For what is `stale` in `space`, going page by page up to `ceiling` pages.
    pub(crate) fn of<A: Address>(stale: &Stale<A>, space: Space, ceiling: u64) -> Self {
        if stale.is_empty() {
            return Self::Nothing;
        }
        if stale.everything() || space == Space::Kernel {
            return Self::Space(Ric::All);
        }
        Self::of_ranges(stale.ranges(), stale.tables(), ceiling)
    }

    /// For these ranges and, if `tables`, directory entries. A range of a page size that radix does
    /// not have makes it the whole space.
    fn of_ranges<A: Address>(ranges: &[StaleRange<A>], tables: bool, ceiling: u64) -> Self {
        let mut pages = 0_u64;
        for range in ranges {
            let legal = PageSize::of_shift(range.shift).is_some() && range.start <= range.last;
            pages = pages.saturating_add(if legal { range.pages() } else { u64::MAX });
        }
        match (tables, pages) {
            (true, 0) => Self::Space(Ric::WalkCache),
            (walk_cache, pages) if pages <= ceiling => Self::Pages { walk_cache },
            (true, _) => Self::Space(Ric::All),
            (false, _) => Self::Space(Ric::Tlb),
        }
    }
}

/// How to invalidate in one address space: process-scoped or partition-scoped, as `S` says.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invalidation<S> {
    whose: Rs,
    reach: Reach,
    processor: Processor,
    scope: PhantomData<S>,
}

impl Invalidation<Stage1> {
    /// Of process `pid` of partition `lpid` (a hypervisor's own: 0).
    #[must_use]
    pub const fn of_process(pid: u32, lpid: u32, reach: Reach, processor: Processor) -> Self {
        Self {
            whose: Rs::new().with_pid(pid).with_lpid(lpid),
            reach,
            processor,
            scope: PhantomData,
        }
    }
}

impl Invalidation<Stage2> {
    /// Of partition `lpid`'s second stage.
    #[must_use]
    pub const fn of_partition(lpid: u32, reach: Reach, processor: Processor) -> Self {
        Self { whose: Rs::new().with_lpid(lpid), reach, processor, scope: PhantomData }
    }
}

impl<S: Scope> Invalidation<S> {
    /// The same on these processors.
    #[must_use]
    pub const fn with_reach(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    /// Calls `step` with each instruction that makes what is `stale` unreachable, in order; with
    /// none if nothing is.
    pub fn steps(&self, stale: &Stale<S::Input>, mut step: impl FnMut(Step<S>)) {
        let ceiling = match self.reach {
            Reach::Global => GLOBAL_CEILING,
            Reach::Local => LOCAL_CEILING,
        };
        self.run(
            Plan::of(stale, Space::of::<S>(self.whose.pid()), ceiling),
            stale.ranges(),
            &mut step,
        );
    }

    /// Calls `step` with each instruction that makes everything unreachable that is cached of the
    /// space: translations, directory entries, and the process table entry (partition scope: the
    /// partition table entry). For when that entry changed.
    pub fn all(&self, mut step: impl FnMut(Step<S>)) {
        self.run(Plan::Space(Ric::All), &[], &mut step);
    }

    fn run(&self, plan: Plan, ranges: &[StaleRange<S::Input>], step: &mut impl FnMut(Step<S>)) {
        match (plan, self.reach) {
            (Plan::Nothing, _) => {}
            (Plan::Space(ric), Reach::Global) => self.space_everywhere(ric, step),
            (Plan::Space(ric), Reach::Local) => self.space_here(ric, step),
            (Plan::Pages { walk_cache }, Reach::Global) => {
                self.pages_everywhere(ranges, walk_cache, step);
            }
            (Plan::Pages { walk_cache }, Reach::Local) => self.pages_here(ranges, walk_cache, step),
        }
    }

    fn space_everywhere(&self, ric: Ric, step: &mut impl FnMut(Step<S>)) {
        // Any page will do for the second `tlbie`; Linux takes one that is probably not in use.
        const UNUSED: u64 = (1 << ADDRESS_BITS) - 1;
        step(Step::Ptesync);
        step(Step::Tlbie(Tlbie::space(ric, self.whose)));
        if ric != Ric::WalkCache {
            self.work_around(
                Tlbie::space(Ric::Tlb, S::nobody(self.whose)),
                UNUSED,
                PageSize::K64,
                step,
            );
        }
        Self::everywhere_done(step);
    }

    fn pages_everywhere(
        &self,
        ranges: &[StaleRange<S::Input>],
        walk_cache: bool,
        step: &mut impl FnMut(Step<S>),
    ) {
        let nobody = S::nobody(self.whose);
        step(Step::Ptesync);
        if walk_cache {
            step(Step::Tlbie(Tlbie::space(Ric::WalkCache, self.whose)));
        }
        for range in ranges {
            let mut last = None;
            for (address, size) in pages(*range) {
                step(Step::Tlbie(Tlbie::page(address, size, self.whose)));
                last = Some((address, size));
            }
            if let Some((last, size)) = last {
                let one = range.start == range.last;
                let other = if one {
                    Tlbie::page(last, size, nobody)
                } else {
                    Tlbie::space(Ric::Tlb, nobody)
                };
                self.work_around(other, last, size, step);
            }
        }
        Self::everywhere_done(step);
    }

    fn work_around(
        &self,
        other: Tlbie<S>,
        last: u64,
        size: PageSize,
        step: &mut impl FnMut(Step<S>),
    ) {
        if self.processor.erat_bug {
            step(Step::Ptesync);
            step(Step::Tlbie(other));
        }
        if self.processor.store_queue_bug {
            step(Step::Ptesync);
            step(Step::Tlbie(Tlbie::page(last, size, self.whose)));
        }
    }

    fn everywhere_done(step: &mut impl FnMut(Step<S>)) {
        step(Step::Eieio);
        step(Step::Tlbsync);
        step(Step::Ptesync);
    }

    fn space_here(&self, ric: Ric, step: &mut impl FnMut(Step<S>)) {
        step(Step::Ptesync);
        step(Step::Tlbiel(Tlbie::space(ric, self.whose)));
        if ric == Ric::WalkCache {
            return self.here_done(step);
        }
        if !self.processor.isa_3_1 {
            for set in 1..TLB_SETS {
                step(Step::Tlbiel(Tlbie::space(Ric::Tlb, self.whose).with_set(set)));
            }
        }
        self.here_done(step);
        step(Step::Slbia { ih: S::SLBIA });
        step(Step::Isync);
    }

    fn pages_here(
        &self,
        ranges: &[StaleRange<S::Input>],
        walk_cache: bool,
        step: &mut impl FnMut(Step<S>),
    ) {
        step(Step::Ptesync);
        if walk_cache {
            step(Step::Tlbiel(Tlbie::space(Ric::WalkCache, self.whose)));
        }
        for (address, size) in ranges.iter().copied().flat_map(pages) {
            step(Step::Tlbiel(Tlbie::page(address, size, self.whose)));
        }
        self.here_done(step);
    }

    fn here_done(&self, step: &mut impl FnMut(Step<S>)) {
        step(Step::Ptesync);
        if self.processor.isa_3_1 {
            step(Step::CpAbort);
        }
    }
}

/// The address and size of each page of a range; none if radix has no such size.
pub(crate) fn pages<A: Address>(range: StaleRange<A>) -> impl Iterator<Item = (u64, PageSize)> {
    let start = range.start.get();
    PageSize::of_shift(range.shift).into_iter().flat_map(move |size| {
        (0..range.pages()).map(move |page| (start + (page << size.shift()), size))
    })
}

#[cfg(test)]
mod tests;
