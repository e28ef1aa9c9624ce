//! What a VMCS or a VMCB says of its second stage: formats from the fields' values, bit by bit, so
//! that what is not modelled is refused by name.
//!
//! SDM §25.6.2 (tables 25-7 and 25-8), §25.6.11; APM appendix B (VMCB offset 90H).

use pgtable::Hpa;
use pgtable::vcpu::Effect;

use crate::controls::Levels;
use crate::ept::Ept;
use crate::ept_controls::EptControls;
use crate::ept_entry::Eptp;
use crate::npt::{Npt, NptControls};
use crate::registers::Registers;
use crate::shape::beyond_maxphyaddr;

pgtable::control_registers! {
    /// A field that takes part in the second stage's translation.
    pub enum Stage2Register: STAGE2_BITS {
        /// The EPT pointer.
        Eptp = "EPTP",
        /// The secondary processor-based VM-execution controls.
        Secondary = "secondary controls",
        /// The tertiary processor-based VM-execution controls.
        Tertiary = "tertiary controls",
        /// Offset 90H of a VMCB.
        NestedControl = "VMCB offset 0x90",
        /// The nested CR3.
        NestedCr3 = "nested CR3",
    }
}

/// Some bits of such a field.
pub type Stage2Bits = pgtable::vcpu::ControlBits<Stage2Register>;

use Effect::{Modelled, None as Nothing, Refused};
use Stage2Register::{Eptp as Pointer, NestedControl, NestedCr3, Secondary, Tertiary};

/// Every defined bit of the fields. Bits that are in no row are reserved, and refused.
pub const STAGE2_BITS: &[Stage2Bits] = &[
    bits(Pointer, 0, 3, "memory type", Modelled),
    bits(Pointer, 3, 3, "walk length", Modelled),
    bits(Pointer, 6, 1, "accessed and dirty flags", Modelled),
    bits(Pointer, 7, 1, "supervisor shadow stacks", Modelled),
    bits(Pointer, 12, 40, "the root table", Modelled),
    bits(Secondary, 0, 1, "virtualize APIC accesses", Nothing), // after translation
    bits(Secondary, 1, 1, "enable EPT", Modelled),
    bits(Secondary, 2, 5, "exiting, RDTSCP, x2APIC, VPID, WBINVD", Nothing),
    bits(Secondary, 7, 1, "unrestricted guest", Nothing),
    bits(Secondary, 8, 9, "interrupts, exiting, VM functions, VMCS shadowing", Nothing),
    bits(Secondary, 17, 1, "page-modification logging", Nothing), // what is noted, not what is found
    bits(Secondary, 18, 1, "EPT-violation #VE", Nothing),         // how violations are delivered
    bits(Secondary, 19, 3, "PT, XSAVES, PASID", Nothing),
    bits(Secondary, 22, 1, "mode-based execute control", Modelled),
    bits(Secondary, 23, 1, "sub-page write permissions", Refused),
    bits(Secondary, 24, 5, "PT addresses, TSC scaling, waits, PCONFIG, ENCLV", Nothing),
    bits(Secondary, 30, 2, "bus locks, instruction timeout", Nothing),
    bits(Tertiary, 0, 1, "LOADIWKEY exiting", Nothing),
    bits(Tertiary, 1, 1, "HLAT", Refused),
    bits(Tertiary, 2, 1, "EPT paging-write control", Refused),
    bits(Tertiary, 3, 1, "guest-paging verification", Refused),
    bits(Tertiary, 4, 1, "IPI virtualization", Nothing),
    bits(Tertiary, 5, 1, "guest-physical address width of SEAM", Refused),
    bits(Tertiary, 6, 2, "MSR lists, IA32_SPEC_CTRL", Nothing),
    bits(NestedControl, 0, 1, "nested paging", Modelled),
    bits(NestedControl, 1, 2, "SEV, SEV-ES", Nothing), // the guest's C-bit: `Privacy` of its stage
    bits(NestedControl, 3, 1, "guest mode execute trap", Refused),
    bits(NestedControl, 4, 1, "supervisor shadow-stack check", Refused),
    bits(NestedControl, 5, 1, "virtual transparent encryption", Nothing),
    bits(NestedControl, 6, 1, "read-only guest page tables", Refused),
    bits(NestedControl, 7, 1, "INVLPGB and TLBSYNC", Nothing),
    bits(NestedControl, 11, 1, "page-modification logging", Nothing), // as in VMX
    bits(NestedCr3, 0, 12, "PWT, PCD", Nothing),
    bits(NestedCr3, 12, 40, "the root table", Modelled),
];

/// Why a second stage is not translated by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Stage2Unsupported {
    /// A bit is set that changes translation and is not modelled, or that is reserved.
    #[error("{0} is set, which is not supported")]
    Bit(pgtable::vcpu::RefusedBit<Stage2Register>),
    /// There is no second stage: EPT or nested paging is off.
    #[error("the second stage is off")]
    Off,
    /// No processor enters a guest with these values. The text says why.
    #[error("no processor has {0}")]
    Impossible(&'static str),
}

/// The first refused bit of these values; the bits of each third element are refused besides.
const fn check(words: &[(Stage2Register, u64, u64)]) -> Result<(), Stage2Unsupported> {
    let mut index = 0;
    while index < words.len() {
        let (register, word, also) = words[index];
        if let Some(bit) = refused(register, word, also) {
            return Err(Stage2Unsupported::Bit(bit));
        }
        index += 1;
    }
    Ok(())
}

const ENABLE_EPT: u32 = 1 << 1;
const MODE_BASED_EXECUTE: u32 = 1 << 22;
const NP_ENABLE: u64 = 1;

impl Ept {
    /// The second stage of a VMCS, and its root table: from the EPT pointer and the secondary and
    /// tertiary processor-based controls (0 if they are not activated). `processor` supplies the
    /// rest: pages, execute-only, MAXPHYADDR, advanced information.
    ///
    /// # Errors
    /// [`Stage2Unsupported`]; [`STAGE2_BITS`] lists every bit.
    pub const fn of(
        eptp: Eptp,
        secondary: u32,
        tertiary: u64,
        processor: EptControls,
    ) -> Result<(Self, Hpa), Stage2Unsupported> {
        if secondary & ENABLE_EPT == 0 {
            return Err(Stage2Unsupported::Off);
        }
        let beyond = beyond_maxphyaddr(processor.maxphyaddr);
        let words = [
            (Pointer, eptp.into_bits(), beyond),
            (Secondary, secondary as u64, 0),
            (Tertiary, tertiary, 0),
        ];
        if let Err(refused) = check(&words) {
            return Err(refused);
        }
        let levels = match (eptp.memory_type(), eptp.walk_length()) {
            (0 | 6, 3) => Levels::Four,
            (0 | 6, 4) => Levels::Five,
            (0 | 6, _) => return Err(Stage2Unsupported::Impossible("an EPTP of so many levels")),
            _ => return Err(Stage2Unsupported::Impossible("an EPTP of this memory type")),
        };
        let controls = EptControls {
            mode_based_execute: secondary & MODE_BASED_EXECUTE != 0,
            accessed_dirty: eptp.ad(),
            supervisor_shadow_stack: eptp.sss(),
            ..processor
        };
        Ok((Self::new(levels, controls), Hpa::new(eptp.frame() << 12)))
    }
}

impl Npt {
    /// The second stage of a VMCB, and its root table: from the 64-bit field at offset 90H, the
    /// nested CR3, and the host's registers, by whose paging mode and EFER.NXE it is translated
    /// (APM §15.25.5). The host's CR0.WP, SMEP and SMAP do not count: a guest's accesses are a
    /// user's. `processor` supplies the rest: pages, MAXPHYADDR, the host's C-bit.
    ///
    /// # Errors
    /// [`Stage2Unsupported`]; [`STAGE2_BITS`] lists every bit.
    pub const fn of(
        nested_control: u64,
        nested_cr3: u64,
        host: Registers,
        processor: NptControls,
    ) -> Result<(Self, Hpa), Stage2Unsupported> {
        if nested_control & NP_ENABLE == 0 {
            return Err(Stage2Unsupported::Off);
        }
        let Registers { cr0, cr4, efer, .. } = host;
        if !(cr0.pg() && efer.lma()) {
            return Err(Stage2Unsupported::Impossible("a host outside long mode"));
        }
        let private = processor.privacy.mask();
        let beyond = beyond_maxphyaddr(processor.maxphyaddr) & !private;
        let words = [(NestedControl, nested_control, 0), (NestedCr3, nested_cr3, beyond)];
        if let Err(refused) = check(&words) {
            return Err(refused);
        }
        let levels = if cr4.la57() { Levels::Five } else { Levels::Four };
        let root = nested_cr3 & 0x000f_ffff_ffff_f000 & !private;
        Ok((Self::new(levels, NptControls { nxe: efer.nxe(), ..processor }), Hpa::new(root)))
    }
}
