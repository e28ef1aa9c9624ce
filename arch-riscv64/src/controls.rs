//! The hart's state that takes part in translation: mode, status bits, extensions.

/// How many levels the tree has: `satp.MODE`, `vsatp.MODE`, `hgatp.MODE` other than Bare.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Mode {
    /// Three levels, 39-bit virtual addresses; Sv39x4: 41-bit guest-physical addresses.
    #[default]
    Sv39 = 8,
    /// Four levels, 48 bits; Sv48x4: 50 bits.
    Sv48 = 9,
    /// Five levels, 57 bits; Sv57x4: 59 bits.
    Sv57 = 10,
}

impl Mode {
    /// Every mode.
    pub const ALL: [Self; 3] = [Self::Sv39, Self::Sv48, Self::Sv57];

    /// The mode with this encoding of a MODE field. `None`: Bare (0), or no mode of RV64.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            8 => Some(Self::Sv39),
            9 => Some(Self::Sv48),
            10 => Some(Self::Sv57),
            _ => None,
        }
    }

    /// The encoding in a MODE field.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The number of levels.
    #[must_use]
    pub const fn levels(self) -> u8 {
        self as u8 - 5
    }
}

/// What the hart can do with entries, whichever stage they belong to. Everything is off in
/// [`new`](Self::new).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Extensions {
    /// Hardware sets A and D ("Svadu": `menvcfg.ADUE` for satp and hgatp, `henvcfg.ADUE` for
    /// vsatp). Otherwise accesses that need them fault ("Svade").
    pub adue: bool,
    /// Svpbmt: leaves have a memory type (`menvcfg.PBMTE` for satp and hgatp, `henvcfg.PBMTE` for
    /// vsatp). Otherwise these bits are reserved.
    pub pbmte: bool,
    /// Svnapot: 16 entries of the last level may be one leaf of 64 KiB. Otherwise N is reserved.
    pub svnapot: bool,
    /// Svrsw60t59b: bits 60:59 are software's. Otherwise they are reserved.
    pub rsw60t59b: bool,
}

impl Extensions {
    /// None of them: Sv39, Sv48 and Sv57 as of version 1.10 of the manual, with Svade.
    #[must_use]
    pub const fn new() -> Self {
        Self { adue: false, pbmte: false, svnapot: false, rsw60t59b: false }
    }
}

/// What a first stage depends on.
///
/// Fields are public: `Controls { sum: true, ..Controls::new() }`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Controls {
    /// `sstatus.SUM` (`vsstatus.SUM` for vsatp): supervisor mode may load from and store to user
    /// pages.
    pub sum: bool,
    /// `sstatus.MXR` (for vsatp: `vsstatus.MXR` or `sstatus.MXR`): loads from executable pages are
    /// allowed.
    pub mxr: bool,
    /// What entries may say.
    pub extensions: Extensions,
}

impl Controls {
    /// Neither SUM nor MXR, no extensions.
    #[must_use]
    pub const fn new() -> Self {
        Self { sum: false, mxr: false, extensions: Extensions::new() }
    }
}

/// What a guest stage depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct GuestControls {
    /// `sstatus.MXR` of HS-mode: a guest's own loads from executable pages are allowed. Those are
    /// `Access::READ.by_user()`, whichever mode the guest is in: [`SvX4`](crate::SvX4).
    pub mxr: bool,
    /// What entries may say.
    pub extensions: Extensions,
}

impl GuestControls {
    /// No MXR, no extensions.
    #[must_use]
    pub const fn new() -> Self {
        Self { mxr: false, extensions: Extensions::new() }
    }
}
