//! The frame table of one region of memory.
//!
//! # Protocol: the life of a frame
//! ```text
//!            take, refs 0→1          construct, fragments := n, tag
//!   source ────────────────▶ claimed ──────────────────────────────▶ table frame
//!     ▲                                                               │ fragments → 0: once, whoever gets there
//!     │   refs → 0: whoever gets there                                ▼
//!     └──────────────────────────────────────────────── retired: destruct, tag := free, drop our reference
//! ```
//! A speculative holder ([`Frames::try_get`]) may come and go at any point while `refs` is not
//! zero. It keeps a retired frame from going home, and nothing else: the destructor has run by
//! then, on the thread that freed the last table. Checked by `loom/frag-alloc/tests/frames.rs`.

use alloc::boxed::Box;
use core::marker::PhantomData;

use pgtable::Address;
use pgtable::allocator::{Contents, TableState};

use crate::descriptor::{Descriptor, GRANULE, Kind, NONE, Owner, QUARANTINED, Tag, WouldUnderflow};
use crate::error::Error;
use crate::lives::Lives;
use crate::numbers::Numbers;
use crate::source::FrameSource;
use crate::states::States;
use crate::sync::{AtomicU64, Lock, Ordering};

/// The descriptors of the frames of one region, and where they come from.
///
/// Also table memory, as its source is: a tree may own the frames that its tables stand in.
#[derive(Debug)]
pub struct Frames<A, S> {
    pub(crate) start: u64,
    pub(crate) shift: u8,
    pub(crate) descriptors: Box<[Descriptor]>,
    lives: Lives,
    states: States,
    numbers: Lock<Numbers>,
    /// How many quarantines there were.
    quarantines: AtomicU64,
    /// How many quarantines and closed caches there were: whatever keeps tables in a front looks
    /// them over when this has changed.
    changes: AtomicU64,
    pub(crate) source: S,
    space: PhantomData<fn() -> A>,
}

impl<A: Address, S: FrameSource<A>> Frames<A, S> {
    /// A frame table over all frames of `source`.
    ///
    /// Costs 64 bytes per frame, and 16 for each smallest table ([`FrameSource::SMALLEST`]) in it:
    /// of frames of 64 KiB 6.3 % if that has 256 bytes, 0.5 % if it has 4 KiB.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the frames are smaller than the smallest table or hold more than
    /// 256 of it, or if there is room for more than 2^31 of it (512 GiB of 256 bytes each);
    /// [`Error::Source`] if the first is not aligned.
    pub fn new(source: S) -> Result<Self, Error<A>> {
        let span = source.span();
        if S::SMALLEST < GRANULE || !(S::SMALLEST..=S::SMALLEST + 8).contains(&span.shift) {
            return Err(Error::Unsupported { shift: span.shift });
        }
        if !span.start.is_aligned(span.shift) {
            return Err(Error::Source { frame: span.start });
        }
        let granules = u64::from(span.frames) << (span.shift - S::SMALLEST);
        if granules > 1 << 31 || span.start.checked_add(granules << S::SMALLEST).is_none() {
            return Err(Error::Unsupported { shift: span.shift });
        }
        Ok(Self {
            start: span.start.get(),
            shift: span.shift,
            descriptors: (0..span.frames).map(|_| Descriptor::new()).collect(),
            lives: Lives::new(granules as u32),
            states: States::new(granules as u32),
            numbers: Lock::new(Numbers::default()),
            quarantines: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            source,
            space: PhantomData,
        })
    }

    /// Where the frames come from.
    #[must_use]
    #[inline(always)]
    pub fn source(&self) -> &S {
        &self.source
    }

    /// Bytes of book-keeping: descriptors and state words.
    #[must_use]
    pub fn overhead(&self) -> usize {
        size_of_val(&*self.descriptors) + self.lives.bytes() + self.states.bytes()
    }

    /// The granule in which `address` lies, if it lies in the region.
    #[inline]
    pub(crate) fn granule(&self, address: A) -> Option<u32> {
        let granule = address.get().wrapping_sub(self.start) >> S::SMALLEST;
        (granule < u64::from(self.lives.granules())).then_some(granule as u32)
    }

    /// The granule that starts at `address`, if one does.
    #[inline]
    pub(crate) fn table_granule(&self, address: A) -> Option<u32> {
        // Rotating brings the low bits to the top, so that one compare checks alignment and bounds.
        let granule = address.get().wrapping_sub(self.start).rotate_right(S::SMALLEST.into());
        (granule < u64::from(self.lives.granules())).then_some(granule as u32)
    }

    /// Where a granule starts.
    #[inline]
    pub(crate) fn address(&self, granule: u32) -> A {
        A::new(self.start + (u64::from(granule) << S::SMALLEST))
    }

    /// The frame in which a granule lies.
    #[inline]
    pub(crate) fn frame_of(&self, granule: u32) -> u32 {
        granule >> (self.shift - S::SMALLEST)
    }

    /// What the frame of a granule holds, and whose.
    #[inline]
    pub(crate) fn tag_at(&self, granule: u32) -> Tag {
        self.descriptor(self.frame_of(granule)).tag()
    }

    /// Where a frame starts.
    pub(crate) fn frame_address(&self, frame: u32) -> A {
        A::new(self.start + (u64::from(frame) << self.shift))
    }

    #[inline]
    pub(crate) fn descriptor(&self, frame: u32) -> &Descriptor {
        &self.descriptors[frame as usize]
    }

    /// How many tables of `2^shift` bytes a frame holds, as a power of two; 0 for a table of a
    /// frame or more.
    #[inline]
    pub(crate) fn tables_shift(&self, shift: u8) -> u8 {
        self.shift.saturating_sub(shift)
    }

    /// The state word of the live table `tag` at `address`.
    #[inline]
    pub(crate) fn state(&self, address: A, tag: Tag) -> Option<&TableState> {
        let granule = self.table_granule(address)?;
        self.lives.is(granule, tag).then(|| self.states.of(granule))
    }

    /// The number of a new cache.
    pub(crate) fn open_cache(&self) -> u32 {
        self.numbers.lock().open()
    }

    /// The cache with that number has closed its pools.
    pub(crate) fn close_cache(&self, number: u32) {
        self.numbers.lock().close(number);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// The cache with that number is gone.
    pub(crate) fn release_cache(&self, number: u32) {
        self.numbers.lock().release(number);
    }

    /// Whether the idle table that starts at `granule`, which the caller took from where idle
    /// tables are, must be zeroed before it is handed out.
    #[inline]
    pub(crate) fn must_be_zeroed(&self, granule: u32, wanted: Contents) -> bool {
        wanted == Contents::Zeroed && !self.lives.is_zeroed(granule)
    }

    /// The idle table that starts at `granule`, which the caller took, is the live table `tag` from
    /// now on.
    #[inline]
    pub(crate) fn hand_out(&self, granule: u32, tag: Tag) -> A {
        self.lives.hand_out(granule, tag);
        self.address(granule)
    }

    /// Frees the live table `tag` that starts at `granule`: it is nobody's any more, but still
    /// counted. False, and nothing changed, if there is no such table.
    #[inline]
    pub(crate) fn set_idle(&self, granule: u32, tag: Tag, contents: Contents) -> bool {
        self.lives.free(granule, tag, contents)
    }

    pub(crate) fn is_live(&self, granule: u32) -> bool {
        self.lives.is_live(granule)
    }

    /// Zeroes the table of `2^shift` bytes that starts at `granule`.
    pub(crate) fn zero(&self, granule: u32, shift: u8) -> Result<(), Error<A>> {
        let (table, words) = (self.address(granule), 1 << (shift - 3));
        let zeroed = self.source.table(table, words)?;
        let zero = |words: &[core::sync::atomic::AtomicU64]| {
            words.iter().for_each(|word| word.store(0, core::sync::atomic::Ordering::Relaxed));
        };
        // Eight stores a turn: the compiler does not unroll loops of atomic accesses.
        let mut eights = zeroed.chunks_exact(8);
        (&mut eights).for_each(zero);
        zero(eights.remainder());
        self.source.wrote(table, words);
        Ok(())
    }

    /// How many quarantines there were. (64 bits do not come round.)
    #[inline]
    pub(crate) fn quarantines(&self) -> u64 {
        self.quarantines.load(Ordering::Acquire)
    }

    /// How many quarantines and closed caches there were.
    #[inline]
    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Whether the frame of a granule is quarantined. As long as none ever was, that costs a look
    /// at a word that nobody writes.
    #[inline]
    pub(crate) fn is_out_of_use(&self, granule: u32) -> bool {
        self.quarantines() != 0 && self.descriptor(self.frame_of(granule)).is(QUARANTINED)
    }

    /// So many more frames were marked.
    pub(crate) fn count_quarantines(&self, marked: u64) {
        self.quarantines.fetch_add(marked, Ordering::AcqRel);
        self.changes.fetch_add(marked, Ordering::AcqRel);
    }

    /// Takes a frame (or, for a larger table, frames on end) from the source and makes it a table
    /// frame with `fragments` tables. All its tables are idle; it holds anything.
    pub(crate) fn fill(&self, tag: Tag, fragments: u32) -> Result<u32, Error<A>> {
        let shift = tag.shift();
        let order = shift.saturating_sub(self.shift);
        let frame = self.take(shift, order)?;
        let address = self.frame_address(frame);
        let bytes = shift.max(self.shift);
        if let Err(error) = self.source.table(address, 1 << (bytes - 3)) {
            self.put(frame)?;
            return Err(error.into());
        }
        if tag.kind() == Kind::User && self.source.construct(address, shift).is_err() {
            self.put(frame)?;
            return Err(Error::Constructor { frame: address });
        }
        let head = self.descriptor(frame);
        head.next.store(NONE, Ordering::Relaxed);
        head.previous.store(NONE, Ordering::Relaxed);
        let first = frame << (self.shift - S::SMALLEST);
        for table in 0..1_u32 << self.tables_shift(shift) {
            self.lives.fill(first + (table << (shift - S::SMALLEST)));
        }
        head.set_fragments(fragments);
        for tail in 1..1 << order {
            self.descriptor(frame + tail).set_tag(tag.tail());
        }
        head.set_tag(tag);
        Ok(frame)
    }

    /// A frame (or `2^order` on end) from the source, with one reference, which is ours.
    /// Quarantined ones are put aside on the way, alone: what was handed out with them goes back.
    fn take(&self, shift: u8, order: u8) -> Result<u32, Error<A>> {
        if order > 6 {
            return Err(Error::Unsupported { shift });
        }
        let mut address = A::new(self.start);
        // Each turn but the last puts a frame aside, so a source that hands out what it has comes
        // to an end.
        for _ in 0..=self.descriptors.len() {
            address = self.source.take(order).ok_or(Error::Exhausted { shift })?;
            let offset = address.get().wrapping_sub(self.start);
            let frame = offset >> self.shift;
            let last = frame + (1 << order) - 1;
            if !address.is_aligned(self.shift + order) || last >= self.descriptors.len() as u64 {
                return Err(Error::Source { frame: address });
            }
            let frame = frame as u32;
            if !self.claim(frame, order) {
                return Err(Error::Source { frame: address });
            }
            // After the claim, or a source that hands out what it does not have would get it back.
            if self.run(frame, order).iter().any(|frame| frame.is(QUARANTINED)) {
                self.put(frame)?;
                continue;
            }
            return Ok(frame);
        }
        Err(Error::Source { frame: address })
    }

    /// The descriptors of `2^order` frames from `frame` on.
    fn run(&self, frame: u32, order: u8) -> &[Descriptor] {
        &self.descriptors[frame as usize..frame as usize + (1 << order)]
    }

    /// Claims frames that the source handed out. False, and nothing changed, if any is in use.
    fn claim(&self, frame: u32, order: u8) -> bool {
        let run = self.run(frame, order);
        let joined = run.iter().take_while(|frame| frame.join()).count();
        if joined == run.len() {
            run[0].open(order);
            return true;
        }
        run[..joined].iter().for_each(Descriptor::part);
        false
    }

    /// `count` tables of the frame are gone for good: freed loosely, or never to be handed out. The
    /// last ones retire it; says whether these were.
    pub(crate) fn drop_fragments(&self, frame: u32, count: u32) -> Result<bool, Error<A>> {
        match self.descriptor(frame).drop_fragments(count) {
            Ok(0) => self.retire(frame).map(|()| true),
            Ok(_) => Ok(false),
            Err(WouldUnderflow(value)) => Err(Error::Underflow {
                frame: self.frame_address(frame),
                count: "fragments",
                value,
            }),
        }
    }

    /// No table is left in the frame.
    fn retire(&self, frame: u32) -> Result<(), Error<A>> {
        let head = self.descriptor(frame);
        let tag = head.tag();
        if tag.kind() == Kind::User {
            self.source.destruct(self.frame_address(frame), tag.shift());
        }
        for word in &head.hand {
            word.store(0, Ordering::Relaxed);
        }
        head.in_hand.store(0, Ordering::Relaxed);
        let frames = 1_u32 << head.order();
        for frame in frame..frame + frames {
            self.descriptor(frame).set_tag(Tag::FREE);
        }
        self.put(frame)
    }

    /// One reference less; whoever drops the last sends the frame home.
    pub(crate) fn put(&self, frame: u32) -> Result<(), Error<A>> {
        let head = self.descriptor(frame);
        // Read while we still hold a reference: afterwards the frame may be in use again, in
        // another order.
        let order = head.order();
        match head.put() {
            Ok(0) => {
                self.run(frame, order)[1..].iter().for_each(Descriptor::part);
                self.send_home(frame, order);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(WouldUnderflow(value)) => {
                Err(Error::Underflow { frame: self.frame_address(frame), count: "refs", value })
            }
        }
    }

    /// Gives `2^order` frames back to the source, except for those that are quarantined: the
    /// largest parts without one.
    fn send_home(&self, frame: u32, order: u8) {
        let fit = |frame: &Descriptor| !frame.is(QUARANTINED);
        if self.run(frame, order).iter().all(fit) {
            self.source.give(self.frame_address(frame), order);
        } else if let Some(half) = order.checked_sub(1) {
            self.send_home(frame, half);
            self.send_home(frame + (1 << half), half);
        }
    }

    /// Takes back a table whose cache is closed or gone: the frame's counter is all that is left to
    /// tell.
    ///
    /// # Errors
    /// [`Error::NotLive`] or [`Error::Outside`], and nothing changed, if there is no such table at
    /// `table` or its cache is still open.
    pub fn give(&self, table: A, owner: Owner) -> Result<(), Error<A>> {
        let Some(granule) = self.table_granule(table) else { return Err(self.not_live(table)) };
        // The frame may become another one's meanwhile; only a table of just this tag is freed.
        let tag = self.tag_at(granule);
        if tag.owner() != Some(owner)
            || self.numbers.lock().is_open(tag.cache())
            || !self.set_idle(granule, tag.table(), Contents::Stale)
        {
            return Err(self.not_live(table));
        }
        self.drop_fragments(self.frame_of(granule), 1).map(|_| ())
    }

    /// The error for something at `table` that is not a live table of whoever freed it.
    #[cold]
    pub(crate) fn not_live(&self, table: A) -> Error<A> {
        match self.granule(table).map(|granule| self.frame_of(granule)) {
            None => Error::Outside { address: table },
            Some(frame) => Error::NotLive {
                table,
                frame: self.frame_address(frame),
                owner: self.descriptor(frame).tag().owner(),
            },
        }
    }
}
