//! kdump-compressed files: of makedumpfile, of QEMU (`dump-guest-memory -z`, `-l`, `-s`), of
//! `virsh dump --memory-only --format`; one file or several that makedumpfile split.
//!
//! Source: makedumpfile `IMPLEMENTATION` and `diskdump_mod.h`, crash `diskdump.h`. In blocks of the
//! page's size: header, sub-header, two bitmaps (which frames there are, which are in the file), a
//! descriptor of 24 bytes for each page in the file, the pages. Everything is in the machine's byte
//! order. The bitmap is kept in memory, with a count for each [`GROUP`] of its bits; descriptors
//! and pages are read when they are asked for.

use std::fmt;

use object::Endianness;
use object::elf::{EM_386, EM_AARCH64, EM_PPC64, EM_RISCV, EM_S390, EM_X86_64, FileHeader64};

use crate::codec::unpack;
use crate::elf_core::read_notes;
use crate::memory::{Held, Memory, Piece, Unreadable};
use crate::notes::Notes;
use crate::source::{Source, read_exact};
use crate::{Form, Image, ImageError};

const FORM: &str = "kdump-compressed file";
/// The most bytes of a bitmap: 16 TiB in pages of 4 KiB.
const MOST_BITMAP: u64 = 1 << 29;
/// The most bytes of notes.
const MOST_NOTES: u64 = 16 << 20;
/// Bits of the bitmap that are counted together.
const GROUP: u64 = 1 << 12;
/// Bytes of a page's descriptor.
const DESCRIPTOR: u64 = 24;

fn damaged(why: impl Into<String>) -> ImageError {
    ImageError::Damaged { form: FORM, why: why.into() }
}

/// Numbers in the file's byte order.
#[derive(Clone, Copy)]
struct Bytes<'b> {
    bytes: &'b [u8],
    endian: Endianness,
}

impl Bytes<'_> {
    fn u32(self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[at..at + 4]);
        match self.endian {
            Endianness::Little => u32::from_le_bytes(word),
            Endianness::Big => u32::from_be_bytes(word),
        }
    }

    fn u64(self, at: usize) -> u64 {
        let (one, two) = (u64::from(self.u32(at)), u64::from(self.u32(at + 4)));
        match self.endian {
            Endianness::Little => two << 32 | one,
            Endianness::Big => one << 32 | two,
        }
    }
}

/// `disk_dump_header`, as far as it is of interest. The time stamp in front of these fields is of
/// two words, which are longer on 64-bit machines.
struct Header {
    endian: Endianness,
    wide: bool,
    version: u32,
    block: u64,
    sub_header: u64,
    bitmap: u64,
    max_mapnr: u64,
    machine: Option<u16>,
}

impl Header {
    const BYTES: usize = 464;

    fn read(source: &dyn Source) -> Result<Self, ImageError> {
        let mut bytes = [0; Self::BYTES];
        if !read_exact(source, 0, &mut bytes)? {
            return Err(damaged("it is shorter than its header"));
        }
        for endian in [Endianness::Little, Endianness::Big] {
            for (wide, at) in [(true, 424), (false, 412)] {
                let field = |n: usize| Bytes { bytes: &bytes, endian }.u32(at + 4 * n);
                let block = u64::from(field(1));
                let [sub_header, bitmap, max_mapnr] = [2, 3, 4].map(|n| u64::from(field(n)));
                let covered = (bitmap * block).saturating_mul(8);
                let sane = (4096..=65536).contains(&block)
                    && block.is_power_of_two()
                    && (1..1 << 16).contains(&sub_header)
                    && bitmap > 0
                    && covered >= max_mapnr;
                if sane {
                    let version = Bytes { bytes: &bytes, endian }.u32(8);
                    let machine = machine(&bytes[12 + 4 * 65..12 + 5 * 65]);
                    return Ok(Self {
                        endian,
                        wide,
                        version,
                        block,
                        sub_header,
                        bitmap,
                        max_mapnr,
                        machine,
                    });
                }
            }
        }
        Err(damaged("the sizes in its header fit no byte order"))
    }
}

/// `e_machine` of the machine that `uname -m` names.
fn machine(name: &[u8]) -> Option<u16> {
    let name = name.split(|byte| *byte == 0).next()?;
    Some(match name {
        b"x86_64" => EM_X86_64,
        b"i386" | b"i486" | b"i586" | b"i686" => EM_386,
        b"ppc64" | b"ppc64le" => EM_PPC64,
        b"aarch64" | b"aarch64_be" => EM_AARCH64,
        b"riscv64" => EM_RISCV,
        b"s390x" => EM_S390,
        _ => return None,
    })
}

/// `kdump_sub_header`: the frames of this file, and where notes stand.
#[derive(Default)]
struct SubHeader {
    split: bool,
    frames: (u64, u64),
    vmcoreinfo: (u64, u64),
    notes: (u64, u64),
    max_mapnr: Option<u64>,
}

impl SubHeader {
    fn read(source: &dyn Source, header: &Header) -> Result<Self, ImageError> {
        let mut bytes = [0; 104];
        if header.version == 0 {
            return Ok(Self::default());
        }
        if !read_exact(source, header.block, &mut bytes)? {
            return Err(damaged("its sub-header is not in the file"));
        }
        let fields = Bytes { bytes: &bytes, endian: header.endian };
        let since = |version, value: u64| if header.version >= version { value } else { 0 };
        if !header.wide {
            return Ok(Self::narrow(fields, header.version));
        }
        let mut sub = Self {
            split: header.version >= 2 && fields.u32(12) != 0,
            frames: (since(2, fields.u64(16)), since(2, fields.u64(24))),
            vmcoreinfo: (since(3, fields.u64(32)), since(3, fields.u64(40))),
            notes: (since(4, fields.u64(48)), since(4, fields.u64(56))),
            max_mapnr: None,
        };
        if header.version >= 6 {
            sub.frames = (fields.u64(80), fields.u64(88));
            sub.max_mapnr = Some(fields.u64(96));
        }
        Ok(sub)
    }

    /// That of a 32-bit machine, where `unsigned long` has 4 bytes and nothing is aligned to more.
    fn narrow(fields: Bytes<'_>, version: u32) -> Self {
        let word = |at| u64::from(fields.u32(at));
        let since = |least, value: (u64, u64)| if version >= least { value } else { (0, 0) };
        Self {
            split: version >= 2 && fields.u32(8) != 0,
            frames: if version >= 6 {
                (fields.u64(56), fields.u64(64))
            } else {
                since(2, (word(12), word(16)))
            },
            vmcoreinfo: since(3, (fields.u64(20), word(28))),
            notes: since(4, (fields.u64(32), word(40))),
            max_mapnr: (version >= 6).then(|| fields.u64(72)),
        }
    }
}

/// One file of a dump.
struct Part<'s> {
    source: Box<dyn Source + 's>,
    length: u64,
    endian: Endianness,
    block: u64,
    /// The frames that this file is for: first, and one past the last.
    frames: (u64, u64),
    /// Where the bitmap of frames that the machine has stands.
    present: u64,
    descriptors: u64,
    /// A bit for each frame that is in the file.
    bitmap: Vec<u8>,
    /// How many bits are set before each group, from the first frame on.
    before: Vec<u64>,
}

impl<'s> Part<'s> {
    fn open(
        source: Box<dyn Source + 's>,
        notes: &mut Notes,
    ) -> Result<(Self, Option<u16>, bool), ImageError> {
        let header = Header::read(&*source)?;
        let sub = SubHeader::read(&*source, &header)?;
        let length = source.size()?;
        take_notes(&*source, &header, &sub, notes)?;
        let bits = sub.max_mapnr.unwrap_or(header.max_mapnr);
        let all = header.bitmap * header.block;
        let mut start = (1 + header.sub_header) * header.block;
        let (present, descriptors) = (start, start + all);
        let mut bytes = all;
        // Two bitmaps, unless there is room for one only: then that is the second.
        if bits <= all / 2 * 8 {
            bytes = all / 2;
            start += bytes;
        }
        let bytes = bytes.min(bits.div_ceil(8));
        if bytes > MOST_BITMAP {
            let (what, limit) = ("bytes of bitmap", MOST_BITMAP);
            return Err(ImageError::TooMany { form: FORM, what, count: bytes, limit });
        }
        if start + bytes > length {
            return Err(damaged("its bitmap is not all in the file"));
        }
        let mut bitmap = vec![0; bytes as usize];
        if !read_exact(&*source, start, &mut bitmap)? {
            return Err(damaged("its bitmap is not all in the file"));
        }
        let frames = if sub.split { sub.frames } else { (0, u64::MAX) };
        let frames = (frames.0.min(bytes * 8), frames.1.min(bytes * 8));
        if frames.0 > frames.1 {
            return Err(damaged("its frames end before they begin"));
        }
        let before = vec![0];
        let (endian, block) = (header.endian, header.block);
        let mut part =
            Self { source, length, endian, block, frames, present, descriptors, bitmap, before };
        part.count();
        Ok((part, header.machine, sub.split))
    }

    /// Counts the bits of each group.
    fn count(&mut self) {
        let mut sum = 0;
        for group in 0..(self.bitmap.len() as u64 * 8).div_ceil(GROUP) {
            let end = ((group + 1) * GROUP).min(self.frames.1);
            sum += self.bits((group * GROUP).max(self.frames.0), end);
            self.before.push(sum);
        }
    }

    /// How many bits are set from `from` up to `to`.
    fn bits(&self, from: u64, to: u64) -> u64 {
        if from >= to {
            return 0;
        }
        let bytes = &self.bitmap[(from / 8) as usize..to.div_ceil(8) as usize];
        let all: u64 = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
        let low = bytes[0] & ((1_u16 << (from % 8)) - 1) as u8;
        let high = match to % 8 {
            0 => 0,
            keep => bytes[bytes.len() - 1] >> keep,
        };
        all - u64::from(low.count_ones()) - u64::from(high.count_ones())
    }

    /// Whether `frame` is in the file.
    fn has(&self, frame: u64) -> bool {
        (self.frames.0..self.frames.1).contains(&frame)
            && self.bitmap[(frame / 8) as usize] >> (frame % 8) & 1 != 0
    }

    /// Whether the machine has `frame`, as far as this file tells.
    fn is_memory(&self, frame: u64) -> bool {
        let mut byte = [0];
        frame < self.bitmap.len() as u64 * 8
            && read_exact(&*self.source, self.present + frame / 8, &mut byte).unwrap_or(false)
            && byte[0] >> (frame % 8) & 1 != 0
    }

    /// The first frame from `frame` on that is in the file.
    fn next(&self, frame: u64) -> Option<u64> {
        let mut frame = frame.max(self.frames.0);
        while frame < self.frames.1 {
            let group = (frame / GROUP) as usize;
            if frame % GROUP == 0 && self.before[group] == self.before[group + 1] {
                frame += GROUP;
            } else if frame % 8 == 0 && self.bitmap[(frame / 8) as usize] == 0 {
                frame += 8;
            } else if self.has(frame) {
                return Some(frame);
            } else {
                frame += 1;
            }
        }
        None
    }

    /// Offset, length and flags of a frame's page; `None` if the file is cut off before it.
    fn descriptor(&self, frame: u64) -> std::io::Result<Option<(u64, u32, u32)>> {
        let group = frame / GROUP;
        let index =
            self.before[group as usize] + self.bits((group * GROUP).max(self.frames.0), frame);
        let mut bytes = [0; DESCRIPTOR as usize];
        let at = self.descriptors + index * DESCRIPTOR;
        if !read_exact(&*self.source, at, &mut bytes)? {
            return Ok(None);
        }
        let fields = Bytes { bytes: &bytes, endian: self.endian };
        Ok(Some((fields.u64(0), fields.u32(8), fields.u32(12))))
    }

    /// Reads the page of `frame`.
    fn page(&self, frame: u64, page: &mut [u8]) -> Result<(), Unreadable> {
        let address = frame * self.block;
        let cut = Unreadable::Missing { address, held: Held::CutOff };
        let Some((offset, size, flags)) = self.descriptor(frame)? else { return Err(cut) };
        if u64::from(size) > 2 * self.block {
            let why = format!("a page of {size} bytes");
            return Err(Unreadable::Damaged { address, why });
        }
        let mut stored = vec![0; size as usize];
        // A dump that ended early has descriptors without a page.
        if offset == 0 || !read_exact(&*self.source, offset, &mut stored)? {
            return Err(cut);
        }
        unpack(flags, &stored, page).map_err(|why| Unreadable::Damaged { address, why })
    }

    /// Whether the file is cut off: its descriptors, or its last page, are not in it.
    fn is_cut(&self) -> std::io::Result<bool> {
        let count = self.before.last().copied().unwrap_or(0);
        if self.descriptors.saturating_add(count * DESCRIPTOR) > self.length {
            return Ok(true);
        }
        let group = self.before.partition_point(|before| *before < count);
        let frames = group.saturating_sub(1) as u64 * GROUP..group as u64 * GROUP;
        let Some(last) = frames.rev().find(|frame| self.has(*frame)) else { return Ok(false) };
        let place = self.descriptor(last)?;
        Ok(place.is_none_or(|(offset, size, _)| {
            offset == 0 || offset.saturating_add(u64::from(size)) > self.length
        }))
    }
}

/// The notes of a file.
fn take_notes(
    source: &dyn Source,
    header: &Header,
    sub: &SubHeader,
    notes: &mut Notes,
) -> Result<(), ImageError> {
    let read = |(offset, bytes): (u64, u64)| -> Result<Vec<u8>, ImageError> {
        let bytes = bytes.min(MOST_NOTES).min(source.size()?.saturating_sub(offset));
        let mut data = vec![0; bytes as usize];
        let read = source.read_at(offset, &mut data)?;
        data.truncate(read);
        Ok(data)
    };
    if sub.notes.1 > 0 {
        read_notes::<FileHeader64<Endianness>>(&read(sub.notes)?, header.endian, 4, notes);
    }
    if sub.vmcoreinfo.1 > 0 {
        notes.take_vmcoreinfo(&read(sub.vmcoreinfo)?);
    }
    Ok(())
}

/// The memory of a dump in one or more files.
struct Kdump<'s> {
    parts: Vec<Part<'s>>,
    block: u64,
}

impl fmt::Debug for Kdump<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kdump").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

/// Opens a dump in these files.
pub(crate) fn open<'s>(sources: Vec<Box<dyn Source + 's>>) -> Result<Image<'s>, ImageError> {
    let (mut notes, mut parts, mut machine, mut split) =
        (Notes::default(), Vec::new(), None, false);
    for source in sources {
        // The notes stand in each file.
        let mut its = Notes::default();
        let (part, its_machine, is_split) = Part::open(source, &mut its)?;
        if notes == Notes::default() {
            notes = its;
        }
        (machine, split) = (machine.or(its_machine), split | is_split);
        parts.push(part);
    }
    parts.sort_by_key(|part| part.frames.0);
    let block = parts.first().map_or(4096, |part| part.block);
    if parts.iter().any(|part| part.block != block)
        || parts.windows(2).any(|two| two[0].frames.1 > two[1].frames.0)
    {
        let why = "these files are no parts of one split dump: they hold the same frames";
        return Err(ImageError::Parts(why.to_owned()));
    }
    let mut cut = false;
    for part in &parts {
        cut |= part.is_cut()?;
    }
    let complete = parts.first().is_none_or(|part| part.frames.0 == 0)
        && parts.windows(2).all(|two| two[0].frames.1 == two[1].frames.0)
        && parts.last().is_none_or(|part| {
            part.frames.1 == part.bitmap.len() as u64 * 8
                || part.bits(part.frames.1, part.bitmap.len() as u64 * 8) == 0
        });
    // QEMU may call the machine "Unknown" (10.0 does), and its header is that of a 64-bit machine
    // if memory or firmware reaches 4 GiB.
    let machine = machine.or_else(|| notes.x86_machine());
    let mut image = Image::of(Form::Kdump, machine, notes, Box::new(Kdump { parts, block }));
    if cut {
        image.warn("the file is cut off: pages at its end are missing".to_owned());
    }
    if split && !complete {
        image.warn("the dump was split, and not all of its files are given (--part)".to_owned());
    }
    Ok(image)
}

impl Kdump<'_> {
    fn part(&self, frame: u64) -> Option<&Part<'_>> {
        self.parts.iter().find(|part| part.has(frame))
    }

    fn next(&self, frame: u64) -> Option<u64> {
        self.parts.iter().filter_map(|part| part.next(frame)).min()
    }
}

impl Memory for Kdump<'_> {
    fn piece(&self, address: u64) -> Piece {
        let frame = address / self.block;
        let bytes = self.block - address % self.block;
        if self.part(frame).is_some() {
            return Piece { held: Held::Stored, bytes };
        }
        if self.parts.iter().any(|part| part.is_memory(frame)) {
            return Piece { held: Held::LeftOut, bytes };
        }
        Piece { held: Held::Outside, bytes }
    }

    fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        let mut page = vec![0; self.block as usize];
        let mut done = 0;
        while done < buffer.len() {
            let here = address.saturating_add(done as u64);
            let (frame, skip) = (here / self.block, (here % self.block) as usize);
            let held = Held::LeftOut;
            let missing = Unreadable::Missing { address: here, held };
            self.part(frame).ok_or(missing)?.page(frame, &mut page)?;
            let count = (page.len() - skip).min(buffer.len() - done);
            buffer[done..done + count].copy_from_slice(&page[skip..skip + count]);
            done += count;
        }
        Ok(())
    }

    fn next_stored(&self, address: u64) -> Option<u64> {
        let frame = self.next(address / self.block)?;
        Some(frame.checked_mul(self.block)?.max(address))
    }

    fn bytes(&self) -> u64 {
        let pages = self.parts.iter().map(|part| part.before.last().copied().unwrap_or(0));
        pages.sum::<u64>().saturating_mul(self.block)
    }

    fn file_bytes(&self) -> u64 {
        self.parts.iter().fold(0, |sum, part| sum.saturating_add(part.length))
    }
}
