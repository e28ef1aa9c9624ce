//! Trees in memory that two guests write, on one frame table, beside a stranger's tables.

mod allocator;
mod memory;
mod step;
mod verb;

use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use arbitrary::Unstructured;
use frag_alloc::{Cache, Epochs, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::Contents;
use pgtable::format::Format;
use pgtable::memory::DirectMap;
use pgtable::shared::SharedPageTable;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Stage1};
use pgtable_aarch64::{Granule as VmsaGranule, Stage1Controls, VmsaStage1};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_riscv64::{Controls as SvControls, Extensions, Mode, Sv};
use pgtable_x86::{Controls, Levels, LongMode, Paging32};

use allocator::{Allocator, Checked, Live, Stranger, Table};
use memory::Written;

const START: u64 = 0x100_0000;
const SHIFT: u8 = 16;
const FRAMES: u32 = 8;
/// The most steps of a case.
const MOST: usize = 40;

thread_local! {
    /// Made once, and lives on: trees own what they use.
    static WORDS: &'static [AtomicU64] =
        (0..(FRAMES as usize) << (SHIFT - 3)).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
}

/// A guest's tree.
type Tree<F> = PageTable<F, Rc<Written<F>>, Checked>;
/// The same while it has several writers.
type Shared<F> = SharedPageTable<F, Rc<Written<F>>, Checked>;

/// Trees of two guests that write their tables whenever they like: at chosen accesses in the middle
/// of verbs, once or again and again, with random words, with copies of other entries, with ways to
/// any place of the frames.
/// A shared tree has a second writer, whose verbs run at chosen accesses in the middle of the
/// first's; both may lock ranges, and forget them.
///
/// # Oracles
/// The tables of each guest are those that its allocator handed out and took back: a free is
/// accepted exactly if the table is one of them, and a state is given for just those. The frame
/// table's census agrees after each step. A stranger's tables in the same frames never change, and
/// new ones come zeroed. No step asks for more words than its bound. In the end every table can be
/// found and freed, every counter is zero and every frame is home.
pub fn guest_trees(data: &[u8]) {
    let mut input = Unstructured::new(data);
    match input.arbitrary::<u8>().unwrap_or(0) % 8 {
        0 => run(ProcessScoped::new(Granule::K64), &mut input),
        1 => run(LongMode::new(Levels::Four, Controls::new()), &mut input),
        2 => run(LongMode::new(Levels::Five, Controls::new()), &mut input),
        3 => run(ProcessScoped::new(Granule::K4), &mut input),
        // With groups of leaves, and attributes that change by break-before-make.
        4 => run(vmsa(VmsaGranule::K4, 39), &mut input),
        5 => run(vmsa(VmsaGranule::K16, 47), &mut input),
        6 => {
            let extensions = Extensions { svnapot: true, adue: true, ..Extensions::new() };
            let controls = SvControls { extensions, ..SvControls::new() };
            run(Sv::new(Mode::Sv39, controls), &mut input);
        }
        // Entries of 32 bits.
        _ => run(Paging32::new(Controls { pse: true, ..Controls::new() }), &mut input),
    }
}

/// Whole root tables.
fn vmsa(granule: VmsaGranule, input_bits: u8) -> VmsaStage1 {
    let controls = Stage1Controls {
        granule,
        input_bits,
        contiguous: true,
        ha: true,
        hd: true,
        ..Stage1Controls::new()
    };
    VmsaStage1::new(controls).expect("three levels")
}

fn run<F: Format<Stage = Stage1>>(format: F, input: &mut Unstructured<'_>) {
    let map = DirectMap::new(WORDS.with(|words| *words), Gpa::new(START));
    let source = Region::new(map, Gpa::new(START), FRAMES, SHIFT).expect("aligned");
    let frames = Rc::new(Frames::new(source).expect("small"));
    let mut stranger =
        Stranger::new(Cache::new(Rc::clone(&frames), Owner(9), Kind::User, Policy::Reuse), map);
    let lives = [0, 1].map(|_| Rc::new(Live::default()));
    let deferred = [0, 1].map(|guest| {
        let cache = Cache::new(Rc::clone(&frames), Owner(guest), Kind::User, Policy::Reuse);
        // A reader for each writer.
        Rc::new(Allocator::new(cache, Epochs::new(2)))
    });
    let mut guests = [0, 1].map(|guest| {
        let memory = Rc::new(Written::new(map, format, Rc::clone(&lives[guest])));
        let tables = Checked::new(Rc::clone(&deferred[guest]), Rc::clone(&lives[guest]));
        Some(PageTable::new(format, memory, tables).expect("room for two roots"))
    });
    for _ in 0..MOST {
        if input.is_empty() {
            break;
        }
        let Ok(stranger_does) = input.arbitrary::<u8>() else { break };
        match stranger_does % 8 {
            0 => stranger.take(8),
            1 => stranger.take(12),
            2 => stranger.give(),
            _ => {}
        }
        let guest = &mut guests[usize::from(stranger_does >> 7)];
        if let Some(tree) = guest.take() {
            *guest = step::step(tree, input);
        }
        check(&frames, &lives, &stranger);
    }
    guests.into_iter().flatten().for_each(step::destroy);
    check(&frames, &lives, &stranger);
    for (deferred, live) in deferred.iter().zip(&lives) {
        give_back(&frames, deferred, live);
    }
    stranger.end();
    assert!(frames.census().all_home(), "{:?}", frames.census());
    assert_eq!(frames.source().available(), FRAMES);
}

/// What a guest unlinked is in no tree any more; its owner finds it by its frames.
fn give_back(frames: &Table, deferred: &Allocator, live: &Live) {
    for (&table, &shift) in live.borrow().iter() {
        let frame = frames.try_get(Gpa::new(table)).expect("within").expect("in use");
        assert!(frame.tables().any(|found| found.get() == table));
        deferred.give(Gpa::new(table), shift, Contents::Stale).expect("alive");
    }
    deferred.collect().expect("counted right");
    deferred.cache().close().expect("counted right");
}

fn check(frames: &Table, lives: &[Rc<Live>; 2], stranger: &Stranger) {
    let live: usize = lives.iter().map(|live| live.borrow().len()).sum();
    let (live, census) = (live + stranger.count(), frames.census());
    assert_eq!(census.live as usize, live, "{census:?}");
    stranger.check();
}
