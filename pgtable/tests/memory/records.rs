//! What hardware records: formats that have no such record, and the update of a guest's own entry
//! through a second stage.

use std::sync::atomic::{AtomicU64, Ordering};

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::cache::{Generation, TranslationCache};
use pgtable::format::SecondStage;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, Error, Gpa, Gva, Hpa, Leaves, Prot, RangeError};
use pgtable_x86::{Ept, EptControls, EptFault, Levels, LongMode, Npt, NptControls};

use crate::{LONG, ROOT};

/// EPT without accessed and dirty flags records nothing, and says so.
#[test]
fn case_b8_a_record_that_the_format_does_not_have() {
    let base = Hpa::new(0x10_0000);
    for (accessed_dirty, recorded) in
        [(true, Recorded::Dirty), (false, Recorded::Dirty), (false, Recorded::Accessed)]
    {
        let words: Vec<AtomicU64> = (0..16 << 13).map(|_| AtomicU64::new(0)).collect();
        let memory = DirectMap::new(&words, base);
        let frames = Frames::new(Region::new(memory, base, 16, 16).unwrap()).unwrap();
        let cache = Cache::new(&frames, Owner(1), Kind::Kernel, Policy::Reuse);
        let format = Ept::new(Levels::Four, EptControls { accessed_dirty, ..EptControls::new() });
        let mut tree = PageTable::new(format, memory, &cache).unwrap();
        let (from, to) = (Gpa::new(0), Hpa::new(0x4000_0000));
        tree.map(from, to, 0x1_0000, Prot::RWX.into(), Leaves::Largest).unwrap();
        let mut gather = Gather::new(&Unused, ());
        let mut bitmap = [0];
        let writers = Writers::Running;
        let found = tree.harvest(from, 0x1_0000, recorded, writers, &mut bitmap, &mut gather);
        if accessed_dirty {
            assert_eq!((found, bitmap), (Ok(16), [0xffff]));
        } else {
            let error = Error::NoRecord;
            assert_eq!((found, bitmap), (Err(RangeError { at: from, error }), [0]));
        }
        gather.finish(tree.tables()).unwrap();
    }
}

/// Both stages by hand in one block: the guest's tables at 0x1000 to 0x4000, its page at 0x5000;
/// stage 2 maps page for page, with `rights` for the page of one guest table.
struct Nested {
    words: Vec<AtomicU64>,
}

impl Nested {
    fn new(guest: &[(u64, u64)], leaf: impl Fn(u64) -> u64, table: u64) -> Self {
        let this = Self { words: (0..0x2_0000 / 8).map(|_| AtomicU64::new(0)).collect() };
        for &(at, word) in guest {
            this.put(at, word);
        }
        for level in 0..3 {
            this.put(0x1_0000 + level * 0x1000, (0x1_1000 + level * 0x1000) | table);
        }
        for page in 0..16 {
            this.put(0x1_3000 + page * 8, page << 12 | leaf(page));
        }
        this
    }

    fn put(&self, at: u64, word: u64) {
        self.words[at as usize / 8].store(word.to_le(), Ordering::Relaxed);
    }

    fn translate<F: SecondStage>(
        &self,
        second: F,
        access: Access,
        cached: bool,
    ) -> Result<Hpa, TwoStageFault<LongMode, F>> {
        let memory = DirectMap::new(&self.words, Hpa::new(0));
        let stage2 = Walker::new(second, memory, Hpa::new(0x1_0000));
        let generation = Generation::new();
        let cache = TranslationCache::<F, 64>::new(&generation);
        let stages = TwoStage::new(LONG, ROOT, stage2);
        if cached {
            let stages = stages.with_cache(&cache);
            // Everything is remembered after reads of entries that are marked.
            let _ = stages.translate(Gva::new(0x123), Access::READ);
            return stages.translate(Gva::new(0x123), access).map(|found| found.output());
        }
        stages.translate(Gva::new(0x123), access).map(|found| found.output())
    }
}

/// The update of a guest's accessed and dirty flags is a data write of its own (SDM §29.3.3.2).
#[test]
fn case_b9_a_guests_own_update_through_ept() {
    let marked = [(0x1000, 0x2067), (0x2000, 0x3067), (0x3000, 0x4067), (0x4000, 0x5067)];
    let with = |at: u64, word: u64| {
        let mut words = marked;
        words[(at / 0x1000 - 1) as usize] = (at, word);
        words
    };
    let (read, write) = (Access::READ, Access::WRITE);
    // (guest's words, the page of guest table that is restricted and its rights, access, what EPT
    // says)
    for (guest, page, rights, access, want) in [
        (marked, 4, 0x1, read, None),
        (marked, 4, 0x1, write, None),
        (with(0x4000, 0x5007), 4, 0x1, read, Some(0x8b)),
        (with(0x4000, 0x5007), 4, 0x5, read, Some(0xab)),
        (with(0x4000, 0x5007), 4, 0x3, read, None),
        (with(0x4000, 0x5027), 4, 0x1, read, None),
        (with(0x4000, 0x5027), 4, 0x1, write, Some(0x8b)),
        (with(0x3000, 0x4007), 3, 0x1, read, Some(0x8b)),
        (with(0x1000, 0x2007), 1, 0x5, read, Some(0xab)),
        // The guest's own fault comes first: nothing is recorded for it.
        (with(0x4000, 0x5005), 4, 0x1, write, None),
    ] {
        let leaf = |number: u64| if number == page { rights | 0x30 } else { 0x37 };
        let nested = Nested::new(&guest, leaf, 0x7);
        let controls = EptControls { accessed_dirty: false, ..EptControls::new() };
        let ept = Ept::new(Levels::Four, controls);
        for cached in [false, true] {
            let found = nested.translate(ept, access, cached);
            let violation = match &found {
                Err(TwoStageFault::Stage2 { table: Some(at), fault, .. }) => {
                    assert_eq!(u64::from(at.level.0), 4 - page);
                    let EptFault::Violation(violation) = fault.arch else { panic!("{fault}") };
                    Some(violation.into_bits())
                }
                _ => None,
            };
            assert_eq!(violation, want, "{guest:x?}, page {page}: {rights:#x}, {access}, {cached}");
            if want.is_none() && guest[3].1 & 2 != 0 {
                assert_eq!(found.unwrap(), Hpa::new(0x5123));
            }
        }
        // With accessed and dirty flags, and in nested paging, the load is a write already.
        let with_flags = Ept::new(Levels::Four, EptControls::new());
        let writable = rights & 2 != 0;
        assert_eq!(nested.translate(with_flags, read, false).is_ok(), writable);
        let npt = Npt::new(Levels::Four, NptControls::new());
        let leaf = |number: u64| if number == page && !writable { 0x65 } else { 0x67 };
        let nested = Nested::new(&guest, leaf, 0x67);
        assert_eq!(nested.translate(npt, read, false).is_ok(), writable);
    }
}
