//! Why a vCPU stopped, as an enum.

use super::run::{kvm_run, kvm_run_mmio, kvm_run_papr_hcall};

/// `KVM_EXIT_UNKNOWN`.
pub const KVM_EXIT_UNKNOWN: u32 = 0;
/// `KVM_EXIT_MMIO`.
pub const KVM_EXIT_MMIO: u32 = 6;
/// `KVM_EXIT_FAIL_ENTRY`.
pub const KVM_EXIT_FAIL_ENTRY: u32 = 9;
/// `KVM_EXIT_INTR`.
pub const KVM_EXIT_INTR: u32 = 10;
/// `KVM_EXIT_INTERNAL_ERROR`.
pub const KVM_EXIT_INTERNAL_ERROR: u32 = 17;
/// `KVM_EXIT_PAPR_HCALL`.
pub const KVM_EXIT_PAPR_HCALL: u32 = 19;
/// `KVM_EXIT_SYSTEM_EVENT`.
pub const KVM_EXIT_SYSTEM_EVENT: u32 = 24;

/// Why [`Vcpu::run`](super::Vcpu::run) returned.
#[derive(Debug)]
pub enum VcpuExit<'a> {
    /// A hypercall for the VMM: read `nr` and `args`, set `ret`, run again.
    PaprHcall(&'a mut kvm_run_papr_hcall),
    /// A load or store without memory behind it: for a load fill `data`, run again.
    Mmio(&'a mut kvm_run_mmio),
    /// A signal came.
    Intr,
    /// The vCPU couldn’t be entered, with the reason.
    FailEntry(u64),
    /// KVM gave up, with the sub-error.
    InternalError(u32),
    /// The guest asked for a shutdown, or crashed, with the event’s type.
    SystemEvent(u32),
    /// An interrupt vector that KVM doesn’t know.
    Unknown(u64),
    /// An exit reason that this enum lacks.
    Unsupported(u32),
}

impl<'a> VcpuExit<'a> {
    pub(super) fn of(run: &'a mut kvm_run) -> Self {
        let exit = &mut run.exit;
        // SAFETY: every arm is plain integers in the union’s 256 bytes, all of which are
        // initialised (the mapping is), so any arm may be read whatever the reason is.
        unsafe {
            match run.exit_reason {
                KVM_EXIT_PAPR_HCALL => Self::PaprHcall(&mut exit.papr_hcall),
                KVM_EXIT_MMIO => Self::Mmio(&mut exit.mmio),
                KVM_EXIT_INTR => Self::Intr,
                KVM_EXIT_FAIL_ENTRY => {
                    Self::FailEntry(exit.fail_entry.hardware_entry_failure_reason)
                }
                KVM_EXIT_INTERNAL_ERROR => Self::InternalError(exit.internal.suberror),
                KVM_EXIT_SYSTEM_EVENT => Self::SystemEvent(exit.system_event.r#type),
                KVM_EXIT_UNKNOWN => Self::Unknown(exit.hw.hardware_exit_reason),
                reason => Self::Unsupported(reason),
            }
        }
    }
}
