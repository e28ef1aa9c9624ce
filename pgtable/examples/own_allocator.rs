//! An allocator of one's own: tables of one page each, from a list of free pages.
//!
//! `frag-alloc` is the one that this project ships; this is what the trait asks for.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use pgtable::allocator::{AllocError, Contents, TableAllocator, TableLayout, TableState};
use pgtable::invalidate::{Gather, Unused};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::{Gpa, Hpa, Leaves, Prot};
use pgtable_x86::{Ept, EptControls, Levels};

const PAGE: u64 = 4096;
const WORDS: usize = PAGE as usize / 8;

struct Pages<'m> {
    words: &'m [AtomicU64],
    /// One for each page: what the tree notes of the table there.
    states: Vec<TableState>,
    free: RefCell<Vec<u64>>,
}

impl<'m> Pages<'m> {
    fn new(words: &'m [AtomicU64]) -> Self {
        let pages = words.len() / WORDS;
        let states = (0..pages).map(|_| TableState::new()).collect();
        Self { words, states, free: RefCell::new((0..pages as u64).rev().collect()) }
    }
}

impl TableAllocator<Hpa> for Pages<'_> {
    fn allocate(&self, layout: TableLayout) -> Result<Hpa, AllocError> {
        if layout.bytes() as u64 != PAGE {
            return Err(AllocError::Unsupported { layout });
        }
        let page = self.free.borrow_mut().pop().ok_or(AllocError::Exhausted { layout })?;
        Ok(Hpa::new(page * PAGE))
    }

    fn free(&self, table: Hpa, layout: TableLayout, contents: Contents) -> Result<(), AllocError> {
        if self.state(table, layout).is_none() {
            return Err(AllocError::NotLive { address: table.get() });
        }
        let page = table.get() / PAGE;
        if contents == Contents::Stale {
            let words = &self.words[page as usize * WORDS..][..WORDS];
            words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
        }
        self.free.borrow_mut().push(page);
        Ok(())
    }

    /// Only for tables that are handed out: by this the tree knows its own tables from others.
    fn state(&self, table: Hpa, layout: TableLayout) -> Option<&TableState> {
        let page = table.get() / PAGE;
        let aligned = table.get() % PAGE == 0 && layout.bytes() as u64 == PAGE;
        let live = aligned && !self.free.borrow().contains(&page);
        self.states.get(usize::try_from(page).ok()?).filter(|_| live)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<_> = (0..16 * WORDS).map(|_| AtomicU64::new(0)).collect();
    let pages = Pages::new(&words);
    let memory = DirectMap::new(&words, Hpa::new(0));
    let ept = Ept::new(Levels::Four, EptControls::new());
    let mut tree = PageTable::new(ept, memory, &pages)?;
    tree.map(Gpa::new(0), Hpa::new(0x1234_5000), PAGE, Prot::RWX.into(), Leaves::Largest)?;
    println!("{} of 16 tables are in use", 16 - pages.free.borrow().len());
    tree.destroy(Gather::new(&Unused, ())).map_err(|(_, error)| error)?;
    assert_eq!(pages.free.borrow().len(), 16);
    Ok(())
}
