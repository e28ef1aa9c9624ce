//! The Logical Partitioning Control Register, as far as it decides how addresses are translated.

use bitfield_struct::bitfield;

/// Logical Partitioning Control Register (LPCR, SPR 318; Power ISA v3.0B Book III 2.2, POWER9 and
/// POWER10 User's Manuals).
#[bitfield(u64, order = Msb)]
#[derive(PartialEq, Eq, Hash)]
pub struct Lpcr {
    /// 0 VPM0: hashed, relocation off: addresses are those of the virtual real mode area.
    pub vpm0: bool,
    /// 1 VPM1: hashed, relocation on: storage interrupts go to the hypervisor.
    pub vpm1: bool,
    /// 2 ISL: hashed: SLB entries are taken for those of segments of 4 KiB pages.
    pub isl: bool,
    /// 3 KBV: hashed: pages of class 31 are the hypervisor's.
    pub kbv: bool,
    #[bits(5)]
    reserved_4: u8,
    /// 9:11 DPFD: how deep to prefetch.
    #[bits(3)]
    pub dpfd: u8,
    /// 12:16 VRMASD: page size of the virtual real mode area.
    #[bits(5)]
    pub vrmasd: u8,
    /// 17:19 PECE, upper part: what ends a power-saving mode.
    #[bits(3)]
    pub pece_upper: u8,
    #[bits(14)]
    reserved_20: u16,
    /// 34:36 RMLS (before ISA v3.0): limit of real mode.
    #[bits(3)]
    pub rmls: u8,
    /// 37 HAIL (from ISA v3.1; before, part of RMLS): where the hypervisor's interrupts begin.
    pub hail: bool,
    /// 38 ILE: interrupts are taken little-endian.
    pub ile: bool,
    /// 39:40 AIL: where interrupts begin.
    #[bits(2)]
    pub ail: u8,
    /// 41 UPRT: there is a process table.
    pub uprt: bool,
    /// 42 EVIRT: the hypervisor emulates what the partition may not do.
    pub evirt: bool,
    /// 43 HR: the partition's tree is radix.
    pub hr: bool,
    reserved_44: bool,
    /// 45 ONL: the time of this thread counts.
    pub onl: bool,
    /// 46 LD: the decrementer is large.
    pub ld: bool,
    /// 47:51 PECE, lower part.
    #[bits(5)]
    pub pece_lower: u8,
    /// 52 MER: an external interrupt is asked for.
    pub mer: bool,
    /// 53 GTSE: the partition may use `tlbie`.
    pub gtse: bool,
    /// 54 TC: hashed: secondary groups are not searched.
    pub tc: bool,
    #[bits(4)]
    reserved_55: u8,
    /// 59 HEIC: the hypervisor takes no external interrupt.
    pub heic: bool,
    /// 60:61 LPES: who takes external interrupts.
    #[bits(2)]
    pub lpes: u8,
    /// 62 HVICE: hypervisor virtualization interrupts are taken.
    pub hvice: bool,
    /// 63 HDICE: hypervisor decrementer interrupts are taken.
    pub hdice: bool,
}

/// How a partition's addresses are translated with relocation on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Translation {
    /// By process table and radix trees: [`GuestMmu`](crate::radix::GuestMmu).
    Radix,
    /// By SLB and a hashed page table: `HashMmu`.
    Hash,
}

/// What a field of a register is to translation with relocation on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Bearing {
    /// It decides how addresses are translated, and this crate follows it.
    Modelled,
    /// It does not change where an access goes, nor whether it may. (It may change who takes an
    /// interrupt, and what happens with relocation off.)
    None,
    /// It changes hashed translation in a way that this crate does not follow, so that it is
    /// refused there; radix does not look at it.
    RefusedByHash,
    /// It is refused: what it does is not known.
    Refused,
}

/// A field of a register is set that changes translation in a way that is not modelled.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("LPCR[{field}] is not modelled")]
pub struct Unmodelled {
    /// The field's name in the manual.
    pub field: &'static str,
}

impl Lpcr {
    /// Every bit of the register: its field's name, the field's bits, and what it is to
    /// translation.
    ///
    /// UPRT and HR are followed where both are set (radix) or neither is (hashed, by SLB). One
    /// alone is refused: segment tables, and radix without a process table.
    pub const FIELDS: [(&'static str, Self, Bearing); 28] = [
        ("VPM0", Self::new().with_vpm0(true), Bearing::None),
        ("VPM1", Self::new().with_vpm1(true), Bearing::None),
        ("ISL", Self::new().with_isl(true), Bearing::RefusedByHash),
        ("KBV", Self::new().with_kbv(true), Bearing::RefusedByHash),
        ("reserved 4:8", Self::new().with_reserved_4(0x1f), Bearing::Refused),
        ("DPFD", Self::new().with_dpfd(7), Bearing::None),
        ("VRMASD", Self::new().with_vrmasd(0x1f), Bearing::None),
        ("PECE 17:19", Self::new().with_pece_upper(7), Bearing::None),
        ("reserved 20:33", Self::new().with_reserved_20(0x3fff), Bearing::Refused),
        ("RMLS", Self::new().with_rmls(7), Bearing::None),
        ("HAIL", Self::new().with_hail(true), Bearing::None),
        ("ILE", Self::new().with_ile(true), Bearing::None),
        ("AIL", Self::new().with_ail(3), Bearing::None),
        ("UPRT", Self::new().with_uprt(true), Bearing::Modelled),
        ("EVIRT", Self::new().with_evirt(true), Bearing::None),
        ("HR", Self::new().with_hr(true), Bearing::Modelled),
        ("reserved 44", Self::new().with_reserved_44(true), Bearing::Refused),
        ("ONL", Self::new().with_onl(true), Bearing::None),
        ("LD", Self::new().with_ld(true), Bearing::None),
        ("PECE 47:51", Self::new().with_pece_lower(0x1f), Bearing::None),
        ("MER", Self::new().with_mer(true), Bearing::None),
        ("GTSE", Self::new().with_gtse(true), Bearing::None),
        ("TC", Self::new().with_tc(true), Bearing::RefusedByHash),
        ("reserved 55:58", Self::new().with_reserved_55(0xf), Bearing::Refused),
        ("HEIC", Self::new().with_heic(true), Bearing::None),
        ("LPES", Self::new().with_lpes(3), Bearing::None),
        ("HVICE", Self::new().with_hvice(true), Bearing::None),
        ("HDICE", Self::new().with_hdice(true), Bearing::None),
    ];

    /// How addresses are translated with relocation on under this register.
    ///
    /// ```
    /// use pgtable_ppc64::{Lpcr, Translation, Unmodelled};
    ///
    /// // As Linux's KVM gives it to a radix guest, and to a hashed one.
    /// assert_eq!(Lpcr::from_bits(0x0040_0000_0054_f41f).translation(), Ok(Translation::Radix));
    /// assert_eq!(Lpcr::from_bits(0x4040_0000_0004_f01f).translation(), Ok(Translation::Hash));
    /// let one_group = Lpcr::new().with_tc(true);
    /// assert_eq!(one_group.translation(), Err(Unmodelled { field: "TC" }));
    /// ```
    ///
    /// # Errors
    /// [`Unmodelled`]: the first field, in the order of [`FIELDS`](Self::FIELDS), that this crate
    /// does not follow.
    pub fn translation(self) -> Result<Translation, Unmodelled> {
        let radix = match (self.hr(), self.uprt()) {
            (true, true) => true,
            (false, false) => false,
            // Segment tables; radix without a process table.
            (false, true) => return Err(Unmodelled { field: "UPRT" }),
            (true, false) => return Err(Unmodelled { field: "HR" }),
        };
        let refused = |&&(_, bits, bearing): &&(&str, Self, Bearing)| {
            let refused = match bearing {
                Bearing::Modelled | Bearing::None => false,
                Bearing::RefusedByHash => !radix,
                Bearing::Refused => true,
            };
            refused && self.into_bits() & bits.into_bits() != 0
        };
        match Self::FIELDS.iter().find(refused) {
            Some(&(field, ..)) => Err(Unmodelled { field }),
            None if radix => Ok(Translation::Radix),
            None => Ok(Translation::Hash),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every bit is one field's, where Linux has it.
    #[test]
    fn bits_stand_where_linux_says() {
        let f = Lpcr::new;
        for (name, word, want) in [
            ("LPCR_VPM0", f().with_vpm0(true), 0x8000_0000_0000_0000_u64),
            ("LPCR_VPM1", f().with_vpm1(true), 0x4000_0000_0000_0000),
            ("LPCR_ISL", f().with_isl(true), 0x2000_0000_0000_0000),
            ("LPCR_DPFD", f().with_dpfd(7), 7 << 52),
            ("LPCR_VRMASD", f().with_vrmasd(0x1f), 0x1f << 47),
            ("LPCR_PECE_HVEE", f().with_pece_upper(4), 0x0000_4000_0000_0000),
            ("LPCR_HAIL", f().with_hail(true), 0x400_0000),
            ("LPCR_RMLS of QEMU", f().with_rmls(7).with_hail(true), 0x3c00_0000),
            ("LPCR_ILE", f().with_ile(true), 0x200_0000),
            ("LPCR_AIL", f().with_ail(3), 0x180_0000),
            ("LPCR_UPRT", f().with_uprt(true), 0x40_0000),
            ("LPCR_EVIRT", f().with_evirt(true), 0x20_0000),
            ("LPCR_HR", f().with_hr(true), 0x10_0000),
            ("LPCR_ONL", f().with_onl(true), 0x4_0000),
            ("LPCR_LD", f().with_ld(true), 0x2_0000),
            ("LPCR_PECE", f().with_pece_lower(0x1f), 0x1_f000),
            ("LPCR_MER", f().with_mer(true), 0x800),
            ("LPCR_GTSE", f().with_gtse(true), 0x400),
            ("LPCR_TC", f().with_tc(true), 0x200),
            ("LPCR_HEIC", f().with_heic(true), 0x10),
            ("LPCR_LPES", f().with_lpes(3), 0xc),
            ("LPCR_HVICE", f().with_hvice(true), 2),
            ("LPCR_HDICE", f().with_hdice(true), 1),
        ] {
            assert_eq!(word.into_bits(), want, "{name}");
        }
    }

    /// Each bit alone, beside what radix and what hashed translation need: as the list says.
    #[test]
    fn every_bit_of_lpcr_is_modelled_or_without_effect_or_refused_by_name() {
        let all = Lpcr::FIELDS.iter().fold(0, |all, (name, bits, _)| {
            assert_eq!(all & bits.into_bits(), 0, "{name} is listed twice");
            all | bits.into_bits()
        });
        assert_eq!(all, u64::MAX, "bits that are not listed");
        let radix = Lpcr::new().with_hr(true).with_uprt(true);
        for (base, mode) in [(radix, Translation::Radix), (Lpcr::new(), Translation::Hash)] {
            assert_eq!(base.translation(), Ok(mode));
            for bit in (0..64).map(|bit| 1_u64 << bit) {
                let of_bit = |it: &&(&str, Lpcr, Bearing)| it.1.into_bits() & bit != 0;
                let &(field, _, bearing) = Lpcr::FIELDS.iter().find(of_bit).unwrap();
                let seen = Lpcr::from_bits(base.into_bits() ^ bit).translation();
                let refused = Err(Unmodelled { field });
                let want = match bearing {
                    Bearing::None => Ok(mode),
                    Bearing::RefusedByHash if mode == Translation::Radix => Ok(mode),
                    Bearing::RefusedByHash | Bearing::Refused => refused,
                    // The other of the two is set alone.
                    Bearing::Modelled if mode == Translation::Radix => {
                        Err(Unmodelled { field: if field == "HR" { "UPRT" } else { "HR" } })
                    }
                    Bearing::Modelled => refused,
                };
                assert_eq!(seen, want, "{field}, {bit:#x}, {mode:?}");
            }
        }
    }
}
