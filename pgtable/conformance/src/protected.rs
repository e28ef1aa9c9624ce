//! A store that was recorded is told of by the next harvest, whatever happened to the right to
//! write in between.

use pgtable::format::{Format, Input, Output};
use pgtable::invalidate::Gather;
use pgtable::tree::{Recorded, Writers};
use pgtable::walk::LeafOf;
use pgtable::{Access, Address, Attributes, Leaves, Prot};

use crate::machine::{Machine, Tree};
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::records::records_by_itself;
use crate::tree::ARENA;

/// Stores beside verbs that take the right to write, on a tree of `format` whose hardware records
/// them.
///
/// # Panics
/// If a harvest tells of anything else than the leaves that were written.
pub fn kept<F: Format>(format: F, caches: Caches) {
    let (bits, geometry) = (crate::words::bits(&format), format.geometry());
    if !bits.accessed.exists() || !bits.dirty.exists() || !records_by_itself(format) {
        return;
    }
    let Some((rw, _)) = crate::words::usable(&format) else { return };
    // Two groups, or as many pages.
    let pages = 2u64 << geometry.largest_group(pgtable::Level(0)).max(3);
    if pages << geometry.page_shift() > 1 << (geometry.address_bits() - 1) {
        return;
    }
    for leaves in [Leaves::Largest, Leaves::Exactly(geometry.page_shift())] {
        for written in [0, 5, pages - 1] {
            for case in CASES {
                let arena = Arena::new(ARENA);
                let tables = Tables::new(&arena);
                let machine = Machine::new(format, &arena, &tables, caches);
                let mut pages = Written::new(&machine, pages, rw, leaves);
                case.run(&mut pages, written);
                machine.destroy(pages.tree);
            }
        }
    }
}

/// What happens between the store and the harvest.
#[derive(Clone, Copy, Debug)]
enum Case {
    /// Nothing.
    Nothing,
    /// All pages lose the right to write.
    All,
    /// Some pages lose the right to write: a group is broken.
    Part,
    /// All attributes are replaced by others without the right to write.
    Replaced,
    /// The store comes while the right to write is taken, after the leaf was judged.
    Meanwhile,
    /// The right is taken and given back.
    Back,
}

const CASES: [Case; 6] =
    [Case::Nothing, Case::All, Case::Part, Case::Replaced, Case::Meanwhile, Case::Back];

impl Case {
    fn run<F: Format>(self, pages: &mut Written<'_, F>, written: u64) {
        let all = (0, pages.count);
        if !matches!(self, Self::Meanwhile) {
            pages.store(written);
        }
        let leaf = pages.leaf(written);
        match self {
            Self::Nothing => {}
            Self::All => pages.protect(all),
            Self::Part => pages.protect((written & !1, 1)),
            Self::Replaced => pages.replace(all),
            Self::Meanwhile => pages.protect_beside_a_store(all, written),
            Self::Back => {
                pages.protect(all);
                pages.unprotect(all);
            }
        }
        // What a group recorded counts for all of its pages.
        assert_eq!(pages.harvest(), leaf, "{self:?}, a store at page {written}");
        pages.verify();
        assert_eq!(pages.harvest(), (0, 0), "{self:?}, told of twice");
        pages.unprotect(all);
        assert_eq!(pages.harvest(), (0, 0), "{self:?}, the right to write is no store");
        pages.store(written);
        assert_ne!(pages.harvest().1, 0, "{self:?}, the next store");
    }
}

/// Clean pages from the lowest address on.
struct Written<'m, F: Format> {
    machine: &'m Machine<'m, F>,
    tree: Tree<'m, F>,
    gather: Gather<'m, F::Stage, Machine<'m, F>>,
    count: u64,
    rw: Prot,
}

impl<'m, F: Format> Written<'m, F> {
    fn new(machine: &'m Machine<'m, F>, count: u64, rw: Prot, leaves: Leaves) -> Self {
        let tree = machine.tree().expect("room for a root");
        let mut this = Self { machine, tree, gather: machine.gather(), count, rw };
        let (start, bytes) = this.range((0, count));
        let output = Output::<F>::new(0);
        this.tree.map(start, output, bytes, rw.into(), leaves).expect("nothing fails");
        // They were marked when they were mapped.
        assert_eq!(this.harvest(), (0, count));
        this
    }

    fn format(&self) -> F {
        *self.tree.format()
    }

    fn range(&self, (first, count): (u64, u64)) -> (Input<F>, u64) {
        let shift = self.format().geometry().page_shift();
        (self.format().address(first << shift), count << shift)
    }

    fn finish(&mut self) {
        self.gather.finish(&self.machine).expect("nothing fails");
    }

    /// The first page, and the number of pages, of the leaf of `page`.
    fn leaf(&self, page: u64) -> (u64, u64) {
        let (input, _) = self.range((page, 1));
        let shift = self.format().geometry().page_shift();
        let found = self.tree.walker().query(input).expect("a place in the space");
        let pages = 1 << (found.expect("it is mapped").shift - shift);
        (page & !(pages - 1), pages)
    }

    /// Hardware stores in `page`.
    fn store(&self, page: u64) {
        self.machine.mmu(|mmu| store(&self.format(), mmu, page));
    }

    fn protect(&mut self, pages: (u64, u64)) {
        let (start, bytes) = self.range(pages);
        self.tree.write_protect(start, bytes, &mut self.gather).expect("nothing fails");
        self.finish();
    }

    fn unprotect(&mut self, pages: (u64, u64)) {
        let (start, bytes) = self.range(pages);
        self.tree.protect(start, bytes, self.rw, &mut self.gather).expect("nothing fails");
        self.finish();
    }

    fn replace(&mut self, pages: (u64, u64)) {
        let (start, bytes) = self.range(pages);
        let attributes = F::Attributes::from(self.rw.with_write(false));
        let replaced = self.tree.set_attributes(start, bytes, attributes, &mut self.gather);
        replaced.expect("nothing fails");
        self.finish();
    }

    fn protect_beside_a_store(&mut self, pages: (u64, u64), written: u64) {
        let (start, bytes) = self.range(pages);
        let (format, machine) = (self.format(), self.machine);
        let mut stored = false;
        let edit = |leaf: LeafOf<F>| {
            let offset = format.offset(leaf.input).expect("a place in the space");
            let end = offset + leaf.bytes;
            let at = written << format.geometry().page_shift();
            if !stored && (offset..end).contains(&at) {
                machine.mmu(|mmu| store(&format, mmu, written));
                stored = true;
            }
            leaf.attributes.with_prot(leaf.attributes.prot().with_write(false))
        };
        self.tree.modify(start, bytes, edit, &mut self.gather).expect("nothing fails");
        assert!(stored);
        self.finish();
    }

    /// The first page that was told of, and how many were; they are neighbours.
    fn harvest(&mut self) -> (u64, u64) {
        let (start, bytes) = self.range((0, self.count));
        let mut bitmap = vec![0u64; self.count.div_ceil(64) as usize];
        let (recorded, writers) = (Recorded::Dirty, Writers::Running);
        let told = self
            .tree
            .harvest(start, bytes, recorded, writers, &mut bitmap, &mut self.gather)
            .expect("nothing fails");
        self.finish();
        let told_of = |page: &u64| bitmap[(*page / 64) as usize] >> (page % 64) & 1 == 1;
        let first = (0..self.count).find(told_of).unwrap_or(0);
        assert!((first..first + told).all(|page| told_of(&page)), "{bitmap:x?}");
        (first, told)
    }

    /// What is cached is true, and no group is incomplete.
    fn verify(&self) {
        let shift = self.format().geometry().page_shift();
        self.machine.mmu(|mmu| {
            mmu.verify();
            (0..self.count).for_each(|page| assert!(mmu.look(page << shift).is_some()));
        });
    }
}

fn store<F: Format>(format: &F, mmu: &mut crate::mmu::Mmu<'_, F>, page: u64) {
    let offset = page << format.geometry().page_shift();
    for access in [Access::WRITE, Access::WRITE.by_user()] {
        mmu.walk(offset, access, usize::MAX);
    }
}
