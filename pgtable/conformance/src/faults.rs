//! The kit's own test: an invalidation that a verb's gather asks for, and that is not carried out,
//! is found.
//!
//! [`FAULTS`] lists the verbs, and what of their invalidations can be left out. It stands for
//! changes of the verbs themselves: a verb that does not put something into its gather leaves the
//! MMU as one whose gather is not carried out.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pgtable::format::Format;
use pgtable::tree::{Recorded, Writers};
use pgtable::{Level, Position, Prot};

use crate::flat::Flat;
use crate::machine::{Forgets, Machine};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::ops::{Choice, Op, Pages, Place, TreeOp};
use crate::tree::{ARENA, apply};

/// What a format must have for a fault to show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needs {
    /// Nothing.
    Nothing,
    /// Tables below the root.
    Tables,
    /// A leaf of an upper level.
    LargeLeaves,
    /// A record of accesses.
    Accessed,
    /// A record of stores.
    Dirty,
}

/// A verb whose invalidation is not carried out, or in part.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The verb, and what is left out.
    pub name: &'static str,
    /// What is left out of its invalidation.
    pub forgets: Forgets,
    /// What the format must have.
    pub needs: Needs,
    /// What was done before, and the verb; at this place, with the nth leaf size as the larger one,
    /// of which each has so many base pages.
    pub ops: fn(Place, usize, u64) -> (Vec<TreeOp>, TreeOp),
}

const EIGHT: Pages = Pages::Small(8);

fn map(at: Place, pages: Pages, leaves: Choice) -> TreeOp {
    let prot = Prot::RWX.for_user();
    TreeOp::Space(Op::Map { at, pages, output: 0, prot, leaves, budget: usize::MAX })
}

fn small(at: Place) -> TreeOp {
    map(at, EIGHT, Choice::Exactly(0))
}

fn unmap(at: Place, pages: Pages) -> TreeOp {
    TreeOp::Space(Op::Unmap { at, pages, budget: usize::MAX })
}

fn harvest(at: Place, recorded: Recorded) -> (Vec<TreeOp>, TreeOp) {
    (vec![small(at)], TreeOp::Harvest(at, 8, recorded, Writers::Running))
}

/// The place beside `at` whose last-level table is another one.
const fn beside(at: Place) -> Place {
    Place { far: (at.far + 3) % 6, near: 0 }
}

/// The verbs, and what of their invalidations can be left out.
pub const FAULTS: [Fault; 17] = {
    const fn row(
        name: &'static str,
        forgets: Forgets,
        needs: Needs,
        ops: fn(Place, usize, u64) -> (Vec<TreeOp>, TreeOp),
    ) -> Fault {
        Fault { name, forgets, needs, ops }
    }
    use Forgets::{ARange, All, Appeared, Everything, Sizes, Tables};
    use Needs::{Accessed, Dirty, LargeLeaves, Nothing};
    [
        row("unmap a page: its range", ARange, Nothing, |at, _, _| {
            (vec![small(at)], unmap(at, Pages::Small(1)))
        }),
        row("unmap pages: their range", ARange, Nothing, |at, _, _| {
            (vec![small(at)], unmap(at, Pages::Small(4)))
        }),
        row("unmap a table: the table", Tables, Needs::Tables, |at, _, _| {
            (vec![small(at), small(beside(at))], unmap(at, EIGHT))
        }),
        row("unmap a large leaf: its size", Sizes, LargeLeaves, |at, size, _| {
            let two = map(at, Pages::Large(size, 2), Choice::Largest);
            (vec![two], unmap(at, Pages::Large(size, 1)))
        }),
        row("unmap by a cursor", All, Nothing, |at, _, _| {
            let pages = (0..4).map(|near| (Place { near, ..at }, None)).collect();
            (vec![small(at)], TreeOp::Cursor(pages, Prot::RW, usize::MAX))
        }),
        row("protect", All, Nothing, |at, _, _| {
            let prot = Prot::R.for_user();
            let op = Op::Protect { at, pages: Pages::Small(4), prot, budget: usize::MAX };
            (vec![small(at)], TreeOp::Space(op))
        }),
        row("protect while no other writes", All, Nothing, |at, _, _| {
            let prot = Prot::R.for_user();
            (vec![small(at)], TreeOp::Protect(at, Pages::Small(4), prot, usize::MAX))
        }),
        row("remap", All, Nothing, |at, _, _| {
            (vec![small(at)], TreeOp::Remap(at, 4, 77, Prot::RWX.for_user()))
        }),
        row("split", All, LargeLeaves, |at, size, _| {
            let large = map(at, Pages::Large(size, 1), Choice::Largest);
            (vec![large], TreeOp::Split(at, 1, 0, usize::MAX))
        }),
        row("promote", All, LargeLeaves, |at, _, pages| {
            let table = map(at, Pages::Small(pages), Choice::Exactly(0));
            (vec![table], TreeOp::Promote(at, pages))
        }),
        row("harvest accessed", All, Accessed, |at, _, _| harvest(at, Recorded::Accessed)),
        row("harvest dirty", All, Dirty, |at, _, _| harvest(at, Recorded::Dirty)),
        row("relocate", All, Needs::Tables, |at, _, _| {
            (vec![small(at)], TreeOp::Relocate(0, false, usize::MAX))
        }),
        row("relocate: the tables", Tables, Needs::Tables, |at, _, _| {
            (vec![small(at)], TreeOp::Relocate(0, false, usize::MAX))
        }),
        row("destroy: everything", Everything, Nothing, |at, _, _| {
            (vec![small(at)], TreeOp::Split(at, 1, 0, usize::MAX))
        }),
        row("map: what appeared", Appeared, Nothing, |at, _, _| (vec![], small(at))),
        row("map by a cursor: what appeared", Appeared, Nothing, |at, _, _| {
            let pages = (0..4).map(|near| (Place { near, ..at }, Some(near + 9))).collect();
            (vec![], TreeOp::Cursor(pages, Prot::RW, usize::MAX))
        }),
    ]
};

/// The leaf size that one entry of the level above the last has, as a number of the format's sizes,
/// and how many base pages it has; if the kit's flat map has room for it.
fn large<F: Format>(format: &F) -> Option<(usize, u64)> {
    let geometry = format.geometry();
    let shifts: Vec<u8> = geometry.leaf_shifts().into_iter().collect();
    let above = Level(1);
    let shift = geometry.shift(above);
    let size = shifts.iter().position(|&size| size == shift)?;
    let pages = shift - geometry.page_shift();
    let fits = shift <= shifts[0] + 9 && geometry.is_leaf_level(above);
    fits.then_some((size, 1 << pages))
}

/// Whether the fault can show in trees of `format`.
pub fn applies<F: Format>(format: &F, fault: &Fault) -> bool {
    let at = Position { level: Level(0), shift: format.geometry().page_shift() };
    let bits = format.bits(at);
    match fault.needs {
        Needs::Nothing => true,
        Needs::Tables => format.geometry().root() > Level(0),
        Needs::LargeLeaves => large(format).is_some(),
        Needs::Accessed => bits.accessed.hardware.mask != 0,
        Needs::Dirty => bits.dirty.hardware.mask != 0,
    }
}

/// Whether the kit fails on a machine with `caches`, on which the verb's invalidation `forgets`
/// something, at the `far`th place.
fn fails<F: Format>(format: F, caches: Caches, fault: &Fault, far: u64, forgets: Forgets) -> bool {
    let (size, pages) = large(&format).unwrap_or((0, 1));
    let (before, verb) = (fault.ops)(Place { far, near: 0 }, size, pages);
    let run = || {
        let arena = Arena::new(ARENA);
        let tables = Tables::new(&arena);
        let machine = Machine::new(format, &arena, &tables, caches);
        let mut flat = Flat::new(machine.tree().expect("room for a root"), &machine);
        before.iter().for_each(|op| apply(&mut flat, op));
        machine.forget(forgets);
        apply(&mut flat, &verb);
        machine.destroy(flat.space);
    };
    catch_unwind(AssertUnwindSafe(run)).is_err()
}

/// Whether the kit finds the fault in trees of `format` on machines with `caches`.
///
/// # Panics
/// If the kit fails where nothing is left out.
pub fn is_found<F: Format>(format: F, caches: Caches, fault: &Fault) -> bool {
    // What the MMU accesses is chosen at random, so each place is tried.
    (0..6).any(|far| {
        let sound = !fails(format, caches, fault, far, Forgets::Nothing);
        assert!(sound, "{}: the kit fails though nothing is left out", fault.name);
        fails(format, caches, fault, far, fault.forgets)
    })
}

/// Every fault that can show in trees of `format` is found by the strictest caches.
///
/// # Panics
/// If one is not.
pub fn found<F: Format>(format: F) {
    for fault in FAULTS.iter().filter(|fault| applies(&format, fault)) {
        let is_found = is_found(format, Caches::STRICT, fault);
        assert!(is_found, "left out, and not found: {}", fault.name);
    }
}
