//! What a guest's address means, from the vCPU's registers and the guest's memory: for gdb stubs,
//! instruction emulators, crash dumps. No ioctl, no exit, and the fault that the guest would see
//! instead of a bare "no".

use pgtable::bytes::Translate;
use pgtable::memory::ReadMemory;
use pgtable::{Access, Fault, Gpa, Gva, low_bits};

use crate::control_bits::{ControlRegister, RefusedBit, refused};
use crate::controls::{Controls, Levels};
use crate::linear::AddressRules;
use crate::long_mode::LongMode;
use crate::pae::{Pae, PdpteError, Pdptes};
use crate::paging_walker::LinearTranslation;
use crate::paging32::Paging32;
use crate::registers::{Cr3Pae, Registers};
use crate::shape::beyond_maxphyaddr;

/// Registers that this crate does not translate by, or that no processor has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A reserved control bit is set: among them an address bit of CR3 from MAXPHYADDR on, unless
    /// it is the C-bit that [`Controls::privacy`] names.
    #[error("{0} is set, which is not supported")]
    Bit(RefusedBit),
    /// The registers contradict each other: no processor holds them together (SDM volume 3, 2.2.1,
    /// 2.5 and 4.1.1). The text says which bits.
    #[error("no processor has {0}")]
    Impossible(&'static str),
}

/// The bits by which `registers` contradict each other, if they do.
const fn impossible(registers: Registers) -> Option<&'static str> {
    let Registers { cr0, cr4, efer, .. } = registers;
    let long = (cr0.pg(), efer.lme(), efer.lma());
    match long {
        // Loading CR0 with PG and without PE is a general-protection exception (SDM 2.5).
        _ if cr0.pg() && !cr0.pe() => Some("CR0.PG = 1 with CR0.PE = 0"),
        // LMA is LME and PG; nothing else sets or clears it (SDM 2.2.1, 4.1.1).
        (false, _, true) => Some("EFER.LMA = 1 with CR0.PG = 0"),
        (true, false, true) => Some("EFER.LMA = 1 with EFER.LME = 0"),
        (true, true, false) => Some("EFER.LMA = 0 with EFER.LME = 1 and CR0.PG = 1"),
        // Neither can be set without the other bit, nor that be cleared (SDM 2.5, 4.10.1).
        _ if cr4.cet() && !cr0.wp() => Some("CR4.CET = 1 with CR0.WP = 0"),
        (_, _, false) if cr4.pcide() => Some("CR4.PCIDE = 1 with EFER.LMA = 0"),
        // PAE can neither be clear when long mode begins, nor be cleared in it (SDM 4.1.2).
        (true, _, true) if !cr4.pae() => Some("EFER.LMA = 1 with CR4.PAE = 0"),
        _ => None,
    }
}

/// Why a guest's address has no guest-physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GvaError {
    /// The guest would take this fault.
    #[error(transparent)]
    Fault(#[from] Fault<LongMode>),
    /// This crate does not translate by these registers.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// How a vCPU translates at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// CR0.PG = 0: linear addresses have 32 bits and are physical addresses.
    Off,
    /// 32-bit paging: CR4.PAE = 0.
    Bits32 {
        /// The format, with the registers' controls.
        format: Paging32,
        /// The root table.
        root: Gpa,
    },
    /// PAE paging: CR4.PAE = 1, EFER.LMA = 0.
    Pae {
        /// The format, with the registers' controls.
        format: Pae,
        /// The root table: four entries.
        root: Gpa,
        /// What the processor loaded from them, if that counts instead of memory:
        /// [`with_pdptes`](Paging::with_pdptes).
        pdptes: Option<Pdptes>,
    },
    /// 4-level or 5-level paging.
    Long {
        /// The format, with the registers' controls.
        format: LongMode,
        /// The root table.
        root: Gpa,
        /// From the address that an instruction uses to the one that is translated.
        addresses: AddressRules,
    },
}

impl Paging {
    /// What `registers` say. `processor` supplies what they do not: MAXPHYADDR, 1-GiB pages,
    /// PSE-36, the vendor, EFLAGS.AC, PKRU and PKRS, and whether accesses are shadow-stack
    /// accesses.
    ///
    /// [`CONTROL_BITS`](crate::CONTROL_BITS) lists what becomes of each bit. Of a guest with
    /// encrypted memory (SEV), `processor.privacy` names the C-bit, which is then taken off CR3 and
    /// entries. Without it, `processor.maxphyaddr` must be what the guest sees: then its CR3 is
    /// refused.
    ///
    /// In long mode the code segment is taken for a 64-bit one; for CS.L = 0 see
    /// [`compatibility_mode`](Self::compatibility_mode).
    ///
    /// # Errors
    /// [`Unsupported`].
    pub const fn of(registers: Registers, processor: Controls) -> Result<Self, Unsupported> {
        let Registers { cr0, cr3, cr4, efer } = registers;
        if let Some(bits) = impossible(registers) {
            return Err(Unsupported::Impossible(bits));
        }
        if processor.shadow_stack && !cr4.cet() {
            return Err(Unsupported::Impossible("shadow-stack accesses with CR4.CET = 0"));
        }
        if !cr0.pg() {
            return Ok(Self::Off);
        }
        // Outside long mode the upper half of CR3 does not count.
        let long = if efer.lma() { u64::MAX } else { 0 };
        let beyond = beyond_maxphyaddr(processor.maxphyaddr) & !processor.privacy.mask();
        let words = [
            (ControlRegister::Cr0, cr0.into_bits(), 0),
            (ControlRegister::Cr3, cr3.into_bits() & long, beyond),
            (ControlRegister::Cr4, cr4.into_bits(), 0),
            (ControlRegister::Efer, efer.into_bits(), 0),
        ];
        let mut index = 0;
        while index < words.len() {
            let (register, word, also) = words[index];
            if let Some(bit) = refused(register, word, also) {
                return Err(Unsupported::Bit(bit));
            }
            index += 1;
        }
        let controls = Controls {
            wp: cr0.wp(),
            smep: cr4.smep(),
            smap: cr4.smap(),
            cet: cr4.cet(),
            nxe: efer.nxe(),
            pke: cr4.pke(),
            pks: cr4.pks(),
            ..processor
        };
        if !cr4.pae() {
            let format = Paging32::new(Controls { pse: cr4.pse(), ..controls });
            let root = Gpa::new(cr3.root().get() & low_bits(32));
            return Ok(Self::Bits32 { format, root });
        }
        if !efer.lma() {
            let root = Cr3Pae::from_bits(cr3.into_bits()).root();
            return Ok(Self::Pae { format: Pae::new(controls), root, pdptes: None });
        }
        let levels = if cr4.la57() { Levels::Five } else { Levels::Four };
        Ok(Self::Long {
            format: LongMode::new(levels, controls),
            root: processor.privacy.strip(cr3.root()),
            addresses: AddressRules::of(registers, processor.ac),
        })
    }

    /// The same for code in compatibility mode (EFER.LMA = 1, CS.L = 0): addresses have 32 bits,
    /// and neither LAM, UAI nor LASS applies. Other modes stay as they are.
    #[must_use]
    pub const fn compatibility_mode(self) -> Self {
        match self {
            Self::Long { format, root, .. } => {
                Self::Long { format, root, addresses: AddressRules::NARROW }
            }
            other => other,
        }
    }

    /// The same with these PDPTE registers, as a MOV to CR3 loaded them
    /// ([`Pae::load_pdptes`]), a VMCS has them, or `KVM_GET_SREGS2` returns them. Processors of
    /// Intel's go by them and not by memory; AMD's read memory where nested paging is on. Other
    /// modes than PAE paging stay as they are.
    ///
    /// # Errors
    /// [`PdpteError::Reserved`]: no processor loads such registers.
    pub const fn with_pdptes(self, registers: Pdptes) -> Result<Self, PdpteError> {
        match self {
            Self::Pae { format, root, .. } => match format.check_pdptes(registers) {
                Ok(pdptes) => Ok(Self::Pae { format, root, pdptes: Some(pdptes) }),
                Err(error) => Err(error),
            },
            other => Ok(other),
        }
    }

    /// Translates one access of the guest, whose page tables stand in `memory`. Nothing is
    /// recorded; for bytes, a debugger's view, or accessed and dirty flags see
    /// [`walker`](Self::walker).
    ///
    /// # Errors
    /// The fault that the guest would take.
    pub fn translate<M: ReadMemory<Gpa>>(
        &self,
        memory: M,
        gva: Gva,
        access: Access,
    ) -> Result<LinearTranslation, Fault<LongMode>> {
        self.walker(memory).translate(gva, access)
    }
}

/// The guest-physical address that a vCPU with these registers reaches by `access` to `gva`, its
/// page tables being in `memory`.
///
/// For a processor with 52 physical address bits and 1-GiB pages, EFLAGS.AC = 0 and no key
/// disabled; [`Paging::of`] takes another. Nothing is written: accessed and dirty flags stay as
/// they are.
///
/// # Errors
/// [`GvaError`].
pub fn gva_to_gpa<M: ReadMemory<Gpa>>(
    cr0: u64,
    cr3: u64,
    cr4: u64,
    efer: u64,
    memory: M,
    gva: Gva,
    access: Access,
) -> Result<Gpa, GvaError> {
    let paging = Paging::of(Registers::from_raw(cr0, cr3, cr4, efer), Controls::new())?;
    Ok(paging.translate(memory, gva, access)?.output)
}
