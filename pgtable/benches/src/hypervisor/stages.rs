//! A guest's tree behind a second stage: x86's long mode on EPT. The guest's tables stand where the
//! second stage says.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::AtomicU64;

use pgtable::cache::{Generation, TranslationCache};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use super::{Cells, Contestant, Row};
use crate::ours::Tables;
use bench_harness::Goal;
use bench_harness::arena::{self, Arena};
use bench_harness::work::Work;

/// Translations per run.
pub const TRANSLATIONS: u64 = 1 << 20;
/// Pages of the guest that are used: their translations, and the guest's tables, fit into the
/// cache.
const PAGES: u64 = 256;
/// Translations that the second stage's cache holds.
const CACHED: usize = 1024;
/// Where the guest's tables stand; its memory is mapped one to one. The host's follow them.
const GUEST_TABLES: u64 = 0x4000_0000;

type Memory<A> = DirectMap<'static, A>;
type Stage1Tree = PageTable<LongMode, Memory<Gpa>, &'static Tables>;
type Stage2Tree = PageTable<Ept, Memory<Hpa>, &'static Tables>;

struct Guest {
    stage1: Stage1Tree,
    stage2: Stage2Tree,
    work: Work,
}

fn guest() -> Guest {
    let both = Arena::new(GUEST_TABLES, 2 * arena::BYTES);
    let (in_guest, in_host) = both.split(arena::BYTES);
    let leak = |arena| -> &'static Tables { Box::leak(Box::new(Tables::new(vec![arena]))) };
    // SAFETY: arenas are valid as long as the process, and are not reset.
    let memory =
        unsafe { DirectMap::from_raw(in_guest.host, in_guest.bytes, Gpa::new(GUEST_TABLES)) };
    // SAFETY: as above; all accesses are atomic.
    let host = unsafe { DirectMap::from_raw(both.host, both.bytes, Hpa::new(GUEST_TABLES)) };
    let long_mode = LongMode::new(Levels::Four, Controls::new());
    let mut stage1 = PageTable::new(long_mode, memory, leak(in_guest)).unwrap();
    let ept = Ept::new(Levels::Four, EptControls::new());
    let mut stage2 = PageTable::new(ept, host, leak(in_host)).unwrap();
    let work = Work::new(12);
    let one_to_one = |stage2: &mut Stage2Tree, at: u64, bytes| {
        stage2
            .map(Gpa::new(at), Hpa::new(at), bytes, Prot::RWX.into(), Leaves::Exactly(12))
            .unwrap();
    };
    one_to_one(&mut stage2, GUEST_TABLES, arena::BYTES as u64);
    for index in 0..PAGES {
        let (input, output) = (work.input(index), work.scattered(index));
        stage1
            .map(Gva::new(input), Gpa::new(output), 4096, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
        one_to_one(&mut stage2, output, 4096);
    }
    Guest { stage1, stage2, work }
}

/// Translates the pages in an order that no predictor knows; the sum of where they lie.
#[inline(always)]
fn each(work: &Work, mut translate: impl FnMut(Gva) -> u64) -> u64 {
    let mut sum = 0u64;
    for &index in &work.hot.indices[..TRANSLATIONS as usize] {
        sum = sum.wrapping_add(translate(Gva::new(work.input(u64::from(index) % PAGES))));
    }
    sum
}

fn expected(work: &Work) -> u64 {
    let page = |&index: &u32| work.scattered(u64::from(index) % PAGES);
    work.hot.indices[..TRANSLATIONS as usize].iter().map(page).fold(0, u64::wrapping_add)
}

#[inline(never)]
fn one_stage(guest: &Guest) -> u64 {
    each(&guest.work, |input| guest.stage1.translate(input, Access::READ).unwrap().output.get())
}

#[inline(never)]
fn two_stages(guest: &Guest) -> u64 {
    let format = *guest.stage1.format();
    let both = TwoStage::new(format, guest.stage1.root(), guest.stage2.walker());
    each(&guest.work, |input| both.translate(input, Access::READ).unwrap().stage2.output.get())
}

#[inline(never)]
fn two_stages_cached(guest: &Guest, cache: &TranslationCache<'_, Ept, CACHED>) -> u64 {
    let format = *guest.stage1.format();
    let both = TwoStage::new(format, guest.stage1.root(), guest.stage2.walker()).with_cache(cache);
    each(&guest.work, |input| both.translate(input, Access::READ).unwrap().stage2.output.get())
}

pub fn columns() -> Vec<Box<dyn Contestant<Row>>> {
    let guest = Rc::new(guest());
    let sum = expected(&guest.work);
    let cache = TranslationCache::<Ept, CACHED>::new(Box::leak(Box::new(Generation::new())));
    let (one, two, cached) = (Rc::clone(&guest), Rc::clone(&guest), guest);
    let cells = Cells::new("x86 on EPT")
        .with(Row::OneStage, || (), move || assert_eq!(one_stage(&one), sum))
        .with(
            Row::TwoStagesWarm,
            || (),
            move || assert_eq!(two_stages_cached(&cached, &cache), sum),
        )
        .with(Row::TwoStagesUncached, || (), move || assert_eq!(two_stages(&two), sum));
    vec![Box::new(cells)]
}

/// Memory that counts its loads.
struct Counted<'c>(Memory<Hpa>, &'c Cell<u32>);

impl ReadMemory<Hpa> for Counted<'_> {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Counted<'_> {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.1.set(self.1.get() + 1);
        self.0.word(address)
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.0.table(address, words)
    }

    fn wrote(&self, address: Hpa, words: usize) {
        self.0.wrote(address, words);
    }
}

/// How many words a walk of two stages reads with nothing cached.
pub fn loads() -> Goal {
    let guest = guest();
    let count = Cell::new(0);
    let walker = Walker::new(
        *guest.stage2.format(),
        Counted(*guest.stage2.memory(), &count),
        guest.stage2.root(),
    );
    let both = TwoStage::new(*guest.stage1.format(), guest.stage1.root(), walker);
    both.translate(Gva::new(guest.work.input(0)), Access::READ).unwrap();
    let Guest { stage1, stage2, .. } = guest;
    stage1.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    stage2.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    Goal { name: "two-stages-cold-loads".to_owned(), measured: count.get().into(), bound: 24.0 }
}
