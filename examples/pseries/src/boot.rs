//! Putting a kernel, an initrd, the device tree and RTAS where the guest finds them, and saying how
//! its first CPU begins.
//!
//! The kernel is an ELF file as Debian installs it (`/boot/vmlinux-…`), entered at its first byte
//! (Linux `Documentation/powerpc/booting.rst`): R3 is the device tree's address, R5 is 0 (there is
//! no Open Firmware), MSR as in [`ENTRY_MSR`].

use object::Endianness;
use object::elf::{EM_PPC64, ET_DYN, ET_EXEC, FileHeader64, PT_LOAD};
use object::read::elf::{FileHeader, ProgramHeader};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use super::layout::{Layout, MIN_MEMORY};
use super::rtas::BLOB;
use super::tree::{Machine, device_tree};

/// The machine state in which a CPU begins: 64-bit mode, machine checks on, no relocation (Power
/// ISA v3.0B, book III 3.2.1).
pub const ENTRY_MSR: u64 = 1 << 63 | 1 << 12;

/// How the first CPU begins, with [`ENTRY_MSR`] and all other registers 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub pc: u64,
    /// R3.
    pub r3: u64,
    /// What stands where.
    pub layout: Layout,
}

/// Why a kernel could not be put into memory.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// The file is no ELF file, or a broken one.
    #[error("the kernel: {0}")]
    Elf(#[from] object::Error),
    /// The file is for another machine, or is no program.
    #[error("the kernel is no ELF program for 64-bit POWER")]
    NotOurs,
    /// Nothing in it is loaded to the beginning of memory.
    #[error("the kernel has nothing to load at address 0")]
    NotAtZero,
    /// Something does not fit.
    #[error(
        "a kernel of {kernel} bytes and an initrd of {initrd} do not fit into {memory} bytes of memory, of which {MIN_MEMORY} are the least"
    )]
    Room {
        /// Bytes of the kernel, zeroed data included.
        kernel: u64,
        /// Bytes of the initrd.
        initrd: u64,
        /// Bytes of memory from address 0 on.
        memory: u64,
    },
    /// The hashed page table is too small for what the guest must reach in real mode.
    #[error(
        "a guest with this hashed page table reaches {0:#x} bytes in real mode, and needs {MIN_MEMORY:#x}"
    )]
    RealMode(u64),
    /// The tree could not be made, or is too large: many CPUs, a long command line.
    #[error("the device tree: {0}")]
    Tree(String),
    /// Memory did not take it.
    #[error("guest memory: {0}")]
    Memory(#[from] vm_memory::GuestMemoryError),
}

/// Fills `memory` for `machine`.
///
/// # Errors
/// [`BootError`]; memory then holds part of it.
pub fn boot<M: GuestMemoryBackend>(
    memory: &M,
    machine: Machine,
    kernel: &[u8],
    initrd: &[u8],
    command_line: &str,
) -> Result<Entry, BootError> {
    let segments = segments(kernel)?;
    let end = segments
        .iter()
        .map(|it| it.at.saturating_add(it.bytes))
        .max()
        .ok_or(BootError::NotAtZero)?;
    if !segments.iter().any(|it| it.at == 0) {
        return Err(BootError::NotAtZero);
    }
    // Only what reaches from 0 to the end without a hole counts.
    let available =
        memory.find_region(GuestAddress(0)).map_or(0, vm_memory::GuestMemoryRegion::len);
    let room = || BootError::Room { kernel: end, initrd: initrd.len() as u64, memory: available };
    let layout = Layout::new(available, end, initrd.len() as u64).ok_or_else(room)?;
    let real_mode = machine.real_mode(available);
    if real_mode < MIN_MEMORY {
        return Err(BootError::RealMode(real_mode));
    }
    for segment in segments {
        memory.write_slice(segment.content, GuestAddress(segment.at))?;
    }
    memory.write_slice(initrd, GuestAddress(layout.initrd))?;
    let tree = device_tree(machine, &layout, command_line)
        .map_err(|error| BootError::Tree(error.to_string()))?;
    if tree.len() as u64 > layout.tree_room {
        return Err(BootError::Tree(format!("{} bytes", tree.len())));
    }
    memory.write_slice(&tree, GuestAddress(layout.tree))?;
    for (at, word) in (GuestAddress(layout.rtas).raw_value()..).step_by(4).zip(BLOB) {
        memory.write_obj(word.to_be_bytes(), GuestAddress(at))?;
    }
    Ok(Entry { pc: 0, r3: layout.tree, layout })
}

/// A part of the kernel that is loaded.
struct Segment<'k> {
    at: u64,
    /// In memory; what `content` lacks is zero, as fresh memory is.
    bytes: u64,
    content: &'k [u8],
}

fn segments(kernel: &[u8]) -> Result<Vec<Segment<'_>>, BootError> {
    let header = FileHeader64::<Endianness>::parse(kernel)?;
    let endian = header.endian()?;
    if header.e_machine(endian) != EM_PPC64 || ![ET_EXEC, ET_DYN].contains(&header.e_type(endian)) {
        return Err(BootError::NotOurs);
    }
    let mut segments = Vec::new();
    for program in
        header.program_headers(endian, kernel)?.iter().filter(|it| it.p_type(endian) == PT_LOAD)
    {
        let content = program.data(endian, kernel).map_err(|()| BootError::NotOurs)?;
        segments.push(Segment {
            at: program.p_paddr(endian),
            bytes: program.p_memsz(endian),
            content,
        });
    }
    Ok(segments)
}
