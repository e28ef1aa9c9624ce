//! `tlbie` and `tlbiel` for hashed translation: the operands that forget one entry (Power ISA v3.0B
//! Book III 5.9.3.3, with R = 0).

use bitfield_struct::bitfield;
use pgtable::low_bits;

use super::hpte::{Hpte, HpteR, HpteV};
use super::order::HptOrder;
use super::page_size::{PageSize, PageSizes};
use super::segment::SegmentSize;
use super::virtual_page::VirtualPage;

/// The fields of RB that do not depend on the page's size.
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
struct Rb {
    /// 0:43: Abbreviated Virtual Address; with a base size of 4 KiB it goes on to bit 51, else LP
    /// stands in bits 44:51.
    #[bits(44)]
    ava: u64,
    /// 44:51: AVA or LP.
    ava_or_lp: u8,
    /// 52:53: Invalidation Selector.
    #[bits(2)]
    is: u8,
    /// 54:55: segment size.
    #[bits(2)]
    b: u8,
    /// 56:58: L = 0: actual page size. L = 1: the beginning of AVAL (56:62), more bits of the
    /// virtual address.
    #[bits(3)]
    ap: u8,
    #[bits(4)]
    aval: u8,
    /// 63: the base size is not 4 KiB.
    l: bool,
}

/// Which translations to forget: those of one entry.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct HashTlbie {
    rb: u64,
}

impl HashTlbie {
    /// AP of 64K and 16M pages in segments of 4K.
    const AP_64K: u8 = 5;
    const AP_16M: u8 = 4;
    /// How many low bits of the virtual page number an entry leaves to its place in the table.
    const MISSING: u8 = 11;

    /// What `hpte`, which stands (or stood) at `ptex`, has translated. `None` if it names no page
    /// size: such an entry translates nothing.
    ///
    /// As Linux computes it (`compute_tlbie_rb`), bit by bit.
    #[must_use]
    pub fn of(hpte: Hpte, ptex: u64) -> Option<Self> {
        let sizes = hpte.sizes()?;
        let (base, actual) = (sizes.base().shift(), sizes.actual().shift());
        let page = hpte.v.into_bits() & HpteV::PAGE;
        let segment = if hpte.v.b() & 1 == 0 { SegmentSize::M256 } else { SegmentSize::T1 };
        // The hash is undone: place in the table ^ VSID = the bits of the page number that the
        // entry does not have.
        let group = ptex >> 3;
        let hash = if hpte.v.h() { !group } else { group };
        let low = (hash ^ page >> (segment.shift() - 16)) & low_bits(Self::MISSING);
        let mut rb = page << 16;
        if base == PageSize::K4.shift() {
            let ap = match sizes.actual() {
                PageSize::K64 => Self::AP_64K,
                PageSize::M16 => Self::AP_16M,
                _ => 0,
            };
            rb |= low << 12 | Rb::new().with_ap(ap).into_bits();
        } else {
            let lp = (hpte.r.rpn() << 12)
                & Rb::new().with_ava_or_lp(u8::MAX).into_bits()
                & low_bits(actual);
            rb |= low << base & low_bits(23) & !low_bits(12);
            rb &= !low_bits(actual);
            // The missing bits that stand below 4 KiB of AVA, from bit 56 on; bit 63 is L.
            let aval = low << (base - PageSize::K4.shift());
            rb |= aval & Rb::new().with_ap(7).with_aval(15).into_bits();
            rb |= lp | Rb::new().with_l(true).into_bits();
        }
        Some(Self { rb: rb | Rb::new().with_b(hpte.v.b()).into_bits() })
    }

    /// What any entry for `page` has translated, of these page sizes, wherever it stood.
    #[must_use]
    pub fn of_page(page: &VirtualPage, sizes: PageSizes) -> Option<Self> {
        let hpte =
            Hpte { v: page.v().with_l(sizes.lp().is_some()), r: HpteR::new().with_sizes(sizes) };
        Self::of(hpte, HptOrder::MAX.group(page.hash(), false) << 3)
    }

    /// Register RB. RS is the partition (LPID); RIC, PRS and R are 0.
    #[must_use]
    pub const fn rb(self) -> u64 {
        self.rb
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::Segment;
    use pgtable::Gva;

    /// For a person to compare with `compute_tlbie_rb`: the same steps, on plain numbers.
    fn linux(v: u64, r: u64, ptex: u64, base: u32, actual: u32) -> u64 {
        let mut rb = (v & !0x7f) << 16;
        let mut va_low = ptex >> 3;
        if v & 2 != 0 {
            va_low = !va_low;
        }
        va_low ^= v >> if v >> 62 == 0 { 28 - 16 } else { 40 - 16 };
        va_low &= 0x7ff;
        if base <= 12 {
            rb |= match actual {
                16 => 5 << 5,
                24 => 4 << 5,
                _ => 0,
            };
            rb |= va_low << 12;
        } else {
            rb |= (va_low << base) & 0x7f_f000;
            rb &= !((1 << actual) - 1);
            rb |= (va_low << (64 - (77 - base) + 1)) & 0xfe;
            rb |= 1 | r & 0xf_f000 & ((1 << actual) - 1);
        }
        rb | (v >> 62) << 8
    }

    #[test]
    fn as_linux_computes_it() {
        let order = HptOrder::new(24).unwrap();
        for sizes in PageSizes::ALL {
            for (size, vsid) in
                [(SegmentSize::M256, 0x00f9_463f_51f7), (SegmentSize::T1, 0x07d7_44cb)]
            {
                for (address, h) in [(0x0765_4321, false), (0x0fff_ffff, true), (0x0101_0000, true)]
                {
                    let segment = Segment {
                        vsid,
                        size,
                        base: sizes.base(),
                        ks: false,
                        kp: true,
                        n: false,
                        class: false,
                    };
                    let page = VirtualPage::of(&segment, Gva::new(address));
                    let r = HpteR::from_bits(
                        0x0123_4567_0000_0190 & !low_bits(sizes.actual().shift()) | 0x190,
                    );
                    let hpte = Hpte {
                        v: page.v().with_l(sizes.lp().is_some()).with_h(h),
                        r: r.with_sizes(sizes),
                    };
                    let ptex = order.group(page.hash(), h) * 8 + 3;
                    let (base, actual) =
                        (sizes.base().shift().into(), sizes.actual().shift().into());
                    let want = linux(hpte.v.into_bits(), hpte.r.into_bits(), ptex, base, actual);
                    let rb = HashTlbie::of(hpte, ptex).unwrap().rb();
                    assert_eq!(rb, want, "{sizes:?} {size:?} {address:#x}: {rb:#x} {want:#x}");
                }
            }
        }
    }

    /// With a base of 4 KiB the operand simply holds the virtual address.
    #[test]
    fn a_4k_page_is_its_virtual_address() {
        let segment = Segment {
            vsid: 0x123_4567,
            size: SegmentSize::M256,
            base: PageSize::K4,
            ks: false,
            kp: true,
            n: false,
            class: false,
        };
        let page = VirtualPage::of(&segment, Gva::new(0x0abc_d000));
        let order = HptOrder::new(18).unwrap();
        let hpte = Hpte { v: page.v(), r: HpteR::from_bits(0x5190) };
        let ptex = order.group(page.hash(), false) * 8;
        assert_eq!(
            HashTlbie::of(hpte, ptex).map(HashTlbie::rb),
            Some(0x123_4567 << 28 | 0x0abc_d000)
        );
        let nonsense = Hpte { v: page.v().with_l(true), r: HpteR::from_bits(0xf190) };
        assert_eq!(HashTlbie::of(nonsense, ptex), None);
    }
}
