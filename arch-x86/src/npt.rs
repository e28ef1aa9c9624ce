//! Stage 2 on AMD: nested paging (APM §15.25), whose words have the long-mode layout.
//!
//! Every guest access is a user-mode access to these tables, so U/S stands in every entry; the
//! guest's CR0.WP, SMEP, SMAP and protection keys do not apply, and the address is not
//! sign-extended.

use core::fmt;
use core::sync::atomic::AtomicU64;

use bitfield_struct::bitfield;
use pgtable::format::{
    Bits, ByteOrder, EntryOf, Format, Geometry, SecondStage, Shortcuts, Unencodable, Words,
};
use pgtable::{Access, AccessKind, Attributes, Cause, Gpa, Hpa, Memory, Position, Prot, Stage2};

use crate::attributes::PageAttributes;
use crate::controls::Levels;
use crate::entry::TableEntry;
use crate::page_fault::PageFaultCode;
use crate::privacy::Privacy;
use crate::tree::{Demand, Path, Tree};

/// The host's state that takes part in nested translation.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NptControls {
    /// The host's EFER.NXE: bit 63 of an entry disables execution; without it that bit is reserved.
    pub nxe: bool,
    /// CPUID.80000001H:EDX.Page1GB.
    pub gib_pages: bool,
    /// Bits 7:0 of CPUID.80000008H:EAX: physical address bits from here on are reserved. 52 at
    /// most.
    pub maxphyaddr: u8,
    /// The host's C-bit, where memory encryption (SME) is enabled. The guest's own C-bit does not
    /// reach these tables (APM §15.34.6).
    pub privacy: Privacy,
}

impl NptControls {
    /// NXE on, 1-GiB pages, 52 bits of physical address.
    #[must_use]
    pub const fn new() -> Self {
        Self { nxe: true, gib_pages: true, maxphyaddr: 52, privacy: Privacy::None }
    }

    /// The same on a host with memory encryption enabled: the C-bit and the physical address bits
    /// that it costs, from EBX of CPUID function 8000001FH.
    #[must_use]
    pub const fn with_memory_encryption(self, ebx: u32) -> Self {
        let privacy = match Privacy::of_cpuid(ebx) {
            Some(privacy) => privacy,
            None => Privacy::None,
        };
        let maxphyaddr = self.maxphyaddr.saturating_sub(Privacy::reduction(ebx));
        Self { maxphyaddr, privacy, ..self }
    }
}

impl Default for NptControls {
    fn default() -> Self {
        Self::new()
    }
}

/// Leaf attributes in nested paging. [`Prot::user`] means nothing here.
///
/// The memory type is combined with the guest's own (APM §15.25.8).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct NptAttributes {
    page: PageAttributes,
}

impl NptAttributes {
    /// The same page with another memory type: an index into the host's PAT. Only the low three
    /// bits of `index` count.
    #[must_use]
    pub const fn with_pat(self, index: u8) -> Self {
        Self { page: self.page.with_pat(index) }
    }

    /// The index into the host's PAT.
    #[must_use]
    pub const fn pat(self) -> u8 {
        self.page.pat()
    }

    /// The same page with these software bits, ten of them: [`PageAttributes::with_software`].
    #[must_use]
    pub const fn with_software(self, bits: u16) -> Self {
        Self { page: self.page.with_software(bits) }
    }

    /// The software bits.
    #[must_use]
    pub const fn software(self) -> u16 {
        self.page.software()
    }

    /// The same page, encrypted with the host's key or not, by the host's C-bit.
    #[must_use]
    pub const fn with_private(self, privacy: Privacy, private: bool) -> Self {
        Self { page: self.page.with_private(privacy, private) }
    }

    /// Whether it is encrypted.
    #[must_use]
    pub const fn is_private(self, privacy: Privacy) -> bool {
        self.page.is_private(privacy)
    }

    /// The same page, accessed or not.
    #[must_use]
    pub const fn with_accessed(self, accessed: bool) -> Self {
        Self { page: self.page.with_accessed(accessed) }
    }

    /// Whether it is marked accessed.
    #[must_use]
    pub const fn accessed(self) -> bool {
        self.page.accessed()
    }

    /// The same page, dirty or not.
    #[must_use]
    pub const fn with_dirty(self, dirty: bool) -> Self {
        Self { page: self.page.with_dirty(dirty) }
    }

    /// Whether it is marked dirty.
    #[must_use]
    pub const fn dirty(self) -> bool {
        self.page.dirty()
    }
}

impl From<Prot> for NptAttributes {
    fn from(prot: Prot) -> Self {
        Self { page: prot.for_user().into() }
    }
}

impl Attributes for NptAttributes {
    /// Nothing at all for a leaf with U/S = 0, which no guest can access.
    fn prot(&self) -> Prot {
        let prot = self.page.prot();
        if prot.user() { prot.with_user(false) } else { Prot::new() }
    }

    fn with_prot(self, prot: Prot) -> Self {
        if prot == self.prot() {
            return self;
        }
        Self { page: self.page.with_prot(prot.for_user()) }
    }

    fn memory(&self) -> Memory {
        self.page.memory()
    }

    fn with_memory(self, memory: Memory) -> Self {
        Self { page: self.page.with_memory(memory) }
    }
}

/// EXITINFO1 of a nested page fault, `VMEXIT_NPF` (APM §15.25.6). EXITINFO2 is the address of the
/// [`pgtable::Fault`] that carries it.
///
/// A walk knows one stage, and takes the access for the guest's final one. When the access was a
/// guest's page-table walk, say so: [`of_guest_table`](Self::of_guest_table).
#[bitfield(u64)]
#[derive(PartialEq, Eq, Hash)]
pub struct NestedPageFault {
    /// The error code, as of #PF: U/S is always set; neither PK nor HLAT nor SGX is.
    #[bits(32)]
    pub code: PageFaultCode,
    /// The access was to the guest's final physical address.
    pub final_address: bool,
    /// The access was to a guest page table.
    pub guest_table: bool,
    /// SNP: the page's encryption is not what the guest's is. A walk never sets it.
    pub enc: bool,
    /// SNP: the page's size is not the reverse map's. A walk never sets it.
    pub sizem: bool,
    /// SNP: the VM privilege level forbids the access. A walk never sets it.
    pub vmpl: bool,
    /// The leaf is a supervisor shadow-stack page. A walk never sets it.
    pub sss: bool,
    #[bits(26)]
    __: u32,
}

impl NestedPageFault {
    /// The access that nested paging must allow, for [`fault_in`]; the guest-physical address is
    /// EXITINFO2. All accesses are a user's, and a guest's page-table walk is judged as a write
    /// (APM §15.25.5).
    ///
    /// ```
    /// use pgtable_x86::NestedPageFault;
    /// use pgtable::Access;
    ///
    /// // In the exit handler, for VMEXIT_NPF: EXITINFO1.
    /// let fault = NestedPageFault::from_bits(0x1_0000_0014);
    /// assert_eq!(fault.access(), Access::FETCH.by_user());
    /// ```
    ///
    /// [`fault_in`]: pgtable::second_stage::Stage2Tree::fault_in
    #[must_use]
    pub const fn access(self) -> Access {
        if self.guest_table() { Npt::GUEST_TABLE_ACCESS } else { self.code().access().by_user() }
    }

    /// The same fault, met by a guest's page-table walk.
    #[must_use]
    pub const fn of_guest_table(self) -> Self {
        self.with_final_address(false).with_guest_table(true)
    }
}

impl fmt::Display for NestedPageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let access = if self.guest_table() { "guest page table" } else { "final access" };
        write!(f, "NPF exit info {:#x}: {}, {access}", self.into_bits(), self.code())
    }
}

/// The tables that a VMCB's nested CR3 refers to, as an AMD processor in this state reads them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Npt {
    tree: Tree,
    controls: NptControls,
}

impl Npt {
    /// As what access nested paging judges a guest's page-table walk, loads included (APM
    /// §15.25.5).
    pub const GUEST_TABLE_ACCESS: Access = Access::WRITE.by_user();

    /// Tables of `levels` levels (the host's own paging mode) under `controls`.
    #[must_use]
    pub const fn new(levels: Levels, controls: NptControls) -> Self {
        let NptControls { nxe, gib_pages, maxphyaddr, privacy } = controls;
        Self { tree: Tree::new(levels, gib_pages, nxe, maxphyaddr, true, privacy), controls }
    }

    /// The same tables, whose entries for tables have the bits of `entry`:
    /// [`LongMode::with_table_entry`](crate::LongMode::with_table_entry).
    #[must_use]
    pub const fn with_table_entry(self, entry: TableEntry) -> Self {
        Self { tree: self.tree.with_table_entry(entry), ..self }
    }

    /// The same tables, whose entries for tables say that these are encrypted (or not), where the
    /// controls' `privacy` has a C-bit. By default they are.
    #[must_use]
    pub const fn with_private_tables(self, private: bool) -> Self {
        Self { tree: self.tree.with_private_tables(private), ..self }
    }

    /// The nested CR3 for the tree whose root table stands at `root`: its address, with the C-bit
    /// if tables are encrypted.
    #[must_use]
    pub const fn nested_cr3(&self, root: Hpa) -> u64 {
        self.tree.root(root.get())
    }

    /// The controls.
    #[must_use]
    pub const fn controls(&self) -> &NptControls {
        &self.controls
    }

    /// What an access demands: all are a user's (APM §15.25.5).
    #[inline(always)]
    const fn demand(&self, access: Access) -> Demand {
        let write = matches!(access.kind, AccessKind::Write);
        self.tree.user_mode(write, matches!(access.kind, AccessKind::Fetch))
    }

    const fn exit_info(&self, cause: Cause, access: Access) -> NestedPageFault {
        let code = PageFaultCode::of(access.by_user(), self.controls.nxe).because(cause);
        NestedPageFault::new().with_code(code).with_final_address(true)
    }
}

impl Format for Npt {
    type Stage = Stage2;
    type Attributes = NptAttributes;
    type Fault = NestedPageFault;
    type Path = Path;
    type Word = AtomicU64;

    const BYTE_ORDER: ByteOrder = ByteOrder::Little;

    #[inline(always)]
    fn geometry(&self) -> &Geometry {
        self.tree.geometry
    }

    #[inline(always)]
    fn offset(&self, address: Gpa) -> Option<u64> {
        (address.get() & !self.tree.geometry.address_mask() == 0).then_some(address.get())
    }

    #[inline(always)]
    fn address(&self, offset: u64) -> Gpa {
        Gpa::new(offset)
    }

    #[inline(always)]
    fn decode(&self, word: u64, at: Position) -> EntryOf<Self> {
        self.tree.decode(word, at, |page| NptAttributes { page })
    }

    #[inline(always)]
    fn leaves(
        &self,
        output: Hpa,
        attributes: NptAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        self.tree.leaves(output.get(), attributes.page, at)
    }

    #[inline(always)]
    fn table(&self, table: Hpa, width: u8, at: Position) -> Result<u64, Unencodable> {
        self.tree.table(table.get(), width, at)
    }

    #[inline(always)]
    fn bits(&self, _: Position) -> Bits {
        self.tree.bits()
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
    ) -> Result<(), NestedPageFault> {
        if path.through(word).meets(self.demand(access)) {
            Ok(())
        } else {
            Err(self.exit_info(Cause::Denied, access))
        }
    }

    /// An address beyond the tree counts as not mapped.
    fn fault(&self, cause: Cause, access: Access, _: Option<Position>, _: u64) -> NestedPageFault {
        self.exit_info(cause, access)
    }

    #[inline(always)]
    fn shortcuts(&self, access: Option<Access>) -> Option<Shortcuts> {
        Some(self.tree.shortcuts(access.map(|access| self.demand(access))))
    }
}

impl SecondStage for Npt {
    #[inline]
    fn guest_table_access(&self) -> Access {
        Self::GUEST_TABLE_ACCESS
    }

    #[inline]
    fn fault_of_guest_table(&self, fault: NestedPageFault, _: Access) -> NestedPageFault {
        fault.of_guest_table()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pgtable::Level;
    use pgtable::format::Entry;
    extern crate std;
    use std::string::ToString;

    const NPT: Npt = Npt::new(Levels::Four, NptControls::new());
    const AT: Position = Position { level: Level(0), shift: 12 };

    #[test]
    fn guests_are_users() {
        let word = NPT.leaves(Hpa::new(0), Prot::RW.into(), AT).unwrap().first;
        assert_eq!(word, 0x8000_0000_0000_0067);
        let Entry::Leaf { attributes, .. } = NPT.decode(word, AT) else { panic!("a leaf") };
        assert_eq!(attributes, Prot::RW.into());
        assert_eq!(attributes.prot(), Prot::RW);
        let Entry::Leaf { attributes, .. } = NPT.decode(word & !4, AT) else { panic!("a leaf") };
        assert_eq!(attributes.prot(), Prot::new(), "U/S = 0");
    }

    #[test]
    fn exit_info() {
        let (read, write, fetch) = (Access::READ, Access::WRITE, Access::FETCH);
        for (word, access, want) in [
            (0x7, write, None),
            (0x7, read.by_user(), None),
            (0x5, read, None),
            (0x5, write, Some(0x1_0000_0007)),
            (0x3, read, Some(0x1_0000_0005)),
            (1 << 63 | 7, fetch, Some(0x1_0000_0015)),
            (1 << 63 | 7, read, None),
        ] {
            let got =
                NPT.check(word, AT, Path::default(), access).err().map(NestedPageFault::into_bits);
            assert_eq!(got, want, "{access} of {word:#x}");
        }
        for (cause, want) in [
            (Cause::Address, 0x1_0000_0006),
            (Cause::NotPresent, 0x1_0000_0006),
            (Cause::Malformed, 0x1_0000_000f),
            (Cause::TableAccess, 0x1_0000_0006),
        ] {
            assert_eq!(NPT.fault(cause, write, None, 0).into_bits(), want, "{cause:?}");
        }
        let table = NPT.fault(Cause::NotPresent, Npt::GUEST_TABLE_ACCESS, None, 0).of_guest_table();
        assert_eq!(table.into_bits(), 0x2_0000_0006);
        assert_eq!(
            table.to_string(),
            "NPF exit info 0x200000006: user write to a page that is not present, guest page table"
        );
    }

    #[test]
    fn addresses_are_not_sign_extended() {
        for (address, inside) in
            [(0, true), (0xffff_ffff_ffff, true), (1 << 48, false), (u64::MAX, false)]
        {
            assert_eq!(NPT.offset(Gpa::new(address)).is_some(), inside, "{address:#x}");
        }
    }
}
