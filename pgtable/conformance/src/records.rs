//! Accessed and dirty, recorded as hardware does and harvested, against sets of pages.

use std::collections::BTreeSet;

use pgtable::format::{Format, Output};
use pgtable::tree::{Recorded, Writers};
use pgtable::{Access, Address, AddressSpace, Leaves, Level, Position};
use proptest::prelude::{BoxedStrategy, Just, Strategy, any, prop_oneof};

use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;

/// Pages in the range that is used: two large leaves' worth and a bit.
const PAGES: u64 = 1100;

#[derive(Clone, Debug)]
enum Op {
    Use { page: u64, write: bool },
    Harvest { first: u64, pages: u64, recorded: Recorded, writers: Writers },
}

fn op() -> BoxedStrategy<Op> {
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    let writers = prop_oneof![Just(Writers::Running), Just(Writers::Stopped)];
    prop_oneof![
        3 => (0..PAGES, any::<bool>()).prop_map(|(page, write)| Op::Use { page, write }),
        1 => (0..PAGES, 1..PAGES, recorded, writers)
            .prop_map(|(first, pages, recorded, writers)| Op::Harvest { first, pages, recorded, writers }),
    ]
    .boxed()
}

/// Random uses and harvests, of a format that keeps both records, by hardware.
///
/// # Panics
/// If a harvest tells of anything else than the pages that were used.
pub fn random<F: Format>(format: F, caches: Caches, cases: u32) {
    let (bits, geometry) = (crate::words::bits(&format), format.geometry());
    if PAGES << geometry.page_shift() > 1 << (geometry.address_bits() - 1) {
        // No room for the pages.
        return;
    }
    if bits.accessed.exists() && bits.dirty.exists() && records_by_itself(format) {
        let ops = proptest::collection::vec(op(), 1..60).boxed();
        crate::cases::run(cases, &ops, &|ops| run(format, caches, ops));
    }
}

/// Whether hardware records in an entry in which nothing is recorded yet. (Otherwise such an access
/// faults.)
pub(crate) fn records_by_itself<F: Format>(format: F) -> bool {
    let shift = format.geometry().page_shift();
    let at = Position { level: Level(0), shift };
    let Some((rw, _)) = crate::words::usable(&format) else { return false };
    let attributes = F::Attributes::from(rw);
    let Ok(words) = format.leaves(Output::<F>::new(0), attributes, at) else { return false };
    let bits = format.bits(at);
    let word = bits.dirty.cleared_from(bits.accessed.cleared_from(words.first));
    let allows = |access| format.check(word, at, F::Path::default(), access).is_ok();
    allows(Access::WRITE) || allows(Access::WRITE.by_user())
}

fn run<F: Format>(format: F, caches: Caches, ops: &[Op]) {
    let arena = Arena::new(ARENA);
    let tables = Tables::new(&arena);
    let machine = Machine::new(format, &arena, &tables, caches);
    let mut space = machine.tree().expect("room for a root");
    let shift = format.geometry().page_shift();
    let start = 1 << format.geometry().address_bits().saturating_sub(1).min(30);
    let page_at = |page: u64| format.address(start + (page << shift));
    // The first half in the largest leaves that fit, the rest in pages; holes are made by two
    // unmapped pages.
    let Some((rw, read)) = crate::words::usable(&format) else { return };
    let attributes = F::Attributes::from(rw);
    let half = (PAGES / 2) & !31;
    space
        .map(page_at(0), Output::<F>::new(0), half << shift, attributes, Leaves::AtMost(21))
        .expect("nothing fails");
    let rest = (PAGES - half) << shift;
    space
        .map(
            page_at(half),
            Output::<F>::new(half << shift),
            rest,
            attributes,
            Leaves::Exactly(shift),
        )
        .expect("nothing fails");
    let offset = |page: u64| format.offset(page_at(page)).expect("a place in the space");
    let mut gather = machine.gather();
    space.unmap(page_at(700), 2 << shift, &mut gather).expect("nothing fails");

    // leaf → the pages that it covers
    let mut leaf_of = vec![None; PAGES as usize];
    let walk = space.for_each(page_at(0), PAGES << shift, |leaf| {
        let first = (leaf.input.get() - page_at(0).get()) >> shift;
        let pages = leaf.bytes >> shift;
        (first..first + pages).for_each(|page| leaf_of[page as usize] = Some((first, pages)));
        std::ops::ControlFlow::<()>::Continue(())
    });
    assert!(walk.expect("nothing fails").is_continue());

    // Everything was marked when it was mapped; the first harvests say so and clear it.
    let mut marked = [BTreeSet::new(), BTreeSet::new()];
    for set in &mut marked {
        set.extend(leaf_of.iter().flatten().map(|leaf| leaf.0));
    }
    for op in ops {
        match *op {
            Op::Use { page, write } => {
                let access = if write { Access::WRITE } else { Access::READ };
                let used = space
                    .walker()
                    .access(page_at(page), access)
                    .or_else(|_| space.walker().access(page_at(page), access.by_user()));
                match leaf_of[page as usize] {
                    Some((leaf, _)) => {
                        used.expect("nothing fails");
                        marked[0].insert(leaf);
                        if write {
                            marked[1].insert(leaf);
                        }
                    }
                    None => assert!(used.is_err()),
                }
            }
            Op::Harvest { first, pages, recorded, writers } => {
                let pages = pages.min(PAGES - first);
                let which = if recorded == Recorded::Accessed { 0 } else { 1 };
                // Hardware holds translations of every tenth page, and stores by none of them.
                machine.mmu(|mmu| {
                    for page in (0..PAGES).step_by(10) {
                        mmu.walk(offset(page), read, usize::MAX);
                    }
                });
                for leaf in (0..PAGES).step_by(10).filter_map(|page| leaf_of[page as usize]) {
                    marked[0].insert(leaf.0);
                }
                let mut bitmap = vec![0; pages.div_ceil(64) as usize];
                let set = space
                    .harvest(
                        page_at(first),
                        pages << shift,
                        recorded,
                        writers,
                        &mut bitmap,
                        &mut gather,
                    )
                    .expect("nothing fails");
                let got: BTreeSet<_> = (0..pages)
                    .filter(|bit| bitmap[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
                    .collect();
                let want: BTreeSet<_> = (0..pages)
                    .filter(|bit| {
                        leaf_of[(first + bit) as usize]
                            .is_some_and(|(leaf, _)| marked[which].contains(&leaf))
                    })
                    .collect();
                assert_eq!(got, want);
                assert_eq!(set, want.len() as u64);
                // Whole leaves are clean now, and no cached translation of them is left once the
                // gather is finished.
                gather.finish(&&machine).expect("nothing fails");
                machine.mmu(|mmu| mmu.verify());
                for bit in want {
                    let (leaf, size) = leaf_of[(first + bit) as usize].expect("nothing fails");
                    if leaf >= first && leaf + size <= first + pages {
                        marked[which].remove(&leaf);
                    }
                }
            }
        }
    }
    gather.finish(&&machine).expect("nothing fails");
    drop(gather);
    machine.destroy(space);
}
