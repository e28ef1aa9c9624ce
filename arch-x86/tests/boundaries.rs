//! Words with nothing in them but what is asked about: each row by itself, so that no other bit hides a mistake.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use arch_x86::{Ept, EptControls, Levels};
use pgtable::{Entry, Format, Hpa, Level, Position};

/// R, W and X alone, of a table of EPT (Intel SDM 3C §29.3.3.1, "EPT Misconfigurations"): writable but not readable never; executable but not readable only where the CPU can.
#[test]
fn rights_of_an_ept_entry_and_nothing_else() {
    const TABLE: Position = Position { level: Level(1), shift: 21 };
    const XU: u64 = 1 << 10;
    for execute_only in [false, true] {
        for mode_based_execute in [false, true] {
            let controls = EptControls { execute_only, mode_based_execute, ..EptControls::new() };
            let format = Ept::new(Levels::Four, controls);
            for (word, present, good) in [
                (0, false, true),
                (1, true, true),
                (2, true, false),
                (3, true, true),
                (4, true, execute_only),
                (5, true, true),
                (6, true, false),
                (7, true, true),
                (XU, mode_based_execute, execute_only),
                (XU | 1, true, true),
                (XU | 2, true, false),
                (XU | 4, true, execute_only),
            ] {
                let want = match (present, good) {
                    (false, _) => Entry::Absent,
                    (true, false) => Entry::Malformed,
                    (true, true) => Entry::Table { table: Hpa::new(0), width: 9 },
                };
                let case = format!("{word:#x}, execute-only {execute_only}, mode-based {mode_based_execute}");
                assert_eq!(format.decode(word, TABLE), want, "{case}");
                // Foretold is only what everything is granted by.
                assert_eq!(format.predicted_table(word, TABLE), (word & 7 == 7).then_some(0), "{case}");
            }
        }
    }
}
