//! Faults of an L2: who hears of them, and what a shadow entry says then.

use pgtable::{AccessKind, Gpa, Gva, Prot};
use pgtable_ppc64::radix::{Granule, HypervisorFault, PageAttributes, PartitionScoped};
use pgtable_ppc64::second_stage::{Action, Reason, SecondStage};
use pgtable_ppc64::shadow::{Error, Nested, Outcome, Restriction};
use pgtable_ppc64::{Interrupt, Status, Vector};

use super::{Case, EA, L2, rwx, slot, with_case};
use crate::host::{Tables, Tlb, direct, leaves, memory};

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
