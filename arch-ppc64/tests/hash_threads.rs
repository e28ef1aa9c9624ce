//! Searching, removing and translating beside threads that change entries: an entry that stays is
//! found, and no access takes an interrupt that no state of the table has.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, Dialect, HashFault, HashMmu, HashTlbie, HcallFlags, Hcalls, Hidx, Hpt, HptError,
    HptOrder, Hpte, HpteR, Layout, PageSize, Partition, Refused, ReturnCode, Segment, SegmentSize,
    Slb, SlbEsid, VirtualPage,
};

const ADDRESS: Gva = Gva::new(0x5000);
const FRAME: u64 = 0x10_0000;
const SEGMENT: Segment = Segment {
    vsid: 7,
    size: SegmentSize::T1,
    base: PageSize::K4,
    ks: true,
    kp: true,
    n: false,
    class: false,
};

type Table<'m> = Hpt<Gpa, DirectMap<'m, Gpa>>;

/// The guest has no other processors.
struct Guest;

impl Partition for Guest {
    fn invalidate(&self, _: HashTlbie) {}
    fn zero(&self, _: Gpa, _: PageSize) -> Result<(), Refused> {
        Err(Refused)
    }
    fn copy(&self, _: Gpa, _: Gpa) -> Result<(), Refused> {
        Err(Refused)
    }
}

/// The page's entry: everybody may read and write.
fn entry(page: &VirtualPage, flags: HpteR) -> Hpte {
    let r = HpteR::from_bits(FRAME | flags.into_bits()).with_protection(2).with_m(true);
    Hpte { v: page.v(), r }
}

/// Says that the other thread shall end, even if a check failed.
struct Stop<'s>(&'s AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How often the entry is changed while it is looked at.
const CHANGES: u64 = 150_000;

/// A table with one entry for the page, with these flags, in its primary group or, if that is full
/// of others', in its secondary; and `beside` run again and again by another thread, with `check`
/// run again and again meanwhile.
fn beside(
    secondary: bool,
    flags: HpteR,
    beside: impl Fn(&Table<'_>, &VirtualPage, Hidx) + Sync,
    check: impl Fn(&Table<'_>, &VirtualPage, Hidx),
) {
    for layout in [Layout::V2, Layout::V3] {
        let order = HptOrder::MIN;
        let words: Vec<_> = (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, Gpa::new(0));
        let hpt = Hpt::new(memory, Gpa::new(0), order, layout).unwrap();
        let page = VirtualPage::of(&SEGMENT, ADDRESS);
        for other in (1..9).filter(|_| secondary) {
            let other = VirtualPage { offset: page.offset | other << 23, ..page };
            assert_ne!(other.avpn(), page.avpn());
            let full = hpt.group(order.group(page.hash(), false)).unwrap();
            assert!(full.enter(layout.encode(entry(&other, flags)), 0xff).is_ok());
        }
        let at = hpt.insert(&page, entry(&page, flags)).unwrap().unwrap();
        assert_eq!(at.secondary(), secondary);
        let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    beside(&hpt, &page, at);
                    changes.fetch_add(1, Ordering::Relaxed);
                }
            });
            let _stop = Stop(&stop);
            while changes.load(Ordering::Relaxed) < CHANGES {
                check(&hpt, &page, at);
            }
        });
    }
}

/// Again as long as the table is busy: on a loaded machine the other thread may be away for long.
fn patiently<T>(again: impl Fn() -> Result<T, HptError>) -> T {
    loop {
        match again() {
            Ok(done) => return done,
            Err(HptError::Busy(_)) => thread::yield_now(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// As whoever changes rights does: hidden, changed, put back.
fn protect(hpt: &Table<'_>, page: &VirtualPage, at: Hidx) {
    if let Some(mut locked) = patiently(|| hpt.lock(page, at)) {
        locked.hide();
        // As long as an invalidation of nothing takes.
        (0..20).for_each(|_| std::hint::spin_loop());
        locked.update_r(|r| r ^ 1);
    }
}

#[test]
fn case_a10_find_misses_no_entry_that_stays() {
    for secondary in [false, true] {
        beside(secondary, HpteR::new().with_r(true), protect, |hpt, page, at| {
            let found = patiently(|| hpt.find(page)).unwrap();
            assert_eq!((found.hpte.v.h(), found.ptex as usize % 8), (secondary, at.slot()));
        });
    }
}

#[test]
fn case_a10_remove_misses_no_entry_that_stays() {
    for secondary in [false, true] {
        beside(secondary, HpteR::new(), protect, |hpt, page, at| {
            assert!(patiently(|| hpt.remove(page)).is_some());
            let again = patiently(|| hpt.insert(page, entry(page, HpteR::new())));
            assert_eq!(again, Some(at));
        });
    }
}

#[test]
fn case_a10_no_access_takes_a_false_interrupt() {
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), SEGMENT.slb_word()).unwrap();
    for flags in [HpteR::new(), HpteR::new().with_r(true).with_c(true)] {
        let h_protect = |hpt: &Table<'_>, page: &VirtualPage, at: Hidx| {
            let ptex = hpt.order().group(page.hash(), at.secondary()) << 3 | at.slot() as u64;
            let calls = Hcalls::new(hpt, &Guest, Dialect::Kvm);
            let flags = HcallFlags::new().with_pp(2);
            while calls.protect(flags, ptex, 0) == Err(ReturnCode::Busy) {
                thread::yield_now();
            }
        };
        for secondary in [false, true] {
            beside(secondary, flags, h_protect, |hpt, _, _| {
                let mmu = HashMmu { slb: &slb, hpt, authority: Authority::default() };
                for access in [Access::READ, Access::WRITE] {
                    match mmu.translate(ADDRESS, access.by_user()) {
                        Ok(found) => assert_eq!(found.real, FRAME),
                        Err(HashFault::Table(HptError::Busy(_))) => thread::yield_now(),
                        Err(fault) => panic!("{fault}"),
                    }
                }
            });
        }
    }
}

/// A page that comes and goes translates, or has no translation; its rights never change.
#[test]
fn case_a13_a_page_that_comes_and_goes_keeps_its_rights() {
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), SEGMENT.slb_word()).unwrap();
    let flags = HpteR::new();
    let comes_and_goes = |hpt: &Table<'_>, page: &VirtualPage, at: Hidx| {
        assert!(patiently(|| hpt.remove_at(page, at)).is_some());
        assert_eq!(patiently(|| hpt.insert(page, entry(page, flags))), Some(at));
    };
    beside(false, flags, comes_and_goes, |hpt, page, at| {
        let mmu = HashMmu { slb: &slb, hpt, authority: Authority::default() };
        let ptex = hpt.order().group(page.hash(), false) << 3 | at.slot() as u64;
        let recorded = HpteR::new().with_r(true).into_bits();
        match mmu.translate(ADDRESS, Access::READ.by_user()) {
            Ok(found) => assert_eq!(found.real, FRAME),
            Err(HashFault::Interrupt(it)) if it.status.no_translation() => {}
            Err(HashFault::Table(HptError::Busy(_))) => thread::yield_now(),
            Err(fault) => panic!("{fault}"),
        }
        let hpte = patiently(|| hpt.read(ptex)).unwrap();
        let want = if hpte.v.v() { entry(page, flags).r.into_bits() } else { 0 };
        assert_eq!(hpte.r.into_bits() & !recorded, want, "{hpte:?}");
    });
}
