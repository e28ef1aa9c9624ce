//! A memory slot: a range of guest memory and the host memory behind it; and which page size it
//! allows at an address.

use crate::address::{Gpa, low_bits};
use crate::geometry::Geometry;

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
    /// Stores are being logged, page by page: leaves that are placed from now on are of the
    /// smallest size, and only a store makes a page dirty. Larger leaves that are there already
    /// stay until a fault replaces them, and are logged whole: so begin the log by
    /// [`write_protect`](super::Stage2Tree::write_protect), also where hardware records.
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

    /// log2 of the largest leaf of a tree of `geometry` that may map `gpa` where the host's own
    /// page is of `2^host` bytes: no larger than that, equally placed in guest and host
    /// (`gpa ≡ hva`), wholly within the slot, and a base page while stores are logged. `None`: not
    /// even that fits.
    ///
    /// ```
    /// use pgtable_x86::{Ept, EptControls, Levels};
    /// use pgtable::{Gpa, second_stage::MemorySlot};
    /// # use pgtable::format::Format;
    ///
    /// let (gpa, bytes, hva) = (Gpa::new(0), 1 << 30, 0x7f00_0020_0000);
    /// let slot = MemorySlot { gpa, bytes, hva, read_only: false, logged: false };
    /// let format = Ept::new(Levels::Four, EptControls::new());
    /// // The host has a page of 1 GiB, but guest and host lie askew by 2 MiB.
    /// assert_eq!(slot.leaf_shift(gpa, 30, format.geometry()), Some(21));
    /// let logged = MemorySlot { logged: true, ..slot };
    /// assert_eq!(logged.leaf_shift(gpa, 30, format.geometry()), Some(12));
    /// ```
    #[must_use]
    pub fn leaf_shift(&self, gpa: Gpa, host: u8, geometry: &Geometry) -> Option<u8> {
        let askew = gpa.get() ^ self.host_address(gpa)?;
        let most = if self.logged { geometry.page_shift() } else { host };
        // Down from the largest that is no larger than the host's page and lies alike, until one
        // lies within.
        let mut most = most.min(host);
        loop {
            let shift = geometry.largest_leaf(askew, most)?;
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
