//! ELF cores of machines: program headers say where memory stands, notes what the CPUs held.
//!
//! Only headers and notes are read. Sources: System V ABI, "Program Header"; QEMU `dump/dump.c` for
//! what `dump-guest-memory` writes; Linux `fs/proc/vmcore.c` for `/proc/vmcore`.

use std::io::{self, Read, Seek, SeekFrom};

use object::elf::{ELFCLASS64, ET_CORE, FileHeader64, PT_LOAD, PT_NOTE};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader};
use object::{Endianness, ReadCache};

use super::{Extent, Extents, Form, Image, ImageError, Notes, Source};

/// Where in its first bytes a file says whether it is of 32 or of 64 bits.
const EI_CLASS: usize = 4;
/// The most program headers that are read: far more than a machine has pieces of memory.
const MOST_HEADERS: u64 = 1 << 16;
/// The most bytes of notes that are read: a few thousand CPUs take a megabyte each.
const MOST_NOTES: u64 = 16 << 20;

/// A source as object's reader wants it.
struct Reader<'s, S> {
    source: &'s S,
    position: u64,
}

impl<S: Source> Read for Reader<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read_at(self.position, buffer)?;
        self.position = self.position.saturating_add(read as u64);
        Ok(read)
    }
}

impl<S: Source> Seek for Reader<'_, S> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(offset) => self.source.len()?.checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

/// Opens an ELF core.
pub fn open<S: Source>(source: S) -> Result<Image<S>, ImageError> {
    let length = source.len()?;
    let (machine, extents, notes) = {
        let cache = ReadCache::new(Reader { source: &source, position: 0 });
        let data = &cache;
        let mut ident = [0; 16];
        if source.read_at(0, &mut ident)? < ident.len() || ident[EI_CLASS] != ELFCLASS64 {
            return Err(ImageError::NotACore("it is not of 64 bits"));
        }
        let header = FileHeader64::<Endianness>::parse(data)?;
        let endian = header.endian()?;
        if header.e_type(endian) != ET_CORE {
            return Err(ImageError::NotACore("it is a program, an object or a library"));
        }
        let count = header.phnum(endian, data)? as u64;
        if count > MOST_HEADERS {
            return Err(ImageError::TooMany {
                what: "program headers",
                count,
                limit: MOST_HEADERS,
            });
        }
        let (mut loads, mut notes) = (Vec::new(), Notes::default());
        let mut left = MOST_NOTES;
        for segment in header.program_headers(endian, data)? {
            let (offset, stored) = segment.file_range(endian);
            let stored = stored.min(length.saturating_sub(offset));
            match segment.p_type(endian) {
                PT_LOAD => {
                    let bytes = segment.p_memsz(endian).max(segment.p_filesz(endian));
                    // A file that is cut short holds less memory than it says: what is missing is
                    // missing, not zero.
                    let cut = stored < segment.p_filesz(endian);
                    let bytes = if cut { stored } else { bytes };
                    loads.push(Extent { start: segment.p_paddr(endian), bytes, offset, stored });
                }
                PT_NOTE => {
                    let bytes = stored.min(left);
                    left -= bytes;
                    read_notes(
                        &source,
                        offset,
                        bytes,
                        endian,
                        segment.p_align(endian),
                        &mut notes,
                    )?;
                }
                _ => {}
            }
        }
        (header.e_machine(endian), Extents::new(loads), notes)
    };
    Ok(Image { source, form: Form::ElfCore, machine: Some(machine), extents, notes })
}

/// Takes in the notes of a segment, as far as they can be read: what is damaged ends them.
fn read_notes<S: Source>(
    source: &S,
    offset: u64,
    bytes: u64,
    endian: Endianness,
    align: u64,
    notes: &mut Notes,
) -> Result<(), ImageError> {
    let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
    let read = source.read_at(offset, &mut data)?;
    data.truncate(read);
    let Ok(mut all) = NoteIterator::<FileHeader64<Endianness>>::new(endian, align, &data) else {
        return Ok(());
    };
    while let Ok(Some(note)) = all.next() {
        notes.take(note.name(), note.n_type(endian), note.desc());
    }
    Ok(())
}
