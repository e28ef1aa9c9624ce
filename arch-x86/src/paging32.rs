//! Stage 1 of 32-bit guests with 4-byte entries: 32-bit paging (SDM §4.3; APM §5.2.1 to §5.2.3).

use core::sync::atomic::AtomicU32;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, FirstStage, Format, Geometry, MAX_LEVELS, Pattern, Shortcuts,
    Step, Unencodable, Words,
};
use pgtable::{Access, Cause, Gpa, Gva, Level, Position, Prot, Stage1, low_bits};

use crate::attributes32::Attributes32;
use crate::controls::Controls;
use crate::entry::{HugePageEntry32, TableEntry};
use crate::page_fault::LongModeFault;
use crate::registers::{Cr0, Cr3, Cr4, Efer, Registers};
use crate::rights::{Judge, rights};
use crate::shape::{PAGE_SHIFT, WIDTH32};
use crate::tree::{Path, Tree};

/// The most physical address bits that a 4-MiB page can have.
const PSE36_BITS: u8 = 40;
const PS: u64 = TableEntry::new().with_ps(true).into_bits();
/// The page directory.
const DIRECTORY: Level = Level(1);

/// Bits 39:32 of an address, where the entry of a 4-MiB page has them.
const fn high_bits(bits: u8) -> u64 {
    HugePageEntry32::new().with_frame_high(bits).into_bits() as u64
}

/// The tables that CR3 refers to while CR4.PAE = 0, as a processor with these [`Controls`] reads
/// them: a page directory and page tables of 1024 entries, pages of 4 KiB and, with CR4.PSE = 1, of
/// 4 MiB; linear addresses of 32 bits.
///
/// Physical addresses have 32 bits, those of 4-MiB pages up to 40 (PSE-36): a part of such a page
/// beyond 4 GiB cannot be unmapped, since no smaller pages map the rest ([`Unencodable`]). There
/// are neither XD nor protection keys, and SMEP alone makes the error code tell fetches. An address
/// of memory that is private or not has no bit for that (APM §15.34.5: all is private).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Paging32 {
    tree: Tree,
    judge: Judge,
    /// The bits of a 4-MiB page's entry that hold bits 39:32 of its address.
    high: u64,
}

impl Paging32 {
    /// Tables under `controls`, of which NXE, protection keys, 1-GiB pages and privacy do not
    /// count.
    #[must_use]
    pub const fn new(controls: Controls) -> Self {
        let controls = Controls { nxe: false, pke: false, pks: false, ..controls };
        let Controls { pse, pse36, maxphyaddr, .. } = controls;
        let most = if maxphyaddr < PSE36_BITS { maxphyaddr } else { PSE36_BITS };
        let high = if pse36 { low_bits(most.saturating_sub(32)) } else { 0 };
        let tree = Tree::bits32(pse);
        Self { tree, judge: Judge::new(controls, &tree), high: high_bits(high as u8) }
    }

    /// The same tables, whose entries for tables have the bits of `entry`:
    /// [`LongMode::with_table_entry`](crate::LongMode::with_table_entry). Its bits from 32 on do
    /// not count.
    #[must_use]
    pub const fn with_table_entry(self, entry: TableEntry) -> Self {
        let entry = TableEntry::from_bits(entry.into_bits() & low_bits(32));
        Self { tree: self.tree.with_table_entry(entry), ..self }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Controls {
        self.judge.controls()
    }

    /// CR3 for the tree whose root table stands at `root`, and the bits of CR0 and CR4 that a vCPU
    /// needs for it. CR3 has no address bits from 32 on: those of `root` do not count.
    #[must_use]
    pub const fn registers(&self, root: Gpa) -> Registers {
        let &Controls { wp, smep, smap, cet, pse, .. } = self.controls();
        Registers {
            cr0: Cr0::new().with_pe(true).with_pg(true).with_wp(wp),
            cr3: Cr3::of(Gpa::new(root.get() & low_bits(32))),
            cr4: Cr4::new().with_pse(pse).with_smep(smep).with_smap(smap).with_cet(cet),
            efer: Efer::new(),
        }
    }

    /// Whether the entry `word` maps a 4-MiB page.
    #[inline(always)]
    const fn is_huge(&self, word: u64, at: Position) -> bool {
        self.controls().pse && at.level.0 == DIRECTORY.0 && word & PS != 0
    }

    /// Where the 4-MiB page of `word` is; `None` if reserved bits are set.
    const fn huge(&self, word: u64) -> Option<Gpa> {
        let entry = HugePageEntry32::from_bits(word as u32);
        let high = high_bits(entry.frame_high());
        if entry.reserved() || high & !self.high != 0 {
            return None;
        }
        let (low, high) = (entry.frame() as u64, entry.frame_high() as u64);
        Some(Gpa::new(high << 32 | low << 22))
    }
}

impl Format for Paging32 {
    type Stage = Stage1;
    type Attributes = Attributes32;
    type Fault = LongModeFault;
    type Path = Path;
    type Word = AtomicU32;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
    }

    #[inline(always)]
    fn offset(&self, address: Gva) -> Option<u64> {
        (address.get() >> 32 == 0).then_some(address.get())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gva {
        Gva::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        if self.is_huge(word, at) && word & TableEntry::new().with_p(true).into_bits() != 0 {
            return match self.huge(word) {
                Some(output) => {
                    Entry::Leaf { output, attributes: Attributes32::from_leaf(word, at.level) }
                }
                None => Entry::Malformed,
            };
        }
        // Without 4-MiB pages PS is ignored.
        let word = if at.level == DIRECTORY { word & !PS } else { word };
        self.tree.decode(word, at, |_| Attributes32::from_leaf(word, at.level))
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Gpa,
        attributes: Attributes32,
        at: Position,
    ) -> Result<Words, Unencodable> {
        if at.level != DIRECTORY {
            return self.tree.leaves(output.get(), attributes.page(), at);
        }
        let output = output.get();
        let high = high_bits((output >> 32) as u8);
        let fits = output & (low_bits(at.shift) | !low_bits(PSE36_BITS)) == 0
            && high & !self.high == 0
            && self.controls().pse;
        match attributes.to_leaf(at.level) {
            Some(word) if fits => {
                let low = output & low_bits(32);
                let count = (low_bits(32) >> at.shift) + 1 - (low >> at.shift);
                Ok(Words { first: word | high | low, step: 1 << at.shift, count })
            }
            _ => Err(Unencodable { at }),
        }
    }

    #[inline(always)]
    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.tree.table(table.get(), width, at)
    }

    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        Bits { in_place: low_bits(32), ..self.tree.bits() }
    }

    #[inline(always)]
    fn restrict(&self, path: Path, word: u64, _: Position) -> Path {
        path.through(word)
    }

    #[inline(always)]
    fn check(
        &self,
        word: u64,
        _: Position,
        path: Path,
        access: Access,
    ) -> Result<(), LongModeFault> {
        self.judge.check(&self.tree, word, path, access)
    }

    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> LongModeFault {
        self.judge.fault(cause, access)
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        let demand = match access {
            Some(_) if !self.judge.is_plain() => return None,
            Some(access) => Some(self.judge.demand(&self.tree, access)),
            None => None,
        };
        let wide = self.tree.shortcuts(demand);
        let narrow = |level: u8, shift: u8| {
            let step = wide.step(level);
            let Pattern { compared, value } = step.usual();
            let usual = Pattern { compared: compared & low_bits(32), value };
            Step::of::<AtomicU32>(shift, WIDTH32, usual, step.field())
        };
        let mut steps = [Step::NONE; MAX_LEVELS];
        steps[0] = narrow(0, PAGE_SHIFT);
        steps[1] = narrow(1, PAGE_SHIFT + WIDTH32);
        Some(Shortcuts::new(2, steps))
    }
}

impl FirstStage for Paging32 {
    fn is_user_page(&self, word: u64, _: Position, path: Path) -> bool {
        path.through(word).is_user_mode()
    }

    fn rights(&self, word: u64, _: Position, path: Path) -> Prot {
        rights(word, path)
    }
}
