//! An address space as a picture: what is mapped, brought together into blocks, and the blocks into
//! bands with the large gaps left out.
//!
//! Bounded whatever the tables hold: when there are too many blocks the nearest ones of a size are
//! merged.

use table_dump::{Range, Rights};

/// The most blocks that are kept.
const MOST_BLOCKS: usize = 1 << 16;
/// The most bands that are drawn.
const MOST_BANDS: usize = 48;
/// A gap of so many bytes may part two bands.
const GAP: u64 = 1 << 30;

/// Neighbouring pages of one size, with the same rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    /// The first address.
    pub start: u64,
    /// The last address.
    pub last: u64,
    /// How many bytes of it are mapped, or faulting.
    pub bytes: u64,
    /// The size of the pages; `None` for a fault.
    pub size: Option<u64>,
    pub rights: Rights,
    /// Where the first page goes.
    pub pa: u64,
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
        let (Some(va), Some(bytes)) = (range.va, range.bytes.filter(|bytes| *bytes > 0)) else {
            return;
        };
        let size = if range.fault.is_some() { None } else { range.size };
        let (rights, pa) = (range.rights.unwrap_or_default(), range.pa.unwrap_or(0));
        let last = va.saturating_add(bytes - 1);
        self.push(Block { start: va, last, bytes, size, rights, pa });
        if self.blocks.len() >= MOST_BLOCKS {
            self.coarsen();
        }
    }

    fn push(&mut self, block: Block) {
        match self.blocks.last_mut() {
            Some(last)
                if (last.size, last.rights) == (block.size, block.rights)
                    && block.start > last.last
                    && block.start - last.last - 1 <= self.grain =>
            {
                last.last = block.last;
                last.bytes = last.bytes.saturating_add(block.bytes);
            }
            _ => self.blocks.push(block),
        }
    }

    /// Merges what is near until half of the blocks are left.
    fn coarsen(&mut self) {
        while self.blocks.len() > MOST_BLOCKS / 2 {
            self.grain = self.grain.saturating_mul(4).clamp(1 << 16, 1 << 60);
            let mut blocks = std::mem::take(&mut self.blocks);
            if self.grain >= 1 << 60 {
                // Nothing merges: sizes and rights alternate all the way.
                blocks.truncate(MOST_BLOCKS / 2);
                self.blocks = blocks;
                return;
            }
            for block in blocks {
                self.push(block);
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

/// The colour of pages of `size`; of a fault for `None`.
pub fn colour(size: Option<u64>) -> &'static str {
    match size {
        None => "#d62728",
        Some(0..=0xffff) => "#4c78a8",
        Some(0x1_0000..=0xf_ffff) => "#59a5a0",
        Some(0x10_0000..=0xff_ffff) => "#54a24b",
        Some(0x100_0000..=0x3fff_ffff) => "#b6992d",
        Some(_) => "#f28e2b",
    }
}

/// The colour of rights: writable and executable, executable, writable, neither.
pub fn rights_colour(rights: Rights) -> &'static str {
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
    fn it_never_grows_too_large() {
        let mut picture = Picture::default();
        for n in 0..3 * MOST_BLOCKS as u64 {
            picture.take(&range(n << 13, 0x1000, 0x1000));
        }
        assert!(picture.blocks().len() < MOST_BLOCKS && picture.grain > 0);
        assert_eq!(
            picture.blocks().iter().map(|block| block.bytes).sum::<u64>(),
            (3 * MOST_BLOCKS as u64) << 12
        );
        let mut worst = Picture::default();
        for n in 0..2 * MOST_BLOCKS as u64 {
            worst.take(&range(n << 30, 0x1000, 0x1000 << (n % 2)));
        }
        assert!(worst.blocks().len() < MOST_BLOCKS && worst.bands().len() <= MOST_BANDS);
    }
}
