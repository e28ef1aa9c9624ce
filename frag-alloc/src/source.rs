//! Where frames come from and go back to.

use alloc::boxed::Box;

use pgtable::Address;
use pgtable::memory::{MemoryError, Refusal, TableMemory};

use crate::descriptor::GRANULE;
use crate::sync::{AtomicU64, Ordering};

/// The frames that a source may hand out: `frames` of `2^shift` bytes from `start` on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span<A> {
    /// The first frame, a multiple of the frame size.
    pub start: A,
    /// How many frames.
    pub frames: u32,
    /// log2 of the bytes of a frame. On POWER 16, as the page size; 12 to 16 elsewhere.
    pub shift: u8,
}

/// A constructor did not take a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refused;

/// Where frames come from and go back to, how their words are reached, and what is done to a frame
/// that becomes a frame of user tables.
///
/// A frame may hold anything when it is handed out, and holds anything when it comes back.
pub trait FrameSource<A: Address>: TableMemory<A> {
    /// log2 of the bytes of the smallest table that the frames are cut into, from [`GRANULE`] on:
    /// smaller ones are unsupported. The books have 16 bytes for each such table that there is room
    /// for, so a source of 4-KiB tables alone says 12.
    const SMALLEST: u8 = GRANULE;

    /// Which frames. Fixed for the life of the source.
    fn span(&self) -> Span<A>;

    /// `2^order` frames on end, the first a multiple of their joint size, that nobody else has;
    /// `None` if there are none left.
    fn take(&self, order: u8) -> Option<A>;

    /// Takes back `2^order` frames on end, the first a multiple of their joint size, that
    /// [`take`](Self::take) handed out: all that one call handed out or, where a frame of it was
    /// quarantined, a part of it.
    fn give(&self, frame: A, order: u8);

    /// Called once before a frame is used for user tables of `2^shift` bytes: accounting, page
    /// types, locks.
    ///
    /// # Errors
    /// [`Refused`]: the frame goes back at once, and its destructor is not called.
    fn construct(&self, frame: A, shift: u8) -> Result<(), Refused> {
        let _ = (frame, shift);
        Ok(())
    }

    /// Called exactly once for every frame that was constructed, when its last table is gone,
    /// whoever else may still hold a reference to the frame.
    fn destruct(&self, frame: A, shift: u8) {
        let _ = (frame, shift);
    }
}

/// The constructor and destructor of frames of user tables.
pub trait Hooks<A: Address> {
    /// As [`FrameSource::construct`].
    ///
    /// # Errors
    /// [`Refused`].
    fn construct(&self, frame: A, shift: u8) -> Result<(), Refused>;

    /// As [`FrameSource::destruct`].
    fn destruct(&self, frame: A, shift: u8);
}

/// Nothing to do.
impl<A: Address> Hooks<A> for () {
    fn construct(&self, _: A, _: u8) -> Result<(), Refused> {
        Ok(())
    }

    fn destruct(&self, _: A, _: u8) {}
}

/// A source that cuts one contiguous range of some table memory into frames: a slice, or a range of
/// guest memory.
///
/// # Protocol
/// One bit per frame, set while the frame is here. Frames leave by a compare-exchange that clears
/// their bits and come back by an OR that sets them, Release against Acquire; there is no lock.
/// Joined frames never span two 64-bit words of the map.
#[derive(Debug)]
pub struct Region<A, M, H = (), const SMALLEST: u8 = GRANULE> {
    memory: M,
    hooks: H,
    span: Span<A>,
    here: Box<[AtomicU64]>,
}

impl<A: Address, M: TableMemory<A>> Region<A, M> {
    /// The `frames` frames of `2^shift` bytes from `start` on in `memory`. A frame holds at most
    /// 256 of the smallest tables: 64 KiB of 256 bytes ([`Frames::new`](crate::Frames::new) refuses
    /// larger ones).
    ///
    /// # Errors
    /// [`MemoryError`] if `start` is not a multiple of the frame size, or a frame can't be reached
    /// in `memory` as one table. No frame then is lost: none was taken.
    pub fn new(memory: M, start: A, frames: u32, shift: u8) -> Result<Self, MemoryError> {
        Self::with_hooks(memory, start, frames, shift, ())
    }
}

impl<A: Address, M: TableMemory<A>, H: Hooks<A>> Region<A, M, H> {
    /// The same, with a constructor and a destructor for frames of user tables.
    ///
    /// # Errors
    /// As [`new`](Region::new).
    pub fn with_hooks(
        memory: M,
        start: A,
        frames: u32,
        shift: u8,
        hooks: H,
    ) -> Result<Self, MemoryError> {
        let bytes = u64::from(frames).checked_shl(u32::from(shift)).unwrap_or(u64::MAX);
        let outside = MemoryError { address: start.get(), bytes, refusal: Refusal::Outside };
        if !(3..=30).contains(&shift)
            || !start.is_aligned(shift)
            || start.checked_add(bytes).is_none()
        {
            return Err(outside);
        }
        for frame in 0..frames {
            memory.table(A::new(start.get() + (u64::from(frame) << shift)), 1 << (shift - 3))?;
        }
        let here = (0..frames.div_ceil(64)).map(|word| {
            let left = frames - word * 64;
            AtomicU64::new(if left >= 64 { u64::MAX } else { (1 << left) - 1 })
        });
        Ok(Self { memory, hooks, span: Span { start, frames, shift }, here: here.collect() })
    }

    /// The same frames, cut into tables of `2^SMALLEST` bytes and more only: as
    /// [`FrameSource::SMALLEST`].
    ///
    /// ```
    /// # use core::sync::atomic::AtomicU64;
    /// use frag_alloc::{Frames, Region};
    /// use pgtable::memory::DirectMap;
    /// use pgtable::Hpa;
    ///
    /// # let words: Vec<AtomicU64> = (0..16 << 13).map(|_| AtomicU64::new(0)).collect();
    /// # let memory = DirectMap::new(&words, Hpa::new(0));
    /// let frames = Frames::new(Region::new(memory, Hpa::new(0), 16, 16)?.of_tables_from::<12>())?;
    /// assert_eq!(frames.overhead(), 16 * (64 + 16 * 16));
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn of_tables_from<const SMALLEST: u8>(self) -> Region<A, M, H, SMALLEST> {
        let Self { memory, hooks, span, here } = self;
        Region { memory, hooks, span, here }
    }
}

impl<A: Address, M, H, const SMALLEST: u8> Region<A, M, H, SMALLEST> {
    /// How many frames are here now.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.here.iter().map(|word| word.load(Ordering::Relaxed).count_ones()).sum()
    }

    /// The memory that the frames stand in.
    #[must_use]
    #[inline(always)]
    pub fn memory(&self) -> &M {
        &self.memory
    }

    fn bit_of(&self, word: usize, bits: u64, order: u8) -> Option<u32> {
        let count = 1_u32 << order;
        let mask = if count == 64 { u64::MAX } else { (1 << count) - 1 };
        if order == 0 {
            return (bits != 0).then(|| bits.trailing_zeros());
        }
        // Alignment is that of the address, not of the index.
        let first = (self.span.start.get() >> self.span.shift).wrapping_add(word as u64 * 64);
        (0..=64 - count).find(|&bit| {
            (first + u64::from(bit)) % u64::from(count) == 0 && bits >> bit & mask == mask
        })
    }
}

impl<A: Address, M: TableMemory<A>, H: Hooks<A>, const SMALLEST: u8> FrameSource<A>
    for Region<A, M, H, SMALLEST>
{
    const SMALLEST: u8 = SMALLEST;

    fn span(&self) -> Span<A> {
        self.span
    }

    fn take(&self, order: u8) -> Option<A> {
        if order > 6 {
            return None;
        }
        let mask = if order == 6 { u64::MAX } else { (1 << (1_u32 << order)) - 1 };
        for (index, word) in self.here.iter().enumerate() {
            let mut bits = word.load(Ordering::Relaxed);
            while let Some(bit) = self.bit_of(index, bits, order) {
                match word.compare_exchange_weak(
                    bits,
                    bits & !(mask << bit),
                    Ordering::Acquire,
                    Ordering::Relaxed,
                ) {
                    Ok(_) => {
                        let frame = index as u64 * 64 + u64::from(bit);
                        return Some(A::new(self.span.start.get() + (frame << self.span.shift)));
                    }
                    Err(now) => bits = now,
                }
            }
        }
        None
    }

    fn give(&self, frame: A, order: u8) {
        let index = frame.get().wrapping_sub(self.span.start.get()) >> self.span.shift;
        let mask = if order >= 6 { u64::MAX } else { (1 << (1_u32 << order)) - 1 };
        if let Some(word) = self.here.get((index / 64) as usize) {
            word.fetch_or(mask << (index % 64), Ordering::Release);
        }
    }

    fn construct(&self, frame: A, shift: u8) -> Result<(), Refused> {
        self.hooks.construct(frame, shift)
    }

    fn destruct(&self, frame: A, shift: u8) {
        self.hooks.destruct(frame, shift);
    }
}
