//! What an address means, from registers and memory: for gdb stubs, instruction emulators, crash
//! dumps, nested hypervisors.

use pgtable::format::{Format, Geometry};
use pgtable::vcpu::PagingTree;
use pgtable::{Access, AccessKind, Cause, Fault, Gpa, Gva, Hpa, Privilege, low_bits};

use crate::control_bits::{ControlRegister, RefusedBit, refused};
use crate::registers::{
    Hcr, Processor, Registers, Sctlr, Tcr, TcrEl2, Ttbr, Vtcr, granule0, granule1,
};
use crate::shape::{Granule, ShapeError};
use crate::stage1::VmsaStage1;
use crate::stage1_controls::{Regime, Stage1Controls, VaRange};
use crate::stage2::{Stage2Controls, VmsaStage2};
use crate::syndrome::{Esr, FaultKind, FaultStatus};

/// Registers that this crate does not walk by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A control bit is set that changes translation and is not modelled, or that is reserved.
    #[error("{0} is set, which is not supported")]
    Bit(RefusedBit),
    /// EL1 is AArch32 (HCR_EL2.RW = 0).
    #[error("AArch32 translation is not supported")]
    AArch32,
    /// HCR_EL2.E2H says another regime of EL2 than the one that was asked about: it is 0 for
    /// [`Regime::El2`], and 1 for [`Regime::El20`].
    #[error("HCR_EL2.E2H is {}: EL2 does not have that regime", u8::from(*e2h))]
    E2h {
        /// What it is.
        e2h: bool,
    },
    /// EL0 belongs to the EL2&0 regime (HCR_EL2.E2H and TGE are 1), not to EL1&0.
    #[error("HCR_EL2.E2H and TGE are set: there is no EL1&0 regime")]
    Tge,
    /// TG0 or TG1 is reserved: hardware uses a granule of its choice.
    #[error("the granule of TCR.TG{} is reserved", *range as u8)]
    Granule {
        /// Whose granule.
        range: VaRange,
    },
    /// The second stage's root is beyond the output address size: hardware takes an address size
    /// fault at level 0 for every access.
    #[error("the root table at {root:#x} is beyond the output address size")]
    Root {
        /// The root table's address.
        root: u64,
    },
    /// The address sizes are none that the processor has.
    #[error(transparent)]
    Shape(#[from] ShapeError),
}

impl Unsupported {
    /// The error for the first refused bit.
    fn check(words: &[(ControlRegister, u64)]) -> Result<(), Self> {
        let bit = words.iter().find_map(|&(register, word)| refused(register, word, 0));
        bit.map_or(Ok(()), |bit| Err(Self::Bit(bit)))
    }
}

/// One address range of a regime: its tree, and what counts before a walk of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Half {
    /// The format.
    pub format: VmsaStage1,
    /// The root table.
    pub root: Gpa,
    /// TCR.E0PD*x*: each access of EL0 is a fault.
    pub no_el0: bool,
}

/// How a regime's stage 1 translates at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    regime: Regime,
    /// SCTLR.M = 1, and of EL1&0 HCR_EL2.DC and TGE are 0 (pseudocode `AArch64.S1Enabled`).
    on: bool,
    physical_bits: u8,
    tbi: [bool; 2],
    /// TCR.TBID*x*: TBI*x* does not count for instruction fetches.
    data_only_tbi: [bool; 2],
    /// By [`VaRange`]; `None`: no walks (TCR.EPD*x*), or no such range.
    halves: [Option<Half>; 2],
}

impl Paging {
    /// What `registers` of `regime` say on `processor`. [`CONTROL_BITS`](crate::CONTROL_BITS) lists
    /// what becomes of each bit.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn of(
        regime: Regime,
        registers: Registers,
        processor: &Processor,
    ) -> Result<Self, Unsupported> {
        let Registers { tcr, tcr2, sctlr, hcr, .. } = registers;
        let (el1, el0) = (regime == Regime::El10, regime.has_el0());
        // It says what the other registers' bits mean.
        let e2h = Hcr::from_bits(hcr).e2h();
        if !el1 && e2h != el0 {
            return Err(Unsupported::E2h { e2h });
        }
        Unsupported::check(&[
            (if el0 { ControlRegister::Tcr } else { ControlRegister::TcrEl2 }, tcr),
            (ControlRegister::Tcr2, tcr2),
            (ControlRegister::Sctlr, sctlr),
            (ControlRegister::Hcr, hcr),
        ])?;
        let (sctlr, hcr) = (Sctlr::from_bits(sctlr), Hcr::from_bits(hcr));
        if el1 && !hcr.rw() {
            return Err(Unsupported::AArch32);
        }
        if el1 && is_host(hcr) {
            return Err(Unsupported::Tge);
        }
        let tcr = if el0 { Tcr::from_bits(tcr) } else { tcr_of_el2(tcr) };
        let on = sctlr.m() && !(el1 && (hcr.dc() || hcr.tge()));
        let half = |range, off: bool| {
            let walks = on && !off;
            walks.then(|| Half::of(regime, range, tcr, &registers, processor)).transpose()
        };
        Ok(Self {
            regime,
            on,
            physical_bits: processor.physical_bits,
            tbi: [tcr.tbi0(), tcr.tbi1()],
            data_only_tbi: [processor.tbid && tcr.tbid0(), processor.tbid && tcr.tbid1()],
            halves: [half(VaRange::Lower, tcr.epd0())?, half(VaRange::Upper, tcr.epd1())?],
        })
    }

    /// The tree of an address range: of TTBR0 or TTBR1. `None` while translation is off, and where
    /// there are no walks (TCR.EPD*x*).
    #[must_use]
    pub const fn half(&self, range: VaRange) -> Option<&Half> {
        self.halves[range as usize].as_ref()
    }

    /// The range of an address, as an index: bit 55 selects it (D8.2.4).
    const fn range(&self, gva: Gva) -> usize {
        if self.regime.has_el0() { (gva.get() >> 55 & 1) as usize } else { 0 }
    }

    /// Whether bits 63:56 of an address in `range` do not count.
    const fn ignores_tag(&self, range: usize, fetch: bool) -> bool {
        self.tbi[range] && !(fetch && self.data_only_tbi[range])
    }

    /// The PC after a branch to `gva`: without the tag, if instruction addresses can have one
    /// (D8.8.2).
    #[must_use]
    pub fn branch_target(&self, gva: Gva) -> Gva {
        let range = self.range(gva);
        Gva::new(match (self.ignores_tag(range, true), range) {
            (false, _) => gva.get(),
            (true, 0) => gva.get() & low_bits(56),
            (true, _) => gva.get() | !low_bits(56),
        })
    }
}

/// The tree that translates an access, for [`pgtable::walk::Walker`] or
/// [`pgtable::two_stage::TwoStage`]; or, while translation is off, the guest-physical address.
pub type Tree = PagingTree<VmsaStage1>;

impl Paging {
    /// The tree that translates `access` to `gva`.
    ///
    /// # Errors
    /// What ends the access before a walk begins: an address out of range, EPD, E0PD, a
    /// root beyond the output address size.
    pub fn tree(&self, gva: Gva, access: Access) -> Result<Tree, Fault<VmsaStage1>> {
        let fetch = access.kind == AccessKind::Fetch;
        let user = self.regime.has_el0() && access.privilege == Privilege::User;
        let range = self.range(gva);
        let refused = |kind| {
            let arch = Esr::abort(FaultStatus::at(kind, None), access, user);
            Fault { address: gva, access, cause: Cause::Address, at: None, entry: None, arch }
        };
        if !self.on {
            let counted = if self.ignores_tag(range, fetch) { low_bits(56) } else { u64::MAX };
            let output = gva.get() & counted;
            if output & !low_bits(self.physical_bits) != 0 {
                return Err(refused(FaultKind::AddressSize));
            }
            return Ok(Tree::Off { output: Gpa::new(output), shift: 32 });
        }
        let Some(Half { format, root, no_el0 }) = self.halves[range] else {
            return Err(refused(FaultKind::Translation));
        };
        let plain = format.offset(gva).map(|offset| format.address(offset));
        let tagged = fetch && self.data_only_tbi[range] && plain != Some(gva);
        if plain.is_none() || tagged || no_el0 && user {
            return Err(refused(FaultKind::Translation));
        }
        if root.get() & !low_bits(format.output_bits()) != 0 {
            return Err(refused(FaultKind::AddressSize));
        }
        Ok(Tree::On { format, root, input: gva })
    }
}

/// Whether EL0 is the host's, under EL2&0: then VM and DC count as 0, and EL1&0 is not used.
const fn is_host(hcr: Hcr) -> bool {
    hcr.e2h() && hcr.tge()
}

/// TCR_EL2 with E2H = 0 as a TCR_EL1 whose upper range is off.
const fn tcr_of_el2(tcr: u64) -> Tcr {
    let tcr = TcrEl2::from_bits(tcr);
    Tcr::new()
        .with_epd1(true)
        .with_t0sz(tcr.t0sz())
        .with_tg0(tcr.tg0())
        .with_ips(tcr.ps())
        .with_tbi0(tcr.tbi())
        .with_ha(tcr.ha())
        .with_hd(tcr.hd())
        .with_hpd0(tcr.hpd())
        .with_tbid0(tcr.tbid())
        .with_ds(tcr.ds())
}

impl Half {
    fn of(
        regime: Regime,
        range: VaRange,
        tcr: Tcr,
        registers: &Registers,
        processor: &Processor,
    ) -> Result<Self, Unsupported> {
        let (size, granule, tbi, hpd, e0pd, ttbr) = match range {
            VaRange::Lower => {
                let granule = granule0(tcr.tg0());
                (tcr.t0sz(), granule, tcr.tbi0(), tcr.hpd0(), tcr.e0pd0(), registers.ttbr0)
            }
            VaRange::Upper => {
                let granule = granule1(tcr.tg1());
                (tcr.t1sz(), granule, tcr.tbi1(), tcr.hpd1(), tcr.e0pd1(), registers.ttbr1)
            }
        };
        let granule = granule.ok_or(Unsupported::Granule { range })?;
        let sctlr = Sctlr::from_bits(registers.sctlr);
        let ds = tcr.ds() && processor.has_lpa2(granule, false);
        let controls = Stage1Controls {
            regime,
            range,
            granule,
            input_bits: 64 - size,
            output_bits: processor.output_bits(tcr.ips()),
            physical_bits: processor.physical_bits,
            lva: processor.lva,
            ds,
            small_tables: processor.small_tables,
            contiguous: false,
            ha: tcr.ha() && processor.access_flag,
            hd: tcr.hd() && processor.dirty_state,
            hpd: hpd && processor.hierarchical_disable,
            tbi,
            wxn: sctlr.wxn(),
            pan: registers.pan,
            epan: sctlr.epan() && processor.epan,
        };
        let format = VmsaStage1::new(controls)?;
        let root = Ttbr::from_bits(ttbr).root(processor.wide_roots(granule, ds, tcr.ips()));
        Ok(Self {
            format,
            root: Gpa::new(aligned(root, format.geometry())),
            no_el0: e0pd && processor.e0pd,
        })
    }
}

/// The second stage that VTCR_EL2, VTTBR_EL2 and HCR_EL2 say, and its root; `None` if it is off.
///
/// Its addresses are the host's. Of a VMM's guest that is itself a hypervisor, they are that
/// guest's addresses: its memory is then `GuestTables::<Hpa>`.
///
/// ```
/// use pgtable_aarch64::{Hcr, Processor, Stage2Controls, VmsaStage2, stage2_of};
/// use pgtable::memory::GuestTables;
/// use pgtable::walk::Walker;
/// use pgtable::{Access, Gpa, Hpa};
/// use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};
///
/// # let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)])?;
/// # memory.write_obj(0x47d_u64, GuestAddress(0x2008))?;
/// # let format = VmsaStage2::new(Stage2Controls::new())?;
/// # let (vtcr, vttbr) = (format.vtcr().into_bits(), format.vttbr(Hpa::new(0x2000), 1).into_bits());
/// # let hcr = Hcr::new().with_rw(true).with_vm(true).into_bits();
/// // The guest hypervisor's registers, and its memory.
/// let stage = stage2_of(vtcr, vttbr, hcr, &Processor::MAX)?;
/// let (format, root) = stage.ok_or("no second stage")?;
/// let tables = GuestTables::<Hpa>::new(&memory)?;
/// let walker = Walker::new(format, &tables, root);
/// assert_eq!(walker.translate(Gpa::new(0x4000_1234), Access::READ)?.output, Hpa::new(0x1234));
/// // With the nested guest's own tables: `TwoStage::new(its_format, its_root, walker)`.
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
///
/// # Errors
/// [`Unsupported`].
pub fn stage2_of(
    vtcr: u64,
    vttbr: u64,
    hcr: u64,
    processor: &Processor,
) -> Result<Option<(VmsaStage2, Hpa)>, Unsupported> {
    Unsupported::check(&[(ControlRegister::Vtcr, vtcr), (ControlRegister::Hcr, hcr)])?;
    let (vtcr, hcr) = (Vtcr::from_bits(vtcr), Hcr::from_bits(hcr));
    // DC works as if VM were set too (pseudocode `AArch64.NSS2TTWParams`).
    if !hcr.vm() && !hcr.dc() || is_host(hcr) {
        return Ok(None);
    }
    let reserved = Unsupported::Granule { range: VaRange::Lower };
    let granule = granule0(vtcr.tg0()).ok_or(reserved)?;
    let ds = vtcr.ds() && processor.has_lpa2(granule, true);
    let controls = Stage2Controls {
        granule,
        input_bits: 64 - vtcr.t0sz(),
        start_level: start_level(granule, vtcr.sl0(), ds && vtcr.sl2()),
        output_bits: processor.output_bits(vtcr.ps()),
        physical_bits: processor.physical_bits,
        ds,
        small_tables: processor.small_tables,
        contiguous: false,
        ha: vtcr.ha() && processor.access_flag,
        hd: vtcr.hd() && processor.dirty_state,
        xnx: processor.xnx,
        fwb: hcr.fwb() && processor.fwb,
    };
    let format = VmsaStage2::new(controls)?;
    let root = Ttbr::from_bits(vttbr).root(processor.wide_roots(granule, ds, vtcr.ps()));
    let root = aligned(root, format.geometry());
    if root & !low_bits(controls.output_bits) != 0 {
        return Err(Unsupported::Root { root });
    }
    Ok(Some((format, Hpa::new(root))))
}

/// The root table's address without the bits below its size, which count as 0 (D8.2, the walk's
/// base address; what cores do with them where they are set is CONSTRAINED UNPREDICTABLE).
fn aligned(root: u64, geometry: &Geometry) -> u64 {
    root & !low_bits(geometry.width(geometry.root()) + 3)
}

/// The start level that SL0 and SL2 say ("VTCR_EL2"). Of a reserved pair, a level that there is
/// not.
const fn start_level(granule: Granule, sl0: u8, sl2: bool) -> i8 {
    match (granule, sl0, sl2) {
        (Granule::K4, sl0, true) => -1 - sl0 as i8,
        (Granule::K4, 3, _) => 3,
        (Granule::K4, sl0, _) => 2 - sl0 as i8,
        (_, sl0, _) => 3 - sl0 as i8,
    }
}
