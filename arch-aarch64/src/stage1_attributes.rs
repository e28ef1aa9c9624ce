//! What a page of stage 1 says besides its address.

use pgtable::{Attributes, Memory, Prot};

use crate::descriptor::Stage1Descriptor;

const VALID: u64 = Stage1Descriptor::new().with_valid(true).into_bits();
pub(crate) const EL0: u64 = Stage1Descriptor::new().with_el0(true).into_bits();
pub(crate) const READ_ONLY: u64 = Stage1Descriptor::new().with_read_only(true).into_bits();
pub(crate) const SH: u64 = Stage1Descriptor::new().with_sh(3).into_bits();
pub(crate) const AF: u64 = Stage1Descriptor::new().with_af(true).into_bits();
pub(crate) const NG: u64 = Stage1Descriptor::new().with_ng(true).into_bits();
pub(crate) const DBM: u64 = Stage1Descriptor::new().with_dbm(true).into_bits();
pub(crate) const PXN: u64 = Stage1Descriptor::new().with_pxn(true).into_bits();
pub(crate) const UXN: u64 = Stage1Descriptor::new().with_uxn(true).into_bits();
pub(crate) const GP: u64 = Stage1Descriptor::new().with_gp(true).into_bits();
pub(crate) const SOFTWARE: u64 = Stage1Descriptor::new().with_software(15).into_bits();
/// The software bit of pages that were clean when the right to write was taken.
const WAS_CLEAN: u8 = 8;
pub(crate) const CLEAN: u64 = Stage1Descriptor::new().with_software(WAS_CLEAN).into_bits();
/// Every bit that is an attribute.
pub(crate) const ATTRIBUTES: u64 = Stage1Descriptor::new()
    .with_attr_index(7)
    .with_ns(true)
    .with_el0(true)
    .with_read_only(true)
    .with_sh(3)
    .with_af(true)
    .with_ng(true)
    .with_gp(true)
    .with_dbm(true)
    .with_pxn(true)
    .with_uxn(true)
    .with_software(15)
    .with_pbha(15)
    .into_bits();

/// The shareability of a page (D8.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Shareability {
    /// Non-shareable.
    None = 0,
    /// Outer shareable.
    Outer = 2,
    /// Inner shareable.
    #[default]
    Inner = 3,
}

impl Shareability {
    /// By SH's two bits; the reserved encoding counts as outer shareable.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::None,
            3 => Self::Inner,
            _ => Self::Outer,
        }
    }
}

/// Leaf attributes of stage 1.
///
/// The memory type is an index into MAIR. [`Attributes::memory`] reads it by
/// [`Mair::USUAL`](crate::Mair::USUAL), which is Linux's: 0 write-back, 2 not cached, 3 and 4
/// devices.
///
/// [`From<Prot>`](Prot) makes inner-shareable, accessed pages that only one privilege executes:
/// user pages are not executable at EL1, others not at EL0. User pages are not global, others are.
/// Writable pages are dirty and have DBM set, so that hardware that manages dirty state does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stage1Attributes {
    /// The attribute bits of the descriptor. VALID = 0 stands for attributes without
    /// [`Prot::read`], which have no encoding.
    page: Stage1Descriptor,
}

macro_rules! fields {
    ($($(#[$doc:meta])* $get:ident $set:ident($type:ty) = $field:ident $with:ident;)*) => {
        $(
            $(#[$doc])*
            #[must_use]
            pub const fn $get(self) -> $type {
                self.page.$field()
            }

            #[doc = concat!("The same page with another [`", stringify!($get), "`](Self::", stringify!($get), ").")]
            #[must_use]
            pub const fn $set(self, value: $type) -> Self {
                Self { page: self.page.$with(value) }
            }
        )*
    };
}

impl Stage1Attributes {
    fields! {
        /// AF: whether it is marked accessed.
        accessed with_accessed(bool) = af with_af;
        /// DBM: whether hardware that manages dirty state may make it writable. What is read by a
        /// format for other hardware has none on a read-only page.
        dirty_modifier with_dirty_modifier(bool) = dbm with_dbm;
        /// GP: whether branches into it need landing pads.
        guarded with_guarded(bool) = gp with_gp;
        /// NS: in Secure state, whether its output is Non-secure.
        non_secure with_non_secure(bool) = ns with_ns;
    }

    /// The index into MAIR.
    #[must_use]
    pub const fn attr_index(self) -> u8 {
        self.page.attr_index()
    }

    /// The same page with another index into MAIR. Only the low three bits of `index` count.
    #[must_use]
    pub const fn with_attr_index(self, index: u8) -> Self {
        Self { page: self.page.with_attr_index(index & 7) }
    }

    /// The shareability.
    #[must_use]
    pub const fn shareability(self) -> Shareability {
        Shareability::from_bits(self.page.sh())
    }

    /// The same page with another shareability. With LPA2, TCR holds the shareability of all
    /// pages, and another than the default has no encoding.
    #[must_use]
    pub const fn with_shareability(self, shareability: Shareability) -> Self {
        Self { page: self.page.with_sh(shareability as u8) }
    }

    /// Whether the translation belongs to all ASIDs.
    #[must_use]
    pub const fn global(self) -> bool {
        !self.page.ng()
    }

    /// The same page, for all ASIDs or for one. (EL2: always global.)
    #[must_use]
    pub const fn with_global(self, global: bool) -> Self {
        Self { page: self.page.with_ng(!global) }
    }

    /// Whether EL1 (or EL2) may execute it: PXN. In the EL2 regime: XN.
    #[must_use]
    pub const fn privileged_execute(self) -> bool {
        !self.page.pxn()
    }

    /// The same page, executable or not at EL1 (or EL2).
    #[must_use]
    pub const fn with_privileged_execute(self, execute: bool) -> Self {
        Self { page: self.page.with_pxn(!execute) }
    }

    /// Whether EL0 may execute it: UXN.
    #[must_use]
    pub const fn user_execute(self) -> bool {
        !self.page.uxn()
    }

    /// The same page, executable or not at EL0. A page that is not EL0's otherwise becomes
    /// execute-only there.
    #[must_use]
    pub const fn with_user_execute(self, execute: bool) -> Self {
        Self { page: self.page.with_uxn(!execute) }
    }

    /// Whether a writable page is marked dirty. A read-only page counts as dirty unless it was
    /// clean when the right to write was taken.
    #[must_use]
    pub const fn dirty(self) -> bool {
        if self.prot_write() {
            !self.page.read_only()
        } else {
            self.page.software() & WAS_CLEAN == 0
        }
    }

    /// The same page, dirty or clean. A clean writable page is read-only to hardware that does not
    /// manage dirty state, and has no encoding in a format for such hardware.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        let software = self.page.software() & !WAS_CLEAN;
        let page = if self.prot_write() {
            self.page.with_read_only(!dirty).with_dbm(true).with_software(software)
        } else {
            self.page.with_software(if dirty { software } else { software | WAS_CLEAN })
        };
        Self { page }
    }

    /// The software bits, three of them, in the descriptor's bits 57:55. (Bit 58 marks pages that
    /// were clean when they became read-only.)
    #[must_use]
    pub const fn software(self) -> u8 {
        self.page.software() & !WAS_CLEAN
    }

    /// The same page with these software bits. Only the low three count.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        let clean = self.page.software() & WAS_CLEAN;
        Self { page: self.page.with_software(bits & 7 | clean) }
    }

    #[inline(always)]
    const fn prot_write(self) -> bool {
        !self.page.read_only() || self.page.dbm()
    }

    /// Attributes by their bits in a descriptor.
    #[inline(always)]
    pub(crate) const fn from_word(word: u64) -> Self {
        Self { page: Stage1Descriptor::from_bits(word & ATTRIBUTES | VALID) }
    }

    /// The bit of [`to_word`](Self::to_word) that attributes have that have an encoding.
    pub(crate) const READABLE: u64 = VALID;

    /// Their bits in a descriptor.
    #[inline(always)]
    pub(crate) const fn to_word(self) -> u64 {
        self.page.into_bits()
    }
}

impl From<Prot> for Stage1Attributes {
    #[inline]
    fn from(prot: Prot) -> Self {
        let when = |wanted: bool, bits| if wanted { bits } else { 0 };
        let word = when(prot.read(), VALID)
            | when(prot.user(), EL0 | NG)
            | if prot.write() { DBM } else { READ_ONLY }
            | when(!prot.execute() || prot.user(), PXN)
            | when(!prot.execute() || !prot.user(), UXN)
            | SH
            | AF;
        Self { page: Stage1Descriptor::from_bits(word) }
    }
}

impl Attributes for Stage1Attributes {
    #[inline]
    fn prot(&self) -> Prot {
        let user = self.page.el0();
        Prot::new()
            .with_read(self.page.valid())
            .with_write(self.prot_write())
            .with_execute(if user { self.user_execute() } else { self.privileged_execute() })
            .with_user(user)
    }

    /// A clean page that may not be written any more is marked in a software bit, and is clean when
    /// it may be written again. A page that becomes one of EL0 also becomes one of a single ASID.
    #[inline]
    fn with_prot(self, prot: Prot) -> Self {
        const RIGHTS: u64 = VALID | EL0 | DBM | PXN | UXN;
        if prot == self.prot() {
            return self;
        }
        let word = self.page.into_bits() & !(RIGHTS | READ_ONLY | CLEAN)
            | Self::from(prot).page.into_bits() & (RIGHTS | NG);
        let clean = match (prot.write(), self.dirty()) {
            (true, true) => 0,
            (true, false) | (false, true) => READ_ONLY,
            (false, false) => READ_ONLY | CLEAN,
        };
        Self { page: Stage1Descriptor::from_bits(word | clean) }
    }

    #[inline]
    fn memory(&self) -> Memory {
        match self.attr_index() {
            2 => Memory::Uncached,
            3 | 4 => Memory::Device,
            _ => Memory::Normal,
        }
    }

    /// The index of the kind in [`Mair::USUAL`](crate::Mair::USUAL): 0, 2 or 4.
    #[inline]
    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_attr_index(match memory {
            Memory::Normal => 0,
            Memory::Uncached => 2,
            Memory::Device => 4,
        })
    }
}
