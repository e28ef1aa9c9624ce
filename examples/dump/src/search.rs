//! What is found in memory by its looks: process tables, and what Linux says of itself.
//!
//! A process table stands at a multiple of 4 KiB; its entry 0 is one for a supported tree (Power
//! ISA v3.0B Book III, "Process Table") whose root is in the image and which maps the effective
//! address 0xc000000000000000 to 0, as every Linux on POWER does. The text of VMCOREINFO stands at
//! the beginning of a page and begins with `OSRELEASE=` (Linux 4.13 and later).
//!
//! Holes of the file are not read. An image whose pieces lie over one another in the file is larger
//! than the file; a search reads at most [`MOST`] times as much as the file has.

use memory_image::{Form, Held, Image, Piece, VmcoreInfo};
use pgtable_ppc64::radix::{ProcessTable, Prte, Strictness};

use super::radix_root::{maps_linearly, process_table};
use super::root::{Located, Root};

/// Read at a time.
const CHUNK: usize = 1 << 20;
/// Where things begin.
const STEP: u64 = 1 << 12;
/// How often the bytes of the file are read at most.
const MOST: u64 = 2;
/// The most root tables.
const MOST_ROOTS: usize = 1 << 16;
/// The most places that are taken for structures of Linux.
const MOST_TRACES: usize = 1 << 12;
/// Words of a root table that is a page.
const WORDS: usize = 512;
/// The most candidates of a kind.
const CANDIDATES: usize = 16;

/// Calls `visit` for each page of the image that is no hole, until it says that it is enough.
/// Whether all were seen.
fn for_each_page(
    image: &Image<'_>,
    progress: &dyn Fn(u64, u64),
    visit: &mut dyn FnMut(u64, &[u8]) -> bool,
) -> bool {
    let total = image.bytes();
    let most = match image.form() {
        // A page takes at least the 24 bytes of its descriptor, a frame of 64 KiB more than that.
        Form::Kdump | Form::Avml => 4096,
        _ => MOST,
    };
    let mut budget = image.file_bytes().saturating_mul(most).saturating_add(64 << 20);
    let mut buffer = vec![0; CHUNK];
    let (mut next, mut done) = (0_u64, 0_u64);
    while let Some(data) = image.next_data(next) {
        // A page that begins before its first byte in the image is not all there.
        let Some(address) = data.checked_next_multiple_of(STEP) else { break };
        progress(done, total);
        let length = match image.piece(address) {
            Piece { held: Held::Stored, bytes } if bytes >= STEP => bytes.min(CHUNK as u64),
            // Pieces may meet within a page.
            _ if image.holds(address, STEP) => STEP,
            _ => 0,
        };
        let length = length / STEP * STEP;
        if length > budget {
            return false;
        }
        budget -= length;
        done += length;
        let chunk = &mut buffer[..length as usize];
        // What is damaged is passed over.
        if image.read(address, chunk).is_ok() {
            for (index, page) in chunk.chunks(STEP as usize).enumerate() {
                if !visit(address + index as u64 * STEP, page) {
                    return true;
                }
            }
        }
        match address.checked_add(length.max(STEP)) {
            Some(end) => next = end,
            None => break,
        }
    }
    true
}

/// The process tables in memory with the root of process 0, and whether all of memory was seen.
pub(crate) fn search_process_tables(
    image: &Image<'_>,
    progress: &dyn Fn(u64, u64),
) -> (Vec<(ProcessTable, u64)>, bool) {
    let mut found = Vec::new();
    let complete = for_each_page(image, progress, &mut |at, page| {
        found.extend(looks_like(image, at, page));
        found.len() < CANDIDATES
    });
    (found, complete)
}

fn looks_like(image: &Image<'_>, at: u64, page: &[u8]) -> Option<(ProcessTable, u64)> {
    let word = |n: usize| Some(u64::from_be_bytes(page.get(n * 8..n * 8 + 8)?.try_into().ok()?));
    let prte = Prte { tree: word(0)?.into(), reserved: word(1)? };
    let root = prte.root(Strictness::Strict)?;
    let table = process_table(at)?;
    maps_linearly(image, root).then_some((table, root))
}

/// Physical addresses at which a Linux kernel's own structures may stand.
#[derive(Default)]
pub(crate) struct Traces {
    /// Of BTF, by its first bytes, in either byte order.
    pub types: Vec<u64>,
    /// Of the name of an idle task.
    pub idle: Vec<u64>,
}

/// The traces of Linux in memory, as many of each kind as are worth a look.
pub(crate) fn search_traces(image: &Image<'_>, progress: &dyn Fn(u64, u64)) -> Traces {
    const MAGIC: [[u8; 4]; 2] = [[0x9f, 0xeb, 1, 0], [0xeb, 0x9f, 1, 0]];
    let mut found = Traces::default();
    for_each_page(image, progress, &mut |at, page| {
        let places = |what: &[u8]| {
            memchr::memmem::find_iter(page, what).map(|place| at + place as u64).collect::<Vec<_>>()
        };
        if found.types.len() < MOST_TRACES {
            MAGIC.iter().for_each(|magic| found.types.extend(places(magic)));
        }
        if found.idle.len() < MOST_TRACES {
            found.idle.extend(places(b"swapper/").into_iter().chain(places(b"swapper\0")));
        }
        found.types.len() < MOST_TRACES || found.idle.len() < MOST_TRACES
    });
    found
}

/// The entries of the process table whose process 0 has its root at `kernel`, and whether all of
/// memory was seen; `None` if there is no such table.
pub(crate) fn search_process_table(
    image: &Image<'_>,
    kernel: u64,
    progress: &dyn Fn(u64, u64),
) -> Option<(Vec<(u64, u64)>, bool)> {
    let (tables, complete) = search_process_tables(image, progress);
    let (table, _) = tables.into_iter().find(|(_, root)| *root == kernel)?;
    let base = table.base().get();
    let mut entries = Vec::new();
    for pid in 1..table.entries() {
        let mut entry = [0; 16];
        if image.read(base + pid * 16, &mut entry).is_err() {
            return Some((entries, false));
        }
        let word =
            |at: usize| entry[at..at + 8].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        let prte = Prte { tree: word(0).into(), reserved: word(8) };
        entries.extend(prte.root(Strictness::Strict).map(|root| (pid, root)));
    }
    Some((entries, complete))
}

/// The root tables in memory, apart from the kernel's own, whose upper half is the kernel's, and
/// whether all of memory was seen; `None` if the kernel's own cannot be read.
pub(crate) fn search_roots(
    image: &Image<'_>,
    kernel: &Located,
    progress: &dyn Fn(u64, u64),
) -> Option<(Vec<u64>, bool)> {
    // Of an entry that is a leaf the hardware records what is accessed and written.
    let (present, recorded) = match &kernel.root {
        Root::LongMode(..) => (1_u64, 0x60_u64),
        _ => (1, 0xc0),
    };
    let words = |page: &[u8]| -> Vec<u64> {
        let word =
            |bytes: &[u8]| bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        page.chunks_exact(8).map(|bytes| word(bytes) & !(kernel.foreign | recorded)).collect()
    };
    let root = kernel.root.address();
    let mut page = vec![0; WORDS * 8];
    image.read(root, &mut page).ok()?;
    let own = words(&page);
    let upper: Vec<_> = (WORDS / 2..WORDS).filter(|n| own[*n] & present != 0).collect();
    let last = *upper.last()?;
    let mut found = Vec::new();
    let complete = for_each_page(image, progress, &mut |at, page| {
        // Most pages differ in the last of these entries.
        let ends = last * 8..last * 8 + 8;
        if at != root && page.len() == WORDS * 8 && words(&page[ends])[0] == own[last] {
            let its = words(page);
            // Each process has a local descriptor table of its own.
            let differ = upper.iter().filter(|n| its[**n] != own[**n]).count();
            let used = its[..WORDS / 2].iter().any(|word| word & present != 0);
            if used && differ <= 1 && upper.len() > 2 {
                found.push(at);
            }
        }
        found.len() < MOST_ROOTS
    });
    Some((found, complete))
}

/// What Linux says of itself somewhere in memory, each text once, and whether all of memory was
/// seen.
pub(crate) fn search_vmcoreinfo(
    image: &Image<'_>,
    progress: &dyn Fn(u64, u64),
) -> (Vec<VmcoreInfo>, bool) {
    let mut found = Vec::new();
    let complete = for_each_page(image, progress, &mut |_, page| {
        if page.starts_with(b"OSRELEASE=") {
            let end = page.iter().position(|byte| *byte == 0).unwrap_or(page.len());
            let info = VmcoreInfo::of_text(&page[..end]);
            let whole = info.get("PAGESIZE").is_some() && info.symbol("swapper_pg_dir").is_some();
            if whole && !found.contains(&info) {
                found.push(info);
            }
        }
        found.len() < CANDIDATES
    });
    (found, complete)
}
