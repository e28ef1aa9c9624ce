//! Hashed translation that is refused by name, and calls that fail without a trace.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::AtomicU64;

use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, Dialect, HashFault, HashMmu, HashTlbie, HcallFlags, Hcalls, Hpt, HptOrder, HpteR,
    HpteV, Layout, NoSegment, PageSize, Partition, Refused, ReturnCode, Segment, SegmentSize, Slb,
    SlbEsid,
};
use pgtable_ppc64::{Bearing, Lpcr};

fn words() -> Vec<AtomicU64> {
    (0..HptOrder::MIN.bytes() / 8).map(|_| AtomicU64::new(0)).collect()
}

fn table(words: &[AtomicU64]) -> Hpt<Gpa, DirectMap<'_, Gpa>> {
    Hpt::new(DirectMap::new(words, Gpa::new(0)), Gpa::new(0), HptOrder::MIN, Layout::V3).unwrap()
}

/// Each field of LPCR, beside what a hashed partition and a radix one has: a hashed MMU is made
/// only where its LPCR says what it does.
#[test]
fn case_b12_a_hashed_mmu_under_each_lpcr() {
    let words = words();
    let (slb, hpt) = (Slb::new(), table(&words));
    let hashed = 0x4040_0000_0004_f01f_u64;
    let under = |lpcr: u64| {
        HashMmu::under(lpcr.into(), &slb, &hpt, Authority::default()).err().map(|it| it.field)
    };
    assert_eq!(under(hashed), None, "as KVM gives it");
    let radix = Lpcr::new().with_hr(true).with_uprt(true).into_bits();
    assert_eq!(under(hashed | radix), Some("HR"), "radix");
    assert_eq!(under(radix), Some("HR"), "radix alone");
    for (field, bits, bearing) in Lpcr::FIELDS {
        let refused = match bearing {
            Bearing::None => None,
            _ => Some(field),
        };
        assert_eq!(under(hashed | bits.into_bits()), refused, "{field}");
    }
}

/// Two SLB entries for one address: no segment, and by name, whichever was written first.
#[test]
fn case_b12_more_than_one_segment_is_refused_by_name() {
    let segment = |size, vsid| Segment {
        vsid,
        size,
        base: PageSize::K4,
        ks: false,
        kp: false,
        n: false,
        class: false,
    };
    let (small, large) = (segment(SegmentSize::M256, 5), segment(SegmentSize::T1, 6));
    let beyond = Gva::new(0x2000_0000);
    let within = Gva::new(0x1000_0000);
    for order in [[0, 1], [1, 0], [30, 31], [31, 2]] {
        let words = words();
        let hpt = table(&words);
        let mut slb = Slb::new();
        let at = |index: u16, address: Gva| {
            SlbEsid::from_bits(address.get()).with_v(true).with_index(index)
        };
        slb.slbmte(at(order[0], within), small.slb_word()).unwrap();
        assert_eq!(slb.lookup(within), Ok(small));
        slb.slbmte(at(order[1], within), large.slb_word()).unwrap();
        assert_eq!(slb.lookup(within), Err(NoSegment::MultiHit), "{order:?}");
        assert_eq!(slb.lookup(beyond), Ok(large), "{order:?}: one alone is for it");
        assert_eq!(slb.lookup(Gva::new(1 << 40)), Err(NoSegment::Miss), "{order:?}");
        let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };
        for access in [Access::READ, Access::WRITE, Access::FETCH] {
            let fault = mmu.translate(within, access);
            assert_eq!(fault, Err(HashFault::MultiHit(within)), "{order:?} {access:?}");
            let Err(HashFault::Interrupt(it)) = mmu.translate(beyond, access) else {
                panic!("{order:?} {access:?}")
            };
            assert!(it.status.no_translation());
        }
        // Both are there, each as it was written, and one alone is found again.
        assert_eq!(slb.entry(order[0].into()).1, small.slb_word());
        slb.slbmte(at(order[1], Gva::new(1 << 41)), large.slb_word()).unwrap();
        assert_eq!((slb.lookup(within), slb.lookup(beyond)), (Ok(small), Err(NoSegment::Miss)));
        slb.slbmte(at(order[1], within), large.slb_word()).unwrap();
        slb.slbie(within);
        assert_eq!(slb.lookup(within), Err(NoSegment::Miss), "slbie drops all that are for it");
    }
}

/// A partition that notes which pages were zeroed, and refuses those above 1 GiB.
#[derive(Default)]
struct Zeroes(std::cell::RefCell<Vec<u64>>);

impl Partition for Zeroes {
    fn invalidate(&self, _: HashTlbie) {}

    fn zero(&self, page: Gpa, _: PageSize) -> Result<(), Refused> {
        if page.get() >= 1 << 30 {
            return Err(Refused);
        }
        self.0.borrow_mut().push(page.get());
        Ok(())
    }

    fn copy(&self, _: Gpa, _: Gpa) -> Result<(), Refused> {
        Err(Refused)
    }
}

/// `H_ENTER` with `ZERO_PAGE` zeroes when it has a place, and a page that cannot be zeroed leaves
/// the place free.
#[test]
fn case_b2_a_page_is_zeroed_when_there_is_a_place() {
    let words = words();
    let hpt = table(&words);
    let partition = Zeroes::default();
    let calls = Hcalls::new(&hpt, &partition, Dialect::Papr);
    let zeroed = || std::mem::take(&mut *partition.0.borrow_mut());
    let flags = HcallFlags::new().with_zero_page(true);
    let (v, r) = (HpteV::new().with_avpn(5), |page| HpteR::from_bits(page).with_m(true));
    for index in 0..8 {
        let page = (index + 1) << 12;
        assert_eq!(calls.enter(flags, 8, v, r(1 << 30)), Err(ReturnCode::Parameter));
        assert_eq!(zeroed(), [0; 0]);
        assert_eq!(calls.enter(flags, 8, v, r(page)), Ok(8 + index), "the same place");
        assert_eq!(zeroed(), [page]);
    }
    for (flags, ptex, want) in [
        (flags, 8, Err(ReturnCode::PtegFull)),
        (flags.with_exact(true), 9, Err(ReturnCode::PtegFull)),
        (flags, hpt.order().entries(), Err(ReturnCode::Parameter)),
    ] {
        assert_eq!(calls.enter(flags, ptex, v, r(0x5000)), want, "{ptex}");
        assert_eq!(zeroed(), [0; 0], "{ptex}: nobody's page was touched");
    }
    let exact = flags.with_exact(true);
    assert_eq!(calls.enter(exact, 3, v, r(1 << 30)), Err(ReturnCode::Parameter));
    assert_eq!(calls.enter(exact, 3, v, r(0x5000)), Ok(3));
    assert_eq!(zeroed(), [0x5000]);
}
