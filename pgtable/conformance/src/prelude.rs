//! What the examples in `pgtable`'s documentation stand on: names, and trees to work with.

pub use std::ops::ControlFlow;

pub use pgtable::bytes::{GuestBytes, WordBytes};
pub use pgtable::cache::{Generation, TranslationCache, Watch};
pub use pgtable::format::Format;
pub use pgtable::invalidate::{Gather, Unused};
pub use pgtable::shared::SharedPageTable;
pub use pgtable::tree::{PageTable, Recorded, Writers};
pub use pgtable::two_stage::{TwoStage, TwoStageFault};
pub use pgtable::walk::{LeafOf, Walker};
pub use pgtable::{
    Access, AccessKind, Address, Attributes, Cause, Error, Gpa, Gva, Hpa, Leaves, Mapping, Memory,
    Privilege, Prot, RangeError, Stage1,
};

pub use crate::amd::Amd;
pub use crate::machine::Machine;
pub use crate::memory::{Arena, Tables};
pub use crate::mmu::Caches;
pub use crate::sv::{Sv, SvAttributes};
pub use crate::tlb::Tlb;

/// Declares what an example works with, under the names that it gives.
#[doc(hidden)]
#[macro_export]
macro_rules! example {
    // Table memory, and an allocator of tables.
    (memory: $arena:ident, $tables:ident) => {
        let $arena = $crate::memory::Arena::new(1 << 20);
        let $tables = $crate::memory::Tables::new(&$arena);
    };
    // A tree of Sv48 there, and a gather.
    (all: $arena:ident, $tables:ident, $tree:ident, $gather:ident) => {
        $crate::example!(memory: $arena, $tables);
        #[allow(unused_mut)]
        let mut $tree = PageTable::new(
            Sv::SV48.with_hardware_updates(),
            $arena.memory::<Gpa>(),
            &$tables,
        )?;
        #[allow(unused_mut)]
        let mut $gather = Gather::<Stage1, _>::new(&Unused, ());
    };
    (tree: $tree:ident, $gather:ident) => {
        $crate::example!(all: arena, tables, $tree, $gather);
    };
    // The same with 512 pages from address 0 on.
    (mapped: $arena:ident, $tables:ident, $tree:ident, $gather:ident) => {
        $crate::example!(all: $arena, $tables, $tree, $gather);
        let (at, to, rights) = (Gva::new(0), Gpa::new(0x80_0000), Prot::RW.into());
        $tree.map(at, to, 0x20_0000, rights, Leaves::Exactly(12))?;
    };
    (mapped: $tree:ident, $gather:ident) => {
        $crate::example!(mapped: arena, tables, $tree, $gather);
    };
    // A tree that is shared, a writer of it, and a gather.
    (writer: $shared:ident, $writer:ident, $gather:ident) => {
        $crate::example!(memory: arena, tables);
        let machine = Machine::new(Sv::SV48, &arena, &tables, Caches::STRICT);
        let $shared = SharedPageTable::from(machine.tree()?);
        let $writer = $shared.writer().ok_or("no reader")?;
        let mut $gather = machine.gather();
    };
    // The same with 512 pages from address 0 on, and a large page behind them.
    (pages: $shared:ident, $writer:ident, $gather:ident) => {
        $crate::example!(writer: $shared, $writer, $gather);
        for (at, leaves) in [(0, Leaves::Exactly(12)), (0x20_0000, Leaves::Largest)] {
            let to = Gpa::new(0x80_0000 + at);
            $writer.map(Gva::new(at), to, 0x20_0000, Prot::RW.into(), leaves)?;
        }
    };
    // The same, and a range of it that is locked.
    (range: $shared:ident, $range:ident, $gather:ident) => {
        $crate::example!(pages: $shared, writer, $gather);
        let mut $range = writer.lock(Gva::new(0), 1 << 30)?;
    };
    // A guest's tree, and the second stage behind it.
    (stages: $guest:ident, $second:ident) => {
        $crate::example!(memory: arena, tables);
        let mut $guest = PageTable::new(Sv::SV48, arena.memory::<Gpa>(), &tables)?;
        let mut $second = PageTable::new(Amd, arena.memory::<Hpa>(), &tables)?;
        let (page, rights) = (0x80_0000, Prot::RW.into());
        $guest.map(Gva::new(0), Gpa::new(page), 0x20_0000, rights, Leaves::Largest)?;
        for (at, bytes) in [(page, 0x20_0000), (0x4000_0000, 1 << 20)] {
            $second.map(Gpa::new(at), Hpa::new(at), bytes, Prot::RW.into(), Leaves::Largest)?;
        }
    };
    // A second stage, a gather for it, and a memory slot of 1 GiB.
    (stage: $stage:ident, $gather:ident, $slot:ident) => {
        $crate::example!(memory: arena, tables);
        let tlb = Tlb::default();
        let format = pgtable_x86::Ept::new(pgtable_x86::Levels::Four, pgtable_x86::EptControls::new());
        #[allow(unused_mut)]
        let mut $stage =
            pgtable::second_stage::Stage2Tree::new(format, arena.memory::<Hpa>(), &tables, 1)?;
        #[allow(unused_mut)]
        let mut $gather = $stage.gather(&tlb);
        #[allow(unused_variables)]
        let $slot = pgtable::second_stage::MemorySlot {
            gpa: Gpa::new(0),
            bytes: 1 << 30,
            hva: 1 << 40,
            read_only: false,
            logged: false,
        };
    };
    // The same, after a store to 0x5678.
    (faulted: $stage:ident, $gather:ident, $slot:ident) => {
        $crate::example!(stage: $stage, $gather, $slot);
        let (frame, shift) = (Hpa::new(0x8000_5000), 12);
        let page =
            pgtable::second_stage::HostPage { frame, shift, attributes: Prot::RWX.into() };
        let (ticket, at, store) = ($stage.ticket(), Gpa::new(0x5678), AccessKind::Write);
        $stage.fault_in(ticket, at, store, &$slot, page, &mut $gather, |_| ())?;
    };
    // The bytes at a guest's addresses 0x1000 to 0x3fff.
    (bytes: $walker:ident, $memory:ident, $bytes:ident) => {
        $crate::example!(all: arena, tables, tree, gather);
        let (at, to) = (Gva::new(0x1000), Gpa::new(0x4008_0000));
        tree.map(at, to, 0x3000, Prot::RW.into(), Leaves::Exactly(12))?;
        gather.finish(tree.tables())?;
        let $walker = tree.walker();
        let $memory = WordBytes(arena.memory::<Gpa>());
        #[allow(unused_variables)]
        let $bytes = GuestBytes::new(&$walker, &$memory);
    };
}
