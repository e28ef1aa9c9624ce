//! Shadows against composition: L1's map, our map, and nothing in a shadow that both do not say
//! now.

use std::collections::BTreeMap;

use pgtable::memory::DirectMap;
use pgtable::second_stage::{FaultInError, MemorySlot, PageState};
use pgtable::tree::Recorded;
use pgtable::{Access, AccessKind, Gpa, Gva, Hpa, Prot};
use pgtable_ppc64::radix::{
    Eaa, Granule, HypervisorFault, PageAttributes, PartitionScoped, Pte, RcPolicy,
};
use pgtable_ppc64::second_stage::{Action, HostPage, Leaf, SecondStage};
use pgtable_ppc64::shadow::{Nested, Outcome, Restriction};
use proptest::prelude::*;

use crate::host::{Tables, Tlb, direct, leaves, memory};
use crate::l1::{self, Call, Calls, L1, L2S};

type State = PageState<PartitionScoped>;
type Stage<'m> = SecondStage<DirectMap<'m, Hpa>, &'m Tables<'m>>;
type Shadows<'m> = Nested<DirectMap<'m, Hpa>, &'m Tables<'m>>;

/// A leaf of L1's: what the model knows of L1's tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct L1Leaf {
    shift: u8,
    gpa: u64,
    eaa: u8,
    r: bool,
    c: bool,
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Fault(usize, u64, AccessKind, bool),
    L1Map(usize, u64, L1Leaf, bool),
    L1Unmap(usize, u64, u64, bool),
    L1Harvest(usize, bool, bool),
    HostUnmap(u64, u64),
    HostWriteProtect(u64, u64),
    /// Of everything: a round of a dirty log.
    HostClearDirty,
    HostAge(u64, u64),
}

fn kinds() -> impl Strategy<Value = AccessKind> {
    prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)]
}

/// L2's addresses.
fn n_gpas() -> impl Strategy<Value = u64> {
    (0u64..2, 0u64..2, 0u64..3, 0u64..2)
        .prop_map(|(g, m, k64, k4)| g << 30 | m << 21 | k64 << 16 | k4 << 12)
}

/// L1's: memory from 0 to 3 GiB, the same again read-only from 3 to 4 GiB, nothing beyond.
fn gpas() -> impl Strategy<Value = u64> {
    let gigabyte =
        prop_oneof![3 => Just(0u64), 3 => Just(1), 1 => Just(2), 2 => Just(3), 1 => Just(4)];
    (gigabyte, 0u64..2, 0u64..3, 0u64..2)
        .prop_map(|(g, m, k64, k4)| g << 30 | m << 21 | k64 << 16 | k4 << 12)
}

fn shifts() -> impl Strategy<Value = u8> {
    prop_oneof![2 => Just(12u8), 2 => Just(16), 2 => Just(21), 1 => Just(30)]
}

fn ops() -> impl Strategy<Value = Op> {
    let l1_leaf = (
        shifts(),
        gpas(),
        prop_oneof![4 => Just(7u8), 2 => 0u8..16],
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.7),
    )
        .prop_map(|(shift, gpa, eaa, r, c)| L1Leaf {
            shift,
            gpa: gpa >> shift << shift,
            eaa,
            r,
            c,
        });
    let l2 = 0usize..2;
    let lengths =
        prop_oneof![Just(0x1000u64), Just(0x1_0000), Just(0x3_0000), Just(2 << 21), Just(1 << 30)];
    prop_oneof![
        10 => (l2.clone(), n_gpas(), kinds(), any::<bool>()).prop_map(|(l2, at, kind, logged)| Op::Fault(l2, at | 0x678, kind, logged)),
        5 => (l2.clone(), n_gpas(), l1_leaf, any::<bool>()).prop_map(|(l2, at, leaf, rpt)| Op::L1Map(l2, at >> leaf.shift << leaf.shift, leaf, rpt)),
        1 => (l2.clone(), n_gpas(), lengths.clone(), any::<bool>()).prop_map(|(l2, at, bytes, rpt)| Op::L1Unmap(l2, at >> 16 << 16, bytes.max(0x1_0000), rpt)),
        1 => (l2, any::<bool>(), any::<bool>()).prop_map(|(l2, dirty, rpt)| Op::L1Harvest(l2, dirty, rpt)),
        2 => (gpas(), lengths.clone()).prop_map(|(at, bytes)| Op::HostUnmap(at, bytes)),
        1 => (gpas(), lengths.clone()).prop_map(|(at, bytes)| Op::HostWriteProtect(at, bytes)),
        1 => Just(Op::HostClearDirty),
        1 => (gpas(), lengths).prop_map(|(at, bytes)| Op::HostAge(at, bytes)),
    ]
}

/// The slots of L1: memory, and the first gigabyte of it again, read-only.
fn slot(gpa: Gpa, logged: bool) -> Option<MemorySlot> {
    let memory = MemorySlot { gpa: Gpa::new(0), bytes: 3 << 30, hva: 0, read_only: false, logged };
    let alias =
        MemorySlot { gpa: Gpa::new(3 << 30), bytes: 1 << 30, hva: 0, read_only: true, logged };
    [memory, alias].into_iter().find(|slot| slot.contains(gpa))
}

/// The host's own leaves: 2 MiB, then 1 GiB, then 64 KiB.
fn host_page(hva: u64) -> HostPage {
    let shift = [21, 30, 16][(hva >> 30) as usize % 3];
    HostPage {
        frame: Hpa::new(hva >> shift << shift | 1 << 44),
        shift,
        attributes: PageAttributes::from(Prot::RWX.for_user()),
    }
}

struct World<'m> {
    host: Stage<'m>,
    nested: Shadows<'m>,
    tlb: &'m Tlb,
    l1: L1<'m>,
    l1_memory: DirectMap<'m, Gpa>,
    model: [BTreeMap<u64, L1Leaf>; 2],
    rc: RcPolicy,
}

fn covering<T: Copy>(
    map: &BTreeMap<u64, T>,
    at: u64,
    shift: impl Fn(&T) -> u8,
) -> Option<(u64, T)> {
    let (&start, leaf) = map.range(..=at).next_back()?;
    (at - start < 1 << shift(leaf)).then_some((start, *leaf))
}

fn reads(eaa: u8) -> bool {
    eaa & 6 != 0
}

impl World<'_> {
    /// What L1 asked for reaches us.
    fn hear(&mut self) {
        for call in self.l1.calls.calls.take() {
            match call {
                Call::TlbInvalidate(call) => {
                    self.nested.h_tlb_invalidate(call, &self.l1_memory, self.tlb)
                }
                Call::RptInvalidate(call) => {
                    self.nested.h_rpt_invalidate(&call, &self.l1_memory, self.tlb)
                }
            }
            .unwrap();
        }
    }

    fn l1_unmap(&mut self, index: usize, start: u64, bytes: u64, rpt: bool) {
        // Whole leaves: what a hypervisor does that does not split.
        let model = &mut self.model[index];
        let meets: Vec<_> = model
            .iter()
            .filter(|&(&at, leaf)| at < start + bytes && start < at + (1 << leaf.shift))
            .map(|(&at, leaf)| (at, leaf.shift))
            .collect();
        self.l1.calls.rpt.set(rpt);
        for (at, shift) in meets {
            model.remove(&at);
            self.l1.unmap(index, at, 1 << shift);
        }
        self.hear();
    }

    /// Faults a page of L1's memory in.
    fn fault_in(&mut self, gpa: Gpa, kind: AccessKind, logged: bool) {
        let slot = slot(gpa, logged).unwrap();
        let page = host_page(slot.host_address(gpa).unwrap());
        let (ticket, tlb) = (self.host.ticket(), self.tlb);
        let mut gather = self.host.gather(tlb);
        let nested = &mut self.nested;
        let gone = |state: State| {
            nested.lost(state.leaf.input, state.leaf.bytes, tlb).unwrap();
        };
        match self.host.fault_in(ticket, gpa, kind, &slot, page, &mut gather, gone) {
            Ok(_) | Err(FaultInError::ReadOnly) => {}
            Err(error) => panic!("{error}"),
        }
        self.host.finish(&mut gather).unwrap();
    }

    /// One access of L2's, with all faults on the way.
    fn access(
        &mut self,
        index: usize,
        n_gpa: u64,
        kind: AccessKind,
        logged: bool,
    ) -> Result<(), TestCaseError> {
        let (l2, store) = (L2S[index], kind == AccessKind::Write);
        let ea = Gva::new(0xc000_0000_0000_0678);
        for _ in 0..8 {
            let walker = self.nested.shadow(l2).unwrap().walker();
            let Err(fault) = walker.access(Gpa::new(n_gpa), Access { kind, ..Access::READ }) else {
                let (_, l1) = covering(&self.model[index], n_gpa, |leaf| leaf.shift).unwrap();
                let allowed = match kind {
                    AccessKind::Read => reads(l1.eaa),
                    AccessKind::Write => l1.eaa & 2 != 0,
                    AccessKind::Fetch => l1.eaa & 1 != 0,
                };
                prop_assert!(allowed, "L1 does not allow it: {:?}", l1);
                return Ok(());
            };
            let fault = HypervisorFault::of_access(&fault, ea);
            let slot = |gpa| slot(gpa, logged);
            let outcome = self
                .nested
                .fault(l2, &fault, &self.l1_memory, &mut self.host, slot, self.tlb)
                .unwrap();
            let found = covering(&self.model[index], n_gpa, |leaf| leaf.shift);
            let expected = match (found, kind) {
                (None, _) => Some(0x4000_0000),
                (Some((_, it)), AccessKind::Fetch) if it.eaa & 1 == 0 => Some(0x1000_0000),
                (Some((_, it)), AccessKind::Write) if it.eaa & 2 == 0 => Some(0x0800_0000),
                (Some((_, it)), AccessKind::Read) if !reads(it.eaa) => Some(0x0800_0000),
                (Some((_, it)), _) if self.rc == RcPolicy::Fault && !(it.r && (it.c || !store)) => {
                    Some(0x0004_0000)
                }
                _ => None,
            };
            if let Some(status) = expected {
                let Outcome::ToL1(to_l1) = outcome else {
                    panic!("{outcome:?}, not {status:#x} to L1")
                };
                let store = if store { 0x0200_0000 } else { 0 };
                prop_assert_eq!(to_l1.interrupt.status.into_bits(), status | store);
                prop_assert_eq!(to_l1.interrupt.vector, fault.interrupt.vector);
                prop_assert_eq!((to_l1.hdar, to_l1.asdr.get()), (ea, n_gpa & !0xfff));
                return Ok(());
            }
            let (start, leaf) = found.unwrap();
            if self.rc == RcPolicy::HardwareUpdate {
                let leaf = self.model[index].get_mut(&start).unwrap();
                (leaf.r, leaf.c) = (true, leaf.c || store);
            }
            let gpa = leaf.gpa + (n_gpa - start);
            match (outcome, slot(Gpa::new(gpa))) {
                (Outcome::Retry, Some(slot)) => prop_assert!(!(store && slot.read_only)),
                (Outcome::Host(Action::Instantiate { gpa: at, kind }), Some(slot)) => {
                    prop_assert_eq!(at.get(), gpa);
                    prop_assert!(!(store && slot.read_only));
                    self.fault_in(at, kind, logged);
                }
                (Outcome::Host(Action::Mmio { gpa: at, store: wrote }), None) => {
                    prop_assert_eq!((at.get(), wrote), (gpa, store));
                    return Ok(());
                }
                (Outcome::Host(Action::Bad(_)), None) => {
                    prop_assert_eq!(kind, AccessKind::Fetch);
                    return Ok(());
                }
                (Outcome::Host(Action::ReflectDsi { dsisr, .. }), None) => {
                    prop_assert!(dsisr.reference_change());
                    return Ok(());
                }
                (Outcome::Host(Action::ReflectDsi { dsisr, dar }), Some(slot)) => {
                    prop_assert!(store && slot.read_only);
                    prop_assert_eq!((dsisr.into_bits(), dar), (0x0a00_0000, ea));
                    return Ok(());
                }
                (outcome, slot) => panic!("{outcome:?} with {slot:?}"),
            }
        }
        panic!("L2 faults for ever at {n_gpa:#x}, {kind:?}");
    }

    /// Nothing in a shadow that both trees do not say.
    fn verify(&self) -> Result<(), TestCaseError> {
        let ours: BTreeMap<_, _> =
            leaves(&self.host).into_iter().map(|leaf| (leaf.input.get(), leaf)).collect();
        let mut entries = 0;
        for (index, l2) in L2S.into_iter().enumerate() {
            let seen: Vec<_> = leaves_of(&self.l1.trees[index]);
            let want: Vec<_> = self.model[index].iter().map(|(&at, &leaf)| (at, leaf)).collect();
            prop_assert_eq!(seen, want, "L1's tree");
            for leaf in leaves(self.nested.shadow(l2).unwrap()) {
                entries += 1;
                let it = leaf.attributes;
                for at in [leaf.input.get(), leaf.input.get() + leaf.bytes - 0x1000] {
                    let Some((start, l1)) = covering(&self.model[index], at, |leaf| leaf.shift)
                    else {
                        panic!("L1 maps nothing at {at:#x}, we {leaf:?}")
                    };
                    let gpa = l1.gpa + (at - start);
                    let Some((base, our)) = covering(&ours, gpa, |leaf| leaf.shift) else {
                        panic!("we map nothing at {gpa:#x}, but {leaf:?}")
                    };
                    prop_assert_eq!(
                        leaf.output.get() + (at - leaf.input.get()),
                        our.output.get() + (gpa - base)
                    );
                    let (eaa, its) = (it.eaa().into_bits(), our.attributes);
                    prop_assert!(!reads(eaa) || reads(l1.eaa) && reads(its.eaa().into_bits()));
                    prop_assert_eq!(
                        eaa & 3 & !(l1.eaa & its.eaa().into_bits()),
                        0,
                        "{:?}: {:?} {:?}",
                        leaf,
                        l1,
                        our
                    );
                    prop_assert!(
                        !it.c() || l1.c && its.c(),
                        "C ahead: {:?}: {:?} {:?}",
                        leaf,
                        l1,
                        our
                    );
                    if self.rc == RcPolicy::Fault {
                        prop_assert!(
                            !it.r() || l1.r && its.r(),
                            "R ahead: {:?}: {:?} {:?}",
                            leaf,
                            l1,
                            our
                        );
                    } else {
                        prop_assert!(
                            it.c() || eaa & 2 == 0,
                            "hardware would set C unseen: {:?}",
                            leaf
                        );
                    }
                    prop_assert!(leaf.shift <= l1.shift && leaf.shift <= our.shift);
                }
            }
            self.tlb.verify(self.nested.shadow(l2).unwrap());
        }
        prop_assert_eq!(self.nested.entries(), entries, "the reverse map is exact");
        self.tlb.verify(&self.host);
        Ok(())
    }

    fn step(&mut self, op: Op) -> Result<(), TestCaseError> {
        let tlb = self.tlb;
        match op {
            Op::Fault(index, n_gpa, kind, logged) => self.access(index, n_gpa, kind, logged)?,
            Op::L1Map(index, n_gpa, leaf, rpt) => {
                self.l1_unmap(index, n_gpa, 1 << leaf.shift, rpt);
                let pte =
                    Pte::new().with_eaa(Eaa::from_bits(leaf.eaa)).with_r(leaf.r).with_c(leaf.c);
                if self.l1.map(index, n_gpa, leaf.gpa, leaf.shift, PageAttributes::of(pte)) {
                    self.model[index].insert(n_gpa, leaf);
                }
            }
            Op::L1Unmap(index, n_gpa, bytes, rpt) => self.l1_unmap(index, n_gpa, bytes, rpt),
            Op::L1Harvest(index, dirty, rpt) => {
                self.l1.calls.rpt.set(rpt);
                self.l1.harvest(index, if dirty { Recorded::Dirty } else { Recorded::Accessed });
                for leaf in self.model[index].values_mut() {
                    *(if dirty { &mut leaf.c } else { &mut leaf.r }) = false;
                }
                self.hear();
            }
            Op::HostUnmap(gpa, bytes) => {
                let mut gather = self.host.gather(tlb);
                let nested = &mut self.nested;
                let gone = |state: State| {
                    nested.lost(state.leaf.input, state.leaf.bytes, tlb).unwrap();
                };
                self.host.unmap(Gpa::new(gpa), bytes, &mut gather, gone).unwrap();
                self.host.finish(&mut gather).unwrap();
            }
            Op::HostWriteProtect(gpa, bytes) => {
                let mut gather = self.host.gather(tlb);
                self.host.write_protect(Gpa::new(gpa), bytes, &mut gather).unwrap();
                self.host.finish(&mut gather).unwrap();
                self.nested
                    .restrict(&self.host, Gpa::new(gpa), bytes, Restriction::Write, tlb)
                    .unwrap();
            }
            Op::HostClearDirty => {
                for leaf in leaves(&self.host) {
                    let mut gather = self.host.gather(tlb);
                    let dirty = self.host.clear_dirty(leaf.input, 1, &mut gather, |_| ());
                    prop_assert_eq!(dirty, Ok(u64::from(leaf.attributes.c())));
                    self.host.finish(&mut gather).unwrap();
                    self.nested
                        .restrict(&self.host, leaf.input, leaf.bytes, Restriction::Change, tlb)
                        .unwrap();
                }
            }
            Op::HostAge(gpa, bytes) => {
                let start = Gpa::new(gpa);
                let mut gather = self.host.gather(tlb);
                self.host.age(start, bytes, &mut gather, |_| ()).unwrap();
                self.host.finish(&mut gather).unwrap();
                self.nested
                    .restrict(&self.host, start, bytes, Restriction::Reference, tlb)
                    .unwrap();
                prop_assert_eq!(self.nested.test_age(start, bytes), Ok(false));
            }
        }
        Ok(())
    }
}

fn leaves_of(tree: &l1::Tree<'_>) -> Vec<(u64, L1Leaf)> {
    let leaf = |leaf: Leaf| {
        let it = leaf.attributes;
        let (gpa, eaa) = (leaf.output.get(), it.eaa().into_bits());
        (leaf.input.get(), L1Leaf { shift: leaf.shift, gpa, eaa, r: it.r(), c: it.c() })
    };
    tree.walker().iter(Gpa::new(0), 1 << 52).unwrap().map(|found| leaf(found.unwrap())).collect()
}

fn run(granule: Granule, rc: RcPolicy, ops: &[Op]) -> Result<(), TestCaseError> {
    let (words, tlb) = (memory(), Tlb::default());
    let frames = Tables::frames(&words);
    let [host_tables, tables_a, tables_b] =
        [1, 100, 101].map(|lpid| Tables::new(&frames, &tlb, lpid));
    let format = PartitionScoped::new(granule).with_rc(rc);
    let host = SecondStage::new(format, direct(&words), &host_tables, 1).unwrap();
    let mut nested = Nested::new();
    for (l2, lpid, tables) in [(L2S[0], 100, &tables_a), (L2S[1], 101, &tables_b)] {
        let shadow = SecondStage::new(
            PartitionScoped::new(Granule::K4).with_rc(rc),
            direct(&words),
            tables,
            lpid,
        );
        assert!(nested.insert(l2, shadow.unwrap()).is_ok());
    }
    let l1_words = l1::memory();
    let l1_memory = l1::direct(&l1_words);
    let l1_tables = l1::bump();
    let calls = Calls { calls: Default::default(), rpt: Default::default() };
    let (l1, ptcr) = L1::boot(&l1_memory, &l1_tables, &calls);
    nested.h_set_partition_table(ptcr, |_| true).unwrap();
    let mut world = World { host, nested, tlb: &tlb, l1, l1_memory, model: Default::default(), rc };
    for op in ops {
        tlb.fill(&world.host);
        for l2 in L2S {
            tlb.fill(world.nested.shadow(l2).unwrap());
        }
        world.step(*op)?;
        world.verify()?;
    }
    let World { mut nested, host, .. } = world;
    for l2 in L2S {
        nested.remove(l2).unwrap().destroy(&tlb).map_err(|(_, error)| error).unwrap();
    }
    prop_assert_eq!(nested.entries(), 0);
    host.destroy(&tlb).map_err(|(_, error)| error).unwrap();
    prop_assert_eq!(frames.census().live, 0);
    Ok(())
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(256))]

    #[test]
    fn never_more_than_the_composition(
        granule in prop_oneof![Just(Granule::K4), Just(Granule::K64)],
        rc in prop_oneof![Just(RcPolicy::Fault), Just(RcPolicy::HardwareUpdate)],
        ops in prop::collection::vec(ops(), 1..60),
    ) {
        run(granule, rc, &ops)?;
    }
}
