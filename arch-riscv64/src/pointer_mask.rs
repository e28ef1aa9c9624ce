//! Pointer masking: address bits that data accesses ignore ("Pointer Masking", Ssnpm and Smnpm).

/// How many of the highest bits of an address are ignored: a PMM field.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum PointerMask {
    /// None.
    #[default]
    Off = 0,
    /// 7: PMLEN = XLEN − 57.
    Seven = 2,
    /// 16: PMLEN = XLEN − 48.
    Sixteen = 3,
}

impl PointerMask {
    /// The mask with this encoding of a PMM field. `None`: reserved (1), or more than two bits.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Off),
            2 => Some(Self::Seven),
            3 => Some(Self::Sixteen),
            _ => None,
        }
    }

    /// The address that a data access to `address` uses: the ignored bits become copies of the
    /// highest bit that is left, or zeros if the address is a `physical` one (satp or vsatp is
    /// Bare). Fetches, and loads by HLVX, are not masked.
    #[inline]
    #[must_use]
    pub const fn apply(self, address: u64, physical: bool) -> u64 {
        let ignored = match self {
            Self::Off => 0,
            Self::Seven => 7,
            Self::Sixteen => 16,
        };
        if physical {
            address << ignored >> ignored
        } else {
            ((address << ignored) as i64 >> ignored) as u64
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first row is the manual's own example.
    #[test]
    fn masks() {
        for (code, address, physical, want) in [
            (2, 0xabff_ffff_1234_5678, false, 0xffff_ffff_1234_5678),
            (2, 0xabff_ffff_1234_5678, true, 0x01ff_ffff_1234_5678),
            (3, 0xabcd_7fff_1234_5678, false, 0x0000_7fff_1234_5678),
            (3, 0xabcd_8fff_1234_5678, false, 0xffff_8fff_1234_5678),
            (3, 0xabcd_8fff_1234_5678, true, 0x0000_8fff_1234_5678),
            (0, 0xabcd_8fff_1234_5678, false, 0xabcd_8fff_1234_5678),
        ] {
            let Some(mask) = PointerMask::from_code(code) else { panic!("{code}") };
            assert_eq!(mask.apply(address, physical), want, "{mask:?} of {address:#x}");
        }
        assert_eq!(PointerMask::from_code(1), None);
        assert_eq!(PointerMask::from_code(4), None);
    }
}
