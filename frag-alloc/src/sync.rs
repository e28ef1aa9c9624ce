//! The atomics and the one lock of this crate. Under `cfg(loom)` they are loom's, so that the model checks in
//! `tests/loom_*.rs` run the shipped code and not a copy of it.

#[cfg(not(loom))]
mod primitive {
    pub use core::cell::UnsafeCell;
    pub use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};

    /// Called in a loop that waits for another thread.
    #[inline]
    pub fn relax(turns: u32) {
        if cfg!(feature = "std") && turns > 64 {
            yield_now();
        } else {
            core::hint::spin_loop();
        }
    }

    #[cfg(feature = "std")]
    fn yield_now() {
        std::thread::yield_now();
    }

    #[cfg(not(feature = "std"))]
    fn yield_now() {}
}

#[cfg(loom)]
mod primitive {
    pub use loom::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64};

    pub fn relax(_: u32) {
        loom::thread::yield_now();
    }

    /// Loom's cell, with the `get` of the real one.
    #[derive(Debug)]
    pub struct UnsafeCell<T>(loom::cell::UnsafeCell<T>);

    impl<T> UnsafeCell<T> {
        pub fn new(value: T) -> Self {
            Self(loom::cell::UnsafeCell::new(value))
        }

        pub fn get(&self) -> *mut T {
            self.0.with_mut(|at| at)
        }
    }
}

use core::ops::{Deref, DerefMut};
pub(crate) use core::sync::atomic::Ordering;

use primitive::{AtomicBool, UnsafeCell};
pub(crate) use primitive::{AtomicU16, AtomicU32, AtomicU64, relax};

/// A spin lock. What it protects takes tens of nanoseconds: nothing is filled, zeroed, constructed or given back to a
/// source while it is held.
#[derive(Debug)]
pub(crate) struct Lock<T> {
    held: AtomicBool,
    value: UnsafeCell<T>,
}

// SAFETY: `lock` gives the value to one thread at a time, and its Acquire swap pairs with the Release store of the
// unlocking thread.
unsafe impl<T: Send> Sync for Lock<T> {}

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
    }

    #[inline]
    pub(crate) fn lock(&self) -> Locked<'_, T> {
        let mut turns = 0;
        while self.held.swap(true, Ordering::Acquire) {
            while self.held.load(Ordering::Relaxed) {
                turns += 1;
                relax(turns);
            }
        }
        Locked { lock: self }
    }
}

/// Whoever has it is alone with the value; dropping it unlocks.
#[derive(Debug)]
pub(crate) struct Locked<'l, T> {
    lock: &'l Lock<T>,
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: this thread holds the lock, so nobody has a `&mut` to the value.
        unsafe { &*self.lock.value.get() }
    }
}

impl<T> DerefMut for Locked<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: this thread holds the lock, and `&mut self` excludes a second borrow through the same guard.
        unsafe { &mut *self.lock.value.get() }
    }
}

impl<T> Drop for Locked<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.lock.held.store(false, Ordering::Release);
    }
}
