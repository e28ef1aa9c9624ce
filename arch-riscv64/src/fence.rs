//! What to execute so that stale translations become unreachable: fences, from a [`Stale`].
//!
//! Data only: which harts to interrupt, and the instructions themselves, are the embedder's, in its
//! [`Invalidate`](pgtable::invalidate::Invalidate). Remote harts are reached by calls: [`SbiCall`].
//!
//! A fence by address orders leaf entries only ("Supervisor Memory-Management Fence Instruction"):
//! where tables left the tree, or were linked into it, one fence without an address is made. A page
//! of 64 KiB (Svnapot) takes 16 fences, any other page one.

use pgtable::invalidate::{Flush, Stale};
use pgtable::{Address, Gpa, Gva};

/// Up to how many pages are worth fencing one by one: Linux's `tlb_flush_all_threshold`.
pub const CEILING: u64 = 64;

/// A fence instruction, by its encoding with x0 as rs1 and rs2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
pub enum FenceInstruction {
    /// SFENCE.VMA: satp's tables, or vsatp's where V = 1.
    SfenceVma = 0x1200_0073,
    /// HFENCE.VVMA: vsatp's tables, of the VM in hgatp.
    HfenceVvma = 0x2200_0073,
    /// HFENCE.GVMA: hgatp's tables. rs1 is the address shifted right by 2.
    HfenceGvma = 0x6200_0073,
    /// SINVAL.VMA (Svinval): as SFENCE.VMA, between the two that follow.
    SinvalVma = 0x1600_0073,
    /// HINVAL.VVMA (Svinval).
    HinvalVvma = 0x2600_0073,
    /// HINVAL.GVMA (Svinval).
    HinvalGvma = 0x6600_0073,
    /// SFENCE.W.INVAL (Svinval): earlier stores are ordered before the invalidations that follow.
    SfenceWInval = 0x1800_0073,
    /// SFENCE.INVAL.IR (Svinval): the invalidations are ordered before what follows.
    SfenceInvalIr = 0x1810_0073,
}

/// One fence.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Fence {
    /// The instruction.
    pub instruction: FenceInstruction,
    /// The value of rs1, an address, in a register other than x0; `None`: x0, all addresses and all
    /// levels.
    pub rs1: Option<u64>,
    /// The value of rs2, an ASID or a VMID, in a register other than x0; `None`: x0, all of them,
    /// and global mappings too.
    pub rs2: Option<u16>,
}

impl Fence {
    /// The instruction's word, with the values of rs1 and rs2 in the registers of these numbers,
    /// which must not be 0. For assemblers that do not know it, and for code that is generated.
    #[must_use]
    pub const fn encoding(self, rs1: u8, rs2: u8) -> u32 {
        let mut word = self.instruction as u32;
        if self.rs1.is_some() {
            word |= (rs1 as u32 & 31) << 15;
        }
        if self.rs2.is_some() {
            word |= (rs2 as u32 & 31) << 20;
        }
        word
    }
}

/// What one fence by address reaches of a page: all of it, but 4 KiB of one of 64 KiB.
pub(crate) fn reach(shift: u8) -> u8 {
    if shift == 16 { 12 } else { shift }
}

/// The fences for `stale`: `plain` by page or once, or the sequence of `single`.
fn fences<A: Address>(
    stale: &Stale<A>,
    (plain, single): (FenceInstruction, FenceInstruction),
    address: fn(A) -> u64,
    rs2: Option<u16>,
    svinval: bool,
    ceiling: u64,
) -> impl Iterator<Item = Fence> {
    let flush = Flush::in_parts(stale, ceiling, reach);
    let by_page = matches!(flush, Flush::Pages(_)) && !stale.tables();
    let fence = move |instruction, rs1, rs2| Fence { instruction, rs1, rs2 };
    let around = |instruction| (svinval && by_page).then_some(fence(instruction, None, None));
    let (first, last) =
        (around(FenceInstruction::SfenceWInval), around(FenceInstruction::SfenceInvalIr));
    let instruction = if svinval { single } else { plain };
    let page = move |page| fence(instruction, Some(address(page)), rs2);
    let between = flush.operands(by_page, page, fence(plain, None, rs2));
    first.into_iter().chain(between).chain(last)
}

/// The fences by which this hart makes its own `stale` translations unreachable. `asid`: the
/// address space; `None` if translations may be global, or for all address spaces. `svinval`: by
/// SINVAL.VMA. More than `ceiling` pages are fenced at once.
pub fn sfence_vma(
    stale: &Stale<Gva>,
    asid: Option<u16>,
    svinval: bool,
    ceiling: u64,
) -> impl Iterator<Item = Fence> {
    let forms = (FenceInstruction::SfenceVma, FenceInstruction::SinvalVma);
    fences(stale, forms, Gva::get, asid, svinval, ceiling)
}

/// The fences by which a hypervisor makes a guest's `stale` first-stage translations unreachable:
/// those of the VM whose VMID is in hgatp when they are executed.
pub fn hfence_vvma(
    stale: &Stale<Gva>,
    asid: Option<u16>,
    svinval: bool,
    ceiling: u64,
) -> impl Iterator<Item = Fence> {
    let forms = (FenceInstruction::HfenceVvma, FenceInstruction::HinvalVvma);
    fences(stale, forms, Gva::get, asid, svinval, ceiling)
}

/// The fences by which a hypervisor makes `stale` translations of a guest stage unreachable, and
/// with them those of both stages. `vmid`: the VM; `None` for all.
pub fn hfence_gvma(
    stale: &Stale<Gpa>,
    vmid: Option<u16>,
    svinval: bool,
    ceiling: u64,
) -> impl Iterator<Item = Fence> {
    let forms = (FenceInstruction::HfenceGvma, FenceInstruction::HinvalGvma);
    fences(stale, forms, |gpa| gpa.get() >> 2, vmid, svinval, ceiling)
}

/// The fence that is owed after pages were mapped where nothing was, before an access relies on
/// them: a hart may remember that an entry was invalid, also one for a table. `None` with Svvptc,
/// where it forgets that by itself in bounded time; until then an access may fault once more.
///
/// Without Svvptc the fence may also be left to the handler of that fault: it finds the page
/// mapped, executes this fence, and returns. `instruction`: SFENCE.VMA, HFENCE.VVMA or HFENCE.GVMA,
/// with its ASID or VMID.
#[must_use]
pub fn fence_after_map(
    instruction: FenceInstruction,
    rs2: Option<u16>,
    svvptc: bool,
) -> Option<Fence> {
    (!svvptc).then_some(Fence { instruction, rs1: None, rs2 })
}
