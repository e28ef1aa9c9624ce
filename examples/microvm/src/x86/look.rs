//! What a row of a table says: look there, and this is what is found. The independent statement.
//!
//! A row is written by a person, in addresses and letters (`rwx`), beside the row that makes the
//! mapping. It knows nothing of encodings, so a wrong bit in an encoder shows even where the
//! software walker decodes it just as wrongly.

use pgtable::{Access, AccessKind, Gpa, Gva, Privilege};

use super::check::{Answer, Check};
use crate::allows::Allows;

/// What is found at an address.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
    /// Memory at this guest-physical address.
    Page(u64, Allows),
    /// Nothing is mapped.
    Unmapped,
    /// This is no address.
    NoAddress,
}

/// One place to look at.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What the row is about.
    pub name: &'static str,
    /// The process that runs.
    pub pid: u32,
    /// The virtual address.
    pub at: u64,
    /// What is there.
    pub finds: Finds,
}

impl Look {
    /// A check for each way to access the place.
    pub fn checks(self) -> impl Iterator<Item = Check> {
        ACCESSES.into_iter().map(move |access| self.check(access))
    }

    /// A check of one way to access the place.
    pub fn check(self, access: Access) -> Check {
        let kernel = match self.finds {
            Finds::Page(gpa, _) => Some(Some(Gpa::new(gpa))),
            Finds::Unmapped => Some(None),
            // The kernel's walker does not ask whether an address is canonical.
            Finds::NoAddress => None,
        };
        let expected = self.finds.expected(access);
        Check {
            name: self.name,
            pid: self.pid,
            address: Gva::new(self.at),
            access,
            expected,
            kernel,
        }
    }
}

/// Every way to access a place.
pub const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];

impl Finds {
    /// What comes of an access: the error code's bits as the SDM (§4.7) has them, EFER.NXE being
    /// on.
    fn expected(self, access: Access) -> Answer {
        let present = match self {
            Self::Page(gpa, allows) if allows.allows(access) => {
                return Answer::Reaches(Gpa::new(gpa));
            }
            Self::NoAddress => return Answer::GeneralProtection(0),
            Self::Page(..) => 0x1,
            Self::Unmapped => 0x0,
        };
        let kind = match access.kind {
            AccessKind::Read => 0x0,
            AccessKind::Write => 0x2,
            AccessKind::Fetch => 0x10,
        };
        let who = match access.privilege {
            Privilege::Supervisor => 0x0,
            Privilege::User => 0x4,
        };
        Answer::PageFault(present | kind | who)
    }
}
