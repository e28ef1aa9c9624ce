//! Everybody who takes part, behind one trait.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Local, Owner, Policy, Region};
use pgtable::Hpa;
use pgtable::allocator::Contents;
use pgtable::memory::DirectMap;

/// log2 of a frame's bytes.
pub const FRAME: u8 = 16;

/// One thread's view of a contender.
pub trait Tables {
    /// A zeroed table of `2^shift` bytes: where its words are.
    fn take(&self, shift: u8) -> usize;
    /// Its return; every word is zero if `clean`.
    fn give(&self, table: usize, shift: u8, clean: bool);
}

/// A contender that threads share.
pub trait Contender: Sync {
    type Thread<'a>: Tables
    where
        Self: 'a;
    fn name(&self) -> &'static str;
    fn thread(&self) -> Self::Thread<'_>;
}

/// The word at an address that a contender handed out.
#[inline(always)]
pub fn word(table: usize) -> &'static AtomicU64 {
    // SAFETY: every contender hands out aligned tables of at least 256 bytes that nobody else has.
    unsafe { &*(table as *const AtomicU64) }
}

/// A general allocator.
pub struct General<G>(pub &'static str, pub G);

impl<G: GlobalAlloc + Sync> Contender for General<G> {
    type Thread<'a>
        = GeneralTables<'a, G>
    where
        Self: 'a;

    fn name(&self) -> &'static str {
        self.0
    }

    fn thread(&self) -> GeneralTables<'_, G> {
        GeneralTables(&self.1)
    }
}

/// As one thread sees it.
pub struct GeneralTables<'a, G>(&'a G);

impl<G: GlobalAlloc> Tables for GeneralTables<'_, G> {
    #[inline(always)]
    fn take(&self, shift: u8) -> usize {
        let layout = Layout::from_size_align(1 << shift, 1 << shift).expect("a power of two");
        // SAFETY: the layout is not empty.
        unsafe { self.0.alloc_zeroed(layout) as usize }
    }

    #[inline(always)]
    fn give(&self, table: usize, shift: u8, _: bool) {
        let layout = Layout::from_size_align(1 << shift, 1 << shift).expect("a power of two");
        // SAFETY: it was allocated with this layout.
        unsafe { self.0.dealloc(table as *mut u8, layout) }
    }
}

/// Zeroed, touched, frame-aligned memory for those who need an arena; never given back.
pub fn arena(frames: usize) -> &'static [AtomicU64] {
    let layout = Layout::from_size_align(frames << FRAME, 2 << 20).expect("a power of two");
    // SAFETY: the layout is not empty; the block is zeroed, aligned, and never freed.
    unsafe {
        let block = NonNull::new(System.alloc_zeroed(layout)).expect("memory");
        for page in (0..frames << FRAME).step_by(4096) {
            block.add(page).write_volatile(0);
        }
        std::slice::from_raw_parts(block.as_ptr().cast(), (frames << FRAME) / 8)
    }
}

type Source = Region<Hpa, DirectMap<'static, Hpa>>;

/// This crate, with its tables at the addresses of their words.
pub struct Ours {
    frames: &'static Frames<Hpa, Source>,
    pub cache: Cache<Hpa, Source, &'static Frames<Hpa, Source>>,
}

impl Ours {
    pub fn new(frames: usize) -> Self {
        Self::with(frames, Policy::Reuse)
    }

    pub fn with(frames: usize, policy: Policy) -> Self {
        let words = arena(frames);
        let start = Hpa::new(words.as_ptr() as u64);
        let region = Region::new(DirectMap::new(words, start), start, frames as u32, FRAME)
            .expect("aligned");
        let table = Box::leak(Box::new(Frames::new(region).expect("small enough")));
        Self { frames: table, cache: Cache::new(table, Owner(1), Kind::User, policy) }
    }

    pub fn frames(&self) -> &'static Frames<Hpa, Source> {
        self.frames
    }
}

/// With a front per thread.
impl Contender for Ours {
    type Thread<'a> = Local<'a, Hpa, Source, &'static Frames<Hpa, Source>>;

    fn name(&self) -> &'static str {
        "frag-alloc, front"
    }

    fn thread(&self) -> Self::Thread<'_> {
        Local::new(&self.cache)
    }
}

fn contents(clean: bool) -> Contents {
    if clean { Contents::Zeroed } else { Contents::Stale }
}

impl Tables for Local<'_, Hpa, Source, &'static Frames<Hpa, Source>> {
    #[inline(always)]
    fn take(&self, shift: u8) -> usize {
        Local::take(self, shift).expect("enough frames").get() as usize
    }

    #[inline(always)]
    fn give(&self, table: usize, shift: u8, clean: bool) {
        Local::give(self, Hpa::new(table as u64), shift, contents(clean)).expect("a live table");
    }
}

/// Without fronts: all threads at the cache itself.
pub struct Shared(pub Ours);

impl Contender for Shared {
    type Thread<'a> = &'a Cache<Hpa, Source, &'static Frames<Hpa, Source>>;

    fn name(&self) -> &'static str {
        "frag-alloc, shared"
    }

    fn thread(&self) -> Self::Thread<'_> {
        &self.0.cache
    }
}

impl Tables for &Cache<Hpa, Source, &'static Frames<Hpa, Source>> {
    #[inline(always)]
    fn take(&self, shift: u8) -> usize {
        Cache::take(self, shift).expect("enough frames").get() as usize
    }

    #[inline(always)]
    fn give(&self, table: usize, shift: u8, clean: bool) {
        Cache::give(self, Hpa::new(table as u64), shift, contents(clean)).expect("a live table");
    }
}

/// talc, over an arena of its own.
pub fn talc(frames: usize) -> General<talc::Talck<spin::Mutex<()>, talc::ErrOnOom>> {
    let words = arena(frames);
    let mut talc = talc::Talc::new(talc::ErrOnOom);
    // SAFETY: the arena is nobody else's.
    unsafe {
        talc.claim(talc::Span::from_base_size(words.as_ptr() as *mut u8, words.len() * 8))
            .expect("large enough")
    };
    General("talc", talc.lock())
}

/// buddy_system_allocator, over an arena of its own.
pub fn buddy(frames: usize) -> General<buddy_system_allocator::LockedHeap<32>> {
    let words = arena(frames);
    let heap = buddy_system_allocator::LockedHeap::new();
    // SAFETY: the arena is nobody else's.
    unsafe { heap.lock().init(words.as_ptr() as usize, words.len() * 8) };
    General("buddy_system_allocator", heap)
}

/// Calls a generic function for each contender, ours first, the floor last.
macro_rules! each {
    ($contenders:expr, $call:ident $(, $argument:expr)*) => {{
        let all = &$contenders;
        vec![
            $call(&all.ours $(, $argument)*),
            $call(&all.shared $(, $argument)*),
            $call(&all.linux $(, $argument)*),
            $call(&all.system $(, $argument)*),
            $call(&all.mimalloc $(, $argument)*),
            $call(&all.jemalloc $(, $argument)*),
            $call(&all.snmalloc $(, $argument)*),
            $call(&all.talc $(, $argument)*),
            $call(&all.buddy $(, $argument)*),
        ]
    }};
}
pub(crate) use each;

/// Everybody.
pub struct All {
    pub ours: Ours,
    pub shared: Shared,
    pub linux: crate::linux::Linux,
    pub system: General<System>,
    pub mimalloc: General<mimalloc::MiMalloc>,
    pub jemalloc: General<tikv_jemallocator::Jemalloc>,
    pub snmalloc: General<snmalloc_rs::SnMalloc>,
    pub talc: General<talc::Talck<spin::Mutex<()>, talc::ErrOnOom>>,
    pub buddy: General<buddy_system_allocator::LockedHeap<32>>,
}

/// In the order of [`each`]: where the general allocators begin.
pub const FIRST_PEER: usize = 3;

impl All {
    pub fn new() -> Self {
        Self {
            ours: Ours::new(1024),
            shared: Shared(Ours::new(1024)),
            linux: crate::linux::Linux::new(1024),
            system: General("system", System),
            mimalloc: General("mimalloc", mimalloc::MiMalloc),
            jemalloc: General("jemalloc", tikv_jemallocator::Jemalloc),
            snmalloc: General("snmalloc", snmalloc_rs::SnMalloc::new()),
            talc: talc(1024),
            buddy: buddy(1024),
        }
    }
}

/// The sum of a table's words, for checks outside the timed loops.
pub fn sum(table: usize, shift: u8) -> u64 {
    (0..1_usize << (shift - 3)).map(|index| word(table + index * 8).load(Ordering::Relaxed)).sum()
}
