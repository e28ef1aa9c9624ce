//! One operation at a time: the lines that it reads and writes.

use std::hint::black_box;

use bench_harness::arena::Arena;
use bench_harness::by_hand::ByHand;
use bench_harness::tables::Tables;
use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot, Stage1};
use pgtable_aarch64::{Stage1Controls, VmsaStage1};
use pgtable_ppc64::radix::{Granule, ProcessScoped};
use pgtable_riscv64::{Mode, Sv};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use crate::{range, row};

const TABLES: u64 = 0x4000_0000;
const BYTES: usize = 4 << 20;
/// Pages, each in a line of its own, that are mapped beside those of the rows.
const INPUT: u64 = 0x20_0000_0000;
const OUTPUT: u64 = 0x10_0000_0000;
/// From page to page of a row: other lines of the same table.
const APART: u64 = 8;

pub fn rows() {
    let long_mode = LongMode::new(Levels::Four, Controls::new());
    tree("x86", long_mode);
    tree("radix 4K", ProcessScoped::new(Granule::K4));
    tree("radix 64K", ProcessScoped::new(Granule::K64));
    tree("AArch64 4K", VmsaStage1::new(Stage1Controls::new()).unwrap());
    let riscv = pgtable_riscv64::Controls::new();
    tree("Sv39", Sv::new(Mode::Sv39, riscv));
    tree("Sv48", Sv::new(Mode::Sv48, riscv));
    by_hand();
    stages(long_mode);
}

fn memory(arena: Arena) -> DirectMap<'static, Gpa> {
    range("tables", arena.host, arena.bytes);
    // SAFETY: arenas are valid as long as the process, and nothing resets these.
    unsafe { DirectMap::from_raw(arena.host, arena.bytes, Gpa::new(arena.start)) }
}

fn tree<F: Format<Stage = Stage1>>(column: &str, format: F) {
    let arena = Arena::new(TABLES, BYTES);
    let (memory, tables) = (memory(arena), <Tables>::new(vec![arena]));
    let mut tree = PageTable::new(format, memory, &tables).unwrap();
    let shift = format.geometry().page_shift();
    let (page, leaves) = (1 << shift, Leaves::Exactly(shift));
    let attributes = F::Attributes::from(Prot::RW);
    let input = |turn: u64| Gva::new(INPUT + ((turn * APART) << shift));
    let output = |turn: u64| Gpa::new(OUTPUT + ((turn * APART) << shift));
    let row = |name: &str, work: &mut dyn FnMut(u64)| row(&format!("{column}, {name}"), work);
    // A neighbour keeps the tables of the rows.
    tree.map(input(3), output(3), page, attributes, leaves).unwrap();
    row("map", &mut |turn| {
        tree.map(input(turn), output(turn), page, attributes, leaves).unwrap();
    });
    let walker = Walker::new(format, memory, tree.root());
    row("translate by walker", &mut |turn| {
        black_box(walker.translate(input(turn), Access::READ).unwrap());
    });
    row("unmap, with its gather", &mut |turn| {
        let mut gather = Gather::new(&Unused, ());
        tree.unmap(input(turn), page, &mut gather).unwrap();
        gather.finish(&tables).unwrap();
    });
    let far = |turn: u64| Gva::new(INPUT + ((turn + 1) << (shift + 20)));
    row("map and unmap, table goes", &mut |turn| {
        let mut gather = Gather::new(&Unused, ());
        tree.map(far(turn), output(turn), page, attributes, leaves).unwrap();
        tree.unmap(far(turn), page, &mut gather).unwrap();
        gather.finish(&tables).unwrap();
    });
    let block = 256 << shift;
    row("map 256 pages", &mut |turn| {
        let at = Gva::new(INPUT + (4 + turn) * block);
        tree.map(at, Gpa::new(OUTPUT + page), block, attributes, leaves).unwrap();
    });
    row("unmap 256 pages, with their gather", &mut |turn| {
        let mut gather = Gather::new(&Unused, ());
        tree.unmap(Gva::new(INPUT + (4 + turn) * block), block, &mut gather).unwrap();
        gather.finish(&tables).unwrap();
    });
}

fn by_hand() {
    let hand = ByHand::new(BYTES);
    range("tables", hand.words().as_ptr(), size_of_val(hand.words()));
    let input = |turn: u64| INPUT + ((turn * APART) << 12);
    hand.map(input(3), OUTPUT, 1).unwrap();
    row("by hand, map", |turn| hand.map(input(turn), OUTPUT, 1).unwrap());
    row("by hand, translate", |turn| {
        black_box(hand.find(input(turn)).unwrap());
    });
    row("by hand, unmap", |turn| hand.unmap(input(turn), 1).unwrap());
}

fn stages(long_mode: LongMode) {
    let both = Arena::new(TABLES, 2 * BYTES);
    let (in_guest, in_host) = both.split(BYTES);
    let of_guest = memory(in_guest);
    range("tables", both.host, both.bytes);
    // SAFETY: as above; all accesses are atomic.
    let host = unsafe { DirectMap::from_raw(both.host, both.bytes, Hpa::new(TABLES)) };
    let (guests, hosts) = (<Tables>::new(vec![in_guest]), <Tables>::new(vec![in_host]));
    let ept = Ept::new(Levels::Four, EptControls::new());
    let mut stage1 = PageTable::new(long_mode, of_guest, &guests).unwrap();
    let mut stage2 = PageTable::new(ept, host, &hosts).unwrap();
    let mut one_to_one = |at: u64, bytes| {
        let (input, output) = (Gpa::new(at), Hpa::new(at));
        stage2.map(input, output, bytes, Prot::RWX.into(), Leaves::Exactly(12)).unwrap();
    };
    one_to_one(TABLES, 64 << 12);
    one_to_one(OUTPUT, 64 << 12);
    let (input, output) = (Gva::new(INPUT), Gpa::new(OUTPUT));
    stage1.map(input, output, 64 << 12, Prot::RW.into(), Leaves::Exactly(12)).unwrap();
    let generation = Generation::new();
    let cache = TranslationCache::<Ept, 1024>::new(&generation);
    let two = TwoStage::new(long_mode, stage1.root(), stage2.walker());
    let cached = TwoStage::new(long_mode, stage1.root(), stage2.walker()).with_cache(&cache);
    let at = |turn: u64| Gva::new(INPUT + ((turn * APART) << 12));
    row("x86 on EPT, translate", |turn| {
        black_box(two.translate(at(turn), Access::READ).unwrap());
    });
    // The second time what the cache holds is read.
    row("x86 on EPT, translate, cached", |_| {
        black_box(cached.translate(at(1), Access::READ).unwrap());
    });
}
