//! What to execute so that stale translations become unreachable: operands, from a [`Stale`].
//!
//! Data only: which processors to interrupt, and the instructions themselves, are the embedder's,
//! in its [`Invalidate`](pgtable::invalidate::Invalidate).
//!
//! INVLPG drops every paging-structure cache entry of the current PCID, so it does for tables that
//! left the tree too (SDM §4.10.4.1; AMD's as well, unless EFER.TCE is on). The address forms of
//! INVPCID and INVVPID drop those of one address only: where tables left the tree, the operands
//! here name the whole context instead.

use core::num::NonZeroU16;

use bitfield_struct::bitfield;
use pgtable::invalidate::Stale;
use pgtable::{Gpa, Gva};

use crate::ept_entry::Eptp;
use crate::registers::Pcid;

/// Up to how many pages are worth invalidating one by one: Linux's `tlb_single_page_flush_ceiling`.
pub const CEILING: u64 = 33;

/// How to make stale translations of the current address space unreachable on this processor:
/// INVLPG for each of the pages, of which any address drops all of it, or everything: load CR3
/// again; if translations may be global, toggle CR4.PGE or use INVPCID.
pub type Flush<'s> = pgtable::invalidate::Flush<'s, Gva>;

/// The address of each stale page, once, whatever its size.
pub type Pages<'s> = pgtable::invalidate::Pages<'s, Gva>;

/// The INVPCID type: its register operand (SDM vol. 2, INVPCID).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u64)]
pub enum InvpcidType {
    /// One address of one PCID, global translations excepted.
    IndividualAddress = 0,
    /// One PCID, global translations excepted.
    SingleContext = 1,
    /// All PCIDs, with global translations.
    AllContextsAndGlobals = 2,
    /// All PCIDs, global translations excepted.
    AllContexts = 3,
}

/// The INVPCID descriptor: its memory operand.
#[bitfield(u128)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvpcidDescriptor {
    /// The process-context identifier.
    #[bits(12)]
    pub pcid: u16,
    #[bits(52)]
    __: u64,
    /// The linear address, for [`InvpcidType::IndividualAddress`].
    #[bits(64)]
    pub linear_address: u64,
}

/// One INVPCID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invpcid {
    /// The register operand.
    pub kind: InvpcidType,
    /// The memory operand.
    pub descriptor: InvpcidDescriptor,
}

/// The INVPCIDs that make `stale` unreachable under `pcid`, whatever PCID is current. `globals`:
/// translations of this space may be global; then everything global goes, since INVPCID has no
/// narrower form for them.
pub fn invpcid(
    stale: &Stale<Gva>,
    pcid: Pcid,
    globals: bool,
    ceiling: u64,
) -> impl Iterator<Item = Invpcid> {
    let descriptor = InvpcidDescriptor::new().with_pcid(pcid.get());
    let page = move |address: Gva| Invpcid {
        kind: InvpcidType::IndividualAddress,
        descriptor: descriptor.with_linear_address(address.get()),
    };
    let whole = if globals {
        Invpcid { kind: InvpcidType::AllContextsAndGlobals, descriptor: InvpcidDescriptor::new() }
    } else {
        Invpcid { kind: InvpcidType::SingleContext, descriptor }
    };
    Flush::of(stale, ceiling).operands(!globals && !stale.tables(), page, whole)
}

/// The INVVPID type: its register operand (SDM §31.3, INVVPID).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u64)]
pub enum InvvpidType {
    /// One linear address of one VPID.
    IndividualAddress = 0,
    /// One VPID.
    SingleContext = 1,
    /// All VPIDs but 0.
    AllContexts = 2,
    /// One VPID, global translations excepted.
    SingleContextRetainingGlobals = 3,
}

/// The INVVPID descriptor: its memory operand.
#[bitfield(u128)]
#[derive(PartialEq, Eq, Hash)]
pub struct InvvpidDescriptor {
    /// The virtual-processor identifier.
    pub vpid: u16,
    #[bits(48)]
    __: u64,
    /// The linear address, for [`InvvpidType::IndividualAddress`].
    #[bits(64)]
    pub linear_address: u64,
}

/// One INVVPID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invvpid {
    /// The register operand.
    pub kind: InvvpidType,
    /// The memory operand.
    pub descriptor: InvvpidDescriptor,
}

/// The INVVPIDs by which a hypervisor makes a guest's `stale` stage-1 translations unreachable;
/// global ones and every PCID included.
///
/// They need bits 40 and 41 of `IA32_VMX_EPT_VPID_CAP`; a processor without bit 40 takes a
/// `ceiling` of 0, one without bit 41 [`InvvpidType::AllContexts`] instead.
pub fn invvpid(
    stale: &Stale<Gva>,
    vpid: NonZeroU16,
    ceiling: u64,
) -> impl Iterator<Item = Invvpid> {
    let descriptor = InvvpidDescriptor::new().with_vpid(vpid.get());
    let page = move |address: Gva| Invvpid {
        kind: InvvpidType::IndividualAddress,
        descriptor: descriptor.with_linear_address(address.get()),
    };
    let whole = Invvpid { kind: InvvpidType::SingleContext, descriptor };
    Flush::of(stale, ceiling).operands(!stale.tables(), page, whole)
}

/// The INVEPT type: its register operand (SDM §31.3, INVEPT).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u64)]
pub enum InveptType {
    /// Everything that came from one EPT pointer.
    SingleContext = 1,
    /// Everything that came from any EPT pointer.
    AllContexts = 2,
}

/// The INVEPT descriptor: its memory operand.
#[bitfield(u128)]
#[derive(PartialEq, Eq, Hash)]
pub struct InveptDescriptor {
    /// The EPT pointer.
    #[bits(64)]
    pub eptp: Eptp,
    #[bits(64)]
    __: u64,
}

/// One INVEPT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Invept {
    /// The register operand.
    pub kind: InveptType,
    /// The memory operand.
    pub descriptor: InveptDescriptor,
}

/// The INVEPT that makes `stale` unreachable through `eptp`, if anything is stale: it has no form
/// for one address.
///
/// It needs bit 25 of `IA32_VMX_EPT_VPID_CAP`; a processor without takes
/// [`InveptType::AllContexts`] instead. Each processor that ran the guest executes it, or does so
/// before it runs the guest again.
#[must_use]
pub fn invept(stale: &Stale<Gpa>, eptp: Eptp) -> Option<Invept> {
    let descriptor = InveptDescriptor::new().with_eptp(eptp);
    (!stale.is_empty()).then_some(Invept { kind: InveptType::SingleContext, descriptor })
}

/// `TLB_CONTROL` of a VMCB: what the next VMRUN invalidates (APM §15.16.1).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum TlbControl {
    /// Nothing.
    #[default]
    Nothing = 0,
    /// Everything of every ASID.
    Everything = 1,
    /// Everything of this guest's ASID.
    Guest = 3,
    /// Everything of this guest's ASID, global translations excepted.
    GuestNonGlobal = 7,
}

/// The `TLB_CONTROL` that makes a guest's `stale` nested translations unreachable. `flush_by_asid`:
/// CPUID.8000000AH:EDX.FlushByAsid.
///
/// It acts on the next VMRUN, on that processor, so all of the guest's VMCBs take it; the guest has
/// to leave each processor first.
#[must_use]
pub fn tlb_control(stale: &Stale<Gpa>, flush_by_asid: bool) -> TlbControl {
    match (stale.is_empty(), flush_by_asid) {
        (true, _) => TlbControl::Nothing,
        (false, true) => TlbControl::Guest,
        (false, false) => TlbControl::Everything,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed};
    use pgtable::{Address, Stage, Stage1, Stage2};
    extern crate std;
    use std::vec::Vec;

    /// Lets a test look at a gather's contents and drop it.
    pub(crate) struct Look;

    impl<S: Stage> Invalidate<S> for Look {
        type Identity = ();

        fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
            Ok(())
        }

        fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
    }

    pub(crate) fn gather<S: Stage>(
        ranges: &[(u64, u64, u8)],
        everything: bool,
    ) -> Gather<'static, S, Look> {
        let mut gather = Gather::new(&Look, ());
        for &(start, last, shift) in ranges {
            gather.pages(S::Input::new(start), S::Input::new(last), shift);
        }
        if everything {
            gather.everything();
        }
        gather
    }

    fn addresses(gather: &Gather<'_, Stage1, Look>, ceiling: u64) -> Option<Vec<u64>> {
        match Flush::of(gather.stale(), ceiling) {
            Flush::Nothing => Some(Vec::new()),
            Flush::Pages(pages) => Some(pages.map(Gva::get).collect()),
            Flush::Everything => None,
        }
    }

    #[test]
    fn pages() {
        type Row<'a> = (&'a [(u64, u64, u8)], bool, u64, Option<&'a [u64]>);
        let top = 0xffff_ffff_ffff_f000;
        let both = [top - 0x1000, top];
        let rows: &[Row<'_>] = &[
            (&[], false, CEILING, Some(&[])),
            (&[], true, CEILING, None),
            (&[(0x1000, 0x3000, 12)], false, CEILING, Some(&[0x1000, 0x2000, 0x3000])),
            (&[(0x1000, 0x3000, 12)], false, 2, None),
            (&[(0x1000, 0x3000, 12)], true, CEILING, None),
            (
                &[(0x20_0000, 0x40_0000, 21), (0x1000, 0x1000, 12)],
                false,
                3,
                Some(&[0x20_0000, 0x40_0000, 0x1000]),
            ),
            (&[(0, 0, 30)], false, CEILING, Some(&[0])),
            (&[(top - 0x1000, top, 12)], false, CEILING, Some(&both)),
            (&[(0, top, 12)], false, CEILING, None),
        ];
        for &(ranges, everything, ceiling, want) in rows {
            let got = addresses(&gather(ranges, everything), ceiling);
            assert_eq!(got.as_deref(), want, "{ranges:x?} {everything} {ceiling}");
        }
    }

    #[test]
    fn instructions() {
        let some = gather::<Stage1>(&[(0xffff_8000_0000_1000, 0xffff_8000_0000_2000, 12)], false);
        let all = gather::<Stage1>(&[], true);
        let pcid = Pcid::new(0x123).unwrap();
        let raw = |gather: &Gather<'_, Stage1, Look>, globals| -> Vec<(u64, u128)> {
            invpcid(gather.stale(), pcid, globals, CEILING)
                .map(|it| (it.kind as u64, it.descriptor.into_bits()))
                .collect()
        };
        let first = 0xffff_8000_0000_1000_0000_0000_0000_0123;
        let second = 0xffff_8000_0000_2000_0000_0000_0000_0123;
        assert_eq!(raw(&some, false), [(0, first), (0, second)]);
        assert_eq!(raw(&some, true), [(2, 0)]);
        assert_eq!(raw(&all, false), [(1, 0x123)]);
        assert_eq!(raw(&gather(&[], false), false), []);

        let vpid = NonZeroU16::new(0x4567).unwrap();
        let raw = |gather: &Gather<'_, Stage1, Look>| -> Vec<(u64, u128)> {
            invvpid(gather.stale(), vpid, CEILING)
                .map(|it| (it.kind as u64, it.descriptor.into_bits()))
                .collect()
        };
        assert_eq!(raw(&some), [(0, first - 0x123 + 0x4567), (0, second - 0x123 + 0x4567)]);
        assert_eq!(raw(&all), [(1, 0x4567)]);

        let none = gather::<Stage2>(&[], false);
        let some = gather::<Stage2>(&[(0x1000, 0x1000, 12)], false);
        let eptp = Eptp::from_bits(0x1234_505e);
        assert_eq!(invept(none.stale(), eptp), None);
        let it = invept(some.stale(), eptp).unwrap();
        assert_eq!((it.kind as u64, it.descriptor.into_bits()), (1, 0x1234_505e));
        assert_eq!(tlb_control(none.stale(), true), TlbControl::Nothing);
        assert_eq!(tlb_control(some.stale(), true), TlbControl::Guest);
        assert_eq!(tlb_control(some.stale(), false), TlbControl::Everything);
    }
}
