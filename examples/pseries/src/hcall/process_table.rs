//! `H_REGISTER_PROC_TBL` (PAPR 14.5.4.3.9; its checks as QEMU's `spapr` makes them): the guest says
//! which translation it uses, and where its process table is.

use bits::{GTSE, HASH_TABLE, KNOWN, MODIFY, RADIX, REGISTER};
use pgtable_ppc64::kvm::kvm_ppc_mmuv3_cfg;
use pgtable_ppc64::radix::{ProcessTable, ProcessTableWord};
use std::sync::PoisonError;
use vm_memory::GuestMemoryBackend;

use super::Platform;
use crate::host::Host;
use crate::status::Status;
use crate::tree::Mmu;

/// The flags.
mod bits {
    /// There is a new registration, or none any more.
    pub const MODIFY: u64 = 0x10;
    /// With MODIFY: a new one.
    pub const REGISTER: u64 = 0x08;
    /// Radix trees; else a hashed table.
    pub const RADIX: u64 = 0x04;
    /// Segment tables in memory.
    pub const HASH_TABLE: u64 = 0x02;
    /// The guest uses `tlbie` itself.
    pub const GTSE: u64 = 0x01;
    /// All of them.
    pub const KNOWN: u64 = 0x1f;
}

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    /// R4: flags; R5: the table's address; R6: page size (hash only); R7: PRTS.
    pub(super) fn register_process_table(&self, args: &[u64; 9]) -> Status {
        let [flags, base, page_size, size, ..] = *args;
        let radix = flags & RADIX != 0;
        if flags & !KNOWN != 0
            || flags & HASH_TABLE != 0
            || radix != (self.machine.mmu == Mmu::Radix)
        {
            return Status::PARAMETER;
        }
        let before = self.process_table();
        let word = match (flags & MODIFY != 0, flags & REGISTER != 0, radix) {
            (true, true, true) => {
                if base & 0xfff != 0 || base >> 60 != 0 {
                    return Status::P2;
                }
                if page_size != 0 {
                    return Status::P3;
                }
                if size > 24 {
                    return Status::P4;
                }
                Some(
                    ProcessTableWord::new()
                        .with_gr(true)
                        .with_prtb(base >> 12)
                        .with_prts(size as u8),
                )
            }
            // A hashed guest has no process table that hardware reads here: segments come by
            // software.
            (true, true, false) => return Status::PARAMETER,
            (true, false, _) => None,
            (false, ..) => before,
        };
        let flags_for_kvm = |word| kvm_ppc_mmuv3_cfg::radix(word, flags & GTSE != 0);
        let configuration = match word {
            Some(word) => flags_for_kvm(word),
            None if radix => flags_for_kvm(ProcessTableWord::new()),
            None => kvm_ppc_mmuv3_cfg::default(),
        };
        if let Some(word) = word.filter(|word| ProcessTable::of_word(*word).is_none()) {
            self.host.note(&format!(
                "the process table {:#x} is not aligned to its size",
                word.into_bits()
            ));
        }
        // Without a change there is nothing to tell a hashed guest's MMU.
        if (radix || before.is_some()) && !self.host.configure_mmu(&configuration) {
            return Status::HARDWARE;
        }
        *self.process_table.lock().unwrap_or_else(PoisonError::into_inner) = word;
        Status::SUCCESS
    }
}
