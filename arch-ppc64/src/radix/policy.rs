//! Where implementations differ, as values: who sets R and C, what happens to a table that the
//! manual does not allow, and who hears of a table that is not there.

use bitfield_struct::bitfield;

/// Who sets a leaf's R and C (ISA "Reference and Change Recording" allows both).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum RcPolicy {
    /// The hardware sets them by itself, and no access ever faults for them. QEMU until 8.0.
    HardwareUpdate,
    /// An access with R = 0, or a store with C = 0, takes an interrupt (status 0x00040000) after
    /// the permission check. POWER9, POWER10, QEMU from 8.1, microwatt.
    #[default]
    Fault,
}

impl RcPolicy {
    /// What this version of QEMU does, in process scope and in partition scope.
    ///
    /// ```
    /// use pgtable_ppc64::radix::RcPolicy;
    ///
    /// assert_eq!(RcPolicy::of_qemu(7, 2), RcPolicy::HardwareUpdate);
    /// assert_eq!(RcPolicy::of_qemu(10, 0), RcPolicy::Fault);
    /// ```
    #[must_use]
    pub const fn of_qemu(major: u32, minor: u32) -> Self {
        if major > 8 || major == 8 && minor >= 1 { Self::Fault } else { Self::HardwareUpdate }
    }
}

/// What becomes of entries that break the manual's rules.
///
/// | entry | `Qemu` | `Kvm` | `Strict` |
/// | --- | --- | --- | --- |
/// | NLS that its level does not support; a table below the last level | malformed | malformed | malformed |
/// | leaf in the root (512 GiB) | a page | malformed | malformed |
/// | NLB not aligned to the table | low bits ignored | malformed | malformed |
/// | RPN not aligned to the page | low bits ignored | malformed | malformed |
/// | RPDB (root) not aligned | added up as it is | malformed | malformed |
/// | reserved bits set | ignored | ignored | malformed |
/// | process table larger than 2^36 bytes (PRTS 25 to 31) | a table | malformed | malformed |
/// | process table not aligned to its size | malformed | added up as it is | malformed |
/// | EAA of a process-scoped leaf: write without read | read and write | write only | read and write |
/// | order: unsupported size of a table against a table outside memory | memory first | size first | size first |
///
/// Sources: `ppc_radix64_xlate_impl` of QEMU, `kvmppc_mmu_walk_radix_tree` of Linux, and the ISA's
/// text. What silicon does with such tables is not published.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Strictness {
    /// As QEMU's MMU, so also a guest of KVM-HV on an emulated POWER9.
    Qemu,
    /// As KVM's software walker.
    Kvm,
    /// As the manual.
    #[default]
    Strict,
}

/// Who hears of a guest's table that stands outside the guest's memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum TableFault {
    /// The hypervisor, as the hardware reports it: HDSI, HDSISR 0x40020000, for fetches too. It is
    /// a load whatever the access was, so the store bit is clear.
    #[default]
    ToHypervisor,
    /// The guest, as KVM reflects it: DSI with the HDSISR unchanged, so DSISR 0x40020000 for loads,
    /// stores and fetches alike.
    Reflected,
}

/// From which quadrants (address bits 0:1) a process-scoped tree is reached (ISA "Radix Tree
/// Translation", MSR\[HV\] = 0).
///
/// Quadrant 0 is the tree of the process in PIDR, quadrant 3 that of process 0; quadrants 1 and 2
/// take a segment interrupt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Quadrants {
    /// Quadrant 0: the tree of a process other than 0.
    #[default]
    Zero,
    /// Quadrant 3: the tree of process 0 while another process runs.
    Three,
    /// Both: the tree of process 0 while PIDR is 0. Its addresses are given as quadrant 3's.
    ZeroAndThree,
}

/// Authority Mask Register: what a supervisor may not do to user pages, by key. Radix pages all
/// have key 0 (ISA "Storage Protection").
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Amr {
    /// 0: no stores.
    pub no_store: bool,
    /// 1: no loads.
    pub no_load: bool,
    /// 2:63: the other keys.
    #[bits(62)]
    pub other_keys: u64,
}

/// Instruction Authority Mask Register: from which user pages a supervisor may not fetch, by key.
/// Radix pages all have key 0 (ISA "Storage Protection").
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Iamr {
    __: bool,
    /// 1: no fetches.
    pub no_execute: bool,
    /// 2:63: the other keys.
    #[bits(62)]
    pub other_keys: u64,
}

impl Amr {
    /// The bit that forbids stores.
    pub(crate) const NO_STORE: u64 = Self::new().with_no_store(true).into_bits();
    /// The bit that forbids loads.
    pub(crate) const NO_LOAD: u64 = Self::new().with_no_load(true).into_bits();
}

impl Iamr {
    /// The bit that forbids fetches.
    pub(crate) const NO_EXECUTE: u64 = Self::new().with_no_execute(true).into_bits();
}
