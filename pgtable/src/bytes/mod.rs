//! Bytes at translated addresses: read, write, compare and copy memory as a guest sees it.
//!
//! # Protocol
//! A range is done page by page, in ascending order. Each page is translated once, and its bytes
//! are reached at once; nothing is remembered. So the tables may be a hostile guest's and may
//! change meanwhile: each byte is reached where its page was at one moment of the call. Where a
//! page does not translate, or its memory ends, the verb stops: [`Stopped`] says how many bytes are
//! done and why not the next.
//!
//! How the pages are translated is the type's choice: a [`Walker`](crate::walk::Walker) judges
//! rights, [`Recording`] also records accessed and dirty, [`Debugger`] judges nothing.
//!
//! A range of `n` bytes takes at most `n / (smallest page) + 2` translations, on each side of a
//! comparison or a copy.

mod give;
mod memory;
mod segments;
mod translate;

use core::cmp::min;

pub use give::GiveBytes;
pub use memory::{ByteMemory, Short, WordBytes};
pub use segments::{Reason, SegmentOf, Segments, Stopped};
pub use translate::{
    Debugger, Recording, Translate, TranslateRecording, TranslateUnjudged, TranslatedOf,
};

use crate::access::{Access, AccessKind, Privilege};
use crate::address::Address;
use crate::space::Mapping;

/// How a verb on bytes ends that are reached through `T` in memory `B`.
pub type BytesResult<T, B, V = ()> = Result<V, StoppedOf<T, B>>;
/// How a verb on bytes stops that are reached through `T` in memory `B`.
pub type StoppedOf<T, B> = Stopped<
    <T as Translate>::Input,
    <T as Translate>::Fault,
    <B as ByteMemory<<T as Translate>::Output>>::Error,
>;

/// How many bytes are on their way at a time, in a comparison or a copy.
const CHUNK: usize = 512;

/// The bytes at a guest's addresses: a translation, and the memory behind it.
///
/// Accesses are a supervisor's unless [`by`](Self::by) says otherwise.
///
/// ```
/// # use core::sync::atomic::AtomicU64;
/// use pgtable_x86::{BootMapping, Controls, Levels, LongMode, boot_tables};
/// use pgtable::bytes::{Debugger, GuestBytes, WordBytes};
/// use pgtable::memory::DirectMap;
/// use pgtable::walk::Walker;
/// use pgtable::{Gpa, Gva, Prot};
///
/// # let words: Vec<AtomicU64> = (0..0x10000 / 8).map(|_| AtomicU64::new(0)).collect();
/// # let memory = DirectMap::new(&words, Gpa::new(0));
/// # let format = LongMode::new(Levels::Four, Controls::new());
/// # let map = BootMapping::identity(1 << 30, Prot::R.into());
/// # let boot = boot_tables(format, &memory, Gpa::new(0x9000)..Gpa::new(0xc000), [map])?;
/// // A guest's tables map everything read-only.
/// let walker = Walker::new(format, &memory, boot.registers.cr3.root());
/// let memory = WordBytes(&memory);
///
/// let stopped = GuestBytes::new(&walker, &memory).write(Gva::new(0x1000), b"\xcc").unwrap_err();
/// assert_eq!((stopped.at, stopped.done), (Gva::new(0x1000), 0));
/// // A debugger sets its breakpoint all the same.
/// let bytes = GuestBytes::new(Debugger(walker), &memory);
/// bytes.write(Gva::new(0x1000), b"\xcc")?;
/// assert_eq!(bytes.compare(Gva::new(0x1000), b"\xcc\0")?, None);
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct GuestBytes<'m, T, B: ?Sized> {
    translate: T,
    memory: &'m B,
    privilege: Privilege,
}

impl<'m, T: Translate, B: ByteMemory<T::Output> + ?Sized> GuestBytes<'m, T, B> {
    /// The bytes in `memory` at the addresses that `translate` translates. `memory` is a reference
    /// to memory, or to an `Arc` of it ([`GiveBytes`]).
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// // Tables and bytes of one guest.
    /// let bytes = GuestBytes::new(&walker, &memory);
    /// bytes.write(Gva::new(0x1ffc), b"over two pages")?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new<How>(translate: T, memory: impl GiveBytes<'m, T::Output, How, Bytes = B>) -> Self {
        let memory = memory.bytes();
        Self { translate, memory, privilege: Privilege::Supervisor }
    }

    /// The same for accesses of this privilege.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// // Pages of the kernel's are not the user's to read.
    /// let bytes = GuestBytes::new(&walker, &memory).by(Privilege::User);
    /// assert!(bytes.read(Gva::new(0x1000), &mut [0; 8]).is_err());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn by(self, privilege: Privilege) -> Self {
        Self { privilege, ..self }
    }

    /// The segments of the `bytes` bytes from `at` on, where an access of this kind reaches them.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// for segment in bytes.segments(Gva::new(0x1ffc), 8, AccessKind::Read) {
    ///     let segment = segment?;
    ///     println!("{} bytes at {}", segment.bytes, segment.output);
    /// }
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn segments(&self, at: T::Input, bytes: u64, kind: AccessKind) -> Segments<&T> {
        Segments::new(&self.translate, at, bytes, Access { kind, privilege: self.privilege })
    }

    /// Translates the `bytes` bytes from `at` on and reaches none of them. An emulator asks this
    /// before it writes across pages, because a processor faults before it writes any byte.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// assert!(bytes.check(Gva::new(0x1ffc), 8, AccessKind::Write).is_ok());
    /// // The last bytes lie in a hole: a processor writes none.
    /// let stopped = bytes.check(Gva::new(0x3ffc), 8, AccessKind::Write).unwrap_err();
    /// assert_eq!((stopped.at, stopped.done), (Gva::new(0x4000), 4));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`], with the bytes before the first fault as done. Memory is not asked.
    pub fn check(&self, at: T::Input, bytes: u64, kind: AccessKind) -> BytesResult<T, B> {
        self.segments(at, bytes, kind).try_for_each(|segment| {
            let stopped =
                |Stopped { at, done, reason }| Stopped { at, done, reason: reason.with_memory() };
            segment.map(|_| ()).map_err(stopped)
        })
    }

    /// Calls `access` with each segment's output address and the range of the bytes that it holds.
    fn each(
        &self,
        at: T::Input,
        bytes: usize,
        kind: AccessKind,
        mut access: impl FnMut(T::Output, core::ops::Range<usize>) -> Result<(), Short<B::Error>>,
    ) -> BytesResult<T, B> {
        let mut begun = 0_usize;
        for segment in self.segments(at, bytes as u64, kind) {
            let Mapping { input, output, bytes, .. } =
                segment.map_err(|Stopped { at, done, reason }| Stopped {
                    at,
                    done,
                    reason: reason.with_memory(),
                })?;
            // A segment is no longer than what was asked for, which is a `usize`.
            let end = begun + bytes as usize;
            access(output, begun..end).map_err(|short| {
                // Never behind the segment, whatever the memory says.
                let done = min(short.done as u64, bytes - 1);
                Stopped {
                    at: T::Input::new(input.get() + done),
                    done: begun as u64 + done,
                    reason: Reason::Memory(short.error),
                }
            })?;
            begun = end;
        }
        Ok(())
    }

    /// Reads the bytes from `at` on.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// let mut number = [0; 4];
    /// bytes.read(Gva::new(0x1ffe), &mut number)?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn read(&self, at: T::Input, bytes: &mut [u8]) -> BytesResult<T, B> {
        self.each(at, bytes.len(), AccessKind::Read, |output, range| {
            self.memory.read(output, &mut bytes[range])
        })
    }

    /// Reads the bytes from `at` on as instructions are fetched.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// let mut instruction = [0; 4];
    /// // The pages may not be executed.
    /// assert!(bytes.fetch(Gva::new(0x1000), &mut instruction).is_err());
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn fetch(&self, at: T::Input, bytes: &mut [u8]) -> BytesResult<T, B> {
        self.each(at, bytes.len(), AccessKind::Fetch, |output, range| {
            self.memory.read(output, &mut bytes[range])
        })
    }

    /// Writes the bytes from `at` on. Where it stops, the bytes before are written;
    /// [`check`](Self::check) first where that must not be.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// bytes.write(Gva::new(0x1ffe), &7u32.to_le_bytes())?;
    /// assert_eq!(bytes.compare(Gva::new(0x1ffe), &[7, 0, 0, 0])?, None);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn write(&self, at: T::Input, bytes: &[u8]) -> BytesResult<T, B> {
        self.each(at, bytes.len(), AccessKind::Write, |output, range| {
            self.memory.write(output, &bytes[range])
        })
    }

    /// Compares the bytes from `at` on with `bytes`; returns the offset of the first that differs,
    /// `None` if none does. No page behind a difference is reached.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// bytes.write(Gva::new(0x1000), b"seven")?;
    /// assert_eq!(bytes.compare(Gva::new(0x1000), b"seveN")?, Some(4));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`], with the bytes that were compared, and equal, as done.
    pub fn compare(&self, at: T::Input, bytes: &[u8]) -> BytesResult<T, B, Option<u64>> {
        let mut chunk = [0; CHUNK];
        let mut side = self.side(at, bytes.len() as u64, AccessKind::Read);
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = min(rest.len(), side.room()?);
            let (wanted, behind) = rest.split_at(count);
            let (read, stopped) = side.read(self.memory, &mut chunk[..count]);
            if let Some(first) = difference(&chunk[..read], wanted, stopped)? {
                return Ok(Some(side.done + first));
            }
            side.pass(count);
            rest = behind;
        }
        Ok(None)
    }

    /// Compares the `bytes` bytes from `one` on with those from `other` on; returns the offset of
    /// the first that differs, `None` if none does.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// bytes.write(Gva::new(0x1000), b"ab")?;
    /// bytes.write(Gva::new(0x2000), b"ac")?;
    /// assert_eq!(bytes.compare_with(Gva::new(0x1000), Gva::new(0x2000), 2)?, Some(1));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`], with the bytes that were compared, and equal, as done.
    pub fn compare_with(
        &self,
        one: T::Input,
        other: T::Input,
        bytes: u64,
    ) -> BytesResult<T, B, Option<u64>> {
        let (mut left, mut right) = ([0; CHUNK], [0; CHUNK]);
        let [mut one, mut other] = [one, other].map(|at| self.side(at, bytes, AccessKind::Read));
        while one.done < bytes {
            let (room, beside) = (one.room()?, other.room());
            let count = min(room, *beside.as_ref().unwrap_or(&1));
            let (read, first) = one.read(self.memory, &mut left[..count]);
            // If both stop at once, the first is named.
            if read == 0 {
                return first.map_or(Ok(None), Err);
            }
            beside?;
            let (read, second) = other.read(self.memory, &mut right[..read]);
            // The second stopped earlier, if it stopped at all.
            if let Some(first) = difference(&left[..read], &right[..read], second.or(first))? {
                return Ok(Some(one.done + first));
            }
            one.pass(count);
            other.pass(count);
        }
        Ok(None)
    }

    /// Copies the `bytes` bytes from `from` on to `to`. If the two overlap, by their own addresses
    /// or by those that they translate to, what the destination holds then is not specified.
    ///
    /// ```
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(bytes: walker, memory, bytes);
    /// bytes.write(Gva::new(0x1000), b"ab")?;
    /// bytes.copy(Gva::new(0x1000), Gva::new(0x2fff), 2)?;
    /// assert_eq!(bytes.compare(Gva::new(0x2fff), b"ab")?, None);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`Stopped`], with the bytes that were written as done.
    pub fn copy(&self, from: T::Input, to: T::Input, bytes: u64) -> BytesResult<T, B> {
        let mut chunk = [0; CHUNK];
        let mut from = self.side(from, bytes, AccessKind::Read);
        let mut to = self.side(to, bytes, AccessKind::Write);
        while from.done < bytes {
            let (room, beside) = (from.room()?, to.room());
            let count = min(room, *beside.as_ref().unwrap_or(&1));
            let (read, stopped) = from.read(self.memory, &mut chunk[..count]);
            // If both stop at once, the reader is named.
            if read == 0 {
                return stopped.map_or(Ok(()), Err);
            }
            beside?;
            let written = self.memory.write(to.output, &chunk[..read]);
            written.map_err(|short| to.stopped(short, read))?;
            stopped.map_or(Ok(()), Err)?;
            from.pass(count);
            to.pass(count);
        }
        Ok(())
    }

    /// A side of a comparison or a copy.
    fn side(&self, at: T::Input, bytes: u64, kind: AccessKind) -> Side<&T> {
        let segments = self.segments(at, bytes, kind);
        Side { segments, input: at, output: T::Output::new(0), left: 0, done: 0 }
    }
}

/// Where a comparison or a copy is on one of its sides. A page is translated once, when its first
/// byte is come to.
struct Side<T: Translate> {
    /// The pages behind this one.
    segments: Segments<T>,
    input: T::Input,
    output: T::Output,
    /// Bytes of the page that are left.
    left: u64,
    done: u64,
}

impl<T: Translate> Side<T> {
    /// How many bytes can be done at once: at least one.
    fn room<E>(&mut self) -> Result<usize, Stopped<T::Input, T::Fault, E>> {
        if self.left == 0 {
            let end = Stopped { at: self.input, done: self.done, reason: Reason::End };
            let Mapping { input, output, bytes, .. } =
                self.segments.next().ok_or(end)?.map_err(|Stopped { at, done, reason }| {
                    Stopped { at, done, reason: reason.with_memory() }
                })?;
            (self.input, self.output, self.left) = (input, output, bytes);
        }
        Ok(min(self.left, CHUNK as u64) as usize)
    }

    /// Reads the next bytes, no more than there is [room](Self::room): how many were read, and why
    /// not all.
    fn read<B: ByteMemory<T::Output> + ?Sized>(
        &self,
        memory: &B,
        bytes: &mut [u8],
    ) -> (usize, Option<StoppedOf<T, B>>) {
        let count = bytes.len();
        match memory.read(self.output, bytes) {
            _ if count == 0 => (0, None),
            Ok(()) => (count, None),
            Err(short) => {
                let stopped = self.stopped(short, count);
                ((stopped.done - self.done) as usize, Some(stopped))
            }
        }
    }

    /// Memory stopped in the next `count` bytes: never behind them, whatever it says.
    fn stopped<E>(&self, short: Short<E>, count: usize) -> Stopped<T::Input, T::Fault, E> {
        let done = min(short.done, count.saturating_sub(1)) as u64;
        let at = T::Input::new(self.input.get().wrapping_add(done));
        Stopped { at, done: self.done + done, reason: Reason::Memory(short.error) }
    }

    /// So many bytes are done, no more than there was room.
    fn pass(&mut self, count: usize) {
        let count = count as u64;
        self.input = T::Input::new(self.input.get().wrapping_add(count));
        self.output = T::Output::new(self.output.get().wrapping_add(count));
        self.left -= count;
        self.done += count;
    }
}

/// The offset of the first byte that differs; if none does, `stopped`.
fn difference<E>(one: &[u8], other: &[u8], stopped: Option<E>) -> Result<Option<u64>, E> {
    match one.iter().zip(other).position(|(one, other)| one != other) {
        Some(offset) => Ok(Some(offset as u64)),
        None => stopped.map_or(Ok(None), Err),
    }
}
