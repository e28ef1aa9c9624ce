//! The three address types. An address is never a bare `u64`: what a guest's code uses, what the
//! guest calls physical and what the host calls physical are different numbers, and confusing
//! them must not compile.

use core::fmt::{Debug, Display, LowerHex};
use core::hash::Hash;

/// An address in one of the three address spaces.
///
/// Implemented by [`Gva`], [`Gpa`] and [`Hpa`] only; generic code names it to say which space a
/// table, an input or an output stands in.
pub trait Address:
    Copy + Eq + Ord + Hash + Debug + Display + LowerHex + Send + Sync + 'static
{
    /// The short name of the space, as error messages print it: `"gva"`, `"gpa"`, `"hpa"`.
    const SPACE: &'static str;

    /// The address whose number is `raw`.
    fn new(raw: u64) -> Self;

    /// The number, in bytes from the start of the space.
    fn get(self) -> u64;

    /// The address `bytes` further on, or `None` past the end of the space.
    #[inline]
    fn checked_add(self, bytes: u64) -> Option<Self> {
        self.get().checked_add(bytes).map(Self::new)
    }

    /// The last multiple of `2^shift` at or before the address.
    #[inline]
    #[must_use]
    fn align_down(self, shift: u8) -> Self {
        Self::new(self.get() & !low_bits(shift))
    }

    /// The first multiple of `2^shift` at or behind the address; `None` past the end of the space.
    #[inline]
    fn align_up(self, shift: u8) -> Option<Self> {
        self.checked_add(low_bits(shift)).map(|it| it.align_down(shift)).or_else(|| {
            // The last multiple itself.
            self.is_aligned(shift).then_some(self)
        })
    }

    /// Whether the address is a multiple of `2^shift`.
    #[inline]
    fn is_aligned(self, shift: u8) -> bool {
        self.get() & low_bits(shift) == 0
    }
}

/// A mask of the low `bits` bits; all of them from 64 on.
#[inline(always)]
#[must_use]
pub const fn low_bits(bits: u8) -> u64 {
    if bits >= 64 { u64::MAX } else { !(u64::MAX << bits) }
}

macro_rules! address {
    ($name:ident, $space:literal, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address whose number is `raw`.
            #[inline]
            #[must_use]
            pub const fn new(raw: u64) -> Self {
                Self(raw)
            }

            /// The number, in bytes from the start of the space.
            #[inline]
            #[must_use]
            pub const fn get(self) -> u64 {
                self.0
            }
        }

        impl Address for $name {
            const SPACE: &'static str = $space;

            #[inline]
            fn new(raw: u64) -> Self {
                Self(raw)
            }

            #[inline]
            fn get(self) -> u64 {
                self.0
            }
        }

        impl LowerHex for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                LowerHex::fmt(&self.0, f)
            }
        }

        impl Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!($space, " {:#x}"), self.0)
            }
        }

        impl Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                Display::fmt(self, f)
            }
        }
    };
}

address!(
    Gva,
    "gva",
    "A guest virtual address: what guest code uses. On POWER, an effective address (EA)."
);
address!(
    Gpa,
    "gpa",
    "A guest physical address: what the guest takes for memory. On POWER, a guest real address."
);
address!(
    Hpa,
    "hpa",
    "A host physical address: what the memory controller sees. On POWER, a host real address."
);

#[cfg(feature = "vm-memory")]
impl From<vm_memory::GuestAddress> for Gpa {
    #[inline]
    fn from(address: vm_memory::GuestAddress) -> Self {
        Self(address.0)
    }
}

#[cfg(feature = "vm-memory")]
impl From<Gpa> for vm_memory::GuestAddress {
    #[inline]
    fn from(address: Gpa) -> Self {
        Self(address.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use std::format;

    #[test]
    fn masks_and_alignment() {
        for (bits, mask) in [(0, 0), (1, 1), (12, 0xfff), (63, u64::MAX >> 1), (64, u64::MAX)] {
            assert_eq!(low_bits(bits), mask, "{bits} bits");
        }
        assert!(Gpa::new(0x20_0000).is_aligned(21));
        assert!(!Gpa::new(0x20_1000).is_aligned(21));
        assert_eq!(Gva::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn multiples() {
        const TOP: u64 = u64::MAX;
        for (address, shift, down, up) in [
            (0, 12, 0, Some(0)),
            (1, 12, 0, Some(0x1000)),
            (0xfff, 12, 0, Some(0x1000)),
            (0x1000, 12, 0x1000, Some(0x1000)),
            (0x1001, 0, 0x1001, Some(0x1001)),
            (TOP, 0, TOP, Some(TOP)),
            (TOP, 12, TOP & !0xfff, None),
            (TOP & !0xfff, 12, TOP & !0xfff, Some(TOP & !0xfff)),
            ((TOP & !0xfff) + 1, 12, TOP & !0xfff, None),
            (0, 64, 0, Some(0)),
            (1, 64, 0, None),
        ] {
            let at = Gpa::new(address);
            assert_eq!(at.align_down(shift), Gpa::new(down), "{at} {shift}");
            assert_eq!(at.align_up(shift), up.map(Gpa::new), "{at} {shift}");
        }
    }

    #[test]
    fn a_person_sees_the_space() {
        assert_eq!(
            format!("{} {:?} {:#x}", Gva::new(16), Hpa::new(17), Gpa::new(18)),
            "gva 0x10 hpa 0x11 0x12"
        );
    }
}
