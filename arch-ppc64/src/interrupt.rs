//! Storage interrupts as the hardware reports them: a vector, and the cause bits of its status
//! register.
//!
//! DSISR, SRR1, HDSISR and HSRR1 put the same causes at the same places, so one type describes them
//! all (Power ISA v3.0B Book III, "Data Storage Interrupt", "Instruction Storage Interrupt", and
//! their hypervisor forms).

use core::fmt;

use bitfield_struct::bitfield;

/// An interrupt of address translation, by the offset of its vector.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u16)]
#[non_exhaustive]
pub enum Vector {
    /// DSI: a data access does not translate. DAR holds the address, DSISR the cause.
    DataStorage = 0x300,
    /// DSEG: a data address is none (radix: quadrant, or bits beyond the tree). DAR holds the
    /// address.
    DataSegment = 0x380,
    /// ISI: a fetch does not translate. SRR0 holds the address, SRR1 the cause.
    InstructionStorage = 0x400,
    /// ISEG: a fetch address is none. SRR0 holds the address.
    InstructionSegment = 0x480,
    /// HDSI: a data access, or an access to a guest's table, does not translate in partition scope.
    /// HDAR holds the effective address, HDSISR the cause, ASDR the guest real address.
    HypervisorDataStorage = 0xE00,
    /// HISI: a fetch does not translate in partition scope. HSRR0 holds the effective address,
    /// HSRR1 the cause, ASDR the guest real address.
    HypervisorInstructionStorage = 0xE20,
}

impl Vector {
    /// The offset of the interrupt vector.
    #[must_use]
    pub const fn offset(self) -> u16 {
        self as u16
    }

    /// The register that holds the cause; `None` for the segment interrupts, which have none.
    #[must_use]
    pub const fn status_register(self) -> Option<&'static str> {
        match self {
            Self::DataStorage => Some("DSISR"),
            Self::InstructionStorage => Some("SRR1"),
            Self::HypervisorDataStorage => Some("HDSISR"),
            Self::HypervisorInstructionStorage => Some("HSRR1"),
            Self::DataSegment | Self::InstructionSegment => None,
        }
    }
}

impl fmt::Display for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DataStorage => "DSI",
            Self::DataSegment => "DSEG",
            Self::InstructionStorage => "ISI",
            Self::InstructionSegment => "ISEG",
            Self::HypervisorDataStorage => "HDSI",
            Self::HypervisorInstructionStorage => "HISI",
        })
    }
}

/// The cause bits of DSISR and HDSISR, and of the upper half of (H)SRR1's low word (bits 32:63 of
/// the register).
#[bitfield(u32, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Status {
    __: bool,
    /// 33: no valid translation was found, at any level of the tree (or by a hash search).
    pub no_translation: bool,
    /// 34: process and partition scope disagree about cacheability. Data only.
    pub attribute_conflict: bool,
    /// 35: the page is no-execute, guarded or non-idempotent. Fetches only.
    pub no_execute: bool,
    /// 36: the page does not allow the access.
    pub protection: bool,
    /// 37: an access that this kind of storage does not do (lwarx to cache-inhibited storage). Data
    /// only.
    pub bad_access: bool,
    /// 38: the access was a store. Never set for fetches, nor for the loads that read tables.
    pub store: bool,
    #[bits(2)]
    __: u8,
    /// 41: a data breakpoint matched. Data only.
    pub breakpoint: bool,
    /// 42: a virtual page class key forbids the access (hash).
    pub key: bool,
    __: bool,
    /// 44: the radix tables have a shape that the processor does not support.
    pub bad_configuration: bool,
    /// 45: the reference or change bit must be set, which is left to software.
    pub reference_change: bool,
    /// 46: what did not translate is the address of a table: the process table, or a guest's
    /// directory or page table.
    pub table_access: bool,
    /// 47: a table entry had to be written and could not be. HISI only.
    pub update_failed: bool,
    #[bits(12)]
    __: u16,
    /// 60: a bad copy or paste. Data only.
    pub bad_copy_paste: bool,
    /// 61: a bad atomic memory operation. Data only.
    pub bad_amo: bool,
    /// 62: a bad cache-inhibited load or store. Data only.
    pub bad_ci: bool,
    __: bool,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.no_translation(), "no translation"),
            (self.attribute_conflict(), "attribute conflict"),
            (self.no_execute(), "no-execute or guarded"),
            (self.protection(), "protection"),
            (self.bad_access(), "bad access"),
            (self.breakpoint(), "data breakpoint"),
            (self.key(), "key"),
            (self.bad_configuration(), "unsupported radix configuration"),
            (self.reference_change(), "reference or change bit"),
            (self.table_access(), "table access"),
            (self.update_failed(), "entry not writable"),
            (self.bad_copy_paste(), "bad copy or paste"),
            (self.bad_amo(), "bad atomic memory operation"),
            (self.bad_ci(), "bad cache-inhibited access"),
            (self.store(), "store"),
        ];
        let mut first = true;
        for (_, name) in names.iter().filter(|(set, _)| *set) {
            if !first {
                f.write_str(", ")?;
            }
            f.write_str(name)?;
            first = false;
        }
        if first { f.write_str("no cause") } else { Ok(()) }
    }
}

/// A storage interrupt: its vector, and the cause bits of its status register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Interrupt {
    /// Which interrupt.
    pub vector: Vector,
    /// Its cause; empty for the segment interrupts.
    pub status: Status,
}

impl Interrupt {
    /// The same, raised by partition scope for a table of process scope: the table's address is
    /// translated as a data load, whatever the access (ISA "Hypervisor Data Storage Interrupt").
    #[must_use]
    pub const fn of_guest_table(self) -> Self {
        let status = self.status.with_table_access(true).with_store(false);
        Self { vector: Vector::HypervisorDataStorage, status }
    }
}

impl fmt::Display for Interrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:#x}", self.vector, self.vector.offset())?;
        match self.vector.status_register() {
            Some(register) => {
                write!(f, ", {register} {:#010x}: {}", self.status.into_bits(), self.status)
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    /// The names that Linux (`asm/reg.h`) and QEMU (`target/ppc/cpu.h`) give the bits.
    #[test]
    fn bits_stand_where_linux_says() {
        let s = Status::new;
        for (name, status, word) in [
            ("NOHPTE", s().with_no_translation(true), 0x4000_0000),
            ("ATTR_CONFLICT", s().with_attribute_conflict(true), 0x2000_0000),
            ("NOEXEC_OR_G", s().with_no_execute(true), 0x1000_0000),
            ("PROTFAULT", s().with_protection(true), 0x0800_0000),
            ("BADACCESS", s().with_bad_access(true), 0x0400_0000),
            ("ISSTORE", s().with_store(true), 0x0200_0000),
            ("DABRMATCH", s().with_breakpoint(true), 0x0040_0000),
            ("KEYFAULT", s().with_key(true), 0x0020_0000),
            ("UNSUPP_MMU", s().with_bad_configuration(true), 0x0008_0000),
            ("SET_RC", s().with_reference_change(true), 0x0004_0000),
            ("PRTABLE_FAULT", s().with_table_access(true), 0x0002_0000),
            ("HISI_WRITE", s().with_update_failed(true), 0x0001_0000),
            ("BAD_COPYPASTE", s().with_bad_copy_paste(true), 8),
            ("BAD_AMO", s().with_bad_amo(true), 4),
            ("BAD_CI_LDST", s().with_bad_ci(true), 2),
        ] {
            assert_eq!(status.into_bits(), word, "{name}");
        }
    }

    #[test]
    fn a_person_understands_it() {
        for (vector, bits, text) in [
            (
                Vector::DataStorage,
                0x4200_0000,
                "DSI 0x300, DSISR 0x42000000: no translation, store",
            ),
            (
                Vector::InstructionStorage,
                0x1000_0000,
                "ISI 0x400, SRR1 0x10000000: no-execute or guarded",
            ),
            (Vector::DataSegment, 0, "DSEG 0x380"),
            (Vector::InstructionSegment, 0, "ISEG 0x480"),
            (
                Vector::HypervisorDataStorage,
                0x4002_0000,
                "HDSI 0xe00, HDSISR 0x40020000: no translation, table access",
            ),
            (Vector::HypervisorInstructionStorage, 0, "HISI 0xe20, HSRR1 0x00000000: no cause"),
        ] {
            assert_eq!(Interrupt { vector, status: Status::from_bits(bits) }.to_string(), text);
        }
    }
}
