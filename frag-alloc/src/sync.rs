//! The atomics and the one lock of this crate. Under `cfg(pgtable_loom)` they are loom's, so that
//! the model checks in `loom/frag-alloc` run the shipped code and not a copy of it.

pub(crate) use core::sync::atomic::Ordering;

#[cfg(not(pgtable_loom))]
pub(crate) use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};
#[cfg(pgtable_loom)]
pub(crate) use loom::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, fence};

#[cfg(pgtable_loom)]
pub(crate) use blocking::Lock;
#[cfg(not(pgtable_loom))]
pub(crate) use spin::Lock;

#[cfg(not(pgtable_loom))]
mod spin {
    use core::cell::UnsafeCell;
    use core::ops::{Deref, DerefMut};
    use core::sync::atomic::{AtomicBool, Ordering};

    /// A spin lock. What it protects takes tens of nanoseconds: nothing is filled, zeroed,
    /// constructed or given back to a source while it is held.
    #[derive(Debug)]
    pub(crate) struct Lock<T> {
        held: AtomicBool,
        value: UnsafeCell<T>,
    }

    // SAFETY: `lock` gives the value to one thread at a time, and its Acquire swap pairs with the
    // Release store of the unlocking thread.
    unsafe impl<T: Send> Sync for Lock<T> {}

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self { held: AtomicBool::new(false), value: UnsafeCell::new(value) }
        }

        #[inline]
        pub(crate) fn lock(&self) -> Locked<'_, T> {
            while self.held.swap(true, Ordering::Acquire) {
                self.wait();
            }
            Locked { lock: self }
        }

        #[cold]
        fn wait(&self) {
            let mut turns = 0_u32;
            while self.held.load(Ordering::Relaxed) {
                turns = turns.saturating_add(1);
                if turns > 64 {
                    // Its holder may have lost the CPU to us.
                    #[cfg(feature = "std")]
                    std::thread::yield_now();
                }
                core::hint::spin_loop();
            }
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
            // SAFETY: this thread holds the lock, and `&mut self` excludes a second borrow through
            // the same guard.
            unsafe { &mut *self.lock.value.get() }
        }
    }

    impl<T> Drop for Locked<'_, T> {
        #[inline]
        fn drop(&mut self) {
            self.lock.held.store(false, Ordering::Release);
        }
    }
}

/// A model checker cannot spin: it would have to explore every number of turns.
#[cfg(pgtable_loom)]
mod blocking {
    use loom::sync::{Mutex, MutexGuard};

    #[derive(Debug)]
    pub(crate) struct Lock<T>(Mutex<T>);

    impl<T> Lock<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().expect("no model panics under a lock")
        }
    }
}
