//! A range of input addresses as the pieces of pages that it consists of.

use core::convert::Infallible;
use core::fmt;

use super::translate::Translate;
use crate::access::Access;
use crate::address::{Address, low_bits};
use crate::space::{Mapping, Translation};

/// Why bytes could not be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason<F, E> {
    /// The address does not translate.
    Fault(F),
    /// It translates to where the memory has none, or refuses.
    Memory(E),
    /// The range goes on behind the last address, 2^64 - 1.
    End,
}

impl<F> Reason<F, Infallible> {
    /// The same where there is also memory that can refuse.
    pub(super) fn with_memory<E>(self) -> Reason<F, E> {
        match self {
            Self::Fault(fault) => Reason::Fault(fault),
            Self::Memory(never) => match never {},
            Self::End => Reason::End,
        }
    }
}

/// An access to bytes that stopped part of the way: everything before is done, nothing from there
/// on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stopped<A, F, E> {
    /// The first address that is not done. (Of a copy: in the range that could not be reached.)
    pub at: A,
    /// How many bytes were done.
    pub done: u64,
    /// Why not the next.
    pub reason: Reason<F, E>,
}

impl<A: Address, F: fmt::Display, E: fmt::Display> fmt::Display for Stopped<A, F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, done, reason } = self;
        write!(f, "stopped at {at} after {done} bytes: ")?;
        match reason {
            Reason::Fault(fault) => fault.fmt(f),
            Reason::Memory(error) => error.fmt(f),
            Reason::End => f.write_str("the range goes on behind the last address"),
        }
    }
}

impl<A, F, E> core::error::Error for Stopped<A, F, E>
where
    A: Address,
    F: core::error::Error + 'static,
    E: core::error::Error + 'static,
{
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match &self.reason {
            Reason::Fault(fault) => Some(fault),
            Reason::Memory(error) => Some(error),
            Reason::End => None,
        }
    }
}

/// A [`Segments`] iterator's items: the part of a page that lies in the range, or why the range
/// goes on no further.
pub type SegmentOf<T> = Result<
    Mapping<<T as Translate>::Input, <T as Translate>::Output, <T as Translate>::Attributes>,
    Stopped<<T as Translate>::Input, <T as Translate>::Fault, Infallible>,
>;

/// The segments of a range of input addresses, in order: one for each page, cut to the range.
/// Ends after the first error.
///
/// Each page is translated when its segment is asked for, once.
#[derive(Clone, Copy, Debug)]
pub struct Segments<T: Translate> {
    translate: T,
    access: Access,
    /// The next address; `None` behind the last.
    next: Option<T::Input>,
    done: u64,
    left: u64,
}

impl<T: Translate> Segments<T> {
    /// The segments of the `bytes` bytes from `start` on, each translated for `access`.
    pub fn new(translate: T, start: T::Input, bytes: u64, access: Access) -> Self {
        Self { translate, access, next: Some(start), done: 0, left: bytes }
    }

    fn step(&mut self) -> SegmentOf<T> {
        let stopped = |at, reason| Stopped { at, done: self.done, reason };
        let Some(input) = self.next else {
            return Err(stopped(T::Input::new(u64::MAX), Reason::End));
        };
        let Translation { output, shift, attributes } = self
            .translate
            .translate(input, self.access)
            .map_err(|fault| stopped(input, Reason::Fault(fault)))?;
        // The bytes of the page behind this one; less than 2^64.
        let behind = low_bits(shift) - (input.get() & low_bits(shift));
        let bytes = behind.saturating_add(1).min(self.left);
        self.next = input.checked_add(bytes);
        self.done += bytes;
        self.left -= bytes;
        Ok(Mapping { input, output, bytes, shift, attributes })
    }
}

impl<T: Translate> Iterator for Segments<T> {
    type Item = SegmentOf<T>;

    fn next(&mut self) -> Option<SegmentOf<T>> {
        if self.left == 0 {
            return None;
        }
        let segment = self.step();
        if segment.is_err() {
            self.left = 0;
        }
        Some(segment)
    }
}

impl<T: Translate> core::iter::FusedIterator for Segments<T> {}
