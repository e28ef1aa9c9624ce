//! What a row of a table says: look there, and this is what is found. The independent statement.
//!
//! A row is written by a person, in addresses and letters (`rwx`), beside the row that makes the
//! mapping. It knows nothing of encodings, so a wrong bit in an encoder shows even where the
//! software walker decodes it just as wrongly.

use arch_ppc64::{Interrupt, Status, Vector};
use pgtable::{Access, AccessKind, Gpa, Gva};

use crate::allows::Allows;
use crate::check::{Answer, Check};

/// What is found at an address.
#[derive(Clone, Copy, Debug)]
pub enum Finds {
    /// Memory at this guest-physical address.
    Page(u64, Allows),
    /// Nothing is mapped.
    Unmapped,
    /// The process has no tree.
    NoTree,
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
    /// The effective address.
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
        Check {
            name: self.name,
            pid: self.pid,
            address: Gva::new(self.at),
            access,
            expected: self.finds.expected(access),
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
    /// What comes of an access (Power ISA v3.0B Book III 6.5.3 to 6.5.6).
    fn expected(self, access: Access) -> Answer {
        let denied = match access.kind {
            AccessKind::Fetch => Status::new().with_no_execute(true),
            AccessKind::Read | AccessKind::Write => Status::new().with_protection(true),
        };
        match self {
            Self::Page(gpa, allows) if allows.allows(access) => Answer::Reaches(Gpa::new(gpa)),
            Self::Page(..) => storage(denied, access),
            Self::Unmapped => storage(Status::new().with_no_translation(true), access),
            Self::NoTree => storage(Status::new().with_bad_configuration(true), access),
            Self::NoAddress => Answer::Takes(Interrupt {
                vector: match access.kind {
                    AccessKind::Fetch => Vector::InstructionSegment,
                    AccessKind::Read | AccessKind::Write => Vector::DataSegment,
                },
                status: Status::new(),
            }),
        }
    }
}

fn storage(status: Status, access: Access) -> Answer {
    Answer::Takes(match access.kind {
        AccessKind::Fetch => Interrupt { vector: Vector::InstructionStorage, status },
        AccessKind::Read => Interrupt { vector: Vector::DataStorage, status },
        AccessKind::Write => {
            Interrupt { vector: Vector::DataStorage, status: status.with_store(true) }
        }
    })
}
