//! `H_SET_MODE` (PAPR 14.5.4.3.8): how interrupts are taken.

use vm_memory::GuestMemoryBackend;

use super::Platform;
use crate::host::Host;
use crate::status::Status;

/// LPCR\[ILE\]: interrupts are taken little-endian (Power ISA v3.0B, book III 2.2).
const LPCR_ILE: u64 = 1 << 25;
/// LPCR\[AIL\]: where interrupts are taken.
const LPCR_AIL: u64 = 3 << 23;

/// Resource: the address translation mode on interrupt.
const ADDRESS_TRANSLATION_MODE: u64 = 3;
/// Resource: the endianness of interrupts.
const LITTLE_ENDIAN: u64 = 4;

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    /// R4: flags; R5: resource; R6, R7: values, of which these resources have none.
    ///
    /// A POWER9 before DD2.1 does not take AIL in a radix guest: then the flag is unsupported, and
    /// Linux goes on without.
    pub(super) fn set_mode(&self, args: &[u64; 9]) -> Status {
        let [flags, resource, first, second, ..] = *args;
        let (mask, bits) = match (resource, flags) {
            (LITTLE_ENDIAN, 0) => (LPCR_ILE, 0),
            (LITTLE_ENDIAN, 1) => (LPCR_ILE, LPCR_ILE),
            (ADDRESS_TRANSLATION_MODE, 0 | 2 | 3) => (LPCR_AIL, flags << 23),
            (LITTLE_ENDIAN | ADDRESS_TRANSLATION_MODE, _) => return Status::UNSUPPORTED_FLAG,
            _ => return Status::P2,
        };
        match (first, second) {
            (0, 0) if self.host.set_lpcr(mask, bits) => Status::SUCCESS,
            (0, 0) => Status::UNSUPPORTED_FLAG,
            (0, _) => Status::P4,
            _ => Status::P3,
        }
    }
}
