//! The bit of a physical address that says whether memory is private to a guest.
//!
//! | scheme | the bit | source |
//! | --- | --- | --- |
//! | SME, SEV, SEV-ES, SEV-SNP | the C-bit: 1 in an entry or in CR3 means encrypted | APM §7.10.2, §15.34.5 |
//! | TDX | the shared bit: 1 means shared with the hypervisor | TDX module base specification, "Shared GPA" |
//! | vTOM, if it is a power of two | the same | APM §15.36.8 |
//!
//! The bit is not part of the address. Reading an entry takes it off, so that an output is where
//! the memory stands; [`PageAttributes`](crate::PageAttributes) keeps it for the leaf, and the
//! format value sets it in entries for tables and in CR3.

use pgtable::Gpa;

/// Which bit of an address in stage 1 or nested paging says whether memory is private.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Privacy {
    /// There is none: all address bits are an address.
    #[default]
    None,
    /// This bit is set in the addresses of encrypted memory: AMD's C-bit. Page tables are encrypted
    /// (APM §15.34.5), so it is set in entries for tables too, unless the format says otherwise.
    Encrypted {
        /// Its number, 12 to 51.
        bit: u8,
    },
    /// This bit is set in the addresses of memory that is shared with the hypervisor: TDX's shared
    /// bit, or a vTOM of `1 << bit` (a vTOM that is no power of two moves no address and needs no
    /// bit). Page tables are private, so it is clear in entries for tables.
    ///
    /// A walk takes the bit off wherever it meets it. What TDX forbids of code and tables in shared
    /// memory is not modelled.
    ///
    /// For a walk through both stages of a TDX guest leave it out: EPT sees it as an address bit
    /// ([`Ept::with_shared_bit`](crate::Ept::with_shared_bit)).
    Shared {
        /// Its number, 12 to 51.
        bit: u8,
    },
}

impl Privacy {
    /// The C-bit of CPUID function 8000001FH: bits 5:0 of its EBX (APM volume 3, §E.4.17). `None`
    /// if they name no bit of a frame's address.
    #[must_use]
    pub const fn of_cpuid(ebx: u32) -> Option<Self> {
        match (ebx & 0x3f) as u8 {
            bit @ 12..=51 => Some(Self::Encrypted { bit }),
            _ => None,
        }
    }

    /// The bit, in an entry that maps an address; 0 if there is none.
    #[inline]
    #[must_use]
    pub const fn mask(self) -> u64 {
        match self {
            Self::None => 0,
            Self::Encrypted { bit } | Self::Shared { bit } => match bit {
                12..=51 => 1 << bit,
                _ => 0,
            },
        }
    }

    /// The bit as entries for tables have it: page tables are private.
    pub(crate) const fn of_tables(self) -> u64 {
        self.of(true)
    }

    /// The bit as it is in the addresses of private memory, or of shared memory.
    pub(crate) const fn of(self, private: bool) -> u64 {
        match self {
            Self::None => 0,
            Self::Encrypted { .. } => {
                if private {
                    self.mask()
                } else {
                    0
                }
            }
            Self::Shared { .. } => {
                if private {
                    0
                } else {
                    self.mask()
                }
            }
        }
    }

    /// Whether memory at `address`, the bit included, is private. Without such a bit, all is.
    #[inline]
    #[must_use]
    pub const fn is_private(self, address: Gpa) -> bool {
        address.get() & self.mask() == self.of(true)
    }

    /// Where the memory at `address` stands: the bit taken off.
    #[inline]
    #[must_use]
    pub const fn strip(self, address: Gpa) -> Gpa {
        Gpa::new(address.get() & !self.mask())
    }

    /// How many physical address bits memory encryption takes from MAXPHYADDR while it is enabled:
    /// bits 11:6 of EBX of CPUID function 8000001FH. A guest's physical addresses keep them (APM
    /// §15.34.6).
    #[must_use]
    pub const fn reduction(ebx: u32) -> u8 {
        (ebx >> 6 & 0x3f) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// EBX as processors have it: Naples and Rome (bit 47, five bits less), Milan and later (bit
    /// 51).
    #[test]
    fn case_cpuid() {
        for (ebx, bit, reduction) in [
            (0x016f_u32, Some(47), 5),
            (0x4173, Some(51), 5),
            (0x0000, None, 0),
            (0x000b, None, 0),
            (0x000c, Some(12), 0),
            (0x0034, None, 0),
            (0xffff_f16f, Some(47), 5),
        ] {
            let want = bit.map(|bit| Privacy::Encrypted { bit });
            assert_eq!(Privacy::of_cpuid(ebx), want, "{ebx:#x}");
            assert_eq!(Privacy::reduction(ebx), reduction, "{ebx:#x}");
        }
    }

    #[test]
    fn private_and_shared() {
        let (c, s) = (Privacy::Encrypted { bit: 47 }, Privacy::Shared { bit: 46 });
        for (privacy, address, private, stripped) in [
            (c, 0x8000_0000_1000_u64, true, 0x1000),
            (c, 0x1000, false, 0x1000),
            (s, 0x4000_0000_1000, false, 0x1000),
            (s, 0x1000, true, 0x1000),
            (Privacy::None, 0x8000_0000_1000, true, 0x8000_0000_1000),
            (Privacy::Encrypted { bit: 52 }, 1 << 52, true, 1 << 52),
            (Privacy::Encrypted { bit: 200 }, 1 << 52, true, 1 << 52),
        ] {
            let address = Gpa::new(address);
            assert_eq!(privacy.is_private(address), private, "{privacy:?} {address}");
            assert_eq!(privacy.strip(address), Gpa::new(stripped), "{privacy:?} {address}");
        }
    }
}
