//! Invalidation by asking the hypervisor: the arguments of `H_RPT_INVALIDATE` (PAPR; guests without
//! the right to `tlbie`, and hypervisors that are guests) and of `H_TLB_INVALIDATE` (nested
//! hypervisors, first version of the interface).

use bitfield_struct::bitfield;
use pgtable::invalidate::{Stale, StaleRange};
use pgtable::{Address, Gpa, Stage2};

use super::geometry::PageSize;
use super::invalidation::{GLOBAL_CEILING, Plan, Space, pages};
use super::scope::Scope;
use super::tlbie::{Ric, Rs, Tlbie};

/// The hypercall number of `H_RPT_INVALIDATE`.
pub const H_RPT_INVALIDATE: u64 = 0x448;
/// The hypercall number of `H_TLB_INVALIDATE`.
pub const H_TLB_INVALIDATE: u64 = 0xF808;

/// Whose caches `H_RPT_INVALIDATE` reaches.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RptTarget {
    /// 0x1: every processor's.
    pub cmmu: bool,
    /// 0x2: this processor's.
    pub cmmu_local: bool,
    /// 0x4: the nest MMU's, by which accelerators translate.
    pub nmmu: bool,
    #[bits(61)]
    __: u64,
}

/// What `H_RPT_INVALIDATE` reaches.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RptType {
    /// 0x1: partition-scoped, of a guest of the caller's; else process-scoped, of the caller.
    pub nested: bool,
    /// 0x2: translations.
    pub tlb: bool,
    /// 0x4: the page-walk cache.
    pub pwc: bool,
    /// 0x8: the process table entry; with `nested` the partition table entry.
    pub prt: bool,
    #[bits(60)]
    __: u64,
}

/// Translations of which page sizes `H_RPT_INVALIDATE` reaches.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct RptPages {
    /// 0x1: 4 KiB.
    pub k4: bool,
    /// 0x2: 64 KiB.
    pub k64: bool,
    /// 0x4: 2 MiB.
    pub m2: bool,
    /// 0x8: 1 GiB.
    pub g1: bool,
    #[bits(60)]
    __: u64,
}

impl RptPages {
    /// Whether those of this size are meant.
    #[must_use]
    pub const fn has(self, size: PageSize) -> bool {
        match size {
            PageSize::K4 => self.k4(),
            PageSize::K64 => self.k64(),
            PageSize::M2 => self.m2(),
            PageSize::G1 => self.g1(),
        }
    }

    /// Of every size.
    pub const ALL: Self = Self::from_bits(u64::MAX);

    /// Of one size.
    #[must_use]
    pub const fn of(size: PageSize) -> Self {
        match size {
            PageSize::K4 => Self::new().with_k4(true),
            PageSize::K64 => Self::new().with_k64(true),
            PageSize::M2 => Self::new().with_m2(true),
            PageSize::G1 => Self::new().with_g1(true),
        }
    }
}

/// One `H_RPT_INVALIDATE`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RptInvalidate {
    /// The process, or with `nested` the partition.
    pub id: u64,
    /// Whose caches.
    pub target: RptTarget,
    /// What of them.
    pub types: RptType,
    /// Of which page sizes.
    pub pages: RptPages,
    /// The first address.
    pub start: u64,
    /// The address after the last; from 0 to all ones is everything.
    pub end: u64,
}

impl RptInvalidate {
    /// The arguments, in order.
    #[must_use]
    pub const fn arguments(&self) -> [u64; 6] {
        [
            self.id,
            self.target.into_bits(),
            self.types.into_bits(),
            self.pages.into_bits(),
            self.start,
            self.end,
        ]
    }

    /// Calls `call` with each hypercall that makes what is `stale` unreachable on every processor:
    /// process-scoped of process `id`, or partition-scoped of the caller's guest `id`, as `S` says.
    /// With `nest` the nest MMU forgets too (process scope only: hypervisors take no other target
    /// than processors for their guest's guests).
    ///
    /// The hypervisor itself decides when many pages are better done all at once.
    pub fn each<S: Scope>(
        stale: &Stale<S::Input>,
        id: u32,
        nest: bool,
        mut call: impl FnMut(Self),
    ) {
        // Any number of pages is a range to the hypervisor, but not a size that radix does not
        // have.
        let plan = Plan::of(stale, Space::of::<S>(id), u64::MAX - 1);
        Self::of_plan::<S>(plan, stale.ranges(), id, nest, &mut call);
    }

    fn of_plan<S: Scope>(
        plan: Plan,
        ranges: &[StaleRange<S::Input>],
        id: u32,
        nest: bool,
        call: &mut impl FnMut(Self),
    ) {
        let types = RptType::new().with_nested(!S::PROCESS_SCOPED);
        let all = Self {
            id: id.into(),
            target: RptTarget::new().with_cmmu(true).with_nmmu(nest && S::PROCESS_SCOPED),
            types,
            pages: RptPages::ALL,
            start: 0,
            end: u64::MAX,
        };
        match plan {
            Plan::Nothing => {}
            Plan::Space(Ric::Tlb) => call(Self { types: types.with_tlb(true), ..all }),
            Plan::Space(Ric::WalkCache) => call(Self { types: types.with_pwc(true), ..all }),
            Plan::Space(Ric::All) => {
                call(Self { types: types.with_tlb(true).with_pwc(true).with_prt(true), ..all });
            }
            Plan::Pages { walk_cache } => {
                let mut types = types.with_tlb(true).with_pwc(walk_cache);
                for range in ranges {
                    if let Some(size) = PageSize::of_shift(range.shift) {
                        let (start, last) = (range.start.get(), range.last.get());
                        let end = last.saturating_add(1 << size.shift());
                        call(Self { types, pages: RptPages::of(size), start, end, ..all });
                        types.set_pwc(false);
                    }
                }
            }
        }
    }
}

impl Tlbie<Stage2> {
    /// The arguments of the `H_TLB_INVALIDATE` that does this for a guest's guest: the
    /// instruction's RIC, PRS and R where they stand in its word, RS, RB.
    #[must_use]
    pub const fn h_tlb_invalidate(self) -> [u64; 3] {
        [self.fields(), self.rs().into_bits(), self.rb().into_bits()]
    }
}

/// Calls `call` with the arguments of each `H_TLB_INVALIDATE` that makes what is `stale`
/// unreachable in the second stage of the caller's guest `lpid`.
pub fn h_tlb_invalidate(stale: &Stale<Gpa>, lpid: u32, mut call: impl FnMut([u64; 3])) {
    let plan = Plan::of(stale, Space::Ordinary, GLOBAL_CEILING);
    tlb_invalidate(plan, stale.ranges(), lpid, &mut call);
}

fn tlb_invalidate(
    plan: Plan,
    ranges: &[StaleRange<Gpa>],
    lpid: u32,
    call: &mut impl FnMut([u64; 3]),
) {
    let whose = Rs::new().with_lpid(lpid);
    let mut tlbie = |it: Tlbie<Stage2>| call(it.h_tlb_invalidate());
    match plan {
        Plan::Nothing => {}
        Plan::Space(ric) => tlbie(Tlbie::space(ric, whose)),
        Plan::Pages { walk_cache } => {
            if walk_cache {
                tlbie(Tlbie::space(Ric::WalkCache, whose));
            }
            for (address, size) in ranges.iter().copied().flat_map(pages) {
                tlbie(Tlbie::page(address, size, whose));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtable::Stage1;
    extern crate std;
    use std::vec::Vec;

    const PAGES: Plan = Plan::Pages { walk_cache: false };
    const PAGES_AND_TABLES: Plan = Plan::Pages { walk_cache: true };

    fn ranges<A: Address>() -> [StaleRange<A>; 2] {
        [(0x1000, 0x3000, 12), (0x20_0000, 0x20_0000, 21)].map(|(start, last, shift)| StaleRange {
            start: A::new(start),
            last: A::new(last),
            shift,
        })
    }

    fn rpt<S: Scope>(plan: Plan, id: u32, nest: bool) -> Vec<[u64; 6]> {
        let mut calls = Vec::new();
        RptInvalidate::of_plan::<S>(plan, &ranges(), id, nest, &mut |call: RptInvalidate| {
            calls.push(call.arguments());
        });
        calls
    }

    #[test]
    fn asking_the_hypervisor() {
        const ALL: u64 = u64::MAX;
        for (name, seen, want) in [
            ("nothing", rpt::<Stage1>(Plan::Nothing, 5, false), &[][..]),
            (
                "pages",
                rpt::<Stage1>(PAGES, 5, false),
                &[[5, 1, 2, 1, 0x1000, 0x4000], [5, 1, 2, 4, 0x20_0000, 0x40_0000]],
            ),
            (
                "and the nest",
                rpt::<Stage1>(PAGES, 5, true),
                &[[5, 5, 2, 1, 0x1000, 0x4000], [5, 5, 2, 4, 0x20_0000, 0x40_0000]],
            ),
            (
                "pages and tables",
                rpt::<Stage1>(PAGES_AND_TABLES, 5, false),
                &[[5, 1, 6, 1, 0x1000, 0x4000], [5, 1, 2, 4, 0x20_0000, 0x40_0000]],
            ),
            (
                "translations",
                rpt::<Stage1>(Plan::Space(Ric::Tlb), 5, false),
                &[[5, 1, 2, ALL, 0, ALL]],
            ),
            (
                "tables",
                rpt::<Stage1>(Plan::Space(Ric::WalkCache), 5, false),
                &[[5, 1, 4, ALL, 0, ALL]],
            ),
            ("all", rpt::<Stage1>(Plan::Space(Ric::All), 5, false), &[[5, 1, 14, ALL, 0, ALL]]),
            (
                "second stage",
                rpt::<Stage2>(PAGES_AND_TABLES, 3, true),
                &[[3, 1, 7, 1, 0x1000, 0x4000], [3, 1, 3, 4, 0x20_0000, 0x40_0000]],
            ),
            (
                "second stage, all",
                rpt::<Stage2>(Plan::Space(Ric::All), 3, true),
                &[[3, 1, 15, ALL, 0, ALL]],
            ),
        ] {
            assert_eq!(seen, want, "{name}");
        }
    }

    #[test]
    fn asking_the_hypervisors_hypervisor() {
        const PAGES_CALLS: [[u64; 3]; 4] = [
            [0x1_0000, 3, 0x1000],
            [0x1_0000, 3, 0x2000],
            [0x1_0000, 3, 0x3000],
            [0x1_0000, 3, 0x20_0020],
        ];
        const WALK_CACHE: [u64; 3] = [0x5_0000, 3, 0x800];
        let with_tables: Vec<_> = [WALK_CACHE].into_iter().chain(PAGES_CALLS).collect();
        for (plan, want) in [
            (Plan::Nothing, &[][..]),
            (PAGES, &PAGES_CALLS),
            (PAGES_AND_TABLES, &with_tables),
            (Plan::Space(Ric::WalkCache), &[WALK_CACHE]),
            (Plan::Space(Ric::Tlb), &[[0x1_0000, 3, 0x800]]),
            (Plan::Space(Ric::All), &[[0x9_0000, 3, 0x800]]),
        ] {
            let mut calls = Vec::new();
            tlb_invalidate(plan, &ranges(), 3, &mut |call| calls.push(call));
            assert_eq!(calls, want, "{plan:?}");
        }
    }
}
