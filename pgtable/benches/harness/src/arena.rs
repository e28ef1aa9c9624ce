//! Memory for tables: a block of this process that begins at a physical address of our choosing, on
//! huge pages, so that the host's own TLB misses are not what is measured.

use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The host's huge page.
const HUGE: usize = 2 << 20;
/// Room for 1,048,576 pages' tables in any geometry, and for frames that alignment wastes.
pub const BYTES: usize = 16 << 20;

/// A block of table memory. It lives as long as the process.
#[derive(Clone, Copy)]
pub struct Arena {
    /// Where it begins in this process.
    pub host: *mut u8,
    /// Its physical address. Not that of any host mapping: whoever confuses the two is found out.
    pub start: u64,
    /// Its size.
    pub bytes: usize,
}

// SAFETY: a plain mapping; whoever uses it does so through what guards it.
unsafe impl Send for Arena {}

impl Arena {
    /// A block of `bytes` zero bytes at physical address `start`.
    pub fn new(start: u64, bytes: usize) -> Self {
        // SAFETY: a new anonymous mapping, which overlaps nothing.
        let block = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes + HUGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        assert_ne!(block, libc::MAP_FAILED, "mmap: {}", std::io::Error::last_os_error());
        let block = block.cast::<u8>();
        // SAFETY: the mapping is larger than `bytes` by as much as aligning may skip.
        let host = unsafe { block.add(block.align_offset(HUGE)) };
        // SAFETY: within the mapping. Whether the advice is taken is the kernel's affair.
        unsafe { libc::madvise(host.cast(), bytes, libc::MADV_HUGEPAGE) };
        let arena = Self { host, start, bytes };
        arena.touch();
        arena
    }

    /// Brings its pages in, so that no timed loop does.
    fn touch(self) {
        for at in (0..self.bytes).step_by(4096) {
            self.word(at).store(0, Ordering::Relaxed);
        }
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.bytes && at % 8 == 0);
        // SAFETY: in the mapping, aligned, and valid for the life of the process.
        unsafe { &*self.host.add(at).cast() }
    }

    /// Its first `bytes` bytes, and the rest.
    pub fn split(self, bytes: usize) -> (Self, Self) {
        assert!(bytes <= self.bytes && bytes % HUGE == 0);
        // SAFETY: within the mapping.
        let host = unsafe { self.host.add(bytes) };
        (
            Self { bytes, ..self },
            Self { host, start: self.start + bytes as u64, bytes: self.bytes - bytes },
        )
    }

    /// Makes it zero again. No table in it may be in use.
    pub fn clear(self) {
        // SAFETY: the whole mapping, and nobody else refers to it.
        unsafe { ptr::write_bytes(self.host, 0, self.bytes) };
    }

    /// What has to be added to a physical address in it to get the pointer.
    #[inline]
    pub fn offset(self) -> u64 {
        (self.host as u64).wrapping_sub(self.start)
    }

    /// The pointer to physical address `address`.
    #[inline]
    pub fn pointer(self, address: u64) -> *mut u8 {
        assert!(address - self.start < self.bytes as u64);
        // SAFETY: just checked.
        unsafe { self.host.add((address - self.start) as usize) }
    }
}

/// Frames of 4 KiB of an arena, for the peers: those freed last are handed out first.
pub struct Frames {
    pub arena: Arena,
    top: u64,
    free: Vec<u64>,
}

impl Default for Frames {
    fn default() -> Self {
        Self::of(Arena::new(0x4000_0000, BYTES))
    }
}

impl Frames {
    /// All frames of `arena`, which is made zero.
    pub fn of(arena: Arena) -> Self {
        arena.clear();
        Self { arena, top: arena.start, free: Vec::new() }
    }

    /// The physical address of a frame.
    #[inline]
    pub fn allocate(&mut self) -> Option<u64> {
        if let Some(frame) = self.free.pop() {
            return Some(frame);
        }
        let frame = self.top;
        self.top += 4096;
        (self.top - self.arena.start <= self.arena.bytes as u64).then_some(frame)
    }

    #[inline]
    pub fn free(&mut self, frame: u64) {
        self.free.push(frame);
    }

    /// Takes everything back.
    pub fn clear(&mut self) {
        self.arena.clear();
        self.top = self.arena.start;
        self.free.clear();
    }
}
