//! What emulators do otherwise than the manual says, as a table: who, and what.
//!
//! A row says for which hosts it is true. There it is predicted, or the question that has no answer
//! is left out and counted; elsewhere it is a mismatch. A row that is no longer true is one, too.

use kvm_ppc::host::{Api, Host};

use crate::report::Report;

/// MSR\[ME\] (Power ISA v3.0B book III 3.2.1).
const MSR_ME: u64 = 1 << 12;
/// The field PRTS of a partition table entry's second doubleword (book III 5.7.6.1).
const PRTS: u64 = 0x1f;

/// A row.
#[derive(Debug)]
struct Row {
    who: &'static str,
    what: &'static str,
    is_true: fn(&Host) -> bool,
    set: fn(&mut Otherwise),
}

/// The guest's decrementer has no row here: its handler goes on (see the guest's code).
const ROWS: &[Row] = &[
    Row {
        who: "QEMU 10.0, nested API v2",
        what: "guests run with MSR[ME] = 0, and SRR1 says so",
        is_true: nested_v2_of_qemu,
        set: |it| it.clears_me = true,
    },
    Row {
        who: "QEMU 10.0, nested API v2",
        what: "ends at a process table of another size than 4 KiB and 16 MiB: left out",
        is_true: nested_v2_of_qemu,
        set: |it| it.ends_at_table_sizes = true,
    },
];

fn nested_v2_of_qemu(host: &Host) -> bool {
    host.api == Api::V2 && host.is_emulated_by_qemu()
}

/// The rows that are true of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Otherwise {
    clears_me: bool,
    ends_at_table_sizes: bool,
}

impl Otherwise {
    /// Those of `host`.
    pub fn of(host: &Host) -> Self {
        let mut it = Self::default();
        for row in ROWS.iter().filter(|row| (row.is_true)(host)) {
            (row.set)(&mut it);
        }
        it
    }

    /// Prints them.
    pub fn describe(host: &Host, report: &Report) {
        for Row { who, what, .. } in ROWS.iter().filter(|row| (row.is_true)(host)) {
            report.fact("otherwise", format!("{who}: {what}"));
        }
    }

    /// The machine state in which a guest runs that is to run in `msr`.
    pub fn msr(self, msr: u64) -> u64 {
        if self.clears_me { msr & !MSR_ME } else { msr }
    }

    /// Whether the host cannot be asked about this process table.
    pub fn leaves_out(self, process_table: u64) -> bool {
        self.ends_at_table_sizes && !matches!(process_table & PRTS, 0 | 12)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(api: Api, machine: &str) -> Host {
        Host { api, cpu: vec![("machine", machine.to_owned())], ..Host::unknown() }
    }

    #[test]
    fn rows_are_true_of_qemus_nested_api_v2_only() {
        let qemu = "CHRP IBM pSeries (emulated by qemu)";
        for (api, machine, expected) in [
            (Api::V2, qemu, true),
            (Api::V1, qemu, false),
            (Api::Bare, "PowerNV IBM PowerNV (emulated by qemu)", false),
            (Api::V2, "CHRP IBM,9080-HEX", false),
        ] {
            let it = Otherwise::of(&host(api, machine));
            let all = Otherwise { clears_me: true, ends_at_table_sizes: true };
            assert_eq!(it, if expected { all } else { Otherwise::default() }, "{api:?} {machine}");
        }
    }

    #[test]
    fn what_rows_change() {
        let none = Otherwise::default();
        assert_eq!(none.msr(0x1033), 0x1033);
        assert!((0..32).all(|prts| !none.leaves_out(prts)));
        let all = Otherwise { clears_me: true, ends_at_table_sizes: true };
        assert_eq!(all.msr(0x1033), 0x33);
        let taken: Vec<_> = (0..32).filter(|prts| !all.leaves_out(0xa000 | prts)).collect();
        assert_eq!(taken, [0, 12]);
    }
}
