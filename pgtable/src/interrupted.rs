//! What a panic of the embedder's code interrupts: a callback, an invalidation, a memory that is
//! told of a write.
//!
//! # Protocol
//! Before such code is called in the middle of a change, an [`OnPanic`] is made that says what has
//! to be so if it does not return: entries that were taken out go back, or what may be stale is
//! told to the gather and the table's count of live entries becomes [unknown](crate::state::LOST).
//! The next writer that needs an unknown count counts.

/// Does something if it is dropped before it is [disarmed](Self::disarm).
#[must_use]
pub(crate) struct OnPanic<U: FnMut()>(U);

impl<U: FnMut()> OnPanic<U> {
    #[inline(always)]
    pub(crate) fn new(undo: U) -> Self {
        Self(undo)
    }

    /// The code returned.
    #[inline(always)]
    pub(crate) fn disarm(self) {
        core::mem::forget(self);
    }
}

impl<U: FnMut()> Drop for OnPanic<U> {
    #[inline(always)]
    fn drop(&mut self) {
        (self.0)();
    }
}
