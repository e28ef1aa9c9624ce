//! A format that says no more than it must: what the trait answers of its own accord is what the
//! formats with answers of their own say. And one that does not keep the trait's contract: its
//! entries are malformed where they could not be followed.

use crate::support::{Arena, Tables};
use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, FirstStage, Format, Geometry, Input, Output, SecondStage,
    Unencodable, Words,
};
use pgtable::invalidate::{Gather, Unused};
use pgtable::tree::PageTable;
use pgtable::two_stage::TwoStage;
use pgtable::walk::Walker;
use pgtable::{Access, Address, Cause, Gpa, Gva, Hpa, Leaves, Position, Prot};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};

/// Another format, without what it knows better than the trait; and what it takes a present entry
/// for, at a level.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Plain<F> {
    format: F,
    lie: Option<(u8, u8)>,
}

impl<F: Format> Format for Plain<F> {
    type Stage = F::Stage;
    type Attributes = F::Attributes;
    type Fault = F::Fault;
    type Path = F::Path;

    type Word = F::Word;

    const BYTE_ORDER: ByteOrder = F::BYTE_ORDER;

    fn geometry(&self) -> &Geometry {
        self.format.geometry()
    }

    fn offset(&self, address: Input<Self>) -> Option<u64> {
        self.format.offset(address)
    }

    fn address(&self, offset: u64) -> Input<Self> {
        self.format.address(offset)
    }

    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        match (self.format.decode(word, at), self.lie) {
            (Entry::Absent, _) => Entry::Absent,
            (_, Some((level, width))) if at.level.0 == level => {
                Entry::Table { table: Output::<F>::new(word & 0xf_ffff_f000), width }
            }
            (entry, _) => entry,
        }
    }

    fn leaves(
        &self,
        output: Output<Self>,
        attributes: Self::Attributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.format.leaves(output, attributes, at)
    }

    fn table(&self, table: Output<Self>, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.format.table(table, width, at)
    }

    fn bits(&self, at: Position) -> Bits {
        self.format.bits(at)
    }

    fn restrict(&self, path: Self::Path, word: u64, at: Position) -> Self::Path {
        self.format.restrict(path, word, at)
    }

    fn check(
        &self,
        word: u64,
        at: Position,
        path: Self::Path,
        access: Access,
    ) -> Result<(), Self::Fault> {
        self.format.check(word, at, path, access)
    }

    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, word: u64) -> Self::Fault {
        self.format.fault(cause, access, at, word)
    }
}

impl<F: FirstStage> FirstStage for Plain<F> {}
impl<F: SecondStage> SecondStage for Plain<F> {}

const PROTS: [Prot; 6] =
    [Prot::R, Prot::RW, Prot::RX, Prot::RWX, Prot::RW.for_user(), Prot::RX.for_user()];

/// Two trees of the same verbs, one by each format, are the same words; and each access is answered
/// alike.
fn alike<F: Format>(format: F) {
    let plain = Plain { format, lie: None };
    let [here, there] = [(); 2].map(|()| Arena::new(1 << 20));
    let (tables, others) = (Tables::new(&here), Tables::new(&there));
    let mut one = PageTable::new(format, here.memory::<Output<F>>(), &tables).unwrap();
    let mut other = PageTable::new(plain, there.memory::<Output<F>>(), &others).unwrap();
    let page =
        |n: u64| Input::<F>::new(((n % 40) << 12) + ((n / 40 % 3) << 21) + ((n / 120) << 39));
    let verbs = (0..60u64).map(|n| (page(n * 7), PROTS[n as usize % PROTS.len()], n << 12));
    for (at, prot, to) in verbs.chain([(Input::<F>::new(5 << 30), Prot::RWX.for_user(), 3 << 30)]) {
        let bytes = if to < 1 << 30 { 0x1000 } else { 0x60_0000 };
        let mapped = one.map(at, Output::<F>::new(to), bytes, prot.into(), Leaves::Largest);
        assert_eq!(
            mapped,
            other.map(at, Output::<F>::new(to), bytes, prot.into(), Leaves::Largest)
        );
    }
    for n in (0..60).step_by(9) {
        let unmapped = one.unmap(page(n * 7), 0x1000, &mut Gather::new(&Unused, ()));
        assert_eq!(unmapped, other.unmap(page(n * 7), 0x1000, &mut Gather::new(&Unused, ())));
    }
    let (known, asked) = (one.walker(), other.walker());
    let accesses =
        [Access::READ, Access::WRITE, Access::FETCH].into_iter().flat_map(|it| [it, it.by_user()]);
    for access in accesses {
        for at in (0..240)
            .map(page)
            .chain([Input::<F>::new(5 << 30), Input::<F>::new((5 << 30) + 0x41_2345)])
        {
            let (known, asked) = (known.translate(at, access), asked.translate(at, access));
            let said = |fault: pgtable::Fault<F>| {
                (fault.address, fault.cause, fault.at, fault.entry, fault.arch)
            };
            let asked = asked.map_err(|it| (it.address, it.cause, it.at, it.entry, it.arch));
            assert_eq!(known.map_err(said), asked, "{access} at {at}");
        }
    }
    one.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    other.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    assert_eq!((tables.live(), others.live()), (0, 0));
}

#[test]
fn what_the_trait_answers() {
    alike(LongMode::new(Levels::Four, Controls::new()));
    alike(Ept::new(Levels::Four, EptControls::new()));
    alike(Npt::new(Levels::Four, NptControls::new()));
    alike(ProcessScoped::new(Granule::K4));
    alike(PartitionScoped::new(Granule::K4));
    let plain = Plain { format: Npt::new(Levels::Four, NptControls::new()), lie: None };
    assert!(!plain.asks_whose_page(Access::FETCH));
    assert_eq!(plain.guest_table_access(), Access::READ);
    let plain = Plain { format: LongMode::new(Levels::Four, Controls::new()), lie: None };
    let page = Position { level: pgtable::Level(0), shift: 12 };
    assert!(plain.is_user_page(0, page, Default::default()));
    assert_eq!(plain.shortcuts(None), None);
}

/// A second stage that asks whose page it is, behind a first that knows no pages of user mode: they
/// are all.
#[test]
fn pages_of_nobody_are_a_users() {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let stage1 = Plain { format: LongMode::new(Levels::Four, Controls::new()), lie: None };
    let mut guest = PageTable::new(stage1, arena.memory::<Gpa>(), &tables).unwrap();
    let controls = EptControls { mode_based_execute: true, ..EptControls::new() };
    let mut ept =
        PageTable::new(Ept::new(Levels::Four, controls), arena.memory::<Hpa>(), &tables).unwrap();
    guest
        .map(Gva::new(0x2000), Gpa::new(0x7000), 0x1000, Prot::RWX.into(), Leaves::Largest)
        .unwrap();
    let tables_at = guest.root().get() & !0xfffff;
    ept.map(
        Gpa::new(tables_at),
        Hpa::new(tables_at),
        1 << 20,
        Prot::RW.into(),
        Leaves::Exactly(12),
    )
    .unwrap();
    let page = pgtable_x86::EptAttributes::from(Prot::RWX).with_user_execute(false);
    ept.map(Gpa::new(0x7000), Hpa::new(0x7000), 0x1000, page, Leaves::Largest).unwrap();
    let stages = TwoStage::new(stage1, guest.root(), ept.walker());
    assert!(stages.translate(Gva::new(0x2000), Access::READ).is_ok());
    assert!(stages.translate(Gva::new(0x2000), Access::FETCH).is_err());
}

#[test]
fn tables_that_cannot_be_are_malformed() {
    let format = LongMode::new(Levels::Four, Controls::new());
    // A table below the last level; one without entries; ones as wide as what they are to cover,
    // and wider.
    for (level, width) in [(0, 9), (1, 0), (2, 0), (1, 21), (1, 63), (3, 39)] {
        let arena = Arena::new(1 << 20);
        let tables = Tables::new(&arena);
        let mut tree = PageTable::new(format, arena.memory::<Gpa>(), &tables).unwrap();
        let at = Gva::new(0x1234_5000);
        tree.map(at, tree.root(), 0x1000, Prot::RW.into(), Leaves::Largest).unwrap();
        let lying = Walker::new(
            Plain { format, lie: Some((level, width)) },
            arena.memory::<Gpa>(),
            tree.root(),
        );
        let fault = lying.translate(at, Access::READ).unwrap_err();
        assert_eq!(
            (fault.cause, fault.at.unwrap().level.0),
            (Cause::Malformed, level),
            "{width} bits at {level}"
        );
        assert!(lying.query(at).is_err());
        assert!(lying.iter(at, 0x1000).unwrap().any(|leaf| leaf.is_err()));
        tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error).unwrap();
    }
}
