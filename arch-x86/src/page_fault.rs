//! How stage 1 reports a fault: #PF with its error code, or #GP for an address that is not
//! canonical.

use core::fmt;

use bitfield_struct::bitfield;
use pgtable::{Access, AccessKind, Cause, Privilege};

/// The error code of a page fault (SDM §4.7, figure "Page-Fault Error Code"; APM §8.4.2).
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct PageFaultCode {
    /// P: 0 if an entry was not present; 1 for a protection violation, reserved bits included.
    pub p: bool,
    /// W/R: the access was a write.
    pub wr: bool,
    /// U/S: the access was a user-mode access.
    pub us: bool,
    /// RSVD: an entry had a reserved bit set.
    pub rsvd: bool,
    /// I/D: the access was an instruction fetch, and CR4.SMEP is on, or CR4.PAE and EFER.NXE are
    /// (SDM vol. 3, 4.7).
    pub id: bool,
    /// PK: a protection key forbids the access.
    pub pk: bool,
    /// SS: the access was a shadow-stack access
    /// ([`Controls::shadow_stack`](crate::Controls::shadow_stack)).
    pub ss: bool,
    /// HLAT: the fault came from hypervisor-managed linear-address translation. A walk never sets
    /// it.
    pub hlat: bool,
    #[bits(7)]
    __: u8,
    /// SGX: the fault is not the page tables' but the enclave page cache's. A walk never sets it.
    pub sgx: bool,
    #[bits(15)]
    __: u16,
    /// RMP (AMD): the fault is not the page tables' but the reverse map's. A walk never sets it.
    pub rmp: bool,
}

impl PageFaultCode {
    /// The access that the error code reports. A fetch is told from a read only where CR4.SMEP
    /// is on, or CR4.PAE and EFER.NXE are.
    #[must_use]
    pub const fn access(self) -> Access {
        let access = match (self.wr(), self.id()) {
            (true, _) => Access::WRITE,
            (false, true) => Access::FETCH,
            (false, false) => Access::READ,
        };
        if self.us() { access.by_user() } else { access }
    }

    /// The bits that say what the access was; `fetches`: what [`id`](Self::id) asks for is on.
    #[inline]
    #[must_use]
    pub(crate) const fn of(access: Access, fetches: bool) -> Self {
        Self::new()
            .with_wr(matches!(access.kind, AccessKind::Write))
            .with_us(matches!(access.privilege, Privilege::User))
            .with_id(fetches && matches!(access.kind, AccessKind::Fetch))
    }

    /// The same, for a walk that ended because of `cause`.
    ///
    /// A table outside memory counts as a not-present entry there, as KVM's and QEMU's walkers have
    /// it; on bare metal it depends on what the bus answers.
    #[inline]
    #[must_use]
    pub(crate) const fn because(self, cause: Cause) -> Self {
        match cause {
            Cause::Address | Cause::NotPresent | Cause::TableAccess | Cause::Contended => self,
            Cause::Malformed => self.with_p(true).with_rsvd(true),
            Cause::Denied => self.with_p(true),
        }
    }
}

impl fmt::Display for PageFaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = if self.us() { "user" } else { "supervisor" };
        let what = match (self.id(), self.wr()) {
            (true, _) => "fetch from",
            (false, true) => "write to",
            (false, false) => "read of",
        };
        let page = match (self.p(), self.rsvd()) {
            (false, _) => "a page that is not present",
            (true, false) => "a present page",
            (true, true) => "a page with reserved bits set in its entries",
        };
        write!(f, "{who} {what} {page}")?;
        for (set, note) in [
            (self.pk(), ", forbidden by its protection key"),
            (self.ss(), ", shadow-stack access"),
            (self.hlat(), ", hypervisor-managed translation"),
            (self.sgx(), ", enclave access"),
            (self.rmp(), ", reverse map"),
        ] {
            if set {
                f.write_str(note)?;
            }
        }
        Ok(())
    }
}

/// A fault of stage 1. CR2 is the address of the [`pgtable::Fault`] that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum LongModeFault {
    /// #PF with this error code.
    PageFault(PageFaultCode),
    /// #GP(0): the address is not canonical, or LASS forbids its half of the address space. An
    /// access through the stack segment (PUSH, POP, a base of RSP or RBP) raises #SS(0) instead:
    /// the walk does not know the segment, the embedder's instruction decoder does.
    GeneralProtection,
}

impl fmt::Display for LongModeFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PageFault(code) => write!(f, "#PF error {:#x}: {code}", code.into_bits()),
            Self::GeneralProtection => f.write_str("#GP(0): no address for this access"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn a_person_understands() {
        for (code, text) in [
            (0x0, "#PF error 0x0: supervisor read of a page that is not present"),
            (0x2, "#PF error 0x2: supervisor write to a page that is not present"),
            (0x7, "#PF error 0x7: user write to a present page"),
            (0xd, "#PF error 0xd: user read of a page with reserved bits set in its entries"),
            (0x15, "#PF error 0x15: user fetch from a present page"),
            (0x25, "#PF error 0x25: user read of a present page, forbidden by its protection key"),
            (0x47, "#PF error 0x47: user write to a present page, shadow-stack access"),
        ] {
            assert_eq!(LongModeFault::PageFault(PageFaultCode::from_bits(code)).to_string(), text);
        }
    }

    #[test]
    fn positions() {
        let code = PageFaultCode::new;
        for (name, word, bits) in [
            ("P", code().with_p(true), 1_u32 << 0),
            ("W/R", code().with_wr(true), 1 << 1),
            ("U/S", code().with_us(true), 1 << 2),
            ("RSVD", code().with_rsvd(true), 1 << 3),
            ("I/D", code().with_id(true), 1 << 4),
            ("PK", code().with_pk(true), 1 << 5),
            ("SS", code().with_ss(true), 1 << 6),
            ("HLAT", code().with_hlat(true), 1 << 7),
            ("SGX", code().with_sgx(true), 1 << 15),
            ("RMP", code().with_rmp(true), 1 << 31),
        ] {
            assert_eq!(word.into_bits(), bits, "{name}");
        }
    }
}
