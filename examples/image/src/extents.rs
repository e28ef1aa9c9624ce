//! Where in a file each piece of physical memory stands.

/// Bytes of a page, the unit of memory.
pub(super) const PAGE: u64 = 4096;

/// A contiguous piece of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its first physical address.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Where in the file it begins.
    pub offset: u64,
    /// How much of it the file holds; the rest is zero.
    pub stored: u64,
}

impl Extent {
    /// The part of it from `skip` bytes on.
    fn after(self, skip: u64) -> Self {
        Self {
            start: self.start.saturating_add(skip),
            bytes: self.bytes.saturating_sub(skip),
            offset: self.offset.saturating_add(skip),
            stored: self.stored.saturating_sub(skip),
        }
    }
}

/// Pieces of memory, in order, none of which overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// Brings `extents` in order. Where two claim the same address the one that begins first has
    /// it, of those the first given (a vmcore has the kernel's text once more).
    pub fn new(extents: impl IntoIterator<Item = Extent>) -> Self {
        let mut given: Vec<_> = extents.into_iter().filter(|extent| extent.bytes > 0).collect();
        given.sort_by_key(|extent| extent.start);
        let mut kept: Vec<Extent> = Vec::with_capacity(given.len());
        for mut extent in given {
            // Nothing reaches beyond the end of the address space.
            extent.bytes = extent.bytes.min(u64::MAX - extent.start);
            extent.stored = extent.stored.min(extent.bytes);
            let end = kept.last().map_or(0, |last| last.start + last.bytes);
            let extent = extent.after(end.saturating_sub(extent.start));
            if extent.bytes > 0 {
                kept.push(extent);
            }
        }
        Self(kept)
    }

    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.0.iter()
    }

    /// How many bytes of memory there are.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|extent| extent.bytes).sum()
    }

    /// One past the highest address.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |last| last.start + last.bytes)
    }

    /// The part from `address` on of the piece that holds it.
    pub fn at(&self, address: u64) -> Option<Extent> {
        let after = self.0.partition_point(|extent| extent.start <= address);
        let extent = self.0.get(after.checked_sub(1)?)?;
        let skip = address - extent.start;
        (skip < extent.bytes).then(|| extent.after(skip))
    }

    /// Whether all of the `bytes` bytes from `address` on are memory, which comes in whole pages:
    /// where a piece does not begin or end with one, the rest of the page is zero. (So no table of
    /// a page or less is there in part.)
    pub fn hold(&self, address: u64, bytes: u64) -> bool {
        let Some(last) = address.checked_add(bytes.saturating_sub(1)) else { return false };
        (address / PAGE..=last / PAGE).all(|page| {
            let (first, last) = (page * PAGE, page * PAGE + (PAGE - 1));
            let next = self.0.partition_point(|extent| extent.start <= last);
            let before = next.checked_sub(1).and_then(|index| self.0.get(index));
            before.is_some_and(|extent| extent.start + (extent.bytes - 1) >= first)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn extent(start: u64, bytes: u64, offset: u64, stored: u64) -> Extent {
        Extent { start, bytes, offset, stored }
    }

    #[test]
    fn overlaps_are_clipped() {
        let extents = Extents::new([
            extent(0x3000, 0x1004, 900, 0x800),
            extent(0x1000, 0x1000, 100, 0x1000),
            extent(0x1800, 0x1000, 500, 0x1000),
            extent(0x1000, 0x100, 700, 0x100),
            extent(u64::MAX - 1, 100, 0, 100),
            extent(5, 0, 0, 0),
        ]);
        let want = [
            extent(0x1000, 0x1000, 100, 0x1000),
            extent(0x2000, 0x800, 500 + 0x800, 0x800),
            extent(0x3000, 0x1004, 900, 0x800),
            extent(u64::MAX - 1, 1, 0, 1),
        ];
        assert_eq!(extents.iter().copied().collect::<Vec<_>>(), want);
        for (address, bytes, inside) in [
            (0x1000, 0x4000, true),
            (0x1000, 0x4001, false),
            (0xfff, 1, false),
            (0x2fff, 1, true),
            (0x4fff, 1, true),
            (0x5000, 1, false),
            (0x8000, 1, false),
            (u64::MAX - 7, 8, true),
            (u64::MAX - 0x1000, 8, false),
            (u64::MAX, 8, false),
        ] {
            assert_eq!(extents.hold(address, bytes), inside, "{address:#x} {bytes:#x}");
        }
        assert_eq!(extents.at(0x3900), Some(extent(0x3900, 0x704, 900 + 0x900, 0)));
        assert_eq!((extents.bytes(), extents.end()), (0x2805, u64::MAX));
    }
}
