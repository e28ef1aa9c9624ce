//! Translating beside somebody who takes entries out and puts others into their places: what comes
//! of it is one entry's or another's, never one's page with the other's frame.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use pgtable::memory::DirectMap;
use pgtable::{Access, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, HashMmu, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, Segment, SegmentSize, Slb,
    SlbEsid, VirtualPage,
};

/// How many entries come and go in each of the tables.
const TURNS: u64 = 300_000;
/// How many pages there are whose group is the same: an entry that comes back does so long after
/// its time.
const PAGES: u64 = 1 << 16;
const SEGMENT: Segment = Segment {
    vsid: 0x7d7_4cb,
    size: SegmentSize::T1,
    base: PageSize::K4,
    ks: false,
    kp: true,
    n: false,
    class: false,
};

/// The address of a page; the group of all is the same.
fn address(turn: u64, order: HptOrder) -> u64 {
    (turn % PAGES * order.groups() + 0x123) << 12
}

/// The frame of the page at `address`, which is no other page's.
fn frame(address: u64) -> u64 {
    address ^ 0x5_5555_5000
}

/// Translations of the page that `now` says, and of the one before, until that is `TURNS`. Counts
/// them in `met`, and returns those that are wrong.
fn translate(
    mmu: &HashMmu<'_, Gpa, DirectMap<'_, Gpa>>,
    now: &AtomicU64,
    met: &AtomicU64,
) -> Vec<(u64, u64)> {
    let mut torn = Vec::new();
    loop {
        let turn = now.load(Ordering::Relaxed);
        if turn == TURNS {
            return torn;
        }
        let addresses = [turn, turn.saturating_sub(1)].map(|turn| address(turn, mmu.hpt.order()));
        let mut batch = [None; 2];
        mmu.translate_batch(&addresses.map(Gva::new), Access::READ, &mut batch);
        let single = addresses
            .map(|it| mmu.translate(Gva::new(it), Access::READ).ok().map(|found| found.real));
        for (address, real) in addresses.into_iter().cycle().zip(batch.into_iter().chain(single)) {
            let Some(real) = real else { continue };
            met.fetch_add(1, Ordering::Relaxed);
            torn.extend((real != frame(address)).then_some((address, real)));
        }
    }
}

#[test]
fn whole_entries_or_none() {
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), SEGMENT.slb_word()).unwrap();
    let order = HptOrder::MIN;
    // Entries that nothing is to be recorded in, and such that R is to be recorded in.
    for rc in [HpteR::new().with_r(true).with_c(true), HpteR::new()] {
        for layout in [Layout::V2, Layout::V3] {
            let words: Vec<_> = (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
            let hpt =
                Hpt::new(DirectMap::new(&words, Gpa::new(0)), Gpa::new(0), order, layout).unwrap();
            let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };
            let (now, met) = (AtomicU64::new(0), AtomicU64::new(0));
            let torn = thread::scope(|scope| {
                let reader = scope.spawn(|| translate(&mmu, &now, &met));
                for turn in 0..TURNS {
                    let address = address(turn, order);
                    let page = VirtualPage::of(&SEGMENT, Gva::new(address));
                    let r = HpteR::from_bits(frame(address) | rc.into_bits()).with_protection(2);
                    let at = hpt.insert(&page, Hpte { v: page.v(), r }).unwrap().unwrap();
                    assert_eq!((at.secondary(), at.slot()), (false, 0));
                    now.store(turn, Ordering::Relaxed);
                    // The reader is there before the first entry goes.
                    while met.load(Ordering::Relaxed) == 0 {
                        thread::yield_now();
                    }
                    let gone = hpt.remove_at(&page, at).unwrap().unwrap();
                    assert_eq!(gone.r.rpn() << 12, frame(address));
                }
                now.store(TURNS, Ordering::Relaxed);
                reader.join().unwrap()
            });
            assert!(
                torn.is_empty(),
                "{layout:?}, {rc:?}: {} of {met:?} are torn: {:x?}",
                torn.len(),
                torn.first()
            );
        }
    }
}
