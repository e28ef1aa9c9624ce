//! A reader on one thread, alone and beside a writer that maps and unmaps another range.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::ours::Tables;
use bench_harness::Goal;
use bench_harness::arena::{self, Arena};
use bench_harness::work::Work;

const START: u64 = 0x4000_0000;
/// Pages that are read.
const PAGES: u64 = 4096;
/// Where the writer is at work: so far away that no cache line of an upper table holds entries of
/// both.
const FAR: u64 = 0x60_0000_0000;
/// Reads between two looks at the clock.
const BATCH: usize = 64;
const SPAN: Duration = Duration::from_millis(60);

/// Reads for a while; reads per second, and the longest that a batch of them took.
fn read(walker: Walker<LongMode, DirectMap<'_, Gpa>>, work: &Work) -> (f64, Duration) {
    let (begin, mut reads, mut longest) = (Instant::now(), 0u64, Duration::ZERO);
    let mut last = begin;
    'all: loop {
        for indices in work.hot.indices.chunks(BATCH) {
            for &index in indices {
                let found =
                    walker.translate(Gva::new(work.input(index.into())), Access::READ).unwrap();
                assert_eq!(found.output.get(), work.scattered(index.into()));
            }
            let now = Instant::now();
            reads += indices.len() as u64;
            longest = longest.max(now - last);
            last = now;
            if now - begin > SPAN {
                break 'all;
            }
        }
    }
    (reads as f64 / (last - begin).as_secs_f64(), longest)
}

type Tree = PageTable<LongMode, DirectMap<'static, Gpa>, Tables>;

fn tree() -> Tree {
    let arena = Arena::new(START, arena::BYTES);
    // SAFETY: the arena is valid as long as the process, and every access to it is atomic.
    let words = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    PageTable::new(LongMode::new(Levels::Four, Controls::new()), words, Tables::new(vec![arena]))
        .unwrap()
}

/// Reads while `written` is changed, far from what is read: reads per second, the longest of them,
/// and how many pages were changed.
fn read_beside(
    written: &mut Tree,
    reader: Walker<LongMode, DirectMap<'_, Gpa>>,
    work: &Work,
) -> (f64, Duration, u64) {
    let done = AtomicBool::new(false);
    let mut changes = 0u64;
    thread::scope(|scope| {
        let read = scope.spawn(|| {
            let result = read(reader, work);
            done.store(true, Ordering::Relaxed);
            result
        });
        let (input, bytes) = (Gva::new(FAR), 64 << 12);
        while !done.load(Ordering::Relaxed) {
            written
                .map(input, Gpa::new(0x7000_0000), bytes, Prot::RW.into(), Leaves::Exactly(12))
                .unwrap();
            let mut gather = Gather::new(&Unused, ());
            assert_eq!(written.unmap(input, bytes, &mut gather), Ok(bytes));
            gather.finish(written.tables()).unwrap();
            changes += 128;
        }
        let (reads, longest) = read.join().unwrap();
        (reads, longest, changes)
    })
}

/// A reader beside a writer of the same tree, against one beside a writer of another: two threads
/// of one core, or a busy machine, slow both.
pub fn run(rounds: usize) -> Goal {
    let work = Work::new(12);
    let (mut tree, mut other) = (tree(), tree());
    for index in 0..PAGES {
        let (input, output) = (Gva::new(work.input(index)), Gpa::new(work.scattered(index)));
        tree.map(input, output, 4096, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    }
    let reader = Walker::new(*tree.format(), *tree.memory(), tree.root());
    let none = (0.0f64, Duration::MAX, 0);
    let better = |best: (f64, Duration, u64), now: (f64, Duration, u64)| {
        (best.0.max(now.0), best.1.min(now.1), best.2.max(now.2))
    };
    let (mut alone, mut apart, mut beside) = (none, none, none);
    for _ in 0..rounds {
        let (reads, longest) = read(reader, &work);
        alone = better(alone, (reads, longest, 0));
        apart = better(apart, read_beside(&mut other, reader, &work));
        beside = better(beside, read_beside(&mut tree, reader, &work));
    }
    for (who, (reads, longest, changes)) in [
        ("alone", alone),
        ("beside a writer of another tree", apart),
        ("beside a writer of its own tree", beside),
    ] {
        println!(
            "a reader {who}: {:.1} M reads/s, longest {BATCH} reads {longest:?}, {changes} pages changed",
            reads / 1e6
        );
    }
    for tree in [tree, other] {
        tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    }
    Goal { name: "reader-beside-writer".to_owned(), measured: apart.0 / beside.0, bound: 1.11 }
}
