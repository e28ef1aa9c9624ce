//! Why an access does not translate.

use core::fmt;

use crate::access::Access;
use crate::format::{Format, Input, Output};
use crate::geometry::Position;
use crate::stage::Stage;

/// Why a walk ended without a translation, in words that all architectures share.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// The address is none of this space: not canonical, a wrong quadrant, beyond the tree.
    Address,
    /// An entry on the way is not present.
    NotPresent,
    /// An entry on the way is present and no valid entry of its level.
    Malformed,
    /// A table lies outside the memory that tables may stand in.
    TableAccess,
    /// Others kept changing the entries while the walk was marking them: make the access again.
    /// Only [`Walker::access`](crate::walk::Walker::access) raises it; formats are never asked
    /// about it.
    Contended,
    /// A leaf was found and does not allow the access, or needs an accessed/dirty update that
    /// hardware leaves to software.
    Denied,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "is no address of this space",
            Self::NotPresent => "is not mapped",
            Self::Malformed => "meets a malformed entry",
            Self::TableAccess => "needs a table that lies outside table memory",
            Self::Contended => "meets entries that keep changing",
            Self::Denied => "is not allowed",
        })
    }
}

/// A fault: which access, why, where the walk ended, and how this architecture reports it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault<F: Format> {
    /// The address that was to be translated.
    pub address: Input<F>,
    /// The access that was to be made.
    pub access: Access,
    /// Why it cannot be.
    pub cause: Cause,
    /// Where in the tree the entry stands at which the walk ended; `None` if it did not begin.
    pub at: Option<Position>,
    /// The address of that entry; `None` if the walk did not begin.
    pub entry: Option<Output<F>>,
    /// The fault as the architecture reports it.
    pub arch: F::Fault,
}

impl<F: Format> fmt::Display for Fault<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} {} in {}", self.access, self.address, self.cause, F::Stage::NAME)?;
        if let (Some(at), Some(entry)) = (self.at, self.entry) {
            if !F::FAULT_SAYS_LEVEL {
                write!(f, ", level {}", F::level_number(at.level))?;
            }
            write!(f, ", entry at {entry}")?;
        }
        write!(f, ": {}", self.arch)
    }
}

impl<F: Format> core::error::Error for Fault<F> {}
