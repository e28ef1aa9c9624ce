//! What a guest's address means, from the vCPU's registers and the guest's memory: for gdb stubs,
//! instruction emulators, crash dumps. No ioctl, no exit, and the fault that the guest would see
//! instead of a bare "no".

use pgtable::{Access, Fault, Gpa, Gva, ReadMemory, Translate};

use crate::control_bits::{ControlRegister, RefusedBit, refused};
use crate::controls::{Controls, Levels};
use crate::long_mode::LongMode;
use crate::paging_walker::LinearTranslation;
use crate::registers::Registers;
use crate::shape::beyond_maxphyaddr;

/// A paging mode that this crate does not walk, or that no processor can be in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A control bit is set that changes translation and is not modelled (LAM, UAI, LASS), or that
    /// is reserved: an address bit of CR3 from MAXPHYADDR on, where memory encryption has its
    /// C-bit.
    #[error("{0} is set, which is not supported")]
    Bit(RefusedBit),
    /// CR0.PG = 1, CR4.PAE = 0.
    #[error("32-bit paging is not supported")]
    Paging32,
    /// CR0.PG = 1, CR4.PAE = 1, EFER.LMA = 0.
    #[error("PAE paging is not supported")]
    Pae,
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
    /// The vCPU is in a paging mode that this crate does not walk.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// How a vCPU translates at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Paging {
    /// CR0.PG = 0: linear addresses have 32 bits and are physical addresses.
    Off,
    /// 4-level or 5-level paging.
    Long {
        /// The format, with the registers' controls.
        format: LongMode,
        /// The root table.
        root: Gpa,
    },
}

impl Paging {
    /// What `registers` say. `processor` supplies what they do not: MAXPHYADDR, 1-GiB pages, the
    /// vendor, EFLAGS.AC, PKRU and PKRS.
    ///
    /// [`CONTROL_BITS`](crate::CONTROL_BITS) lists what becomes of each bit. Of a guest with
    /// encrypted memory (SEV), `processor.maxphyaddr` must be what the guest sees, which leaves out
    /// the C-bit: then its CR3 is refused.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub const fn of(registers: Registers, processor: Controls) -> Result<Self, Unsupported> {
        let Registers { cr0, cr3, cr4, efer } = registers;
        if let Some(bits) = impossible(registers) {
            return Err(Unsupported::Impossible(bits));
        }
        if !cr0.pg() {
            return Ok(Self::Off);
        }
        if !efer.lma() {
            return Err(if cr4.pae() { Unsupported::Pae } else { Unsupported::Paging32 });
        }
        let beyond = beyond_maxphyaddr(processor.maxphyaddr);
        let words = [
            (ControlRegister::Cr0, cr0.into_bits(), 0),
            (ControlRegister::Cr3, cr3.into_bits(), beyond),
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
            nxe: efer.nxe(),
            pke: cr4.pke(),
            pks: cr4.pks(),
            ..processor
        };
        let levels = if cr4.la57() { Levels::Five } else { Levels::Four };
        Ok(Self::Long { format: LongMode::new(levels, controls), root: cr3.root() })
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
