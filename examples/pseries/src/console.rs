//! The virtual terminal: what is typed waits here until the guest asks for it.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

/// The input side of the terminal. Output goes to [`Host::print`](super::Host::print) as it comes.
#[derive(Debug, Default)]
pub struct Console(Mutex<VecDeque<u8>>);

impl Console {
    /// Types `bytes`; the guest gets them when it asks next.
    pub fn type_in(&self, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
    }

    /// The next up to 16 bytes: how many, and the bytes.
    pub(super) fn take(&self) -> (usize, [u8; 16]) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut taken = [0; 16];
        let count = waiting.len().min(taken.len());
        for (to, from) in taken.iter_mut().zip(waiting.drain(..count)) {
            *to = from;
        }
        (count, taken)
    }
}
