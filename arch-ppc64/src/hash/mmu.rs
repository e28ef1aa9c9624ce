//! Translation as the hardware does it: segment, entry, permission, R and C (Power ISA v3.0B Book
//! III 5.7.6 to 5.7.12), or the interrupt that it takes instead.

use pgtable::memory::TableMemory;
use pgtable::{Access, AccessKind, Address, Gva, low_bits};

use super::authority::{Authority, judge};
use super::hpte::{Hpte, HpteR, Layout};
use super::page_size::PageSizes;
use super::segment::Segment;
use super::slb::{Found, NoSegment, Slb};
use super::slot::{Busy, TURNS};
use super::table::{Hpt, HptError, Look, Seen};
use super::virtual_page::VirtualPage;
use crate::interrupt::{Interrupt, Status, Vector};
use crate::lpcr::{Lpcr, Translation, Unmodelled};

/// A translation through a hashed page table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashTranslation {
    /// The real address, as the entry has it.
    pub real: u64,
    /// The page sizes.
    pub sizes: PageSizes,
    /// Which entry of the table.
    pub ptex: u64,
    /// The entry, with R and C as they are now.
    pub hpte: Hpte,
}

/// Why an address was not translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HashFault {
    /// The hardware takes this interrupt.
    #[error("{0}")]
    Interrupt(Interrupt),
    /// The table itself could not be used: no interrupt, but a machine check if anything.
    #[error(transparent)]
    Table(#[from] HptError),
    /// More than one SLB entry is for the address: a machine check if anything, or any of them
    /// ([`NoSegment::MultiHit`]).
    #[error("more than one SLB entry is for {0}")]
    MultiHit(Gva),
}

impl HashFault {
    /// The storage interrupt for `access`, with these cause bits.
    pub(crate) fn storage(access: Access, status: Status) -> Self {
        let fetch = access.kind == AccessKind::Fetch;
        let vector = if fetch { Vector::InstructionStorage } else { Vector::DataStorage };
        Self::Interrupt(Interrupt { vector, status })
    }

    /// What an access to `address` gets if the SLB has no segment for it.
    #[cold]
    fn no_segment<const N: usize>(slb: &Slb<N>, address: Gva, access: Access) -> Self {
        match slb.missed(address) {
            NoSegment::Miss => Self::segment(access),
            NoSegment::MultiHit => Self::MultiHit(address),
        }
    }

    /// The segment interrupt for `access`.
    pub(crate) fn segment(access: Access) -> Self {
        let fetch = access.kind == AccessKind::Fetch;
        let vector = if fetch { Vector::InstructionSegment } else { Vector::DataSegment };
        Self::Interrupt(Interrupt { vector, status: Status::new() })
    }

    /// No entry was found for `access`.
    pub(crate) fn no_entry(access: Access) -> Self {
        let store = access.kind == AccessKind::Write;
        Self::storage(access, Status::new().with_no_translation(true).with_store(store))
    }
}

/// What one processor translates with: its SLB and key registers, and the partition's table.
#[derive(Clone, Copy, Debug)]
pub struct HashMmu<'h, A, M> {
    /// The segments.
    pub slb: &'h Slb,
    /// The table.
    pub hpt: &'h Hpt<A, M>,
    /// AMR and IAMR.
    pub authority: Authority,
}

impl<'h, A, M> HashMmu<'h, A, M> {
    /// A processor that runs under this LPCR.
    ///
    /// # Errors
    /// [`Unmodelled`]: a field says that addresses are translated in another way; HR and UPRT, by
    /// radix trees.
    pub fn under(
        lpcr: Lpcr,
        slb: &'h Slb,
        hpt: &'h Hpt<A, M>,
        authority: Authority,
    ) -> Result<Self, Unmodelled> {
        match lpcr.translation()? {
            Translation::Hash => Ok(Self { slb, hpt, authority }),
            Translation::Radix => Err(Unmodelled { field: "HR" }),
        }
    }
}

impl<A: Address, M: TableMemory<A>> HashMmu<'_, A, M> {
    /// Translates `access` at `address`, setting R and C as the access requires.
    ///
    /// # Errors
    /// The interrupt that it takes: 0x380 or 0x480 where no segment is, else 0x300 or 0x400 with
    /// its causes; [`HashFault::MultiHit`] where there is more than one segment. To whom it goes
    /// (to the partition, or as 0xE00 and 0xE20 to the hypervisor, as LPCR\[VPM\] says) is the
    /// caller's affair.
    #[inline(always)]
    pub fn translate(&self, address: Gva, access: Access) -> Result<HashTranslation, HashFault> {
        match self.slb.find(address) {
            Some(found) => translate(self.hpt, found, address, access, self.authority),
            None => Err(HashFault::no_segment(self.slb, address, access)),
        }
    }

    /// Translates `access` at each of `addresses` into the real address of the same index of
    /// `reals`; returns how many translated. `None` where the access takes an interrupt:
    /// [`translate`](Self::translate) says which. What has no counterpart in the other slice is
    /// left out.
    ///
    /// Where the table is larger than the caches this is several times as fast as one call for
    /// each: the groups of many addresses are on their way at the same time.
    pub fn translate_batch(
        &self,
        addresses: &[Gva],
        access: Access,
        reals: &mut [Option<u64>],
    ) -> usize {
        /// As many as a processor has misses under way, and some.
        const CHUNK: usize = 32;
        let mut translated = 0;
        for (addresses, reals) in addresses.chunks(CHUNK).zip(reals.chunks_mut(CHUNK)) {
            for &address in addresses {
                if let Some(found) = self.slb.find(address) {
                    self.hpt.touch_hash(found.search.hash(address));
                }
            }
            for (&address, real) in addresses.iter().zip(reals) {
                *real = self.translate(address, access).ok().map(|translation| translation.real);
                translated += usize::from(real.is_some());
            }
        }
        translated
    }
}

/// Translates `access` at `address`, which lies in the segment that was `found`.
#[inline(always)]
pub(super) fn translate<A: Address, M: TableMemory<A>>(
    hpt: &Hpt<A, M>,
    found: &Found,
    address: Gva,
    access: Access,
    authority: Authority,
) -> Result<HashTranslation, HashFault> {
    let v = found.search.v(address);
    let look = hpt.look(found.search.hash(address), v, false);
    if let Look::Seen(seen) = look {
        if let Some(translation) = usual(hpt.layout(), &seen, found, address, access, authority) {
            return Ok(translation);
        }
    }
    elsewhere(hpt, found, address, access, authority, matches!(look, Look::Absent))
}

/// The primary group, which has been looked at, does not translate the access just so. Perhaps, if
/// it has no entry (`absent`), the secondary does.
#[inline(never)]
fn elsewhere<A: Address, M: TableMemory<A>>(
    hpt: &Hpt<A, M>,
    found: &Found,
    address: Gva,
    access: Access,
    authority: Authority,
    absent: bool,
) -> Result<HashTranslation, HashFault> {
    if absent {
        let v = found.search.v(address).with_h(true);
        if let Look::Seen(seen) = hpt.look(found.search.hash(address), v, true) {
            if let Some(translation) = usual(hpt.layout(), &seen, found, address, access, authority)
            {
                return Ok(translation);
            }
        }
    }
    carefully(hpt, &found.segment, address, access, authority)
}

/// The translation by an entry that was seen, if it is one of `v`'s page, allows the access, and
/// has nothing to record; which most accesses find. What it refuses is for [`carefully`] to judge.
#[inline(always)]
fn usual(
    layout: Layout,
    seen: &Seen,
    found: &Found,
    address: Gva,
    access: Access,
    authority: Authority,
) -> Option<HashTranslation> {
    // V, H, AVPN and L are as they should be in the one doubleword. LP, B, R and, for a
    // store, C in the other: one comparison.
    let c = HpteR::new().with_c(access.kind == AccessKind::Write);
    let fits = found.search.own(layout).fit(seen.r, c, c);
    // Protection, N, G and key stand in the same places in both layouts.
    let r = HpteR::from_bits(seen.r);
    let allowed = found.allowed.allows(r, access);
    if !fits
        || !allowed
        || authority.denies_some(access.kind) && !authority.allows(r.key(), access.kind)
    {
        return None;
    }
    let real = found.search.real(layout, seen.r, address);
    let Hpte { v, r } = layout.decode([seen.v, seen.r]);
    let hpte = Hpte { v: v.visible(), r };
    Some(HashTranslation {
        real,
        sizes: PageSizes::only(found.segment.base),
        ptex: seen.ptex,
        hpte,
    })
}

/// As [`translate`], whatever there is: every entry of both groups, entries that are hidden just
/// now, rights, and what is to be recorded.
#[inline(never)]
fn carefully<A: Address, M: TableMemory<A>>(
    hpt: &Hpt<A, M>,
    segment: &Segment,
    address: Gva,
    access: Access,
    authority: Authority,
) -> Result<HashTranslation, HashFault> {
    if segment.n && access.kind == AccessKind::Fetch {
        return Err(HashFault::storage(access, Status::new().with_no_execute(true)));
    }
    let page = VirtualPage::of(segment, address);
    let wanted = HpteR::new().with_r(true).with_c(access.kind == AccessKind::Write);
    for _ in 0..TURNS {
        let Some(found) = hpt.find(&page)? else { return Err(HashFault::no_entry(access)) };
        let Hpte { v, r } = found.hpte;
        judge(r, segment, access, authority)
            .map_err(|status| HashFault::storage(access, status))?;
        let recorded = HpteR::from_bits(r.into_bits() | wanted.into_bits());
        if recorded != r {
            let [v_word, r_word] = hpt.layout().encode(found.hpte);
            if !found.slot.record(v_word, r_word, wanted.into_bits()) {
                continue;
            }
        }
        // `find` only finds entries that name page sizes.
        let Some(sizes) = found.hpte.sizes() else { return Err(HashFault::no_entry(access)) };
        let within = address.get() & low_bits(sizes.actual().shift());
        let hpte = Hpte { v: v.visible(), r: recorded };
        return Ok(HashTranslation { real: r.page(sizes) | within, sizes, ptex: found.ptex, hpte });
    }
    Err(HptError::from(Busy).into())
}
