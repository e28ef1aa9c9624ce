//! What a page of stage 2 says besides its address.

use pgtable::{Attributes, Memory, Prot};

use crate::descriptor::Stage2Descriptor;
use crate::stage1_attributes::Shareability;

pub(crate) const READ: u64 = Stage2Descriptor::new().with_read(true).into_bits();
pub(crate) const WRITE: u64 = Stage2Descriptor::new().with_write(true).into_bits();
pub(crate) const SH: u64 = Stage2Descriptor::new().with_sh(3).into_bits();
pub(crate) const AF: u64 = Stage2Descriptor::new().with_af(true).into_bits();
pub(crate) const DBM: u64 = Stage2Descriptor::new().with_dbm(true).into_bits();
pub(crate) const XNX: u64 = Stage2Descriptor::new().with_xnx(true).into_bits();
pub(crate) const XN: u64 = Stage2Descriptor::new().with_xn(true).into_bits();
pub(crate) const SOFTWARE: u64 = Stage2Descriptor::new().with_software(7).into_bits();
const NS: u64 = Stage2Descriptor::new().with_ns(true).into_bits();
const FNXS: u64 = Stage2Descriptor::new().with_fnxs(true).into_bits();
const PBHA: u64 = Stage2Descriptor::new().with_pbha(15).into_bits();
/// The software bit of pages that were clean when the right to write was taken.
const WAS_CLEAN: u8 = 4;
pub(crate) const CLEAN: u64 = Stage2Descriptor::new().with_software(WAS_CLEAN).into_bits();
/// Every bit that is an attribute, MemAttr left out.
const ATTRIBUTES: u64 = READ | WRITE | SH | AF | FNXS | DBM | XNX | XN | NS | SOFTWARE | PBHA;

/// The memory type of a stage-2 page (D8.6.5, D8.6.6).
///
/// Without FWB it is combined with stage 1's type, and the one that allows less counts. With FWB
/// it replaces stage 1's, or leaves it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Stage2Memory {
    /// Device-nGnRnE.
    DeviceNgnrne,
    /// Device-nGnRE.
    DeviceNgnre,
    /// Device-nGRE.
    DeviceNgre,
    /// Device-GRE.
    DeviceGre,
    /// Normal, not cached.
    NonCacheable,
    /// Normal, inner and outer write-through. No encoding with FWB.
    WriteThrough,
    /// Normal, inner and outer write-back.
    #[default]
    WriteBack,
    /// Stage 1's type. With FWB only.
    Stage1,
    /// Any other MemAttr: inner and outer cacheability differ, NoTagAccess, reserved.
    Other(u8),
}

impl Stage2Memory {
    /// The type that MemAttr says. Only the low four bits count.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(mem_attr: u8, fwb: bool) -> Self {
        match (mem_attr & 15, fwb) {
            (0b0000, _) => Self::DeviceNgnrne,
            (0b0001, _) => Self::DeviceNgnre,
            (0b0010, _) => Self::DeviceNgre,
            (0b0011, _) => Self::DeviceGre,
            (0b0101, _) => Self::NonCacheable,
            (0b1010, false) => Self::WriteThrough,
            (0b1111, false) | (0b0110, true) => Self::WriteBack,
            (0b0111, true) => Self::Stage1,
            (other, _) => Self::Other(other),
        }
    }

    /// MemAttr; `None` if the type has no encoding.
    #[inline(always)]
    #[must_use]
    pub const fn into_bits(self, fwb: bool) -> Option<u8> {
        Some(match (self, fwb) {
            (Self::DeviceNgnrne, _) => 0b0000,
            (Self::DeviceNgnre, _) => 0b0001,
            (Self::DeviceNgre, _) => 0b0010,
            (Self::DeviceGre, _) => 0b0011,
            (Self::NonCacheable, _) => 0b0101,
            (Self::WriteThrough, false) => 0b1010,
            (Self::WriteBack, false) => 0b1111,
            (Self::WriteBack, true) => 0b0110,
            (Self::Stage1, true) => 0b0111,
            // What has a name has one encoding.
            (Self::Other(bits), _) if matches!(Self::from_bits(bits, fwb), Self::Other(_)) => {
                if bits > 15 {
                    return None;
                }
                bits
            }
            _ => return None,
        })
    }

    /// Whether it is a device type.
    #[inline(always)]
    #[must_use]
    pub const fn is_device(self) -> bool {
        matches!(self, Self::DeviceNgnrne | Self::DeviceNgnre | Self::DeviceNgre | Self::DeviceGre)
    }
}

/// Who may execute a stage-2 page: XN\[1:0\] (D8.4.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Stage2Execute {
    /// EL1 and EL0.
    All = 0b00,
    /// EL0 only (FEAT_XNX).
    El0 = 0b01,
    /// Neither.
    None = 0b10,
    /// EL1 only (FEAT_XNX).
    El1 = 0b11,
}

/// Leaf attributes of stage 2. [`Prot::user`] means nothing here; [`Prot::execute`] stands for both
/// exception levels until [`with_execute`](Self::with_execute) tells them apart, and then for EL1.
///
/// [`From<Prot>`](Prot) makes write-back, inner-shareable, accessed pages. Writable ones are dirty
/// and have DBM set, so that hardware that manages dirty state does.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stage2Attributes {
    /// The attribute bits of the descriptor, MemAttr left out.
    page: Stage2Descriptor,
    memory: Stage2Memory,
}

impl Stage2Attributes {
    /// The memory type.
    #[must_use]
    pub const fn memory_type(self) -> Stage2Memory {
        self.memory
    }

    /// The same page with another memory type.
    #[must_use]
    pub const fn with_memory_type(self, memory: Stage2Memory) -> Self {
        Self { memory, ..self }
    }

    /// Who may execute it.
    #[must_use]
    pub const fn execute(self) -> Stage2Execute {
        match (self.page.xn(), self.page.xnx()) {
            (false, false) => Stage2Execute::All,
            (false, true) => Stage2Execute::El0,
            (true, false) => Stage2Execute::None,
            (true, true) => Stage2Execute::El1,
        }
    }

    /// The same page, executable by others.
    #[must_use]
    pub const fn with_execute(self, execute: Stage2Execute) -> Self {
        let bits = execute as u8;
        Self { page: self.page.with_xn(bits & 2 != 0).with_xnx(bits & 1 != 0), ..self }
    }

    /// The shareability.
    #[must_use]
    pub const fn shareability(self) -> Shareability {
        Shareability::from_bits(self.page.sh())
    }

    /// The same page with another shareability. With LPA2, VTCR holds the shareability of all
    /// pages, and another than the default has no encoding.
    #[must_use]
    pub const fn with_shareability(self, shareability: Shareability) -> Self {
        Self { page: self.page.with_sh(shareability as u8), ..self }
    }

    /// AF: whether it is marked accessed.
    #[must_use]
    pub const fn accessed(self) -> bool {
        self.page.af()
    }

    /// The same page, accessed or not.
    #[must_use]
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self { page: self.page.with_af(accessed), ..self }
    }

    /// Whether a writable page is marked dirty. A read-only page counts as dirty unless it was
    /// clean when the right to write was taken.
    #[must_use]
    pub const fn dirty(self) -> bool {
        if self.prot_write() { self.page.write() } else { self.page.software() & WAS_CLEAN == 0 }
    }

    /// The same page, dirty or clean. A clean writable page is read-only to hardware that does not
    /// manage dirty state, and has no encoding in a format for such hardware.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        let software = self.page.software() & !WAS_CLEAN;
        let page = if self.prot_write() {
            self.page.with_write(dirty).with_dbm(true).with_software(software)
        } else {
            self.page.with_software(if dirty { software } else { software | WAS_CLEAN })
        };
        Self { page, ..self }
    }

    /// NS: in Secure state, whether its output is Non-secure.
    #[must_use]
    pub const fn non_secure(self) -> bool {
        self.page.ns()
    }

    /// The same page with another NS.
    #[must_use]
    pub const fn with_non_secure(self, non_secure: bool) -> Self {
        Self { page: self.page.with_ns(non_secure), ..self }
    }

    /// The software bits, two of them, in the descriptor's bits 57:56. (Bit 58 marks pages that
    /// were clean when they became read-only.)
    #[must_use]
    pub const fn software(self) -> u8 {
        self.page.software() & !WAS_CLEAN
    }

    /// The same page with these software bits. Only the low two count.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        let clean = self.page.software() & WAS_CLEAN;
        Self { page: self.page.with_software(bits & 3 | clean), ..self }
    }

    #[inline(always)]
    const fn prot_write(self) -> bool {
        self.page.write() || self.page.dbm()
    }

    /// Attributes by their bits in a descriptor.
    #[inline(always)]
    pub(crate) const fn from_word(word: u64, fwb: bool) -> Self {
        let memory = Stage2Memory::from_bits(Stage2Descriptor::from_bits(word).mem_attr(), fwb);
        Self { page: Stage2Descriptor::from_bits(word & ATTRIBUTES), memory }
    }

    /// Their bits in a descriptor, if they have an encoding.
    #[inline(always)]
    pub(crate) const fn to_word(self, fwb: bool) -> Option<u64> {
        match self.memory.into_bits(fwb) {
            Some(mem_attr) => Some(self.page.with_mem_attr(mem_attr).into_bits()),
            None => None,
        }
    }
}

impl From<Prot> for Stage2Attributes {
    #[inline]
    fn from(prot: Prot) -> Self {
        let page = Stage2Descriptor::new()
            .with_read(prot.read())
            .with_write(prot.write())
            .with_dbm(prot.write())
            .with_xn(!prot.execute())
            .with_sh(Shareability::Inner as u8)
            .with_af(true);
        Self { page, memory: Stage2Memory::WriteBack }
    }
}

impl Attributes for Stage2Attributes {
    #[inline]
    fn prot(&self) -> Prot {
        Prot::new()
            .with_read(self.page.read())
            .with_write(self.prot_write())
            .with_execute(matches!(self.execute(), Stage2Execute::All | Stage2Execute::El1))
    }

    /// A clean page that may not be written any more is marked in a software bit, and is clean when
    /// it may be written again. Who may execute it stays unless the right to execute changes.
    #[inline]
    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        let software = self.page.software() & !WAS_CLEAN;
        let execute = match (prot.execute() == self.prot().execute(), prot.execute()) {
            (true, _) => self.execute(),
            (false, true) => Stage2Execute::All,
            (false, false) => Stage2Execute::None,
        };
        let clean = !self.dirty();
        let page = self
            .page
            .with_read(prot.read())
            .with_write(prot.write() && !clean)
            .with_dbm(prot.write())
            .with_software(if clean && !prot.write() { software | WAS_CLEAN } else { software });
        Self { page, ..self }.with_execute(execute)
    }

    #[inline]
    fn memory(&self) -> Memory {
        match self.memory {
            Stage2Memory::NonCacheable => Memory::Uncached,
            memory if memory.is_device() => Memory::Device,
            _ => Memory::Normal,
        }
    }

    #[inline]
    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_memory_type(match memory {
            Memory::Normal => Stage2Memory::WriteBack,
            Memory::Uncached => Stage2Memory::NonCacheable,
            Memory::Device => Stage2Memory::DeviceNgnre,
        })
    }
}
