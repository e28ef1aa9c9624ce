//! The processor's state that takes part in translation: levels, control-register bits,
//! protection-key registers.

use pgtable::AccessKind;

use crate::privacy::Privacy;

/// How many levels the tree has.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Levels {
    /// 48-bit addresses, root PML4.
    #[default]
    Four,
    /// 57-bit addresses, root PML5 (CR4.LA57 = 1).
    Five,
}

/// What a protection-key register says about one key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct KeyRights {
    /// AD: no data access.
    pub access_disable: bool,
    /// WD: no write.
    pub write_disable: bool,
}

/// PKRU or IA32_PKRS: for each of 16 keys the bits AD and WD (SDM §4.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct KeyRegister(pub u32);

impl KeyRegister {
    /// What it says about `key`. Only the low four bits of `key` count.
    #[inline]
    #[must_use]
    pub const fn rights(self, key: u8) -> KeyRights {
        let pair = self.0 >> ((key & 0xf) * 2);
        KeyRights { access_disable: pair & 1 != 0, write_disable: pair & 2 != 0 }
    }
}

/// The control bits of stage-1 translation.
///
/// `Controls::new()` is what a VMM that builds tables for a 64-bit guest usually needs; fields are
/// public, so that the rest is `Controls { smep: true, ..Controls::new() }`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Controls {
    /// CR0.WP: supervisor-mode writes respect R/W = 0.
    pub wp: bool,
    /// CR4.SMEP: supervisor mode does not fetch from user-mode addresses.
    pub smep: bool,
    /// CR4.SMAP: supervisor mode does not access data at user-mode addresses, unless `ac`.
    pub smap: bool,
    /// EFLAGS.AC: lifts SMAP. For an implicit supervisor-mode access (to a descriptor table, say)
    /// give `false`: AC does not lift it there.
    pub ac: bool,
    /// EFER.NXE: bit 63 of an entry disables execution; without it that bit is reserved.
    pub nxe: bool,
    /// CR4.PSE: 4-MiB pages in 32-bit paging. Elsewhere it does not count.
    pub pse: bool,
    /// CPUID.01H:EDX.PSE-36: such pages have up to 40 address bits, as far as MAXPHYADDR goes.
    pub pse36: bool,
    /// CR4.PKE: PKRU judges user-mode addresses.
    pub pke: bool,
    /// CR4.PKS: IA32_PKRS judges supervisor-mode addresses.
    pub pks: bool,
    /// CR4.CET: pages that are read-only and dirty, below tables that allow writes, are shadow
    /// stacks. Other accesses than shadow-stack accesses are not judged by it.
    pub cet: bool,
    /// Reads and writes are shadow-stack accesses (CALL, RET, SAVEPREVSSP, RSTORSSP, WRSS, …), for
    /// WRUSS with [`Privilege::User`](pgtable::Privilege::User). Such an access needs a shadow
    /// stack of its own mode, and a write to one succeeds though R/W = 0 (SDM §4.6.1).
    pub shadow_stack: bool,
    /// PKRU.
    pub pkru: KeyRegister,
    /// IA32_PKRS.
    pub pkrs: KeyRegister,
    /// CPUID.80000001H:EDX.Page1GB: PDPTEs may map 1-GiB pages.
    pub gib_pages: bool,
    /// MAXPHYADDR (bits 7:0 of CPUID.80000008H:EAX): physical address bits from here on are
    /// reserved. 52 at most.
    pub maxphyaddr: u8,
    /// The processor is AMD's, which reserves bit 8 of PML4E and PML5E; Intel ignores it.
    pub amd: bool,
    /// The bit of an address that says whether memory is private: SEV's C-bit, TDX's shared bit.
    pub privacy: Privacy,
}

impl Controls {
    /// WP and NXE on, pages of all sizes, 52 bits of physical address; no SMEP, SMAP, protection
    /// keys or shadow stacks.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            wp: true,
            smep: false,
            smap: false,
            ac: false,
            nxe: true,
            pse: true,
            pse36: true,
            pke: false,
            pks: false,
            cet: false,
            shadow_stack: false,
            pkru: KeyRegister(0),
            pkrs: KeyRegister(0),
            gib_pages: true,
            maxphyaddr: 52,
            amd: false,
            privacy: Privacy::None,
        }
    }

    /// Whether protection keys are on at all.
    #[inline(always)]
    pub(crate) const fn any_keys(&self) -> bool {
        self.pke || self.pks
    }

    /// Whether a protection key forbids the access: SDM §4.6.2, and the condition of the error
    /// code's PK in §4.7.
    pub(crate) const fn key_denies(
        &self,
        key: u8,
        user_page: bool,
        user_access: bool,
        kind: AccessKind,
    ) -> bool {
        let (enabled, register) =
            if user_page { (self.pke, self.pkru) } else { (self.pks, self.pkrs) };
        let rights = register.rights(key);
        enabled
            && match kind {
                AccessKind::Fetch => false,
                AccessKind::Read => rights.access_disable,
                AccessKind::Write => {
                    rights.access_disable || rights.write_disable && (user_access || self.wp)
                }
            }
    }
}

impl Default for Controls {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_registers() {
        let register = KeyRegister(0b10_01 << 28 | 0b11);
        for (key, access_disable, write_disable) in [
            (0, true, true),
            (1, false, false),
            (14, true, false),
            (15, false, true),
            (16, true, true),
        ] {
            assert_eq!(
                register.rights(key),
                KeyRights { access_disable, write_disable },
                "key {key}"
            );
        }
    }
}
