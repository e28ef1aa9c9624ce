//! Stage 1: the regimes EL1&0, EL2 and EL2&0 (DDI 0487, D8.1 to D8.4).

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, EntryOf, FirstStage, Format, Geometry, Groups, Mark, Pattern, Record,
    Shortcuts, Unencodable, Words,
};
use pgtable::{Access, AccessKind, Cause, Gpa, Gva, Level, Position, Privilege, Stage1, low_bits};

use crate::descriptor::{Stage1Descriptor, TableDescriptor};
use crate::shape::{Granule, MOST_LEVELS, Shape, ShapeError, TABLE, VALID, arm_level};
use crate::stage1_attributes::{
    AF, ATTRIBUTES, CLEAN, DBM, EL0, GP, NG, PXN, READ_ONLY, SH, SOFTWARE, Stage1Attributes, UXN,
};
use crate::stage1_controls::{Stage1Controls, VaRange, input_limits};
use crate::syndrome::{Esr, FaultKind, FaultStatus, kind_of};

const PXN_TABLE: u64 = TableDescriptor::new().with_pxn_table(true).into_bits();
const UXN_TABLE: u64 = TableDescriptor::new().with_uxn_table(true).into_bits();
const NO_EL0: u64 = TableDescriptor::new().with_no_el0(true).into_bits();
const READ_ONLY_TABLE: u64 = TableDescriptor::new().with_read_only(true).into_bits();
const TABLE_LIMITS: u64 = PXN_TABLE | UXN_TABLE | NO_EL0 | READ_ONLY_TABLE;
/// Every bit of a table descriptor that a format value may choose.
const CHOSEN: u64 = TABLE_LIMITS
    | TableDescriptor::new().with_ignored_low(0x3ff).with_ignored_high(0xff).into_bits()
    | TableDescriptor::new().with_ns_table(true).into_bits();

/// The tables that a TTBR refers to, as a processor with these [`Stage1Controls`] reads them.
///
/// Order of checks: the address is in range; then, level by level from the root, the descriptor is
/// valid and its address within the output size; then, at the leaf, access flag and rights. To
/// fetch instructions from device memory is CONSTRAINED UNPREDICTABLE, and no fault here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmsaStage1 {
    shape: Shape,
    controls: Stage1Controls,
    /// Table descriptors, their address left out.
    table: TableDescriptor,
    /// The bits of an address above those that are translated which count, and what they are.
    above: Pattern,
    /// By privilege and kind of access: the pages that allow it by bits that decide alone.
    pages: [[Pattern; 3]; 2],
    /// The bits of attributes of which READABLE alone is set where they stand in the descriptor as
    /// they are.
    plain: u64,
    /// The attributes that have an encoding.
    needed: Pattern,
    /// DBM and AP\[2\], unless hardware manages dirty state: not both are set then.
    clean: u64,
    /// The attributes that TCR says for all pages: SH with LPA2.
    elsewhere: u64,
}

impl VmsaStage1 {
    /// Tables under `controls`.
    ///
    /// # Errors
    /// [`ShapeError`]: no tree has such addresses.
    pub const fn new(controls: Stage1Controls) -> Result<Self, ShapeError> {
        let Stage1Controls {
            granule,
            input_bits,
            output_bits,
            physical_bits,
            lva,
            ds,
            contiguous,
            ..
        } = controls;
        let lpa = physical_bits == 52;
        let wide = if matches!(granule, Granule::K64) { lva } else { ds };
        let (min, max) = input_limits(granule, wide, controls.small_tables);
        let levels = granule.levels(input_bits);
        match Shape::new(granule, (input_bits, min, max), levels, output_bits, lpa, ds, contiguous)
        {
            Ok(mut shape) => {
                let limits = if controls.hpd { 0 } else { TABLE_LIMITS };
                shape.not_in_tables |= limits;
                let table = TableDescriptor::new().with_valid(true).with_table(true);
                let counted = if controls.tbi { low_bits(56) } else { u64::MAX };
                let above = counted & !shape.input_mask;
                let above = match controls.range {
                    VaRange::Lower => Pattern::ANY.without(above),
                    VaRange::Upper => Pattern::all_set(above),
                };
                let mut needed = Pattern::all_set(Stage1Attributes::READABLE);
                if shape.ds {
                    needed = needed.with(SH);
                }
                if !controls.regime.has_el0() {
                    needed = needed.with(UXN).without(EL0 | NG);
                }
                let clean = if controls.ha && controls.hd { 0 } else { READ_ONLY | DBM };
                let plain = match shape.ds || !controls.regime.has_el0() {
                    true => 0,
                    false => Stage1Attributes::READABLE | clean & READ_ONLY,
                };
                let elsewhere = if shape.ds { SH } else { 0 };
                let pages = [[Pattern::NONE; 3]; 2];
                Ok(Self { shape, controls, table, above, pages, plain, needed, clean, elsewhere }
                    .with_pages())
            }
            Err(error) => Err(error),
        }
    }

    /// The same tables, whose table descriptors have the bits of `table`: limits, NSTable and the
    /// ignored bits. Type and address are set as they have to be. By default they limit nothing.
    #[must_use]
    pub const fn with_table_descriptor(self, table: TableDescriptor) -> Self {
        let word = table.into_bits() & CHOSEN | VALID | TABLE;
        Self { table: TableDescriptor::from_bits(word), ..self }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Stage1Controls {
        &self.controls
    }

    /// The level of the root in Arm's numbering, −1 to 3 (D8.2.8 to D8.2.10).
    #[must_use]
    pub const fn start_level(&self) -> i8 {
        arm_level(self.shape.geometry.root())
    }

    /// The output address size that counts: 48 bits at most without LPA or LPA2.
    #[must_use]
    pub const fn output_bits(&self) -> u8 {
        self.shape.output_bits
    }

    const fn with_pages(mut self) -> Self {
        const ACCESSES: [Access; 3] = [Access::READ, Access::WRITE, Access::FETCH];
        let mut n = 0;
        while n < 3 {
            let (access, kind) = (ACCESSES[n], ACCESSES[n].kind as usize);
            self.pages[Privilege::Supervisor as usize][kind] = self.usual_page(access);
            self.pages[Privilege::User as usize][kind] = self.usual_page(access.by_user());
            n += 1;
        }
        self
    }

    /// Whether hardware manages dirty state: HD counts with HA only.
    #[inline(always)]
    const fn tracks_dirt(&self) -> bool {
        self.controls.ha && self.controls.hd
    }

    /// Whether `word`, below `limits`, may be written by the privilege that may access it.
    #[inline(always)]
    const fn is_writable(&self, word: u64, limits: u64) -> bool {
        let writable = word & READ_ONLY == 0 || self.tracks_dirt() && word & DBM != 0;
        writable && limits & READ_ONLY_TABLE == 0
    }

    /// Whether the leaf `word`, below `limits`, allows `access` (D8.4.1).
    const fn allows(&self, word: u64, limits: u64, access: Access) -> bool {
        let writable = self.is_writable(word, limits);
        let (accessible, writable, executable) = if !self.controls.regime.has_el0() {
            (true, writable, (word & UXN) | (limits & UXN_TABLE) == 0)
        } else {
            let el0 = word & EL0 != 0 && limits & NO_EL0 == 0;
            let user_executes = (word & UXN) | (limits & UXN_TABLE) == 0;
            match access.privilege {
                Privilege::User => (el0, el0 && writable, user_executes),
                Privilege::Supervisor => {
                    let executes = (word & PXN) | (limits & PXN_TABLE) == 0;
                    let pan = self.controls.pan && (el0 || self.controls.epan && user_executes);
                    let data = matches!(access.kind, AccessKind::Fetch) || !pan;
                    // What EL0 can write, EL1 does not execute.
                    (data, data && writable, executes && !(el0 && writable))
                }
            }
        };
        match access.kind {
            AccessKind::Read => accessible,
            AccessKind::Write => writable,
            AccessKind::Fetch => executable && !(self.controls.wxn && writable),
        }
    }

    const fn esr(&self, status: FaultStatus, access: Access) -> Esr {
        let from_el0 =
            self.controls.regime.has_el0() && matches!(access.privilege, Privilege::User);
        Esr::abort(status, access, from_el0)
    }

    /// The attributes of the leaf `word`.
    #[inline(always)]
    const fn attributes(&self, word: u64) -> Stage1Attributes {
        let mut word = word & ATTRIBUTES | self.elsewhere;
        if word & self.clean == READ_ONLY | DBM {
            // To this processor the page is read-only.
            word &= !DBM;
        }
        if !self.controls.regime.has_el0() {
            let never = if word & UXN != 0 { PXN } else { 0 };
            word = word & !(EL0 | NG | PXN) | UXN | never;
        }
        Stage1Attributes::from_word(word)
    }

    /// The leaf with `attributes`, its type and address left out.
    #[inline(always)]
    const fn word(&self, attributes: Stage1Attributes) -> Option<u64> {
        let word = attributes.to_word();
        if word & self.plain == Stage1Attributes::READABLE {
            Some(word)
        } else {
            self.other_word(word)
        }
    }

    #[cold]
    const fn other_word(&self, mut word: u64) -> Option<u64> {
        if !self.needed.fits(word) || word & self.clean == READ_ONLY | DBM {
            return None;
        }
        word &= !self.elsewhere;
        if !self.controls.regime.has_el0() {
            let never = if word & PXN != 0 { UXN } else { 0 };
            word = word & !(PXN | UXN) | EL0 | never;
        }
        Some(word)
    }
}

impl Format for VmsaStage1 {
    type Stage = Stage1;
    type Attributes = Stage1Attributes;
    type Fault = Esr;
    /// The limits that any table descriptor on the way sets.
    type Path = u64;
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;
    const GROUPS: Groups = Groups::Apart;
    const FAULT_SAYS_LEVEL: bool = true;

    fn level_number(level: Level) -> i8 {
        arm_level(level)
    }

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        &self.shape.geometry
    }

    /// The bits above the input address are all 0 in the lower range and all 1 in the upper one;
    /// with TBI, bits 63:56 do not count (D8.2.4, D8.8).
    #[inline(always)]
    fn offset(&self, address: Gva) -> Option<u64> {
        let offset = address.get() & self.shape.input_mask;
        self.above.fits(address.get()).then_some(offset)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gva {
        Gva::new(match self.controls.range {
            VaRange::Lower => offset,
            VaRange::Upper => offset | !self.shape.input_mask,
        })
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.shape.decode(word, at, |word| self.attributes(word))
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Gpa,
        attributes: Stage1Attributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.shape.leaves(self.word(attributes), output.get(), at)
    }

    #[inline(always)]
    fn group(&self, word: u64, at: Position) -> u8 {
        self.shape.group(word, at)
    }

    fn group_leaves(
        &self,
        output: Gpa,
        attributes: Stage1Attributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let words = self.leaves(output, attributes, at)?;
        self.shape.group_words(words, output.get(), at, group)
    }

    #[inline(always)]
    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.shape.table(self.table.into_bits(), table.get(), width, at)
    }

    /// Break-before-make is owed where memory type, shareability, security, or the scope of the
    /// translation change (D8.17.1).
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        const IN_PLACE: u64 = EL0 | READ_ONLY | AF | DBM | PXN | UXN | SOFTWARE | GP;
        let dirty = Record::cleared_when(READ_ONLY, Pattern::all_set(DBM)).or(Mark {
            mask: CLEAN,
            recorded: 0,
            when: Pattern::all_set(READ_ONLY).without(DBM),
        });
        Bits {
            present: VALID,
            accessed: Record::set(AF),
            dirty: if self.tracks_dirt() { dirty } else { Record::NONE },
            table: Record::NONE,
            in_place: IN_PLACE,
        }
    }

    #[inline(always)]
    fn restrict(&self, limits: u64, word: u64, _: Position) -> u64 {
        if self.controls.hpd { limits } else { limits | word & TABLE_LIMITS }
    }

    #[inline(always)]
    fn check(&self, word: u64, at: Position, limits: u64, access: Access) -> Result<(), Esr> {
        let kind = if word & AF == 0 && !self.controls.ha {
            FaultKind::AccessFlag
        } else if !self.allows(word, limits, access) {
            FaultKind::Permission
        } else {
            return Ok(());
        };
        Err(self.esr(FaultStatus::at(kind, Some(at)), access))
    }

    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, _: u64) -> Esr {
        self.esr(FaultStatus::at(kind_of(cause), at), access)
    }

    /// Tables that limit nothing; accessed pages that allow the access whatever else they say;
    /// addresses that stand in place.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let page = match access {
            None => self.shape.page(),
            Some(Access { kind, privilege }) => self.pages[privilege as usize][kind as usize],
        };
        // Offsets have no more bits than the root's index.
        Some(self.shape.shortcuts(page, [self.shape.index_mask(); MOST_LEVELS]))
    }
}

impl VmsaStage1 {
    /// Accessed pages that allow `access`, by bits that decide alone.
    const fn usual_page(&self, access: Access) -> Pattern {
        let Stage1Controls { pan, epan, wxn, regime, .. } = self.controls;
        let page = self.shape.page().with(AF);
        let fetch = matches!(access.kind, AccessKind::Fetch);
        let page = match access.kind {
            AccessKind::Write => page.without(READ_ONLY),
            // Not writable, so WXN does not count.
            AccessKind::Fetch if wxn && self.tracks_dirt() => page.with(READ_ONLY).without(DBM),
            AccessKind::Fetch if wxn => page.with(READ_ONLY),
            AccessKind::Read | AccessKind::Fetch => page,
        };
        match (access.privilege, fetch) {
            (_, true) if !regime.has_el0() => page.without(UXN),
            (_, false) if !regime.has_el0() => page,
            (Privilege::User, true) => page.without(UXN),
            (Privilege::User, false) => page.with(EL0),
            (Privilege::Supervisor, true) => page.without(PXN | EL0),
            (Privilege::Supervisor, false) if pan && epan => page.without(EL0).with(UXN),
            (Privilege::Supervisor, false) if pan => page.without(EL0),
            (Privilege::Supervisor, false) => page,
        }
    }
}

impl FirstStage for VmsaStage1 {
    fn is_user_page(&self, word: u64, _: Position, limits: u64) -> bool {
        self.controls.regime.has_el0()
            && Stage1Descriptor::from_bits(word).el0()
            && limits & NO_EL0 == 0
    }
}
