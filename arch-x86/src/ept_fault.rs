//! How EPT reports a fault: an EPT violation with its exit qualification, or an EPT
//! misconfiguration.

use core::fmt;

use bitfield_struct::bitfield;
use pgtable::{Access, AccessKind, Prot};

/// The exit qualification of an EPT violation (SDM §28.2.1, table "Exit Qualification for EPT
/// Violations"). The guest-physical address is that of the [`pgtable::Fault`] that carries it.
///
/// A walk knows one stage: it takes the access for one to the translation of a linear address. When
/// it was a guest's page-table walk, say so: [`of_guest_table`](Self::of_guest_table). What only
/// the processor knows is left 0.
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct EptViolation {
    /// The access was a data read.
    pub read: bool,
    /// The access was a data write.
    pub write: bool,
    /// The access was an instruction fetch.
    pub fetch: bool,
    /// All entries allow reads.
    pub readable: bool,
    /// All entries allow writes.
    pub writable: bool,
    /// All entries allow fetches; under mode-based execute control, those from supervisor-mode
    /// linear addresses.
    pub executable: bool,
    /// Under mode-based execute control: all entries allow fetches from user-mode linear addresses.
    pub user_executable: bool,
    /// The guest linear-address field is valid.
    pub linear_valid: bool,
    /// The access was to the translation of that linear address; 0: to a guest paging structure, on
    /// the way there.
    pub translated: bool,
    /// Advanced information: the linear address is a user-mode address
    /// ([`of_page`](Self::of_page)).
    pub linear_user: bool,
    /// Advanced information: the linear address is writable.
    pub linear_writable: bool,
    /// Advanced information: the linear address is execute-disabled.
    pub linear_xd: bool,
    /// NMI unblocking due to IRET. A walk never sets it.
    pub nmi_unblocking: bool,
    /// The access was a shadow-stack access
    /// ([`EptControls::shadow_stack`](crate::EptControls::shadow_stack)).
    pub shadow_stack: bool,
    /// The page is a supervisor shadow stack, and the EPT pointer enforces these.
    pub supervisor_shadow_stack: bool,
    /// Guest-paging verification failed. A walk never sets it.
    pub guest_paging_verification: bool,
    /// The access was asynchronous to the instruction. A walk never sets it.
    pub asynchronous: bool,
    #[bits(47)]
    __: u64,
}

impl EptViolation {
    /// The access that EPT must allow, for [`fault_in`]; the guest-physical address is a field of
    /// the VMCS. A guest's page-table walk that the processor counts as a write, because EPT's
    /// accessed and dirty flags are on, is one. Its privilege is a supervisor's: where
    /// [`linear_user`](Self::linear_user) is valid and set, it is `access().by_user()`.
    ///
    /// ```
    /// use pgtable_x86::EptViolation;
    /// use pgtable::Access;
    ///
    /// // In the exit handler, for exit reason 48: the exit qualification.
    /// assert_eq!(EptViolation::from_bits(0x182).access(), Access::WRITE);
    /// ```
    ///
    /// [`fault_in`]: pgtable::second_stage::Stage2Tree::fault_in
    #[must_use]
    pub const fn access(self) -> Access {
        match (self.write(), self.fetch()) {
            (true, _) => Access::WRITE,
            (false, true) => Access::FETCH,
            (false, false) => Access::READ,
        }
    }

    /// The bits that say what the access was.
    #[inline]
    pub(crate) const fn of(access: Access) -> Self {
        Self::new()
            .with_read(matches!(access.kind, AccessKind::Read))
            .with_write(matches!(access.kind, AccessKind::Write))
            .with_fetch(matches!(access.kind, AccessKind::Fetch))
            .with_linear_valid(true)
            .with_translated(true)
    }

    /// The same violation, met by a guest's page-table walk. Where accessed and dirty flags make
    /// that walk's loads count as writes, the processor sets read and write.
    #[must_use]
    pub const fn of_guest_table(self) -> Self {
        self.with_translated(false).with_read(true).with_shadow_stack(false)
    }

    /// The same violation with advanced information: a final access to a linear address whose guest
    /// paging structures grant `rights`. Without guest paging they grant everything.
    #[must_use]
    pub const fn of_page(self, rights: Prot) -> Self {
        self.with_linear_user(rights.user())
            .with_linear_writable(rights.write())
            .with_linear_xd(!rights.execute())
    }
}

impl fmt::Display for EptViolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match (self.fetch(), self.write()) {
            (true, _) => "fetch from",
            (false, true) => "write to",
            (false, false) => "read of",
        };
        let granted = [
            (self.readable(), "r"),
            (self.writable(), "w"),
            (self.executable(), "x"),
            (self.user_executable(), "u"),
        ];
        write!(f, "{what} ")?;
        if granted.iter().any(|(set, _)| *set) {
            f.write_str("a page that allows ")?;
            for (_, letter) in granted.iter().filter(|(set, _)| *set) {
                f.write_str(letter)?;
            }
        } else {
            f.write_str("a page that is not present or allows nothing")?;
        }
        f.write_str(if self.translated() { ", final access" } else { ", guest page table" })
    }
}

/// A fault of EPT.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum EptFault {
    /// The tables do not allow the access: exit reason 48.
    Violation(EptViolation),
    /// An entry is present and no valid entry: exit reason 49 (SDM §29.3.3.1).
    Misconfiguration,
}

impl EptFault {
    /// The basic exit reason (SDM appendix C).
    #[must_use]
    pub const fn exit_reason(self) -> u16 {
        match self {
            Self::Violation(_) => 48,
            Self::Misconfiguration => 49,
        }
    }
}

impl fmt::Display for EptFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(violation) => {
                write!(f, "EPT violation, qualification {:#x}: {violation}", violation.into_bits())
            }
            Self::Misconfiguration => f.write_str("EPT misconfiguration"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::string::ToString;

    #[test]
    fn accesses() {
        let (read, write, fetch) = (Access::READ, Access::WRITE, Access::FETCH);
        for (qualification, access) in [
            (0x181, read),
            (0x182, write),
            (0x184, fetch),
            (0x19c, fetch),
            (0x081, read),
            // A guest's walk, where EPT has accessed and dirty flags.
            (0x083, write),
            (0x0ab, write),
            // A write of a shadow stack.
            (0x2182, write),
        ] {
            let violation = EptViolation::from_bits(qualification);
            assert_eq!(violation.access(), access, "{qualification:#x}");
        }
    }

    #[test]
    fn a_person_understands() {
        for (qualification, text) in [
            (
                0x182,
                "EPT violation, qualification 0x182: write to a page that is not present or allows nothing, final access",
            ),
            (
                0x1aa,
                "EPT violation, qualification 0x1aa: write to a page that allows rx, final access",
            ),
            (
                0x9c,
                "EPT violation, qualification 0x9c: fetch from a page that allows rw, guest page table",
            ),
        ] {
            assert_eq!(
                EptFault::Violation(EptViolation::from_bits(qualification)).to_string(),
                text
            );
        }
    }
}
