//! Memory in pieces, each of which stands as it is somewhere in a file.

use std::fmt;

use crate::memory::{Held, Memory, Piece, Unreadable};
use crate::source::Source;

/// A contiguous piece of physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its first physical address.
    pub start: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Which of the files it stands in.
    pub file: usize,
    /// Where in the file it begins.
    pub offset: u64,
}

impl Extent {
    /// The part of it from `skip` bytes on.
    fn after(self, skip: u64) -> Self {
        Self {
            start: self.start.saturating_add(skip),
            bytes: self.bytes.saturating_sub(skip),
            offset: self.offset.saturating_add(skip),
            ..self
        }
    }

    /// The last address.
    fn last(&self) -> u64 {
        self.start + (self.bytes - 1)
    }

    /// Whether `next` continues it, in memory and in the file.
    fn continues(&self, next: &Self) -> bool {
        self.file == next.file
            && self.start.checked_add(self.bytes) == Some(next.start)
            && self.offset.checked_add(self.bytes) == Some(next.offset)
    }
}

/// Bytes that are compared where memory stands in files twice.
const COMPARED: u64 = 16 << 20;
/// Compared at a time.
const CHUNK: u64 = 1 << 16;

/// Brings `extents` in order. Where two claim the same address the one that begins first has it,
/// of those the first given (a vmcore has the kernel's text once more). `twice` hears what of the
/// others is passed over.
fn in_order(
    extents: impl IntoIterator<Item = Extent>,
    mut twice: impl FnMut(Extent),
) -> Vec<Extent> {
    let mut given: Vec<_> = extents.into_iter().filter(|extent| extent.bytes > 0).collect();
    given.sort_by_key(|extent| extent.start);
    let mut kept: Vec<Extent> = Vec::with_capacity(given.len());
    for mut extent in given {
        // Nothing reaches beyond the end of the address space.
        extent.bytes = extent.bytes.min(u64::MAX - extent.start);
        let end = kept.last().map_or(0, |last| last.start + last.bytes);
        let over = end.saturating_sub(extent.start);
        if over > 0 {
            twice(Extent { bytes: over.min(extent.bytes), ..extent });
        }
        let extent = extent.after(over);
        if extent.bytes == 0 {
            continue;
        }
        match kept.last_mut() {
            Some(last) if last.continues(&extent) => last.bytes += extent.bytes,
            _ => kept.push(extent),
        }
    }
    kept
}

/// The extent that holds `address`, from there on.
fn at(extents: &[Extent], address: u64) -> Option<Extent> {
    let after = extents.partition_point(|extent| extent.start <= address);
    let extent = extents.get(after.checked_sub(1)?)?;
    let skip = address - extent.start;
    (skip < extent.bytes).then(|| extent.after(skip))
}

/// How far it is from `address` to the next extent's start; to the end of the address space if
/// there is none.
fn until_next(extents: &[Extent], address: u64) -> u64 {
    let after = extents.partition_point(|extent| extent.start <= address);
    extents.get(after).map_or(u64::MAX - address, |next| next.start - address).max(1)
}

/// Memory that stands as it is in files.
pub(crate) struct Extents<'s> {
    files: Vec<Box<dyn Source + 's>>,
    lengths: Vec<u64>,
    stored: Vec<Extent>,
    left_out: Vec<Extent>,
    cut_off: Vec<Extent>,
    /// What is passed over: other pieces hold the same memory.
    twice: Vec<Extent>,
}

impl fmt::Debug for Extents<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extents").field("stored", &self.stored).finish_non_exhaustive()
    }
}

impl<'s> Extents<'s> {
    /// Memory at `extents` of `files`, clipped to what the files have, and memory at `left_out`
    /// (addresses and lengths) that the writer left out.
    pub(crate) fn new(
        files: Vec<Box<dyn Source + 's>>,
        extents: impl IntoIterator<Item = Extent>,
        left_out: impl IntoIterator<Item = (u64, u64)>,
    ) -> std::io::Result<Self> {
        let lengths = files.iter().map(|file| file.size()).collect::<Result<Vec<_>, _>>()?;
        let mut cut_off = Vec::new();
        let mut clipped = Vec::new();
        for extent in extents {
            let length = lengths.get(extent.file).copied().unwrap_or(0);
            let here = extent.bytes.min(length.saturating_sub(extent.offset));
            if here < extent.bytes {
                cut_off.push(extent.after(here));
            }
            clipped.push(Extent { bytes: here, ..extent });
        }
        let nowhere = |(start, bytes)| Extent { start, bytes, file: 0, offset: start };
        let mut twice = Vec::new();
        Ok(Self {
            files,
            lengths,
            stored: in_order(clipped, |extent| twice.push(extent)),
            left_out: in_order(left_out.into_iter().map(nowhere), |_| ()),
            cut_off: in_order(cut_off.into_iter().map(|it| nowhere((it.start, it.bytes))), |_| ()),
            twice,
        })
    }

    /// What to say if some memory stands in the files twice, and not the same: of so much of it as
    /// is worth the time.
    pub(crate) fn doubt(&self) -> Option<String> {
        let mut left = COMPARED;
        for extent in &self.twice {
            let mut done = 0;
            // Looking costs something, even where nothing is read.
            while done < extent.bytes && left > 0 {
                let other = extent.after(done);
                let here = at(&self.stored, other.start)?;
                let bytes = here.bytes.min(other.bytes);
                left = left.saturating_sub(64);
                if (here.file, here.offset) == (other.file, other.offset) {
                    done += bytes;
                    continue;
                }
                let bytes = bytes.min(CHUNK).min(left);
                let [one, two] = [here, other].map(|it| {
                    let mut part = vec![0; bytes as usize];
                    self.files[it.file].read_at(it.offset, &mut part).map(|_| part)
                });
                // What cannot be read is said where it is asked for.
                let (one, two) = (one.ok()?, two.ok()?);
                if let Some(first) = one.iter().zip(&two).position(|(one, two)| one != two) {
                    return Some(format!(
                        "memory at {:#x} stands in it twice, with other bytes: of two pieces that \
                        overlap the one that begins first is read",
                        other.start + first as u64
                    ));
                }
                (done, left) = (done + bytes, left - bytes);
            }
        }
        None
    }

    /// How many bytes of memory are behind the end of a file.
    pub(crate) fn lost(&self) -> u64 {
        self.cut_off.iter().fold(0, |sum, extent| sum.saturating_add(extent.bytes))
    }
}

impl Memory for Extents<'_> {
    fn piece(&self, address: u64) -> Piece {
        if let Some(extent) = at(&self.stored, address) {
            return Piece { held: Held::Stored, bytes: extent.bytes };
        }
        let mut bytes = until_next(&self.stored, address);
        let mut held = Held::Outside;
        for (extents, what) in [(&self.cut_off, Held::CutOff), (&self.left_out, Held::LeftOut)] {
            match at(extents, address) {
                Some(extent) if held == Held::Outside => {
                    (held, bytes) = (what, bytes.min(extent.bytes));
                }
                _ => bytes = bytes.min(until_next(extents, address)),
            }
        }
        Piece { held, bytes }
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0;
        while done < buffer.len() {
            let here = address.saturating_add(done as u64);
            let missing = |held| Unreadable::Missing { address: here, held };
            let extent = at(&self.stored, here).ok_or_else(|| missing(self.piece(here).held))?;
            let bytes =
                usize::try_from(extent.bytes).unwrap_or(usize::MAX).min(buffer.len() - done);
            let into = &mut buffer[done..done + bytes];
            // A file that became shorter since it was opened.
            if self.files[extent.file].read_at(extent.offset, into)? < bytes {
                return Err(missing(Held::CutOff));
            }
            done += bytes;
        }
        Ok(())
    }

    fn next_stored(&self, address: u64) -> Option<u64> {
        let next = self.stored.partition_point(|extent| extent.last() < address);
        self.stored.get(next).map(|extent| extent.start.max(address))
    }

    fn next_data(&self, address: u64) -> Option<u64> {
        let mut next = self.stored.partition_point(|extent| extent.last() < address);
        while let Some(extent) = self.stored.get(next) {
            let here = extent.after(address.saturating_sub(extent.start));
            // What follows in memory may stand further ahead in the file.
            if let Some(data) = self.files[here.file].next_data(here.offset) {
                let skip = data.saturating_sub(here.offset);
                if skip < here.bytes {
                    return Some(here.start + skip);
                }
            }
            next += 1;
        }
        None
    }

    fn bytes(&self) -> u64 {
        self.stored.iter().fold(0, |sum, extent| sum.saturating_add(extent.bytes))
    }

    fn file_bytes(&self) -> u64 {
        self.lengths.iter().fold(0, |sum, length| sum.saturating_add(*length))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    fn extent(start: u64, bytes: u64, offset: u64) -> Extent {
        Extent { start, bytes, file: 0, offset }
    }

    #[test]
    fn overlaps_are_clipped_and_neighbours_joined() {
        let mut twice = Vec::new();
        let given = [
            extent(0x3000, 0x1004, 900),
            extent(0x1000, 0x1000, 100),
            extent(0x1800, 0x1000, 500),
            extent(0x1000, 0x100, 700),
            extent(u64::MAX - 1, 100, 0),
            extent(5, 0, 0),
            extent(0x4004, 0x100, 900 + 0x1004),
        ];
        let kept = in_order(given, |extent| twice.push(extent));
        let want = [
            extent(0x1000, 0x1000, 100),
            extent(0x2000, 0x800, 500 + 0x800),
            extent(0x3000, 0x1104, 900),
            extent(u64::MAX - 1, 1, 0),
        ];
        assert_eq!(kept, want);
        assert_eq!(twice, [extent(0x1000, 0x100, 700), extent(0x1800, 0x800, 500)]);
    }

    /// Pieces that overlap: only other bytes are said, and all are looked at, up to a limit.
    #[test]
    fn memory_that_stands_twice() {
        let mut bytes = vec![7_u8; 0x4_0000];
        bytes[0x3_1234] = 8;
        for (pieces, doubt) in [
            ([extent(0, 0x2000, 0), extent(0x1000, 0x1000, 0x1000)], None),
            ([extent(0, 0x2000, 0), extent(0x1000, 0x1000, 0x5000)], None),
            ([extent(0, 0x2000, 0), extent(0x1000, 0x1000, 0x3_1000)], Some("0x1234 ")),
            ([extent(0x1000, 0x2000, 0x3_0000), extent(0x2000, 0x3000, 0)], Some("0x2234 ")),
            ([extent(0, 0x3_0000, 0), extent(0x1000, 0x2_0000, 0x2_0000)], Some("0x12234 ")),
            ([extent(0, 0x2000, 0), extent(0x1000, 0x1000, 0x4_0000)], None),
        ] {
            let memory = Extents::new(vec![Box::new(&bytes[..])], pieces, []).unwrap();
            let said = memory.doubt();
            assert_eq!(said.is_some(), doubt.is_some(), "{pieces:x?}: {said:?}");
            assert!(said.is_none_or(|said| said.contains(doubt.unwrap())), "{pieces:x?}");
        }
    }

    /// What is stored, left out, cut off, and outside, each told from the others.
    #[test]
    fn every_piece_says_what_became_of_it() {
        let bytes = [7_u8; 0x1800];
        let memory = Extents::new(
            vec![Box::new(&bytes[..])],
            [extent(0x1000, 0x1000, 0), extent(0x4000, 0x1000, 0x1000)],
            [(0x2000, 0x1000), (0x1800, 0x1000)],
        )
        .unwrap();
        for (address, held, length) in [
            (0, Held::Outside, 0x1000),
            (0x1000, Held::Stored, 0x1000),
            (0x1ff0, Held::Stored, 0x10),
            (0x2000, Held::LeftOut, 0x1000),
            (0x2800, Held::LeftOut, 0x800),
            (0x3000, Held::Outside, 0x1000),
            (0x4000, Held::Stored, 0x800),
            (0x4800, Held::CutOff, 0x800),
            (0x5000, Held::Outside, u64::MAX - 0x5000),
            (u64::MAX, Held::Outside, 1),
        ] {
            assert_eq!(memory.piece(address), Piece { held, bytes: length }, "{address:#x}");
        }
        assert_eq!((memory.bytes(), memory.lost()), (0x1800, 0x800));
        let mut buffer = [0; 16];
        assert!(memory.read(0x1ff0, &mut buffer).is_ok());
        assert!(matches!(
            memory.read(0x1ff8, &mut buffer),
            Err(Unreadable::Missing { address: 0x2000, held: Held::LeftOut })
        ));
        let next: Vec<_> = [0, 0x1fff, 0x2000, 0x4800].map(|at| memory.next_stored(at)).into();
        assert_eq!(next, [Some(0x1000), Some(0x1fff), Some(0x4000), None]);
    }
}
