//! A machine for one tree: memory, an allocator, and an MMU that works beside every verb.
//!
//! The machine is the tree's [`TableMemory`], its [`TableAllocator`] and its [`Invalidate`]. At
//! each call of these three, which is in the middle of a verb, the MMU may make accesses at places
//! that the test cares about ([`Machine::watch`]).

use std::cell::{Cell, RefCell};
use std::sync::atomic::AtomicU64;

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Entry, Format, Input, Output};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::{Appeared, MemoryError, ReadMemory, TableMemory};
use pgtable::shared::{DeferringAllocator, ReadSide};
use pgtable::tree::PageTable;
use pgtable::{Address, AddressSpace, Error, Position};

use crate::cases::Random;
use crate::flat::{Hardware, IDENTITY, Model};
use crate::log::Logged;
use crate::memory::{Arena, Tables};
use crate::mmu::{Caches, Mmu};
use crate::words::ACCESSES;

/// A tree of a machine that many functions of this crate change.
pub type Tree<'m, F> = PageTable<F, &'m Machine<'m, F>, &'m Machine<'m, F>>;

/// A fault of an embedder's invalidation, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Forgets {
    /// It does all that it is told.
    #[default]
    Nothing,
    /// It leaves out the first range that it is told.
    ARange,
    /// It does not look at the tables that left.
    Tables,
    /// It takes all pages for those of the smallest size.
    Sizes,
    /// It does nothing where all is stale.
    Everything,
    /// It does nothing at all.
    All,
    /// It is not told of entries that appear.
    Appeared,
}

/// Memory, allocator and MMU of one tree of format `F`.
#[derive(Debug)]
pub struct Machine<'m, F: Format> {
    format: F,
    arena: &'m Arena,
    memory: Logged<'m, Output<F>>,
    /// Where its tables come from.
    pub tables: &'m Tables<'m>,
    caches: Caches,
    mmu: RefCell<Option<Mmu<'m, F>>>,
    watched: RefCell<Vec<u64>>,
    /// Nothing is watched.
    quiet: Cell<bool>,
    random: Random,
    words: Cell<usize>,
    refused: Cell<Option<(u64, u64)>>,
    forgets: Cell<Forgets>,
}

impl<'m, F: Format> Machine<'m, F> {
    /// A machine with `arena` as its memory, and tables from `tables`, which stand there.
    #[must_use]
    pub fn new(format: F, arena: &'m Arena, tables: &'m Tables<'m>, caches: Caches) -> Self {
        Self {
            format,
            arena,
            memory: arena.logged(),
            tables,
            caches,
            mmu: RefCell::new(None),
            watched: RefCell::default(),
            quiet: Cell::new(true),
            random: Random::new(0x9e37_79b9_7f4a_7c15),
            words: Cell::new(0),
            refused: Cell::new(None),
            forgets: Cell::default(),
        }
    }

    /// Its invalidations are faulty from now on.
    pub fn forget(&self, forgets: Forgets) {
        self.forgets.set(forgets);
    }

    /// An empty tree, which the MMU walks from now on.
    ///
    /// # Errors
    /// As [`PageTable::new`].
    pub fn tree(&'m self) -> Result<Tree<'m, F>, Error> {
        let tree = PageTable::new(self.format, self, self)?;
        self.load(tree.root());
        Ok(tree)
    }

    /// The MMU walks the tree under `root` from now on, with what it has cached.
    pub fn load(&self, root: Output<F>) {
        let mut mmu = self.mmu.borrow_mut();
        match &mut *mmu {
            Some(mmu) => mmu.set_root(root),
            None => *mmu = Some(Mmu::new(self.format, self.arena.memory(), root, self.caches)),
        }
    }

    /// Destroys the machine's tree. The MMU makes no access any more, and has what it has cached.
    ///
    /// # Panics
    /// If a table is lost, or is free while a cached entry leads to it.
    pub fn destroy(&'m self, tree: Tree<'m, F>) {
        self.watch([]);
        let live = self.tables.live();
        let finished = tree.destroy(self.gather()).map_err(|(_, error)| error);
        assert_eq!(finished.expect("nothing fails").tables, live);
        assert_eq!(self.tables.live(), 0);
        let left = self.mmu.take().filter(|mmu| !mmu.is_empty());
        assert!(left.is_none(), "cached after the tree was destroyed: {left:x?}");
    }

    /// An empty gather for the tree.
    pub fn gather(&'m self) -> Gather<'m, F::Stage, Self> {
        Gather::new(self, IDENTITY)
    }

    /// The MMU accesses these offsets while verbs run.
    pub fn watch(&self, offsets: impl IntoIterator<Item = u64>) {
        let mut watched = self.watched.borrow_mut();
        watched.clear();
        let mask = self.format.geometry().address_mask();
        watched.extend(offsets.into_iter().map(|offset| offset & mask));
        self.quiet.set(watched.is_empty());
    }

    /// What `use_it` does with the MMU, if there is one.
    pub fn mmu<T>(&self, use_it: impl FnOnce(&mut Mmu<'m, F>) -> T) -> Option<T> {
        self.mmu.borrow_mut().as_mut().map(use_it)
    }

    /// The number of words that were asked for since the last call.
    pub fn words(&self) -> usize {
        self.words.take()
    }

    /// Memory refuses these bytes (address, length) from now on, and no others.
    pub fn refuse(&self, bytes: Option<(u64, u64)>) {
        self.refused.set(bytes);
    }

    fn allowed(&self, address: Output<F>, words: usize) -> Result<(), MemoryError> {
        let Some((refused, bytes)) = self.refused.get() else { return Ok(()) };
        let (first, last) = (address.get(), address.get().saturating_add(words as u64 * 8 - 1));
        if last < refused || first >= refused + bytes {
            return Ok(());
        }
        Err(MemoryError::outside(address, words))
    }

    /// The MMU makes `accesses` accesses.
    pub fn turn(&self, accesses: usize) {
        // Not while it is at work itself, nor while a failed test is taken down.
        if std::thread::panicking() {
            return;
        }
        let Ok(mut mmu) = self.mmu.try_borrow_mut() else { return };
        let Some(mmu) = &mut *mmu else { return };
        let watched = self.watched.borrow();
        for _ in 0..accesses {
            let Some(&offset) =
                watched.get(self.random.below(watched.len().max(1) as u64) as usize)
            else {
                return;
            };
            let access = ACCESSES[self.random.below(ACCESSES.len() as u64) as usize];
            // From the root, or from a cached entry on the way.
            mmu.walk(offset, access, self.random.below(6) as usize);
        }
        mmu.recorded().into_iter().for_each(|entry| self.memory.told(entry, 1));
    }

    /// The MMU may make an access.
    fn maybe(&self) {
        if !self.quiet.get() && self.random.below(3) == 0 {
            self.turn(1);
        }
    }

    /// What is cached is what the tree says, no record was lost, and the memory was told of every
    /// store.
    ///
    /// # Panics
    /// If it is not.
    pub fn verify(&self) {
        self.mmu(|mmu| {
            mmu.verify();
            mmu.verify_records();
            mmu.recorded().into_iter().for_each(|entry| self.memory.told(entry, 1));
        });
        self.memory.verify(self.tables.top());
    }

    /// The allocator stored to a table, which it tells of itself.
    fn allocated(&self, table: Output<F>, layout: TableLayout) {
        self.memory.told(table.get(), layout.bytes().div_ceil(8));
    }
}

impl<F, S> Hardware<S> for Machine<'_, F>
where
    F: Format,
    S: AddressSpace<Stage = F::Stage, Attributes = F::Attributes>,
{
    fn tables(&self) -> &Tables<'_> {
        self.tables
    }

    fn finish(&self, gather: &mut Gather<'_, F::Stage, Self>) {
        gather.finish(&self).expect("nothing fails");
    }

    fn watch(&self, _: &S, inputs: &[u64]) {
        let offset = |&input: &u64| self.format.offset(Input::<F>::new(input));
        Self::watch(self, inputs.iter().filter_map(offset));
        self.turn(12);
    }

    fn settled(&self, attributes: F::Attributes) -> F::Attributes {
        let geometry = self.format.geometry();
        let Some((level, _)) = geometry.leaf(geometry.page_shift()) else { return attributes };
        let at = Position { level, shift: geometry.page_shift() };
        let output = Output::<F>::new(0);
        let Ok(words) = self.format.leaves(output, attributes, at) else { return attributes };
        let bits = self.format.bits(at);
        match self.format.decode(bits.dirty.made(bits.accessed.made(words.first)), at) {
            Entry::Leaf { attributes, .. } => attributes,
            _ => attributes,
        }
    }

    fn encodes(&self, output: u64, attributes: F::Attributes) -> bool {
        let shift = self.format.geometry().page_shift();
        let at = Position { level: pgtable::Level(0), shift };
        self.format.leaves(Output::<F>::new(output), attributes, at).is_ok()
    }

    fn verify(&self, _: &Model<S>) {
        Self::verify(self);
    }

    /// As the format's core says.
    fn translates(&self, space: &S, input: u64, mapped: Option<(u64, F::Attributes)>) {
        let at = Input::<F>::new(input + 5);
        let Some(offset) = self.format.offset(at) else { return };
        let found = self.mmu(|mmu| mmu.look(offset)).flatten().map(|leaf| {
            let output = leaf.output + (offset - 5 - leaf.first);
            (output, leaf.attributes)
        });
        let settled = |(output, attributes)| (output, Hardware::<S>::settled(self, attributes));
        assert_eq!(found.map(settled), mapped, "the tables at {at}");
        for access in ACCESSES {
            let core = self
                .mmu(|mmu| mmu.judge(offset, access))
                .flatten()
                .map(|leaf| (leaf.output + (offset - leaf.first), leaf.shift, leaf.attributes));
            let answer = space.translate(at, access);
            let answer = answer.ok().map(|it| (it.output.get(), it.shift, it.attributes));
            assert_eq!(answer, core, "{access} at {at}");
        }
    }
}

impl<F: Format> ReadMemory<Output<F>> for Machine<'_, F> {
    pgtable::words_in_place!(Output<F>);
}

impl<F: Format> TableMemory<Output<F>> for Machine<'_, F> {
    fn word(&self, address: Output<F>) -> Result<&AtomicU64, MemoryError> {
        self.words.set(self.words.get() + 1);
        self.maybe();
        self.allowed(address, 1)?;
        self.memory.word(address)
    }

    fn table(&self, address: Output<F>, words: usize) -> Result<&[AtomicU64], MemoryError> {
        self.words.set(self.words.get() + words);
        self.maybe();
        self.allowed(address, words)?;
        self.memory.table(address, words)
    }

    fn wrote(&self, address: Output<F>, words: usize) {
        self.memory.wrote(address, words);
        self.maybe();
    }

    fn appeared(&self, appeared: Appeared) {
        if self.forgets.get() != Forgets::Appeared {
            let first = self.format.offset(Input::<F>::new(appeared.input));
            let first = first.expect("an address of the space");
            self.mmu(|mmu| mmu.appeared(first, appeared.bytes));
        }
        self.maybe();
    }
}

impl<F: Format> TableAllocator<Output<F>> for Machine<'_, F> {
    fn allocate(&self, layout: TableLayout) -> Result<Output<F>, AllocError> {
        self.maybe();
        let table = self.tables.allocate(layout);
        table.inspect(|table| self.allocated(*table, layout))
    }

    fn allocate_stale(&self, layout: TableLayout) -> Result<Output<F>, AllocError> {
        self.maybe();
        let table = self.tables.allocate_stale(layout);
        table.inspect(|table| self.allocated(*table, layout))
    }

    fn free(
        &self,
        table: Output<F>,
        layout: TableLayout,
        contents: Contents,
    ) -> Result<(), AllocError> {
        self.maybe();
        self.mmu(|mmu| mmu.freed(table.get(), layout.bytes() as u64));
        self.tables.free(table, layout, contents)?;
        self.allocated(table, layout);
        Ok(())
    }

    fn state(&self, table: Output<F>, layout: TableLayout) -> Option<&TableState> {
        self.tables.state(table, layout)
    }
}

/// The reader of a writer that is the only one: no table has to be kept for it, and there is no
/// other to wait for.
#[derive(Debug)]
pub struct Alone;

impl ReadSide for Alone {
    type Reading<'r> = ();

    fn read(&mut self) {}

    fn wait(_: u32) -> bool {
        false
    }
}

impl<F: Format> DeferringAllocator<Output<F>> for Machine<'_, F> {
    type Reader<'a>
        = Alone
    where
        Self: 'a;

    fn reader(&self) -> Option<Alone> {
        Some(Alone)
    }
}

impl<F: Format> Invalidate<F::Stage> for Machine<'_, F> {
    type Identity = u32;

    fn invalidate(&self, identity: u32, stale: &Stale<Input<F>>) -> Result<(), InvalidateFailed> {
        if std::thread::panicking() {
            // By a gather that is dropped.
            return Ok(());
        }
        assert_eq!(identity, IDENTITY, "an invalidation for another space");
        assert!(!stale.is_empty(), "an invalidation of nothing");
        self.turn(2);
        self.mmu(|mmu| carry_out(mmu, &self.format, stale, self.forgets.get()));
        self.turn(2);
        Ok(())
    }

    fn abandoned(&self, _: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        assert!(std::thread::panicking(), "a gather was dropped with {tables} tables");
    }
}

fn carry_out<F: Format>(
    mmu: &mut Mmu<'_, F>,
    format: &F,
    stale: &Stale<Input<F>>,
    forgets: Forgets,
) {
    match forgets {
        Forgets::Nothing | Forgets::Appeared => return mmu.invalidate(stale),
        Forgets::All => return,
        Forgets::ARange | Forgets::Tables | Forgets::Sizes | Forgets::Everything => {}
    }
    if stale.everything() && forgets != Forgets::Everything {
        mmu.invalidate_space();
    }
    if stale.tables() && forgets != Forgets::Tables {
        mmu.invalidate_tables();
    }
    for range in stale.ranges().iter().skip(usize::from(forgets == Forgets::ARange)) {
        let offset = |address| format.offset(address).expect("an address of the space");
        let shift = match forgets {
            Forgets::Sizes => format.geometry().page_shift(),
            _ => range.shift,
        };
        mmu.invalidate_range(offset(range.start), offset(range.last), shift);
    }
}
