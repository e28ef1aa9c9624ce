//! The migration stream and resizing: a table goes to another host, or to another size, and
//! translates the same.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "hash/backing.rs"]
mod backing;

use std::collections::BTreeMap;

use pgtable::Gva;
use pgtable_ppc64::hash::{
    Action, HptOrder, Hpte, HpteR, Keep, Layout, PageSize, PageSizes, Pass, Resize, ResizeError,
    ReturnCode, Segment, SegmentSize, StreamError, StreamReader, VirtualPage, chunks, load, rehash,
};
use proptest::prelude::*;

use backing::{Table, memory, table};

fn page(vsid: u64, number: u64, sizes: PageSizes) -> VirtualPage {
    let size = if vsid % 2 == 0 { SegmentSize::T1 } else { SegmentSize::M256 };
    let segment =
        Segment { vsid, size, base: sizes.base(), ks: false, kp: true, n: false, class: false };
    VirtualPage::of(&segment, Gva::new(number << sizes.base().shift()))
}

fn entry(page: &VirtualPage, sizes: PageSizes, real: u64, bolted: bool) -> Hpte {
    let r = HpteR::from_bits(real << 24 & 0x00ff_ffff_ff00_0000 | 0x190).with_sizes(sizes);
    Hpte { v: page.v().with_l(sizes.lp().is_some()).with_bolted(bolted), r }
}

fn contents(hpt: &Table<'_>) -> BTreeMap<u64, (u64, u64)> {
    hpt.entries(0)
        .map(|(ptex, hpte)| (ptex, (hpte.v.visible().into_bits(), hpte.r.into_bits())))
        .collect()
}

/// A whole pass, by a buffer of `room` bytes.
fn pass(reader: &mut StreamReader, hpt: &Table<'_>, room: usize) -> Vec<u8> {
    let mut stream = Vec::new();
    let before = reader.pass();
    let mut buffer = vec![0; room];
    for _ in 0..100_000 {
        let read = reader.read(hpt, &mut buffer).unwrap();
        stream.extend_from_slice(&buffer[..read]);
        if read == 0 || (before == Pass::First && reader.pass() == Pass::Changes) {
            break;
        }
    }
    stream
}

fn sizes() -> impl Strategy<Value = PageSizes> {
    proptest::sample::select(PageSizes::ALL.to_vec())
}

type Pages = Vec<(u64, u64, PageSizes, bool)>;

fn pages() -> impl Strategy<Value = Pages> {
    proptest::collection::vec((0u64..6, 0u64..5000, sizes(), proptest::bool::weighted(0.3)), 0..200)
}

fn fill(hpt: &Table<'_>, pages: &Pages) {
    for (real, &(vsid, number, sizes, bolted)) in pages.iter().enumerate() {
        let page = page(vsid, number, sizes);
        if hpt.find(&page).unwrap().is_none() {
            hpt.insert(&page, entry(&page, sizes, real as u64, bolted)).unwrap();
        }
    }
}

fn layout(v3: bool) -> Layout {
    if v3 { Layout::V3 } else { Layout::V2 }
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(48))]
    #[test]
    fn another_host_translates_the_same(first in pages(), then in pages(), room in 24usize..5000, v3: (bool, bool)) {
        let (here, there) = (memory(18), memory(18));
        let (here, there) = (table(&here, layout(v3.0)), table(&there, layout(v3.1)));
        let mut reader = StreamReader::new(0, Pass::First, false);
        fill(&here, &first);
        load(&there, &pass(&mut reader, &here, room)).unwrap();
        prop_assert_eq!(contents(&there), contents(&here));
        // Half of it goes, something else comes; only that is in the next pass.
        let old = contents(&here);
        for &(vsid, number, sizes, _) in first.iter().step_by(2) {
            here.remove(&page(vsid, number, sizes)).unwrap();
        }
        fill(&here, &then);
        let stream = pass(&mut reader, &here, room);
        let now = contents(&here);
        let sent: usize = chunks(&stream).map(|chunk| chunk.unwrap().entries.len()).sum();
        let changed = now.iter().filter(|(ptex, entry)| old.get(ptex) != Some(entry)).count();
        prop_assert!(sent >= changed && sent <= changed + first.len(), "{} sent, {} changed", sent, changed);
        load(&there, &stream).unwrap();
        prop_assert_eq!(contents(&there), now);
        prop_assert!(pass(&mut reader, &here, room).is_empty());
        prop_assert_eq!(here.listing().to_string(), there.listing().to_string());
    }

    /// Any bytes: a value or an error, never a panic; what can be cut up can be put together again.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), index in 0u32..20_000, valid in 0u16..5, invalid: u16) {
        let words = memory(18);
        let hpt = table(&words, Layout::V3);
        let mut stream = [index.to_ne_bytes().to_vec(), valid.to_ne_bytes().to_vec(), invalid.to_ne_bytes().to_vec()].concat();
        stream.extend_from_slice(&bytes);
        for stream in [&bytes, &stream] {
            let _ = load(&hpt, stream);
            let cut: Vec<_> = chunks(stream).map_while(Result::ok).collect();
            let joined: Vec<u8> = cut.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
            prop_assert!(stream.starts_with(&joined));
        }
    }

    /// Every entry is found in the larger table, and its place in its group is what it was.
    #[test]
    fn growing_loses_nothing(pages in pages(), order in 18u64..22, all: bool, v3: (bool, bool)) {
        let (old, new) = (memory(18), memory(order));
        let (old, new) = (table(&old, layout(v3.0)), table(&new, layout(v3.1)));
        fill(&old, &pages);
        let keep = if all { Keep::All } else { Keep::Bolted };
        let rehashed = rehash(&old, &new, keep).unwrap();
        let kept: Vec<_> = old.entries(0).filter(|(_, hpte)| all || hpte.v.bolted()).collect();
        prop_assert_eq!((rehashed.moved as usize, new.entries(0).count()), (kept.len(), kept.len()));
        for (ptex, hpte) in kept {
            let page = VirtualPage::of_entry(hpte, ptex / 8, old.order()).unwrap();
            let found = new.find(&page).unwrap().unwrap();
            prop_assert_eq!(hpte.ptex_in(ptex, old.order(), new.order()), Some(found.ptex));
            prop_assert_eq!((found.ptex % 8, found.hpte.v.visible(), found.hpte.r), (ptex % 8, hpte.v.visible(), hpte.r));
        }
    }
}

#[test]
fn what_a_stream_may_not_say() {
    let words = memory(18);
    let hpt = table(&words, Layout::V3);
    let chunk = |index: u32, valid: u16, invalid: u16, entries: &[(u64, u64)]| {
        let mut bytes = [
            index.to_ne_bytes().to_vec(),
            valid.to_ne_bytes().to_vec(),
            invalid.to_ne_bytes().to_vec(),
        ]
        .concat();
        entries.iter().for_each(|(v, r)| bytes.extend([v.to_be_bytes(), r.to_be_bytes()].concat()));
        bytes
    };
    for (name, stream, error) in [
        (
            "index past the end",
            chunk(1 << 14, 1, 0, &[(1, 0x190)]),
            StreamError::Beyond { index: 1 << 14 },
        ),
        (
            "run past the end",
            chunk((1 << 14) - 1, 1, 1, &[(1, 0x190)]),
            StreamError::Beyond { index: (1 << 14) - 1 },
        ),
        ("V = 0", chunk(3, 1, 0, &[(0, 0x190)]), StreamError::Invalid { ptex: 3 }),
        ("LP", chunk(3, 2, 0, &[(1, 0x190), (5, 0xf190)]), StreamError::Invalid { ptex: 4 }),
        ("B", chunk(3, 1, 0, &[(2 << 62 | 1, 0x190)]), StreamError::Invalid { ptex: 3 }),
        ("short", chunk(3, 2, 0, &[(1, 0x190)]), StreamError::Truncated { at: 0 }),
        ("half a header", vec![0; 7], StreamError::Truncated { at: 0 }),
    ] {
        assert_eq!(load(&hpt, &stream), Err(error), "{name}");
    }
    // Software bits of the sender are not taken over.
    load(&hpt, &chunk(5, 1, 2, &[(0x1000 | 0x61, 0x190)])).unwrap();
    assert_eq!(contents(&hpt)[&5].0, 0x1001);
    assert_eq!(load(&hpt, &chunk(5, 0, 1, &[])).map(|it| it.emptied), Ok(1));
    assert!(!contents(&hpt).contains_key(&5));
}

/// In a smaller table two may meet: bolted entries stay, of two of them none may go.
#[test]
fn shrinking() {
    let k4 = PageSizes::only(PageSize::K4);
    for (name, bolted, keep, want) in [
        ("both loose", [false, false], Keep::All, Ok((1, 1))),
        ("one bolted", [false, true], Keep::All, Ok((1, 1))),
        ("the other bolted", [true, false], Keep::All, Ok((1, 1))),
        ("only bolted", [true, false], Keep::Bolted, Ok((1, 1))),
        ("both bolted", [true, true], Keep::All, Err(())),
        ("both bolted", [true, true], Keep::Bolted, Err(())),
    ] {
        let (old, new) = (memory(19), memory(18));
        let (old, new) = (table(&old, Layout::V3), table(&new, Layout::V3));
        // The same group of the small table, different ones of the large.
        for (index, bolted) in bolted.into_iter().enumerate() {
            let page = page(2, (index as u64) << 11, k4);
            old.insert(&page, entry(&page, k4, index as u64, bolted)).unwrap();
        }
        let rehashed = rehash(&old, &new, keep);
        match want {
            Ok(counts) => {
                let rehashed = rehashed.unwrap();
                assert_eq!((rehashed.moved, rehashed.dropped), counts, "{name}");
                let kept: Vec<_> = new.entries(0).map(|(_, hpte)| hpte.v.bolted()).collect();
                assert_eq!(kept, [bolted[0] || bolted[1]], "{name}");
                // The first of equals.
                let real: Vec<_> = new.entries(0).map(|(_, hpte)| hpte.r.rpn() >> 12).collect();
                assert_eq!(real, [u64::from(bolted[1] && !bolted[0])], "{name}");
            }
            Err(()) => {
                // Where the first one is: its place in the large table, as far as the small one has
                // groups.
                let first = old.find(&page(2, 0, k4)).unwrap().unwrap().ptex;
                let ptex = first & ((1 << (18 - 4)) - 1);
                assert_eq!(rehashed, Err(ResizeError::Collision { ptex }), "{name}");
                assert_eq!(ReturnCode::from(rehashed.unwrap_err()).code(), -6);
                assert_eq!(old.entries(0).count(), 2, "the old table is as it was");
            }
        }
    }
}

/// The life of a resize, as PAPR and QEMU have it; tables are strings here.
#[test]
fn the_hypercalls() {
    let order = |order| HptOrder::new(order).unwrap();
    let nothing = |code: i64, (answer, action): (ReturnCode, Action<&str>)| {
        assert_eq!((answer.code(), action), (code, Action::Nothing));
    };
    nothing(-10, Resize::new(false, order(20)).prepare(0, 20));
    let mut resize = Resize::new(true, order(24));
    for (flags, shift, code) in
        [(1, 20, -4), (0, 17, -4), (0, 47, -4), (0, u64::MAX, -4), (0, 26, -16), (0, 0, 0)]
    {
        nothing(code, resize.prepare(flags, shift));
    }
    let commit = |resize: &mut Resize<&'static str>, shift, result| {
        resize.commit(0, shift, |_| result).map_err(|(code, table)| (code.code(), table))
    };
    let done = Ok(pgtable_ppc64::hash::Rehashed::default());
    assert_eq!(commit(&mut resize, 20, done), Err((2, None)), "nothing was prepared");
    assert_eq!(resize.prepare(0, 20), (ReturnCode::LongBusy100Ms, Action::Allocate(order(20))));
    nothing(9902, resize.prepare(0, 20));
    assert_eq!(commit(&mut resize, 20, done), Err((1, None)), "not ready");
    assert_eq!(commit(&mut resize, 21, done), Err((2, None)), "another size");
    assert_eq!(resize.prepare(0, 25), (ReturnCode::LongBusy100Ms, Action::Allocate(order(25))));
    assert_eq!(resize.allocated(order(20), Ok("late")), Err(Some("late")), "no longer wanted");
    assert_eq!(resize.allocated(order(25), Ok("25")), Ok(()));
    nothing(0, resize.prepare(0, 25));
    assert_eq!(
        resize.prepare(0, 18),
        (ReturnCode::LongBusy100Ms, Action::Free("25", Some(order(18))))
    );
    assert_eq!(resize.allocated(order(18), Err(ReturnCode::NoMem)), Ok(()));
    nothing(-9, resize.prepare(0, 18));
    assert_eq!(resize.prepare(0, 18), (ReturnCode::LongBusy100Ms, Action::Allocate(order(18))));
    assert_eq!(resize.allocated(order(18), Ok("18")), Ok(()));
    let collision = Err(ResizeError::Collision { ptex: 3 });
    assert_eq!(commit(&mut resize, 18, collision), Err((-6, Some("18"))));
    assert_eq!(commit(&mut resize, 18, done), Err((2, None)), "nothing is prepared any more");
    assert_eq!(resize.prepare(0, 19), (ReturnCode::LongBusy100Ms, Action::Allocate(order(19))));
    assert_eq!(resize.allocated(order(19), Ok("19")), Ok(()));
    assert_eq!(resize.prepare(0, 0), (ReturnCode::Success, Action::Free("19", None)));
    assert_eq!(resize.prepare(0, 19), (ReturnCode::LongBusy100Ms, Action::Allocate(order(19))));
    assert_eq!(resize.allocated(order(19), Ok("19")), Ok(()));
    assert_eq!(commit(&mut resize, 19, done), Ok("19"));
}
