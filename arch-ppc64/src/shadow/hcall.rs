//! From L1's side: the hypercalls by which L1 says that it changed its tables.

use pgtable::{Gpa, Hpa, Invalidate, Stage2, TableAllocator, TableMemory, low_bits};

use super::{Error, HcallError, Nested};
use crate::radix::{ADDRESS_BITS, PageSize, Rb, Ric, RptInvalidate, Rs};

/// The hypercall number of `H_SET_PARTITION_TABLE`.
pub const H_SET_PARTITION_TABLE: u64 = 0xF800;

/// An `H_TLB_INVALIDATE` in words.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TlbInvalidation {
    /// One page of partition `l2`.
    Page {
        /// The partition.
        l2: u32,
        /// The page's first address.
        n_gpa: Gpa,
        /// Its size.
        size: PageSize,
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
                let n_gpa = Gpa::new(rb.epn() << 12 & !low_bits(size.shift()));
                Ok(Self::Page { l2, n_gpa, size })
            }
            2 => Ok(Self::Partition { l2, ric }),
            3 => Ok(Self::Everything { ric }),
            _ => Err(HcallError::Parameter),
        }
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
        match TlbInvalidation::of(arguments)? {
            TlbInvalidation::Page { l2, n_gpa, size } => {
                self.forget_range(l2, n_gpa, 1 << size.shift(), by)?
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

    /// `H_RPT_INVALIDATE` with the type NESTED: the same, as ranges.
    ///
    /// # Errors
    /// [`HcallError::P5`] for a range that ends before it begins, [`HcallError::P2`] for another
    /// target than processors, [`HcallError::Parameter`] for a partition without a shadow, or if
    /// the type is not NESTED; [`HcallError::Shadow`].
    pub fn h_rpt_invalidate<G: TableMemory<Gpa>, I: Invalidate<Stage2, Identity = u32>>(
        &mut self,
        call: &RptInvalidate,
        l1: &G,
        by: &I,
    ) -> Result<(), HcallError> {
        if !call.types.nested() {
            return Err(HcallError::Parameter);
        }
        if call.end < call.start {
            return Err(HcallError::P5);
        }
        if call.target.into_bits() != 1 {
            return Err(HcallError::P2);
        }
        let l2 = u32::try_from(call.id).ok().filter(|l2| self.partitions.contains_key(l2));
        let l2 = l2.ok_or(HcallError::Parameter)?;
        let whole = call.start == 0 && call.end == u64::MAX;
        if call.types.tlb() && call.types.pwc() && call.types.prt() {
            self.forget_partition(l2, Ric::All, l1, by)?;
        } else if whole && call.types.tlb() {
            self.forget_partition(l2, Ric::Tlb, l1, by)?;
        } else if call.types.tlb() {
            // Whatever the page size: entries of every size that the range meets.
            self.forget_range(l2, Gpa::new(call.start), call.end - call.start, by)?;
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
        let page = |n_gpa, size| Ok(TlbInvalidation::Page { l2: 3, n_gpa: Gpa::new(n_gpa), size });
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

    /// What our own nested hypervisor would say is understood.
    #[test]
    fn the_inverse_of_asking() {
        let whose = Rs::new().with_lpid(3);
        for size in PageSize::ALL {
            let n_gpa = Gpa::new(5 << 30);
            let one = Tlbie::<Stage2>::page(n_gpa.get(), size, whose);
            assert!(!one.prs());
            let said = one.h_tlb_invalidate();
            assert_eq!(TlbInvalidation::of(said), Ok(TlbInvalidation::Page { l2: 3, n_gpa, size }));
        }
        for ric in [Ric::Tlb, Ric::WalkCache, Ric::All] {
            let said = Tlbie::<Stage2>::space(ric, whose).h_tlb_invalidate();
            assert_eq!(TlbInvalidation::of(said), Ok(TlbInvalidation::Partition { l2: 3, ric }));
        }
    }
}
