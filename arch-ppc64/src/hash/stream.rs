//! The migration stream: a table as bytes, in the format of KVM's HTAB file descriptor
//! (`KVM_PPC_GET_HTAB_FD`).
//!
//! A stream is a sequence of chunks: a header, in the *host's* byte order, then as many entries as
//! it says, big-endian, in the older layout. The first pass has all entries; each later pass those
//! that changed since, a vanished entry counting as a change. What changed the table without
//! software's help (R and C set by hardware itself) is noticed with the entry's next change; so the
//! last pass before a switch-over, with the guest stopped, is best a [`Pass::First`] again where
//! hardware sets R and C.
//!
//! A table has one reader of changes: reading clears the marks, here (MODIFIED) as in KVM, where
//! all file descriptors of a VM share them.
//!
//! KVM takes **one chunk per `write`**: it does not go on behind the first. [`chunks`] cuts a
//! stream up for it; [`load`] takes any number.

use core::mem::size_of;
use core::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::TableMemory;
use zerocopy::byteorder::{BigEndian, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, native_endian};

use super::checked::CheckedEntry;
use super::hpte::{Hpte, HpteR, HpteV};
use super::order::HptOrder;
use super::slot::Slot;
use super::table::{Hpt, HptError};

/// What stands before the entries of a chunk.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct ChunkHeader {
    /// The place of the first entry.
    pub index: native_endian::U32,
    /// How many entries follow.
    pub n_valid: native_endian::U16,
    /// How many places after these are empty.
    pub n_invalid: native_endian::U16,
}

/// An entry of a stream.
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    Debug,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(C)]
pub struct ChunkEntry {
    /// The first doubleword.
    pub v: U64<BigEndian>,
    /// The second doubleword.
    pub r: U64<BigEndian>,
}

impl From<Hpte> for ChunkEntry {
    fn from(hpte: Hpte) -> Self {
        Self { v: hpte.v.visible().into_bits().into(), r: hpte.r.into_bits().into() }
    }
}

impl From<ChunkEntry> for Hpte {
    fn from(entry: ChunkEntry) -> Self {
        Self { v: HpteV::from_bits(entry.v.get()).visible(), r: HpteR::from_bits(entry.r.get()) }
    }
}

/// A piece of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk<'b> {
    /// The place of the first entry.
    pub index: u32,
    /// The entries.
    pub entries: &'b [ChunkEntry],
    /// How many places after them are empty.
    pub n_invalid: u16,
    /// All of it, header included: what one `write` takes.
    pub bytes: &'b [u8],
}

/// Why a stream could not be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The stream ends in the middle of a chunk.
    #[error("the stream ends within the chunk at byte {at}")]
    Truncated {
        /// Where the chunk begins.
        at: usize,
    },
    /// A chunk goes beyond the end of the table.
    #[error("entries from {index:#x} on are beyond the table")]
    Beyond {
        /// The chunk's first place.
        index: u32,
    },
    /// An entry is not valid: V is 0, it names no segment size or no page size, or the table's
    /// layout has no room for it.
    #[error("entry {ptex:#x} is not valid")]
    Invalid {
        /// Its place.
        ptex: u64,
    },
    /// The table has more entries than a chunk's header can number: 2^32, those of order 36.
    #[error("a hashed page table of 2^{} bytes has no stream", order.get())]
    TooLarge {
        /// The table's size.
        order: HptOrder,
    },
    /// The table could not be used.
    #[error(transparent)]
    Table(#[from] HptError),
}

/// The largest table whose places fit a chunk's header.
const LARGEST: u8 = 36;

/// Whether each place of the table has a number in a stream.
fn check_order<A: Address, M: TableMemory<A>>(hpt: &Hpt<A, M>) -> Result<(), StreamError> {
    let order = hpt.order();
    if order.get() > LARGEST { Err(StreamError::TooLarge { order }) } else { Ok(()) }
}

/// The chunks of a stream.
#[derive(Clone, Debug)]
pub struct Chunks<'b> {
    bytes: &'b [u8],
    at: usize,
}

/// Cuts a stream into its chunks. Ends after the first error.
#[must_use]
pub const fn chunks(stream: &[u8]) -> Chunks<'_> {
    Chunks { bytes: stream, at: 0 }
}

impl<'b> Iterator for Chunks<'b> {
    type Item = Result<Chunk<'b>, StreamError>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        let at = self.at;
        self.at = self.bytes.len();
        let chunk = ChunkHeader::read_from_prefix(rest).ok().and_then(|(header, behind)| {
            let count = usize::from(header.n_valid.get());
            let (entries, _) = <[ChunkEntry]>::ref_from_prefix_with_elems(behind, count).ok()?;
            let length = size_of::<ChunkHeader>() + size_of_val(entries);
            let bytes = rest.get(..length)?;
            Some(Chunk {
                index: header.index.get(),
                entries,
                n_invalid: header.n_invalid.get(),
                bytes,
            })
        });
        match chunk {
            Some(chunk) => {
                self.at = at + chunk.bytes.len();
                Some(Ok(chunk))
            }
            None => Some(Err(StreamError::Truncated { at })),
        }
    }
}

/// What loading did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Loaded {
    /// Entries stored.
    pub stored: u64,
    /// Places emptied.
    pub emptied: u64,
}

/// Stores a stream in `hpt`, in place of what stood there. Nobody may translate through it
/// meanwhile.
///
/// As KVM, but for what a table alone does not have: TS, which KVM drops, is kept, and entries that
/// the layout has no room for are refused, of which KVM keeps the second doubleword elsewhere and
/// cuts the first off. Where they are needed, storage and WIMG are the caller's to check.
///
/// # Errors
/// [`StreamError`]; what came before was stored.
pub fn load<A: Address, M: TableMemory<A>>(
    hpt: &Hpt<A, M>,
    stream: &[u8],
) -> Result<Loaded, StreamError> {
    check_order(hpt)?;
    let mut loaded = Loaded::default();
    for chunk in chunks(stream) {
        let chunk = chunk?;
        let first = u64::from(chunk.index);
        let valid = first + chunk.entries.len() as u64;
        let end = valid + u64::from(chunk.n_invalid);
        if first >= hpt.order().entries() || end > hpt.order().entries() {
            return Err(StreamError::Beyond { index: chunk.index });
        }
        for (ptex, entry) in (first..).zip(chunk.entries) {
            let Hpte { v, r } = Hpte::from(*entry);
            let checked = CheckedEntry::new(hpt.layout(), v, r);
            let entry = checked.filter(|entry| entry.v() == v && v.v());
            let [v, r] = entry.ok_or(StreamError::Invalid { ptex })?.words();
            slot(hpt, ptex)?.put([v | HpteV::MODIFIED, r]);
            loaded.stored += 1;
        }
        for ptex in valid..end {
            slot(hpt, ptex)?.put([HpteV::MODIFIED, 0]);
            loaded.emptied += 1;
        }
    }
    Ok(loaded)
}

/// Entry `ptex`, which is one of the table's.
fn slot<A: Address, M: TableMemory<A>>(
    hpt: &Hpt<A, M>,
    ptex: u64,
) -> Result<Slot<'_, AtomicU64>, StreamError> {
    let slot = hpt.slot(ptex).map_err(HptError::from)?;
    slot.ok_or(StreamError::Beyond { index: u32::try_from(ptex).unwrap_or(u32::MAX) })
}

/// Which entries a pass over the table has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Pass {
    /// All valid ones.
    First,
    /// Those that changed since they were last read.
    Changes,
}

/// Reads a table as a stream, in pieces, while it is in use. Like KVM's file descriptor: the first
/// pass has everything, the next ones the changes.
#[derive(Clone, Debug)]
pub struct StreamReader {
    next: u64,
    pass: Pass,
    bolted_only: bool,
}

impl StreamReader {
    /// Begins at entry `start`, with this pass; with `bolted_only` only bolted entries count.
    #[must_use]
    pub const fn new(start: u64, pass: Pass, bolted_only: bool) -> Self {
        Self { next: start, pass, bolted_only }
    }

    /// Which pass comes next, or is under way.
    #[must_use]
    pub const fn pass(&self) -> Pass {
        self.pass
    }

    /// Fills `buffer` with whole chunks and returns how many bytes that are. Ends at the end of the
    /// table, where the next call begins a pass over the changes; 0 there says that nothing changed
    /// (or that `buffer` has no room for an entry).
    ///
    /// # Errors
    /// [`StreamError::TooLarge`], and nothing was read; [`StreamError::Table`]: what was read
    /// before is lost, begin with [`Pass::First`] again.
    pub fn read<A: Address, M: TableMemory<A>>(
        &mut self,
        hpt: &Hpt<A, M>,
        buffer: &mut [u8],
    ) -> Result<usize, StreamError> {
        check_order(hpt)?;
        let entries = hpt.order().entries();
        let mut filled = 0;
        // Only a start can be beyond the table: then nothing is left of this pass.
        while self.next < entries {
            let Some((header, room)) = buffer.get_mut(filled..).and_then(|rest| {
                let (header, room) = rest.split_at_mut_checked(size_of::<ChunkHeader>())?;
                (room.len() >= size_of::<ChunkEntry>()).then_some((header, room))
            }) else {
                return Ok(filled);
            };
            let (chunk, length) = self.read_chunk(hpt, room)?;
            if chunk.n_valid.get() > 0 || chunk.n_invalid.get() > 0 {
                header.copy_from_slice(chunk.as_bytes());
                filled += size_of::<ChunkHeader>() + length;
            }
        }
        self.next = 0;
        self.pass = Pass::Changes;
        Ok(filled)
    }

    /// One chunk: a run of entries that are wanted, and the run of empty places behind it.
    fn read_chunk<A: Address, M: TableMemory<A>>(
        &mut self,
        hpt: &Hpt<A, M>,
        room: &mut [u8],
    ) -> Result<(ChunkHeader, usize), StreamError> {
        let entries = hpt.order().entries();
        while self.pass == Pass::Changes && self.next < entries && !self.is_modified(hpt)? {
            self.next += 1;
        }
        let index = self.next;
        let (mut n_valid, mut n_invalid) = (0_u16, 0_u16);
        for place in room.chunks_exact_mut(size_of::<ChunkEntry>()) {
            if self.next >= entries || n_valid == u16::MAX {
                break;
            }
            let Some(hpte) = self.take(hpt, true)? else { break };
            place.copy_from_slice(ChunkEntry::from(hpte).as_bytes());
            n_valid += 1;
            self.next += 1;
        }
        while self.next < entries && n_invalid < u16::MAX && self.take(hpt, false)?.is_some() {
            n_invalid += 1;
            self.next += 1;
        }
        // The order was checked.
        let too_large = StreamError::TooLarge { order: hpt.order() };
        let index = u32::try_from(index).map_err(|_| too_large)?.into();
        let header = ChunkHeader { index, n_valid: n_valid.into(), n_invalid: n_invalid.into() };
        Ok((header, usize::from(n_valid) * size_of::<ChunkEntry>()))
    }

    fn is_modified<A: Address, M: TableMemory<A>>(
        &self,
        hpt: &Hpt<A, M>,
    ) -> Result<bool, HptError> {
        Ok(hpt.slot(self.next)?.is_some_and(|slot| HpteV::from_bits(slot.v()).modified()))
    }

    /// The next entry, if it belongs to this pass and is valid (empty) as `wanted`; it is then no
    /// longer marked as modified.
    fn take<A: Address, M: TableMemory<A>>(
        &self,
        hpt: &Hpt<A, M>,
        valid: bool,
    ) -> Result<Option<Hpte>, HptError> {
        let Some(slot) = hpt.slot(self.next)? else { return Ok(None) };
        let wanted = |hpte: Hpte| (hpte.v.v() && (hpte.v.bolted() || !self.bolted_only)) == valid;
        let seen = hpt.layout().decode(slot.read()?);
        if (self.pass == Pass::Changes && !seen.v.modified()) || !wanted(seen) {
            return Ok(None);
        }
        slot.take_modified();
        // What is read after the mark was cleared is never too old; if it has become another kind
        // it is marked again, and comes again.
        let now = hpt.layout().decode(slot.read()?);
        Ok(Some(if wanted(now) { now } else { seen }))
    }
}
