//! Trees in memory that two guests write, on one frame table, beside a stranger's tables.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};

use arbitrary::{Result, Unstructured};
use arch_ppc64::radix::{Granule, ProcessScoped};
use arch_x86::{Controls, Levels, LongMode};
use frag_alloc::{Cache, Deferred, Epochs, Frames, Kind, Owner, Policy, Reader, Reading, Region};
use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::Format;
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::{DirectMap, MemoryError, ReadMemory, TableMemory};
use pgtable::shared::{DeferringAllocator, ReadSide, SharedPageTable};
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Access, Error, Gpa, Gva, Leaves, Level, Position, Prot, RangeError, Stage1};

const START: u64 = 0x100_0000;
const SHIFT: u8 = 16;
const FRAMES: u32 = 8;
/// The most steps of a case.
const MOST: usize = 40;
/// The most pages of a verb's range.
const PAGES: u64 = 600;
/// Words that a verb may ask for: every table a few times over for each page of its range, which no
/// verb needs, and what goes over a tree as often as it has ways does not keep to.
const MOST_WORDS: usize = 1 << 24;

type Source<'m> = Region<Gpa, DirectMap<'m, Gpa>>;
type Table<'m> = Frames<Gpa, Source<'m>>;

thread_local! {
    static WORDS: Vec<AtomicU64> = (0..(FRAMES as usize) << (SHIFT - 3)).map(|_| AtomicU64::new(0)).collect();
}

/// Trees of two guests that write their tables whenever they like: at chosen accesses in the middle
/// of verbs, with random words, with copies of other entries, with ways to any place of the frames.
///
/// # Oracles
/// The tables of each guest are those that its allocator handed out and took back: a free is
/// accepted exactly if the table is one of them, and a state is given for just those. The frame
/// table's census agrees after each step. A stranger's tables in the same frames never change, and
/// new ones come zeroed. No verb asks for more words than its bound. In the end every table can be
/// found and freed, every counter is zero and every frame is home.
pub fn guest_trees(data: &[u8]) {
    let mut input = Unstructured::new(data);
    match input.arbitrary::<u8>().unwrap_or(0) % 4 {
        0 => run(ProcessScoped::new(Granule::K64), &mut input),
        1 => run(LongMode::new(Levels::Four, Controls::new()), &mut input),
        2 => run(LongMode::new(Levels::Five, Controls::new()), &mut input),
        _ => run(ProcessScoped::new(Granule::K4), &mut input),
    }
}

/// A store of a guest's: after so many accesses, into which of its tables and which entry, what.
#[derive(Clone, Copy)]
struct Store {
    after: u8,
    table: u8,
    entry: u16,
    what: What,
}

#[derive(Clone, Copy)]
enum What {
    Random(u64),
    /// A copy of one of its entries.
    Copy(u8, u16),
    /// A way to one of its tables, as an entry of that level.
    Own(u8, u8),
    /// A way to anything in the frames.
    Any(u16, u8),
}

/// The tables that a guest's allocator has handed out: their sizes, which the allocator itself is
/// checked against.
type Live = RefCell<BTreeMap<u64, u8>>;

/// Table memory that a guest stores to while it is used.
struct Written<'m, F> {
    map: DirectMap<'m, Gpa>,
    format: F,
    live: &'m Live,
    stores: RefCell<Vec<Store>>,
    accesses: Cell<usize>,
    words: Cell<usize>,
}

impl<F: Format<Stage = Stage1>> Written<'_, F> {
    fn slot(&self, table: u8, entry: u16) -> Option<&AtomicU64> {
        let live = self.live.borrow();
        let (&address, &shift) = live.iter().nth(usize::from(table) % live.len().max(1))?;
        // Often one of the first few: those are where the verbs work.
        let entry = if entry & 0x8000 == 0 { entry & 7 } else { entry & 0x7fff };
        self.map.word(Gpa::new(address + u64::from(entry) * 8 % (1 << shift))).ok()
    }

    fn link(&self, address: u64, level: u8) -> Option<u64> {
        let geometry = self.format.geometry();
        let level = Level(1 + level % geometry.root().0.max(1));
        let at = Position { level, shift: geometry.shift(level) };
        let width = geometry.width(Level(level.0 - 1));
        let word = self.format.table(Gpa::new(address & !0xff), width, at).ok()?;
        Some(F::BYTE_ORDER.swap(word))
    }

    fn store(&self, store: Store) {
        let word = match store.what {
            What::Random(word) => Some(word),
            What::Copy(table, entry) => {
                self.slot(table, entry).map(|word| word.load(Ordering::Relaxed))
            }
            What::Own(table, level) => {
                let live = self.live.borrow();
                let address = live.keys().nth(usize::from(table) % live.len().max(1)).copied();
                address.and_then(|address| self.link(address, level))
            }
            // Most tables stand in the first frames.
            What::Any(granule, level) => self.link(START + u64::from(granule % 0x300) * 256, level),
        };
        if let (Some(slot), Some(word)) = (self.slot(store.table, store.entry), word) {
            slot.store(word, Ordering::Relaxed);
        }
    }

    fn accessed(&self, words: usize) {
        let accesses = self.accesses.get() + 1;
        self.accesses.set(accesses);
        self.words.set(self.words.get() + words);
        assert!(self.words.get() <= MOST_WORDS, "a verb asks for too many words");
        let due = self.stores.borrow().last().is_some_and(|next| accesses > next.after.into());
        if due {
            self.accesses.set(0);
            let store = self.stores.borrow_mut().pop();
            store.into_iter().for_each(|store| self.store(store));
        }
    }
}

impl<F: Format<Stage = Stage1>> ReadMemory<Gpa> for Written<'_, F> {
    pgtable::words_in_place!(Gpa);
}

impl<F: Format<Stage = Stage1>> TableMemory<Gpa> for Written<'_, F> {
    fn word(&self, address: Gpa) -> std::result::Result<&AtomicU64, MemoryError> {
        self.accessed(1);
        self.map.word(address)
    }

    fn table(&self, address: Gpa, words: usize) -> std::result::Result<&[AtomicU64], MemoryError> {
        self.accessed(words);
        self.map.table(address, words)
    }

    fn wrote(&self, address: Gpa, words: usize) {
        self.map.wrote(address, words);
    }
}

/// A guest's allocator, and what it must say.
struct Checked<'m, A> {
    inner: A,
    live: &'m Live,
}

impl<A: TableAllocator<Gpa>> Checked<'_, A> {
    fn took(&self, table: Gpa, layout: TableLayout) {
        let (start, end) = (table.get(), table.get() + layout.bytes() as u64);
        for (&other, &shift) in self.live.borrow().iter() {
            assert!(end <= other || other + (1 << shift) <= start, "{table} is alive already");
        }
        self.live.borrow_mut().insert(start, layout.shift);
    }

    fn is_live(&self, table: Gpa, layout: TableLayout) -> bool {
        self.live.borrow().get(&table.get()) == Some(&layout.shift)
    }
}

impl<A: TableAllocator<Gpa>> TableAllocator<Gpa> for Checked<'_, A> {
    fn allocate(&self, layout: TableLayout) -> std::result::Result<Gpa, AllocError> {
        let table = self.inner.allocate(layout)?;
        self.took(table, layout);
        Ok(table)
    }

    fn allocate_stale(&self, layout: TableLayout) -> std::result::Result<Gpa, AllocError> {
        let table = self.inner.allocate_stale(layout)?;
        self.took(table, layout);
        Ok(table)
    }

    fn free(
        &self,
        table: Gpa,
        layout: TableLayout,
        contents: Contents,
    ) -> std::result::Result<(), AllocError> {
        let freed = self.inner.free(table, layout, contents);
        assert_eq!(freed.is_ok(), self.is_live(table, layout), "the free of {table}, {layout:?}");
        if freed.is_ok() {
            self.live.borrow_mut().remove(&table.get());
        }
        freed
    }

    fn state(&self, table: Gpa, layout: TableLayout) -> Option<&TableState> {
        let state = self.inner.state(table, layout);
        assert_eq!(
            state.is_some(),
            self.is_live(table, layout),
            "the state of {table}, {layout:?}"
        );
        state
    }
}

/// Somebody else's tables in the same frames.
struct Stranger<'f, 'm> {
    cache: Cache<Gpa, Source<'m>, &'f Table<'m>>,
    memory: DirectMap<'m, Gpa>,
    tables: Vec<(Gpa, u8)>,
}

impl Stranger<'_, '_> {
    fn words(&self, (table, shift): (Gpa, u8)) -> &[AtomicU64] {
        self.memory.table(table, 1 << (shift - 3)).expect("within")
    }

    fn pattern(table: Gpa) -> u64 {
        table.get() ^ 0x5555_aaaa_0000_ffff
    }

    fn take(&mut self, shift: u8) {
        if self.tables.len() == 6 {
            return;
        }
        let Ok(table) = self.cache.take(shift) else { return };
        for word in self.words((table, shift)) {
            let before = word.swap(Self::pattern(table), Ordering::Relaxed);
            assert_eq!(before, 0, "{table} is not zeroed");
        }
        self.tables.push((table, shift));
    }

    fn give(&mut self) {
        if let Some((table, shift)) = self.tables.pop() {
            self.cache.give(table, shift, Contents::Stale).expect("alive");
        }
    }

    fn check(&self) {
        for &table in &self.tables {
            let kept = |word: &AtomicU64| word.load(Ordering::Relaxed) == Self::pattern(table.0);
            assert!(
                self.words(table).iter().all(kept),
                "a stranger's table {} was written",
                table.0
            );
        }
    }
}

/// A reader who waits for no other writer: there is none while a verb runs.
struct Alone<'e>(Reader<'e>);

impl ReadSide for Alone<'_> {
    type Reading<'r>
        = Reading<'r>
    where
        Self: 'r;

    fn read(&mut self) -> Reading<'_> {
        self.0.read()
    }

    fn wait(turns: u32) -> bool {
        turns < 4
    }
}

impl DeferringAllocator<Gpa> for Checked<'_, &Allocator<'_, '_>> {
    type Reader<'a>
        = Alone<'a>
    where
        Self: 'a;

    fn reader(&self) -> Option<Alone<'_>> {
        self.inner.reader().map(Alone)
    }
}

type Allocator<'f, 'm> = Deferred<Gpa, Source<'m>, &'f Table<'m>, &'f Epochs>;

fn run<F: Format<Stage = Stage1>>(format: F, input: &mut Unstructured<'_>) {
    WORDS.with(|words| {
        let memory = DirectMap::new(words, Gpa::new(START));
        let source = Region::new(memory, Gpa::new(START), FRAMES, SHIFT).expect("aligned");
        let frames = Frames::new(source).expect("small");
        let epochs = [Epochs::new(1), Epochs::new(1)];
        let mut stranger = Stranger {
            cache: Cache::new(&frames, Owner(9), Kind::User, Policy::Reuse),
            memory,
            tables: Vec::new(),
        };
        let lives = [Live::default(), Live::default()];
        let deferred = [0, 1].map(|guest| -> Allocator<'_, '_> {
            Deferred::new(
                Cache::new(&frames, Owner(guest as u32), Kind::User, Policy::Reuse),
                &epochs[guest],
            )
        });
        {
            let mut guests = [0, 1].map(|guest| {
                let memory = Written {
                    map: memory,
                    format,
                    live: &lives[guest],
                    stores: RefCell::default(),
                    accesses: Cell::new(0),
                    words: Cell::new(0),
                };
                let tables = Checked { inner: &deferred[guest], live: &lives[guest] };
                Some(PageTable::new(format, memory, tables).expect("room for two roots"))
            });
            for _ in 0..MOST {
                if input.is_empty() {
                    break;
                }
                let Ok(stranger_does) = input.arbitrary::<u8>() else { break };
                match stranger_does % 8 {
                    0 => stranger.take(8),
                    1 => stranger.take(12),
                    2 => stranger.give(),
                    _ => {}
                }
                let guest = &mut guests[usize::from(stranger_does >> 7)];
                if let Some(tree) = guest.take() {
                    tree.memory().words.set(0);
                    *guest = step(tree, input);
                }
                check(&frames, &lives, &stranger);
            }
            for guest in guests.into_iter().flatten() {
                destroy(guest);
            }
        }
        check(&frames, &lives, &stranger);
        for (deferred, live) in deferred.iter().zip(&lives) {
            // What a guest unlinked is in no tree any more; its owner finds it by its frames.
            for (&table, &shift) in live.borrow().iter() {
                let frame = frames.try_get(Gpa::new(table)).expect("within").expect("in use");
                assert!(frame.tables().any(|found| found.get() == table));
                deferred.give(Gpa::new(table), shift, Contents::Stale).expect("alive");
            }
            deferred.collect().expect("counted right");
            deferred.cache().close().expect("counted right");
        }
        while !stranger.tables.is_empty() {
            stranger.give();
        }
        stranger.cache.close().expect("counted right");
        assert!(frames.census().all_home(), "{:?}", frames.census());
        assert_eq!(frames.source().available(), FRAMES);
    });
}

fn check(frames: &Table<'_>, lives: &[Live; 2], stranger: &Stranger<'_, '_>) {
    let live = lives.iter().map(|live| live.borrow().len()).sum::<usize>() + stranger.tables.len();
    assert_eq!(frames.census().live as usize, live, "{:?}", frames.census());
    stranger.check();
}

type Tree<'f, 'm, F> = PageTable<F, Written<'f, F>, Checked<'f, &'f Allocator<'f, 'm>>>;

fn destroy<F: Format<Stage = Stage1>>(tree: Tree<'_, '_, F>) {
    tree.memory().words.set(0);
    // What could not be freed is found by the end's count.
    let _ = tree.destroy(Gather::new(&Unused, ()));
}

fn store(input: &mut Unstructured<'_>) -> Result<Store> {
    let (after, table, entry) = (input.arbitrary()?, input.arbitrary()?, input.arbitrary()?);
    let what = match input.arbitrary::<u8>()? % 5 {
        0 => What::Random(input.arbitrary()?),
        1 | 2 => What::Copy(input.arbitrary()?, input.arbitrary()?),
        3 => What::Own(input.arbitrary()?, input.arbitrary()?),
        _ => What::Any(input.arbitrary()?, input.arbitrary()?),
    };
    Ok(Store { after, table, entry, what })
}

/// Some stores of the guest's, now and in the middle of what follows; then a verb, by the tree's
/// one writer or by one of many. `None` if that was its end.
fn step<'f, 'm, F: Format<Stage = Stage1>>(
    mut tree: Tree<'f, 'm, F>,
    input: &mut Unstructured<'_>,
) -> Option<Tree<'f, 'm, F>> {
    let count = input.arbitrary::<u8>().unwrap_or(0) % 4;
    *tree.memory().stores.borrow_mut() = (0..count).map_while(|_| store(input).ok()).collect();
    tree.memory().accesses.set(0);
    let mut byte = || input.arbitrary::<u8>().unwrap_or(0);
    let page = 1u64 << tree.format().geometry().page_shift();
    let at =
        page * (u64::from(byte()) + 500 * u64::from(byte() % 3) + (u64::from(byte() % 2) << 18));
    let bytes = page * (1 + u64::from(byte()) * 5 % PAGES);
    let verb = byte();
    let shared = byte() % 2 == 1;
    let (input, output) = (Gva::new(at), Gpa::new(at + (1 << 30)));
    let prot = if verb & 0x80 == 0 { Prot::RW } else { Prot::R };
    let leaves = if verb & 0x40 == 0 {
        Leaves::Largest
    } else {
        Leaves::Exactly(page.trailing_zeros() as u8)
    };
    let mut gather = Gather::new(&Unused, ());
    let mut bits = vec![0; PAGES as usize / 64 + 1];
    if shared {
        let shared = SharedPageTable::from(tree);
        let writer = shared.writer().expect("the only one");
        match verb % 8 {
            0..3 => fine(writer.map(input, output, bytes, prot.into(), leaves)),
            3 | 4 => fine(writer.unmap(input, bytes, &mut gather)),
            5 => fine(writer.protect(input, bytes, prot, &mut gather)),
            6 => fine(writer.promote(input, bytes, &mut gather)),
            _ => fine(writer.harvest(
                input,
                bytes,
                Recorded::Accessed,
                Writers::Running,
                &mut bits,
                &mut gather,
            )),
        }
        let _ = writer.translate(input, Access::WRITE);
        drop(writer);
        // A guest's second way to a table can be refused here.
        let _ = gather.finish(shared.tables());
        tree = shared.into_inner();
    } else {
        match verb % 16 {
            0..4 => fine(tree.map(input, output, bytes, prot.into(), leaves)),
            4 | 5 => fine(tree.unmap(input, bytes, &mut gather)),
            6 => fine(tree.protect(input, bytes, prot, &mut gather)),
            7 => fine(tree.promote(input, bytes, &mut gather)),
            8 => fine(tree.split(input, bytes, page.trailing_zeros() as u8, &mut gather)),
            9 => fine(tree.remap(input, output, bytes, prot.into(), leaves, &mut gather)),
            10 => {
                let mut cursor = tree.cursor(&mut gather);
                for index in 0..8 {
                    let (input, output) =
                        (Gva::new(at + index * page), Gpa::new(at + index * page));
                    let _ = if index % 3 == 0 {
                        cursor.unmap(input).map(|_| ())
                    } else {
                        cursor.map(input, output, prot.into())
                    };
                }
                let _ = cursor.finish();
            }
            11 => {
                let mut asked = 0;
                let _ = tree.relocate(
                    |_, _| {
                        asked += 1;
                        assert!(asked <= 1 << 16, "relocate asks for too many tables");
                        asked % 2 == 0
                    },
                    &mut gather,
                );
            }
            12 => drop(tree.relocate_root(|_| {}, &mut gather)),
            13 => fine(tree.harvest(
                input,
                bytes,
                Recorded::Accessed,
                Writers::Running,
                &mut bits,
                &mut gather,
            )),
            14 => {
                let walker = tree.walker();
                let visited = walker.for_each(input, bytes, |_| ControlFlow::<()>::Continue(()));
                fine(visited);
                let _ = walker.access(input, Access::WRITE);
            }
            _ => {
                drop(gather);
                destroy(tree);
                return None;
            }
        }
        let _ = gather.finish(tree.tables());
    }
    tree.memory().stores.borrow_mut().clear();
    Some(tree)
}

/// Any error but one that blames the embedder.
fn fine<T>(result: std::result::Result<T, RangeError<Gva>>) {
    if let Err(RangeError { error, .. }) = result {
        assert!(!matches!(error, Error::Range | Error::Contended), "{error}");
    }
}
