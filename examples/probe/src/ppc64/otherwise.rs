//! What emulators do otherwise than the manual says, as a table: who, and what.
//!
//! A row says for which hosts it is true. There it is predicted, or the question that has no answer
//! is left out and counted; elsewhere it is a mismatch. A row that is no longer true is one, too.

use kvm_ppc::host::{Api, Host};
use pgtable_ppc64::hash::Authority;

use crate::report::Report;

/// MSR\[ME\] (Power ISA v3.0B book III 3.2.1).
const MSR_ME: u64 = 1 << 12;
/// The field PRTS of a partition table entry's second doubleword (book III 5.7.6.1).
const PRTS: u64 = 0x1f;
/// The bits in AMR and IAMR of the keys that a Linux kernel with a hashed page table has for itself
/// (`HASH_DEFAULT_KERNEL_KEY`: 3, or 0 without KUAP and KUEP).
const HOST_KEYS: u64 = 3 << 62 | 3 << 56;

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
    Row {
        who: "Linux 6.1 and later, host kernel with a hashed page table",
        what: "KVM loads a guest's AMR and IAMR while the host's own table still translates: a \
               guest that forbids the host kernel's keys hangs the host; keys 0 and 3 stay open",
        is_true: |host| host.api == Api::Bare && host.radix.is_none(),
        set: |it| it.loads_keys_early = true,
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
    loads_keys_early: bool,
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

    /// What a guest may forbid of `authority` without harm to its host.
    pub fn authority(self, authority: Authority) -> Authority {
        let open = if self.loads_keys_early { !HOST_KEYS } else { u64::MAX };
        Authority { amr: authority.amr & open, iamr: authority.iamr & open }
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
        let cpu = vec![("machine", machine.to_owned())];
        Host { api, cpu, radix: Some(Default::default()), ..Host::unknown() }
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
            let all =
                Otherwise { clears_me: true, ends_at_table_sizes: true, ..Otherwise::default() };
            assert_eq!(it, if expected { all } else { Otherwise::default() }, "{api:?} {machine}");
        }
    }

    #[test]
    fn keys_are_the_hosts_where_its_own_table_is_hashed() {
        let hashed = Host { radix: None, ..host(Api::Bare, "") };
        assert!(Otherwise::of(&hashed).loads_keys_early);
        assert!(!Otherwise::of(&host(Api::Bare, "")).loads_keys_early);
        assert!(!Otherwise::of(&Host { api: Api::V1, ..hashed }).loads_keys_early);
    }

    #[test]
    fn what_rows_change() {
        let none = Otherwise::default();
        assert_eq!(none.msr(0x1033), 0x1033);
        assert!((0..32).all(|prts| !none.leaves_out(prts)));
        let all = Otherwise { clears_me: true, ends_at_table_sizes: true, loads_keys_early: true };
        let forbids = Authority { amr: u64::MAX, iamr: 1 << 62 | 1 << 61 };
        assert_eq!(none.authority(forbids), forbids);
        let left = Authority { amr: !(3 << 62 | 3 << 56), iamr: 1 << 61 };
        assert_eq!(all.authority(forbids), left);
        assert_eq!(all.msr(0x1033), 0x33);
        let taken: Vec<_> = (0..32).filter(|prts| !all.leaves_out(0xa000 | prts)).collect();
        assert_eq!(taken, [0, 12]);
    }
}
