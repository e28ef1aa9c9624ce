//! The registers by which hardware walks the trees of a format.

use pgtable::{Gpa, Hpa};

use crate::registers::{Hcr, Sctlr, Tcr, TcrEl2, Ttbr, Vtcr, ps, tg0, tg1};
use crate::shape::Granule;
use crate::stage1::VmsaStage1;
use crate::stage1_controls::{Stage1Controls, VaRange};
use crate::stage2::{Stage2Controls, VmsaStage2};

/// IRGN and ORGN: walks are write-back, read-allocate and write-allocate.
const WRITE_BACK: u8 = 0b0101;
/// SH: walks are inner-shareable.
const INNER_SHAREABLE: u8 = 0b11;

/// Whether TTBRs of such trees hold address bits 51:48 (DDI 0487, `AArch64.S1TTBaseAddress`).
const fn is_wide(granule: Granule, ds: bool, output_bits: u8, physical_bits: u8) -> bool {
    match granule {
        Granule::K64 => output_bits == 52 && physical_bits == 52,
        Granule::K4 | Granule::K16 => ds,
    }
}

impl VmsaStage1 {
    /// TCR_EL1 (or TCR_EL2 with E2H = 1) for trees of this format in their address range. The other
    /// range is off (EPD). OR two of them for both ranges, and clear EPD0 and EPD1.
    ///
    /// Set are TxSZ, TGx, IPS, HA, HD, HPDx, TBIx and DS as the controls have them; IRGNx, ORGNx
    /// and SHx for write-back, inner-shareable walks; and AS, for ASIDs of 16 bits: clear it on a
    /// processor that has 8 (ID_AA64MMFR0_EL1.ASIDBits = 0), where it is RES0. Everything else is
    /// 0: TBIDx, E0PDx and A1 are the caller's.
    #[must_use]
    pub const fn tcr(&self) -> Tcr {
        let Stage1Controls { granule, input_bits, ha, hd, hpd, tbi, output_bits, .. } =
            *self.controls();
        let size = 64 - input_bits;
        let tcr = Tcr::new()
            .with_ips(ps(output_bits))
            .with_as16(true)
            .with_ha(ha)
            .with_hd(hd)
            .with_ds(self.controls().ds && !matches!(granule, Granule::K64));
        match self.controls().range {
            VaRange::Lower => tcr
                .with_t0sz(size)
                .with_tg0(tg0(granule))
                .with_rgn0(WRITE_BACK)
                .with_sh0(INNER_SHAREABLE)
                .with_hpd0(hpd)
                .with_tbi0(tbi)
                .with_epd1(true),
            VaRange::Upper => tcr
                .with_t1sz(size)
                .with_tg1(tg1(granule))
                .with_rgn1(WRITE_BACK)
                .with_sh1(INNER_SHAREABLE)
                .with_hpd1(hpd)
                .with_tbi1(tbi)
                .with_epd0(true),
        }
    }

    /// TCR_EL2 with E2H = 0 for trees of this format: as [`tcr`](Self::tcr), and the RES1 bits 31
    /// and 23.
    #[must_use]
    pub const fn tcr_el2(&self) -> TcrEl2 {
        let lower = Self::tcr(self);
        let Stage1Controls { input_bits, granule, hpd, tbi, .. } = *self.controls();
        TcrEl2::new()
            .with_t0sz(64 - input_bits)
            .with_rgn0(WRITE_BACK)
            .with_sh0(INNER_SHAREABLE)
            .with_tg0(tg0(granule))
            .with_ps(lower.ips())
            .with_tbi(tbi)
            .with_ha(lower.ha())
            .with_hd(lower.hd())
            .with_res1(true)
            .with_hpd(hpd)
            .with_res1_high(true)
            .with_ds(lower.ds())
    }

    /// TTBR0_ELx or TTBR1_ELx for the tree whose root table stands at `root`, with this ASID
    /// (0 in the EL2 regime). Bits of `root` below the root's size, and beyond 51:0 or 47:0, do not
    /// count.
    #[must_use]
    pub const fn ttbr(&self, root: Gpa, asid: u16) -> Ttbr {
        let Stage1Controls { granule, ds, output_bits, physical_bits, .. } = *self.controls();
        Ttbr::of(root.get(), asid, is_wide(granule, ds, output_bits, physical_bits))
    }

    /// The bits of SCTLR_ELx that have to be set for these trees: M; C and I, without which no
    /// access is cached; WXN and EPAN as the controls have them. OR them into the register, whose
    /// other bits (alignment checks, traps, RES1) are not translation's.
    #[must_use]
    pub const fn sctlr(&self) -> Sctlr {
        let Stage1Controls { wxn, epan, .. } = *self.controls();
        Sctlr::new().with_m(true).with_c(true).with_i(true).with_wxn(wxn).with_epan(epan)
    }
}

impl VmsaStage2 {
    /// VTCR_EL2 for trees of this format.
    ///
    /// Set are T0SZ, SL0, SL2, TG0, PS, HA, HD and DS as the controls have them; IRGN0, ORGN0 and
    /// SH0 for write-back, inner-shareable walks; the RES1 bit 31; and VS, for VMIDs of 16 bits:
    /// clear it on a processor that has 8 (ID_AA64MMFR1_EL1.VMIDBits = 0), where it is RES0.
    /// Everything else is 0. XNX needs no bit; FWB is HCR_EL2's ([`hcr`](Self::hcr)).
    #[must_use]
    pub const fn vtcr(&self) -> Vtcr {
        let Stage2Controls { granule, input_bits, ha, hd, output_bits, .. } = *self.controls();
        let start = self.start_level();
        let sl0 = match (granule, start) {
            (Granule::K4, -1 | 2) => 0,
            (Granule::K4, 3) => 3,
            (Granule::K4, level) => 2 - level,
            (_, level) => 3 - level,
        };
        Vtcr::new()
            .with_t0sz(64 - input_bits)
            .with_sl0(sl0 as u8)
            .with_rgn0(WRITE_BACK)
            .with_sh0(INNER_SHAREABLE)
            .with_tg0(tg0(granule))
            .with_ps(ps(output_bits))
            .with_vs(true)
            .with_ha(ha)
            .with_hd(hd)
            .with_res1(true)
            .with_ds(self.controls().ds && !matches!(granule, Granule::K64))
            .with_sl2(start < 0)
    }

    /// The bits of HCR_EL2 that have to be set for these trees: VM, and FWB as the controls have
    /// it. OR them into the register, whose other bits (RW, traps, routing) are not translation's.
    #[must_use]
    pub const fn hcr(&self) -> Hcr {
        Hcr::new().with_vm(true).with_fwb(self.controls().fwb)
    }

    /// VTTBR_EL2 for the tree whose root tables stand at `root`, with this VMID. Bits of `root`
    /// below the root's size, and beyond 51:0 or 47:0, do not count.
    #[must_use]
    pub const fn vttbr(&self, root: Hpa, vmid: u16) -> Ttbr {
        let Stage2Controls { granule, ds, output_bits, physical_bits, .. } = *self.controls();
        Ttbr::of(root.get(), vmid, is_wide(granule, ds, output_bits, physical_bits))
    }
}
