//! `cargo xtask bench writers`: many writers on one tree, each page faulted in by a call of its
//! own, beside one global lock around the exclusive writer.
//!
//! 16 GiB are faulted in by pages of 4 KiB, in ranges of 2 MiB: all by one thread; half of them by
//! each of two; and every one by both, page by page in turn. Tables come from frag-alloc, and wait
//! for who descends.
//!
//! Of other crates there is one with its own way of keeping writers apart that can be linked:
//! `pagetable`, a lock-free radix tree in its own memory (nodes of 65,536 words), which frees
//! nothing and counts nothing. Page tables of a hypervisor's kind that lock (ostd's cursor,
//! Theseus's mapper) are private to their kernels; x86_64, page-table-generic,
//! page_table_multiarch, aarch64-paging and memflow leave locking to their callers, as the column
//! with one lock does.
//!
//! Only ratios within one run say anything, and those of two threads only if two CPUs are free.

use std::cell::Cell;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Local, Owner, Policy, Reader, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::shared::{DeferringAllocator, SharedPageTable, Writer};
use pgtable::tree::PageTable;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};

use bench_harness::Goal;

const PAGE: u64 = 4096;
const RANGE: u64 = 2 << 20;
const RANGES: u64 = 8192;
/// Tables for all of them, and room for those that wait.
const FRAMES: u32 = 1200;

/// Measures many writers.
#[derive(Parser)]
struct Options {
    /// How often every row is run; the fastest counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Row {
    One,
    Two,
    TwoInTurn,
}

impl Row {
    const ALL: &'static [Self] = &[Self::One, Self::Two, Self::TwoInTurn];

    fn title(self) -> &'static str {
        match self {
            Self::One => "fault in 16 GiB, 1 thread",
            Self::Two => "fault in 16 GiB, 2 threads, ranges of their own",
            Self::TwoInTurn => "fault in 16 GiB, 2 threads, the same ranges",
        }
    }

    fn threads(self) -> u64 {
        if self == Self::One { 1 } else { 2 }
    }

    /// The runs of pages that a thread makes, and the step from page to page.
    fn share(self, thread: u64) -> (impl Iterator<Item = u64>, usize) {
        let threads = self.threads();
        let (first, step) = match self {
            // Halves, far from each other: no table of theirs is the same but the root.
            Self::One | Self::Two => (thread * RANGES / threads * RANGE, PAGE),
            Self::TwoInTurn => (thread * PAGE, threads * PAGE),
        };
        let ranges = if self == Self::TwoInTurn { RANGES } else { RANGES / threads };
        ((0..ranges).map(move |range| first + range * RANGE), step as usize)
    }
}

fn output(at: u64) -> Gpa {
    Gpa::new((1 << 40) + at)
}

type Memory = DirectMap<'static, Gpa>;
type Source = Region<Gpa, Memory>;
type Waiting = Deferred<Gpa, Source, &'static Frames<Gpa, Source>, &'static Epochs>;
type Front = Local<'static, Gpa, Source, &'static Frames<Gpa, Source>>;
type Tree = PageTable<LongMode, Memory, &'static Tables>;

thread_local! {
    static THREAD: Cell<usize> = const { Cell::new(0) };
}

/// Each thread takes tables from a front of its own; freed, they wait for who descends.
struct Tables {
    fronts: [Mutex<Front>; 2],
    waiting: &'static Waiting,
}

impl TableAllocator<Gpa> for Tables {
    fn allocate(&self, layout: TableLayout) -> Result<Gpa, AllocError> {
        self.fronts[THREAD.get()].lock().expect("nobody panics").allocate(layout)
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

/// An empty tree, and who keeps its tables.
fn tree() -> Tree {
    let start = Gpa::new(1 << 30);
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(Vec::leak(words), start);
    let source = Region::new(memory, start, FRAMES, 16).expect("frames of 64 KiB");
    let frames: &'static _ = Box::leak(Box::new(Frames::new(source).expect("a span of frames")));
    let epochs: &'static _ = Box::leak(Box::new(Epochs::new(2)));
    let waiting = Deferred::new(Cache::new(frames, Owner(1), Kind::User, Policy::Reuse), epochs);
    let waiting: &'static Waiting = Box::leak(Box::new(waiting));
    let fronts = [(); 2].map(|()| Mutex::new(Local::new(waiting.cache())));
    let tables: &'static _ = Box::leak(Box::new(Tables { fronts, waiting }));
    let format = LongMode::new(Levels::Four, Controls::new());
    PageTable::new(format, memory, tables).expect("a root")
}

/// Runs `work` on each thread of a row; how long it took from when all were there until the last
/// was done.
fn each_thread(row: Row, work: impl Fn(u64) + Sync) -> Duration {
    let missing = AtomicU64::new(row.threads());
    let timed = &|thread| {
        // Not by sleeping: to be woken takes longer than the work.
        missing.fetch_sub(1, Ordering::AcqRel);
        while missing.load(Ordering::Acquire) > 0 {
            std::hint::spin_loop();
        }
        THREAD.set(thread as usize);
        let start = Instant::now();
        work(thread);
        (start, Instant::now())
    };
    let mut times = vec![];
    std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..row.threads()).map(|thread| scope.spawn(move || timed(thread))).collect();
        times.push(timed(0));
        times.extend(others.into_iter().map(|other| other.join().expect("nobody panics")));
    });
    let start = times.iter().map(|time| time.0).min().expect("one thread at least");
    times.iter().map(|time| time.1).max().expect("one thread at least") - start
}

/// Who makes the pages.
trait Faults: Sync {
    /// Maps the pages of `row` that are the affair of `thread`.
    fn fault(&self, row: Row, thread: u64);
    /// Unmaps everything.
    fn clear(&mut self);
    fn translate(&self, at: u64) -> Option<u64>;
}

/// One column: its title, who makes the pages, and its rows.
struct Column {
    title: &'static str,
    faults: Box<dyn Faults>,
    rows: &'static [Row],
    /// The best time of each row, in ns per page.
    best: Vec<f64>,
}

impl Column {
    fn new(title: &'static str, faults: impl Faults + 'static, rows: &'static [Row]) -> Self {
        Self { title, faults: Box::new(faults), rows, best: vec![f64::INFINITY; rows.len()] }
    }

    fn run(&mut self, row: Row) {
        let Some(index) = self.rows.iter().position(|it| *it == row) else { return };
        self.faults.clear();
        let took = each_thread(row, |thread| self.faults.fault(row, thread));
        for at in (0..RANGES * RANGE).step_by(61 * PAGE as usize) {
            assert_eq!(self.faults.translate(at), Some(output(at).get()), "{} {at:#x}", self.title);
        }
        self.best[index] =
            self.best[index].min(took.as_secs_f64() * 1e9 / (RANGES * RANGE / PAGE) as f64);
    }

    fn best(&self, row: Row) -> f64 {
        self.rows.iter().position(|it| *it == row).map_or(f64::NAN, |index| self.best[index])
    }
}

/// Unmaps everything, and lets the tables go home.
fn clear(tree: &mut Tree) {
    let mut gather = Gather::new(&Unused, ());
    tree.unmap(Gva::new(0), RANGES * RANGE, &mut gather).expect("nothing to split");
    gather.finish(tree.tables()).expect("our own tables");
    while tree.tables().waiting.waiting() > 0 {
        tree.tables().waiting.collect().expect("our own tables");
    }
}

fn leaf() -> pgtable_x86::PageAttributes {
    Prot::RW.into()
}

/// A tree for each thread, and nothing to keep others out: what the machine gives two threads.
struct Exclusive([Mutex<Tree>; 2]);

impl Faults for Exclusive {
    fn fault(&self, row: Row, thread: u64) {
        let mut tree = self.0[thread as usize].lock().expect("nobody panics");
        let (ranges, step) = row.share(thread);
        for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
            tree.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
        }
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(|tree| clear(tree.get_mut().expect("nobody panics")));
    }

    fn translate(&self, at: u64) -> Option<u64> {
        self.0.iter().find_map(|tree| translate(&tree.lock().expect("nobody panics"), at))
    }
}

fn translate(tree: &Tree, at: u64) -> Option<u64> {
    tree.translate(Gva::new(at), Access::READ).ok().map(|found| found.output.get())
}

/// One lock around all of it, taken for each page.
struct Global(Mutex<Tree>);

impl Faults for Global {
    fn fault(&self, row: Row, thread: u64) {
        let (ranges, step) = row.share(thread);
        for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
            let mut tree = self.0.lock().expect("nobody panics");
            tree.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
        }
    }

    fn clear(&mut self) {
        clear(self.0.get_mut().expect("nobody panics"));
    }

    fn translate(&self, at: u64) -> Option<u64> {
        translate(&self.0.lock().expect("nobody panics"), at)
    }
}

/// The shared tree: a call, and so a lock of the smallest subtree, for each page.
struct Shared {
    tree: Option<SharedPageTable<LongMode, Memory, &'static Tables>>,
    /// One lock for each range, not for each page.
    cursor: bool,
}

impl Shared {
    fn new(cursor: bool) -> Self {
        Self { tree: Some(tree().into()), cursor }
    }

    fn tree(&self) -> &SharedPageTable<LongMode, Memory, &'static Tables> {
        self.tree.as_ref().expect("it is put back")
    }
}

fn each_page<M: TableMemory<Gpa>, A: DeferringAllocator<Gpa>>(
    writer: &Writer<'_, LongMode, M, A>,
    (row, thread): (Row, u64),
) {
    let (ranges, step) = row.share(thread);
    for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
        writer.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
    }
}

fn each_range<M: TableMemory<Gpa>, A: DeferringAllocator<Gpa>>(
    writer: &Writer<'_, LongMode, M, A>,
    (row, thread): (Row, u64),
) {
    let (ranges, step) = row.share(thread);
    for range in ranges {
        let mut cursor = writer.lock(Gva::new(range & !(RANGE - 1)), RANGE).expect("of this space");
        for at in (range..range + RANGE).step_by(step) {
            cursor
                .map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12))
                .expect("absent");
        }
    }
}

impl Faults for Shared {
    fn fault(&self, row: Row, thread: u64) {
        let writer = self.tree().writer().expect("two slots");
        if self.cursor {
            each_range(&writer, (row, thread));
        } else {
            each_page(&writer, (row, thread));
        }
    }

    fn clear(&mut self) {
        let mut tree = self.tree.take().expect("it is put back").into_inner();
        clear(&mut tree);
        self.tree = Some(tree.into());
    }

    fn translate(&self, at: u64) -> Option<u64> {
        self.tree()
            .walker()
            .translate(Gva::new(at), Access::READ)
            .ok()
            .map(|found| found.output.get())
    }
}

/// The peer: an entry is had without a lock, and taken by an exchange.
#[derive(Default)]
struct LockFree(pagetable::PageTable<AtomicU64>);

impl Faults for LockFree {
    fn fault(&self, row: Row, thread: u64) {
        let (ranges, step) = row.share(thread);
        for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
            let entry = self.0.get(at / PAGE);
            let leaf = output(at).get() | 3;
            entry.compare_exchange(0, leaf, Ordering::AcqRel, Ordering::Relaxed).expect("absent");
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    fn translate(&self, at: u64) -> Option<u64> {
        let leaf = self.0.get(at / PAGE).load(Ordering::Acquire);
        (leaf & 1 != 0).then_some(leaf & !(PAGE - 1))
    }
}

fn main() {
    let options = Options::parse();
    let mut columns = [
        Column::new(
            "exclusive, a tree each",
            Exclusive([tree(), tree()].map(Mutex::new)),
            Row::ALL,
        ),
        Column::new("global lock", Global(Mutex::new(tree())), Row::ALL),
        Column::new("shared", Shared::new(false), Row::ALL),
        Column::new("shared, cursor", Shared::new(true), Row::ALL),
        Column::new("pagetable (lock-free)", LockFree::default(), Row::ALL),
    ];
    for _ in 0..options.rounds {
        Row::ALL.iter().for_each(|&row| columns.iter_mut().for_each(|column| column.run(row)));
    }
    print!("{:50}", "ns/page");
    columns.iter().for_each(|column| print!("{:>24}", column.title));
    println!();
    for &row in Row::ALL {
        print!("{:50}", row.title());
        columns.iter().for_each(|column| print!("{:>24.2}", column.best(row)));
        println!();
    }
    let [apart, global, shared, cursor, _] = columns;
    let goal =
        |name: &str, measured, bound| Goal { name: name.to_owned(), measured, bound }.print();
    // 1.8 times as fast by two threads as by one.
    goal("writers-two-pages", shared.best(Row::Two) / shared.best(Row::One), 0.555);
    goal("writers-two-cursors", cursor.best(Row::Two) / cursor.best(Row::One), 0.555);
    // What is lost by sharing the tree, whatever the machine gives.
    let gain = |column: &Column| column.best(Row::Two) / column.best(Row::One);
    goal("writers-two-pages-beside-two-trees", gain(&shared) / gain(&apart), 1.1);
    goal("writers-two-beside-global-lock", shared.best(Row::Two) / global.best(Row::Two), 0.5);
    goal(
        "writers-contended-beside-global-lock",
        shared.best(Row::TwoInTurn) / global.best(Row::TwoInTurn),
        1.0,
    );
}
