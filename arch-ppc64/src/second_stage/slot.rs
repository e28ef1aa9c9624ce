//! A memory slot: a range of guest memory and the host memory behind it; and which page size it
//! allows at an address.

use pgtable::{Gpa, low_bits};

use crate::radix::Granule;

/// A range of guest memory, backed by a range of host virtual memory: Linux's
/// `kvm_userspace_memory_region`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MemorySlot {
    /// Its first guest address.
    pub gpa: Gpa,
    /// Its length in bytes.
    pub bytes: u64,
    /// The host virtual address of its first byte.
    pub hva: u64,
    /// The guest may not write it.
    pub read_only: bool,
    /// Stores are being logged, page by page: leaves are of the smallest size, and C is set by
    /// stores only.
    pub logged: bool,
}

impl MemorySlot {
    /// Whether `gpa` lies in it.
    #[must_use]
    pub const fn contains(&self, gpa: Gpa) -> bool {
        gpa.get().wrapping_sub(self.gpa.get()) < self.bytes
    }

    /// The host virtual address behind `gpa`; `None` outside the slot.
    #[must_use]
    pub const fn host_address(&self, gpa: Gpa) -> Option<u64> {
        if self.contains(gpa) {
            Some(self.hva.wrapping_add(gpa.get().wrapping_sub(self.gpa.get())))
        } else {
            None
        }
    }

    /// log2 of the largest leaf that may map `gpa` where the host's own page is of `2^host` bytes:
    /// no larger than that, equally placed in guest and host (`gpa ≡ hva`), wholly within the slot,
    /// and the smallest there is while stores are logged. `None`: not even that fits.
    #[must_use]
    pub fn leaf_shift(&self, gpa: Gpa, host: u8, granule: Granule) -> Option<u8> {
        let askew = gpa.get() ^ self.host_address(gpa)?;
        let most = if self.logged { granule.geometry().page_shift() } else { host };
        // Down from the largest that is no larger than the host's page and lies alike, until one
        // lies within.
        let mut most = most.min(host);
        loop {
            let shift = granule.geometry().largest_leaf(askew, most)?;
            if self.holds(gpa, shift) {
                return Some(shift);
            }
            most = shift.checked_sub(1)?;
        }
    }

    /// Whether the block of `2^shift` bytes that covers `gpa` lies wholly in it.
    fn holds(&self, gpa: Gpa, shift: u8) -> bool {
        let first = gpa.get() & !low_bits(shift);
        let last = gpa.get() | low_bits(shift);
        self.contains(Gpa::new(first)) && self.contains(Gpa::new(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const M2: u64 = 2 << 20;
    const G1: u64 = 1 << 30;

    #[test]
    fn page_sizes() {
        let whole = MemorySlot {
            gpa: Gpa::new(0),
            bytes: 4 * G1,
            hva: 64 * G1,
            read_only: false,
            logged: false,
        };
        let logged = MemorySlot { logged: true, ..whole };
        let askew_64k = MemorySlot { hva: 64 * G1 + 0x1_0000, ..whole };
        let askew_4k = MemorySlot { hva: 64 * G1 + 0x1000, ..whole };
        let askew_2m = MemorySlot { hva: 64 * G1 + M2, ..whole };
        let short = MemorySlot { bytes: M2 + 0x1_0000, ..whole };
        let late =
            MemorySlot { gpa: Gpa::new(0x1_0000), hva: 64 * G1 + 0x1_0000, bytes: G1, ..whole };
        let (k4, k64) = (Granule::K4, Granule::K64);
        for (name, slot, gpa, host, granule, want) in [
            ("1G", whole, 0x1234_5678, 30, k64, Some(30)),
            ("a host page of 16G gives 1G", whole, 0x1234_5678, 34, k64, Some(30)),
            ("2M", whole, 0x1234_5678, 21, k64, Some(21)),
            ("64K", whole, 0x1234_5678, 16, k64, Some(16)),
            ("16M gives 2M", whole, 0x1234_5678, 24, k4, Some(21)),
            ("64K as 4K", whole, 0x1234_5678, 16, k4, Some(12)),
            ("4K", whole, 0x1234_5678, 12, k4, Some(12)),
            ("4K cannot be 64K", whole, 0x1234_5678, 12, k64, None),
            ("logged", logged, 0x1234_5678, 30, k64, Some(16)),
            ("logged 4K", logged, 0x1234_5678, 30, k4, Some(12)),
            ("logged, too small", logged, 0x1234_5678, 12, k64, None),
            ("askew by 64K", askew_64k, 0x1234_5678, 30, k64, Some(16)),
            ("askew by 4K", askew_4k, 0x1234_5678, 30, k64, None),
            ("askew by 4K", askew_4k, 0x1234_5678, 30, k4, Some(12)),
            ("askew by 2M", askew_2m, 0x1234_5678, 30, k64, Some(21)),
            ("1G would leave the slot", short, 0x1_0000, 30, k64, Some(21)),
            ("2M would leave the slot", short, M2, 30, k64, Some(16)),
            ("2M would begin before the slot", late, 0x1_0000, 30, k64, Some(16)),
            ("2M within", late, M2, 30, k64, Some(21)),
            ("outside", short, M2 + 0x1_0000, 30, k64, None),
            ("before", late, 0, 30, k64, None),
        ] {
            assert_eq!(slot.leaf_shift(Gpa::new(gpa), host, granule), want, "{name}: {gpa:#x}");
        }
        assert_eq!(late.host_address(Gpa::new(0x1_2345)), Some(64 * G1 + 0x1_2345));
        assert_eq!(late.host_address(Gpa::new(0xffff)), None);
    }

    #[test]
    fn a_slot_at_the_end_of_everything() {
        let slot = MemorySlot {
            gpa: Gpa::new(u64::MAX - 0xffff),
            bytes: 0x1_0000,
            hva: 0,
            read_only: false,
            logged: false,
        };
        assert!(slot.contains(Gpa::new(u64::MAX)) && !slot.contains(Gpa::new(0)));
        assert_eq!(slot.leaf_shift(Gpa::new(u64::MAX), 30, Granule::K64), Some(16));
    }
}
