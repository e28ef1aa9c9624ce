//! Sequences of changes to a tree, of every format.

use arbitrary::{Result, Unstructured};
use pgtable::Prot;
use pgtable::format::Format;
use pgtable::tree::{Recorded, Writers};
use pgtable_conformance::machine::Machine;
use pgtable_conformance::memory::{Arena, Tables};
use pgtable_conformance::mmu::Caches;
use pgtable_conformance::ops::{Choice, Op, Pages, Place, TreeOp};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};

/// The most operations of a case: the arena has room for what they could need, so that running out
/// is a case's own choice.
const MOST: usize = 12;
const ARENA: usize = 1 << 20;
/// The whole tree is compared after so many operations.
const WHOLE: usize = 4;

/// A format, and operations on a tree of it: map, unmap, protect, cursors, split, promote, remap,
/// harvest, relocate, each with an allocator that may run out.
///
/// # Oracles
/// The flat map of the conformance kit, where each operation was and, page by page, after every
/// fourth one and the last; an emulated MMU that accesses the tree in the middle of each operation
/// and forgets nothing but what is invalidated; an allocator that checks what comes back. In the
/// end nothing is left.
pub fn map_unmap(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let format = input.arbitrary::<u8>().unwrap_or(0);
    let mut ops = Vec::new();
    while !input.is_empty() && ops.len() < MOST {
        let Ok(op) = tree_op(&mut input) else { break };
        ops.push(op);
    }
    match format % 9 {
        0 => run(ProcessScoped::new(Granule::K64), &ops),
        1 => run(ProcessScoped::new(Granule::K4), &ops),
        2 => run(PartitionScoped::new(Granule::K64), &ops),
        3 => run(PartitionScoped::new(Granule::K4), &ops),
        4 => run(LongMode::new(Levels::Four, Controls::new()), &ops),
        5 => run(LongMode::new(Levels::Five, Controls::new()), &ops),
        6 => run(Npt::new(Levels::Four, NptControls::new()), &ops),
        7 => run(Ept::new(Levels::Four, EptControls::new()), &ops),
        _ => run(Ept::new(Levels::Five, EptControls::new()), &ops),
    }
}

thread_local! {
    /// Made once: a case that passes leaves it as it was, all zero.
    static MEMORY: Arena = Arena::new(ARENA);
}

fn run<F: Format>(format: F, ops: &[TreeOp]) {
    MEMORY.with(|arena| run_in(arena, format, ops));
}

fn run_in<F: Format>(arena: &Arena, format: F, ops: &[TreeOp]) {
    let tables = Tables::new(arena);
    let machine = Machine::new(format, arena, &tables, Caches::STRICT);
    pgtable_conformance::tree::run(&machine, ops, WHOLE);
}

fn byte(input: &mut Unstructured<'_>, below: u16) -> Result<u64> {
    Ok(u64::from(input.arbitrary::<u16>()? % below))
}

fn place(input: &mut Unstructured<'_>) -> Result<Place> {
    let choice = input.arbitrary::<u8>()?;
    let near = match choice >> 6 {
        0 => 0,
        1 => byte(input, 40)?,
        _ => 500 + u64::from(choice >> 3 & 15),
    };
    Ok(Place { far: u64::from(choice & 7) % 6, near })
}

fn pages(input: &mut Unstructured<'_>) -> Result<Pages> {
    let choice = input.arbitrary::<u8>()?;
    Ok(match choice & 7 {
        0..4 => Pages::Small(1 + u64::from(choice >> 3)),
        4 | 5 => Pages::Large(usize::from(choice >> 3 & 3), 1 + u64::from(choice >> 5 & 1)),
        _ => Pages::Small(500 + u64::from(choice >> 3)),
    })
}

fn prot(input: &mut Unstructured<'_>) -> Result<Prot> {
    Ok(Prot::from_bits(input.arbitrary::<u8>()? & 15).with_read(true))
}

fn budget(input: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match input.arbitrary::<u8>()? {
        few @ 0..4 => few.into(),
        _ => usize::MAX,
    })
}

fn choice(input: &mut Unstructured<'_>) -> Result<Choice> {
    let choice = input.arbitrary::<u8>()?;
    let size = usize::from(choice >> 2 & 3);
    Ok(match choice & 3 {
        0 | 1 => Choice::Largest,
        2 => Choice::AtMost(size),
        _ => Choice::Exactly(size),
    })
}

fn tree_op(input: &mut Unstructured<'_>) -> Result<TreeOp> {
    Ok(match input.arbitrary::<u8>()? % 12 {
        0..3 => TreeOp::Space(Op::Map {
            at: place(input)?,
            pages: pages(input)?,
            output: byte(input, 4096)?,
            prot: prot(input)?,
            leaves: choice(input)?,
            budget: budget(input)?,
        }),
        3 => TreeOp::Space(Op::Unmap {
            at: place(input)?,
            pages: pages(input)?,
            budget: budget(input)?,
        }),
        4 => TreeOp::Space(Op::Protect {
            at: place(input)?,
            pages: pages(input)?,
            prot: prot(input)?,
            budget: budget(input)?,
        }),
        5 | 6 => {
            let (prot, budget) = (prot(input)?, budget(input)?);
            let steps = (0..1 + byte(input, 20)?).map(|_| {
                let at = place(input)?;
                let output = byte(input, 8192)?;
                Ok((at, (output < 4096).then_some(output)))
            });
            TreeOp::Cursor(steps.collect::<Result<_>>()?, prot, budget)
        }
        7 => {
            let (at, pages) = (place(input)?, 1 + byte(input, 1200)?);
            TreeOp::Split(at, pages, byte(input, 4)? as usize, budget(input)?)
        }
        8 => TreeOp::Promote(place(input)?, 1 + byte(input, 2400)?),
        9 => TreeOp::Remap(place(input)?, 1 + byte(input, 40)?, byte(input, 4096)?, prot(input)?),
        10 => {
            let (at, pages, how) =
                (place(input)?, 1 + byte(input, 1200)?, input.arbitrary::<u8>()?);
            let recorded = [Recorded::Accessed, Recorded::Dirty][usize::from(how & 1)];
            let writers = [Writers::Running, Writers::Stopped][usize::from(how >> 1 & 1)];
            TreeOp::Harvest(at, pages, recorded, writers)
        }
        _ => {
            let (which, root) = (byte(input, 64)?, input.arbitrary::<u8>()? & 1 != 0);
            TreeOp::Relocate(which, root, budget(input)?)
        }
    })
}
