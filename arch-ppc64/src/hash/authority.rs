//! What an entry allows, and to whom: page protection, storage keys, AMR and IAMR (Power ISA v3.0B
//! Book III 5.7.11).

use bitfield_struct::bitfield;
use pgtable::{Access, AccessKind, Privilege, Prot};

use super::hpte::HpteR;
use super::segment::Segment;
use crate::interrupt::Status;

/// Authority Mask Register (SPR 29) and Instruction Authority Mask Register (SPR 61): two bits for
/// each of 32 virtual page class keys, key 0 the most significant. Of hashed translation they hold
/// in every privilege.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Authority {
    /// AMR.
    pub amr: u64,
    /// IAMR.
    pub iamr: u64,
}

/// The two bits of a key in AMR and in IAMR.
#[bitfield(u8, order = Msb)]
struct KeyMask {
    #[bits(6)]
    __: u8,
    /// AMR: no stores.
    no_store: bool,
    /// AMR: no loads. IAMR: no fetches.
    no_load_or_fetch: bool,
}

impl KeyMask {
    #[inline]
    const fn of(register: u64, key: u8) -> Self {
        Self::from_bits((register >> (2 * (31 - (key & 31)))) as u8 & 3)
    }
}

impl Authority {
    /// Whether accesses of this kind may be denied to pages of some class.
    #[inline(always)]
    pub(super) const fn denies_some(self, kind: AccessKind) -> bool {
        match kind {
            AccessKind::Read | AccessKind::Write => self.amr != 0,
            AccessKind::Fetch => self.iamr != 0,
        }
    }

    /// Whether accesses of this kind to pages of class `key` (0 to 31) are allowed.
    #[inline]
    #[must_use]
    pub const fn allows(self, key: u8, kind: AccessKind) -> bool {
        !match kind {
            AccessKind::Read => KeyMask::of(self.amr, key).no_load_or_fetch(),
            AccessKind::Write => KeyMask::of(self.amr, key).no_store(),
            AccessKind::Fetch => KeyMask::of(self.iamr, key).no_load_or_fetch(),
        }
    }
}

/// What page protection `pp` (three bits) allows under storage key `key`: whether one may read
/// (and, all else permitting, execute), and write.
#[inline]
#[must_use]
pub const fn protection(pp: u8, key: bool) -> Prot {
    match (pp, key) {
        (0 | 1, false) | (2, _) => Prot::RWX,
        (1, true) | (3, _) | (6, false) => Prot::RX,
        _ => Prot::new(),
    }
}

/// Which accesses the entries of a segment allow, looked up: [`protection`] the other way round. By
/// privilege and kind of access, a bit for each page protection with N and G.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Allowed([[u32; 3]; 2]);

impl Allowed {
    /// No access: whoever asks has to look elsewhere.
    pub(super) const NOTHING: Self = Self([[0; 3]; 2]);

    /// In this segment.
    #[inline]
    pub(super) const fn new(segment: &Segment) -> Self {
        /// By Ks, Kp and N.
        const ALL: [Allowed; 8] = {
            let mut all = [Allowed([[0; 3]; 2]); 8];
            let mut of = 0;
            while of < all.len() {
                all[of] = Allowed::by(of & 1 != 0, of & 2 != 0, of & 4 != 0);
                of += 1;
            }
            all
        };
        ALL[segment.ks as usize | (segment.kp as usize) << 1 | (segment.n as usize) << 2]
    }

    /// With these storage keys of privileged and of problem state, and this N.
    const fn by(ks: bool, kp: bool, n: bool) -> Self {
        let mut table = [[0; 3]; 2];
        let mut of = 0;
        while of < 32 {
            let (pp, guarded, no_execute) = (of & 7, of & 8 != 0, of & 16 != 0);
            let r = HpteR::new().with_protection(pp).with_g(guarded).with_n(no_execute);
            let executes = !guarded && !no_execute && !n;
            let mut privilege = 0;
            while privilege < 2 {
                let prot = protection(pp, if privilege == 0 { kp } else { ks });
                let allowed = [prot.read(), prot.write(), prot.execute() && executes];
                let mut kind = 0;
                while kind < 3 {
                    table[privilege][kind] |= (allowed[kind] as u32) << Self::place(r);
                    kind += 1;
                }
                privilege += 1;
            }
            of += 1;
        }
        Self(table)
    }

    /// Which bit is for the page protection of `r`, N and G: five bits, as they stand beside each
    /// other when the word is rotated by one.
    #[inline(always)]
    const fn place(r: HpteR) -> u32 {
        r.into_bits().rotate_left(1) as u32 & 31
    }

    /// Whether they allow `access` by an entry with this second doubleword.
    #[inline(always)]
    pub(super) const fn allows(&self, r: HpteR, access: Access) -> bool {
        let [user, supervisor] = self.0;
        let by_kind = match access.privilege {
            Privilege::User => user,
            Privilege::Supervisor => supervisor,
        };
        let allowed = match access.kind {
            AccessKind::Read => by_kind[0],
            AccessKind::Write => by_kind[1],
            AccessKind::Fetch => by_kind[2],
        };
        allowed >> Self::place(r) & 1 != 0
    }
}

impl Segment {
    /// The storage key under which `access` is made.
    #[inline]
    #[must_use]
    pub const fn key(&self, privilege: Privilege) -> bool {
        match privilege {
            Privilege::User => self.kp,
            Privilege::Supervisor => self.ks,
        }
    }
}

/// Judges `access` to a page of `segment` by its entry's second doubleword.
///
/// # Errors
/// The status bits with which hardware refuses it.
#[inline]
pub fn judge(
    r: HpteR,
    segment: &Segment,
    access: Access,
    authority: Authority,
) -> Result<(), Status> {
    let pp = protection(r.protection(), segment.key(access.privilege));
    let no_execute = access.kind == AccessKind::Fetch && (r.n() || r.g() || segment.n);
    let allowed = match access.kind {
        AccessKind::Read => pp.read(),
        AccessKind::Write => pp.write(),
        AccessKind::Fetch => pp.execute(),
    };
    let key = authority.allows(r.key(), access.kind);
    if allowed && key && !no_execute {
        return Ok(());
    }
    let status = Status::new().with_key(!key).with_store(access.kind == AccessKind::Write);
    Err(status.with_no_execute(no_execute).with_protection(!allowed && !no_execute))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::{PageSize, SegmentSize};

    const SEGMENT: Segment = Segment {
        vsid: 0,
        size: SegmentSize::T1,
        base: PageSize::K4,
        ks: false,
        kp: true,
        n: false,
        class: false,
    };

    #[test]
    fn page_protection() {
        let (all, rx, none) = (Prot::RWX, Prot::RX, Prot::new());
        for (pp, key_0, key_1) in [
            (0, all, none),
            (1, all, rx),
            (2, all, all),
            (3, rx, rx),
            (4, none, none),
            (5, none, none),
            (6, rx, none),
            (7, none, none),
        ] {
            assert_eq!((protection(pp, false), protection(pp, true)), (key_0, key_1), "PP {pp}");
        }
    }

    #[test]
    fn looked_up_as_judged() {
        for (ks, kp, n) in (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0)) {
            let segment = Segment { ks, kp, n, ..SEGMENT };
            for r in (0..8).map(|pp| HpteR::new().with_protection(pp)) {
                for access in [Access::READ, Access::WRITE, Access::FETCH]
                    .map(|access| [access, access.by_user()])
                    .concat()
                {
                    let judged = judge(r, &segment, access, Authority::default()).is_ok();
                    assert_eq!(
                        Allowed::new(&segment).allows(r, access),
                        judged,
                        "{segment:?} {r:?} {access:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn keys_in_amr_and_iamr() {
        for key in 0..32_u8 {
            let at = 2 * (31 - key);
            for (name, authority, refused) in [
                ("no store", Authority { amr: 2 << at, iamr: 0 }, AccessKind::Write),
                ("no load", Authority { amr: 1 << at, iamr: 0 }, AccessKind::Read),
                ("no fetch", Authority { amr: 0, iamr: 1 << at }, AccessKind::Fetch),
            ] {
                for kind in [AccessKind::Read, AccessKind::Write, AccessKind::Fetch] {
                    assert_eq!(authority.allows(key, kind), kind != refused, "{name}, key {key}");
                    assert!(authority.allows(key ^ 1, kind));
                }
            }
        }
    }

    #[test]
    fn causes() {
        let user = HpteR::new().with_protection(2);
        let kernel_ro = HpteR::new().with_protection(6);
        let keyed = user.with_key(5);
        let shut = Authority { amr: 3 << 52, iamr: 1 << 52 };
        let open = Authority::default();
        let no_fetch = Segment { n: true, ..SEGMENT };
        for (name, r, segment, access, authority, want) in [
            ("user page", user, SEGMENT, Access::WRITE.by_user(), open, 0),
            ("read-only store", kernel_ro, SEGMENT, Access::WRITE, open, 0x0a00_0000),
            ("user on kernel's", kernel_ro, SEGMENT, Access::READ.by_user(), open, 0x0800_0000),
            (
                "user fetch of kernel's",
                kernel_ro,
                SEGMENT,
                Access::FETCH.by_user(),
                open,
                0x0800_0000,
            ),
            ("N", user.with_n(true), SEGMENT, Access::FETCH, open, 0x1000_0000),
            ("N of the segment", user, no_fetch, Access::FETCH, open, 0x1000_0000),
            ("guarded", user.with_g(true), SEGMENT, Access::FETCH, open, 0x1000_0000),
            ("guarded load", user.with_g(true), SEGMENT, Access::READ, open, 0),
            (
                "N before PP",
                kernel_ro.with_n(true),
                SEGMENT,
                Access::FETCH.by_user(),
                open,
                0x1000_0000,
            ),
            ("key, load", keyed, SEGMENT, Access::READ, shut, 0x0020_0000),
            ("key, store", keyed, SEGMENT, Access::WRITE.by_user(), shut, 0x0220_0000),
            ("key, fetch", keyed, SEGMENT, Access::FETCH, shut, 0x0020_0000),
            ("key and PP", kernel_ro.with_key(5), SEGMENT, Access::WRITE, shut, 0x0a20_0000),
            ("another key", user.with_key(6), SEGMENT, Access::WRITE, shut, 0),
        ] {
            let status = judge(r, &segment, access, authority).err().map_or(0, Status::into_bits);
            assert_eq!(status, want, "{name}: {status:#x}");
        }
    }
}
