//! How a hart translates at the moment, from its registers: for gdb stubs, instruction emulators,
//! crash dumps. No ioctl, no exit, and the trap that the guest would take instead of a bare "no".

use pgtable::bytes::Translate;
use pgtable::memory::ReadMemory;
use pgtable::{Access, AccessKind, Fault, Gpa, Gva, Hpa, Privilege};

use crate::control_bits::{ControlRegister, RefusedBit, refused};
use crate::controls::{Controls, Extensions, GuestControls, Mode};
use crate::format::{Sv, SvX4};
use crate::paging_walker::VirtualTranslation;
use crate::pointer_mask::PointerMask;
use crate::registers::{Envcfg, Hgatp, Satp, Status};

/// A state that this crate does not walk.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unsupported {
    /// A control bit is set that changes translation and is not modelled, or that is reserved.
    #[error("{0} is set, which is not supported")]
    Bit(RefusedBit),
    /// The MODE field of satp, vsatp or hgatp has a value that is no mode of RV64.
    #[error("mode {1} of {0} is not supported")]
    Mode(ControlRegister, u8),
    /// MODE says Bare and another field is not 0: the manual leaves open how such a register
    /// translates ("Supervisor Address Translation and Protection Register", "Hypervisor Guest
    /// Address Translation and Protection Register").
    #[error("{0} is Bare with other fields set: how it translates is UNSPECIFIED")]
    Bare(ControlRegister),
    /// A PMM field has the reserved value.
    #[error("pointer masking (PMM) of {0} has a reserved value")]
    PointerMask(ControlRegister),
}

/// Why a guest's address has no guest-physical one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GvaError {
    /// The guest would take this fault.
    #[error(transparent)]
    Fault(#[from] Fault<Sv>),
    /// The hart is in a state that this crate does not walk.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
}

/// The registers of a hart that take part in translation, as raw values.
///
/// A VMM has its guest's registers as the guest sees them (`KVM_GET_ONE_REG`): its `satp`,
/// `sstatus` and `senvcfg`; `menvcfg` is then what the host lets the guest do (henvcfg). Whoever
/// runs at HS-mode has both stages' registers: [`GuestPaging::of`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Registers {
    /// satp.
    pub satp: u64,
    /// sstatus. mstatus.SBE, which it does not show, must be 0: tables are little-endian.
    pub sstatus: u64,
    /// menvcfg.
    pub menvcfg: u64,
    /// senvcfg.
    pub senvcfg: u64,
    /// vsatp.
    pub vsatp: u64,
    /// vsstatus.
    pub vsstatus: u64,
    /// hgatp.
    pub hgatp: u64,
    /// hstatus.
    pub hstatus: u64,
    /// henvcfg. Its ADUE and PBMTE count only where menvcfg has them too.
    pub henvcfg: u64,
}

/// Refuses what is not modelled.
fn accept(words: &[(ControlRegister, u64)]) -> Result<(), Unsupported> {
    let bit = words.iter().find_map(|&(register, word)| refused(register, word, 0));
    bit.map_or(Ok(()), |bit| Err(Unsupported::Bit(bit)))
}

/// The mode of satp, vsatp or hgatp, whose MODE is `code`; `None`: Bare.
fn mode(register: ControlRegister, word: u64, code: u8) -> Result<Option<Mode>, Unsupported> {
    match (code, Mode::from_code(code)) {
        (0, _) if word != 0 => Err(Unsupported::Bare(register)),
        (0, _) => Ok(None),
        (_, Some(mode)) => Ok(Some(mode)),
        (_, None) => Err(Unsupported::Mode(register, code)),
    }
}

fn mask(register: ControlRegister, envcfg: Envcfg) -> Result<PointerMask, Unsupported> {
    PointerMask::from_code(envcfg.pmm()).ok_or(Unsupported::PointerMask(register))
}

/// How a hart translates virtual addresses: its first stage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging {
    /// The format and the root table; `None`: Bare.
    tables: Option<(Sv, Gpa)>,
    supervisor: PointerMask,
    user: PointerMask,
}

impl Paging {
    /// The first stage in S-mode (or HS-mode) and U-mode: satp, sstatus, menvcfg and senvcfg.
    ///
    /// `hart` supplies what registers do not say: Svnapot, Svrsw60t59b; `adue` for a hart that
    /// always updates A and D (an early one without Svade and Svadu); `adue` and `pbmte` for a vCPU
    /// whose henvcfg cannot be read (KVM sets PBMTE for a guest with Svpbmt, and ADUE for one with
    /// Svadu and without Svade). Where `hart` has one of these two, the registers' bit does not
    /// count. [`CONTROL_BITS`](crate::CONTROL_BITS) lists what becomes of each bit.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn of(registers: &Registers, hart: Extensions) -> Result<Self, Unsupported> {
        let &Registers { satp, sstatus, menvcfg, senvcfg, .. } = registers;
        accept(&[(ControlRegister::Menvcfg, menvcfg)])?;
        let envcfg = (ControlRegister::Menvcfg, Envcfg::from_bits(menvcfg));
        Self::first(satp, sstatus, false, envcfg, senvcfg, hart)
    }

    /// The first stage in VS-mode and VU-mode alone: vsatp, vsstatus, henvcfg and senvcfg, and
    /// sstatus.MXR.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn of_guest(registers: &Registers, hart: Extensions) -> Result<Self, Unsupported> {
        let &Registers { sstatus, menvcfg, senvcfg, vsatp, vsstatus, hstatus, henvcfg, .. } =
            registers;
        accept(&[
            (ControlRegister::Hstatus, hstatus),
            (ControlRegister::Henvcfg, henvcfg),
            (ControlRegister::Sstatus, sstatus),
        ])?;
        let [own, above] = [henvcfg, menvcfg].map(Envcfg::from_bits);
        let own =
            own.with_adue(own.adue() && above.adue()).with_pbmte(own.pbmte() && above.pbmte());
        let envcfg = (ControlRegister::Henvcfg, own);
        let mxr = Status::from_bits(sstatus).mxr();
        Self::first(vsatp, vsstatus, mxr, envcfg, senvcfg, hart)
    }

    fn first(
        satp: u64,
        status: u64,
        mxr: bool,
        (register, envcfg): (ControlRegister, Envcfg),
        senvcfg: u64,
        hart: Extensions,
    ) -> Result<Self, Unsupported> {
        accept(&[
            (ControlRegister::Satp, satp),
            (ControlRegister::Sstatus, status),
            (ControlRegister::Senvcfg, senvcfg),
        ])?;
        let mode = mode(ControlRegister::Satp, satp, Satp::from_bits(satp).mode())?;
        let (satp, status) = (Satp::from_bits(satp), Status::from_bits(status));
        let controls = Controls {
            sum: status.sum(),
            mxr: mxr || status.mxr(),
            extensions: envcfg.extensions(hart),
        };
        let supervisor = mask(register, envcfg)?;
        let user = mask(ControlRegister::Senvcfg, Envcfg::from_bits(senvcfg))?;
        // Under MXR no address is masked, paged or not.
        let [supervisor, user] = match controls.mxr {
            true => [PointerMask::Off; 2],
            false => [supervisor, user],
        };
        let tables = mode.map(|mode| (Sv::new(mode, controls), satp.root()));
        Ok(Self { tables, supervisor, user })
    }

    /// The same for HLVX, which a hypervisor's loads of instructions are: they need X instead of
    /// R, and no address is masked ("Hypervisor Virtual-Machine Load and Store Instructions").
    #[must_use]
    pub const fn for_hlvx(self) -> Self {
        let tables = match self.tables {
            Some((format, root)) => Some((format.for_hlvx(), root)),
            None => None,
        };
        Self { tables, supervisor: PointerMask::Off, user: PointerMask::Off }
    }

    /// The format and the root table; `None` while addresses are not translated (Bare).
    #[must_use]
    pub const fn tables(&self) -> Option<(Sv, Gpa)> {
        self.tables
    }

    /// The address that `access` to `gva` uses: after pointer masking.
    #[inline]
    #[must_use]
    pub const fn masked(&self, gva: Gva, access: Access) -> Gva {
        let mask = match (access.kind, access.privilege) {
            (AccessKind::Fetch, _) => PointerMask::Off,
            (_, Privilege::Supervisor) => self.supervisor,
            (_, Privilege::User) => self.user,
        };
        Gva::new(mask.apply(gva.get(), self.tables.is_none()))
    }

    /// Translates one access, with the page tables in `memory`. Nothing is recorded; for bytes, a
    /// debugger's view, or A and D see [`walker`](Self::walker).
    ///
    /// # Errors
    /// The fault that the hart would take.
    pub fn translate<M: ReadMemory<Gpa>>(
        &self,
        memory: M,
        gva: Gva,
        access: Access,
    ) -> Result<VirtualTranslation, Fault<Sv>> {
        self.walker(memory).translate(gva, access)
    }
}

/// How a hart translates in VS-mode and VU-mode: both stages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuestPaging {
    /// The guest's own stage.
    pub first: Paging,
    /// The format and the root table of the guest stage; `None`: Bare.
    pub second: Option<(SvX4, Hpa)>,
}

impl GuestPaging {
    /// Both stages, from all registers but satp: [`Paging::of_guest`], and hgatp with menvcfg.
    ///
    /// # Errors
    /// [`Unsupported`].
    pub fn of(registers: &Registers, hart: Extensions) -> Result<Self, Unsupported> {
        let first = Paging::of_guest(registers, hart)?;
        let &Registers { sstatus, menvcfg, hgatp, .. } = registers;
        // Shadow stacks of HS-mode do not change a guest stage's entries.
        let menvcfg = Envcfg::from_bits(menvcfg).with_sse(false);
        accept(&[
            (ControlRegister::Menvcfg, menvcfg.into_bits()),
            (ControlRegister::Hgatp, hgatp),
        ])?;
        let mode = mode(ControlRegister::Hgatp, hgatp, Hgatp::from_bits(hgatp).mode())?;
        let hgatp = Hgatp::from_bits(hgatp);
        let controls = GuestControls {
            mxr: Status::from_bits(sstatus).mxr(),
            extensions: menvcfg.extensions(hart),
        };
        let second = mode.map(|mode| (SvX4::new(mode, controls), hgatp.root()));
        Ok(Self { first, second })
    }

    /// The same for HLVX: [`Paging::for_hlvx`] of both stages.
    #[must_use]
    pub const fn for_hlvx(self) -> Self {
        let second = match self.second {
            Some((format, root)) => Some((format.for_hlvx(), root)),
            None => None,
        };
        Self { first: self.first.for_hlvx(), second }
    }
}

/// The guest-physical address that a hart with these registers reaches by `access` to `gva` in
/// S-mode or U-mode, its page tables being in `memory`.
///
/// For a hart without Svnapot and Svrsw60t59b; [`Paging::of`] takes another. Nothing is written: A
/// and D stay as they are.
///
/// # Errors
/// [`GvaError`].
pub fn gva_to_gpa<M: ReadMemory<Gpa>>(
    registers: &Registers,
    memory: M,
    gva: Gva,
    access: Access,
) -> Result<Gpa, GvaError> {
    let paging = Paging::of(registers, Extensions::new())?;
    Ok(paging.translate(memory, gva, access)?.output)
}
