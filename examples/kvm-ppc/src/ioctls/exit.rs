//! Why a vCPU stopped, as an enum.

use crate::bindings::*;

/// Why [`VcpuFd::run`](super::VcpuFd::run) returned.
#[derive(Debug)]
#[non_exhaustive]
pub enum VcpuExit<'a> {
    /// A load without memory behind its address: fill the bytes, run again.
    MmioRead(u64 /* address */, &'a mut [u8]),
    /// A store without memory behind its address.
    MmioWrite(u64 /* address */, &'a [u8]),
    /// A hypercall for the VMM: set `ret`, run again.
    PaprHcall(PaprHcallExit<'a>),
    /// A signal came.
    Intr,
    /// The vCPU could not be entered.
    FailEntry(u64 /* hardware_entry_failure_reason */, u32 /* cpu */),
    /// KVM gave up.
    InternalError,
    /// The guest asked for a shutdown, or crashed.
    SystemEvent(u32 /* type */, &'a [u64] /* data */),
    /// An interrupt vector that KVM does not know.
    Unknown,
    /// An exit reason that this enum lacks.
    Unsupported(u32),
}

/// A PAPR hypercall that KVM leaves to the VMM, in the manner of `kvm_ioctls::HypercallExit`.
#[derive(Debug)]
pub struct PaprHcallExit<'a> {
    /// The hypercall’s number: R3.
    pub nr: u64,
    /// R4 to R12; the next `KVM_RUN` puts them back.
    pub args: &'a mut [u64; 9],
    /// What the next `KVM_RUN` puts into R3.
    pub ret: &'a mut u64,
}

impl<'a> VcpuExit<'a> {
    pub(super) fn of(run: &'a mut kvm_run) -> Self {
        let exit = &mut run.exit;
        // SAFETY: every arm is plain integers in the union’s 256 bytes, all of which are
        // initialised (the mapping is), so any arm may be read whatever the reason is.
        unsafe {
            match run.exit_reason {
                KVM_EXIT_PAPR_HCALL => {
                    let kvm_run_papr_hcall { nr, ret, args } = &mut exit.papr_hcall;
                    Self::PaprHcall(PaprHcallExit { nr: *nr, args, ret })
                }
                KVM_EXIT_MMIO => {
                    let kvm_run_mmio { phys_addr, data, len, is_write } = &mut exit.mmio;
                    let data = &mut data[..(*len).min(8) as usize];
                    match *is_write {
                        0 => Self::MmioRead(*phys_addr, data),
                        _ => Self::MmioWrite(*phys_addr, data),
                    }
                }
                KVM_EXIT_INTR => Self::Intr,
                KVM_EXIT_FAIL_ENTRY => {
                    let fail = exit.fail_entry;
                    Self::FailEntry(fail.hardware_entry_failure_reason, fail.cpu)
                }
                KVM_EXIT_INTERNAL_ERROR => Self::InternalError,
                KVM_EXIT_SYSTEM_EVENT => {
                    let kvm_run_system_event { r#type, ndata, data } = &exit.system_event;
                    Self::SystemEvent(*r#type, &data[..(*ndata).min(16) as usize])
                }
                KVM_EXIT_UNKNOWN => Self::Unknown,
                reason => Self::Unsupported(reason),
            }
        }
    }
}
