//! ELF cores of Xen's `xl dump-core`: sections, and no program headers.
//!
//! `.xen_pages` has the pages one after the other; `.xen_pfn` says of which frame each is, or for a
//! paravirtual guest, whose tables hold machine frames, `.xen_p2m` of which machine frame.
//! `.xen_prstatus` has each CPU's `vcpu_guest_context`. Source: Xen
//! `docs/misc/dump-core-format.txt`.

use object::Endianness;
use object::pod::slice_from_bytes;
use object::read::elf::{FileHeader, SectionHeader};

use crate::extents::{Extent, Extents};
use crate::notes::{Notes, X86Registers};
use crate::source::{Source, read_exact};
use crate::{Form, Image, ImageError};

/// The most sections, the longest table of their names, and the most pieces that are read.
const MOST_SECTIONS: u64 = 1 << 10;
const MOST_NAMES: u64 = 1 << 16;
const MOST_PIECES: usize = 1 << 22;
/// Bytes of `vcpu_guest_context` of x86-64.
const CONTEXT: u64 = 5168;

/// What a core's sections say.
pub(crate) struct XenCore {
    extents: Vec<Extent>,
    notes: Notes,
}

impl XenCore {
    pub(crate) fn into_image<'s>(
        self,
        source: Box<dyn Source + 's>,
        machine: Option<u16>,
    ) -> Result<Image<'s>, ImageError> {
        let memory = Extents::new(vec![source], self.extents, [])?;
        Ok(Image::of_extents(Form::XenCore, machine, self.notes, memory, |lost| {
            format!("the file is cut off: {lost} bytes of memory are missing")
        }))
    }
}

fn damaged(why: &str) -> ImageError {
    ImageError::Damaged { form: "Xen core", why: why.to_owned() }
}

/// The core's pages and CPUs; `None` if it has no `.xen_pages`.
pub(crate) fn open<E: FileHeader<Endian = Endianness>>(
    source: &dyn Source,
    header: &E,
    endian: Endianness,
) -> Result<Option<XenCore>, ImageError> {
    let count = u64::from(header.e_shnum(endian));
    if count == 0 || count > MOST_SECTIONS {
        return Ok(None);
    }
    let mut bytes = vec![0; count as usize * size_of::<E::SectionHeader>()];
    if !read_exact(source, header.e_shoff(endian).into(), &mut bytes)? {
        return Err(damaged("its section headers are not in the file"));
    }
    let Ok((sections, _)) = slice_from_bytes::<E::SectionHeader>(&bytes, count as usize) else {
        return Ok(None);
    };
    let Some(table) = sections.get(usize::from(header.e_shstrndx(endian))) else {
        return Ok(None);
    };
    let place = |section: &E::SectionHeader| -> (u64, u64) {
        (section.sh_offset(endian).into(), section.sh_size(endian).into())
    };
    let (at, length) = place(table);
    let mut names = vec![0; length.min(MOST_NAMES) as usize];
    let read = source.read_at(at, &mut names)?;
    names.truncate(read);
    let find = |wanted: &str| {
        sections.iter().find(|section| {
            let name = names.get(section.sh_name(endian) as usize..).unwrap_or_default();
            name.split(|byte| *byte == 0).next() == Some(wanted.as_bytes())
        })
    };
    let Some(pages) = find(".xen_pages") else { return Ok(None) };
    let page: u64 = match pages.sh_entsize(endian).into() {
        size if size >= 4096 && size.is_power_of_two() => size,
        _ => 4096,
    };
    let frames = match (find(".xen_p2m"), find(".xen_pfn")) {
        (Some(table), _) => Frames { place: place(table), size: 16, within: 8 },
        (None, Some(table)) => Frames { place: place(table), size: 8, within: 0 },
        (None, None) => return Err(damaged("neither .xen_p2m nor .xen_pfn is there")),
    };
    let extents = frames.extents(source, endian, place(pages).0, page)?;
    let mut notes = Notes::default();
    if let Some((at, length)) = find(".xen_prstatus").map(place) {
        for n in 0..(length / CONTEXT).min(4096) {
            let mut state = vec![0; CONTEXT as usize];
            if read_exact(source, at.saturating_add(n * CONTEXT), &mut state)? {
                notes.cpus += 1;
                notes.x86.extend(X86Registers::of_xen(&state));
            }
        }
    }
    Ok(Some(XenCore { extents, notes }))
}

/// The table that says of which frame each page is.
struct Frames {
    place: (u64, u64),
    /// Bytes of an entry, and where in it the frame's number stands.
    size: usize,
    within: usize,
}

impl Frames {
    fn extents(
        &self,
        source: &dyn Source,
        endian: Endianness,
        pages: u64,
        page: u64,
    ) -> Result<Vec<Extent>, ImageError> {
        const CHUNK: usize = 1 << 16;
        let (at, length) = self.place;
        let length = length.min(source.size()?.saturating_sub(at));
        let mut extents: Vec<Extent> = Vec::new();
        let (mut done, mut offset) = (0, pages);
        let mut buffer = vec![0; CHUNK];
        while done < length {
            let here = (CHUNK as u64).min(length - done) as usize;
            let read = source.read_at(at + done, &mut buffer[..here])?;
            for entry in buffer[..read].chunks_exact(self.size) {
                let mut word = [0; 8];
                word.copy_from_slice(&entry[self.within..self.within + 8]);
                let frame = match endian {
                    Endianness::Little => u64::from_le_bytes(word),
                    Endianness::Big => u64::from_be_bytes(word),
                };
                let start = frame.checked_mul(page);
                // Neither the memory nor its place in the file goes beyond 2^64.
                let fits = |start: &u64| {
                    start.checked_add(page).is_some() && offset.checked_add(page).is_some()
                };
                if let Some(start) = start.filter(fits) {
                    let new = Extent { start, bytes: page, file: 0, offset };
                    match extents.last_mut() {
                        Some(last) if last.start.checked_add(last.bytes) == Some(start) => {
                            last.bytes += page;
                        }
                        _ => extents.push(new),
                    }
                }
                offset = offset.saturating_add(page);
            }
            if extents.len() > MOST_PIECES {
                let (what, count) = ("pieces of memory", extents.len() as u64);
                let limit = MOST_PIECES as u64;
                return Err(ImageError::TooMany { form: "Xen core", what, count, limit });
            }
            done += here as u64;
        }
        Ok(extents)
    }
}
