//! Stage 2: what a hypervisor's VTTBR_EL2 refers to (DDI 0487, D8.2.2, D8.2.8 to D8.2.10, D8.4.2).

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, EntryOf, Format, Geometry, Groups, Mark, Pattern, Record, SecondStage,
    Shortcuts, Step, Unencodable, Words,
};
use pgtable::{Access, AccessKind, Cause, Gpa, Hpa, Level, Position, Privilege, Stage2};

use crate::registers::Processor;
use crate::shape::{Granule, MOST_LEVELS, Shape, ShapeError, TABLE, VALID, arm_level};
use crate::stage1_controls::input_limits;
use crate::stage2_attributes::{
    AF, CLEAN, DBM, READ, SH, SOFTWARE, Stage2Attributes, WRITE, XN, XNX,
};
use crate::syndrome::{Esr, FaultKind, FaultStatus, kind_of};

/// A root may be 16 granules: four index bits more than another table.
const CONCATENATED: u8 = 4;

/// The hypervisor's state that takes part in stage-2 translation.
///
/// Fields are public: `Stage2Controls { xnx: false, ..Stage2Controls::new() }`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Stage2Controls {
    /// VTCR_EL2.TG0.
    pub granule: Granule,
    /// 64 − VTCR_EL2.T0SZ: how many bits a guest-physical address has.
    pub input_bits: u8,
    /// The level of the root in Arm's numbering, −1 to 3: VTCR_EL2.SL0 and SL2.
    /// [`with_input`](Self::with_input) has the usual one.
    pub start_level: i8,
    /// VTCR_EL2.PS, at most what the processor has: 32, 36, 40, 42, 44, 48 or 52.
    pub output_bits: u8,
    /// The processor's physical address bits (PARange). With 52 (FEAT_LPA) and 64-KiB granules,
    /// descriptors hold address bits 51:48, and level 1 has blocks.
    pub physical_bits: u8,
    /// VTCR_EL2.DS (FEAT_LPA2): 52-bit addresses with 4-KiB and 16-KiB granules. Nothing with
    /// 64-KiB granules.
    pub ds: bool,
    /// FEAT_TTST: input addresses of 16 bits (64-KiB granules: 17) or more instead of 25.
    pub small_tables: bool,
    /// Trees of this value have groups of contiguous leaves: 16 with 4-KiB granules, 128 pages or
    /// 32 blocks with 16-KiB granules, 32 with 64-KiB granules (D8.7.1). Without, the hint is
    /// neither made nor looked at: right for walks, and for changes of trees that have no such
    /// hint.
    pub contiguous: bool,
    /// VTCR_EL2.HA: hardware sets the access flag.
    pub ha: bool,
    /// VTCR_EL2.HD: hardware manages dirty state, if it sets the access flag.
    pub hd: bool,
    /// FEAT_XNX: pages may be executable at one of EL1 and EL0 only.
    pub xnx: bool,
    /// HCR_EL2.FWB: memory types replace stage 1's.
    pub fwb: bool,
}

impl Stage2Controls {
    /// 4-KiB granules, 40-bit inputs from level 1 on (two root tables), 48-bit outputs; XNX; the
    /// hardware manages neither access flag nor dirty state.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            granule: Granule::K4,
            input_bits: 40,
            start_level: 1,
            output_bits: 48,
            physical_bits: 48,
            ds: false,
            small_tables: false,
            contiguous: false,
            ha: false,
            hd: false,
            xnx: true,
            fwb: false,
        }
    }

    /// The same on `processor`: physical addresses (48 bits of output at most, which need no DS),
    /// small tables, access flag, dirty state, XNX and FWB as it has them.
    ///
    /// ```
    /// use pgtable_aarch64::{Granule, Processor, Stage2Controls, VmsaStage2};
    ///
    /// // ID_AA64MMFR0 to 2, ID_AA64ISAR1 and 2: here of a Cortex-A53, with 40 bits.
    /// let processor = Processor::from_id([0x1122, 0, 0], [0; 2]);
    /// let controls = Stage2Controls::new().on(&processor).with_input(Granule::K4, 40);
    /// assert!(!controls.ha && !controls.xnx);
    /// assert_eq!(VmsaStage2::new(controls)?.vtcr().ps(), 2);
    /// # Ok::<(), pgtable_aarch64::ShapeError>(())
    /// ```
    #[must_use]
    pub const fn on(self, processor: &Processor) -> Self {
        Self {
            output_bits: processor.narrow_output_bits(),
            physical_bits: processor.physical_bits,
            small_tables: processor.small_tables,
            ha: processor.access_flag,
            hd: processor.dirty_state,
            xnx: processor.xnx,
            fwb: processor.fwb,
            ..self
        }
    }

    /// The same with other addresses, from the start level with the fewest levels: up to 16 root
    /// tables instead of another level.
    #[must_use]
    pub const fn with_input(self, granule: Granule, input_bits: u8) -> Self {
        let start_level = 4 - granule.levels(input_bits.saturating_sub(CONCATENATED)) as i8;
        // With 4-KiB granules, SL0 says level 3 with FEAT_TTST only.
        let no_level_3 = matches!(granule, Granule::K4) && !self.small_tables;
        let start_level = if no_level_3 && start_level == 3 { 2 } else { start_level };
        Self { granule, input_bits, start_level, ..self }
    }
}

impl Default for Stage2Controls {
    fn default() -> Self {
        Self::new()
    }
}

/// The tables that VTTBR_EL2 refers to, as a processor with these [`Stage2Controls`] reads them.
///
/// The privilege of an access is the exception level that makes it: EL1 or EL0. Order of checks:
/// as in [`VmsaStage1`](crate::VmsaStage1). To fetch instructions from device memory is
/// CONSTRAINED UNPREDICTABLE, and no fault here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmsaStage2 {
    shape: Shape,
    controls: Stage2Controls,
    /// The byte offsets of entries, by level: the root may be larger than another table.
    index_masks: [u64; MOST_LEVELS],
}

impl VmsaStage2 {
    /// Tables under `controls`.
    ///
    /// # Errors
    /// [`ShapeError`]: no tree has such addresses, or a walk cannot start at that level.
    pub const fn new(controls: Stage2Controls) -> Result<Self, ShapeError> {
        let Stage2Controls {
            granule,
            input_bits,
            start_level,
            output_bits,
            physical_bits,
            ds,
            contiguous,
            ..
        } = controls;
        let k64 = matches!(granule, Granule::K64);
        let lpa = physical_bits == 52;
        let wide = if k64 { lpa } else { ds };
        let (min, max) = input_limits(granule, wide, controls.small_tables);
        let max = if physical_bits < max { physical_bits } else { max };
        // The first level of each granule needs so many physical address bits; level −1 and, with
        // 16-KiB granules, level 0 need LPA2; a root at level 3 of 4-KiB granules needs FEAT_TTST
        // (D8.2.8 to D8.2.10).
        let exists = match (granule, start_level) {
            (Granule::K4, -1) | (Granule::K16, 0) => ds,
            (Granule::K4, 0) | (Granule::K64, 1) => physical_bits >= 44,
            (Granule::K16, 1) => physical_bits >= 42,
            (Granule::K4, 3) => controls.small_tables,
            (Granule::K4, 1) | (_, 2 | 3) => true,
            _ => false,
        };
        if !exists {
            return Err(ShapeError::StartLevel { level: start_level, bits: input_bits });
        }
        let levels = (4 - start_level) as u8;
        let below = granule.shift() + granule.stride() * (levels - 1);
        if input_bits <= below || input_bits > below + granule.stride() + CONCATENATED {
            return Err(ShapeError::StartLevel { level: start_level, bits: input_bits });
        }
        match Shape::new(granule, (input_bits, min, max), levels, output_bits, lpa, ds, contiguous)
        {
            Ok(shape) => {
                let mut index_masks = [shape.index_mask(); MOST_LEVELS];
                let root = shape.geometry.root();
                index_masks[root.0 as usize] =
                    Step::index_mask::<AtomicU64>(shape.geometry.width(root));
                Ok(Self { shape, controls, index_masks })
            }
            Err(error) => Err(error),
        }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Stage2Controls {
        &self.controls
    }

    /// The level of the root in Arm's numbering, −1 to 3.
    #[must_use]
    pub const fn start_level(&self) -> i8 {
        arm_level(self.shape.geometry.root())
    }

    /// How many tables of one granule the root consists of: 1 to 16.
    #[must_use]
    pub const fn root_tables(&self) -> u8 {
        let width = self.shape.geometry.width(self.shape.geometry.root());
        1 << width.saturating_sub(self.shape.granule.stride())
    }

    /// Whether hardware manages dirty state: HD counts with HA only.
    #[inline(always)]
    const fn tracks_dirt(&self) -> bool {
        self.controls.ha && self.controls.hd
    }

    /// Whether the leaf `word` allows `access` (D8.4.2).
    const fn allows(&self, word: u64, access: Access) -> bool {
        match access.kind {
            AccessKind::Read => word & READ != 0,
            AccessKind::Write => word & WRITE != 0 || self.tracks_dirt() && word & DBM != 0,
            AccessKind::Fetch => self.executes(word, access.privilege),
        }
    }

    const fn executes(&self, word: u64, privilege: Privilege) -> bool {
        let never = word & XN != 0;
        let only_one = self.controls.xnx && word & XNX != 0;
        match privilege {
            Privilege::User => !never,
            Privilege::Supervisor => never == only_one,
        }
    }

    /// The attributes of the leaf `word`.
    #[inline(always)]
    const fn attributes(&self, mut word: u64) -> Stage2Attributes {
        if !self.tracks_dirt() && word & WRITE == 0 {
            // To this processor the page is read-only.
            word &= !DBM;
        }
        if self.shape.ds {
            word |= SH;
        }
        if !self.controls.xnx {
            word &= !XNX;
        }
        Stage2Attributes::from_word(word, self.controls.fwb)
    }

    /// The leaf with `attributes`, its type and address left out.
    #[inline(always)]
    const fn word(&self, attributes: Stage2Attributes) -> Option<u64> {
        let Some(word) = attributes.to_word(self.controls.fwb) else { return None };
        if !self.tracks_dirt() && word & (WRITE | DBM) == DBM
            || !self.controls.xnx && word & XNX != 0
            || self.shape.ds && word & SH != SH
        {
            return None;
        }
        Some(if self.shape.ds { word & !SH } else { word })
    }
}

impl Format for VmsaStage2 {
    type Stage = Stage2;
    type Attributes = Stage2Attributes;
    type Fault = Esr;
    type Path = ();
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

    #[inline(always)]
    fn offset(&self, address: Gpa) -> Option<u64> {
        let address = address.get();
        (address & !self.shape.input_mask == 0).then_some(address)
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.shape.decode(word, at, |word| self.attributes(word))
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Hpa,
        attributes: Stage2Attributes,
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
        output: Hpa,
        attributes: Stage2Attributes,
        at: Position,
        group: u8,
    ) -> Result<Words, Unencodable> {
        let words = self.leaves(output, attributes, at)?;
        self.shape.group_words(words, output.get(), at, group)
    }

    #[inline(always)]
    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.shape.table(TABLE | VALID, table.get(), width, at)
    }

    /// Break-before-make is owed where memory type, shareability or security change (D8.17.1).
    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        let dirty = Record::set_when(WRITE, Pattern::all_set(DBM)).or(Mark {
            mask: CLEAN,
            recorded: 0,
            when: Pattern::ANY.without(WRITE | DBM),
        });
        Bits {
            present: VALID,
            accessed: Record::set(AF),
            dirty: if self.tracks_dirt() { dirty } else { Record::NONE },
            table: Record::NONE,
            in_place: READ | WRITE | AF | DBM | XNX | XN | SOFTWARE,
        }
    }

    #[inline(always)]
    fn restrict(&self, (): (), _: u64, _: Position) {}

    #[inline(always)]
    fn check(&self, word: u64, at: Position, (): (), access: Access) -> Result<(), Esr> {
        let kind = if word & AF == 0 && !self.controls.ha {
            FaultKind::AccessFlag
        } else if !self.allows(word, access) {
            FaultKind::Permission
        } else {
            return Ok(());
        };
        Err(Esr::abort(FaultStatus::at(kind, Some(at)), access, true))
    }

    /// EL2 takes every stage-2 fault, from EL1 or EL0.
    fn fault(&self, cause: Cause, access: Access, at: Option<Position>, _: u64) -> Esr {
        Esr::abort(FaultStatus::at(kind_of(cause), at), access, true)
    }

    /// Accessed pages that allow the access whatever else they say; addresses that stand in place.
    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let page = self.shape.page();
        let page = match access {
            None => page,
            Some(access) => match access.kind {
                AccessKind::Read => page.with(AF | READ),
                AccessKind::Write => page.with(AF | WRITE),
                AccessKind::Fetch => page.with(AF).without(XN | XNX),
            },
        };
        Some(self.shape.shortcuts(page, self.index_masks))
    }
}

impl SecondStage for VmsaStage2 {
    /// Hardware that records in stage 1's descriptors needs the right to write them.
    #[inline(always)]
    fn guest_table_update(&self) -> Option<Access> {
        Some(Access::WRITE)
    }

    #[inline]
    fn fault_of_guest_table(&self, fault: Esr, access: Access) -> Esr {
        fault.of_stage1_walk(access)
    }
}
