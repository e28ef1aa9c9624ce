//! x86's long mode on EPT, where the guest's tables stand behind the second stage.

use bench_harness::arena::Arena;
use bench_harness::tables::Tables;
use pgtable::cache::{Generation, TranslationCache};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::{Access, Gpa, Gva, Hpa, Leaves, Prot};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode};

use crate::count;

/// Pages of the guest: they and its tables fit into the cache.
const PAGES: u64 = 256;
const TURNS: u64 = 1 << 14;
/// Where the guest's tables stand; its memory is mapped one to one. The host's follow them.
const TABLES: u64 = 0x4000_0000;
const BYTES: usize = 4 << 20;
const INPUT: u64 = 0x40_0000_0000;
const OUTPUT: u64 = 0x10_0000_0000;

pub fn rows() {
    let both = Arena::new(TABLES, 2 * BYTES);
    let (in_guest, in_host) = both.split(BYTES);
    // SAFETY: arenas are valid as long as the process, and nothing resets these.
    let memory = unsafe { DirectMap::from_raw(in_guest.host, in_guest.bytes, Gpa::new(TABLES)) };
    // SAFETY: as above; all accesses are atomic.
    let host = unsafe { DirectMap::from_raw(both.host, both.bytes, Hpa::new(TABLES)) };
    let (guests, hosts) = (<Tables>::new(vec![in_guest]), <Tables>::new(vec![in_host]));
    let long_mode = LongMode::new(Levels::Four, Controls::new());
    let ept = Ept::new(Levels::Four, EptControls::new());
    let mut stage1 = PageTable::new(long_mode, memory, &guests).unwrap();
    let mut stage2 = PageTable::new(ept, host, &hosts).unwrap();
    let mut one_to_one = |at: u64, bytes| {
        let (input, output) = (Gpa::new(at), Hpa::new(at));
        stage2.map(input, output, bytes, Prot::RWX.into(), Leaves::Exactly(12)).unwrap();
    };
    one_to_one(TABLES, BYTES as u64);
    for index in 0..PAGES {
        let (input, output) = (INPUT + index * 4096, OUTPUT + index * 4096);
        stage1
            .map(Gva::new(input), Gpa::new(output), 4096, Prot::RW.into(), Leaves::Exactly(12))
            .unwrap();
        one_to_one(output, 4096);
    }

    let generation = Generation::new();
    let cache = TranslationCache::<Ept, 1024>::new(&generation);
    let two = TwoStage::new(long_mode, stage1.root(), stage2.walker());
    let cached = TwoStage::new(long_mode, stage1.root(), stage2.walker()).with_cache(&cache);
    let at = |turn: u64| turn * 1231 % PAGES * 4096;
    let expected = (0..TURNS).fold(0, |sum: u64, turn| sum.wrapping_add(OUTPUT + at(turn)));
    // Fills the cache.
    (0..PAGES).for_each(|turn| {
        cached.translate(Gva::new(INPUT + at(turn)), Access::READ).unwrap();
    });
    count("x86 on EPT, translate", TURNS, || {
        let sum = (0..TURNS).fold(0, |sum: u64, turn| {
            let found = two.translate(Gva::new(INPUT + at(turn)), Access::READ).unwrap();
            sum.wrapping_add(found.stage2.output.get())
        });
        assert_eq!(sum, expected);
    });
    count("x86 on EPT, translate, cached", TURNS, || {
        let sum = (0..TURNS).fold(0, |sum: u64, turn| {
            let found = cached.translate(Gva::new(INPUT + at(turn)), Access::READ).unwrap();
            sum.wrapping_add(found.stage2.output.get())
        });
        assert_eq!(sum, expected);
    });
}
