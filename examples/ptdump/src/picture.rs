//! An address space as a picture: what is mapped, brought together into blocks, and the blocks into
//! bands with the large gaps left out.
//!
//! Bounded whatever the tables hold: when there are too many blocks those that are near are merged,
//! first those that look alike, then any. A block never says of all of it what is true of a part:
//! where sizes or rights differ it is mixed, where physical addresses do not follow it has none.

use table_dump::{Difference, Range, Rights};

use crate::address::human;

/// The most blocks that are kept.
const MOST_BLOCKS: usize = 1 << 16;
/// The most bands that are drawn.
const MOST_BANDS: usize = 48;
/// A gap of so many bytes may part two bands.
const GAP: u64 = 1 << 30;

/// What a block looks like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Look {
    /// Pages of this size, with these rights.
    Pages(u64, Rights),
    /// Pages of several sizes, or with several rights; faults among them, perhaps.
    Mixed,
    /// Nothing but faults: malformed, or unknown.
    Fault,
    /// Of a comparison: only in the first image, only in the second, in both and different.
    Gone,
    New,
    Changed,
}

/// Neighbouring pages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The first address.
    pub start: u64,
    /// The last address.
    pub last: u64,
    /// How many bytes of it are mapped, or faulting.
    pub bytes: u64,
    pub look: Look,
    /// Where the first byte goes, and each other as far behind it; `None` if that is not so.
    pub pa: Option<u64>,
}

/// A part of the address space that is drawn in one row.
pub struct Band<'p> {
    pub start: u64,
    pub last: u64,
    pub blocks: &'p [Block],
}

/// An address space, as far as it can be seen.
#[derive(Default)]
pub struct Picture {
    blocks: Vec<Block>,
    /// Blocks nearer to each other than this were merged.
    pub grain: u64,
}

impl Picture {
    /// Takes in the next range of a list. What has no address is left out.
    pub fn take(&mut self, range: &Range) {
        let look = match (&range.fault, range.size, range.rights) {
            (None, Some(size), Some(rights)) => Look::Pages(size, rights),
            _ => Look::Fault,
        };
        self.add(range.va, range.bytes.unwrap_or(0), look, range.pa);
    }

    /// Takes in the next difference between two images.
    pub fn take_difference(&mut self, difference: &Difference) {
        let look = match (&difference.before, &difference.after) {
            (Some(_), None) => Look::Gone,
            (None, Some(_)) => Look::New,
            (Some(_), Some(_)) => Look::Changed,
            (None, None) => Look::Fault,
        };
        let pa = difference.after.as_ref().or(difference.before.as_ref()).map(|side| side.pa);
        self.add(difference.va, difference.bytes, look, pa);
    }

    fn add(&mut self, va: Option<u64>, bytes: u64, look: Look, pa: Option<u64>) {
        let Some(start) = va.filter(|_| bytes > 0) else { return };
        let last = start.saturating_add(bytes - 1);
        self.push(Block { start, last, bytes, look, pa }, false);
        if self.blocks.len() >= MOST_BLOCKS {
            self.coarsen();
        }
    }

    /// Adds a block, or puts it to the last one: if it continues that, or is near enough.
    fn push(&mut self, block: Block, any: bool) {
        match self.blocks.last_mut() {
            Some(last) if block.start > last.last => {
                let gap = block.start - last.last - 1;
                let follows = |pa: u64| pa.wrapping_add(block.start - last.start);
                let continues = gap == 0 && last.pa.map(follows) == block.pa;
                let alike = last.look == block.look;
                let near = self.grain > 0 && gap <= self.grain;
                if alike && continues || near && (alike || any) {
                    last.pa = last.pa.filter(|_| continues);
                    last.look = if alike { last.look } else { Look::Mixed };
                    last.last = block.last;
                    last.bytes = last.bytes.saturating_add(block.bytes);
                    return;
                }
                self.blocks.push(block);
            }
            _ => self.blocks.push(block),
        }
    }

    /// Merges what is near until half of the blocks are left: what looks alike, as long as that
    /// helps; then anything.
    fn coarsen(&mut self) {
        while self.blocks.len() > MOST_BLOCKS / 2 {
            self.grain = self.grain.saturating_mul(4).clamp(1 << 16, 1 << 62);
            let before = self.blocks.len();
            for any in [false, true] {
                if any && self.blocks.len() < before / 4 * 3 {
                    break;
                }
                for block in std::mem::take(&mut self.blocks) {
                    self.push(block, any);
                }
            }
            if self.grain >= 1 << 62 && self.blocks.len() == before {
                // Addresses that go back and forth: a hashed page table's, process by process.
                self.blocks.sort_by_key(|block| block.start);
                let mut kept: Vec<Block> = Vec::new();
                for block in std::mem::take(&mut self.blocks) {
                    match kept.last_mut() {
                        Some(last) if kept_together(last, &block) => {
                            last.last = last.last.max(block.last);
                            last.bytes = last.bytes.saturating_add(block.bytes);
                            (last.look, last.pa) = (Look::Mixed, None);
                        }
                        _ => kept.push(block),
                    }
                }
                self.blocks = kept;
                return;
            }
        }
    }

    /// Brings the blocks in order: a hashed page table is listed process by process.
    pub fn finish(&mut self) {
        self.blocks.sort_by_key(|block| block.start);
    }

    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// The blocks in bands, parted at the largest gaps.
    pub fn bands(&self) -> Vec<Band<'_>> {
        let gap = |at: usize| self.blocks[at].start.saturating_sub(self.blocks[at - 1].last);
        let mut parted: Vec<_> = (1..self.blocks.len()).filter(|at| gap(*at) >= GAP).collect();
        parted.sort_by_key(|at| std::cmp::Reverse(gap(*at)));
        parted.truncate(MOST_BANDS - 1);
        parted.sort_unstable();
        let mut bands = Vec::new();
        let mut rest = &self.blocks[..];
        let mut before = 0;
        for at in parted.into_iter().chain([self.blocks.len()]) {
            let (blocks, others) = rest.split_at(at - before);
            (rest, before) = (others, at);
            if let (Some(first), Some(end)) =
                (blocks.first(), blocks.iter().map(|block| block.last).max())
            {
                bands.push(Band { start: first.start, last: end, blocks });
            }
        }
        bands
    }
}

/// Whether two blocks share a piece of 1 GiB.
fn kept_together(one: &Block, two: &Block) -> bool {
    one.last >> 30 >= two.start >> 30
}

/// The colour of a block.
pub fn colour(look: Look) -> &'static str {
    match look {
        Look::Fault => "#d62728",
        Look::Mixed => "#8c6bb1",
        Look::Gone => "#e15759",
        Look::New => "#59a14f",
        Look::Changed => "#edc948",
        Look::Pages(0..=0xffff, _) => "#4c78a8",
        Look::Pages(0x1_0000..=0xf_ffff, _) => "#59a5a0",
        Look::Pages(0x10_0000..=0xff_ffff, _) => "#54a24b",
        Look::Pages(0x100_0000..=0x3fff_ffff, _) => "#b6992d",
        Look::Pages(..) => "#f28e2b",
    }
}

/// What a block is, in words.
pub fn words(look: Look) -> String {
    match look {
        Look::Pages(size, rights) => format!("pages of {}, {rights}", human(size)),
        Look::Mixed => "mixed".to_owned(),
        Look::Fault => "fault".to_owned(),
        Look::Gone => "only in the first image".to_owned(),
        Look::New => "only in the second image".to_owned(),
        Look::Changed => "different".to_owned(),
    }
}

/// The colour of rights: writable and executable, executable, writable, neither; white if there are
/// none, or several.
pub fn rights_colour(look: Look) -> &'static str {
    let Look::Pages(_, rights) = look else { return "#ffffff" };
    let write = rights.supervisor.write() || rights.user.write();
    let execute = rights.supervisor.execute() || rights.user.execute();
    match (write, execute) {
        (true, true) => "#e15759",
        (false, true) => "#b279a2",
        (true, false) => "#9d9d9d",
        (false, false) => "#d8d8d8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(va: u64, bytes: u64, size: u64) -> Range {
        Range::mapped(Some(va), va, size, Rights::default(), String::new()).of_bytes(bytes)
    }

    #[test]
    fn bands_are_parted_at_the_largest_gaps() {
        let mut picture = Picture::default();
        picture.take(&range(0x1000, 0x1000, 0x1000));
        picture.take(&range(0x2000, 0x1000, 0x1000));
        picture.take(&range(0x20_0000, 0x20_0000, 0x20_0000));
        picture.take(&range(0xffff_ffff_8000_0000, 0x8000_0000, 0x20_0000));
        picture.finish();
        let seen: Vec<_> =
            picture.bands().iter().map(|band| (band.start, band.last, band.blocks.len())).collect();
        assert_eq!(seen, [(0x1000, 0x3f_ffff, 2), (0xffff_ffff_8000_0000, u64::MAX, 1)]);
    }

    #[test]
    fn case_picture_never_grows_too_large_and_never_lies() {
        let mut picture = Picture::default();
        for n in 0..3 * MOST_BLOCKS as u64 {
            picture.take(&range(n << 13, 0x1000, 0x1000));
        }
        assert!(picture.blocks().len() < MOST_BLOCKS && picture.grain > 0);
        let bytes = picture.blocks().iter().map(|block| block.bytes).sum::<u64>();
        assert_eq!(bytes, (3 * MOST_BLOCKS as u64) << 12);
        // What never merges by its looks: sizes alternate all the way, and addresses go back.
        let mut worst = Picture::default();
        for n in 0..2 * MOST_BLOCKS as u64 {
            worst.take(&range(n << 30, 0x1000, 0x1000 << (n % 2)));
        }
        assert!(worst.blocks().len() < MOST_BLOCKS && worst.bands().len() <= MOST_BANDS);
        for block in worst.blocks().iter().filter(|block| block.bytes > 0x1000) {
            assert_eq!((block.look, block.pa), (Look::Mixed, None), "{block:x?}");
        }
        let mut back = Picture::default();
        for n in 0..2 * MOST_BLOCKS as u64 {
            back.take(&range((n % 1024) << 31, 0x1000, 0x1000 << (n % 2)));
        }
        assert!(back.blocks().len() < MOST_BLOCKS);
    }

    #[test]
    fn case_picture_rows_hold_one_physical_range_or_none() {
        let mut picture = Picture::default();
        for (va, pa) in [(0x1000, 0x5000), (0x2000, 0x6000), (0x3000, 0x9000)] {
            let range = Range::mapped(Some(va), pa, 0x1000, Rights::default(), String::new());
            picture.take(&range.of_bytes(0x1000));
        }
        let seen: Vec<_> =
            picture.blocks().iter().map(|block| (block.start, block.last, block.pa)).collect();
        assert_eq!(seen, [(0x1000, 0x2fff, Some(0x5000)), (0x3000, 0x3fff, Some(0x9000))]);
    }
}
