//! Images of a machine's memory, as files: raw ones, and ELF cores. They may be sparse and far
//! larger than memory; what is not asked for is not read.
//!
//! An [`Image`] says where in the file each piece of physical memory stands ([`Extent`]), and what
//! the core's notes tell about the CPUs ([`Notes`]). [`ImageTables`] makes it table memory for
//! `pgtable`'s walkers.
//!
//! # Hostile images
//! No word of a file is believed: headers are counted before they are read, notes are cut off at a
//! limit, extents are clipped to the file, and whoever reads tables has an [`Allowance`] that
//! bounds both the work and the memory that it costs.

mod elf_core;
mod error;
mod extents;
mod notes;
mod source;
mod tables;

pub use error::ImageError;
pub use extents::{Extent, Extents};
pub use notes::{Notes, VmcoreInfo, X86Registers};
pub use source::Source;
pub use tables::{Allowance, ImageTables, Kind};

/// What kind of file an image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// The bytes of memory, one after the other.
    Raw,
    /// An ELF core: QEMU's `dump-guest-memory`, or `/proc/vmcore`.
    ElfCore,
}

/// An image of physical memory.
#[derive(Debug)]
pub struct Image<S> {
    source: S,
    form: Form,
    machine: Option<u16>,
    extents: Extents,
    notes: Notes,
}

impl<S: Source> Image<S> {
    /// Opens an image, an ELF core if it looks like one, else a raw one whose first byte has the
    /// physical address `base`.
    ///
    /// # Errors
    /// [`ImageError`]: a file that cannot be read, a damaged ELF core, or a form that has to be
    /// converted first.
    pub fn open(source: S, base: u64) -> Result<Self, ImageError> {
        let mut magic = [0; 12];
        let length = source.len()?;
        let read = source.read_at(0, &mut magic)?;
        match &magic[..read] {
            [0x7f, b'E', b'L', b'F', ..] => elf_core::open(source),
            [b'K', b'D', b'U', b'M', b'P', b' ', b' ', b' ', ..] => {
                Err(ImageError::Compressed("kdump-compressed"))
            }
            b"makedumpfile" => Err(ImageError::Compressed("flattened")),
            _ => {
                let extents = Extents::new([Extent {
                    start: base,
                    bytes: length,
                    offset: 0,
                    stored: length,
                }]);
                Ok(Self {
                    source,
                    form: Form::Raw,
                    machine: None,
                    extents,
                    notes: Notes::default(),
                })
            }
        }
    }

    /// What kind of file it is.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Which machine an ELF core is of (`e_machine`: 62 for x86-64, 21 for POWER).
    pub fn machine(&self) -> Option<u16> {
        self.machine
    }

    /// Where memory stands in the file.
    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// What a core's notes tell.
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// Where the bytes come from.
    pub fn source(&self) -> &S {
        &self.source
    }

    /// The memory as table memory. It keeps what it has read until it is dropped.
    pub fn tables(&self, allowance: Allowance) -> ImageTables<'_, S> {
        ImageTables::new(&self.source, &self.extents, allowance)
    }
}
