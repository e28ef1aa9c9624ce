//! From L1's side: the hypercalls by which L1 says that it changed its tables.

use pgtable::allocator::TableAllocator;
use pgtable::invalidate::Invalidate;
use pgtable::memory::TableMemory;
use pgtable::{Gpa, Hpa, Stage2, low_bits};

use super::{Error, HcallError, Nested};
use crate::radix::{ADDRESS_BITS, PageSize, Rb, Ric, RptInvalidate, RptTarget, Rs};

/// The hypercall number of `H_SET_PARTITION_TABLE`.
pub const H_SET_PARTITION_TABLE: u64 = 0xF800;

/// What L1 wants to be forgotten: an `H_TLB_INVALIDATE` or an `H_RPT_INVALIDATE`, decoded once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum TlbInvalidation {
    /// Nothing.
    Nothing,
    /// The pages of partition `l2` from `first` to `last`.
    Pages {
        /// The partition.
        l2: u32,
        /// The first address of the first page.
        first: Gpa,
        /// The last address of the last page.
        last: Gpa,
    },
    /// All of partition `l2`.
    Partition {
        /// The partition.
        l2: u32,
        /// What of it.
        ric: Ric,
    },
    /// All of every partition.
    Everything {
        /// What of them.
        ric: Ric,
    },
}

impl TlbInvalidation {
    /// What the arguments of `H_TLB_INVALIDATE` say: `tlbie`'s RIC, PRS and R where they stand in
    /// its word, RS, RB.
    ///
    /// # Errors
    /// [`HcallError::Parameter`], as KVM has it: R = 0, PRS = 1, RIC = 3, IS = 1, one page with
    /// another RIC than 0, and page sizes that radix does not have.
    pub fn of([instruction, rs, rb]: [u64; 3]) -> Result<Self, HcallError> {
        let (process_scoped, radix) = (instruction >> 17 & 1 == 1, instruction >> 16 & 1 == 1);
        let ric = match instruction >> 18 & 3 {
            0 => Ric::Tlb,
            1 => Ric::WalkCache,
            2 => Ric::All,
            _ => return Err(HcallError::Parameter),
        };
        if process_scoped || !radix {
            return Err(HcallError::Parameter);
        }
        let (l2, rb) = (Rs::from_bits(rs).lpid(), Rb::from_bits(rb));
        match rb.is() {
            0 if ric == Ric::Tlb => {
                let size = PageSize::ALL.into_iter().find(|size| size.ap() == rb.ap());
                let size = size.ok_or(HcallError::Parameter)?;
                let within = low_bits(size.shift());
                let first = rb.epn() << 12 & !within;
                Ok(Self::Pages { l2, first: Gpa::new(first), last: Gpa::new(first | within) })
            }
            2 => Ok(Self::Partition { l2, ric }),
            3 => Ok(Self::Everything { ric }),
            _ => Err(HcallError::Parameter),
        }
    }

    /// What an `H_RPT_INVALIDATE` of type NESTED says, as KVM reads it (`do_h_rpt_invalidate_pat`),
    /// but that the type PRT alone reads the partition table entry again.
    ///
    /// | the call | so |
    /// | --- | --- |
    /// | the type is not NESTED | [`HcallError::Parameter`]: it is about L1's own processes |
    /// | it ends before it begins | [`HcallError::P5`] |
    /// | another target than processors | [`HcallError::P2`] |
    /// | the type has PRT | all of the partition, its partition table entry included |
    /// | from 0 to all ones | all translations of the partition, whatever the type |
    /// | the type has TLB, and there is no size that radix has | [`HcallError::P4`] |
    /// | the type has TLB | for each size: the page at the start, and each further one before the end |
    /// | anything else | nothing |
    ///
    /// A partition that has no shadow is no error: L1 forgets what it might have known of one
    /// before it first runs it.
    ///
    /// # Errors
    /// See the table.
    pub fn of_rpt(call: &RptInvalidate) -> Result<Self, HcallError> {
        let RptInvalidate { id, target, types, pages, start, end } = *call;
        if !types.nested() {
            return Err(HcallError::Parameter);
        }
        if end < start {
            return Err(HcallError::P5);
        }
        if target != RptTarget::new().with_cmmu(true) {
            return Err(HcallError::P2);
        }
        let largest = PageSize::ALL.into_iter().filter(|size| pages.has(*size)).max();
        // No partition has such a number.
        let Ok(l2) = u32::try_from(id) else { return Ok(Self::Nothing) };
        if types.prt() {
            return Ok(Self::Partition { l2, ric: Ric::All });
        }
        if start == 0 && end == u64::MAX {
            return Ok(Self::Partition { l2, ric: Ric::Tlb });
        }
        if !types.tlb() {
            return Ok(Self::Nothing);
        }
        let within = low_bits(largest.ok_or(HcallError::P4)?.shift());
        let last = end.saturating_sub(1).max(start) | within;
        Ok(Self::Pages { l2, first: Gpa::new(start & !within), last: Gpa::new(last) })
    }
}

impl<M: TableMemory<Hpa>, A: TableAllocator<Hpa>> Nested<M, A> {
    /// `H_TLB_INVALIDATE`: drops the shadow entries that the instruction names, as a TLB would; RIC
    /// = 2 reads L1's partition table entry again. What has no shadow is no error.
    ///
    /// # Errors
    /// As [`TlbInvalidation::of`]; [`HcallError::Shadow`].
    pub fn h_tlb_invalidate<G: TableMemory<Gpa>, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        arguments: [u64; 3],
        l1: &G,
        by: &I,
    ) -> Result<(), HcallError> {
        self.invalidate(TlbInvalidation::of(arguments)?, l1, by)
    }

    /// `H_RPT_INVALIDATE` with the type NESTED: the same, as ranges. What has no shadow is no
    /// error.
    ///
    /// # Errors
    /// As [`TlbInvalidation::of_rpt`]; [`HcallError::Shadow`].
    pub fn h_rpt_invalidate<G: TableMemory<Gpa>, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        call: &RptInvalidate,
        l1: &G,
        by: &I,
    ) -> Result<(), HcallError> {
        self.invalidate(TlbInvalidation::of_rpt(call)?, l1, by)
    }

    fn invalidate<G: TableMemory<Gpa>, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        what: TlbInvalidation,
        l1: &G,
        by: &I,
    ) -> Result<(), HcallError> {
        match what {
            TlbInvalidation::Nothing => {}
            TlbInvalidation::Pages { l2, first, last } => {
                let bytes = (last.get() - first.get()).saturating_add(1);
                self.forget_range(l2, first, bytes, by)?;
            }
            TlbInvalidation::Partition { l2, ric } => self.forget_partition(l2, ric, l1, by)?,
            TlbInvalidation::Everything { ric } => {
                let mut all = Ok(());
                for l2 in 0..1 << super::LPID_BITS {
                    all = all.and(self.forget_partition(l2, ric, l1, by));
                }
                all?;
            }
        }
        Ok(())
    }

    /// Drops what partition `l2` has in a range, which may lie anywhere.
    fn forget_range<I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        l2: u32,
        start: Gpa,
        bytes: u64,
        by: &I,
    ) -> Result<(), Error> {
        let Self { partitions, links, .. } = self;
        let Some(partition) = partitions.get_mut(&l2) else { return Ok(()) };
        Self::drop_entries(partition, links, l2, (start, bytes), by)
    }

    /// Drops what `ric` reaches of partition `l2`. Nothing is kept of L1's directories, so the
    /// page-walk cache alone is nothing.
    fn forget_partition<G: TableMemory<Gpa>, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        l2: u32,
        ric: Ric,
        l1: &G,
        by: &I,
    ) -> Result<(), Error> {
        let Self { table, partitions, links } = self;
        let Some(partition) = partitions.get_mut(&l2).filter(|_| ric != Ric::WalkCache) else {
            return Ok(());
        };
        if ric == Ric::All {
            partition.reload(*table, l2, l1);
        }
        Self::drop_entries(partition, links, l2, (Gpa::new(0), 1 << ADDRESS_BITS), by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::radix::Tlbie;

    #[test]
    fn arguments() {
        const P: Result<TlbInvalidation, HcallError> = Err(HcallError::Parameter);
        let page = |n_gpa: u64, size: PageSize| {
            let last = Gpa::new(n_gpa | low_bits(size.shift()));
            Ok(TlbInvalidation::Pages { l2: 3, first: Gpa::new(n_gpa), last })
        };
        let partition = |ric| Ok(TlbInvalidation::Partition { l2: 3, ric });
        for (name, arguments, want) in [
            ("4K", [0x1_0000, 3, 0x1234_5000], page(0x1234_5000, PageSize::K4)),
            ("64K", [0x1_0000, 3, 0x1234_50a0], page(0x1234_0000, PageSize::K64)),
            ("2M", [0x1_0000, 3, 0x1234_5020], page(0x1220_0000, PageSize::M2)),
            ("1G", [0x1_0000, 3, 0x5234_5040], page(0x4000_0000, PageSize::G1)),
            ("AP 3", [0x1_0000, 3, 0x1234_5060], P),
            ("page, RIC 1", [0x5_0000, 3, 0x1234_5000], P),
            ("page, RIC 2", [0x9_0000, 3, 0x1234_5000], P),
            ("RIC 3", [0xd_0000, 3, 0x800], P),
            ("R 0", [0, 3, 0x800], P),
            ("PRS 1", [0x3_0000, 3, 0x800], P),
            ("IS 1", [0x1_0000, 3, 0x400], P),
            ("partition", [0x1_0000, 3, 0x800], partition(Ric::Tlb)),
            ("walk cache", [0x5_0000, 3, 0x800], partition(Ric::WalkCache)),
            ("partition, all", [0x9_0000, 3, 0x800], partition(Ric::All)),
            ("everything", [0x9_0000, 3, 0xc00], Ok(TlbInvalidation::Everything { ric: Ric::All })),
            ("PID is nobody's business", [0x1_0000, 7 << 32 | 3, 0x800], partition(Ric::Tlb)),
        ] {
            assert_eq!(TlbInvalidation::of(arguments), want, "{name}");
        }
    }

    #[test]
    fn case_b3_ranges() {
        const ALL: u64 = u64::MAX;
        const NESTED: u64 = 1;
        const TLB: u64 = 2;
        const PWC: u64 = 4;
        const PRT: u64 = 8;
        let pages = |first, last| {
            Ok(TlbInvalidation::Pages { l2: 3, first: Gpa::new(first), last: Gpa::new(last) })
        };
        let partition = |ric| Ok(TlbInvalidation::Partition { l2: 3, ric });
        let nothing = Ok(TlbInvalidation::Nothing);
        for (name, id, target, types, sizes, (start, end), want) in [
            ("not nested", 3, 1, TLB, 1, (0, 1), Err(HcallError::Parameter)),
            ("backwards", 3, 1, NESTED | TLB, 1, (2, 1), Err(HcallError::P5)),
            ("backwards before the target", 3, 4, NESTED | TLB, 1, (2, 1), Err(HcallError::P5)),
            ("the nest", 3, 5, NESTED | TLB, 1, (0, 1), Err(HcallError::P2)),
            ("no target", 3, 0, NESTED | TLB, 1, (0, 1), Err(HcallError::P2)),
            ("this processor", 3, 2, NESTED | TLB, 1, (0, 1), Err(HcallError::P2)),
            ("a number that no partition has", 1 << 32, 1, NESTED | TLB, 1, (0, 1), nothing),
            ("all", 3, 1, 15, ALL, (0, ALL), partition(Ric::All)),
            ("all of a page", 3, 1, 15, 1, (0, 1), partition(Ric::All)),
            ("the entry", 3, 1, NESTED | PRT, 0, (0, 1), partition(Ric::All)),
            ("everywhere", 3, 1, NESTED | TLB, 0, (0, ALL), partition(Ric::Tlb)),
            ("everywhere, tables", 3, 1, NESTED | PWC, 0, (0, ALL), partition(Ric::Tlb)),
            ("no size", 3, 1, NESTED | TLB, 0, (0, 1), Err(HcallError::P4)),
            ("no size of radix", 3, 1, NESTED | TLB, 0xf0, (0, 1), Err(HcallError::P4)),
            ("tables", 3, 1, NESTED | PWC, 0, (0, 1), nothing),
            ("nothing", 3, 1, NESTED, 1, (0, 1), nothing),
            ("a page", 3, 1, NESTED | TLB, 1, (0x1000, 0x2000), pages(0x1000, 0x1fff)),
            ("an empty range", 3, 1, NESTED | TLB, 1, (0x1000, 0x1000), pages(0x1000, 0x1fff)),
            ("empty, at 0", 3, 1, NESTED | TLB, 2, (0, 0), pages(0, 0xffff)),
            ("empty, at the end", 3, 1, NESTED | TLB, 1, (ALL, ALL), pages(!0xfff, ALL)),
            ("askew", 3, 1, NESTED | TLB, 1, (0x1800, 0x2800), pages(0x1000, 0x2fff)),
            (
                "the page in which it lies",
                3,
                1,
                NESTED | TLB,
                4,
                (0x1000, 0x2000),
                pages(0, 0x1f_ffff),
            ),
            (
                "the largest counts",
                3,
                1,
                NESTED | TLB,
                0xf,
                (0x1000, 0x2000),
                pages(0, 0x3fff_ffff),
            ),
            ("up to the end", 3, 1, NESTED | TLB, 1, (0x1000, ALL), pages(0x1000, ALL)),
        ] {
            let call = RptInvalidate {
                id,
                target: RptTarget::from_bits(target),
                types: types.into(),
                pages: sizes.into(),
                start,
                end,
            };
            assert_eq!(TlbInvalidation::of_rpt(&call), want, "{name}");
        }
        assert_eq!(HcallError::P4.code(), -57);
    }

    /// What our own nested hypervisor would say is understood.
    #[test]
    fn the_inverse_of_asking() {
        let whose = Rs::new().with_lpid(3);
        for size in PageSize::ALL {
            let n_gpa = Gpa::new(5 << 30);
            let one = Tlbie::<Stage2>::page(n_gpa.get(), size, whose);
            assert!(!one.prs());
            let said = one.h_tlb_invalidate();
            let last = Gpa::new(n_gpa.get() | low_bits(size.shift()));
            let want = Ok(TlbInvalidation::Pages { l2: 3, first: n_gpa, last });
            assert_eq!(TlbInvalidation::of(said), want);
        }
        for ric in [Ric::Tlb, Ric::WalkCache, Ric::All] {
            let said = Tlbie::<Stage2>::space(ric, whose).h_tlb_invalidate();
            assert_eq!(TlbInvalidation::of(said), Ok(TlbInvalidation::Partition { l2: 3, ric }));
        }
    }
}
