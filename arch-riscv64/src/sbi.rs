//! Fences on other harts: calls of the RFENCE extension of the Supervisor Binary Interface (SBI
//! specification 2.0 and later, "RFENCE Extension").

use core::iter::{FusedIterator, Peekable};

use pgtable::invalidate::{Flush, Stale};
use pgtable::{Address, Gpa, Gva};

use crate::fence::reach;

/// The extension's number, EID: "RFNC".
pub const RFENCE: u64 = 0x5246_4e43;

/// A call: ECALL from S-mode or HS-mode with the extension in a7, the function in a6, and the
/// arguments in a0 to a4.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SbiCall {
    /// a7: the extension, [`RFENCE`].
    pub extension: u64,
    /// a6: the function, FID.
    pub function: u64,
    /// a0 to a4: hart mask, base of the hart mask, start, size, and an ASID or VMID.
    pub arguments: [u64; 5],
}

/// Some harts: bit n of the mask is hart `base + n`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HartMask {
    /// The mask.
    pub mask: u64,
    /// The hart of bit 0; all ones for all harts.
    pub base: u64,
}

impl HartMask {
    /// All harts that are available.
    pub const ALL: Self = Self { mask: 0, base: u64::MAX };

    /// The masks for `harts`, hart numbers in ascending order: one for each 64 consecutive numbers
    /// that have any.
    pub fn of<I: IntoIterator<Item = u64>>(harts: I) -> HartMasks<I::IntoIter> {
        HartMasks(harts.into_iter().peekable())
    }
}

/// The iterator of [`HartMask::of`].
#[derive(Clone, Debug)]
pub struct HartMasks<I: Iterator<Item = u64>>(Peekable<I>);

impl<I: Iterator<Item = u64>> Iterator for HartMasks<I> {
    type Item = HartMask;

    fn next(&mut self) -> Option<HartMask> {
        let base = self.0.next()?;
        let mut mask = 1;
        while let Some(hart) = self.0.next_if(|&hart| hart.wrapping_sub(base) < 64) {
            mask |= 1 << (hart - base);
        }
        Some(HartMask { mask, base })
    }
}

impl<I: Iterator<Item = u64>> FusedIterator for HartMasks<I> {}

/// The calls for `stale`: one for each range, or one for everything. `functions`: with an
/// identifier, without.
fn calls<A: Address>(
    stale: &Stale<A>,
    (of_one, of_all): (u64, u64),
    id: Option<u16>,
    HartMask { mask, base }: HartMask,
    ceiling: u64,
) -> impl Iterator<Item = SbiCall> {
    let call = move |start, size| SbiCall {
        extension: RFENCE,
        function: if id.is_some() { of_one } else { of_all },
        arguments: [mask, base, start, size, id.map_or(0, u64::from)],
    };
    let (ranges, whole) = match Flush::in_parts(stale, ceiling, reach) {
        Flush::Nothing => (&[][..], None),
        Flush::Pages(_) if !stale.tables() => (stale.ranges(), None),
        // Start 0 and size 0 are the whole address space.
        Flush::Pages(_) | Flush::Everything => (&[][..], Some(call(0, 0))),
    };
    let by_range = ranges.iter().map(move |range| {
        let size = range.last.get().wrapping_sub(range.start.get()).wrapping_add(1 << range.shift);
        call(range.start.get(), size)
    });
    by_range.chain(whole)
}

/// The calls that have `harts` execute SFENCE.VMA for `stale`; the arguments otherwise as of
/// [`sfence_vma`](crate::sfence_vma).
pub fn remote_sfence_vma(
    stale: &Stale<Gva>,
    asid: Option<u16>,
    harts: HartMask,
    ceiling: u64,
) -> impl Iterator<Item = SbiCall> {
    calls(stale, (2, 1), asid, harts, ceiling)
}

/// The calls that have `harts` execute HFENCE.VVMA for `stale`, for the VM in the caller's hgatp.
pub fn remote_hfence_vvma(
    stale: &Stale<Gva>,
    asid: Option<u16>,
    harts: HartMask,
    ceiling: u64,
) -> impl Iterator<Item = SbiCall> {
    calls(stale, (5, 6), asid, harts, ceiling)
}

/// The calls that have `harts` execute HFENCE.GVMA for `stale`. Their start is a guest-physical
/// address as it is, not shifted.
pub fn remote_hfence_gvma(
    stale: &Stale<Gpa>,
    vmid: Option<u16>,
    harts: HartMask,
    ceiling: u64,
) -> impl Iterator<Item = SbiCall> {
    calls(stale, (3, 4), vmid, harts, ceiling)
}
