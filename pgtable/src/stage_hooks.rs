//! What only a first stage, or only a second one, says beside [`Format`].

use crate::access::{Access, Attributes, Prot};
use crate::format::{Entry, Format, Output};
use crate::geometry::Position;
use crate::stage::{Stage1, Stage2};

/// What a first stage says for the second stage behind it
/// ([`TwoStage`](crate::two_stage::TwoStage)).
pub trait FirstStage: Format<Stage = Stage1> {
    /// Whether the page with the leaf `word` at `at`, reached by `path`, is one of user mode,
    /// whatever the privilege of the access. For a second stage that
    /// [asks for it](SecondStage::asks_whose_page). The default is yes.
    #[inline]
    fn is_user_page(&self, word: u64, at: Position, path: Self::Path) -> bool {
        let _ = (word, at, path);
        true
    }

    /// What all entries on the way to the leaf `word` at `at`, reached by `path`, grant together.
    /// For a second stage whose faults tell it
    /// ([`fault_of_page`](SecondStage::fault_of_page)). By default what the leaf grants.
    #[cold]
    fn rights(&self, word: u64, at: Position, path: Self::Path) -> Prot {
        let _ = path;
        match self.decode(word, at) {
            Entry::Leaf { attributes, .. } => attributes.prot(),
            _ => Prot::new(),
        }
    }

    /// Where the entry for `offset` would stand in the table that `word` at `at` names, a malformed
    /// entry: if hardware has the second stage translate that address before it judges the entry.
    /// What the second stage then refuses goes before the entry's own fault. By default the entry
    /// is judged first.
    #[cold]
    fn looked_for_before_judged(
        &self,
        word: u64,
        at: Position,
        offset: u64,
    ) -> Option<Output<Self>> {
        let _ = (word, at, offset);
        None
    }
}

/// What a second stage says about the first stage's tables
/// ([`TwoStage`](crate::two_stage::TwoStage)).
pub trait SecondStage: Format<Stage = Stage2> {
    /// Whether this stage judges `access` by the privilege of the first stage's page instead of
    /// the privilege of the access. EPT does so for fetches under mode-based execute control.
    #[inline(always)]
    fn asks_whose_page(&self, access: Access) -> bool {
        let _ = access;
        false
    }

    /// The access type checked for loads of stage-1 table entries. A load by default; AMD's nested
    /// paging checks a user's write.
    #[inline]
    fn guest_table_access(&self) -> Access {
        Access::READ
    }

    /// The access type checked when the first stage records accessed or dirty in its own tables,
    /// where [`guest_table_access`](Self::guest_table_access) does not cover that already. `None`
    /// where it does.
    #[inline(always)]
    fn guest_table_update(&self) -> Option<Access> {
        None
    }

    /// Whether a TLB may keep the entry by which it refused an access, so that it refuses it again
    /// although the tables allow it by then. Then software invalidates after it added rights or
    /// records. The default is yes.
    #[inline]
    fn keeps_refusals(&self) -> bool {
        true
    }

    /// `fault`, which this stage raised for the final access to a page of the first stage that
    /// grants `rights`, as hardware reports it. EPT tells the rights where it has advanced
    /// information.
    #[cold]
    fn fault_of_page(&self, fault: Self::Fault, rights: Prot) -> Self::Fault {
        let _ = rights;
        fault
    }

    /// `fault`, which this stage raised for a table of the first stage on behalf of `access`, as
    /// hardware reports it. RISC-V names the original access, others the one to the table.
    #[inline]
    fn fault_of_guest_table(&self, fault: Self::Fault, access: Access) -> Self::Fault {
        let _ = access;
        fault
    }
}
