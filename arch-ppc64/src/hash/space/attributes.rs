//! What a software page says besides its address, and what becomes of it in an entry.

use bitfield_struct::bitfield;
use pgtable::{Memory, Prot};

use crate::hash::hpte::HpteR;
use crate::hash::page_size::PageSizes;
use crate::radix::{Att, Eaa};

/// A page's access authority, kind of storage, key, R, C and software bits: what Linux's page word
/// holds, whichever way it is translated.
///
/// Made from a [`Prot`] (ordinary memory, R and C set, key 0) and refined by the setters. R and C
/// are software's: R is set when an entry is made, C before an entry may be written through, so
/// entries never know more than the page. A page that may be executed, or written, may be read.
#[bitfield(u32)]
#[derive(PartialEq, Eq, Hash)]
pub struct HashAttributes {
    /// What it allows, and to whom.
    #[bits(4)]
    pub eaa: Eaa,
    /// What kind of storage it is.
    #[bits(2)]
    pub att: Att,
    /// Referenced.
    pub r: bool,
    /// Changed.
    pub c: bool,
    /// The virtual page class key; of 4K pages up to 7.
    #[bits(5)]
    pub key: u8,
    /// Four bits for software.
    #[bits(4)]
    pub software: u8,
    #[bits(15)]
    __: u32,
}

impl From<Prot> for HashAttributes {
    fn from(prot: Prot) -> Self {
        let eaa = Eaa::new()
            .with_privileged(!prot.user())
            .with_read(prot.read() || prot.write() || prot.execute())
            .with_write(prot.write())
            .with_execute(prot.execute());
        Self::new().with_eaa(eaa).with_r(true).with_c(true)
    }
}

impl pgtable::Attributes for HashAttributes {
    fn prot(&self) -> Prot {
        let eaa = self.eaa();
        Prot::new()
            .with_read(eaa.read() || eaa.write() || eaa.execute())
            .with_write(eaa.write())
            .with_execute(eaa.execute())
            .with_user(!eaa.privileged())
    }

    fn with_prot(self, prot: Prot) -> Self {
        self.with_eaa(Self::from(prot).eaa())
    }

    fn memory(&self) -> Memory {
        match self.att() {
            Att::Normal | Att::StrongAccessOrder => Memory::Normal,
            Att::Tolerant => Memory::Uncached,
            Att::NonIdempotent => Memory::Device,
        }
    }

    fn with_memory(self, memory: Memory) -> Self {
        if self.memory() == memory {
            return self;
        }
        self.with_att(match memory {
            Memory::Normal => Att::Normal,
            Memory::Uncached => Att::Tolerant,
            Memory::Device => Att::NonIdempotent,
        })
    }
}

impl HashAttributes {
    /// Whether it allows anything at all. What does not has no entry.
    pub(crate) const fn allows_anything(self) -> bool {
        self.eaa().read() || self.eaa().write() || self.eaa().execute()
    }

    /// The second doubleword of an entry for the page at `real`: Linux's choice of page protection,
    /// for segments with Ks = 0 and Kp = 1. A page that is not changed yet may not be written
    /// through the entry, so that the first store is noticed.
    pub(crate) const fn entry(self, real: u64, sizes: PageSizes) -> HpteR {
        let writable = self.eaa().write() && self.c();
        let pp = match (self.eaa().privileged(), writable) {
            _ if !self.allows_anything() => 4,
            (true, true) => 0,
            (true, false) => 6,
            (false, true) => 2,
            (false, false) => 3,
        };
        let (w, i, m, g) = match self.att() {
            Att::Normal => (false, false, true, false),
            Att::StrongAccessOrder => (true, true, true, false),
            Att::NonIdempotent => (false, true, false, true),
            Att::Tolerant => (false, true, false, false),
        };
        HpteR::of_page(real)
            .with_sizes(sizes)
            .with_r(true)
            .with_c(self.c())
            .with_n(!self.eaa().execute())
            .with_w(w)
            .with_i(i)
            .with_m(m)
            .with_g(g)
            .with_key(self.key())
            .with_protection(pp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::PageSize;
    use pgtable::Attributes as _;

    /// PP, N and WIMG as Linux's `htab_convert_pte_flags` makes them.
    #[test]
    fn entries_as_linux_makes_them() {
        let k64 = PageSizes::only(PageSize::K64);
        for (name, attributes, word) in [
            ("kernel RWX", HashAttributes::from(Prot::RWX), 0x2_1190_u64),
            ("kernel RW", Prot::RW.into(), 0x2_1194),
            ("kernel RO", Prot::R.into(), 0x8000_0000_0002_1196),
            ("user RWX", Prot::RWX.for_user().into(), 0x2_1192),
            ("user RO", Prot::R.for_user().into(), 0x2_1197),
            ("user RW, clean", HashAttributes::from(Prot::RW.for_user()).with_c(false), 0x2_1117),
            ("device", HashAttributes::from(Prot::RW).with_att(Att::NonIdempotent), 0x2_11ac),
            (
                "key 31",
                HashAttributes::from(Prot::RW.for_user()).with_key(31),
                0x3000_0000_0002_1f96,
            ),
        ] {
            let r = attributes.entry(0x2_0000, k64);
            assert_eq!(r.into_bits(), word, "{name}: {:#x}", r.into_bits());
        }
        assert_eq!(HashAttributes::from(Prot::new().with_execute(true)).prot(), Prot::RX);
        assert!(!HashAttributes::from(Prot::new()).allows_anything());
    }
}
