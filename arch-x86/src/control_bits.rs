//! What each bit of CR0, CR3, CR4 and EFER does to translation in long mode: the list by which
//! [`Paging::of`](crate::Paging::of) decides, so that no bit is overlooked.
//!
//! SDM §2.5 (CR0, CR3, CR4), §4.5 (CR3), §2.2.1 (EFER); APM volume 2 §3.1. A bit that neither
//! manual defines counts as refused.

use core::fmt;

use pgtable::low_bits;

/// A register that takes part in translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum ControlRegister {
    /// CR0.
    Cr0,
    /// CR3.
    Cr3,
    /// CR4.
    Cr4,
    /// IA32_EFER.
    Efer,
}

impl fmt::Display for ControlRegister {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cr0 => "CR0",
            Self::Cr3 => "CR3",
            Self::Cr4 => "CR4",
            Self::Efer => "EFER",
        })
    }
}

/// What this crate makes of a control bit.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    /// Walks do what the bit says.
    Modelled,
    /// The bit does not change which accesses translate, where to, and with which fault.
    None,
    /// It may, and this crate does not model it: refused by name.
    Refused,
}

/// Some bits of a control register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ControlBits {
    /// The register.
    pub register: ControlRegister,
    /// The lowest of the bits.
    pub first: u8,
    /// How many there are.
    pub count: u8,
    /// The manual's name.
    pub name: &'static str,
    /// What this crate makes of them.
    pub effect: Effect,
}

impl ControlBits {
    /// The bits as a mask.
    #[must_use]
    pub const fn mask(&self) -> u64 {
        low_bits(self.count) << self.first
    }
}

/// `count` bits from `first` on.
const fn bits(
    register: ControlRegister,
    first: u8,
    count: u8,
    name: &'static str,
    effect: Effect,
) -> ControlBits {
    ControlBits { register, first, count, name, effect }
}

use ControlRegister::{Cr0, Cr3, Cr4, Efer};
use Effect::{Modelled, None as Nothing, Refused};

/// Every defined bit of the four registers. Bits that are in no row are reserved, and refused.
pub const CONTROL_BITS: &[ControlBits] = &[
    bits(Cr0, 0, 1, "PE", Modelled), // paging implies it, or is impossible
    bits(Cr0, 1, 1, "MP", Nothing),
    bits(Cr0, 2, 1, "EM", Nothing),
    bits(Cr0, 3, 1, "TS", Nothing),
    bits(Cr0, 4, 1, "ET", Nothing),
    bits(Cr0, 5, 1, "NE", Nothing),
    bits(Cr0, 16, 1, "WP", Modelled),
    bits(Cr0, 18, 1, "AM", Nothing), // SMAP looks at EFLAGS.AC alone
    bits(Cr0, 29, 1, "NW", Nothing),
    bits(Cr0, 30, 1, "CD", Nothing),
    bits(Cr0, 31, 1, "PG", Modelled),
    bits(Cr3, 0, 12, "PCID, PWT, PCD", Nothing),
    bits(Cr3, 12, 40, "the root table", Modelled),
    bits(Cr3, 61, 1, "LAM_U57", Refused),
    bits(Cr3, 62, 1, "LAM_U48", Refused),
    bits(Cr3, 63, 1, "no flush", Nothing), // of a MOV's operand; never stored
    bits(Cr4, 0, 1, "VME", Nothing),
    bits(Cr4, 1, 1, "PVI", Nothing),
    bits(Cr4, 2, 1, "TSD", Nothing),
    bits(Cr4, 3, 1, "DE", Nothing),
    bits(Cr4, 4, 1, "PSE", Nothing),  // 32-bit paging only
    bits(Cr4, 5, 1, "PAE", Modelled), // LMA implies it, or is impossible
    bits(Cr4, 6, 1, "MCE", Nothing),
    bits(Cr4, 7, 1, "PGE", Nothing), // what invalidations leave, not what a walk finds
    bits(Cr4, 8, 1, "PCE", Nothing),
    bits(Cr4, 9, 1, "OSFXSR", Nothing),
    bits(Cr4, 10, 1, "OSXMMEXCPT", Nothing),
    bits(Cr4, 11, 1, "UMIP", Nothing),
    bits(Cr4, 12, 1, "LA57", Modelled),
    bits(Cr4, 13, 1, "VMXE", Nothing),
    bits(Cr4, 14, 1, "SMXE", Nothing),
    bits(Cr4, 16, 1, "FSGSBASE", Nothing),
    bits(Cr4, 17, 1, "PCIDE", Nothing), // what CR3's low bits mean
    bits(Cr4, 18, 1, "OSXSAVE", Nothing),
    bits(Cr4, 19, 1, "KL", Nothing),
    bits(Cr4, 20, 1, "SMEP", Modelled),
    bits(Cr4, 21, 1, "SMAP", Modelled),
    bits(Cr4, 22, 1, "PKE", Modelled),
    // Shadow-stack accesses alone are judged by it, and there is no such access kind. An ordinary
    // access to a shadow-stack page is one to a page with R/W = 0.
    bits(Cr4, 23, 1, "CET", Nothing),
    bits(Cr4, 24, 1, "PKS", Modelled),
    bits(Cr4, 25, 1, "UINTR", Nothing),
    bits(Cr4, 27, 1, "LASS", Refused),
    bits(Cr4, 28, 1, "LAM_SUP", Refused),
    bits(Cr4, 32, 1, "FRED", Nothing),
    bits(Efer, 0, 1, "SCE", Nothing),
    bits(Efer, 8, 1, "LME", Modelled), // LMA tells, or is impossible
    bits(Efer, 10, 1, "LMA", Modelled),
    bits(Efer, 11, 1, "NXE", Modelled),
    bits(Efer, 12, 1, "SVME", Nothing),
    bits(Efer, 13, 1, "LMSLE", Nothing), // segment limits: before translation
    bits(Efer, 14, 1, "FFXSR", Nothing),
    bits(Efer, 15, 1, "TCE", Nothing), // what invalidations leave
    bits(Efer, 17, 1, "MCOMMIT", Nothing),
    bits(Efer, 18, 1, "INTWB", Nothing),
    bits(Efer, 20, 1, "UAIE", Refused),
    bits(Efer, 21, 1, "AIBRSE", Nothing),
];

/// The row of bit `bit` of `register`, if that bit is defined.
const fn row(register: ControlRegister, bit: u8) -> Option<&'static ControlBits> {
    let mut index = 0;
    while index < CONTROL_BITS.len() {
        let row = &CONTROL_BITS[index];
        if row.register as u8 == register as u8 && row.mask() >> bit & 1 != 0 {
            return Some(row);
        }
        index += 1;
    }
    None
}

/// The bits of `register` that must not be set.
const fn refused(register: ControlRegister) -> u64 {
    let mut accepted = 0;
    let mut index = 0;
    while index < CONTROL_BITS.len() {
        let row = &CONTROL_BITS[index];
        if row.register as u8 == register as u8 && !matches!(row.effect, Refused) {
            accepted |= row.mask();
        }
        index += 1;
    }
    !accepted
}

const REFUSED_CR0: u64 = refused(Cr0);
const REFUSED_CR3: u64 = refused(Cr3);
const REFUSED_CR4: u64 = refused(Cr4);
const REFUSED_EFER: u64 = refused(Efer);

/// A bit that is set and not modelled, or reserved.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct RefusedBit {
    /// The register.
    pub register: ControlRegister,
    /// The bit.
    pub bit: u8,
    /// The manual's name; "reserved" if it has none.
    pub name: &'static str,
}

impl RefusedBit {
    /// The lowest refused bit of `word`; `also` are refused besides those of the list.
    pub(crate) const fn find(register: ControlRegister, word: u64, also: u64) -> Option<Self> {
        let of_list = match register {
            Cr0 => REFUSED_CR0,
            Cr3 => REFUSED_CR3,
            Cr4 => REFUSED_CR4,
            Efer => REFUSED_EFER,
        };
        let set = word & (of_list | also);
        if set == 0 {
            return None;
        }
        let bit = set.trailing_zeros() as u8;
        let name = match row(register, bit) {
            Some(row) if matches!(row.effect, Refused) => row.name,
            _ => "reserved",
        };
        Some(Self { register, bit, name })
    }
}

impl fmt::Display for RefusedBit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bit {} ({})", self.register, self.bit, self.name)
    }
}
