//! Small values, one by one, as the architecture and PAPR number them.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::format::Format;
use pgtable::{Attributes, Prot};
use pgtable_ppc64::hash::{Context, PageSize, SegmentSize};
use pgtable_ppc64::radix::{Att, Granule, PageAttributes, ProcessScoped, RcPolicy};
use pgtable_ppc64::shadow::{Error, HcallError};

#[test]
fn sizes_of_pages() {
    let sizes = [(PageSize::K4, 12), (PageSize::K64, 16), (PageSize::M16, 24), (PageSize::G16, 34)];
    for (size, shift) in sizes {
        assert_eq!(
            (size.bytes(), size.shift(), PageSize::of_shift(shift)),
            (1 << shift, shift, Some(size))
        );
    }
}

/// ISA v3.0B Book III 5.7.10.2, leaf entries: SW0 is bit 2, SW1 to SW3 are bits 52:54, R is bit 55,
/// C bit 56 (counted from the left).
#[test]
fn fields_of_a_radix_page() {
    let format = ProcessScoped::new(Granule::K64).with_rc(RcPolicy::Fault);
    assert_eq!(format.rc(), RcPolicy::Fault);
    assert_eq!(format.with_rc(RcPolicy::HardwareUpdate).rc(), RcPolicy::HardwareUpdate);
    let at = pgtable::Position { level: pgtable::Level(0), shift: 16 };
    let plain = PageAttributes::from(Prot::RW).with_r(false).with_c(false);
    let word =
        |page: PageAttributes| format.leaves(pgtable::Address::new(0), page, at).unwrap().first;
    let bit = |n: u32| 1_u64 << (63 - n);
    for bits in 0..=u8::MAX {
        let page = plain.with_software(bits);
        assert_eq!(page.software(), bits & 15);
        let set = |mask: u8, n: u32| if bits & mask != 0 { bit(n) } else { 0 };
        assert_eq!(word(page) ^ word(plain), set(8, 2) | set(4, 52) | set(2, 53) | set(1, 54));
        assert_eq!(
            (page.prot(), page.att(), page.r(), page.c()),
            (Prot::RW, Att::Normal, false, false)
        );
    }
    for (r, c) in [(true, false), (false, true), (true, true)] {
        let page = plain.with_r(r).with_c(c);
        assert_eq!((page.r(), page.c()), (r, c));
        assert_eq!(word(page) ^ word(plain), (u64::from(r) * bit(55)) | (u64::from(c) * bit(56)));
    }
}

/// PAPR's return codes.
#[test]
fn what_a_nested_hypervisor_is_told() {
    let codes = [
        HcallError::Parameter,
        HcallError::P2,
        HcallError::P5,
        HcallError::Shadow(Error::NoMemory),
    ];
    assert_eq!(codes.map(|error| error.code()), [-4, -55, -58, -1]);
}

/// A virtual address has 78 bits: what a segment has not of them names it.
#[test]
fn segments() {
    for (size, shift, b) in [(SegmentSize::M256, 28, 0), (SegmentSize::T1, 40, 1)] {
        assert_eq!((size.shift(), size.vsid_bits(), size.b()), (shift, 78 - shift, b));
    }
    for id in [1, 2, 5, (1 << 19) - 2] {
        assert_eq!(Context::new(id).map(Context::id), Some(id));
    }
    assert_eq!([0, (1 << 19) - 1, u32::MAX].map(Context::new), [None; 3]);
}
