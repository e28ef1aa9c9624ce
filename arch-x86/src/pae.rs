//! Stage 1 of 32-bit guests with 8-byte entries: PAE paging (SDM §4.4; APM §5.2.4).

use core::sync::atomic::AtomicU64;

use pgtable::format::{
    Bits, ByteOrder, Entry, EntryOf, FirstStage, Format, Geometry, Pattern, Record, Shortcuts,
    Step, Unencodable, Words,
};
use pgtable::memory::ReadMemory;
use pgtable::{Access, Cause, Gpa, Gva, Position, Prot, Stage1};

use crate::attributes::PageAttributes;
use crate::controls::Controls;
use crate::entry::{Pdpte, TableEntry};
use crate::page_fault::LongModeFault;
use crate::registers::{Cr0, Cr3, Cr3Pae, Cr4, Efer, Registers};
use crate::rights::{Judge, rights};
use crate::shape::{PAGE_SHIFT, PDPT, PDPT_WIDTH, WIDTH, beyond_maxphyaddr};
use crate::tree::{Path, Tree};

/// The tables that CR3 refers to while CR4.PAE = 1 outside long mode, as a processor with these
/// [`Controls`] reads them: a page-directory-pointer table of four entries (32 bytes, aligned to
/// that), page directories, page tables; pages of 4 KiB and 2 MiB; linear addresses of 32 bits.
///
/// A walk reads the four entries in memory, as AMD's processors do for guests under nested paging.
/// Others keep them in registers that a MOV to CR3 loads: [`load_pdptes`](Self::load_pdptes) and
/// [`Paging::with_pdptes`](crate::Paging::with_pdptes). [`TwoStage`] reads them at each walk, which
/// is not what Intel's processors do behind EPT. The entries have neither rights nor an accessed
/// flag. There are no protection keys in this mode, and bits 62:52 of entries are reserved.
///
/// [`TwoStage`]: pgtable::two_stage::TwoStage
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pae {
    tree: Tree,
    judge: Judge,
    /// The bits that are reserved in a PDPTE.
    reserved: u64,
}

/// Four PDPTE registers: what a MOV to CR3 loaded, a VMCS holds, or `KVM_GET_SREGS2` returns.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Pdptes(pub [u64; 4]);

/// Why PDPTE registers cannot be loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PdpteError {
    /// The entry is present and has reserved bits set: the MOV to CR3 takes #GP(0).
    #[error("PDPTE {index} = {word:#x} has reserved bits set")]
    Reserved {
        /// Which entry.
        index: u8,
        /// What it holds.
        word: u64,
    },
    /// The table cannot be read.
    #[error(transparent)]
    Memory(#[from] pgtable::memory::MemoryError),
}

const PRESENT: u64 = Pdpte::new().with_p(true).into_bits();
/// Bit 5, the accessed flag of other entries.
const MARK: u64 = TableEntry::new().with_a(true).into_bits();

impl Pae {
    /// Tables under `controls`, of which protection keys and 1-GiB pages do not count.
    #[must_use]
    pub const fn new(controls: Controls) -> Self {
        let controls = Controls { pke: false, pks: false, ..controls };
        let Controls { nxe, maxphyaddr, privacy, .. } = controls;
        let reserved = Pdpte::new().with_mbz(3).with_mbz_middle(0xf).with_mbz_high(0xfff);
        let tree = Tree::pae(nxe, maxphyaddr, privacy);
        Self {
            tree,
            judge: Judge::new(controls, &tree),
            reserved: reserved.into_bits() | beyond_maxphyaddr(maxphyaddr) & !privacy.mask(),
        }
    }

    /// The same tables, whose page-directory entries for tables have the bits of `entry`:
    /// [`LongMode::with_table_entry`](crate::LongMode::with_table_entry).
    #[must_use]
    pub const fn with_table_entry(self, entry: TableEntry) -> Self {
        Self { tree: self.tree.with_table_entry(entry), ..self }
    }

    /// The same tables, whose entries for tables say that these are private (or not):
    /// [`LongMode::with_private_tables`](crate::LongMode::with_private_tables).
    #[must_use]
    pub const fn with_private_tables(self, private: bool) -> Self {
        Self { tree: self.tree.with_private_tables(private), ..self }
    }

    /// The same tables, in memory of a machine that QEMU emulates in software (TCG): that marks the
    /// PDPTEs it uses in bit 5, which processors reserve (SDM table 4-8). The mark counts for
    /// nothing then. For tools that read images of memory.
    ///
    /// ```
    /// use pgtable_x86::{Controls, Pae, Pdptes};
    ///
    /// let format = Pae::new(Controls::new());
    /// let marked = Pdptes([0x1021, 0, 0, 0]);
    /// assert!(format.check_pdptes(marked).is_err());
    /// assert!(format.with_marked_pdptes().check_pdptes(marked).is_ok());
    /// ```
    #[must_use]
    pub const fn with_marked_pdptes(self) -> Self {
        Self { reserved: self.reserved & !MARK, ..self }
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &Controls {
        self.judge.controls()
    }

    /// CR3 for the tree whose root table stands at `root`, and the bits of CR0, CR4 and EFER that a
    /// vCPU needs for it. CR3 has no address bits from 32 on: those of `root` do not count.
    #[must_use]
    pub const fn registers(&self, root: Gpa) -> Registers {
        let &Controls { wp, smep, smap, nxe, cet, .. } = self.controls();
        Registers {
            cr0: Cr0::new().with_pe(true).with_pg(true).with_wp(wp),
            cr3: Cr3::from_bits(Cr3Pae::of(root).into_bits()),
            cr4: Cr4::new().with_pae(true).with_smep(smep).with_smap(smap).with_cet(cet),
            efer: Efer::new().with_nxe(nxe),
        }
    }

    /// What a MOV to CR3 loads from the table at `root`.
    ///
    /// # Errors
    /// [`PdpteError`].
    pub fn load_pdptes<M: ReadMemory<Gpa>>(
        &self,
        memory: M,
        root: Gpa,
    ) -> Result<Pdptes, PdpteError> {
        let mut words = [0; 4];
        for (index, word) in words.iter_mut().enumerate() {
            let address = Gpa::new(root.get().wrapping_add(index as u64 * 8));
            *word = Self::BYTE_ORDER.swap(memory.load(address)?);
        }
        self.check_pdptes(Pdptes(words))
    }

    /// `registers`, if a processor can hold them.
    ///
    /// # Errors
    /// [`PdpteError::Reserved`].
    pub const fn check_pdptes(&self, registers: Pdptes) -> Result<Pdptes, PdpteError> {
        let mut index = 0;
        while index < registers.0.len() {
            let word = registers.0[index];
            if word & PRESENT != 0 && word & self.reserved != 0 {
                return Err(PdpteError::Reserved { index: index as u8, word });
            }
            index += 1;
        }
        Ok(registers)
    }
}

impl Format for Pae {
    type Stage = Stage1;
    type Attributes = PageAttributes;
    type Fault = LongModeFault;
    type Path = Path;
    type Word = AtomicU64;

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
        if at.level != PDPT {
            return self.tree.decode(word, at, |attributes| attributes);
        }
        match (word & PRESENT != 0, word & self.reserved != 0) {
            (false, _) => Entry::Absent,
            (true, true) => Entry::Malformed,
            (true, false) => {
                Entry::Table { table: Gpa::new(self.tree.address(word)), width: WIDTH }
            }
        }
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Gpa,
        attributes: PageAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.tree.leaves(output.get(), attributes, at)
    }

    #[inline(always)]
    fn table(&self, table: Gpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        let entry = self.tree.table(table.get(), width, at)?;
        Ok(if at.level == PDPT { PRESENT | self.tree.root(table.get()) } else { entry })
    }

    #[inline(always)]
    fn bits(&self, at: Position) -> Bits {
        let bits = self.tree.bits();
        if at.level == PDPT { Bits { table: Record::NONE, ..bits } } else { bits }
    }

    #[inline(always)]
    fn restrict(&self, path: Path, word: u64, at: Position) -> Path {
        if at.level == PDPT { path } else { path.through(word) }
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
        let below = self.tree.shortcuts(demand);
        let root = Step::new(
            PAGE_SHIFT + 2 * WIDTH,
            PDPT_WIDTH,
            Pattern::all_set(PRESENT).without(self.reserved),
            below.step(1).field(),
        );
        let none = Step::NONE;
        Some(Shortcuts::new(3, [below.step(0), below.step(1), root, none, none, none, none, none]))
    }
}

impl FirstStage for Pae {
    fn is_user_page(&self, word: u64, _: Position, path: Path) -> bool {
        path.through(word).is_user_mode()
    }

    fn rights(&self, word: u64, _: Position, path: Path) -> Prot {
        rights(word, path)
    }
}
