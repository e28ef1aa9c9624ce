//! `cargo xtask bench jobs`: whole jobs of a VMM, each beside the same work by hand in one process.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bench_harness::Goal;
use bench_harness::arena::Arena;
use bench_harness::by_hand::ByHand;
use bench_harness::tables::Tables;
use clap::Parser;
use pgtable::allocator::TableState;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Prot};
use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};

/// Where table memory begins.
const START: u64 = 0x4000_0000;
/// Tables of 64 GiB in pages of 4 KiB, and what is besides.
const TABLES: usize = 160 << 20;
/// A guest's memory, in pages of 4 KiB.
const GUEST: u64 = 64 << 30;
const PAGES: u64 = GUEST >> 12;
/// One page in so many is dirty.
const EVERY: u64 = 100;
const GIB: u64 = 1 << 30;
/// What is mapped by calls of some pages, and split.
const CALLS: u64 = 1 << 12;
const AT_CALLS: u64 = 0x100_0000_0000;
const AT_SPLIT: u64 = 0x180_0000_0000;
/// Pages of one call.
const BLOCK: u64 = 256;
/// Boot tables are made so often in a run.
const BOOTS: u64 = 64;
/// Where pages lie: no multiple of a larger page.
const OUTPUT: u64 = 0x10_0000_1000;

/// Measures whole jobs.
#[derive(Parser)]
struct Options {
    /// How often every job is run; the fastest counts
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Only jobs whose title contains this
    #[arg(long, default_value = "")]
    filter: String,
}

type Act = Box<dyn FnMut() -> Duration>;
/// All tables are pages: their states stand side by side, as the counts do by hand.
type Tree = PageTable<LongMode, DirectMap<'static, Gpa>, Tables<12>>;

/// A job: what it is called, how many operations it has, the goals (times by hand, and ns), and
/// who does it.
struct Job {
    title: &'static str,
    goal: &'static str,
    operations: u64,
    ratio: f64,
    most: Option<f64>,
    ours: Act,
    by_hand: Act,
}

fn timed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

fn tree() -> Tree {
    let arena = Arena::new(START, TABLES);
    // SAFETY: the arena is valid as long as the process, and every access to it is atomic.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    let format = LongMode::new(Levels::Four, Controls::new());
    PageTable::new(format, memory, Tables::new(vec![arena])).unwrap()
}

fn unmap(tree: &mut Tree, at: u64, bytes: u64) {
    let mut gather = Gather::new(&Unused, ());
    assert_eq!(tree.unmap(Gva::new(at), bytes, &mut gather), Ok(bytes));
    gather.finish(tree.tables()).unwrap();
}

fn map(tree: &mut Tree, at: u64, bytes: u64) {
    let (input, output) = (Gva::new(at), Gpa::new(OUTPUT));
    tree.map(input, output, bytes, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
}

/// The first address of call `call`, in an order in which no two calls are neighbours.
fn of_call(call: u64) -> u64 {
    AT_CALLS + (call * 1231 % CALLS) * (BLOCK << 12)
}

/// Jobs of `pages` pages per call.
fn calls(jobs: &mut Vec<Job>, tree: &Rc<RefCell<Tree>>, hand: &Rc<ByHand>, pages: u64) {
    let one = pages == 1;
    let map = {
        let tree = Rc::clone(tree);
        move || {
            let mut tree = tree.borrow_mut();
            timed(|| {
                let (attributes, leaves) = (Prot::RW.into(), Leaves::Exactly(12));
                for call in 0..CALLS {
                    let (input, output) = (Gva::new(of_call(call)), Gpa::new(OUTPUT));
                    tree.map(input, output, pages << 12, attributes, leaves).unwrap();
                }
            })
        }
    };
    let unmap = {
        let tree = Rc::clone(tree);
        move || {
            let mut tree = tree.borrow_mut();
            timed(|| (0..CALLS).for_each(|call| unmap(&mut tree, of_call(call), pages << 12)))
        }
    };
    let mapped = Rc::clone(hand);
    let map_by_hand = move || {
        let map = |call| mapped.map(of_call(call), OUTPUT, pages as usize).unwrap();
        timed(|| (0..CALLS).for_each(map))
    };
    let unmapped = Rc::clone(hand);
    let unmap_by_hand = move || {
        let unmap = |call| unmapped.unmap(of_call(call), pages as usize).unwrap();
        timed(|| (0..CALLS).for_each(unmap))
    };
    jobs.push(Job {
        title: if one { "map, 1 page a call, tables come" } else { "map, 256 pages a call" },
        goal: if one { "map-1-a-call" } else { "map-256-a-call" },
        operations: CALLS * pages,
        ratio: 1.3,
        most: (!one).then_some(2.0),
        ours: Box::new(map),
        by_hand: Box::new(map_by_hand),
    });
    jobs.push(Job {
        title: if one { "unmap, 1 page a call, tables go" } else { "unmap, 256 pages a call" },
        goal: if one { "unmap-1-a-call" } else { "unmap-256-a-call" },
        operations: CALLS * pages,
        ratio: 1.3,
        most: (!one).then_some(2.0),
        ours: Box::new(unmap),
        by_hand: Box::new(unmap_by_hand),
    });
}

/// A leaf of 1 GiB is split into pages at once.
fn split(tree: &Rc<RefCell<Tree>>, hand: &Rc<ByHand>) -> Job {
    let (tree, hand) = (Rc::clone(tree), Rc::clone(hand));
    let large = 0x40_0000_0000;
    let ours = move || {
        let mut tree = tree.borrow_mut();
        let (input, output) = (Gva::new(AT_SPLIT), Gpa::new(large));
        tree.map(input, output, GIB, Prot::RW.into(), Leaves::Exactly(30)).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let took = timed(|| {
            tree.split(input, GIB, 12, &mut gather).unwrap();
            gather.finish(tree.tables()).unwrap();
        });
        let last = tree.translate(Gva::new(AT_SPLIT + GIB - 1), Access::READ).unwrap();
        assert_eq!((last.output.get(), last.shift), (large + GIB - 1, 12));
        unmap(&mut tree, AT_SPLIT, GIB);
        took
    };
    let by_hand = move || {
        hand.map_large(AT_SPLIT, large).unwrap();
        let took = timed(|| hand.split(AT_SPLIT).unwrap());
        assert_eq!(hand.look(AT_SPLIT + GIB - 4096), Some(large + GIB - 4096));
        assert_eq!(hand.tear_down(AT_SPLIT, GIB), Some(GIB >> 12));
        took
    };
    Job {
        title: "1 GiB split into pages of 4 KiB",
        goal: "split-1g",
        operations: GIB >> 12,
        ratio: 1.3,
        most: Some(10.0),
        ours: Box::new(ours),
        by_hand: Box::new(by_hand),
    }
}

/// Boot tables of 4 GiB, in pages of 2 MiB.
fn boot() -> Job {
    let arena = Arena::new(START, 1 << 21);
    // SAFETY: as for a tree's.
    let memory = unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(START)) };
    let format = LongMode::new(Levels::Four, Controls { gib_pages: false, ..Controls::new() });
    let mapping = [BootMapping::identity(4 * GIB, Prot::RWX.into())];
    let ours = move || {
        timed(|| {
            for _ in 0..BOOTS {
                let area = Gpa::new(START)..Gpa::new(START + (1 << 21));
                boot_tables(format, &memory, area, mapping).unwrap();
            }
        })
    };
    let hand = ByHand::new(1 << 21);
    let by_hand = move || timed(|| (0..BOOTS).for_each(|_| hand.boot(4).unwrap()));
    Job {
        title: "boot tables of 4 GiB, a page of 2 MiB",
        goal: "boot-tables",
        operations: BOOTS * ((4 * GIB) >> 21),
        ratio: 1.3,
        most: None,
        ours: Box::new(ours),
        by_hand: Box::new(by_hand),
    }
}

fn harvest(tree: &mut Tree, writers: Writers, log: &mut [u64]) -> u64 {
    let mut gather = Gather::new(&Unused, ());
    let dirty = Recorded::Dirty;
    let found = tree.harvest(Gva::new(0), GUEST, dirty, writers, log, &mut gather).unwrap();
    gather.finish(tree.tables()).unwrap();
    found
}

/// A round of a dirty log, and the end of the guest.
fn guest(jobs: &mut Vec<Job>, tree: &Rc<RefCell<Tree>>, hand: &Rc<ByHand>) {
    let dirty = PAGES.div_ceil(EVERY);
    let harvested = Rc::clone(tree);
    let ours = move || {
        let mut tree = harvested.borrow_mut();
        let mut log = vec![0; PAGES as usize / 64];
        if tree.walker().query(Gva::new(0)).unwrap().is_none() {
            // Pages are mapped as dirty.
            map(&mut tree, 0, GUEST);
            assert_eq!(harvest(&mut tree, Writers::Stopped, &mut log), PAGES);
            log.fill(0);
        }
        for page in (0..PAGES).step_by(EVERY as usize) {
            tree.walker().access(Gva::new(page << 12), Access::WRITE).unwrap();
        }
        let took = timed(|| assert_eq!(harvest(&mut tree, Writers::Running, &mut log), dirty));
        assert_eq!(log.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(), dirty);
        took
    };
    let harvested = Rc::clone(hand);
    let by_hand = move || {
        if harvested.look(0).is_none() {
            harvested.map_all(0, OUTPUT, GUEST).unwrap();
        }
        harvested.write(0, GUEST, EVERY).unwrap();
        let mut log = vec![0; PAGES as usize / 64];
        let took = timed(|| assert_eq!(harvested.harvest(0, GUEST, &mut log), Some(dirty)));
        assert_eq!(log.iter().map(|word| u64::from(word.count_ones())).sum::<u64>(), dirty);
        took
    };
    jobs.push(Job {
        title: "dirty log of 64 GiB, 1 % dirty, a page",
        goal: "dirty-log",
        operations: PAGES,
        ratio: 1.2,
        most: None,
        ours: Box::new(ours),
        by_hand: Box::new(by_hand),
    });
    let (tree, hand) = (Rc::clone(tree), Rc::clone(hand));
    let ours = move || {
        let mut tree = tree.borrow_mut();
        if tree.walker().query(Gva::new(0)).unwrap().is_none() {
            map(&mut tree, 0, GUEST);
        }
        timed(|| unmap(&mut tree, 0, GUEST))
    };
    let by_hand = move || {
        if hand.look(0).is_none() {
            hand.map_all(0, OUTPUT, GUEST).unwrap();
        }
        timed(|| assert_eq!(hand.tear_down(0, GUEST), Some(PAGES)))
    };
    jobs.push(Job {
        title: "teardown of 64 GiB, a table",
        goal: "teardown",
        operations: PAGES / 512,
        ratio: 2.0,
        most: None,
        ours: Box::new(ours),
        by_hand: Box::new(by_hand),
    });
}

/// Bytes per mapped page: of tables, and of what their allocator and the tree keep of each.
fn memory_of_a_page(tree: &mut Tree) -> (f64, f64) {
    map(tree, 0, GUEST);
    let (mut bytes, mut tables) = (0, 0);
    let _ = tree.walker().for_each_table(|table| {
        bytes += table.bytes();
        tables += 1;
        ControlFlow::<()>::Continue(())
    });
    unmap(tree, 0, GUEST);
    let states = tables * size_of::<TableState>();
    (bytes as f64 / PAGES as f64, states as f64 / PAGES as f64)
}

fn main() {
    let options = Options::parse();
    let (tree, hand) = (Rc::new(RefCell::new(tree())), Rc::new(ByHand::new(TABLES)));
    let (of_tables, of_states) = memory_of_a_page(&mut tree.borrow_mut());
    let mut jobs = Vec::new();
    calls(&mut jobs, &tree, &hand, 1);
    calls(&mut jobs, &tree, &hand, BLOCK);
    jobs.push(split(&tree, &hand));
    jobs.push(boot());
    guest(&mut jobs, &tree, &hand);
    // Jobs leave what the next one needs, so that all are run and some are shown.
    let mut best = vec![[f64::INFINITY; 2]; jobs.len()];
    for _ in 0..options.rounds {
        for (job, best) in jobs.iter_mut().zip(&mut best) {
            for (act, best) in [&mut job.ours, &mut job.by_hand].into_iter().zip(best) {
                *best = best.min(act().as_secs_f64() * 1e9 / job.operations as f64);
            }
        }
    }
    println!("{:42}{:>10}{:>10}{:>8}", "ns", "ours", "by hand", "ratio");
    let shown = |job: &Job| job.title.contains(&options.filter);
    for (job, [ours, by_hand]) in jobs.iter().zip(&best).filter(|(job, _)| shown(job)) {
        println!("{:42}{ours:>10.3}{by_hand:>10.3}{:>8.2}", job.title, ours / by_hand);
    }
    println!("{of_tables:.3} bytes of tables per page of 4 KiB, {of_states:.3} of their states");
    for (job, [ours, by_hand]) in jobs.iter().zip(&best).filter(|(job, _)| shown(job)) {
        let goal = |name: String, measured, bound| Goal { name, measured, bound }.print();
        goal(format!("job-{}", job.goal), ours / by_hand, job.ratio);
        if let Some(most) = job.most {
            goal(format!("job-{}-ns", job.goal), *ours, most);
        }
    }
}
