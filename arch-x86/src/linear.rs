//! From the address that an instruction uses to the linear address that is translated: what tags
//! are ignored, and which half of the address space an access may use.
//!
//! | rule | where it applies | source |
//! | --- | --- | --- |
//! | LAM_U48, LAM_U57, LAM_SUP | data accesses in 64-bit mode: by bit 63 of the address, not by who makes the access | SDM §4.4 "Linear-Address Masking"; CR3 bits 62:61, CR4 bit 28 |
//! | UAI | data accesses in 64-bit mode through DS or ES | APM §5.10; EFER bit 20 |
//! | LASS | all accesses in 64-bit mode, after masking | SDM §4.1 "Linear-Address Space Separation"; CR4 bit 27 |
//! | 32 bits | all other modes: addresses wrap at 4 GiB | SDM volume 1 §3.3.7 |

use pgtable::{Access, AccessKind, Gva, Privilege, low_bits};

use crate::registers::{Cr3, Registers};

/// How many low bits of an address are left: the bits from there to 62 are copies of the highest of
/// them, bit 63 stays.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Masking {
    Off,
    Bits48,
    Bits57,
}

impl Masking {
    const fn apply(self, address: u64) -> u64 {
        let bits = match self {
            Self::Off => return address,
            Self::Bits48 => 48,
            Self::Bits57 => 57,
        };
        let extended = sign_extend(address, bits);
        extended & low_bits(63) | address & !low_bits(63)
    }
}

const fn sign_extend(address: u64, bits: u8) -> u64 {
    let unused = 64 - bits;
    ((address << unused) as i64 >> unused) as u64
}

/// Which linear address an access uses, if it may use it.
///
/// UAI does not apply to accesses through CS, SS, FS and GS, nor LAM to implicit accesses (to a
/// descriptor table, say) and to the operands of INVLPG, INVPCID and INVVPID; the rules do not know
/// which access it is. For such an access take those of registers with these bits clear.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AddressRules {
    /// Addresses have 32 bits.
    narrow: bool,
    user: Masking,
    supervisor: Masking,
    upper_ignored: bool,
    separated: bool,
    /// LASS applies to a supervisor's data accesses: SMAP is on and not lifted.
    separated_data: bool,
}

impl AddressRules {
    /// The rules of modes without 64-bit addresses.
    pub(crate) const NARROW: Self = Self {
        narrow: true,
        user: Masking::Off,
        supervisor: Masking::Off,
        upper_ignored: false,
        separated: false,
        separated_data: false,
    };

    /// The rules of 64-bit mode; `ac`: EFLAGS.AC lifts SMAP.
    pub(crate) const fn of(registers: Registers, ac: bool) -> Self {
        let Registers { cr3, cr4, efer, .. } = registers;
        Self {
            narrow: false,
            user: Self::user(cr3),
            supervisor: match (cr4.lam_sup(), cr4.la57()) {
                (false, _) => Masking::Off,
                (true, false) => Masking::Bits48,
                (true, true) => Masking::Bits57,
            },
            upper_ignored: efer.uaie(),
            separated: cr4.lass(),
            separated_data: cr4.smap() && !ac,
        }
    }

    /// The same rules without LASS: for accesses that are not judged.
    pub(crate) const fn without_separation(self) -> Self {
        Self { separated: false, ..self }
    }

    /// LAM_U57 goes before LAM_U48.
    const fn user(cr3: Cr3) -> Masking {
        match (cr3.lam_u57(), cr3.lam_u48()) {
            (true, _) => Masking::Bits57,
            (false, true) => Masking::Bits48,
            (false, false) => Masking::Off,
        }
    }

    /// The linear address of `access` to `address`: what CR2 holds if it faults. `None`: it takes
    /// #GP(0), or #SS(0) through the stack segment, before any translation. Whether the address is
    /// canonical is not tested here but by the tables' format.
    #[inline]
    #[must_use]
    pub const fn linear(self, address: Gva, access: Access) -> Option<Gva> {
        if self.narrow {
            return Some(Gva::new(address.get() & low_bits(32)));
        }
        let data = !matches!(access.kind, AccessKind::Fetch);
        let linear = if data { self.masked(address.get()) } else { address.get() };
        let upper = linear >> 63 != 0;
        let separated = self.separated
            && match access.privilege {
                Privilege::User => upper,
                Privilege::Supervisor => !upper && (!data || self.separated_data),
            };
        if separated { None } else { Some(Gva::new(linear)) }
    }

    const fn masked(self, address: u64) -> u64 {
        let masking = if address >> 63 == 0 { self.user } else { self.supervisor };
        let masked = masking.apply(address);
        if self.upper_ignored { sign_extend(masked, 57) } else { masked }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registers::{Cr4, Efer};
    extern crate std;
    use std::format;

    const U57: u64 = 1 << 61;
    const U48: u64 = 1 << 62;
    const LA57: u64 = 1 << 12;
    const SMAP: u64 = 1 << 21;
    const LASS: u64 = 1 << 27;
    const SUP: u64 = 1 << 28;
    const UAIE: u64 = 1 << 20;

    fn rules(cr3: u64, cr4: u64, efer: u64) -> AddressRules {
        let registers = Registers {
            cr3: Cr3::from_bits(cr3),
            cr4: Cr4::from_bits(cr4),
            efer: Efer::from_bits(efer),
            ..Registers::default()
        };
        AddressRules::of(registers, false)
    }

    /// What data accesses use; fetches use the address as it is.
    #[test]
    fn case_masking() {
        for (cr3, cr4, efer, address, linear) in [
            (0, 0, 0, 0x7abc_0000_0000_1234_u64, 0x7abc_0000_0000_1234_u64),
            (U48, 0, 0, 0x7abc_0000_0000_1234, 0x0000_0000_0000_1234),
            (U48, 0, 0, 0x7abc_7fff_ffff_f234, 0x0000_7fff_ffff_f234),
            // Bit 47 is copied, bit 63 is not: not canonical, as the manual has it.
            (U48, 0, 0, 0x7abc_8000_0000_1234, 0x7fff_8000_0000_1234),
            (U48, LA57, 0, 0x7abc_8000_0000_1234, 0x7fff_8000_0000_1234),
            (U57, 0, 0, 0x7e00_0000_0000_1234, 0x0000_0000_0000_1234),
            // Bits 56:48 are not masked; a tree of four levels finds them not canonical.
            (U57, 0, 0, 0x7abc_0000_0000_1234, 0x00bc_0000_0000_1234),
            (U57, LA57, 0, 0x7abc_0000_0000_1234, 0x00bc_0000_0000_1234),
            (U57 | U48, 0, 0, 0x7abc_0000_0000_1234, 0x00bc_0000_0000_1234),
            // The user's masks are not a supervisor's, and the reverse.
            (U57 | U48, 0, 0, 0xfabc_8000_0000_1234, 0xfabc_8000_0000_1234),
            (0, SUP, 0, 0x7abc_0000_0000_1234, 0x7abc_0000_0000_1234),
            (0, SUP, 0, 0xfabc_8000_0000_1234, 0xffff_8000_0000_1234),
            (0, SUP, 0, 0x8000_8000_0000_1234, 0xffff_8000_0000_1234),
            (0, SUP, 0, 0x8000_0000_0000_1234, 0x8000_0000_0000_1234),
            (0, SUP | LA57, 0, 0x8100_0000_0000_1234, 0xff00_0000_0000_1234),
            (0, SUP | LA57, 0, 0x80ff_0000_0000_1234, 0x80ff_0000_0000_1234),
            (0, 0, UAIE, 0x7e00_0000_0000_1234, 0x0000_0000_0000_1234),
            (0, 0, UAIE, 0xfe00_0000_0000_1234, 0x0000_0000_0000_1234),
            (0, 0, UAIE, 0x01ff_8000_0000_1234, 0xffff_8000_0000_1234),
            (0, 0, UAIE, 0x7abc_0000_0000_1234, 0x00bc_0000_0000_1234),
        ] {
            let rules = rules(cr3, cr4, efer);
            let address = Gva::new(address);
            let what = format!("{address} with CR3 {cr3:#x}, CR4 {cr4:#x}, EFER {efer:#x}");
            for access in [Access::READ, Access::WRITE.by_user()] {
                assert_eq!(rules.linear(address, access), Some(Gva::new(linear)), "{what}");
            }
            assert_eq!(rules.linear(address, Access::FETCH), Some(address), "{what}");
        }
    }

    /// Who may use which half.
    #[test]
    fn case_separation() {
        const LOW: u64 = 0x1234;
        const HIGH: u64 = 0xffff_8000_0000_1234;
        let (read, fetch) = (Access::READ, Access::FETCH);
        for (cr4, address, access, allowed) in [
            (0, HIGH, read.by_user(), true),
            (LASS, HIGH, read.by_user(), false),
            (LASS, HIGH, fetch.by_user(), false),
            (LASS, LOW, read.by_user(), true),
            (LASS, LOW, fetch.by_user(), true),
            (LASS, LOW, read, true),
            (LASS | SMAP, LOW, read, false),
            (LASS | SMAP, LOW, Access::WRITE, false),
            (LASS, LOW, fetch, false),
            (LASS | SMAP, HIGH, read, true),
            (LASS | SMAP, HIGH, fetch, true),
            (SMAP, LOW, read, true),
        ] {
            let linear = rules(0, cr4, 0).linear(Gva::new(address), access);
            assert_eq!(linear.is_some(), allowed, "{access} at {address:#x}, CR4 {cr4:#x}");
        }
        let lifted = AddressRules { separated_data: false, ..rules(0, LASS | SMAP, 0) };
        let registers = Registers { cr4: Cr4::from_bits(LASS | SMAP), ..Registers::default() };
        assert_eq!(AddressRules::of(registers, true), lifted, "EFLAGS.AC lifts SMAP");
        assert!(lifted.linear(Gva::new(LOW), read).is_some());
    }

    #[test]
    fn case_32_bits() {
        let linear = AddressRules::NARROW.linear(Gva::new(0xffff_ffff_8000_1234), Access::READ);
        assert_eq!(linear, Some(Gva::new(0x8000_1234)));
    }
}
