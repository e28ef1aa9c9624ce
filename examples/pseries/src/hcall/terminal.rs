//! `H_GET_TERM_CHAR`, `H_PUT_TERM_CHAR` (PAPR 14.15.3): up to 16 characters in two registers, the
//! first in the highest byte.

use vm_memory::GuestMemoryBackend;

use super::Platform;
use crate::host::Host;
use crate::status::Status;
use crate::tree::VTY;

/// The terminal that a call means: its unit address, or 0 for the first.
fn is_ours(unit: u64) -> bool {
    unit == 0 || unit == u64::from(VTY)
}

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    /// R4: the terminal. Returns the length in R4, the characters in R5 and R6.
    pub(super) fn get_term_char(&self, args: &mut [u64; 9]) -> Status {
        if !is_ours(args[0]) {
            return Status::PARAMETER;
        }
        let (count, bytes) = self.console.take();
        let word =
            |at: usize| bytes[at..at + 8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
        [args[0], args[1], args[2]] = [count as u64, word(0), word(8)];
        Status::SUCCESS
    }

    /// R4: the terminal; R5: the length; R6, R7: the characters.
    pub(super) fn put_term_char(&self, args: &[u64; 9]) -> Status {
        let [unit, length, first, second, ..] = *args;
        if !is_ours(unit) {
            return Status::PARAMETER;
        }
        let bytes = [first.to_be_bytes(), second.to_be_bytes()];
        match usize::try_from(length).ok().and_then(|length| bytes.as_flattened().get(..length)) {
            Some(bytes) => {
                self.host.print(bytes);
                Status::SUCCESS
            }
            None => Status::PARAMETER,
        }
    }
}
