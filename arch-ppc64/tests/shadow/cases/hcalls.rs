//! PAPR's calls of L1.

use pgtable_ppc64::Vector;
use pgtable_ppc64::radix::{RptInvalidate, RptPages, RptTarget, RptType};
use pgtable_ppc64::shadow::{HcallError, Outcome};

use super::{Case, L2, Shadows, rwx, with_case};

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
