//! What is known about one frame: a cache line.
//!
//! # Protocol
//! | word | who changes it | how |
//! | --- | --- | --- |
//! | `refs` | anyone | from 0 to 1 by the thread that took the frame from its source, after it stored the order; after that only +1 (if it is not 0) and −1 |
//! | `fragments` | this crate | stored before the frame's first table is visible to anyone; after that only −n |
//! | `tag` | this crate | stored with `fragments`; cleared before our own reference is dropped |
//! | `hand`, `in_hand`, `next`, `previous` | the holder of the pool's lock | plain stores |
//! | `flags` | anyone | OR; a frame's flags outlive its use |
//!
//! Of a table larger than a frame, the references of the first frame count for all; the `refs` of
//! the others go from 0 to [`JOINED`] and back.
//!
//! The two counts are apart because they answer different questions. `refs` says when the frame's
//! *memory* may be given away, and anybody may hold one for a moment. `fragments` says when the
//! frame has stopped being a *table frame*, and only tables hold it. When they were one word, a
//! plain store lost a reader's reference: `loom/frag-alloc/tests/designs.rs`. Neither count is ever
//! stored over after publication, and neither goes below zero: a decrement that would is refused.

use crate::sync::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// log2 of the smallest table that there can be; a source says from which size on it has any
/// ([`FrameSource::SMALLEST`](crate::FrameSource::SMALLEST)).
pub const GRANULE: u8 = 8;

/// No frame, in a list of frames.
pub(crate) const NONE: u32 = u32::MAX;

/// Which address space a table frame belongs to. The embedder's own numbers: a PID, an LPID, an
/// index.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Owner(pub u32);

/// For whom a frame's tables are.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// User tables: the frame is constructed before its first table and destructed after its last.
    User,
    /// Kernel (or hypervisor) tables: neither.
    Kernel,
}

/// Owner, cache, kind and table size in one word, so that one compare answers "is this one of
/// mine?": of a frame (in its descriptor), and of a live table (see [`lives`](crate::lives)).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tag(pub(crate) u64);

impl Tag {
    /// The frame is with its source, or with whoever holds references to it.
    pub(crate) const FREE: Self = Self(0);
    const LIVE: u64 = 1 << 8;
    const KERNEL: u64 = 1 << 9;
    const TAIL: u64 = 1 << 10;
    const CACHE: u32 = 12;
    const CACHES: u64 = (1 << 20) - 1;

    /// Of the tables of `2^shift` bytes of the cache with that number (see
    /// [`numbers`](crate::numbers)), which tells the caches of one owner apart.
    pub(crate) fn new(owner: Owner, kind: Kind, shift: u8, cache: u32) -> Self {
        let kernel = if kind == Kind::Kernel { Self::KERNEL } else { 0 };
        let cache = (u64::from(cache) & Self::CACHES) << Self::CACHE;
        Self(u64::from(owner.0) << 32 | cache | kernel | Self::LIVE | u64::from(shift))
    }

    /// What the word of a live table in such a frame says.
    pub(crate) fn table(self) -> Self {
        Self(self.0 & !Self::TAIL)
    }

    /// The same for the second and later frames of a table larger than a frame.
    pub(crate) fn tail(self) -> Self {
        Self(self.0 | Self::TAIL)
    }

    pub(crate) fn is_free(self) -> bool {
        self.0 & Self::LIVE == 0
    }

    /// The number of the cache.
    pub(crate) fn cache(self) -> u32 {
        (self.0 >> Self::CACHE & Self::CACHES) as u32
    }

    pub(crate) fn is_tail(self) -> bool {
        self.0 & Self::TAIL != 0
    }

    pub(crate) fn shift(self) -> u8 {
        self.0 as u8
    }

    pub(crate) fn owner(self) -> Option<Owner> {
        (!self.is_free()).then_some(Owner((self.0 >> 32) as u32))
    }

    pub(crate) fn kind(self) -> Kind {
        if self.0 & Self::KERNEL != 0 { Kind::Kernel } else { Kind::User }
    }
}

/// A count would have gone below zero from this value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct WouldUnderflow(pub(crate) u32);

/// The descriptor of a frame.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Descriptor {
    refs: AtomicU32,
    fragments: AtomicU32,
    tag: AtomicU64,
    /// One bit per table: set while the pool has it to hand out.
    pub(crate) hand: [AtomicU64; 4],
    pub(crate) next: AtomicU32,
    pub(crate) previous: AtomicU32,
    /// How many bits of `hand` are set.
    pub(crate) in_hand: AtomicU16,
    flags: AtomicU32,
}

/// In `refs`: the frame is the second or a later one of a larger table, and has no references of
/// its own; or it was just taken from its source, and has none yet.
const JOINED: u32 = u32::MAX;

/// A flag bit: the frame is never handed out again. In the byte below it stands the order in which
/// the frame was taken.
pub(crate) const QUARANTINED: u32 = 1 << 8;

impl Descriptor {
    pub(crate) fn new() -> Self {
        Self {
            refs: AtomicU32::new(0),
            fragments: AtomicU32::new(0),
            tag: AtomicU64::new(0),
            hand: [const { 0 }; 4].map(AtomicU64::new),
            next: AtomicU32::new(NONE),
            previous: AtomicU32::new(NONE),
            in_hand: AtomicU16::new(0),
            flags: AtomicU32::new(0),
        }
    }

    #[inline]
    pub(crate) fn tag(&self) -> Tag {
        Tag(self.tag.load(Ordering::Acquire))
    }

    pub(crate) fn set_tag(&self, tag: Tag) {
        self.tag.store(tag.0, Ordering::Release);
    }

    pub(crate) fn refs(&self) -> u32 {
        match self.refs.load(Ordering::Acquire) {
            JOINED => 0,
            refs => refs,
        }
    }

    pub(crate) fn fragments(&self) -> u32 {
        self.fragments.load(Ordering::Acquire)
    }

    /// From 0 to [`JOINED`], which nobody adds to: the frame just came from its source. False if
    /// somebody holds it. The second and later frames of a larger table stay so, since the
    /// references of the first count for all.
    pub(crate) fn join(&self) -> bool {
        self.refs.compare_exchange(0, JOINED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// The first of `2^order` frames, all of them joined, gets its first reference. From then on
    /// others may hold it, and whoever does finds this order: the last holder sends home as many
    /// frames as it says.
    pub(crate) fn open(&self, order: u8) {
        self.set_order(order);
        self.refs.store(1, Ordering::Release);
    }

    /// Undoes [`join`](Self::join), before the frame goes home.
    pub(crate) fn part(&self) {
        self.refs.store(0, Ordering::Release);
    }

    /// One more reference, unless the frame is with its source.
    pub(crate) fn get_unless_zero(&self) -> bool {
        let more = |refs: u32| {
            if refs == 0 { None } else { refs.checked_add(1).filter(|&more| more != JOINED) }
        };
        self.refs.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    /// One reference less; returns how many remain. Whoever gets 0 sends the frame home.
    pub(crate) fn put(&self) -> Result<u32, WouldUnderflow> {
        less(&self.refs, 1)
    }

    /// Before the first table is visible to anyone.
    pub(crate) fn set_fragments(&self, count: u32) {
        self.fragments.store(count, Ordering::Relaxed);
    }

    /// `count` tables fewer; returns how many remain. Whoever gets 0 retires the frame.
    #[inline]
    pub(crate) fn drop_fragments(&self, count: u32) -> Result<u32, WouldUnderflow> {
        less(&self.fragments, count)
    }

    pub(crate) fn order(&self) -> u8 {
        self.flags.load(Ordering::Relaxed) as u8
    }

    fn set_order(&self, order: u8) {
        let _ = self.flags.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |flags| {
            Some(flags & !0xff | u32::from(order))
        });
    }

    pub(crate) fn raise(&self, flag: u32) {
        self.flags.fetch_or(flag, Ordering::AcqRel);
    }

    pub(crate) fn is(&self, flag: u32) -> bool {
        self.flags.load(Ordering::Acquire) & flag != 0
    }
}

/// Release, so that whoever gets 0 sees what all others did to the frame before; Acquire, so that
/// he does.
#[inline]
fn less(count: &AtomicU32, by: u32) -> Result<u32, WouldUnderflow> {
    let fewer = |now: u32| now.checked_sub(by);
    match count.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fewer) {
        Ok(before) => Ok(before - by),
        Err(now) => Err(WouldUnderflow(now)),
    }
}

#[cfg(all(test, not(pgtable_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_is_a_cache_line() {
        assert_eq!(size_of::<Descriptor>(), 64);
    }

    #[test]
    fn counts_do_not_wrap() {
        let it = Descriptor::new();
        assert!(!it.get_unless_zero());
        assert_eq!(it.put(), Err(WouldUnderflow(0)));
        assert!(it.join() && !it.join() && !it.get_unless_zero());
        it.open(0);
        assert!(!it.join() && it.get_unless_zero());
        assert_eq!((it.put(), it.put(), it.put()), (Ok(1), Ok(0), Err(WouldUnderflow(0))));
        it.set_fragments(3);
        assert_eq!((it.drop_fragments(4), it.drop_fragments(3)), (Err(WouldUnderflow(3)), Ok(0)));
    }
}
