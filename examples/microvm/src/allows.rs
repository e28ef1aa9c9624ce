//! What a page allows, as the tables of rows say it on every architecture.

use pgtable::{Access, AccessKind, Privilege};

/// What a page allows, in letters: each string is three long, of `r`, `w`, `x` and `-`.
#[derive(Clone, Copy, Debug)]
pub struct Allows {
    /// In supervisor mode; POWER: privileged state.
    pub supervisor: &'static str,
    /// In user mode; POWER: problem state.
    pub user: &'static str,
}

impl Allows {
    /// Both may do the same. (On x86-64 CR0.WP is on, SMEP and SMAP are off.)
    pub const fn both(letters: &'static str) -> Self {
        Self { supervisor: letters, user: letters }
    }

    /// Only the supervisor may do it.
    pub const fn supervisor(letters: &'static str) -> Self {
        Self { supervisor: letters, user: "---" }
    }

    /// Only the user may do it. (On RISC-V, where SUM is off.)
    #[cfg(target_arch = "riscv64")]
    pub const fn user(letters: &'static str) -> Self {
        Self { supervisor: "---", user: letters }
    }

    /// Whether these letters stand for this access too.
    pub fn allows(self, access: Access) -> bool {
        let letters = match access.privilege {
            Privilege::Supervisor => self.supervisor,
            Privilege::User => self.user,
        };
        let letter = match access.kind {
            AccessKind::Read => 'r',
            AccessKind::Write => 'w',
            AccessKind::Fetch => 'x',
        };
        letters.contains(letter)
    }
}
