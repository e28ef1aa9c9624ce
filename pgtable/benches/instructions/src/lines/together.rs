//! Many CPUs side by side: which lines move between them.

use std::hint::black_box;
use std::sync::atomic::AtomicU64;

use bench_harness::arena::Arena;
use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Local, Owner, Policy, Reader, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::shared::{DeferringAllocator, SharedPageTable};
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_ppc64::hash::{
    Authority, HashMmu, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, Segment, SegmentSize, Slb,
    SlbEsid, VirtualPage,
};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::{CPUS, cpu, is_on, model, range};

const PAGE: u64 = 4096;
const MIB2: u64 = 2 << 20;
const GIB: u64 = 1 << 30;
/// How often each CPU does its operation; the first half does not count.
const TURNS: u64 = 8;
/// Frames of 64 KiB for tables.
const FRAMES: u32 = 256;
const START: u64 = 0x4000_0000;

type Memory = DirectMap<'static, Gpa>;
type Source = Region<Gpa, Memory>;
type Waiting = Deferred<Gpa, Source, &'static Frames<Gpa, Source>, &'static Epochs>;
type Front = Local<'static, Gpa, Source, &'static Frames<Gpa, Source>>;

pub fn models() {
    for cpus in [1, 2, 8, CPUS] {
        faults(cpus);
        walks(cpus);
        fragments(cpus);
        hashed(cpus);
    }
}

/// What a CPU has of its own, in lines of its own.
#[repr(align(128))]
struct Own<T>(T);

/// Each CPU takes tables from a front of its own; freed, they wait for who descends.
struct Tables {
    fronts: Vec<Own<Front>>,
    waiting: &'static Waiting,
}

impl TableAllocator<Gpa> for Tables {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.fronts[cpu()].0.allocate(layout)
    }

    fn free(&self, table: Gpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        self.waiting.free(table, layout, contents)
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        self.waiting.state(table, layout)
    }
}

impl DeferringAllocator<Gpa> for Tables {
    type Reader<'a> = Reader<'a>;

    fn reader(&self) -> Option<Reader<'_>> {
        self.waiting.reader()
    }
}

fn frames() -> (Memory, &'static Frames<Gpa, Source>) {
    let arena = Arena::new(START, (FRAMES as usize) << 16);
    range("tables", arena.host, arena.bytes);
    // SAFETY: arenas are valid as long as the process, and nothing resets this one.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    let source = Region::new(memory, Gpa::new(START), FRAMES, 16).unwrap();
    (memory, Box::leak(Box::new(Frames::new(source).unwrap())))
}

/// A shared tree. It stands in the heap: what all CPUs share is not on a stack.
fn tree(cpus: usize) -> Box<SharedPageTable<LongMode, Memory, &'static Tables>> {
    let (memory, frames) = frames();
    // One more for who prepares.
    let epochs: &'static _ = Box::leak(Box::new(Epochs::new(cpus + 1)));
    let waiting = Deferred::new(Cache::new(frames, Owner(1), Kind::User, Policy::Reuse), epochs);
    let waiting: &'static Waiting = Box::leak(Box::new(waiting));
    let fronts = (0..cpus).map(|_| Own(Local::new(waiting.cache()))).collect();
    let tables: &'static _ = Box::leak(Box::new(Tables { fronts, waiting }));
    let format = LongMode::new(Levels::Four, Controls::new());
    Box::new(PageTable::new(format, memory, tables).unwrap().into())
}

/// Where the page is, of so many CPUs, that a CPU maps in a turn.
type Place = fn(u64, u64, u64) -> u64;

/// A CPU maps pages, and unmaps them.
fn faults(cpus: usize) {
    let many = cpus as u64;
    // Where the CPU's page of that turn is: what CPUs have in common, from less to more.
    let places: [(&str, Place); 3] = [
        ("1 GiB each", |_, cpu, turn| cpu * GIB + turn * PAGE),
        ("2 MiB each", |_, cpu, turn| cpu * MIB2 + turn * PAGE),
        ("one table", |many, cpu, turn| (turn * many + cpu) * PAGE),
    ];
    let (attributes, small) = (Prot::RW.into(), Leaves::Exactly(12));
    for (whose, place) in places {
        let tree = tree(cpus);
        let writers: Vec<_> = (0..cpus).map(|_| Own(tree.writer().unwrap())).collect();
        // A page of each table is there before, and stays.
        let at = |cpu: usize, turn| Gva::new(place(many, cpu as u64, turn));
        (0..cpus).for_each(|cpu| {
            is_on(cpu);
            let page = at(cpu, 0);
            writers[cpu].0.map(page, Gpa::new(0), PAGE, attributes, small).unwrap();
        });
        model(&format!("map a page, {whose}"), cpus, TURNS - 1, |cpu, turn| {
            let page = at(cpu, turn + 1);
            writers[cpu].0.map(page, Gpa::new(0), PAGE, attributes, small).unwrap();
        });
        model(&format!("unmap a page, {whose}"), cpus, TURNS - 1, |cpu, turn| {
            let mut gather = Gather::new(&Unused, ());
            writers[cpu].0.unmap(at(cpu, turn + 1), PAGE, &mut gather).unwrap();
            gather.finish(tree.tables()).unwrap();
        });
    }
    let tree = tree(cpus);
    let writers: Vec<_> = (0..cpus).map(|_| Own(tree.writer().unwrap())).collect();
    let at = |cpu: usize, turn: u64| Gva::new(cpu as u64 * GIB + turn * MIB2);
    model("map a page and its table, 1 GiB each", cpus, TURNS, |cpu, turn| {
        writers[cpu].0.map(at(cpu, turn), Gpa::new(0), PAGE, attributes, small).unwrap();
    });
}

/// CPUs translate the same addresses.
fn walks(cpus: usize) {
    let tree = tree(cpus);
    let writer = tree.writer().unwrap();
    let (attributes, small) = (Prot::RW.into(), Leaves::Exactly(12));
    writer.map(Gva::new(0), Gpa::new(0), MIB2, attributes, small).unwrap();
    drop(writer);
    let walker = tree.walker();
    model("translate, by a walker", cpus, TURNS, |cpu, turn| {
        let at = Gva::new((turn * 64 + cpu as u64) % 512 * PAGE);
        black_box(walker.translate(at, Access::READ).unwrap());
    });
}

/// A CPU takes a table, and gives it back.
fn fragments(cpus: usize) {
    let (_, frames) = frames();
    let cache = Cache::new(frames, Owner(1), Kind::User, Policy::Reuse);
    let fronts: Vec<_> = (0..cpus).map(|_| Own(Local::new(&cache))).collect();
    model("frag-alloc, pair at a front", cpus, TURNS, |cpu, _| {
        let front = &fronts[cpu].0;
        front.give(front.take(12).unwrap(), 12, Contents::Zeroed).unwrap();
    });
    model("frag-alloc, pair at the cache", cpus, TURNS, |_, _| {
        cache.give(cache.take(12).unwrap(), 12, Contents::Zeroed).unwrap();
    });
}

/// Entries of a hashed table, a segment for all.
fn hashed(cpus: usize) {
    let segment = Segment {
        vsid: 0x7d7_4cb,
        size: SegmentSize::T1,
        base: PageSize::K4,
        ks: false,
        kp: true,
        n: false,
        class: false,
    };
    let order = HptOrder::new(18).unwrap();
    let words: Vec<_> = (0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect();
    // Nothing else stands there later.
    let words = Vec::leak(words);
    range("tables", words.as_ptr(), words.len() * 8);
    let start = Gpa::new(1 << 40);
    let hpt = Hpt::new(DirectMap::new(words, start), start, order, Layout::V3).unwrap();
    let mut slb = Slb::new();
    slb.slbmte(SlbEsid::new().with_v(true), segment.slb_word()).unwrap();
    let mmu = HashMmu { slb: &slb, hpt: &hpt, authority: Authority::default() };
    // Neighbouring pages go to neighbouring groups, and each CPU has 16 of them.
    let at = |cpu: usize, turn: u64| (cpu as u64) << 16 | turn << 12;
    let page = |address| VirtualPage::of(&segment, Gva::new(address));
    let entry = |address: u64| Hpte { v: page(address).v(), r: HpteR::from_bits(address | 0x192) };
    model("hash, enter", cpus, TURNS, |cpu, turn| {
        let at = at(cpu, turn);
        assert!(hpt.insert(&page(at), entry(at)).unwrap().is_some());
    });
    model("hash, translate", cpus, TURNS, |cpu, turn| {
        black_box(mmu.translate(Gva::new(at(cpu, turn)), Access::READ).unwrap());
    });
    model("hash, remove", cpus, TURNS, |cpu, turn| {
        assert!(hpt.remove(&page(at(cpu, turn))).unwrap().is_some());
    });
}
