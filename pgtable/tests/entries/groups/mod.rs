//! Groups: several entries that are one leaf (RISC-V's Svnapot, AArch64's contiguous hint). Made,
//! read, changed in part and as a whole, and met half-written in tables that a guest wrote.

mod changed;
mod guest;
mod made;
mod records;

use std::cell::RefCell;
use std::sync::atomic::Ordering;

use pgtable::format::Format;
use pgtable::invalidate::{Invalidate, InvalidateFailed, Stale};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::{LeafOf, Walker};
use pgtable::{Access, Gpa, Gva, Leaves, Prot, Stage1};
use pgtable_conformance::sv::Sv;

use crate::support::{Arena, Tables, ranges};

const NAPOT: Sv = Sv::SV48.with_napot();
const K4: u64 = 1 << 12;
const K64: u64 = 1 << 16;
const M2: u64 = 1 << 21;
const N: u64 = 1 << 63;
const CONTIGUOUS: u64 = 1 << 52;
const AF: u64 = 1 << 10;

type Tree<'t, F> = PageTable<F, DirectMap<'t, Gpa>, &'t Tables<'t>>;

fn tree<'t, F: Format<Stage = Stage1>>(
    format: F,
    arena: &'t Arena,
    tables: &'t Tables<'t>,
) -> Tree<'t, F> {
    PageTable::new(format, arena.memory(), tables).unwrap()
}

fn map<F: Format<Stage = Stage1>>(
    tree: &mut Tree<'_, F>,
    at: u64,
    to: u64,
    bytes: u64,
    leaves: Leaves,
) {
    tree.map(Gva::new(at), Gpa::new(to), bytes, Prot::RW.into(), leaves).unwrap();
}

/// The `count` entries from the one for `at` on.
fn words<F: Format<Stage = Stage1>>(
    arena: &Arena,
    tree: &Tree<'_, F>,
    at: u64,
    count: u64,
) -> Vec<u64> {
    let first = tree.walker().trace(Gva::new(at)).last().unwrap().address;
    (0..count)
        .map(|n| F::BYTE_ORDER.swap(arena.word(first.get() + n * 8).load(Ordering::Relaxed)))
        .collect()
}

/// Somebody else stores `word` into the entry for `at`.
fn write<F: Format<Stage = Stage1>>(arena: &Arena, tree: &Tree<'_, F>, at: u64, word: u64) {
    let entry = tree.walker().trace(Gva::new(at)).last().unwrap().address;
    arena.word(entry.get()).store(F::BYTE_ORDER.swap(word), Ordering::Relaxed);
}

/// (input, output, shift) of each leaf.
fn leaves<F: Format<Stage = Stage1>>(
    tree: &Tree<'_, F>,
    at: u64,
    bytes: u64,
) -> Vec<(u64, u64, u8)> {
    let it = |leaf: LeafOf<F>| {
        assert_eq!(leaf.bytes, 1 << leaf.shift);
        (leaf.input.get(), leaf.output.get(), leaf.shift)
    };
    tree.walker().iter(Gva::new(at), bytes).unwrap().map(|leaf| it(leaf.unwrap())).collect()
}

fn output<F: Format<Stage = Stage1>>(tree: &Tree<'_, F>, at: u64) -> (u64, u8) {
    let found = tree.translate(Gva::new(at), Access::READ).unwrap();
    let queried = tree.walker().query(Gva::new(at)).unwrap().unwrap();
    assert_eq!((queried.output, queried.shift), (found.output, found.shift));
    (found.output.get(), found.shift)
}

/// One invalidation: its ranges, and whether an address was mapped meanwhile.
type Told = (Vec<(u64, u64, u8)>, bool);

/// Lists what it is told, and looks meanwhile whether an address is mapped.
struct Listening<'m, F: Format> {
    walker: Walker<F, DirectMap<'m, Gpa>>,
    at: Gva,
    told: RefCell<Vec<Told>>,
    fails: bool,
}

impl<F: Format<Stage = Stage1>> Invalidate<Stage1> for Listening<'_, F> {
    type Identity = ();

    fn invalidate(&self, (): (), stale: &Stale<Gva>) -> Result<(), InvalidateFailed> {
        let mapped = self.walker.query(self.at).unwrap().is_some();
        self.told.borrow_mut().push((ranges(stale), mapped));
        if self.fails { Err(InvalidateFailed) } else { Ok(()) }
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {
        assert!(self.fails, "a gather was dropped");
    }
}

fn listening<'m, F: Format<Stage = Stage1>>(
    arena: &'m Arena,
    tree: &Tree<'_, F>,
    at: u64,
) -> Listening<'m, F> {
    let walker = Walker::new(*tree.format(), arena.memory(), tree.root());
    Listening { walker, at: Gva::new(at), told: RefCell::default(), fails: false }
}
