//! LiME's images, and AVML's of both kinds: a header of 32 bytes before each piece of memory.
//!
//! LiME (`doc/README.md`, format `lime`) and AVML 1: magic `EMiL`, version 1, first and last
//! address, 8 bytes; then the memory as it is. AVML 2 (`src/image.rs`): magic `AVML`, version 2,
//! the same addresses; then the memory as a stream of snappy frames, and the stream's length in 8
//! bytes. A frame holds at most 64 KiB: frames are found once, and unpacked when they are asked
//! for.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::Read as _;

use crate::extents::{Extent, Extents};
use crate::memory::{Held, Memory, Piece, Unreadable};
use crate::source::{Source, read_exact};
use crate::{Form, Image, ImageError, Notes};

const HEADER: u64 = 32;
/// The most pieces of memory, and the most frames (64 KiB each, as a rule): 512 GiB.
const MOST_PIECES: usize = 1 << 20;
const MOST_FRAMES: usize = 1 << 23;
/// The most bytes of a frame, unpacked (snappy's `framing_format.txt`).
const FRAME: u64 = 1 << 16;
/// Unpacked frames that are kept.
const KEPT: usize = 16;

/// First address and length of the piece whose header stands at `offset`; `None` at the end of the
/// file.
fn header(
    source: &dyn Source,
    offset: u64,
    form: &'static str,
    magic: &[u8; 8],
) -> Result<Option<(u64, u64)>, ImageError> {
    let damaged = |why| ImageError::Damaged { form, why };
    let mut bytes = [0; HEADER as usize];
    match source.read_at(offset, &mut bytes)? {
        0 => return Ok(None),
        32 => {}
        _ => return Err(damaged(format!("the header at offset {offset:#x} is cut off"))),
    }
    if bytes[..8] != magic[..] {
        return Err(damaged(format!(
            "at offset {offset:#x} no header stands, or another version's"
        )));
    }
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (first, last) = (word(8), word(16));
    let backwards = || damaged(format!("the piece at offset {offset:#x} ends before it begins"));
    let bytes = last.checked_sub(first).and_then(|it| it.checked_add(1)).ok_or_else(backwards)?;
    Ok(Some((first, bytes)))
}

fn too_many(form: &'static str, what: &'static str, limit: usize) -> ImageError {
    ImageError::TooMany { form, what, count: limit as u64 + 1, limit: limit as u64 }
}

/// Opens an image of LiME, or of AVML 1.
pub(crate) fn open<'s>(source: Box<dyn Source + 's>) -> Result<Image<'s>, ImageError> {
    let form = "LiME image";
    let length = source.size()?;
    let (mut offset, mut extents) = (0, Vec::new());
    while offset < length {
        let Some((start, bytes)) = header(&*source, offset, form, b"EMiL\x01\0\0\0")? else {
            break;
        };
        extents.push(Extent { start, bytes, file: 0, offset: offset + HEADER });
        if extents.len() > MOST_PIECES {
            return Err(too_many(form, "pieces of memory", MOST_PIECES));
        }
        offset = (offset + HEADER).saturating_add(bytes);
    }
    let memory = Extents::new(vec![source], extents, [])?;
    Ok(Image::of_extents(Form::Lime, None, Notes::default(), memory, |lost| {
        format!("the file is cut off at {length} bytes: {lost} bytes of memory are missing")
    }))
}

/// A frame of a stream, and what memory it holds.
#[derive(Clone, Copy)]
struct Frame {
    start: u64,
    bytes: u32,
    /// Where it stands in the file, with its type and length, and how many bytes that is.
    offset: u64,
    stored: u32,
}

/// What a stream of frames begins with.
const STREAM: &[u8] = b"\xff\x06\0\0sNaPpY";

struct Frames<'s> {
    source: Box<dyn Source + 's>,
    frames: Vec<Frame>,
    kept: RefCell<VecDeque<(usize, Vec<u8>)>>,
    length: u64,
}

impl fmt::Debug for Frames<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frames").field("frames", &self.frames.len()).finish_non_exhaustive()
    }
}

/// Opens an image of AVML 2.
pub(crate) fn open_packed<'s>(source: Box<dyn Source + 's>) -> Result<Image<'s>, ImageError> {
    let form = "AVML image";
    let length = source.size()?;
    let (mut offset, mut frames, mut lost) = (0, Vec::new(), 0_u64);
    while offset < length {
        let Some((start, bytes)) = header(&*source, offset, form, b"AVML\x02\0\0\0")? else {
            break;
        };
        let stream = Stream { start, bytes, offset: offset + HEADER };
        let (end, found) = stream.frames(&*source, &mut frames)?;
        lost = lost.saturating_add(bytes - found);
        // Behind the stream stands its length.
        offset = end.saturating_add(8);
    }
    frames.sort_by_key(|frame| frame.start);
    if frames.windows(2).any(|two| two[1].start - two[0].start < u64::from(two[0].bytes)) {
        let why = "two frames hold the same memory".to_owned();
        return Err(ImageError::Damaged { form, why });
    }
    let memory = Frames { source, frames, kept: RefCell::default(), length };
    let mut image = Image::of(Form::Avml, None, Notes::default(), Box::new(memory));
    if lost > 0 {
        image.warn(format!(
            "the file is cut off at {length} bytes: {lost} bytes of memory are missing"
        ));
    }
    Ok(image)
}

/// A piece of memory as a stream of frames.
struct Stream {
    start: u64,
    bytes: u64,
    offset: u64,
}

impl Stream {
    /// Finds its frames; where it ends, and how many bytes of memory they hold.
    fn frames(
        &self,
        source: &dyn Source,
        frames: &mut Vec<Frame>,
    ) -> Result<(u64, u64), ImageError> {
        let form = "AVML image";
        let damaged = |offset: u64, why: &str| ImageError::Damaged {
            form,
            why: format!("at offset {offset:#x} {why}"),
        };
        let (mut offset, mut done, mut named) = (self.offset, 0, false);
        while done < self.bytes || !named {
            // Type, length in 3 bytes, then (of data) a checksum in 4 and what snappy unpacks,
            // which begins with its length.
            let mut head = [0; 14];
            let read = source.read_at(offset, &mut head)?;
            if read < 4 {
                return Ok((source.size()?, done));
            }
            let stored = u32::from_le_bytes([head[1], head[2], head[3], 0]);
            let next = offset + 4 + u64::from(stored);
            match head[0] {
                0xff if head[4..10] == *b"sNaPpY" => named = true,
                kind @ (0 | 1) if named => {
                    let packed = kind == 0;
                    let data = stored
                        .checked_sub(4)
                        .ok_or_else(|| damaged(offset, "a frame is too short"))?;
                    let bytes = if packed {
                        snap::raw::decompress_len(&head[8..read.max(8)]).unwrap_or(usize::MAX)
                            as u64
                    } else {
                        u64::from(data)
                    };
                    if bytes == 0 || bytes > FRAME.min(self.bytes - done) {
                        return Err(damaged(
                            offset,
                            "a frame has another length than its piece of memory",
                        ));
                    }
                    if next > source.size()? {
                        return Ok((next, done));
                    }
                    if frames.len() == MOST_FRAMES {
                        return Err(too_many(form, "frames", MOST_FRAMES));
                    }
                    let start = self.start + done;
                    let bytes = bytes as u32;
                    frames.push(Frame { start, bytes, offset, stored: stored + 4 });
                    done += u64::from(bytes);
                }
                0x80..=0xfe if named => {}
                _ => return Err(damaged(offset, "no snappy frame stands")),
            }
            offset = next;
        }
        Ok((offset, done))
    }
}

impl Frames<'_> {
    fn index(&self, address: u64) -> Option<usize> {
        let after = self.frames.partition_point(|frame| frame.start <= address);
        let index = after.checked_sub(1)?;
        let frame = self.frames.get(index)?;
        (address - frame.start < u64::from(frame.bytes)).then_some(index)
    }

    fn unpack(&self, frame: &Frame) -> Result<Vec<u8>, Unreadable> {
        let mut stream = vec![0; STREAM.len() + frame.stored as usize];
        stream[..STREAM.len()].copy_from_slice(STREAM);
        if !read_exact(&*self.source, frame.offset, &mut stream[STREAM.len()..])? {
            return Err(Unreadable::Missing { address: frame.start, held: Held::CutOff });
        }
        // A stream of this frame alone: its checksum is looked at.
        let mut bytes = vec![0; frame.bytes as usize];
        match snap::read::FrameDecoder::new(&stream[..]).read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(Unreadable::Damaged { address: frame.start, why: error.to_string() }),
        }
    }
}

impl Memory for Frames<'_> {
    fn piece(&self, address: u64) -> Piece {
        match self.index(address) {
            Some(index) => {
                let frame = self.frames[index];
                let bytes = u64::from(frame.bytes) - (address - frame.start);
                Piece { held: Held::Stored, bytes }
            }
            None => {
                let next = self.next_stored(address).unwrap_or(u64::MAX);
                Piece { held: Held::Outside, bytes: (next - address).max(1) }
            }
        }
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let mut done = 0;
        while done < buffer.len() {
            let here = address.saturating_add(done as u64);
            let missing = Unreadable::Missing { address: here, held: Held::Outside };
            let index = self.index(here).ok_or(missing)?;
            let mut kept = self.kept.borrow_mut();
            if !kept.iter().any(|(which, _)| *which == index) {
                let bytes = self.unpack(&self.frames[index])?;
                kept.truncate(KEPT - 1);
                kept.push_front((index, bytes));
            }
            let Some((_, bytes)) = kept.iter().find(|(which, _)| *which == index) else { continue };
            let skip = (here - self.frames[index].start) as usize;
            let count = (bytes.len() - skip).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&bytes[skip..skip + count]);
            done += count;
        }
        Ok(())
    }

    fn next_stored(&self, address: u64) -> Option<u64> {
        if self.index(address).is_some() {
            return Some(address);
        }
        let after = self.frames.partition_point(|frame| frame.start <= address);
        self.frames.get(after).map(|frame| frame.start)
    }

    fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| u64::from(frame.bytes)).sum()
    }

    fn file_bytes(&self) -> u64 {
        self.length
    }
}
