//! Cases by hand: what L1 hears, hostile tables, and the traps that an alias sets.

use core::sync::atomic::{AtomicU64, Ordering};

use pgtable::memory::DirectMap;
use pgtable::second_stage::MemorySlot;
use pgtable::{AccessKind, Gpa, Gva, Hpa, Prot};
use pgtable_ppc64::radix::{
    Granule, HypervisorFault, PageAttributes, PartitionScoped, ProcessTableWord, RptInvalidate,
    RptPages, RptTarget, RptType,
};
use pgtable_ppc64::second_stage::{Action, HostPage, Reason, SecondStage};
use pgtable_ppc64::shadow::{Error, HcallError, Nested, Outcome, Restriction};
use pgtable_ppc64::{Interrupt, Status, Vector};
use proptest::prelude::*;

use crate::host::{Tables, Tlb, direct, leaves, memory};
use crate::l1::{self, Calls, L1, L2S};

type Shadows<'m> = Nested<DirectMap<'m, Hpa>, &'m Tables<'m>>;
type Stage<'m> = SecondStage<DirectMap<'m, Hpa>, &'m Tables<'m>>;

struct Case<'m> {
    nested: Shadows<'m>,
    host: Stage<'m>,
    l1: L1<'m>,
    l1_memory: DirectMap<'m, Gpa>,
    l1_words: &'m [AtomicU64],
    tlb: &'m Tlb,
    ptcr: u64,
}

const L2: u32 = L2S[0];
const EA: u64 = 0xc000_0000_0000_0678;

fn slot(gpa: Gpa) -> Option<MemorySlot> {
    let memory =
        MemorySlot { gpa: Gpa::new(0), bytes: 1 << 30, hva: 0, read_only: false, logged: false };
    // The same memory once more, read-only.
    let alias = MemorySlot { gpa: Gpa::new(1 << 30), read_only: true, ..memory };
    [memory, alias].into_iter().find(|slot| slot.contains(gpa))
}

impl Case<'_> {
    fn fault_status(&mut self, vector: Vector, status: u32, asdr: u64) -> Outcome {
        let interrupt = Interrupt { vector, status: Status::from_bits(status) };
        let fault = HypervisorFault { interrupt, hdar: Gva::new(EA), asdr: Gpa::new(asdr) };
        self.nested.fault(L2, &fault, &self.l1_memory, &mut self.host, slot, self.tlb).unwrap()
    }

    fn fault_in(&mut self, gpa: u64, shift: u8) {
        let kind = if slot(Gpa::new(gpa)).unwrap().read_only {
            AccessKind::Read
        } else {
            AccessKind::Write
        };
        let mut gather = self.host.gather(self.tlb);
        let (ticket, slot) = (self.host.ticket(), slot(Gpa::new(gpa)).unwrap());
        let hva = slot.host_address(Gpa::new(gpa)).unwrap();
        let page = HostPage {
            frame: Hpa::new(hva >> shift << shift | 1 << 44),
            shift,
            attributes: PageAttributes::from(Prot::RWX.for_user()),
        };
        self.host.fault_in(ticket, Gpa::new(gpa), kind, &slot, page, &mut gather, |_| ()).unwrap();
        self.host.finish(&mut gather).unwrap();
    }

    fn restrict(&mut self, gpa: u64, bytes: u64, what: Restriction) {
        let Self { nested, host, tlb, .. } = self;
        nested.restrict(host, Gpa::new(gpa), bytes, what, *tlb).unwrap();
    }

    fn shadows(&self) -> Vec<(u64, u64, u8)> {
        let shadow = self.nested.shadow(L2).unwrap();
        leaves(shadow)
            .iter()
            .map(|leaf| (leaf.input.get(), leaf.output.get(), leaf.shift))
            .collect()
    }
}

fn with_case(test: impl FnOnce(Case<'_>)) {
    let (words, tlb) = (memory(), Tlb::default());
    let frames = Tables::frames(&words);
    let [host_tables, tables] = [1, 100].map(|lpid| Tables::new(&frames, &tlb, lpid));
    let stage = |tables, granule, lpid| {
        SecondStage::new(PartitionScoped::new(granule), direct(&words), tables, lpid).unwrap()
    };
    let host = stage(&host_tables, Granule::K64, 1);
    let mut nested = Nested::new();
    assert!(nested.insert(L2, stage(&tables, Granule::K4, 100)).is_ok());
    let l1_words = l1::memory();
    let l1_memory = l1::direct(&l1_words);
    let l1_tables = l1::bump();
    let calls = Calls { calls: Default::default(), rpt: Default::default() };
    let (l1, ptcr) = L1::boot(&l1_memory, &l1_tables, &calls);
    nested.h_set_partition_table(ptcr, |_| true).unwrap();
    test(Case { nested, host, l1, l1_memory, l1_words: &l1_words, tlb: &tlb, ptcr });
}

fn rwx() -> PageAttributes {
    PageAttributes::from(Prot::RWX)
}

/// Every way in which a fault ends with L1, or with us.
#[test]
fn who_hears_of_it() {
    const HDSI: Vector = Vector::HypervisorDataStorage;
    const HISI: Vector = Vector::HypervisorInstructionStorage;
    with_case(|mut case| {
        let prot = |prot| PageAttributes::from(prot);
        for (n_gpa, attributes) in [
            (0x0_0000, rwx()),
            (0x1_0000, prot(Prot::R)),
            (0x2_0000, prot(Prot::RW)),
            (0x3_0000, rwx().with_r(false)),
            (0x4_0000, rwx().with_c(false)),
            (0x5_0000, prot(Prot::new())),
        ] {
            assert!(case.l1.map(0, n_gpa, n_gpa, 16, attributes));
        }
        assert!(case.l1.map(0, 0x6_0000, 1 << 31, 16, rwx()));
        let to_l1 = |vector, status, asdr| {
            let interrupt = Interrupt { vector, status: Status::from_bits(status) };
            Outcome::ToL1(HypervisorFault { interrupt, hdar: Gva::new(EA), asdr: Gpa::new(asdr) })
        };
        let host = |gpa, kind| Outcome::Host(Action::Instantiate { gpa: Gpa::new(gpa), kind });
        let mmio = |gpa, store| Outcome::Host(Action::Mmio { gpa: Gpa::new(gpa), store });
        let dsi = |dsisr| {
            Outcome::Host(Action::ReflectDsi { dar: Gva::new(EA), dsisr: Status::from_bits(dsisr) })
        };
        let bad = |reason| Outcome::Host(Action::Bad(reason));
        for (name, vector, status, asdr, want) in [
            ("canary", HDSI, 0x7fff, 0x0_0000, Outcome::Retry),
            ("our shadow is bad", HDSI, 0x0008_0000, 0x0_0000, bad(Reason::UnsupportedTables)),
            ("nothing there", HDSI, 0x4000_0000, 0x9_0000, to_l1(HDSI, 0x4000_0000, 0x9_0000)),
            (
                "nothing there, store",
                HDSI,
                0x4200_0000,
                0x9_0000,
                to_l1(HDSI, 0x4200_0000, 0x9_0000),
            ),
            (
                "nothing there, fetch",
                HISI,
                0x4000_0000,
                0x9_0000,
                to_l1(HISI, 0x4000_0000, 0x9_0000),
            ),
            (
                "nothing there, a table",
                HDSI,
                0x4002_0000,
                0x9_0000,
                to_l1(HDSI, 0x4002_0000, 0x9_0000),
            ),
            ("beyond L1's tree", HDSI, 0x4000_0000, 1 << 52, to_l1(HDSI, 0x4000_0000, 1 << 52)),
            (
                "beyond everything",
                HDSI,
                0x4000_0000,
                u64::MAX,
                to_l1(HDSI, 0x4000_0000, 0x0fff_ffff_ffff_f000),
            ),
            ("store to R", HDSI, 0x4200_0000, 0x1_0000, to_l1(HDSI, 0x0a00_0000, 0x1_0000)),
            ("fetch from RW", HISI, 0x4000_0000, 0x2_0000, to_l1(HISI, 0x1000_0000, 0x2_0000)),
            ("load from none", HDSI, 0x4000_0000, 0x5_0000, to_l1(HDSI, 0x0800_0000, 0x5_0000)),
            ("L1's R", HDSI, 0x4000_0000, 0x3_0000, to_l1(HDSI, 0x0004_0000, 0x3_0000)),
            ("L1's R, fetch", HISI, 0x0004_0000, 0x3_0000, to_l1(HISI, 0x0004_0000, 0x3_0000)),
            ("L1's C", HDSI, 0x0204_0000, 0x4_0000, to_l1(HDSI, 0x0204_0000, 0x4_0000)),
            (
                "a write to a table by a fetch, L1's C",
                HISI,
                0x0003_0000,
                0x4_0000,
                to_l1(HISI, 0x0007_0000, 0x4_0000),
            ),
            (
                "L1 says yes, we have nothing",
                HDSI,
                0x4000_0000,
                0x0_0000,
                host(0x678, AccessKind::Read),
            ),
            ("the same, store", HDSI, 0x4200_0000, 0x0_0000, host(0x678, AccessKind::Write)),
            ("the same, a table", HDSI, 0x4002_0000, 0x0_0000, host(0, AccessKind::Read)),
            ("the same, but R is said to be missing", HDSI, 0x0004_0000, 0x0_0000, Outcome::Retry),
            ("bad access", HDSI, 0x0400_0000, 0x0_0000, dsi(0x0400_0000)),
            (
                "bad access where L1 says no",
                HDSI,
                0x0400_0000,
                0x9_0000,
                to_l1(HDSI, 0x4000_0000, 0x9_0000),
            ),
            ("no memory of L1's", HDSI, 0x4000_0000, 0x6_0000, mmio(1 << 31 | 0x678, false)),
            ("no memory of L1's, store", HDSI, 0x4200_0000, 0x6_0000, mmio(1 << 31 | 0x678, true)),
            ("no memory of L1's, fetch", HISI, 0x4000_0000, 0x6_0000, bad(Reason::FetchFromDevice)),
            ("no memory of L1's, table", HDSI, 0x4002_0000, 0x6_0000, dsi(0x4002_0000)),
        ] {
            assert_eq!(case.fault_status(vector, status, asdr), want, "{name}");
        }
        assert_eq!(case.shadows(), []);
    });
}

#[test]
fn tables_that_l1_got_wrong() {
    with_case(|mut case| {
        assert!(case.l1.map(0, 0, 0, 12, rwx()));
        let root = (case.l1.trees[0].root().get() - l1::TABLES) as usize / 8;
        let good = case.l1_words[root].load(Ordering::Relaxed);
        for (name, word, status, asdr) in [
            ("no such size", 0x8000_0080_0000_0003_u64, 0x0208_0000, 0x5000),
            ("a leaf of 512 GiB", 0xc000_0000_0000_018f, 0x0208_0000, 0x5000),
            ("misaligned", 0x8000_0080_0000_0109, 0x0208_0000, 0x5000),
            ("outside memory", 0x8000_0050_0000_0009, 0x0202_0000, 0x50_0000_0000),
            ("nothing", 0, 0x4200_0000, 0x5000),
        ] {
            case.l1_words[root].store(word.to_be(), Ordering::Relaxed);
            let Outcome::ToL1(heard) =
                case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0x5000)
            else {
                panic!("{name}")
            };
            assert_eq!(
                (heard.interrupt.status.into_bits(), heard.asdr.get()),
                (status, asdr),
                "{name}"
            );
        }
        case.l1_words[root].store(good, Ordering::Relaxed);
        // The partition table entry is read once, and again when L1 says so.
        let entry = 2 * L2 as usize;
        let pate = case.l1_words[entry].swap(0, Ordering::Relaxed);
        assert!(matches!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0),
            Outcome::Host(_)
        ));
        case.nested
            .h_tlb_invalidate([0x9_0000, L2.into(), 0x800], &case.l1_memory, case.tlb)
            .unwrap();
        let Outcome::ToL1(heard) = case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0)
        else {
            panic!()
        };
        assert_eq!(heard.interrupt.status.into_bits(), 0x0208_0000);
        case.l1_words[entry].store(pate, Ordering::Relaxed);
        assert!(matches!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0),
            Outcome::Host(_)
        ));
        let process_table = case.nested.process_table(L2, &case.l1_memory);
        assert_eq!(process_table, Some(ProcessTableWord::from_bits(0x8000_0000_0030_0004)));
    });
}

#[test]
fn hypercalls() {
    with_case(|mut case| {
        assert!(case.l1.map(0, 1 << 21, 2 << 21, 21, rwx()));
        let Case { nested, host, l1_memory, tlb, ptcr, .. } = &mut case;
        let call = |nested: &mut Shadows<'_>, id, target: u64, types: u64, start, end| {
            let (target, types) = (RptTarget::from_bits(target), RptType::from_bits(types));
            let call = RptInvalidate { id, target, types, pages: RptPages::ALL, start, end };
            nested.h_rpt_invalidate(&call, l1_memory, *tlb)
        };
        for (name, seen, want) in [
            ("not nested", call(nested, 3, 1, 2, 0, 1), Err(HcallError::Parameter)),
            ("backwards", call(nested, 3, 1, 3, 2, 1), Err(HcallError::P5)),
            ("nest MMU", call(nested, 3, 5, 3, 0, 1), Err(HcallError::P2)),
            ("no such partition", call(nested, 5, 1, 3, 0, 1), Ok(())),
            ("all of no such partition", call(nested, 5, 1, 15, 0, u64::MAX), Ok(())),
            ("no number", call(nested, 1 << 32 | 3, 1, 3, 0, 1), Ok(())),
            ("beyond everything", call(nested, 3, 1, 3, 1 << 60, u64::MAX), Ok(())),
            ("walk cache", call(nested, 3, 1, 5, 0, u64::MAX), Ok(())),
            (
                "a larger table",
                nested.h_set_partition_table(*ptcr + 1, |_| true),
                Err(HcallError::Parameter),
            ),
            (
                "misaligned",
                nested.h_set_partition_table(*ptcr | 0x1000, |_| true),
                Err(HcallError::Parameter),
            ),
            (
                "no memory",
                nested.h_set_partition_table(*ptcr, |_| false),
                Err(HcallError::Parameter),
            ),
            ("smaller", nested.h_set_partition_table(*ptcr - 4, |_| true), Ok(())),
            ("as it was", nested.h_set_partition_table(*ptcr, |_| true), Ok(())),
        ] {
            assert_eq!(seen, want, "{name}");
        }
        assert_eq!(
            [HcallError::Parameter, HcallError::P2, HcallError::P5].map(|error| error.code()),
            [-4, -55, -58]
        );
        let _ = host;

        // A range drops what it meets, of any size.
        case.fault_in(2 << 21, 21);
        let (nested, tlb, pwc, prt) = (1, 2, 4, 8);
        let within = ((1 << 21) + 0x1000, (1 << 21) + 0x2000);
        for (types, (start, end), left) in [
            (tlb, (1 << 20, 1 << 21), 1),
            (tlb, (2 << 21, 3 << 21), 1),
            (tlb, within, 0),
            // An empty range is the page at which it begins.
            (tlb, (within.0, within.0), 0),
            (tlb, (1 << 20, 1 << 20), 1),
            // To either end of the space, but not from the other.
            (tlb, (0, 1 << 20), 1),
            (tlb, (2 << 21, u64::MAX), 1),
            (tlb, (0, u64::MAX), 0),
            // What is kept of tables is nothing: without the TLB there is nothing to drop, and with
            // it the range says what.
            (pwc, within, 1),
            (pwc, (0, u64::MAX), 0),
            // The partition table entry, and with it all of the partition.
            (prt, within, 0),
            (pwc | prt, (0, u64::MAX), 0),
            (tlb | pwc, (2 << 21, 3 << 21), 1),
            (tlb | prt, (2 << 21, 3 << 21), 0),
            (tlb | pwc, within, 0),
            (tlb | pwc | prt, (0, u64::MAX), 0),
        ] {
            assert_eq!(
                case.fault_status(Vector::HypervisorDataStorage, 0x4000_0000, 1 << 21),
                Outcome::Retry
            );
            assert_eq!(case.shadows().len(), 1);
            let types = RptType::from_bits(nested | types);
            let target = RptTarget::from_bits(1);
            let pages = RptPages::new().with_k4(true).with_k64(true);
            let call = RptInvalidate { id: 3, target, types, pages, start, end };
            case.nested.h_rpt_invalidate(&call, &case.l1_memory, case.tlb).unwrap();
            assert_eq!(case.shadows().len(), left, "{types:?}, {start:#x} to {end:#x}");
        }
        // Everything of everybody: R, IS 3 (PAPR+, H_TLB_INVALIDATE).
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4000_0000, 1 << 21),
            Outcome::Retry
        );
        assert_eq!(case.shadows().len(), 1);
        case.nested.h_tlb_invalidate([0x1_0000, 0, 0xc00], &case.l1_memory, case.tlb).unwrap();
        assert_eq!(case.shadows().len(), 0);
    });
}

/// A partition has one shadow, and a number that L1 can say.
#[test]
fn one_shadow_for_each_partition() {
    with_case(|mut case| {
        let other = case.nested.remove(L2).unwrap();
        assert!(case.nested.shadow(L2).is_none());
        let Err(other) = case.nested.insert(1 << 12, other) else { panic!("a number of 13 bits") };
        assert!(case.nested.insert(L2, other).is_ok());
        let shadow = case.nested.remove(L2).unwrap();
        assert!(case.nested.insert((1 << 12) - 1, shadow).is_ok());
        assert!(case.nested.shadow(L2).is_none() && case.nested.shadow((1 << 12) - 1).is_some());
    });
}

/// A part of our page is lost: the shadow entry that began before it goes too.
#[test]
fn entries_that_reach_in_from_before() {
    with_case(|mut case| {
        assert!(case.l1.map(0, 1 << 21, 2 << 21, 21, rwx()));
        assert!(case.l1.map(0, 4 << 21, (2 << 21) + 0x1_0000, 16, rwx()));
        case.fault_in(2 << 21, 21);
        let data = Vector::HypervisorDataStorage;
        assert_eq!(case.fault_status(data, 0x4000_0000, 1 << 21), Outcome::Retry);
        assert_eq!(case.fault_status(data, 0x4000_0000, 4 << 21), Outcome::Retry);
        let hpa = 2 << 21 | 1 << 44;
        assert_eq!(case.shadows(), [(1 << 21, hpa, 21), (4 << 21, hpa + 0x1_0000, 12)]);
        assert_eq!(case.nested.lost(Gpa::new((2 << 21) + 0x3_0000), 0x1_0000, case.tlb), Ok(1));
        assert_eq!(case.shadows(), [(4 << 21, hpa + 0x1_0000, 12)]);
        assert_eq!(case.nested.lost(Gpa::new(2 << 21), 0x1_0000, case.tlb), Ok(0));
        assert_eq!(case.nested.lost(Gpa::new(0), 1 << 40, case.tlb), Ok(1));
        assert_eq!(case.nested.entries(), 0);
    });
}

/// L1 lets one page of L2's be another of its own, which is the same page of ours and may not be
/// written, and does not say so yet. What the first one allowed must not be allowed by way of the
/// second: our log would not see it.
#[test]
fn an_alias_is_not_added_to() {
    const ALIAS: u64 = 1 << 30;
    with_case(|mut case| {
        case.fault_in(0, 16);
        case.fault_in(ALIAS, 16);
        assert!(case.l1.map(0, 0, 0, 12, PageAttributes::from(Prot::RW)));
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0),
            Outcome::Retry
        );
        let allowed = |case: &Case<'_>| {
            leaves(case.nested.shadow(L2).unwrap())[0].attributes.eaa().into_bits()
        };
        assert_eq!(allowed(&case), 0b0110);
        let mut silent = pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ());
        case.l1.trees[0].unmap(Gpa::new(0), 0x1000, &mut silent).unwrap();
        silent.finish(case.l1.trees[0].tables()).unwrap();
        assert!(case.l1.map(0, 0, ALIAS, 12, rwx()));
        case.tlb.fill(case.nested.shadow(L2).unwrap());
        // R or C through the old entry would be recorded for a page that L1 no longer means.
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x0004_0000, 0),
            Outcome::Retry
        );
        assert_eq!(case.shadows(), []);
        assert!(case.l1.trees[0].walker().query(Gpa::new(0)).unwrap().is_some());
        case.tlb.verify(case.nested.shadow(L2).unwrap());

        assert!(case.l1.map(0, 0x1000, 0, 12, PageAttributes::from(Prot::RW)));
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0x1000),
            Outcome::Retry
        );
        let mut silent = pgtable::invalidate::Gather::new(&pgtable::invalidate::Unused, ());
        case.l1.trees[0].unmap(Gpa::new(0x1000), 0x1000, &mut silent).unwrap();
        silent.finish(case.l1.trees[0].tables()).unwrap();
        assert!(case.l1.map(0, 0x1000, ALIAS, 12, rwx()));
        case.tlb.fill(case.nested.shadow(L2).unwrap());
        assert_eq!(
            case.fault_status(Vector::HypervisorInstructionStorage, 0x1000_0000, 0x1000),
            Outcome::Retry
        );
        assert_eq!(allowed(&case), 0b0101);
        case.tlb.verify(case.nested.shadow(L2).unwrap());
        assert_eq!(case.nested.lost(Gpa::new(0), 0x1_0000, case.tlb), Ok(0));
        assert_eq!(case.nested.lost(Gpa::new(ALIAS), 0x1_0000, case.tlb), Ok(1));
    });
}

/// C is for stores: a load makes no shadow entry dirty, although both trees have C.
#[test]
fn a_load_makes_nothing_dirty() {
    with_case(|mut case| {
        case.fault_in(0, 16);
        assert!(case.l1.map(0, 0, 0, 12, rwx()));
        for (status, c) in [(0x4000_0000, false), (0x0204_0000, true)] {
            assert_eq!(case.fault_status(Vector::HypervisorDataStorage, status, 0), Outcome::Retry);
            assert_eq!(leaves(case.nested.shadow(L2).unwrap())[0].attributes.c(), c);
        }
    });
}

/// A store by way of a shadow is a store in our own log too.
#[test]
fn c_is_set_here_before_it_is_set_there() {
    with_case(|mut case| {
        case.fault_in(0, 16);
        assert!(case.l1.map(0, 0, 0, 12, rwx()));
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, 0),
            Outcome::Retry
        );
        let mut gather = case.host.gather(case.tlb);
        assert_eq!(case.host.clear_dirty(Gpa::new(0), 1, &mut gather, |_| ()), Ok(1));
        case.host.finish(&mut gather).unwrap();
        case.restrict(0, 0x1_0000, Restriction::Change);
        let dirty = |case: &Case<'_>| {
            [leaves(&case.host)[0], leaves(case.nested.shadow(L2).unwrap())[0]]
                .map(|leaf| leaf.attributes.c())
        };
        assert_eq!(dirty(&case), [false, false]);
        assert_eq!(
            case.fault_status(Vector::HypervisorDataStorage, 0x0204_0000, 0),
            Outcome::Retry
        );
        assert_eq!(dirty(&case), [true, true]);
    });
}

/// What takes something from a range of our second stage takes it from whole leaves: shadow entries
/// that were made through other parts of these leaves lose it too, or L2 stores past our log.
#[test]
fn case_a8_a_restriction_reaches_whole_leaves() {
    type Take = fn(&mut Case<'_>);
    let verbs: [(Restriction, Take); 3] = [
        (Restriction::Write, |case| {
            let mut gather = case.host.gather(case.tlb);
            let part = Gpa::new((2 << 21) + 0x3_0000);
            assert_eq!(case.host.write_protect(part, 0x1_0000, &mut gather), Ok(1));
            case.host.finish(&mut gather).unwrap();
        }),
        (Restriction::Change, |case| {
            let mut gather = case.host.gather(case.tlb);
            let part = Gpa::new((2 << 21) + 0x3_0000);
            assert_eq!(case.host.clear_dirty(part, 1, &mut gather, |_| ()), Ok(1));
            case.host.finish(&mut gather).unwrap();
        }),
        (Restriction::Reference, |case| {
            let mut gather = case.host.gather(case.tlb);
            let part = Gpa::new((2 << 21) + 0x3_0000);
            assert_eq!(case.host.age(part, 0x1_0000, &mut gather, |_| ()), Ok(true));
            case.host.finish(&mut gather).unwrap();
        }),
    ];
    for (what, take) in verbs {
        with_case(|mut case| {
            // One leaf of ours, of which L1 gives L2 the first and the last part, and a neighbour.
            case.fault_in(2 << 21, 21);
            case.fault_in(3 << 21, 21);
            for (n_gpa, gpa) in
                [(0, 2 << 21), (0x1_0000, (3 << 21) - 0x1_0000), (0x2_0000, 3 << 21)]
            {
                assert!(case.l1.map(0, n_gpa, gpa, 16, rwx()));
                let store = case.fault_status(Vector::HypervisorDataStorage, 0x4200_0000, n_gpa);
                assert_eq!(store, Outcome::Retry);
            }
            case.tlb.fill(case.nested.shadow(L2).unwrap());
            take(&mut case);
            case.restrict((2 << 21) + 0x3_0000, 0x1_0000, what);
            let has = |attributes: PageAttributes| match what {
                Restriction::Write => attributes.eaa().write(),
                Restriction::Change => attributes.c(),
                _ => attributes.r(),
            };
            let shadow = leaves(case.nested.shadow(L2).unwrap());
            let left: Vec<_> = shadow.iter().map(|leaf| has(leaf.attributes)).collect();
            assert_eq!(left, [false, false, true], "{what:?}");
            if what != Restriction::Reference {
                case.tlb.verify(case.nested.shadow(L2).unwrap());
            }
            // Nothing, and what lies beyond everything.
            case.restrict(0, 0, what);
            case.restrict(u64::MAX - 7, 8, what);
        });
    }
}

/// A large page of L1's is shadowed in pieces: L1's invalidation of the page drops all of them, and
/// so does a range that only begins in it.
#[test]
fn case_b3_a_page_is_dropped_with_all_its_pieces() {
    for (size, end, left) in
        [(RptPages::new().with_m2(true), 0x1000, 0), (RptPages::new().with_k64(true), 0x1000, 1)]
    {
        with_case(|mut case| {
            assert!(case.l1.map(0, 0, 2 << 21, 21, rwx()));
            for part in [0, 0x1_0000] {
                case.fault_in((2 << 21) + part, 16);
                let load = case.fault_status(Vector::HypervisorDataStorage, 0x4000_0000, part);
                assert_eq!(load, Outcome::Retry);
            }
            assert_eq!(case.shadows().len(), 2);
            let call = RptInvalidate {
                id: L2.into(),
                target: RptTarget::new().with_cmmu(true),
                types: RptType::new().with_nested(true).with_tlb(true),
                pages: size,
                start: 0,
                end,
            };
            case.nested.h_rpt_invalidate(&call, &case.l1_memory, case.tlb).unwrap();
            assert_eq!(case.shadows().len(), left, "{size:?}");
        });
    }
}

/// Shadows of 64 KiB granule have no room for L1's smaller pages.
#[test]
fn too_small() {
    with_case(|mut case| {
        let (words, tlb) = (memory(), Tlb::default());
        let frames = Tables::frames(&words);
        let tables = Tables::new(&frames, &tlb, 101);
        let format = PartitionScoped::new(Granule::K64);
        let shadow = SecondStage::new(format, direct(&words), &tables, 101).unwrap();
        let mut nested = Nested::new();
        nested.h_set_partition_table(case.ptcr, |_| true).unwrap();
        assert!(nested.insert(L2, shadow).is_ok());
        case.fault_in(0, 16);
        assert!(case.l1.map(0, 0, 0, 12, rwx()));
        let interrupt = Interrupt {
            vector: Vector::HypervisorDataStorage,
            status: Status::from_bits(0x4000_0000),
        };
        let fault = HypervisorFault { interrupt, hdar: Gva::new(EA), asdr: Gpa::new(0) };
        let seen = nested.fault(L2, &fault, &case.l1_memory, &mut case.host, slot, &tlb);
        assert_eq!(seen, Err(Error::TooSmall { shift: 12 }));
        let seen = nested.fault(9, &fault, &case.l1_memory, &mut case.host, slot, &tlb);
        assert_eq!(seen, Err(Error::NoShadow { l2: 9 }));
    });
}

/// Many pages of L2's are one page of L1's: the reverse map finds all of them.
#[test]
fn one_page_many_times() {
    with_case(|mut case| {
        case.fault_in(0, 16);
        for page in 0..200 {
            assert!(case.l1.map(0, page << 12, 0, 12, rwx()));
            assert_eq!(
                case.fault_status(Vector::HypervisorDataStorage, 0x4000_0000, page << 12),
                Outcome::Retry
            );
        }
        case.nested
            .h_tlb_invalidate([0x1_0000, L2.into(), 7 << 12], &case.l1_memory, case.tlb)
            .unwrap();
        assert_eq!((case.nested.entries(), case.shadows().len()), (199, 199));
        assert_eq!(case.nested.test_age(Gpa::new(0), 1), Ok(true));
        case.tlb.fill(case.nested.shadow(L2).unwrap());
        assert_eq!(case.nested.lost(Gpa::new(0), 0x1_0000, case.tlb), Ok(199));
        case.tlb.verify(case.nested.shadow(L2).unwrap());
        assert_eq!((case.nested.entries(), case.shadows().len()), (0, 0));
    });
}

proptest! {
    #![proptest_config(pgtable_conformance::cases::config(64))]

    /// Whatever L1 writes into its tables, the shadow maps only memory that we map for L1.
    #[test]
    fn hostile_tables(
        words in prop::collection::vec((0usize..0x4000, prop_oneof![
            (0u64..0x20, 0u64..8).prop_map(|(frame, nls)| 1 << 63 | l1::TABLES | frame << 12 | [9, 5, 13, 9, 9, 0, 31, 9][nls as usize]),
            (0u64..0x40_0000, 0u64..0x200).prop_map(|(frame, low)| 3 << 62 | frame << 12 | low),
            any::<u64>(),
        ]), 0..400),
        faults in prop::collection::vec((prop_oneof![0u64..1 << 22, any::<u64>()], any::<bool>(), any::<u32>()), 1..40),
    ) {
        with_case(|mut case| {
            case.fault_in(0, 30);
            let root = (case.l1.trees[0].root().get() - l1::TABLES) as usize / 8;
            for (at, word) in words {
                // Often where walks begin.
                let at = if at % 3 == 0 { root + at % 8 } else { at };
                case.l1_words[at].store(word.to_be(), Ordering::Relaxed);
            }
            for (asdr, fetch, status) in faults {
                let vector = if fetch { Vector::HypervisorInstructionStorage } else { Vector::HypervisorDataStorage };
                let status = if status % 2 == 0 { 0x4000_0000 | status & 0x0200_0000 } else { status };
                case.fault_status(vector, status, asdr);
            }
            for (_, output, shift) in case.shadows() {
                let end = output + (1 << shift);
                assert!(output >= 1 << 44 && end <= (1 << 44) + (1 << 30), "{output:#x} {shift}");
            }
            assert_eq!(case.shadows().len(), case.nested.entries());
        });
    }
}
