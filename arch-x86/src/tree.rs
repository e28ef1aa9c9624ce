//! The tree of the long-mode layout: what stage 1, PAE paging included, and AMD's nested paging
//! have in common.
//!
//! Everything here is about words; who may do what with a page is the formats' affair.

use pgtable::format::{Bits, Entry, Geometry, Pattern, Record, Shortcuts, Unencodable, Words};
use pgtable::{Address, Level, Position, low_bits};

use crate::attributes::PageAttributes;
use crate::controls::Levels;
use crate::entry::{PageEntry, TableEntry};
use crate::privacy::Privacy;
use crate::shape::{
    PAGE_SHIFT, WIDTH, WIDTH32, address_bits, beyond_maxphyaddr, geometry, geometry32,
    pae_geometry, shortcuts, words,
};

// A walk tests and makes whole words: the fields' masks, computed once, at compile time. (The
// accessors of a bitfield are functions of this crate that another crate's walk may not have
// inlined.)
const PRESENT: u64 = TableEntry::new().with_p(true).into_bits();
const PS: u64 = TableEntry::new().with_ps(true).into_bits();
const RW: u64 = TableEntry::new().with_rw(true).into_bits();
const US: u64 = TableEntry::new().with_us(true).into_bits();
const XD: u64 = TableEntry::new().with_xd(true).into_bits();

/// `mask` if it is wanted.
#[inline(always)]
const fn when(wanted: bool, mask: u64) -> u64 {
    if wanted { mask } else { 0 }
}

/// What the entries on the way to a leaf grant: each right has to be granted by all of them (SDM
/// §4.6.1).
///
/// The bits stand where they stand in an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// RW and US are set if all entries have them set.
    granted: u64,
    /// XD is set if any entry has it set.
    forbidden: u64,
}

impl Default for Path {
    /// Before the first entry, nothing is denied.
    #[inline(always)]
    fn default() -> Self {
        Self { granted: RW | US, forbidden: 0 }
    }
}

impl Path {
    /// The path, continued through the entry `word`, whether it is a table's or a leaf.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn through(self, word: u64) -> Self {
        Self { granted: self.granted & word, forbidden: self.forbidden | word & XD }
    }

    /// No entry forbids user-mode accesses: the address is a user-mode address.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn is_user_mode(self) -> bool {
        self.granted & US != 0
    }

    /// All entries grant writes.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn is_writable(self) -> bool {
        self.granted & RW != 0
    }

    /// Some entry forbids fetches.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn is_execute_disabled(self) -> bool {
        self.forbidden & XD != 0
    }

    /// Whether the page is what an access demands.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn meets(self, demand: Demand) -> bool {
        !self.granted & (demand.needed | demand.denied) == demand.denied
            && self.forbidden & demand.forbidden == 0
    }
}

/// What an access demands of a page, as one compare: it depends on the access and the controls
/// only, so a loop over addresses computes it once.
#[derive(Clone, Copy)]
pub(crate) struct Demand {
    /// What a path must grant.
    needed: u64,
    /// What it must not grant.
    denied: u64,
    /// What it must not forbid.
    forbidden: u64,
    /// What is compared of usual pages besides.
    pages: u64,
}

/// What control registers make of a supervisor-mode access, computed once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SupervisorMode {
    /// What a store needs.
    store: u64,
    /// Of accesses to data and of fetches: what they must not be granted, and what is compared of
    /// usual pages.
    data: (u64, u64),
    fetch: (u64, u64),
}

impl SupervisorMode {
    #[inline(always)]
    #[must_use]
    pub(crate) const fn demand(self, write: bool, execute: bool) -> Demand {
        let (denied, pages) = if execute { self.fetch } else { self.data };
        let needed = if write { self.store } else { 0 };
        Demand { needed, denied, forbidden: when(execute, XD), pages }
    }
}

/// A tree whose words have the long-mode layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Tree {
    pub(crate) geometry: &'static Geometry,
    /// Index bits of the tables that entries refer to.
    width: u8,
    /// There are five levels, not four.
    pub(crate) five: bool,
    /// The bit of an address that says whether memory is private.
    privacy: Privacy,
    /// The low bits of an address that count up without a jump of the encoding.
    contiguous: u64,
    /// The bits of an entry that are no address.
    kept: u64,
    /// Bits that are reserved in every entry: from MAXPHYADDR on, and XD without EFER.NXE.
    reserved: u64,
    /// Bits that are reserved in PML4E and PML5E besides.
    reserved_above: u64,
    /// What is compared of usual entries, and the bits of their page number.
    usual_tables: u64,
    usual_pages: u64,
    frames: u64,
    /// Bits that no address of a table or of a page has.
    no_frame: u64,
    /// Bits that no attribute of a 4-KiB page has, and P, which all have.
    no_attribute: u64,
    /// Entries that refer to tables, their address left out.
    table: TableEntry,
}

impl Tree {
    /// An entry for a table restricts nothing: the leaf alone decides. It is marked accessed, as
    /// the leaves that software makes are.
    const OPEN: TableEntry =
        TableEntry::new().with_p(true).with_rw(true).with_us(true).with_a(true);

    pub(crate) const fn new(
        levels: Levels,
        gib_pages: bool,
        nxe: bool,
        maxphyaddr: u8,
        amd: bool,
        privacy: Privacy,
    ) -> Self {
        let reserved_above = TableEntry::new().with_mbz(amd).into_bits();
        let geometry = geometry(levels, gib_pages);
        let tree = Self::of(geometry, when(!nxe, XD), reserved_above, maxphyaddr, privacy);
        Self { five: matches!(levels, Levels::Five), ..tree }
    }

    /// The page directories and page tables of PAE paging, in whose entries bits 62:52 are reserved
    /// (SDM §4.4.2; APM §5.2.4).
    pub(crate) const fn pae(nxe: bool, maxphyaddr: u8, privacy: Privacy) -> Self {
        const HIGH: u64 = TableEntry::new().with_avl_high(0x7ff).into_bits();
        Self::of(pae_geometry(), HIGH | when(!nxe, XD), 0, maxphyaddr, privacy)
    }

    /// The page directories and page tables of 32-bit paging, but for 4-MiB pages. Entries have
    /// four bytes; their upper half reads as zero.
    pub(crate) const fn bits32(pse: bool) -> Self {
        const HIGH: u64 = TableEntry::new().with_avl_high(0x7ff).with_xd(true).into_bits();
        let tree = Self::of(geometry32(pse), HIGH, 0, 32, Privacy::None);
        Self { width: WIDTH32, ..tree }
    }

    /// A tree of this shape, in which the bits in `reserved` are reserved besides those beyond
    /// MAXPHYADDR, and `reserved_above` in entries from level 3 on.
    const fn of(
        geometry: &'static Geometry,
        reserved: u64,
        reserved_above: u64,
        maxphyaddr: u8,
        privacy: Privacy,
    ) -> Self {
        let private = privacy.mask();
        let bit = private.trailing_zeros() as u8;
        let reserved = beyond_maxphyaddr(maxphyaddr) & !private | reserved;
        let frame = address_bits(PAGE_SHIFT) & !private;
        Self {
            geometry,
            width: WIDTH,
            five: false,
            privacy,
            contiguous: low_bits(if bit < maxphyaddr { bit } else { maxphyaddr }),
            kept: !frame,
            reserved,
            reserved_above,
            usual_tables: PRESENT | PS | reserved | reserved_above,
            usual_pages: PRESENT | reserved,
            // Bits that usual entries have clear are not the address's: left out, the mask is a
            // value that a loop keeps in a register, and no constant of ten bytes at each level.
            frames: (frame & !reserved) >> PAGE_SHIFT,
            no_frame: !(frame & !reserved),
            no_attribute: PRESENT | reserved | frame,
            table: TableEntry::from_bits(Self::OPEN.into_bits() | privacy.of_tables()),
        }
    }

    /// The same tree, whose entries for tables have the bits of `entry`. They are present, and
    /// their address is the table's; whether they say that it is private stays as it is.
    pub(crate) const fn with_table_entry(self, entry: TableEntry) -> Self {
        let bits = entry.with_p(true).with_ps(false).with_frame(0).into_bits();
        Self { table: TableEntry::from_bits(bits | self.private_table()), ..self }
    }

    /// The same tree, whose entries for tables say that these are private, or shared.
    pub(crate) const fn with_private_tables(self, private: bool) -> Self {
        let bits = self.table.into_bits() & !self.privacy.mask() | self.privacy.of(private);
        Self { table: TableEntry::from_bits(bits), ..self }
    }

    /// `root` as CR3 has it.
    pub(crate) const fn root(&self, root: u64) -> u64 {
        root & !self.privacy.mask() | self.private_table()
    }

    /// What entries for tables say of privacy.
    const fn private_table(&self) -> u64 {
        self.table.into_bits() & self.privacy.mask()
    }

    /// The address in `word`.
    #[inline(always)]
    pub(crate) const fn address(&self, word: u64) -> u64 {
        word & !self.kept
    }

    /// The bits that are reserved in a table entry of `level`, PS left out.
    #[inline(always)]
    const fn reserved_in_table(&self, level: Level) -> u64 {
        if level.0 >= 3 { self.reserved | self.reserved_above } else { self.reserved }
    }

    #[inline(always)]
    pub(crate) fn decode<A: Address, T>(
        &self,
        word: u64,
        at: Position,
        attributes: impl FnOnce(PageAttributes) -> T,
    ) -> Entry<A, T> {
        let leaf = |output: u64| Entry::Leaf {
            output: A::new(output),
            attributes: attributes(PageAttributes::from_leaf(word, at.level, self.kept)),
        };
        // What is most often met, by one compare.
        if at.level.0 == 0 && word & (PRESENT | self.reserved) == PRESENT {
            return leaf(self.address(word));
        }
        if word & PRESENT == 0 {
            return Entry::Absent;
        }
        if at.level.0 == 0 {
            return Entry::Malformed;
        }
        if word & PS == 0 {
            if word & self.reserved_in_table(at.level) != 0 {
                return Entry::Malformed;
            }
            return Entry::Table { table: A::new(self.address(word)), width: self.width };
        }
        // Bits 20:13 or 29:13 of a huge page; bit 12 is its PAT bit.
        let misaligned = low_bits(at.shift) & !low_bits(PAGE_SHIFT + 1) & !self.kept;
        if !self.geometry.is_leaf_level(at.level) || word & (self.reserved | misaligned) != 0 {
            return Entry::Malformed;
        }
        leaf(self.address(word) & !low_bits(at.shift))
    }

    /// An access that needs a user-mode address.
    #[inline(always)]
    #[must_use]
    pub(crate) const fn user_mode(&self, write: bool, execute: bool) -> Demand {
        let (needed, forbidden) = (US | when(write, RW), when(execute, XD));
        Demand { needed, denied: 0, forbidden, pages: self.usual_pages }
    }

    /// Accesses that a supervisor-mode address always allows, but for stores if `write_protect`;
    /// and a user-mode address too, unless there is `no_user_data` or `no_user_fetch`.
    pub(crate) const fn supervisor_mode(
        &self,
        write_protect: bool,
        no_user_data: bool,
        no_user_fetch: bool,
    ) -> SupervisorMode {
        let (store, pages) = (when(write_protect, RW), self.usual_pages);
        let [data, fetch] = [when(no_user_data, US), when(no_user_fetch, US)];
        SupervisorMode { store, data: (data, pages | data), fetch: (fetch, pages | fetch) }
    }

    /// The entries that grant what the `demand` is, for 4-KiB pages. Where a right must *not* be
    /// granted, the last entry is enough to withhold it, and the tables do not tell.
    #[inline(always)]
    pub(crate) fn shortcuts(&self, demand: Option<Demand>) -> Shortcuts {
        let Demand { needed, forbidden, pages, .. } = match demand {
            Some(demand) => demand,
            None => Demand { needed: 0, denied: 0, forbidden: 0, pages: self.usual_pages },
        };
        let tables =
            Pattern { compared: self.usual_tables | forbidden | needed, value: PRESENT | needed };
        let page = Pattern { compared: pages | forbidden | needed, value: PRESENT | needed };
        shortcuts(self.five, tables, page, self.frames)
    }

    #[inline(always)]
    pub(crate) fn table(&self, table: u64, width: u8, at: Position) -> Result<u64, Unencodable> {
        let word = self.table.into_bits();
        let fits = table & self.no_frame == 0 && word & self.reserved_in_table(at.level) == 0;
        if fits && width == self.width && at.level.0 != 0 && at.level.0 < self.geometry.levels() {
            Ok(word | table)
        } else {
            Err(Unencodable { at })
        }
    }

    #[inline(always)]
    pub(crate) fn leaves(
        &self,
        output: u64,
        attributes: PageAttributes,
        at: Position,
    ) -> Result<Words, Unencodable> {
        // Every shape has pages at the last level: what is most often made, by two tests.
        if at.level.0 == 0 {
            let word = attributes.page().into_bits();
            if output & self.no_frame == 0 && word.wrapping_sub(PRESENT) & self.no_attribute == 0 {
                return Ok(words(word, output, PAGE_SHIFT, self.contiguous));
            }
            return Err(Unencodable { at });
        }
        match attributes.to_leaf(at.level) {
            Some(word)
                if output & (self.no_frame | low_bits(at.shift)) == 0
                    && attributes.page().into_bits() & (self.no_attribute & !PRESENT) == 0
                    && self.geometry.is_leaf_level(at.level) =>
            {
                Ok(words(word, output, at.shift, self.contiguous))
            }
            _ => Err(Unencodable { at }),
        }
    }

    /// A processor may use a leaf as it was until its translation is invalidated, and no change of
    /// bits other than address and size is worse than that (SDM §4.10.4.3).
    #[inline(always)]
    pub(crate) const fn bits(&self) -> Bits {
        const {
            Bits {
                present: PRESENT,
                accessed: Record::set(PageEntry::new().with_a(true).into_bits()),
                dirty: Record::set(PageEntry::new().with_d(true).into_bits()),
                table: Record::set(TableEntry::new().with_a(true).into_bits()),
                in_place: u64::MAX,
            }
        }
    }
}
