//! What a radix leaf says besides its address, as [`pgtable::Attributes`].

use pgtable::{Memory, Prot};

use super::entry::{Att, Eaa, Pte};

/// A leaf's access authority, kind of storage, R, C and software bits.
///
/// Made from a [`Prot`] (ordinary memory, R and C set: POWER9 does not set them by itself) and
/// refined by the setters.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PageAttributes(
    /// V, L, RPN and the reserved bits are zero.
    Pte,
);

impl PageAttributes {
    /// The attributes of the leaf `pte`.
    #[inline(always)]
    #[must_use]
    pub const fn of(pte: Pte) -> Self {
        Self(Pte::from_bits(pte.into_bits() & Pte::ATTRIBUTES))
    }

    /// A leaf with these attributes at address 0.
    #[inline(always)]
    #[must_use]
    pub const fn pte(self) -> Pte {
        Pte::from_bits(self.0.into_bits() | Pte::LEAF)
    }

    /// What it allows, and to whom.
    #[must_use]
    pub const fn eaa(self) -> Eaa {
        self.0.eaa()
    }

    /// The same with this access authority.
    #[must_use]
    pub const fn with_eaa(self, eaa: Eaa) -> Self {
        Self(self.0.with_eaa(Eaa::from_bits(eaa.into_bits() & 15)))
    }

    /// What kind of storage it is.
    #[must_use]
    pub const fn att(self) -> Att {
        self.0.att()
    }

    /// The same for this kind of storage.
    #[must_use]
    pub const fn with_att(self, att: Att) -> Self {
        Self(self.0.with_att(att))
    }

    /// Whether the Reference bit is set.
    #[must_use]
    pub const fn r(self) -> bool {
        self.0.r()
    }

    /// The same with the Reference bit set, or clear.
    #[must_use]
    pub const fn with_r(self, r: bool) -> Self {
        Self(self.0.with_r(r))
    }

    /// Whether the Change bit is set.
    #[must_use]
    pub const fn c(self) -> bool {
        self.0.c()
    }

    /// The same with the Change bit set, or clear.
    #[must_use]
    pub const fn with_c(self, c: bool) -> Self {
        Self(self.0.with_c(c))
    }

    /// The software bits: SW0, SW1, SW2, SW3 from the left (8, 4, 2, 1).
    #[must_use]
    pub const fn software(self) -> u8 {
        (self.0.sw0() as u8) << 3 | self.0.sw()
    }

    /// The same with these software bits: SW0, SW1, SW2, SW3 from the left (8, 4, 2, 1). Higher
    /// bits of `bits` are ignored.
    #[must_use]
    pub const fn with_software(self, bits: u8) -> Self {
        Self(self.0.with_sw0(bits & 8 != 0).with_sw(bits & 7))
    }
}

impl From<Prot> for PageAttributes {
    #[inline]
    fn from(prot: Prot) -> Self {
        let eaa = Eaa::new()
            .with_privileged(!prot.user())
            .with_read(prot.read())
            .with_write(prot.write())
            .with_execute(prot.execute());
        Self(Pte::new().with_eaa(eaa).with_r(true).with_c(true))
    }
}

impl pgtable::Attributes for PageAttributes {
    /// A page that may be written may be read: EAA has no write-only.
    #[inline]
    fn prot(&self) -> Prot {
        let eaa = self.eaa();
        Prot::new()
            .with_read(eaa.read() || eaa.write())
            .with_write(eaa.write())
            .with_execute(eaa.execute())
            .with_user(!eaa.privileged())
    }

    #[inline]
    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        self.with_eaa(Self::from(prot).eaa())
    }

    #[inline]
    fn memory(&self) -> Memory {
        match self.att() {
            Att::Normal | Att::StrongAccessOrder => Memory::Normal,
            Att::Tolerant => Memory::Uncached,
            Att::NonIdempotent => Memory::Device,
        }
    }

    #[inline]
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

#[cfg(test)]
mod tests {
    use super::*;
    use pgtable::Attributes as _;

    #[test]
    fn leaves_as_linux_makes_them() {
        for (prot, word) in [
            (Prot::RWX, 0xc000_0000_0000_018f_u64),
            (Prot::RWX.for_user(), 0xc000_0000_0000_0187),
            (Prot::RW, 0xc000_0000_0000_018e),
            (Prot::R, 0xc000_0000_0000_018c),
            (Prot::RX, 0xc000_0000_0000_018d),
        ] {
            let attributes = PageAttributes::from(prot);
            assert_eq!(attributes.pte().into_bits(), word, "{prot:?}");
            assert_eq!(attributes.prot(), prot);
        }
    }

    #[test]
    fn refined() {
        let it = PageAttributes::from(Prot::R)
            .with_r(false)
            .with_c(false)
            .with_att(Att::NonIdempotent)
            .with_software(0b1010);
        assert_eq!(it.pte().into_bits(), 0xe000_0000_0000_042c);
        assert_eq!(
            (it.r(), it.c(), it.att(), it.software()),
            (false, false, Att::NonIdempotent, 0b1010)
        );
        assert_eq!(PageAttributes::of(it.pte()), it);
        assert_eq!(it.with_eaa(Eaa::from_bits(0xff)).eaa().into_bits(), 15);
    }

    #[test]
    fn there_is_no_write_only() {
        let it = PageAttributes::from(Prot::new().with_write(true));
        assert_eq!(it.eaa().into_bits(), 0b1010);
        assert_eq!(it.prot(), Prot::RW);
    }
}
