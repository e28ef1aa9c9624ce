//! `kvm_run`: the memory that KVM and a VMM share for one vCPU.

/// An interrupt vector that KVM does not know.
pub const KVM_EXIT_UNKNOWN: u32 = 0;
/// A load or store without a memory slot.
pub const KVM_EXIT_MMIO: u32 = 6;
/// The vCPU could not be entered.
pub const KVM_EXIT_FAIL_ENTRY: u32 = 9;
/// A signal.
pub const KVM_EXIT_INTR: u32 = 10;
/// KVM gave up.
pub const KVM_EXIT_INTERNAL_ERROR: u32 = 17;
/// A hypercall that KVM leaves to the VMM.
pub const KVM_EXIT_PAPR_HCALL: u32 = 19;
/// The guest asked for a shutdown, or crashed.
pub const KVM_EXIT_SYSTEM_EVENT: u32 = 24;

/// The shared memory. Arms of the union are those that KVM on POWER uses.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct kvm_run {
    /// In: exit as soon as an interrupt can be injected (x86).
    pub request_interrupt_window: u8,
    /// In: `KVM_RUN` returns `EINTR` at once.
    pub immediate_exit: u8,
    /// Reserved.
    pub padding1: [u8; 6],
    /// Out: which arm of the union holds.
    pub exit_reason: u32,
    /// Out (x86).
    pub ready_for_interrupt_injection: u8,
    /// Out (x86).
    pub if_flag: u8,
    /// Out: on POWER how a machine check was recovered from.
    pub flags: u16,
    /// In and out (x86).
    pub cr8: u64,
    /// In and out (x86).
    pub apic_base: u64,
    /// Out: why the vCPU stopped; an unnamed union in the kernel.
    pub exit: kvm_run_exit,
    /// Which synchronised registers hold; none on POWER.
    pub kvm_valid_regs: u64,
    /// Which synchronised registers the VMM changed; none on POWER.
    pub kvm_dirty_regs: u64,
    /// Room for the synchronised registers.
    pub s: [u8; 2048],
}

/// Why the vCPU stopped.
#[repr(C)]
#[derive(Clone, Copy)]
pub union kvm_run_exit {
    /// `KVM_EXIT_UNKNOWN`.
    pub hw: kvm_run_hw,
    /// `KVM_EXIT_FAIL_ENTRY`.
    pub fail_entry: kvm_run_fail_entry,
    /// `KVM_EXIT_MMIO`.
    pub mmio: kvm_run_mmio,
    /// `KVM_EXIT_INTERNAL_ERROR`.
    pub internal: kvm_run_internal,
    /// `KVM_EXIT_PAPR_HCALL`.
    pub papr_hcall: kvm_run_papr_hcall,
    /// `KVM_EXIT_SYSTEM_EVENT`.
    pub system_event: kvm_run_system_event,
    /// The union’s size.
    pub padding: [u8; 256],
}

/// An exit that KVM doesn’t know.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_hw {
    /// The interrupt vector that brought the CPU out of the guest.
    pub hardware_exit_reason: u64,
}

/// The vCPU couldn’t be entered.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_fail_entry {
    /// Why.
    pub hardware_entry_failure_reason: u64,
    /// On which CPU of the host.
    pub cpu: u32,
}

/// A load or store at a guest real address without a memory slot.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_mmio {
    /// Guest real address.
    pub phys_addr: u64,
    /// The bytes, as they would lie in memory.
    pub data: [u8; 8],
    /// How many.
    pub len: u32,
    /// 1: a store; 0: a load, which the VMM answers by filling `data`.
    pub is_write: u8,
}

/// KVM gave up.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_internal {
    /// Why.
    pub suberror: u32,
    /// How many elements of `data` hold.
    pub ndata: u32,
    /// Details.
    pub data: [u64; 16],
}

/// A PAPR hypercall that KVM leaves to the VMM.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_papr_hcall {
    /// The hypercall’s number: R3.
    pub nr: u64,
    /// What the next `KVM_RUN` puts into R3.
    pub ret: u64,
    /// R4 to R12; the next `KVM_RUN` puts them back.
    pub args: [u64; 9],
}

/// The guest asked for a shutdown, or crashed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct kvm_run_system_event {
    /// Which.
    pub r#type: u32,
    /// How many elements of `data` hold.
    pub ndata: u32,
    /// Details.
    pub data: [u64; 16],
}
