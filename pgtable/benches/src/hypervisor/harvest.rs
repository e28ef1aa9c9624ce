//! Dirty pages, found and cleared: a scan of a flat array is the floor, a compare-exchange for each
//! dirty word another.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_ppc64::radix::{Granule, ProcessScoped, RcPolicy};
use pgtable_x86::{Controls, Levels, LongMode};

use super::{Act, Cells, Contestant, Row};
use crate::ours::{Tables, memory::direct};
use bench_harness::work::{PAGES, Work};

const DIRTY: u64 = 1 << 6;

pub fn columns() -> Vec<Box<dyn Contestant<Row>>> {
    vec![
        Box::new(flat()),
        Box::new(ours("x86", LongMode::new(Levels::Four, Controls::new()))),
        Box::new(ours(
            "radix 4K",
            ProcessScoped::new(Granule::K4).with_rc(RcPolicy::HardwareUpdate),
        )),
    ]
}

/// One page in `every` is dirty; 0: none.
fn rows() -> [(Row, u64); 3] {
    [(Row::HarvestClean, 0), (Row::HarvestSome, 64), (Row::HarvestAll, 1)]
}

fn dirty_pages(every: u64) -> impl Iterator<Item = u64> {
    (0..PAGES).filter(move |page| every != 0 && page % every == 0)
}

fn flat() -> Cells {
    let words: Rc<[AtomicU64]> = (0..PAGES).map(|_| AtomicU64::new(1)).collect();
    let scan = {
        let words = Rc::clone(&words);
        move || {
            let any = words.iter().fold(0, |any, word| any | word.load(Ordering::Relaxed));
            assert_eq!(any & DIRTY, 0);
        }
    };
    let prepare = {
        let words = Rc::clone(&words);
        move || words.iter().for_each(|word| word.store(1 | DIRTY, Ordering::Relaxed))
    };
    let clean = {
        let words = Rc::clone(&words);
        move || words.iter().for_each(|word| word.store(1, Ordering::Relaxed))
    };
    let exchange = move || {
        for word in words.iter() {
            let old = word.load(Ordering::Relaxed);
            let cleared =
                word.compare_exchange(old, old & !DIRTY, Ordering::AcqRel, Ordering::Relaxed);
            assert_eq!(cleared, Ok(old));
        }
    };
    Cells::new("flat").with(Row::HarvestClean, clean, scan).with(Row::HarvestAll, prepare, exchange)
}

type Tree<F> = PageTable<F, DirectMap<'static, Gpa>, &'static Tables>;

fn ours<F: Format<Stage = Stage1>>(name: &'static str, format: F) -> Cells {
    let (memory, tables) = direct();
    let work = Work::new(12);
    let mut tree: Tree<F> = PageTable::new(format, memory, tables).unwrap();
    for index in 0..PAGES {
        let (input, output) = (Gva::new(work.input(index)), Gpa::new(work.scattered(index)));
        tree.map(input, output, 4096, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    }
    let (tree, work) = (Rc::new(RefCell::new(tree)), Rc::new(work));
    let mut cells = Cells::new(name);
    for (row, every) in rows() {
        let prepare: Act = {
            let (tree, work) = (Rc::clone(&tree), Rc::clone(&work));
            Box::new(move || {
                harvest(&mut tree.borrow_mut(), &work, Writers::Stopped);
                for page in dirty_pages(every) {
                    tree.borrow()
                        .walker()
                        .access(Gva::new(work.input(page)), Access::WRITE)
                        .unwrap();
                }
            })
        };
        let (tree, work) = (Rc::clone(&tree), Rc::clone(&work));
        let expected = dirty_pages(every).count() as u64;
        let run =
            move || assert_eq!(harvest(&mut tree.borrow_mut(), &work, Writers::Running), expected);
        cells = cells.with(row, prepare, run);
    }
    cells
}

#[inline(never)]
fn harvest<F: Format<Stage = Stage1>>(tree: &mut Tree<F>, work: &Work, writers: Writers) -> u64 {
    let mut bitmap = vec![0; PAGES as usize / 64];
    let mut gather = Gather::new(&Unused, ());
    let (start, bytes) = (Gva::new(work.input(0)), work.bytes());
    let found =
        tree.harvest(start, bytes, Recorded::Dirty, writers, &mut bitmap, &mut gather).unwrap();
    gather.finish(tree.tables()).unwrap();
    found
}
