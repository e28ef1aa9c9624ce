//! The buffers: a header, and elements of an identity, a length and a value, all big-endian.

use super::Element;

/// The bytes of a buffer's header: the number of elements.
const HEADER: usize = 4;
/// The bytes of an element's: its identity, and the length of its value.
const ELEMENT: usize = 4;

/// What a buffer does not allow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum BufferError {
    /// It ends before what it promises, at this byte.
    #[error("the guest-state buffer ends at byte {0}, in the middle of something")]
    Short(usize),
    /// The element has no room.
    #[error("element {id:#06x} has no room in the guest-state buffer: {wanted} bytes, {room} left")]
    Full {
        /// Its identity.
        id: u16,
        /// The bytes that it takes.
        wanted: usize,
        /// The bytes that are left.
        room: usize,
    },
    /// The element has another length than PAPR gives it.
    #[error("element {id:#06x} of the guest-state buffer has {length} bytes")]
    Length {
        /// Its identity.
        id: u16,
        /// Its length.
        length: usize,
    },
}

/// Writes a buffer, element by element.
#[derive(Debug)]
pub struct Writer<'b> {
    bytes: &'b mut [u8],
    length: usize,
    elements: u32,
}

impl<'b> Writer<'b> {
    /// An empty buffer in `bytes`.
    ///
    /// # Errors
    /// [`BufferError::Short`]: not even the header has room.
    pub fn new(bytes: &'b mut [u8]) -> Result<Self, BufferError> {
        if bytes.len() < HEADER {
            return Err(BufferError::Short(bytes.len()));
        }
        Ok(Self { bytes, length: HEADER, elements: 0 })
    }

    /// Appends an element.
    ///
    /// # Errors
    /// [`BufferError::Full`]; the buffer stays as it was.
    pub fn put<E: Element>(&mut self, element: &E) -> Result<(), BufferError> {
        let length = 8 * E::WORDS;
        let (wanted, room) = (ELEMENT + length, self.bytes.len() - self.length);
        if room < wanted {
            return Err(BufferError::Full { id: E::ID, wanted, room });
        }
        let place = &mut self.bytes[self.length..self.length + wanted];
        place[..2].copy_from_slice(&E::ID.to_be_bytes());
        // No element is longer than 24 bytes.
        place[2..4].copy_from_slice(&(length as u16).to_be_bytes());
        for (bytes, word) in place[ELEMENT..].chunks_exact_mut(8).zip(element.words()) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        self.length += wanted;
        self.elements += 1;
        Ok(())
    }

    /// Writes the header, and returns the buffer's length in bytes.
    #[must_use = "the length is an argument of the hypercall"]
    pub fn finish(self) -> usize {
        self.bytes[..HEADER].copy_from_slice(&self.elements.to_be_bytes());
        self.length
    }
}

/// The elements of a buffer: identity and value of each. The first error is the last item.
#[derive(Clone, Debug)]
pub struct Elements<'b> {
    bytes: &'b [u8],
    at: usize,
    left: u32,
}

impl<'b> Elements<'b> {
    /// Those of `bytes`.
    ///
    /// # Errors
    /// [`BufferError::Short`]: there is no header.
    pub fn of(bytes: &'b [u8]) -> Result<Self, BufferError> {
        let header = bytes.first_chunk::<HEADER>().ok_or(BufferError::Short(bytes.len()))?;
        Ok(Self { bytes, at: HEADER, left: u32::from_be_bytes(*header) })
    }

    fn take(&mut self) -> Result<(u16, &'b [u8]), BufferError> {
        let short = BufferError::Short(self.bytes.len());
        let rest = self.bytes.get(self.at..).ok_or(short)?;
        let &[id_high, id_low, high, low] = rest.first_chunk::<ELEMENT>().ok_or(short)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = rest.get(ELEMENT..ELEMENT + length).ok_or(short)?;
        self.at += ELEMENT + length;
        Ok((u16::from_be_bytes([id_high, id_low]), value))
    }
}

impl<'b> Iterator for Elements<'b> {
    type Item = Result<(u16, &'b [u8]), BufferError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let taken = self.take();
        if taken.is_err() {
            self.left = 0;
        }
        Some(taken)
    }
}
