//! makedumpfile's flattened files: pieces of another file (an ELF core or a kdump-compressed one),
//! each behind its offset and length, as they can be sent through a pipe.
//!
//! Source: makedumpfile `makedumpfile.h` (`makedumpfile_header`, `makedumpfile_data_header`): a
//! header of 4096 bytes, then big-endian numbers of 64 bits; an offset of -1 ends the file. A later
//! piece replaces an earlier one. What no piece has is zero.

use std::collections::BTreeMap;
use std::io;

use crate::ImageError;
use crate::source::Source;

/// How such a file begins: signature, type 1, version 1.
pub(crate) const SIGNATURE: &[u8] = b"makedumpfile\0\0\0\0";
const HEADER: u64 = 4096;
/// The most pieces that are read.
const MOST_PIECES: u64 = 1 << 22;
/// Read at a time while looking for the pieces.
const BUFFER: usize = 1 << 16;

/// The file that a flattened file stands for.
pub(crate) struct Flattened<'s> {
    source: Box<dyn Source + 's>,
    /// By the first offset of each piece: its length, and where it stands.
    pieces: BTreeMap<u64, (u64, u64)>,
    /// Whether the end is there.
    pub(crate) complete: bool,
}

/// A source through a buffer, for many small reads in order.
struct Buffered<'b> {
    source: &'b dyn Source,
    start: u64,
    bytes: Vec<u8>,
}

impl Buffered<'_> {
    /// The two numbers at `offset`; `None` if the file ends before.
    fn pair(&mut self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let inside = offset >= self.start && offset - self.start + 16 <= self.bytes.len() as u64;
        if !inside {
            self.bytes.resize(BUFFER, 0);
            let read = self.source.read_at(offset, &mut self.bytes)?;
            self.bytes.truncate(read);
            self.start = offset;
        }
        let at = (offset - self.start) as usize;
        let Some(pair) = self.bytes.get(at..at + 16) else { return Ok(None) };
        let word = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Ok(Some((word(&pair[..8]), word(&pair[8..]))))
    }
}

impl<'s> Flattened<'s> {
    pub(crate) fn open(source: Box<dyn Source + 's>) -> Result<Self, ImageError> {
        let form = "flattened file";
        let damaged = |why: &str| ImageError::Damaged { form, why: why.to_owned() };
        let mut pieces = BTreeMap::new();
        let length = source.size()?;
        let mut buffered = Buffered { source: &*source, start: 0, bytes: Vec::new() };
        if buffered.pair(16)? != Some((1, 1)) {
            return Err(damaged("it is of another type or version"));
        }
        let (mut at, mut count, mut complete) = (HEADER, 0, false);
        while let Some((offset, bytes)) = buffered.pair(at)? {
            if offset == u64::MAX {
                complete = true;
                break;
            }
            count += 1;
            if count > MOST_PIECES {
                return Err(ImageError::TooMany {
                    form,
                    what: "pieces",
                    count,
                    limit: MOST_PIECES,
                });
            }
            let data = at + 16;
            let end = data.checked_add(bytes).filter(|_| offset.checked_add(bytes).is_some());
            let end = end.ok_or_else(|| damaged("a piece is longer than any file"))?;
            insert(&mut pieces, offset, bytes.min(length.saturating_sub(data)), data);
            at = end;
        }
        Ok(Self { source, pieces, complete })
    }
}

/// Puts a piece in the place of whatever was there.
fn insert(pieces: &mut BTreeMap<u64, (u64, u64)>, offset: u64, bytes: u64, data: u64) {
    if bytes == 0 {
        return;
    }
    let end = offset + bytes;
    // What begins before and reaches in keeps its head, and what lies behind.
    if let Some((&start, &(length, place))) = pieces.range(..offset).next_back() {
        if start + length > offset {
            pieces.insert(start, (offset - start, place));
            if start + length > end {
                pieces.insert(end, (start + length - end, place + (end - start)));
            }
        }
    }
    while let Some((&start, &(length, place))) = pieces.range(offset..end).next() {
        pieces.remove(&start);
        if start + length > end {
            pieces.insert(end, (start + length - end, place + (end - start)));
        }
    }
    pieces.insert(offset, (bytes, data));
}

impl Source for Flattened<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.pieces.last_key_value().map_or(0, |(start, (bytes, _))| start + bytes))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.size()?;
        let wanted = (buffer.len() as u64).min(length.saturating_sub(offset)) as usize;
        let buffer = &mut buffer[..wanted];
        buffer.fill(0);
        let end = offset + wanted as u64;
        let before = self.pieces.range(..offset).next_back();
        for (&start, &(bytes, data)) in before.into_iter().chain(self.pieces.range(offset..end)) {
            let (from, to) = (start.max(offset), (start + bytes).min(end));
            if from < to {
                let into = &mut buffer[(from - offset) as usize..(to - offset) as usize];
                let count = into.len();
                if self.source.read_at(data + (from - start), into)? < count {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
        Ok(wanted)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod tests {
    use super::*;

    /// A flattened file of these pieces.
    fn flattened(pieces: &[(u64, &[u8])]) -> Vec<u8> {
        let mut file = SIGNATURE.to_vec();
        file.extend([1_u64.to_be_bytes(), 1_u64.to_be_bytes()].concat());
        file.resize(HEADER as usize, 0);
        for (offset, bytes) in pieces {
            file.extend(offset.to_be_bytes());
            file.extend((bytes.len() as u64).to_be_bytes());
            file.extend(*bytes);
        }
        file.extend([u64::MAX.to_be_bytes(), u64::MAX.to_be_bytes()].concat());
        file
    }

    #[test]
    fn later_pieces_replace_earlier_ones() {
        for (pieces, want) in [
            (&[(0, &b"abcd"[..]), (6, b"ef")][..], &b"abcd\0\0ef"[..]),
            (&[(6, b"ef"), (0, b"abcd")], b"abcd\0\0ef"),
            (&[(0, b"abcdefgh"), (2, b"XY")], b"abXYefgh"),
            (&[(0, b"abcd"), (2, b"XYZ")], b"abXYZ"),
            (&[(2, b"cd"), (6, b"gh"), (1, b"123456")], b"\x00123456h"),
            (&[(0, b"ab"), (0, b"xy")], b"xy"),
            (&[], b""),
        ] {
            let file = flattened(pieces);
            let source = Flattened::open(Box::new(&file[..])).unwrap();
            assert!(source.complete);
            let mut bytes = vec![0xee; 20];
            let read = source.read_at(0, &mut bytes).unwrap();
            assert_eq!(&bytes[..read], want, "{pieces:?}");
            for (at, want) in want.iter().enumerate() {
                let mut byte = [0xee];
                assert_eq!(source.read_at(at as u64, &mut byte).unwrap(), 1);
                assert_eq!(byte[0], *want, "{pieces:?} at {at}");
            }
        }
        let file = flattened(&[(0, b"abcd")]);
        let cut = Flattened::open(Box::new(&file[..HEADER as usize + 18])).unwrap();
        assert_eq!((cut.complete, cut.size().unwrap()), (false, 2));
    }
}
