//! Images of a machine's physical memory, as files: raw ones, ELF cores, and what hypervisors,
//! crash tools and forensic tools write. They may be sparse and far larger than memory; what is not
//! asked for is not read, and nothing is unpacked whole.
//!
//! | form | writer |
//! | --- | --- |
//! | raw, in one piece or several | QEMU's and other VMMs' memory files, `/dev/mem`, LiME `raw` and `padded` |
//! | ELF core | QEMU, `virsh dump --memory-only`, `/proc/vmcore`, `/proc/kcore`, VirtualBox; of Xen by sections |
//! | kdump-compressed | makedumpfile, QEMU, libvirt: zlib, lzo, snappy, zstd; split; flattened |
//! | LiME, AVML | of AVML both versions |
//! | a machine that QEMU runs | by its QMP socket: [`Image::open_qmp`] |
//! | VMware | `.vmem` with its `.vmss` or `.vmsn` |
//!
//! An [`Image`] reads physical memory ([`Image::read`]), says of what it does not hold what became
//! of it ([`Held`]), and tells what the file says about CPUs and kernel ([`Notes`]).
//! [`ImageTables`] makes it table memory for `pgtable`'s walkers.
//!
//! # Hostile images
//! No word of a file is believed: headers are counted before they are read, notes are cut off at a
//! limit, memory is clipped to the file, and readers of tables have an [`Allowance`] that bounds
//! both the work and the memory that it costs.

mod codec;
mod elf_core;
mod error;
mod extents;
mod flattened;
mod guest;
mod kdump;
mod lime;
mod magic;
mod memory;
mod notes;
mod qmp;
mod shared_file;
mod source;
mod tables;
mod vmware;
mod xen;

pub use error::ImageError;
pub use extents::Extent;
pub use guest::GuestPiece;
pub use memory::{Held, Piece, Unreadable};
pub use notes::{Notes, VmcoreInfo, X86Registers};
pub use source::Source;
pub use tables::{Allowance, ImageTables, Kind};

use extents::Extents;
use flattened::Flattened;
use memory::Memory;

/// What kind of file an image is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Form {
    /// The bytes of memory, one after the other, or in pieces that the user named.
    Raw,
    /// An ELF core.
    ElfCore,
    /// An ELF core of Xen, which has sections.
    XenCore,
    /// A kdump-compressed file, or several.
    Kdump,
    /// LiME's format, which AVML 1 shares.
    Lime,
    /// AVML 2.
    Avml,
    /// VMware's `.vmem` and its state file.
    Vmware,
    /// A guest's memory inside its host's.
    Guest,
    /// A machine that QEMU runs.
    Qmp,
}

impl Form {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw memory",
            Self::ElfCore => "ELF core",
            Self::XenCore => "ELF core of Xen",
            Self::Kdump => "kdump-compressed",
            Self::Lime => "LiME",
            Self::Avml => "AVML",
            Self::Vmware => "VMware",
            Self::Guest => "a guest's memory",
            Self::Qmp => "a machine of QEMU's",
        }
    }
}

/// An image of physical memory.
#[derive(Debug)]
pub struct Image<'s> {
    memory: Box<dyn Memory + 's>,
    form: Form,
    machine: Option<u16>,
    notes: Notes,
    warnings: Vec<String>,
}

impl<'s> Image<'s> {
    /// Opens an image: by its first bytes one of the forms that are read, or raw memory whose first
    /// byte has the physical address `base`.
    ///
    /// # Errors
    /// [`ImageError`]: a file that cannot be read or is damaged in its headers, or one of a form
    /// that holds no memory as it is, which is then named.
    pub fn open(source: impl Source + 's, base: u64) -> Result<Self, ImageError> {
        Self::open_parts(vec![Box::new(source)], base)
    }

    /// Opens an image of several files: the parts of a split dump, or a `.vmem` and its state file.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`ImageError::Parts`] for files that do not belong together.
    pub fn open_parts(
        mut sources: Vec<Box<dyn Source + 's>>,
        base: u64,
    ) -> Result<Self, ImageError> {
        let mut states = Vec::new();
        let mut all = Vec::new();
        for source in sources.drain(..) {
            let first = first_bytes(&*source)?;
            if first.starts_with(flattened::SIGNATURE) {
                let flat = Flattened::open(source)?;
                let complete = flat.complete;
                all.push((first_bytes(&flat)?, Box::new(flat) as Box<dyn Source + 's>, complete));
            } else if vmware::is_state(&first) {
                states.push(source);
            } else {
                all.push((first, source, true));
            }
        }
        let complete = all.iter().all(|(.., complete)| *complete);
        let mut image = match (states.pop(), states.len()) {
            (Some(state), 0) if all.len() <= 1 => {
                vmware::open(state, all.pop().map(|(_, memory, _)| memory))?
            }
            (Some(_), _) => {
                let why = "a VMware machine is one state file and one .vmem".to_owned();
                return Err(ImageError::Parts(why));
            }
            (None, _) if all.iter().all(|(first, ..)| first.starts_with(b"KDUMP   ")) => {
                kdump::open(all.into_iter().map(|(_, source, _)| source).collect())?
            }
            (None, _) => match (all.pop(), all.len()) {
                (Some((first, source, _)), 0) => Self::open_one(&first, source, base)?,
                _ => {
                    let why = "only kdump-compressed files and VMware's come in several parts";
                    return Err(ImageError::Parts(why.to_owned()));
                }
            },
        };
        if !complete {
            image.warn("the flattened file is cut off".to_owned());
        }
        Ok(image)
    }

    fn open_one(first: &[u8], source: Box<dyn Source + 's>, base: u64) -> Result<Self, ImageError> {
        match first {
            [0x7f, b'E', b'L', b'F', ..] => elf_core::open(source),
            [b'E', b'M', b'i', b'L', ..] => lime::open(source),
            [b'A', b'V', b'M', b'L', ..] => lime::open_packed(source),
            _ => {
                magic::refuse(first)?;
                let bytes = source.size()?;
                Self::raw(vec![source], [Extent { start: base, bytes, file: 0, offset: 0 }])
            }
        }
    }

    /// Raw memory in pieces, each of which stands in one of `sources`.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn raw(
        sources: Vec<Box<dyn Source + 's>>,
        extents: impl IntoIterator<Item = Extent>,
    ) -> Result<Self, ImageError> {
        let memory = Extents::new(sources, extents, [])?;
        Ok(Self::of_extents(Form::Raw, None, Notes::default(), memory, |lost| {
            format!("{lost} bytes of the pieces lie behind the end of their file")
        }))
    }

    pub(crate) fn of(
        form: Form,
        machine: Option<u16>,
        notes: Notes,
        memory: Box<dyn Memory + 's>,
    ) -> Self {
        Self { memory, form, machine, notes, warnings: Vec::new() }
    }

    /// An image of what stands as it is in files; `cut` says that so many bytes of it lie behind
    /// their ends.
    pub(crate) fn of_extents(
        form: Form,
        machine: Option<u16>,
        notes: Notes,
        memory: Extents<'s>,
        cut: impl FnOnce(u64) -> String,
    ) -> Self {
        let lost = Some(memory.lost()).filter(|lost| *lost > 0);
        let warnings = lost.map(cut).into_iter().chain(memory.doubt()).collect();
        Self { warnings, ..Self::of(form, machine, notes, Box::new(memory)) }
    }

    pub(crate) fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// What kind of file it is.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// Which machine it is of, if the file says so (`e_machine` of ELF: 62 for x86-64, 21 for
    /// POWER).
    #[must_use]
    pub fn machine(&self) -> Option<u16> {
        self.machine
    }

    /// What the file tells about CPUs and kernel.
    #[must_use]
    pub fn notes(&self) -> &Notes {
        &self.notes
    }

    /// What is wrong with the file as a whole: that it is cut off, that parts are missing.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What the image has of the memory at `address`, and for how many bytes that holds.
    #[must_use]
    pub fn piece(&self, address: u64) -> Piece {
        self.memory.piece(address)
    }

    /// Whether all of the `bytes` bytes from `address` on are stored.
    #[must_use]
    pub fn holds(&self, address: u64, bytes: u64) -> bool {
        missing(&*self.memory, address, bytes).is_none()
    }

    /// The first address from `address` on that is stored.
    #[must_use]
    pub fn next_stored(&self, address: u64) -> Option<u64> {
        self.memory.next_stored(address)
    }

    /// The first address from `address` on that is stored and, as far as the file system tells, no
    /// hole in the file.
    #[must_use]
    pub fn next_data(&self, address: u64) -> Option<u64> {
        self.memory.next_data(address)
    }

    /// How many bytes of memory are stored.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// How many bytes the image's files have.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.memory.file_bytes()
    }

    /// Reads the memory at `address` into all of `buffer`.
    ///
    /// # Errors
    /// [`Unreadable`], with the first address that is missing or damaged.
    pub fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
        read(&*self.memory, address, buffer)
    }

    /// The memory as table memory. It keeps what it has read until it is dropped.
    #[must_use]
    pub fn tables(&self, allowance: Allowance) -> ImageTables<'_> {
        ImageTables::new(&*self.memory, allowance)
    }
}

/// The first bytes of a file.
fn first_bytes(source: &dyn Source) -> Result<Vec<u8>, ImageError> {
    let mut first = vec![0; 32];
    let read = source.read_at(0, &mut first)?;
    first.truncate(read);
    Ok(first)
}

/// The first address of the `bytes` bytes from `address` on that is not stored, and why.
fn missing(memory: &dyn Memory, address: u64, bytes: u64) -> Option<(u64, Held)> {
    let mut done = 0;
    while done < bytes {
        let Some(here) = address.checked_add(done) else { return Some((address, Held::Outside)) };
        let piece = memory.piece(here);
        if piece.held != Held::Stored {
            return Some((here, piece.held));
        }
        done = done.saturating_add(piece.bytes);
    }
    None
}

fn read(memory: &dyn Memory, address: u64, buffer: &mut [u8]) -> Result<(), Unreadable> {
    match missing(memory, address, buffer.len() as u64) {
        Some((address, held)) => Err(Unreadable::Missing { address, held }),
        None => memory.read(address, buffer),
    }
}
