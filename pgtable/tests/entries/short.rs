//! A table that lies outside of memory in part, or in two pieces of it: every form of iteration
//! lists what is there, and fails at the same address.

use std::ops::{ControlFlow, Range};
use std::sync::atomic::AtomicU64;

use pgtable::format::Format;
use pgtable::memory::{DirectMap, LoadWith, MemoryError, ReadMemory, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::{LeafOf, Walker};
use pgtable::{Gpa, Gva, Leaves, Prot, RangeError, Stage1};
use pgtable_conformance::lpa::Lpa;
use pgtable_conformance::srmmu::Srmmu;
use pgtable_conformance::sv::Sv;

use crate::support::{Arena, Tables};

/// Memory without the words at some addresses, and in two pieces.
struct Pieces<'m> {
    memory: DirectMap<'m, Gpa>,
    missing: Range<u64>,
    /// Where the second piece begins.
    second: u64,
}

impl ReadMemory<Gpa> for Pieces<'_> {
    pgtable::words_in_place!(Gpa);
}

impl TableMemory<Gpa> for Pieces<'_> {
    fn word(&self, address: Gpa) -> Result<&AtomicU64, MemoryError> {
        match self.missing.contains(&address.get()) {
            true => Err(MemoryError::outside(address, 1)),
            false => self.memory.word(address),
        }
    }

    fn table(&self, address: Gpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let (start, end) = (address.get(), address.get() + words as u64 * 8);
        let whole = end <= self.missing.start || self.missing.end <= start;
        match whole && !(start < self.second && self.second < end) {
            true => self.memory.table(address, words),
            false => Err(MemoryError::outside(address, words)),
        }
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.memory.wrote(address, words);
    }
}

/// What a form of iteration listed, and the error at which it ended.
type Listed<F> = (Vec<LeafOf<F>>, Option<RangeError<Gva>>);

fn listed<F: Format<Stage = Stage1>>(
    iterate: impl FnOnce(&mut Vec<LeafOf<F>>) -> Result<ControlFlow<RangeError<Gva>>, RangeError<Gva>>,
) -> Listed<F> {
    let mut leaves = Vec::new();
    let error = match iterate(&mut leaves) {
        Ok(ControlFlow::Continue(())) => None,
        Ok(ControlFlow::Break(error)) | Err(error) => Some(error),
    };
    (leaves, error)
}

/// By runs, by leaves, and as an `Iterator`.
fn forms<F: Format<Stage = Stage1>, M: TableMemory<Gpa>>(
    walker: &Walker<F, M>,
    (start, bytes): (u64, u64),
) -> [Listed<F>; 3] {
    let start = Gva::new(start);
    let runs = listed::<F>(|leaves| {
        walker.for_each_run(start, bytes, |run| {
            for leaf in run.leaves() {
                match leaf {
                    Ok(leaf) => leaves.push(leaf),
                    Err(error) => return ControlFlow::Break(error),
                }
            }
            ControlFlow::Continue(())
        })
    });
    let each = by_leaves(walker, (start.get(), bytes));
    let iter = listed::<F>(|leaves| {
        for leaf in walker.iter(start, bytes)? {
            leaves.push(leaf?);
        }
        Ok(ControlFlow::Continue(()))
    });
    [runs, each, iter]
}

fn by_leaves<F: Format<Stage = Stage1>, M: ReadMemory<Gpa>>(
    walker: &Walker<F, M>,
    (start, bytes): (u64, u64),
) -> Listed<F> {
    listed::<F>(|leaves| {
        walker.for_each(Gva::new(start), bytes, |leaf| {
            leaves.push(leaf);
            ControlFlow::Continue(())
        })
    })
}

/// The pages of leaves in a range, also of those that are groups.
fn pages<F: Format<Stage = Stage1>>(
    format: F,
    leaves: &[LeafOf<F>],
    (start, bytes): (u64, u64),
) -> Vec<(u64, u64)> {
    let shift = format.geometry().finest_shift();
    let pages = |leaf: &LeafOf<F>| {
        let (input, output) = (leaf.input.get(), leaf.output.get());
        let page = move |page| (input + (page << shift), output + (page << shift));
        (0..leaf.bytes >> shift).map(page)
    };
    let within = |&(input, _): &(u64, u64)| (start..start + bytes).contains(&input);
    leaves.iter().flat_map(pages).filter(within).collect()
}

/// Tables of `table` entries of `entry` bytes, of which some are absent. All numbers count
/// sixteenths of a group, if the format has any.
fn check<F: Format<Stage = Stage1>>(name: &str, format: F, (table, entry): (u64, u64), group: u64) {
    let part = group / 16;
    let page = part << format.geometry().finest_shift();
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
    let rights = F::Attributes::from(Prot::RW.for_user());
    for (first, pages) in [(1, 3), (16, 32), (53, 3), (57, 1), (60, 4)] {
        let (at, to) = (Gva::new(first * page), Gpa::new((1 << 24) + first * page));
        tree.map(at, to, pages * page, rights, Leaves::Largest).unwrap();
    }
    let last = tree.walker().trace(Gva::new(page)).last().unwrap().address.get();
    let first = last / (table * entry) * (table * entry);
    let at = |index: u64| first + index * part * entry;
    let nowhere = 0..0;
    // What is missing, where the second piece begins, the range, and whether leaves are the same
    // where words are read by value: a group that stands in both pieces is not whole in one.
    for (missing, second, range, same) in [
        (nowhere.clone(), 0, (0, 64), true),
        (at(0)..at(64), 0, (0, 64), true),
        (at(2)..at(64), 0, (0, 64), true),
        (at(20)..at(64), 0, (0, 64), true),
        (at(32)..at(64), 0, (0, 64), true),
        (at(40)..at(42), 0, (0, 64), true),
        (at(40)..at(42), 0, (44, 10), true),
        (at(62)..at(64), 0, (0, 64), true),
        (at(62)..at(64), 0, (0, 62), true),
        (at(58)..at(64), 0, (20, 36), true),
        (nowhere.clone(), at(32), (0, 64), true),
        (nowhere.clone(), at(32), (2, 61), true),
        (nowhere.clone(), at(24), (0, 64), false),
        (nowhere.clone(), at(24), (22, 3), false),
        (at(62)..at(64), at(54), (0, 64), true),
        (at(62)..at(64), at(24), (0, 64), false),
    ] {
        let row = format!("{name}: without {missing:x?}, two at {second:#x}, {range:?}");
        let range = (range.0 * page, range.1 * page);
        let memory = Pieces { memory: arena.memory(), missing, second };
        let by_value = LoadWith(|address| memory.load(address));
        let (wanted, ended) = by_leaves(&Walker::new(format, by_value, tree.root()), range);
        for (leaves, error) in forms(&Walker::new(format, &memory, tree.root()), range) {
            assert_eq!(pages(format, &leaves, range), pages(format, &wanted, range), "{row}");
            assert_eq!(error, ended, "{row}");
            assert!(!same || leaves == wanted, "{row}: {leaves:x?}, by value {wanted:x?}");
        }
    }
}

#[test]
fn all_forms_list_what_is_there() {
    check("pages", Sv::SV48, (512, 8), 16);
    check("groups by address", Sv::SV48.with_napot(), (512, 8), 16);
    check("groups apart", Lpa::CONTIGUOUS, (2048, 8), 128);
    check("32 bits", Srmmu, (64, 4), 16);
}
