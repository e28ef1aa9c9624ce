//! The processor's state that takes part in EPT translation.

/// The host's state that takes part in EPT translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct EptControls {
    /// "Mode-based execute control for EPT": XU governs fetches from user-mode linear addresses, X
    /// those from supervisor-mode ones. The [`Privilege`](pgtable::Privilege) of an access is then
    /// that of the linear address (its U/S bits), not of the CPL;
    /// [`TwoStage`](pgtable::two_stage::TwoStage) sees to that.
    pub mode_based_execute: bool,
    /// The EPT pointer enables accessed and dirty flags.
    pub accessed_dirty: bool,
    /// The EPT pointer enforces supervisor shadow stacks: shadow-stack accesses of supervisor mode
    /// need a page with that mark, which may be read, below tables that may be read and written;
    /// the page's own W does not count (SDM §29.3.3.2).
    pub supervisor_shadow_stack: bool,
    /// Reads and writes are shadow-stack accesses:
    /// [`Controls::shadow_stack`](crate::Controls::shadow_stack).
    pub shadow_stack: bool,
    /// `IA32_VMX_EPT_VPID_CAP` bit 22: violations of final accesses tell the rights of the linear
    /// address. Only a walk through both stages knows them.
    pub advanced_information: bool,
    /// `IA32_VMX_EPT_VPID_CAP` bit 0: execute-only pages are supported.
    pub execute_only: bool,
    /// `IA32_VMX_EPT_VPID_CAP` bit 17: 1-GiB pages are supported.
    pub gib_pages: bool,
    /// MAXPHYADDR: physical address bits from here on are reserved. 52 at most.
    pub maxphyaddr: u8,
}

impl EptControls {
    /// Accessed and dirty flags, execute-only and 1-GiB pages, 52 bits of physical address; no
    /// mode-based execute control, shadow stacks or advanced information.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            mode_based_execute: false,
            accessed_dirty: true,
            supervisor_shadow_stack: false,
            shadow_stack: false,
            advanced_information: false,
            execute_only: true,
            gib_pages: true,
            maxphyaddr: 52,
        }
    }

    /// What a processor has, by the value of its MSR `IA32_VMX_EPT_VPID_CAP` (SDM appendix A.10):
    /// execute-only pages (bit 0), 1-GiB pages (17), accessed and dirty flags (21), advanced
    /// information (22). The rest is as in [`new`](Self::new); the processor has 2-MiB pages and
    /// write-back tables (bits 16 and 14), as all have.
    ///
    /// ```
    /// use pgtable_x86::{Ept, EptControls, Levels};
    ///
    /// const CAPABILITIES: u64 = 0x0f01_0673_4141; // RDMSR 0x48c
    /// const MAXPHYADDR: u8 = 46; // CPUID
    /// let processor = EptControls::of_capabilities(CAPABILITIES);
    /// let format = Ept::new(Levels::Four, EptControls { maxphyaddr: MAXPHYADDR, ..processor });
    /// assert!(format.controls().accessed_dirty && format.controls().advanced_information);
    /// ```
    #[must_use]
    pub const fn of_capabilities(capabilities: u64) -> Self {
        Self {
            execute_only: capabilities & 1 != 0,
            gib_pages: capabilities >> 17 & 1 != 0,
            accessed_dirty: capabilities >> 21 & 1 != 0,
            advanced_information: capabilities >> 22 & 1 != 0,
            ..Self::new()
        }
    }
}

impl Default for EptControls {
    fn default() -> Self {
        Self::new()
    }
}
