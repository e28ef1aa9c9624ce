//! memflow's walker of x86-64: lists, or asked for addresses on standard input, as
//! `ask_volatility.py` is.
//!
//! memflow reads Windows' crash dumps, `/proc/kcore` and live machines, but no ELF core: its
//! connector for a file that is mapped is told where memory stands, by the core's program headers.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead as _, BufWriter, Write};

use memflow::architecture::x86::x64;
use memflow::connector::MmapInfo;
use memflow::mem::{MemoryMap, PhysicalMemory, VirtualDma, VirtualTranslate, VirtualTranslate3};
use memflow::types::{Address, umem};
use object::Endianness;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

type Failure = Box<dyn Error>;

/// The first and the last address of each half.
const HALVES: [(u64, u64); 2] = [(0, 0x7fff_ffff_ffff), (0xffff_8000_0000_0000, u64::MAX)];

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [what, core, root] = &words[..] else {
        return Err("ask-memflow list|ask CORE ROOT".into());
    };
    let root = Address::from(number(root)?);
    let memory = MmapInfo::try_with_filemap(File::open(core)?, map(core)?)?.into_connector();
    let mut out = BufWriter::new(io::stdout().lock());
    if what == "list" {
        list(memory, root, &mut out)?
    } else {
        ask(memory, root, &mut out)?
    }
    Ok(out.flush()?)
}

fn number(text: &str) -> Result<u64, Failure> {
    Ok(u64::from_str_radix(text.trim().trim_start_matches("0x"), 16)?)
}

/// Where memory stands in the core.
fn map(core: &str) -> Result<MemoryMap<(Address, umem)>, Failure> {
    let file = ReadCache::new(File::open(core)?);
    let header = FileHeader64::<Endianness>::parse(&file)?;
    let endian = header.endian()?;
    let pieces = header.program_headers(endian, &file)?.iter();
    let mut pieces: Vec<_> = pieces
        .filter(|piece| piece.p_type(endian) == PT_LOAD && piece.p_filesz(endian) > 0)
        .map(|piece| (piece.p_paddr(endian), piece.p_filesz(endian), piece.p_offset(endian)))
        .collect();
    pieces.sort_unstable();
    let mut map = MemoryMap::new();
    for (address, bytes, offset) in pieces {
        map.push_remap(address.into(), bytes, offset.into());
    }
    Ok(map)
}

fn list(memory: impl PhysicalMemory, root: Address, out: &mut impl Write) -> Result<(), Failure> {
    let mut memory = VirtualDma::new(memory, x64::ARCH, x64::new_translator(root));
    for (first, last) in HALVES {
        let mut ranges = Vec::new();
        memory.virt_translation_map_range(first.into(), last.into(), (&mut ranges).into());
        for range in ranges {
            let (at, to) = (range.in_virtual.to_umem(), range.out_physical.address().to_umem());
            writeln!(out, "{at:#x} {:#x} {to:#x}", range.size)?;
        }
    }
    Ok(())
}

fn ask(
    mut memory: impl PhysicalMemory,
    root: Address,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let translator = x64::new_translator(root);
    for line in io::stdin().lock().lines() {
        match translator.virt_to_phys(&mut memory, number(&line?)?.into()) {
            Ok(found) => writeln!(out, "{:#x}", found.address().to_umem())?,
            Err(_) => writeln!(out, "-")?,
        }
    }
    Ok(())
}
