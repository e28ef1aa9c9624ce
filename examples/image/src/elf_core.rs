//! ELF cores of machines: program headers say where memory stands, notes what the CPUs held.
//!
//! Only headers and notes are read. Sources: System V ABI, "Program Header"; QEMU `dump/dump.c` for
//! what `dump-guest-memory` writes; Linux `fs/proc/vmcore.c` for `/proc/vmcore` and
//! `fs/proc/kcore.c` for `/proc/kcore`; VirtualBox `DBGFCoreWrite.cpp`.

use std::io;

use object::elf::{
    ELFCLASS32, ELFCLASS64, ELFDATA2MSB, ET_CORE, FileHeader32, FileHeader64, PT_LOAD, PT_NOTE,
};
use object::pod::{from_bytes, slice_from_bytes};
use object::read::elf::{FileHeader, NoteIterator, ProgramHeader, SectionHeader as _};
use object::{Endianness, Pod};

use crate::extents::{Extent, Extents};
use crate::notes::Notes;
use crate::source::{Source, read_exact};
use crate::{Form, Image, ImageError, xen};

/// Where in its first bytes a file says whether it is of 32 or of 64 bits, and its byte order.
const EI_CLASS: usize = 4;
const EI_DATA: usize = 5;
/// The most program headers that are read. A file of so many takes 224 MiB for them alone.
const MOST_HEADERS: u64 = 1 << 22;
/// The most bytes of notes that are read: a few thousand CPUs take a megabyte each.
const MOST_NOTES: u64 = 16 << 20;

fn damaged(why: impl Into<String>) -> ImageError {
    ImageError::Damaged { form: "ELF core", why: why.into() }
}

/// Opens an ELF core.
pub(crate) fn open<'s>(source: Box<dyn Source + 's>) -> Result<Image<'s>, ImageError> {
    let mut ident = [0; 16];
    if !read_exact(&*source, 0, &mut ident)? {
        return Err(damaged("it is shorter than its header"));
    }
    let endian = if ident[EI_DATA] == ELFDATA2MSB { Endianness::Big } else { Endianness::Little };
    match ident[EI_CLASS] {
        ELFCLASS64 => read::<FileHeader64<Endianness>>(source, endian),
        ELFCLASS32 => read::<FileHeader32<Endianness>>(source, endian),
        _ => Err(damaged("it is neither of 32 nor of 64 bits")),
    }
}

/// A structure at `offset`.
fn structure<T: Pod>(source: &dyn Source, offset: u64, what: &str) -> Result<T, ImageError> {
    let mut bytes = vec![0; size_of::<T>()];
    if !read_exact(source, offset, &mut bytes)? {
        return Err(damaged(format!("the {what} at offset {offset:#x} is not in the file")));
    }
    from_bytes::<T>(&bytes).map(|(it, _)| *it).map_err(|()| damaged(what))
}

/// What the program headers say.
struct Segments<W> {
    loads: Vec<Extent>,
    /// Memory that has no bytes in the file: address and length.
    left_out: Vec<(u64, u64)>,
    /// Offset, length and alignment.
    notes: Vec<(u64, u64, W)>,
}

fn read<'s, E: FileHeader<Endian = Endianness>>(
    source: Box<dyn Source + 's>,
    endian: Endianness,
) -> Result<Image<'s>, ImageError> {
    let header: E = structure(&*source, 0, "file header")?;
    if header.e_type(endian) != ET_CORE {
        return Err(ImageError::NotACore("it is a program, an object or a library"));
    }
    let mut count = u64::from(header.e_phnum(endian));
    if count == 0xffff {
        // More than fit: the first section says how many.
        let at = header.e_shoff(endian).into();
        count =
            structure::<E::SectionHeader>(&*source, at, "section header")?.sh_info(endian).into();
    }
    let segments = program_headers::<E>(&*source, &header, endian, count)?;
    let mut notes = Notes::default();
    let mut left = MOST_NOTES;
    let length = source.size()?;
    for (offset, bytes, align) in &segments.notes {
        let bytes = (*bytes).min(left).min(length.saturating_sub(*offset));
        left -= bytes;
        let mut data = vec![0; usize::try_from(bytes).unwrap_or(0)];
        let read = source.read_at(*offset, &mut data)?;
        read_notes::<E>(&data[..read], endian, *align, &mut notes);
    }
    let machine = Some(header.e_machine(endian));
    if segments.loads.is_empty() && segments.left_out.is_empty() {
        // Xen's cores have sections, and no program headers but for notes.
        if let Some(image) = xen::open::<E>(&*source, &header, endian)? {
            return image.into_image(source, machine);
        }
        return Err(damaged("it has no piece of memory"));
    }
    let memory = Extents::new(vec![source], segments.loads, segments.left_out)?;
    Ok(Image::of_extents(Form::ElfCore, machine, notes, memory, |lost| {
        format!("the file is cut off at {length} bytes: {lost} bytes of memory are missing")
    }))
}

/// Reads `count` program headers, some at a time.
fn program_headers<E: FileHeader<Endian = Endianness>>(
    source: &dyn Source,
    header: &E,
    endian: Endianness,
    count: u64,
) -> Result<Segments<E::Word>, ImageError> {
    const CHUNK: u64 = 4096;
    let size = size_of::<E::ProgramHeader>() as u64;
    if count > 0 && u64::from(header.e_phentsize(endian)) != size {
        return Err(damaged("its program headers are of another size"));
    }
    let first: u64 = header.e_phoff(endian).into();
    if count.saturating_mul(size) > source.size()?.saturating_sub(first) {
        return Err(damaged(format!("its {count} program headers are not all in the file")));
    }
    if count > MOST_HEADERS {
        let (what, limit) = ("program headers", MOST_HEADERS);
        return Err(ImageError::TooMany { form: "ELF core", what, count, limit });
    }
    let mut segments = Segments { loads: Vec::new(), left_out: Vec::new(), notes: Vec::new() };
    let mut buffer = Vec::new();
    for start in (0..count).step_by(CHUNK as usize) {
        let here = CHUNK.min(count - start);
        buffer.resize((here * size) as usize, 0);
        if !read_exact(source, first + start * size, &mut buffer)? {
            return Err(ImageError::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let (all, _) = slice_from_bytes::<E::ProgramHeader>(&buffer, here as usize)
            .map_err(|()| damaged("its program headers"))?;
        all.iter().for_each(|segment| segments.take(segment, endian));
    }
    Ok(segments)
}

impl<W: Into<u64> + Copy> Segments<W> {
    fn take<P: ProgramHeader<Endian = Endianness, Word = W>>(
        &mut self,
        segment: &P,
        endian: Endianness,
    ) {
        let (offset, stored) = segment.file_range(endian);
        match segment.p_type(endian) {
            PT_LOAD => {
                let start: u64 = segment.p_paddr(endian).into();
                // /proc/kcore has no physical address for what is not of the direct map.
                if start == u64::MAX || (size_of::<P>() == 32 && start == u64::from(u32::MAX)) {
                    return;
                }
                self.loads.push(Extent { start, bytes: stored, file: 0, offset });
                let all: u64 = segment.p_memsz(endian).into();
                if all > stored {
                    self.left_out.push((start.saturating_add(stored), all - stored));
                }
            }
            PT_NOTE => self.notes.push((offset, stored, segment.p_align(endian))),
            _ => {}
        }
    }
}

/// Takes in notes, as far as they can be read: what is damaged ends them.
pub(crate) fn read_notes<E: FileHeader<Endian = Endianness>>(
    data: &[u8],
    endian: Endianness,
    align: E::Word,
    notes: &mut Notes,
) {
    let Ok(mut all) = NoteIterator::<E>::new(endian, align, data) else { return };
    while let Ok(Some(note)) = all.next() {
        notes.take(note.name(), note.n_type(endian), note.desc());
    }
}
