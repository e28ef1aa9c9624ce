//! Whatever L1 writes into its tables.

use core::sync::atomic::Ordering;

use pgtable_ppc64::Vector;
use pgtable_ppc64::radix::ProcessTableWord;
use pgtable_ppc64::shadow::Outcome;
use proptest::prelude::*;

use super::{L2, rwx, with_case};
use crate::l1;

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
