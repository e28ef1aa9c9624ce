//! Memory to build tables in, files of it, and the program.

use std::cell::Cell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::format::{Format, Input, Output as OutputOf};
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::PageTable;
use pgtable::{Address, Attributes, Leaves, Prot};
use serde_json::Value;
use tempfile::TempDir;

/// Memory from physical address `start` on.
pub struct Memory {
    pub start: u64,
    pub words: Vec<AtomicU64>,
}

impl Memory {
    pub fn new(start: u64, bytes: usize) -> Self {
        Self { start, words: (0..bytes / 8).map(|_| AtomicU64::new(0)).collect() }
    }

    pub fn map<A: Address>(&self) -> DirectMap<'_, A> {
        DirectMap::new(&self.words, A::new(self.start))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
    }

    pub fn put<A: Address>(&self, address: u64, word: u64) {
        self.map::<A>().word(A::new(address)).unwrap().store(word, Ordering::Relaxed);
    }
}

/// Tables one after the other from an address on, each aligned to its size. None comes back.
pub struct Bump<'m> {
    memory: &'m Memory,
    /// Of what begins at each multiple of 256 bytes.
    states: Vec<TableState>,
    pub next: Cell<u64>,
    pub count: Cell<u64>,
}

impl<'m> Bump<'m> {
    pub fn new(memory: &'m Memory, first: u64) -> Self {
        let states = (0..memory.words.len() / 32).map(|_| TableState::new()).collect();
        Self { memory, states, next: Cell::new(first), count: Cell::new(0) }
    }
}

impl<A: Address> TableAllocator<A> for Bump<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<A, AllocError> {
        let table = self.next.get().next_multiple_of(layout.bytes() as u64);
        let end = self.memory.start + self.memory.words.len() as u64 * 8;
        if table + layout.bytes() as u64 > end {
            return Err(AllocError::Exhausted { layout });
        }
        self.next.set(table + layout.bytes() as u64);
        self.count.set(self.count.get() + 1);
        Ok(A::new(table))
    }

    fn free(&self, _: A, _: TableLayout, _: Contents) -> Result<(), AllocError> {
        Ok(())
    }

    fn state(&self, table: A, _: TableLayout) -> Option<&TableState> {
        let within = table.get().checked_sub(self.memory.start)?;
        self.states.get((within / 256) as usize).filter(|_| table.get() < self.next.get())
    }
}

/// One mapping: from, to, bytes, page size, protection.
pub type Row = (u64, u64, u64, u8, Prot);

/// Builds a tree; returns its root and how many tables it has.
pub fn build<F: Format>(format: F, memory: &Memory, first: u64, rows: &[Row]) -> (u64, u64) {
    let tables = Bump::new(memory, first);
    let mut tree = PageTable::new(format, memory.map::<OutputOf<F>>(), &tables).unwrap();
    for &(from, to, bytes, shift, prot) in rows {
        let (from, to) = (Input::<F>::new(from), OutputOf::<F>::new(to));
        let attributes = F::Attributes::from(prot);
        assert_eq!(attributes.prot().with_user(false), prot.with_user(false));
        tree.map(from, to, bytes, attributes, Leaves::Exactly(shift)).unwrap();
    }
    (tree.root().get(), tables.count.get())
}

/// A folder of images, and the program.
pub struct Bench {
    pub folder: TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// The program.
pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ptdump"))
}

/// The commands that ask an image.
const COMMANDS: [&str; 11] = [
    "list",
    "translate",
    "explain",
    "reverse",
    "audit",
    "read",
    "search",
    "ps",
    "stats",
    "diff",
    "info",
];

/// Runs the program with these words, in which a command may stand anywhere (else it is `list`), on
/// an image.
pub fn ptdump(image: &Path, words: &str) -> Output {
    let mut words: Vec<_> = words.split_whitespace().collect();
    let command = words.iter().position(|word| COMMANDS.contains(word));
    let command = command.map_or("list", |at| words.remove(at));
    program().arg(command).arg(image).args(words).output().unwrap()
}

/// Its exit status, and what it says on standard output as JSON: all of it.
pub fn whole_json(image: &Path, words: &str) -> (i32, Value) {
    let output = ptdump(image, &format!("{words} --json"));
    let text = String::from_utf8(output.stdout).unwrap();
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!("{words}: {error}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    crate::schema::check(&value);
    (output.status.code().unwrap(), value)
}

/// Its exit status, and the answer in what it says.
pub fn json(image: &Path, words: &str) -> (i32, Value) {
    let (status, mut value) = whole_json(image, words);
    let keys = [
        "ranges",
        "translations",
        "explanation",
        "aliases",
        "findings",
        "pieces",
        "matches",
        "stats",
        "processes",
        "differences",
    ];
    let key = keys.into_iter().find(|key| value.get(key).is_some());
    (status, key.map_or(Value::Null, |key| value[key].take()))
}

/// Its exit status, and what it says.
pub fn text(image: &Path, words: &str) -> (i32, String, String) {
    let output = ptdump(image, words);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

pub fn number(value: &Value) -> Option<u64> {
    u64::from_str_radix(value.as_str()?.strip_prefix("0x")?, 16).ok()
}

/// Each range of a list: va, pa, bytes, page size.
pub fn ranges(list: &Value) -> Vec<(u64, Option<u64>, u64, Option<u64>)> {
    let range = |it: &Value| {
        (
            number(&it["va"]).unwrap(),
            number(&it["pa"]),
            it["bytes"].as_u64().unwrap(),
            it["size"].as_u64(),
        )
    };
    list.as_array().unwrap().iter().map(range).collect()
}
