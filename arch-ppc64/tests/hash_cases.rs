//! What was once wrong with hashed tables, as a table of cases each.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, TableMemory};
use pgtable::{Access, AddressSpace as _, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_ppc64::hash::{
    Action, Authority, Context, Dialect, HashAttributes, HashFault, HashMmu, HashTlbie,
    HashedSpace, HcallFlags, Hcalls, Hpt, HptOrder, Hpte, HpteR, HpteV, Keep, Layout, MOST_TLBIES,
    PageSize, PageSizes, Pages, Partition, Pass, Refused, Resize, ResizeError, ReturnCode, Segment,
    SegmentSize, Slb, SlbEsid, Storage, StreamError, StreamReader, VirtualPage, load, rehash,
};

type Table<'m> = Hpt<Gpa, DirectMap<'m, Gpa>>;

fn words(order: HptOrder) -> Vec<AtomicU64> {
    (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect()
}

fn table(words: &[AtomicU64], layout: Layout) -> Table<'_> {
    let order = HptOrder::new(u64::from((words.len() * 8).ilog2())).unwrap();
    Hpt::new(DirectMap::new(words, Gpa::new(0)), Gpa::new(0), order, layout).unwrap()
}

const SMALL: u64 = 0x0800_0000;

/// Sixteen megabytes of small pages, else memory below 1 TiB, else a device.
struct Guest;

impl Partition for Guest {
    fn invalidate(&self, _: HashTlbie) {}
    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        match page.get() {
            SMALL if size == PageSize::K4 => Storage::SmallerPages,
            page if page >> 40 == 0 => Storage::Memory,
            _ => Storage::Device,
        }
    }
    fn zero(&self, _: Gpa, _: PageSize) -> Result<(), Refused> {
        Ok(())
    }
    fn copy(&self, _: Gpa, _: Gpa) -> Result<(), Refused> {
        Ok(())
    }
}

/// Eighteen pages, used and unmapped one by one: what is stale is more than a gather holds.
#[test]
fn case_a5_everything_is_no_list() {
    let order = HptOrder::MIN;
    let (hashed, tree) = (words(order), words(HptOrder::new(20).unwrap()));
    let memory = DirectMap::new(&tree, Gpa::new(0));
    let frames = Frames::new(Region::new(memory, Gpa::new(0), 16, 16).unwrap()).unwrap();
    let cache = Cache::new(&frames, Owner(1), Kind::User, Policy::Reuse);
    let context = Context::new(1).unwrap();
    let hpt = table(&hashed, Layout::V3);
    let mut space = HashedSpace::new(hpt, memory, &cache, Pages::K64, context).unwrap();
    let list = |space: &HashedSpace<_, _, _>, pages: &[(u64, u64)]| {
        let mut gather: Gather<'_, Stage1, _> = Gather::new(&Unused, ());
        for &(first, count) in pages {
            let last = first + ((count - 1) << 16);
            gather.pages(Gva::new(first), Gva::new(last), 16);
        }
        let mut calls = 0_u64;
        let listed = space.tlbies(gather.stale(), |_| {
            calls += 1;
            assert!(calls <= MOST_TLBIES, "a list without end");
        });
        gather.finish(&&cache).unwrap();
        (listed, calls)
    };
    let apart: Vec<_> = (0..17_u64).map(|n| (n << 20, 1)).collect();
    for (name, pages, want) in [
        ("nothing", vec![], (true, 0)),
        ("sixteen ranges", apart[..16].to_vec(), (true, 16)),
        ("more than a gather holds", apart, (false, 0)),
        ("as many as there may be", vec![(0, MOST_TLBIES)], (true, MOST_TLBIES)),
        ("one more", vec![(0, MOST_TLBIES), (1 << 40, 1)], (false, 0)),
        ("nearly the whole space", vec![(0, 1 << 33)], (false, 0)),
        ("beyond the space", vec![((1 << 49) - (2 << 16), 1 << 40)], (true, 2)),
    ] {
        assert_eq!(list(&space, &pages), want, "{name}");
    }
    // The same by the verbs.
    let mut at: Vec<u64> = (0..16).map(|n| n << 17).collect();
    at.extend([1 << 48, (1 << 48) + (1 << 16)]);
    let mut gather = Gather::new(&Unused, ());
    for page in at.into_iter().map(Gva::new) {
        let attributes = HashAttributes::from(Prot::RW);
        space.map(page, Gpa::new(0x1_0000), 1 << 16, attributes, Leaves::Largest).unwrap();
        space.access(page, Access::WRITE).unwrap();
        space.unmap(page, 1 << 16, &mut gather).unwrap();
    }
    assert!(!space.tlbies(gather.stale(), |_| panic!("a call although everything is stale")));
    gather.finish(&&cache).unwrap();
}

/// Every group of a table is this one.
struct Same([AtomicU64; 16]);

impl TableMemory<Gpa> for Same {
    fn word(&self, _: Gpa) -> Result<&AtomicU64, MemoryError> {
        Ok(&self.0[0])
    }
    fn table(&self, _: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        Ok(&self.0[..words])
    }
    fn wrote(&self, _: Gpa, _: usize) {}
}

impl pgtable::memory::ReadMemory<Gpa> for Same {
    pgtable::words_in_place!(Gpa);
}

#[test]
fn case_a8_a_table_that_no_header_can_number_has_no_stream() {
    let same = || {
        let same = Same([const { AtomicU64::new(0) }; 16]);
        same.0[0].store(0x4001_ffff_ff00_0011_u64.to_be(), Ordering::Relaxed);
        same.0[1].store(0x190_u64.to_be(), Ordering::Relaxed);
        same
    };
    let mut buffer = [0; 24];
    for order in [36, 37, 46] {
        let order = HptOrder::new(order).unwrap();
        let hpt = Hpt::new(same(), Gpa::new(0), order, Layout::V2).unwrap();
        for start in [0, (1 << 32) - 16, order.entries() - 8] {
            let mut reader = StreamReader::new(start, Pass::First, false);
            let read = reader.read(&hpt, &mut buffer);
            if order.get() > 36 {
                assert_eq!(read, Err(StreamError::TooLarge { order }));
                assert_eq!(load(&hpt, &buffer), Err(StreamError::TooLarge { order }));
            } else {
                assert_eq!(read, Ok(24));
                let header = u32::from_ne_bytes(buffer[..4].try_into().unwrap());
                assert_eq!(u64::from(header), start);
            }
        }
        for beyond in [order.entries(), 1 << 46, u64::MAX] {
            let read = StreamReader::new(beyond, Pass::First, false).read(&hpt, &mut buffer);
            assert_eq!(read.ok(), (order.get() <= 36).then_some(0), "{beyond:#x}");
        }
    }
}

#[test]
fn case_a8_rehash_into_a_table_that_is_not_empty() {
    let page =
        VirtualPage { vsid: 7, offset: 0x5000, segment: SegmentSize::T1, base: PageSize::K4 };
    for (from, to) in [(18, 18), (18, 19), (19, 18)] {
        let [from, to] = [from, to].map(|order| HptOrder::new(order).unwrap());
        for (there, bolted) in [(false, false), (false, true), (true, false), (true, true)] {
            let (old, new) = (words(from), words(to));
            let [old, new] = [&old, &new].map(|words| table(words, Layout::V2));
            let entry =
                |bolted| Hpte { v: page.v().with_bolted(bolted), r: HpteR::from_bits(0x190) };
            new.insert(&page, entry(there)).unwrap().unwrap();
            old.insert(&page, entry(bolted)).unwrap().unwrap();
            let ptex = to.group(page.hash(), false) * 8;
            assert_eq!(
                rehash(&old, &new, Keep::All),
                Err(ResizeError::NotEmpty { ptex }),
                "{from:?} {to:?} {there} {bolted}"
            );
            assert_eq!(old.entries(0).count(), 1);
        }
    }
}

/// What is checked is what is stored: by the hypercall, and by the stream.
#[test]
fn case_b2_bits_that_the_layout_does_not_have() {
    let (v, memory) = (0x12_3450_0001_u64, SMALL | 0x1012);
    for (name, layout, r, code) in [
        ("refused memory", Layout::V3, SMALL | 0x12, Err(ReturnCode::Parameter)),
        ("its alias", Layout::V3, 1 << 58 | SMALL | 0x12, Err(ReturnCode::Parameter)),
        ("its other alias", Layout::V3, 1 << 59 | SMALL | 0x12, Err(ReturnCode::Parameter)),
        ("an alias of memory", Layout::V3, 1 << 58 | memory, Err(ReturnCode::Parameter)),
        ("memory", Layout::V3, memory, Ok(0)),
        ("a device", Layout::V3, 1 << 50 | memory, Ok(0)),
        ("refused memory, V2", Layout::V2, SMALL | 0x12, Err(ReturnCode::Parameter)),
        ("a device, V2", Layout::V2, 1 << 58 | SMALL | 0x12, Ok(0)),
    ] {
        let words = words(HptOrder::MIN);
        let hpt = table(&words, layout);
        let calls = Hcalls::new(&hpt, &Guest, Dialect::Kvm);
        let entered = calls.enter(HcallFlags::new(), 0, v.into(), r.into());
        assert_eq!(entered, code, "{name}");
        let stored = hpt.read(0).unwrap().unwrap();
        let want = if code.is_ok() { r } else { 0 };
        assert_eq!(stored.r.into_bits(), want, "{name}");

        let mut stream = [0; 24];
        stream[4] = 1;
        #[cfg(target_endian = "big")]
        stream.swap(4, 5);
        stream[8..16].copy_from_slice(&v.to_be_bytes());
        stream[16..].copy_from_slice(&r.to_be_bytes());
        let loaded = load(&hpt, &stream).map(|loaded| loaded.stored);
        let lost = layout == Layout::V3 && r >> 58 & 3 != 0;
        assert_eq!(loaded, if lost { Err(StreamError::Invalid { ptex: 0 }) } else { Ok(1) });
        // Nor is a virtual address loaded of which the layout has only a part.
        stream[8..16].copy_from_slice(&(v | 1 << 52).to_be_bytes());
        let loaded = load(&hpt, &stream).is_ok();
        assert_eq!(loaded, layout == Layout::V2, "{name}");
    }
}

/// Every bit of a VSID is compared, those included that entries of ISA v3.0 have no room for.
#[test]
fn case_b4_every_bit_of_a_vsid_counts() {
    for layout in [Layout::V2, Layout::V3] {
        for (size, above) in [(SegmentSize::M256, 40), (SegmentSize::T1, 28)] {
            for base in [PageSize::K4, PageSize::K64] {
                let words = words(HptOrder::MIN);
                let hpt = table(&words, layout);
                let near = VirtualPage { vsid: 0x123, offset: 0, segment: size, base };
                // The group of both is the same: the table has fewer groups than the hash has bits.
                let far = VirtualPage { vsid: 0x123 | 1 << (above + 1), ..near };
                let sizes = PageSizes::only(base);
                let entry = |page: VirtualPage| Hpte {
                    v: page.v().with_l(sizes.lp().is_some()),
                    r: HpteR::from_bits(0x10_0192).with_sizes(sizes),
                };
                let at = hpt.insert(&near, entry(near)).unwrap().unwrap();
                let name = format!("{layout:?}, {size:?}, {base:?}");
                assert!(hpt.find(&near).unwrap().is_some(), "{name}");
                assert!(hpt.find(&far).unwrap().is_none(), "{name}: find");
                assert!(hpt.lock(&far, at).unwrap().is_none(), "{name}: lock");
                assert!(hpt.remove_at(&far, at).unwrap().is_none(), "{name}: remove_at");
                assert!(hpt.remove(&far).unwrap().is_none(), "{name}: remove");
                let mut hpt = hpt;
                assert!(hpt.alone().remove(&far).unwrap().is_none(), "{name}: alone");

                let mut slb = Slb::new();
                for (index, page) in [(1, near), (2, far)] {
                    let segment = Segment {
                        vsid: page.vsid,
                        size,
                        base,
                        ks: false,
                        kp: true,
                        n: false,
                        class: false,
                    };
                    let rb = SlbEsid::from_bits(u64::from(index) << 40);
                    slb.slbmte(rb.with_v(true).with_index(index), segment.slb_word()).unwrap();
                }
                let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };
                let at = |index: u64| mmu.translate(Gva::new(index << 40), Access::READ);
                assert_eq!(at(1).map(|found| found.real), Ok(0x10_0000), "{name}");
                let Err(HashFault::Interrupt(it)) = at(2) else { panic!("{name}: {:?}", at(2)) };
                assert!(it.status.no_translation(), "{name}");

                // What the layout has no room for is not entered as something else.
                let entered = hpt.insert(&far, entry(far)).unwrap();
                assert_eq!(entered.is_some(), layout == Layout::V2, "{name}");
                let alone = hpt.alone().insert(&far, entry(far)).unwrap();
                assert_eq!(alone.is_some(), layout == Layout::V2, "{name}");
                let found = hpt.find(&far).unwrap().is_some();
                assert_eq!(found, layout == Layout::V2, "{name}");
            }
        }
    }
}

#[test]
fn case_b5_what_was_not_prepared_is_closed() {
    let order = |order: u64| HptOrder::new(order).unwrap();
    let never = |_: &&str| panic!("nothing to rehash");
    for (flags, shift, prepare, commit) in [
        (0, 24, ReturnCode::LongBusy100Ms, ReturnCode::Closed),
        (0, 25, ReturnCode::LongBusy100Ms, ReturnCode::Closed),
        (0, 26, ReturnCode::Resource, ReturnCode::Closed),
        (0, 46, ReturnCode::Resource, ReturnCode::Closed),
        (0, 0, ReturnCode::Success, ReturnCode::Closed),
        (0, 47, ReturnCode::Parameter, ReturnCode::Parameter),
        (0, 17, ReturnCode::Parameter, ReturnCode::Parameter),
        (1, 24, ReturnCode::Parameter, ReturnCode::Parameter),
        (1, 26, ReturnCode::Parameter, ReturnCode::Parameter),
    ] {
        let mut resize = Resize::new(true, order(24));
        assert_eq!(resize.commit(flags, shift, never), Err((commit, None)), "{flags} {shift}");
        let (code, action) = resize.prepare(flags, shift);
        assert_eq!(code, prepare, "{flags} {shift}");
        let allocates = matches!(action, Action::Allocate(_));
        assert_eq!(allocates, code == ReturnCode::LongBusy100Ms);
        let mut resize = Resize::new(false, order(24));
        assert_eq!(resize.commit(flags, shift, never), Err((ReturnCode::Authority, None)));
        assert_eq!(resize.prepare(flags, shift).0, ReturnCode::Authority);
    }
}

/// Details in which a stream's receivers differ, as they are decided here.
#[test]
fn case_b17_what_a_stream_may_say() {
    let entries = HptOrder::MIN.entries() as u32;
    let chunk = |index: u32, valid: &[[u64; 2]], invalid: u16| {
        let mut bytes = index.to_ne_bytes().to_vec();
        bytes.extend((valid.len() as u16).to_ne_bytes());
        bytes.extend(invalid.to_ne_bytes());
        bytes.extend(valid.iter().flatten().flat_map(|word| word.to_be_bytes()));
        bytes
    };
    let (v, ts) = (0x12_3450_0001_u64, 1 << 62);
    let beyond = |index| Err(StreamError::Beyond { index });
    for (name, bytes, want) in [
        ("nothing", vec![], Ok((0, 0))),
        ("an empty chunk", chunk(0, &[], 0), Ok((0, 0))),
        ("an empty chunk at the end", chunk(entries, &[], 0), beyond(entries)),
        ("the last place", chunk(entries - 1, &[[v, 0x190]], 0), Ok((1, 0))),
        ("one place more", chunk(entries - 1, &[[v, 0x190]], 1), beyond(entries - 1)),
        ("no place", chunk(u32::MAX, &[], u16::MAX), beyond(u32::MAX)),
        ("TS", chunk(0, &[[v, ts | 0x190]], 0), Ok((1, 0))),
        ("V = 0", chunk(0, &[[v & !1, 0x190]], 0), Err(StreamError::Invalid { ptex: 0 })),
        ("B = 2", chunk(0, &[[2 << 62 | v, 0x190]], 0), Err(StreamError::Invalid { ptex: 0 })),
    ] {
        let words = words(HptOrder::MIN);
        let hpt = table(&words, Layout::V2);
        let loaded = load(&hpt, &bytes).map(|loaded| (loaded.stored, loaded.emptied));
        assert_eq!(loaded, want, "{name}");
        if name == "TS" {
            let kept = hpt.read(0).unwrap().unwrap();
            assert_eq!(kept.r.into_bits(), ts | 0x190, "KVM drops it");
            assert_eq!(kept.v, HpteV::from_bits(v).with_modified(true));
        }
    }
}
