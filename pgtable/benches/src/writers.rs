//! `cargo xtask bench writers`: many writers on one tree, each page faulted in by a call of its own, beside one global lock around the exclusive writer.
//!
//! Ranges of 2 MiB are made page by page: all by one thread; half of them by each of two; and every one by both, page by page in turn. Tables come from
//! frag-alloc, and wait for who descends. Only ratios within one run say anything, and those of two threads only if two CPUs are free.

#[expect(dead_code, reason = "what a bench with peers needs is not used here")]
mod harness;

use std::sync::atomic::AtomicU64;
use std::sync::{Barrier, Mutex};

use arch_x86::{Controls, Levels, LongMode};
use clap::Parser;
use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Reader, Region};
use pgtable::{
    Access, DirectMap, Gather, Gpa, Gva, Leaves, PageTable, Prot, SharedPageTable, TableAllocator, TableMemory, Unused,
    Writer,
};

use harness::{Contestant, Goal, Row as _, compete};

const PAGE: u64 = 4096;
const RANGE: u64 = 2 << 20;
const RANGES: u64 = 2048;
/// Tables for all of them, and room for those that wait.
const FRAMES: u32 = 256;

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

impl harness::Row for Row {
    fn title(&self) -> &'static str {
        match self {
            Self::One => "fault in, 1 thread",
            Self::Two => "fault in, 2 threads, ranges of their own",
            Self::TwoInTurn => "fault in, 2 threads, the same ranges",
        }
    }

    fn operations(&self) -> u64 {
        RANGES * RANGE / PAGE
    }
}

impl Row {
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
type Tables = Deferred<Gpa, Source, &'static Frames<Gpa, Source>, &'static Epochs>;
type Tree = PageTable<LongMode, Memory, &'static Tables>;

/// An empty tree, and who keeps its tables.
fn tree() -> (Tree, &'static Epochs) {
    let start = Gpa::new(1 << 30);
    let words: Vec<AtomicU64> = (0..FRAMES << 13).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(Vec::leak(words), start);
    let source = Region::new(memory, start, FRAMES, 16).expect("frames of 64 KiB");
    let frames: &'static _ = Box::leak(Box::new(Frames::new(source).expect("a span of frames")));
    let epochs: &'static _ = Box::leak(Box::new(Epochs::new(2)));
    let tables = Deferred::new(Cache::new(frames, Owner(1), Kind::User, Policy::Reuse), epochs);
    let tables: &'static _ = Box::leak(Box::new(tables));
    let format = LongMode::new(Levels::Four, Controls::new());
    (PageTable::new(format, memory, tables).expect("a root"), epochs)
}

/// Runs `work` on each thread of a row.
fn each_thread(row: Row, work: impl Fn(u64) + Sync) {
    if row.threads() == 1 {
        return work(0);
    }
    let begin = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            begin.wait();
            work(1);
        });
        begin.wait();
        work(0);
    });
}

/// Who makes the pages.
trait Faults: Sync {
    /// Maps the pages of `row` that are the affair of `thread`.
    fn fault(&self, row: Row, thread: u64);
    /// Unmaps everything.
    fn clear(&mut self);
    fn translate(&self, at: u64) -> Option<u64>;
}

struct Column<T>(&'static str, T, &'static [Row]);

impl<T: Faults> Contestant<Row> for Column<T> {
    fn name(&self) -> &'static str {
        self.0
    }

    fn has(&self, row: Row) -> bool {
        self.2.contains(&row)
    }

    fn prepare(&mut self, _: Row) {
        self.1.clear();
    }

    fn run(&mut self, row: Row) {
        each_thread(row, |thread| self.1.fault(row, thread));
    }

    fn verify(&mut self, _: Row) {
        for at in (0..RANGES * RANGE).step_by(61 * PAGE as usize) {
            assert_eq!(self.1.translate(at), Some(output(at).get()), "{} {at:#x}", self.0);
        }
    }
}

/// Unmaps everything, and lets the tables go home.
fn clear(tree: &mut Tree) {
    let mut gather = Gather::new(&Unused, ());
    tree.unmap(Gva::new(0), RANGES * RANGE, &mut gather).expect("nothing to split");
    gather.finish(tree.tables()).expect("our own tables");
    while tree.tables().waiting() > 0 {
        tree.tables().collect().expect("our own tables");
    }
}

fn leaf() -> arch_x86::PageAttributes {
    Prot::RW.into()
}

/// One thread, and nothing to keep others out.
struct Exclusive(Mutex<Tree>);

impl Faults for Exclusive {
    fn fault(&self, row: Row, thread: u64) {
        let mut tree = self.0.lock().expect("nobody panics");
        let (ranges, step) = row.share(thread);
        for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
            tree.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
        }
    }

    fn clear(&mut self) {
        clear(self.0.get_mut().expect("nobody panics"));
    }

    fn translate(&self, at: u64) -> Option<u64> {
        let tree = self.0.lock().expect("nobody panics");
        tree.translate(Gva::new(at), Access::READ).ok().map(|found| found.output.get())
    }
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
        let tree = self.0.lock().expect("nobody panics");
        tree.translate(Gva::new(at), Access::READ).ok().map(|found| found.output.get())
    }
}

/// The shared tree: a call, and so a lock of the smallest subtree, for each page.
struct Shared {
    tree: Option<SharedPageTable<LongMode, Memory, &'static Tables>>,
    epochs: &'static Epochs,
    /// One lock for each range, not for each page.
    cursor: bool,
}

impl Shared {
    fn boxed(name: &'static str, cursor: bool, rows: &'static [Row]) -> Box<dyn Contestant<Row>> {
        let (tree, epochs) = tree();
        Box::new(Column(name, Self { tree: Some(tree.into()), epochs, cursor }, rows))
    }

    fn tree(&self) -> &SharedPageTable<LongMode, Memory, &'static Tables> {
        self.tree.as_ref().expect("it is put back")
    }
}

fn each_page<M: TableMemory<Gpa>, A: TableAllocator<Gpa>>(
    writer: &Writer<'_, LongMode, M, A, Reader<'_>>,
    (row, thread): (Row, u64),
) {
    let (ranges, step) = row.share(thread);
    for at in ranges.flat_map(|range| (range..range + RANGE).step_by(step)) {
        writer.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
    }
}

fn each_range<M: TableMemory<Gpa>, A: TableAllocator<Gpa>>(
    writer: &Writer<'_, LongMode, M, A, Reader<'_>>,
    (row, thread): (Row, u64),
) {
    let (ranges, step) = row.share(thread);
    for range in ranges {
        let mut cursor = writer.lock(Gva::new(range & !(RANGE - 1)), RANGE).expect("of this space");
        for at in (range..range + RANGE).step_by(step) {
            cursor.map(Gva::new(at), output(at), PAGE, leaf(), Leaves::Exactly(12)).expect("absent");
        }
    }
}

impl Faults for Shared {
    fn fault(&self, row: Row, thread: u64) {
        let writer = self.tree().writer(self.epochs.reader().expect("two slots"));
        if self.cursor { each_range(&writer, (row, thread)) } else { each_page(&writer, (row, thread)) }
    }

    fn clear(&mut self) {
        let mut tree = self.tree.take().expect("it is put back").into_inner();
        clear(&mut tree);
        self.tree = Some(tree.into());
    }

    fn translate(&self, at: u64) -> Option<u64> {
        self.tree().walker().translate(Gva::new(at), Access::READ).ok().map(|found| found.output.get())
    }
}

fn main() {
    let options = Options::parse();
    let all = &[Row::One, Row::Two, Row::TwoInTurn];
    let mut contestants = [
        Box::new(Column("exclusive", Exclusive(Mutex::new(tree().0)), &[Row::One])) as Box<dyn Contestant<Row>>,
        Box::new(Column("global lock", Global(Mutex::new(tree().0)), all)),
        Shared::boxed("shared", false, all),
        Shared::boxed("shared, cursor", true, all),
    ];
    let table = compete(all, &mut contestants, options.rounds);
    table.print();
    let cell = |row: Row, column| table.get(row.title(), column).expect("it was run");
    let goal = |name: &str, measured, bound| Goal { name: name.to_owned(), measured, bound }.print();
    // 1.8 times as fast by two threads as by one.
    for (name, column) in [("writers-two-pages", "shared"), ("writers-two-cursors", "shared, cursor")] {
        goal(name, cell(Row::Two, column) / cell(Row::One, column), 1.0 / 1.8);
    }
    goal("writers-two-beside-global-lock", cell(Row::Two, "shared") / cell(Row::Two, "global lock"), 0.5);
    let beside = cell(Row::TwoInTurn, "shared") / cell(Row::TwoInTurn, "global lock");
    goal("writers-contended-beside-global-lock", beside, 1.0);
}
