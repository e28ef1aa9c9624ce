//! A second stage against the obvious model: a list of leaves.

use std::collections::BTreeMap;

use arch_ppc64::radix::{Att, Granule, PartitionScoped, RcPolicy};
use arch_ppc64::second_stage::{Error, HostPage, Leaf, MemorySlot, Placed, SecondStage};
use pgtable::tree::{Recorded, Writers};
use pgtable::{Access, AccessKind, Attributes, Gpa, Hpa};
use proptest::prelude::*;

use crate::host::{Tables, Tlb, direct, leaves, memory};

/// What the host's own page at a host virtual address of `generation` is.
const GENERATION: u64 = 1 << 40;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    shift: u8,
    hpa: u64,
    w: bool,
    r: bool,
    c: bool,
}

/// Leaves by their first guest address.
#[derive(Default)]
struct Model(BTreeMap<u64, Page>);

impl Model {
    fn overlapping(&self, gpa: u64, bytes: u64) -> Vec<u64> {
        let meets = |(&start, page): (&u64, &Page)| {
            (start < gpa + bytes && gpa < start + (1 << page.shift)).then_some(start)
        };
        self.0.iter().filter_map(meets).collect()
    }

    fn at(&mut self, gpa: u64) -> Option<&mut Page> {
        let start = *self.overlapping(gpa, 1).first()?;
        self.0.get_mut(&start)
    }

    fn take(&mut self, gpa: u64, bytes: u64) -> Vec<(u64, Page)> {
        self.overlapping(gpa, bytes)
            .into_iter()
            .map(|start| (start, self.0.remove(&start).unwrap()))
            .collect()
    }

    fn each(&mut self, gpa: u64, bytes: u64) -> impl Iterator<Item = &mut Page> {
        let starts = self.overlapping(gpa, bytes);
        self.0.iter_mut().filter(move |(start, _)| starts.contains(start)).map(|(_, page)| page)
    }
}

fn page_of(leaf: &Leaf) -> (u64, Page) {
    let it = leaf.attributes;
    (
        leaf.input.get(),
        Page {
            shift: leaf.shift,
            hpa: leaf.output.get(),
            w: it.prot().write(),
            r: it.r(),
            c: it.c(),
        },
    )
}

#[derive(Clone, Copy, Debug)]
enum Op {
    /// Page, access, log2 of the host's page, writable, logged, and whether the slot lies askew by
    /// 2 MiB.
    FaultIn(u64, AccessKind, u8, bool, bool, bool),
    Unmap(u64, u64),
    WriteProtect(u64, u64),
    Redirty(u64),
    SetRc(u64, bool),
    Age(u64, u64),
    TestAge(u64, u64),
    ClearDirty(u64),
    Harvest(u64, u64, bool),
    /// A guest's access, by which hardware sets R and C if it is of that kind.
    Access(u64, AccessKind),
}

const SLOT: u64 = 3 << 30;

fn kinds() -> impl Strategy<Value = AccessKind> {
    prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)]
}

/// Addresses that often share tables and leaves.
fn gpas() -> impl Strategy<Value = u64> {
    (0u64..2, 0u64..3, 0u64..4, 0u64..2)
        .prop_map(|(g, m, k64, k4)| g << 30 | m << 21 | k64 << 16 | k4 << 12 | 0x678)
}

fn lengths() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(1u64),
        Just(0x1000),
        Just(0x1_0000),
        Just(0x3_0000),
        Just(3 << 21),
        Just(1 << 30)
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let shifts = prop_oneof![Just(12u8), Just(16), Just(21), Just(24), Just(30)];
    let fault_in = (
        gpas(),
        kinds(),
        shifts,
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
    );
    prop_oneof![
        8 => fault_in.prop_map(|(gpa, kind, shift, writable, logged, askew)| Op::FaultIn(gpa, kind, shift, writable, logged, askew)),
        3 => (gpas(), lengths()).prop_map(|(gpa, bytes)| Op::Unmap(gpa, bytes)),
        1 => (gpas(), lengths()).prop_map(|(gpa, bytes)| Op::WriteProtect(gpa, bytes)),
        1 => gpas().prop_map(Op::Redirty),
        1 => (gpas(), any::<bool>()).prop_map(|(gpa, store)| Op::SetRc(gpa, store)),
        1 => (gpas(), lengths()).prop_map(|(gpa, bytes)| Op::Age(gpa, bytes)),
        1 => (gpas(), lengths()).prop_map(|(gpa, bytes)| Op::TestAge(gpa, bytes)),
        1 => gpas().prop_map(Op::ClearDirty),
        1 => (gpas(), lengths(), any::<bool>()).prop_map(|(gpa, bytes, dirty)| Op::Harvest(gpa, bytes, dirty)),
        2 => (gpas(), kinds()).prop_map(|(gpa, kind)| Op::Access(gpa, kind)),
    ]
}

/// The model's idea of the leaf for a fault: the largest size at which guest and host lie alike,
/// within the slot.
fn wanted(gpa: u64, slot: &MemorySlot, host: u8, page_shift: u8) -> Option<u8> {
    let hva = gpa - slot.gpa.get() + slot.hva;
    [30u8, 21, page_shift].into_iter().find(|&shift| {
        let size = 1u64 << shift;
        let start = gpa / size * size;
        shift <= host
            && gpa % size == hva % size
            && start >= slot.gpa.get()
            && start + size <= slot.gpa.get() + slot.bytes
            && (!slot.logged || shift == page_shift)
    })
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(256))]

    #[test]
    fn as_a_list_of_leaves(
        granule in prop_oneof![Just(Granule::K4), Just(Granule::K64)],
        rc in prop_oneof![Just(RcPolicy::Fault), Just(RcPolicy::HardwareUpdate)],
        ops in prop::collection::vec(ops(), 1..40),
    ) {
        let (words, tlb) = (memory(), Tlb::default());
        let frames = Tables::frames(&words);
        let tables = Tables::new(&frames, &tlb, 7);
        let page_shift = granule.geometry().page_shift();
        let format = PartitionScoped::new(granule).with_rc(rc);
        let mut stage = SecondStage::new(format, direct(&words), &tables, 7).unwrap();
        let mut model = Model::default();
        for (generation, op) in (1u64..).zip(ops) {
            tlb.fill(&stage);
            let mut gather = stage.gather(&tlb);
            let mut gone = Vec::new();
            let mut went = Vec::new();
            match op {
                Op::FaultIn(gpa, kind, host, writable, logged, askew) => {
                    let hva = if askew { 1 << 50 | 1 << 21 } else { 1 << 50 };
                    let slot = MemorySlot { gpa: Gpa::new(0), bytes: SLOT, hva, read_only: false, logged };
                    // The generation changes with what is unmapped, so that pages move; but not
                    // always.
                    let moved = (generation % 3) * GENERATION;
                    let frame = (hva + gpa) >> host << host ^ moved;
                    let page = HostPage { frame: Hpa::new(frame & !(1 << 50)), shift: host, writable, att: Att::Normal };
                    let ticket = stage.ticket();
                    let placed = stage.fault_in(ticket, Gpa::new(gpa), kind, &slot, page, &mut gather, |leaf| gone.push(page_of(&leaf)));
                    let store = kind == AccessKind::Write;
                    if store && !writable {
                        prop_assert_eq!(placed, Err(Error::ReadOnly));
                    } else if let Some(shift) = wanted(gpa, &slot, host, page_shift) {
                        let start = gpa >> shift << shift;
                        let hpa = ((hva + gpa) ^ moved) & !(1 << 50) & !((1u64 << shift) - 1);
                        let new = Page { shift, hpa, w: writable, r: true, c: writable && (store || !logged) };
                        let old = model.0.get(&start).copied();
                        let same = old.filter(|old| old.shift == shift && old.hpa == hpa);
                        if let Some(old) = same {
                            let both = Page { w: old.w || new.w, r: true, c: old.c || new.c, ..new };
                            prop_assert_eq!(placed, Ok(if both == old { Placed::Already } else { Placed::Added }));
                            model.0.insert(start, both);
                        } else {
                            prop_assert_eq!(placed, Ok(Placed::New));
                            went = model.take(start, 1 << shift);
                            model.0.insert(start, new);
                        }
                    } else {
                        prop_assert_eq!(placed, Err(Error::TooSmall { shift: host }));
                    }
                }
                Op::Unmap(gpa, bytes) => {
                    let ticket = stage.ticket();
                    let unmapped = stage.unmap(Gpa::new(gpa), bytes, &mut gather, |leaf| gone.push(page_of(&leaf)));
                    went = model.take(gpa, bytes);
                    prop_assert_eq!(unmapped, Ok(went.iter().map(|(_, page)| 1u64 << page.shift).sum()));
                    prop_assert_ne!(stage.ticket(), ticket);
                }
                Op::WriteProtect(gpa, bytes) => {
                    let lost = stage.write_protect(Gpa::new(gpa), bytes, &mut gather);
                    let mut want = 0;
                    for page in model.each(gpa, bytes) {
                        want += u64::from(std::mem::take(&mut page.w));
                    }
                    prop_assert_eq!(lost, Ok(want));
                }
                Op::Redirty(gpa) => {
                    let found = model.at(gpa);
                    prop_assert_eq!(stage.redirty(Gpa::new(gpa)), Ok(found.is_some()));
                    if let Some(page) = found {
                        *page = Page { w: true, r: true, c: true, ..*page };
                    }
                }
                Op::SetRc(gpa, store) => {
                    let found = model.at(gpa).filter(|page| !store || page.w);
                    prop_assert_eq!(stage.set_rc(Gpa::new(gpa), store), Ok(found.is_some()));
                    if let Some(page) = found {
                        *page = Page { r: true, c: page.c || store, ..*page };
                    }
                }
                Op::Age(gpa, bytes) => {
                    let mut young = false;
                    model.each(gpa, bytes).for_each(|page| young |= std::mem::take(&mut page.r));
                    prop_assert_eq!(stage.test_age(Gpa::new(gpa), bytes), Ok(young));
                    prop_assert_eq!(stage.age(Gpa::new(gpa), bytes), Ok(young));
                }
                Op::TestAge(gpa, bytes) => {
                    let young = model.each(gpa, bytes).any(|page| page.r);
                    prop_assert_eq!(stage.test_age(Gpa::new(gpa), bytes), Ok(young));
                }
                Op::ClearDirty(gpa) => {
                    let cleared = stage.test_and_clear_dirty(Gpa::new(gpa), &mut gather);
                    let dirty = model.at(gpa).filter(|page| page.c);
                    prop_assert_eq!(cleared.map(|leaf| leaf.map(|leaf| page_of(&leaf).1)), Ok(dirty.as_deref().copied()));
                    if let Some(page) = dirty {
                        page.c = false;
                    }
                }
                Op::Harvest(gpa, bytes, dirty) => {
                    let (start, pages) = (gpa >> page_shift << page_shift, (bytes >> page_shift).max(1));
                    let mut bitmap = vec![0u64; pages.div_ceil(64) as usize];
                    let recorded = if dirty { Recorded::Dirty } else { Recorded::Accessed };
                    let set = stage.harvest(Gpa::new(start), pages << page_shift, recorded, Writers::Running, &mut bitmap, &mut gather);
                    let mut want = 0;
                    for page in 0..pages {
                        let at = model.at(start + (page << page_shift));
                        let bit = at.is_some_and(|it| if dirty { it.c } else { it.r });
                        want += u64::from(bit);
                        prop_assert_eq!(bitmap[page as usize / 64] >> (page % 64) & 1 == 1, bit, "page {}", page);
                    }
                    prop_assert_eq!(set, Ok(want));
                    let end = start + (pages << page_shift);
                    for leaf in model.overlapping(start, end - start) {
                        let page = model.0.get_mut(&leaf).unwrap();
                        if leaf >= start && leaf + (1 << page.shift) <= end {
                            *(if dirty { &mut page.c } else { &mut page.r }) = false;
                        }
                    }
                }
                Op::Access(gpa, kind) => {
                    let store = kind == AccessKind::Write;
                    let made = stage.walker().access(Gpa::new(gpa), Access { kind, ..Access::READ });
                    let allowed = model.at(gpa).filter(|page| !store || page.w);
                    match rc {
                        RcPolicy::Fault => {
                            let recorded = allowed.filter(|page| page.r && (page.c || !store));
                            prop_assert_eq!(made.is_ok(), recorded.is_some());
                        }
                        RcPolicy::HardwareUpdate => {
                            prop_assert_eq!(made.is_ok(), allowed.is_some());
                            if let Some(page) = allowed {
                                *page = Page { r: true, c: page.c || store, ..*page };
                            }
                        }
                    }
                }
            }
            stage.finish(gather).unwrap();
            if !matches!(op, Op::Age(..)) {
                tlb.verify(&stage);
            }
            prop_assert_eq!(gone, went, "{:?}", op);
            let seen: Vec<_> = leaves(&stage).iter().map(page_of).collect();
            let want: Vec<_> = model.0.iter().map(|(&start, &page)| (start, page)).collect();
            prop_assert_eq!(seen, want, "{:?}", op);
        }
        // No table is kept for nothing: as many as a fresh tree of the same leaves needs, and none
        // in the end.
        let needed = 1 + count(&model, 39) + count_below(&model, 30) + count_below(&model, 21);
        prop_assert_eq!(u64::from(frames.census().live), needed);
        stage.destroy(&tlb).map_err(|(_, error)| error).unwrap();
        tables.cache.close().unwrap();
        prop_assert!(frames.census().all_home(), "{:?}", frames.census());
    }
}

/// How many blocks of `2^shift` bytes hold a leaf.
fn count(model: &Model, shift: u8) -> u64 {
    let blocks: std::collections::BTreeSet<_> =
        model.0.keys().map(|start| start >> shift).collect();
    blocks.len() as u64
}

/// How many blocks of `2^shift` bytes hold a smaller leaf.
fn count_below(model: &Model, shift: u8) -> u64 {
    let blocks: std::collections::BTreeSet<_> = model
        .0
        .iter()
        .filter(|(_, page)| page.shift < shift)
        .map(|(start, _)| start >> shift)
        .collect();
    blocks.len() as u64
}
