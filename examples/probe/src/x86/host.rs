//! What is known to be wrong with a host, so that it doesn't hide everything else. Each is told at
//! the end of the run, and only there is anything but the manual taken for right.

use std::fs;

/// Known faults of this host.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// QEMU's software emulation reports reserved bits (RSVD) without P. "RSVD can be set only if P
    /// is also set" (SDM §4.7).
    pub rsvd_without_p: bool,
    /// QEMU's software emulation does not reserve bit 8 of PML4E and PML5E when it emulates AMD's
    /// processors (APM §5.3.3): such entries are left out.
    pub mbz_ignored: bool,
    /// QEMU's software emulation marks a PDPTE of a 1-GiB page accessed before it looks at the
    /// entry's reserved bits.
    pub malformed_gib_marked: bool,
}

impl Faults {
    /// Those of the host that this runs on.
    pub fn known() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let emulated =
            cpu.lines().any(|line| line.starts_with("model name") && line.contains("QEMU TCG"));
        Self { rsvd_without_p: emulated, mbz_ignored: emulated, malformed_gib_marked: emulated }
    }

    /// Each by name, if the host has it.
    pub fn named(self) -> impl Iterator<Item = &'static str> {
        let all = [
            (self.rsvd_without_p, "error codes with RSVD lack P: compared without P"),
            (self.mbz_ignored, "bit 8 of PML4E and PML5E is not reserved: left out"),
            (
                self.malformed_gib_marked,
                "malformed entries of 1-GiB pages are marked accessed: allowed",
            ),
        ];
        all.into_iter().filter_map(|(there, name)| there.then_some(name))
    }
}
