//! An emulated MMU: it walks tables as the format's core says, records accessed and dirty, and
//! caches leaves and table entries as long as no invalidation removes them.
//!
//! # Protocol
//! [`Mmu::walk`] begins at the root or at any table entry that it has cached. [`Mmu::invalidate`]
//! removes what [`Caches`] says that an invalidation removes, and no more. [`Mmu::verify`] panics
//! if something that is still cached is not what the tree says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::Ordering;

use pgtable::format::{Entry, Format, Groups, Output, TableWord as _};
use pgtable::invalidate::Stale;
use pgtable::memory::{DirectMap, MemoryError};
use pgtable::{Access, AccessKind, Address, Level, Position, low_bits};

use crate::absent::AbsentEntries;
pub use crate::caches::{Caches, TablesRemoved};

/// A table as a walk came to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Node<P> {
    address: u64,
    level: u8,
    width: u8,
    /// log2 of the bytes that one entry covers.
    shift: u8,
    /// What the entries above restrict.
    path: P,
}

impl<P> Node<P> {
    fn at(&self) -> Position {
        Position { level: Level(self.level), shift: self.shift }
    }

    fn entry<F: Format>(&self, offset: u64) -> u64 {
        let index = offset >> self.shift & low_bits(self.width);
        self.address.wrapping_add(index << F::Word::SHIFT)
    }

    /// The first offset that the table covers.
    fn first(&self, offset: u64) -> u64 {
        offset & !low_bits(self.shift + self.width)
    }
}

/// A leaf as a walk found it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf<F: Format> {
    /// Where its entry stands.
    pub at: Position,
    /// The first offset that it translates.
    pub first: u64,
    /// log2 of its size; of the whole group's, if its entry is one of a group.
    pub shift: u8,
    /// What its entry held.
    pub word: u64,
    /// The address of its entry.
    pub entry: u64,
    /// What the entries above it restrict.
    pub path: F::Path,
    /// The output of its first byte.
    pub output: u64,
    /// What it says besides its address.
    pub attributes: F::Attributes,
}

impl<F: Format> Leaf<F> {
    /// The same attributes as if accessed and dirty were recorded. (Only what hardware may record
    /// differs from another word that gives the same.)
    #[must_use]
    pub fn settled(&self, format: &F) -> F::Attributes {
        settled(format, self.at, self.word, self.attributes)
    }
}

/// What `word` at `at`, a leaf with `attributes`, says once accessed and dirty are recorded in it.
fn settled<F: Format>(
    format: &F,
    at: Position,
    word: u64,
    attributes: F::Attributes,
) -> F::Attributes {
    let bits = format.bits(at);
    match format.decode(bits.dirty.made(bits.accessed.made(word)), at) {
        Entry::Leaf { attributes, .. } => attributes,
        _ => attributes,
    }
}

/// Where a walk ended.
#[derive(Clone, Copy, Debug)]
#[expect(dead_code, reason = "what is malformed or missing is shown in messages only")]
enum End<F: Format> {
    Leaf(Leaf<F>),
    /// log2 of the bytes that the entry covers.
    Absent(u8),
    /// The entry is none; its address and word.
    Malformed(u64, u64),
    Memory(MemoryError),
}

/// The MMU of one tree.
#[derive(Debug)]
pub struct Mmu<'m, F: Format> {
    format: F,
    memory: DirectMap<'m, Output<F>>,
    caches: Caches,
    root: u64,
    /// By the first offset and the size.
    leaves: BTreeMap<(u64, u8), Leaf<F>>,
    /// Tables that cached entries lead to: by level and the first offset that they cover.
    tables: BTreeMap<(u8, u64), Node<F::Path>>,
    absent: AbsentEntries,
    /// The entries in which it recorded anything since they were asked for.
    recorded: RefCell<Vec<u64>>,
    /// Where it recorded stores: what each leaf covered in which it did, as far as nobody was told.
    dirtied: Vec<Range<u64>>,
}

impl<'m, F: Format> Mmu<'m, F> {
    /// An MMU with empty caches.
    #[must_use]
    pub fn new(
        format: F,
        memory: DirectMap<'m, Output<F>>,
        root: Output<F>,
        caches: Caches,
    ) -> Self {
        Self {
            format,
            memory,
            caches,
            root: root.get(),
            leaves: BTreeMap::new(),
            tables: BTreeMap::new(),
            absent: AbsentEntries::default(),
            recorded: RefCell::default(),
            dirtied: Vec::new(),
        }
    }

    /// Walks begin at `root` from now on. What is cached stays.
    pub fn set_root(&mut self, root: Output<F>) {
        self.root = root.get();
    }

    fn root(&self) -> Node<F::Path> {
        let geometry = self.format.geometry();
        let level = geometry.root();
        Node {
            address: self.root,
            level: level.0,
            width: geometry.width(level),
            shift: geometry.shift(level),
            path: F::Path::default(),
        }
    }

    /// What the entry at `entry` holds.
    fn load(&self, entry: u64) -> Result<u64, MemoryError> {
        let word = F::Word::word_in(&self.memory, Output::<F>::new(entry))?;
        Ok(F::Word::swap(F::BYTE_ORDER, word.load_raw(Ordering::Relaxed)))
    }

    /// Walks from `node` to `offset`. `enter` sees each table entry (its place, address and word)
    /// and the table that it leads to.
    fn descend(
        &self,
        mut node: Node<F::Path>,
        offset: u64,
        mut enter: impl FnMut(Position, u64, u64, Node<F::Path>),
    ) -> End<F> {
        loop {
            let (at, entry) = (node.at(), node.entry::<F>(offset));
            let word = match self.load(entry) {
                Ok(word) => word,
                Err(error) => return End::Memory(error),
            };
            match self.format.decode(word, at) {
                Entry::Absent => return End::Absent(at.shift),
                Entry::Leaf { output, attributes } => {
                    let group = self.format.group(word, at);
                    let shift = at.shift + group;
                    // What it maps at the first address of the group that it belongs to.
                    let output = match F::GROUPS {
                        Groups::Apart => output
                            .get()
                            .wrapping_sub(offset & low_bits(shift) & !low_bits(at.shift)),
                        Groups::None | Groups::Alike => output.get(),
                    };
                    let first = offset & !low_bits(shift);
                    let path = node.path;
                    return End::Leaf(Leaf {
                        at,
                        first,
                        shift,
                        word,
                        entry,
                        path,
                        output,
                        attributes,
                    });
                }
                Entry::Table { table, width }
                    if at.level.0 > 0 && width > 0 && width < at.shift =>
                {
                    let path = self.format.restrict(node.path, word, at);
                    let (level, shift) = (at.level.0 - 1, at.shift - width);
                    node = Node { address: table.get(), level, width, shift, path };
                    enter(at, entry, word, node);
                }
                Entry::Table { .. } | Entry::Malformed => return End::Malformed(entry, word),
            }
        }
    }

    /// What the tree says at `offset`, without a cache and without a record.
    ///
    /// # Panics
    /// If an entry on the way is malformed, or a table outside memory.
    #[must_use]
    pub fn look(&self, offset: u64) -> Option<Leaf<F>> {
        match self.descend(self.root(), offset, |_, _, _, _| ()) {
            End::Leaf(leaf) => Some(self.of_group(leaf)),
            End::Absent(_) => None,
            end => panic!("a walk to {offset:#x} ends with {end:x?}"),
        }
    }

    /// `leaf` with what was recorded in any entry of its group, of which all must say the same.
    fn of_group(&self, mut leaf: Leaf<F>) -> Leaf<F> {
        let bits = self.format.bits(leaf.at);
        let entries = 1u64 << (leaf.shift - leaf.at.shift);
        let first = leaf.entry & !((entries << F::Word::SHIFT) - 1);
        for n in 0..entries {
            let word = self.load(first + (n << F::Word::SHIFT));
            let word = word.expect("a table is in memory whole");
            let Entry::Leaf { output, attributes } = self.format.decode(word, leaf.at) else {
                panic!("a group is incomplete: {leaf:x?}")
            };
            let part = if F::GROUPS == Groups::Apart { n << leaf.at.shift } else { 0 };
            assert!(
                output.get() == leaf.output + part
                    && settled(&self.format, leaf.at, word, attributes)
                        == leaf.settled(&self.format)
                    && self.format.group(word, leaf.at) == leaf.shift - leaf.at.shift,
                "a group is incomplete: {leaf:x?}, {word:#x}"
            );
            for record in [bits.accessed, bits.dirty] {
                leaf.word = if record.is_in(word) { record.made(leaf.word) } else { leaf.word };
            }
        }
        leaf
    }

    /// What the tree says of `access` at `offset`: the leaf, if it allows it.
    #[must_use]
    pub fn judge(&self, offset: u64, access: Access) -> Option<Leaf<F>> {
        let allows =
            |leaf: &Leaf<F>| self.format.check(leaf.word, leaf.at, leaf.path, access).is_ok();
        self.look(offset).filter(allows)
    }

    /// Makes `access` at `offset`, as a CPU does at any moment: by a cached leaf, or by a walk from
    /// the root or from the `from`th of the cached table entries on the way. Caches what it read.
    ///
    /// # Panics
    /// If it comes to a malformed entry or to memory that has no tables, or if an address has two
    /// translations at once and the caches must not hold them.
    pub fn walk(&mut self, offset: u64, access: Access, from: usize) {
        let on_the_way: Vec<_> = (self.tables.iter())
            .filter(|((_, first), table)| table.first(offset) == *first)
            .map(|(_, table)| *table)
            .collect();
        let start = on_the_way.get(from).copied().unwrap_or_else(|| self.root());
        let mut read = Vec::new();
        let end = self.descend(start, offset, |at, entry, word, table| {
            read.push((at, entry, word, table));
        });
        for (at, entry, word, table) in read {
            self.record(entry, word, self.format.bits(at).table.made(word));
            if self.caches.table_levels >> at.level.0 & 1 != 0 {
                self.tables.insert((table.level, table.first(offset)), table);
            }
        }
        match end {
            End::Leaf(leaf) => self.fill(leaf, access),
            End::Absent(shift) if self.caches.absent => self.absent.insert(offset, shift),
            End::Absent(_) => {}
            end => panic!("hardware comes to {end:x?} on its way to {offset:#x}"),
        }
    }

    fn fill(&mut self, mut leaf: Leaf<F>, access: Access) {
        if self.format.check(leaf.word, leaf.at, leaf.path, access).is_err() {
            return;
        }
        let bits = self.format.bits(leaf.at);
        let mut used = bits.accessed.made(leaf.word);
        if access.kind == AccessKind::Write {
            used = bits.dirty.made(used);
            if used != bits.accessed.made(leaf.word) {
                self.told(leaf.first, 1 << leaf.shift);
                self.dirtied.push(leaf.first..leaf.first + (1 << leaf.shift));
            }
        }
        self.record(leaf.entry, leaf.word, used);
        leaf.word = used;
        if self.caches.one_translation {
            let last = leaf.first + low_bits(leaf.shift);
            for other in self.overlapping(leaf.first, last) {
                let same = other.first == leaf.first
                    && other.shift == leaf.shift
                    && other.output == leaf.output;
                assert!(same, "two translations at once: {other:x?} is cached, and now {leaf:x?}");
            }
        }
        self.leaves.insert((leaf.first, leaf.shift), leaf);
    }

    fn record(&self, entry: u64, old: u64, new: u64) {
        if old == new {
            return;
        }
        // Nothing came between the load and this.
        if let Ok(word) = F::Word::word_in(&self.memory, Output::<F>::new(entry)) {
            word.store_raw(F::Word::swap(F::BYTE_ORDER, new), Ordering::Relaxed);
            self.recorded.borrow_mut().push(entry);
        }
    }

    /// The addresses of the entries in which it recorded anything since the last call.
    pub fn recorded(&self) -> Vec<u64> {
        self.recorded.take()
    }

    fn overlapping(&self, first: u64, last: u64) -> impl Iterator<Item = &Leaf<F>> {
        // Larger leaves begin earlier.
        self.leaves
            .values()
            .filter(move |leaf| leaf.first <= last && leaf.first + low_bits(leaf.shift) >= first)
    }

    /// Carries out an invalidation: the range from `first` to `last`, the first offset of its last
    /// page, of pages of `2^shift` bytes.
    pub fn invalidate_range(&mut self, first: u64, last: u64, shift: u8) {
        let end = last | low_bits(shift);
        let by_size = self.caches.by_size;
        self.absent.remove(first, end);
        self.leaves.retain(|_, leaf| {
            by_size && leaf.shift != shift && leaf.at.shift != shift
                || leaf.first > end
                || leaf.first + low_bits(leaf.shift) < first
        });
        match self.caches.tables_removed {
            TablesRemoved::None => {}
            TablesRemoved::All => self.tables.clear(),
            TablesRemoved::OnTheWay => self.tables.retain(|(_, start), table| {
                *start > end || start + low_bits(table.shift + table.width) < first
            }),
        }
    }

    /// Removes every cached table entry, and the absent entries, which a walk may have found by way
    /// of a table that left the tree.
    pub fn invalidate_tables(&mut self) {
        self.tables.clear();
        self.absent.clear();
    }

    /// The memory was told that entries became present in the `bytes` bytes from `first` on.
    pub fn appeared(&mut self, first: u64, bytes: u64) {
        if bytes > 0 {
            self.absent.remove(first, first + (bytes - 1));
        }
    }

    /// Removes every cached leaf, and the table entries that go with them.
    pub fn invalidate_space(&mut self) {
        self.leaves.clear();
        self.absent.clear();
        if self.caches.tables_removed != TablesRemoved::None {
            self.tables.clear();
        }
    }

    /// Carries out all that `stale` says.
    pub fn invalidate(&mut self, stale: &Stale<pgtable::format::Input<F>>) {
        if stale.everything() {
            self.invalidate_space();
        }
        if stale.tables() {
            self.invalidate_tables();
        }
        for range in stale.ranges() {
            let offset = |address| self.format.offset(address).expect("a stale range of the space");
            self.invalidate_range(offset(range.start), offset(range.last), range.shift);
        }
    }

    /// `bytes` bytes at `table` are about to be free.
    ///
    /// # Panics
    /// If a cached entry leads there.
    pub fn freed(&self, table: u64, bytes: u64) {
        for (place, node) in &self.tables {
            assert!(
                node.address.wrapping_sub(table) >= bytes,
                "a table is freed while an entry that leads to it is cached: {place:x?} {node:x?}"
            );
        }
    }

    /// Whether anything is cached.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.leaves.is_empty() && self.tables.is_empty()
    }

    /// What is cached is what the tree says.
    ///
    /// # Panics
    /// If it is not.
    pub fn verify(&self) {
        for cached in self.leaves.values() {
            let now = self.look(cached.first);
            let Some(now) = now else { panic!("stale: {cached:x?}, where nothing is mapped") };
            let is = |leaf: &Leaf<F>| {
                (leaf.first, leaf.shift, leaf.output, leaf.path, leaf.settled(&self.format))
            };
            assert!(is(&now) == is(cached), "stale: {cached:x?}, which is now {now:x?}");
            let bits = self.format.bits(now.at);
            for record in [bits.accessed, bits.dirty] {
                assert!(
                    !record.is_in(cached.word)
                        || !record.is_kept_in(now.word)
                        || record.is_in(now.word),
                    "{cached:x?} is cached with a record that was taken: {now:x?}"
                );
            }
        }
        for offset in self.absent.offsets() {
            let now = self.look(offset);
            assert!(now.is_none(), "appeared, and the memory was not told: {now:x?}");
        }
        for ((_, first), cached) in &self.tables {
            let mut now = None;
            let _ = self.descend(self.root(), *first, |_, _, _, table| {
                now = if table.level == cached.level { Some(table) } else { now };
            });
            assert_eq!(now, Some(*cached), "stale table entry for {first:#x}");
        }
    }

    /// The stores that were recorded are in the tree, unless the leaf is gone; forgets those.
    ///
    /// # Panics
    /// If a record was lost.
    pub fn verify_records(&mut self) {
        for range in self.dirtied.clone() {
            self.each_leaf(range, |mmu, part, leaf| match leaf {
                None => mmu.told(part.start, part.end - part.start),
                Some(leaf) => {
                    let dirty = mmu.format.bits(leaf.at).dirty;
                    assert!(
                        !dirty.is_kept_in(leaf.word) || dirty.is_in(leaf.word),
                        "stores in {part:x?} were recorded, and the record is lost: {leaf:x?}"
                    );
                }
            });
        }
    }

    /// Calls `each` for the leaf in each part of `range`, or for none.
    fn each_leaf(
        &mut self,
        range: Range<u64>,
        mut each: impl FnMut(&mut Self, Range<u64>, Option<Leaf<F>>),
    ) {
        let page = 1 << self.format.geometry().finest_shift();
        let mut at = range.start;
        while at < range.end {
            let leaf = self.look(at);
            let end = leaf.map_or(at + page, |leaf| leaf.first + low_bits(leaf.shift) + 1);
            let end = end.min(range.end);
            each(self, at..end, leaf);
            at = end;
        }
    }

    /// Forgets the stores that were recorded in the `bytes` bytes from `first` on: they were told
    /// of, or what is mapped there is another.
    pub fn told(&mut self, first: u64, bytes: u64) {
        let end = first + bytes;
        let parts = |range: Range<u64>| {
            [range.start..range.end.min(first), range.start.max(end)..range.end]
        };
        self.dirtied = self.dirtied.drain(..).flat_map(parts).filter(|it| !it.is_empty()).collect();
    }

    /// Where stores were recorded that nobody was told of.
    #[must_use]
    pub fn dirtied(&self) -> Vec<Range<u64>> {
        self.dirtied.clone()
    }

    /// The `bytes` bytes from `first` on were harvested, which told `told` of a page. Forgets the
    /// stores there of which the leaf has no record any more.
    ///
    /// # Panics
    /// If the record of a store is gone that was not told of.
    pub fn harvested(&mut self, first: u64, bytes: u64, told: impl Fn(u64) -> bool) {
        let page = 1 << self.format.geometry().page_shift();
        for range in self.dirtied.clone() {
            let part = range.start.max(first)..range.end.min(first + bytes);
            self.each_leaf(part, |mmu, part, leaf| {
                if leaf.is_some_and(|leaf| mmu.format.bits(leaf.at).dirty.is_in(leaf.word)) {
                    return;
                }
                for page in part.clone().step_by(page) {
                    assert!(told(page), "a store at {page:#x} was recorded, and is not told of");
                }
                mmu.told(part.start, part.end - part.start);
            });
        }
    }
}
