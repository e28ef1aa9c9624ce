//! Who may do what with a page of stage 1 (SDM §4.6; APM §5.6), in every paging mode.

use pgtable::{Access, AccessKind, Cause, Privilege, Prot};

use crate::controls::Controls;
use crate::entry::PageEntry;
use crate::page_fault::{LongModeFault, PageFaultCode};
use crate::tree::{Demand, Path, SupervisorMode, Tree};

/// What control registers make of accesses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judge {
    controls: Controls,
    /// What `controls` say of each access, so that a walk has it in a load: of supervisor mode, and
    /// whether R/W, U/S and XD alone judge an access.
    supervisor: SupervisorMode,
    plain: bool,
}

impl Judge {
    pub(crate) const fn new(controls: Controls, tree: &Tree) -> Self {
        let Controls { wp, smep, smap, ac, shadow_stack, .. } = controls;
        let supervisor = tree.supervisor_mode(wp, smap && !ac, smep);
        Self { controls, supervisor, plain: !(controls.any_keys() || shadow_stack) }
    }

    #[inline(always)]
    pub(crate) const fn controls(&self) -> &Controls {
        &self.controls
    }

    #[inline(always)]
    pub(crate) const fn is_plain(&self) -> bool {
        self.plain
    }

    /// What an access demands of a page of `tree` (SDM §4.6.1), protection keys left out.
    #[inline(always)]
    pub(crate) const fn demand(&self, tree: &Tree, access: Access) -> Demand {
        let write = matches!(access.kind, AccessKind::Write);
        let fetch = matches!(access.kind, AccessKind::Fetch);
        match access.privilege {
            Privilege::User => tree.user_mode(write, fetch),
            Privilege::Supervisor => self.supervisor.demand(write, fetch),
        }
    }

    /// Whether `access` is a shadow-stack access. A fetch never is.
    const fn is_shadow_stack(&self, access: Access) -> bool {
        self.controls.shadow_stack && !matches!(access.kind, AccessKind::Fetch)
    }

    /// The error code's bits that say what the access was.
    pub(crate) const fn code(&self, access: Access) -> PageFaultCode {
        let fetches = self.controls.nxe || self.controls.smep;
        PageFaultCode::of(access, fetches).with_ss(self.is_shadow_stack(access))
    }

    /// Whether the leaf `word`, reached by `path`, allows `access`.
    #[inline(always)]
    pub(crate) fn check(
        &self,
        tree: &Tree,
        word: u64,
        path: Path,
        access: Access,
    ) -> Result<(), LongModeFault> {
        let whole = path.through(word);
        if self.plain && whole.meets(self.demand(tree, access)) {
            return Ok(());
        }
        self.check_all(tree, word, path, access)
    }

    fn check_all(
        &self,
        tree: &Tree,
        word: u64,
        path: Path,
        access: Access,
    ) -> Result<(), LongModeFault> {
        let (leaf, whole) = (PageEntry::from_bits(word), path.through(word));
        let user = matches!(access.privilege, Privilege::User);
        let allowed = if self.is_shadow_stack(access) {
            // A page of the access's own mode that is read-only and dirty, below tables that allow
            // writes; SMAP does not matter.
            path.is_writable() && !leaf.rw() && leaf.d() && whole.is_user_mode() == user
        } else {
            whole.meets(self.demand(tree, access))
        };
        let key = leaf.protection_key();
        let denied_by_key = self.controls.any_keys()
            && self.controls.key_denies(key, whole.is_user_mode(), user, access.kind);
        if allowed && !denied_by_key {
            return Ok(());
        }
        let code = self.code(access).because(Cause::Denied).with_pk(denied_by_key);
        Err(LongModeFault::PageFault(code))
    }

    /// The fault of a walk that ended because of `cause`.
    pub(crate) const fn fault(&self, cause: Cause, access: Access) -> LongModeFault {
        match cause {
            Cause::Address => LongModeFault::GeneralProtection,
            _ => LongModeFault::PageFault(self.code(access).because(cause)),
        }
    }
}

/// What all entries of the way to the leaf `word` grant together.
pub(crate) fn rights(word: u64, path: Path) -> Prot {
    let whole = path.through(word);
    Prot::R
        .with_write(whole.is_writable())
        .with_execute(!whole.is_execute_disabled())
        .with_user(whole.is_user_mode())
}
