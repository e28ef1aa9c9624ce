//! What KVM remembers of entries for devices: the four that it met last, so that it need not search
//! the table for each access that it emulates.
//!
//! What is remembered counts as long as the number of changes is what it was then (Linux's
//! `mmio_hpte_cache`, `mmio_update`). That number begins at 0 again with a table of another size
//! (`kvmppc_set_hpt`), and nothing is forgotten: so when it comes to be what it was once before,
//! the guest meets entries of a table that is gone.

use pgtable::Gva;
use pgtable_ppc64::hash::{HpteR, PageSizes, Segment};

/// How many there are (`MMIO_HPTE_CACHE_SIZE`).
const REMEMBERED: usize = 4;

/// An entry.
#[derive(Clone, Copy, Debug)]
pub struct Remembered {
    /// Its second doubleword.
    pub r: HpteR,
    /// Its page sizes.
    pub sizes: PageSizes,
    segment: Segment,
    /// The number of its page: the effective address above the segment's base page size.
    page: u64,
    /// How many changes there had been.
    changes: u64,
}

/// The entries that KVM remembers of one processor.
#[derive(Debug, Default)]
pub struct Devices {
    entries: [Option<Remembered>; REMEMBERED],
    next: usize,
    changes: u64,
}

impl Devices {
    /// What KVM takes for the entry of `address`, without looking at the table.
    pub fn remembered(&self, segment: &Segment, address: Gva) -> Option<Remembered> {
        let page = address.get() >> segment.base.shift();
        let fits =
            |it: &&Remembered| (it.changes, it.page, it.segment) == (self.changes, page, *segment);
        self.entries.iter().flatten().find(fits).copied()
    }

    /// It found this entry, in place of the oldest from now on.
    pub fn remember(&mut self, segment: &Segment, address: Gva, r: HpteR, sizes: PageSizes) {
        let page = address.get() >> segment.base.shift();
        self.entries[self.next] =
            Some(Remembered { r, sizes, segment: *segment, page, changes: self.changes });
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// An entry for a device was protected, or taken out.
    pub fn changed(&mut self) {
        self.changes += 1;
    }

    /// The table is another one.
    pub fn resized(&mut self) {
        self.changes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::super::layout::PLACES;
    use super::*;

    #[test]
    fn forgotten_with_the_next_change_and_remembered_again_after_resizing() {
        let (place, sizes) = (PLACES[0], PageSizes::only(PLACES[0].segment.base));
        let (segment, address) = (place.segment, place.address(3));
        let seen = |devices: &Devices| devices.remembered(&segment, address).map(|it| it.r);
        let mut devices = Devices::default();
        let r = HpteR::new().with_protection(2);
        devices.changed();
        devices.remember(&segment, address, r, sizes);
        assert_eq!(seen(&devices), Some(r));
        assert!(devices.remembered(&segment, place.address(4)).is_none());
        assert!(devices.remembered(&Segment { ks: true, ..segment }, address).is_none());
        devices.changed();
        assert_eq!(seen(&devices), None);
        devices.resized();
        assert_eq!(seen(&devices), None);
        devices.changed();
        assert_eq!(seen(&devices), Some(r));
        (0..REMEMBERED as u64)
            .for_each(|number| devices.remember(&segment, place.address(10 + number), r, sizes));
        assert_eq!(seen(&devices), None);
    }
}
