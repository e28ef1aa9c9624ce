//! What our own second stage loses, the shadows lose.

use pgtable::Gpa;
use pgtable_ppc64::Vector;
use pgtable_ppc64::radix::PageAttributes;
use pgtable_ppc64::shadow::{Outcome, Restriction};

use super::{Case, L2, rwx, with_case};
use crate::host::leaves;

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
