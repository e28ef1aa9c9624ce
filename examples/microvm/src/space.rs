//! An address space: a process's tree, made of tables from that process's own cache, and how to
//! change it.

use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::format::Format;
use pgtable::invalidate::{Finished, Gather, Invalidate};
use pgtable::memory::GuestTables;
use pgtable::tree::{PageTable, Recorded, Writers};
use pgtable::{Gpa, Gva, Leaves, Prot, Stage1};

use crate::report::Failure;

/// The frames that tables come from: a range of guest memory.
pub type Source<'m> = Region<Gpa, GuestTables<'m, Gpa>>;
/// Their frame table.
pub type TableFrames<'m> = Frames<Gpa, Source<'m>>;
/// The tables of one address space.
pub type TableCache<'a> = Cache<Gpa, Source<'a>, &'a TableFrames<'a>>;
/// The tree.
type Tree<'a, F> = PageTable<F, &'a GuestTables<'a, Gpa>, &'a TableCache<'a>>;

/// The cache of process `pid`.
pub fn cache<'a>(frames: &'a TableFrames<'a>, pid: u32) -> TableCache<'a> {
    let kind = if pid == 0 { Kind::Kernel } else { Kind::User };
    Cache::new(frames, Owner(pid), kind, Policy::Reuse)
}

/// A process's address space.
pub struct Space<'a, F: Format<Stage = Stage1>, I> {
    pub pid: u32,
    tree: Tree<'a, F>,
    shootdown: &'a I,
}

impl<'a, F, I> Space<'a, F, I>
where
    F: Format<Stage = Stage1>,
    I: Invalidate<Stage1, Identity = u32>,
{
    /// An empty one.
    pub fn new(
        pid: u32,
        format: F,
        tables: &'a GuestTables<'a, Gpa>,
        shootdown: &'a I,
        cache: &'a TableCache<'a>,
    ) -> Result<Self, Failure> {
        Ok(Self { pid, tree: PageTable::new(format, tables, cache)?, shootdown })
    }

    /// Where the root is.
    pub fn root(&self) -> Gpa {
        self.tree.root()
    }

    /// Its format.
    pub fn format(&self) -> &F {
        self.tree.format()
    }

    /// Maps. Nothing is stale after it: no processor here remembers that a page was absent, and KVM
    /// looks again at a fault.
    pub fn map(
        &mut self,
        input: u64,
        output: u64,
        bytes: u64,
        attributes: F::Attributes,
        leaves: Leaves,
    ) -> Result<(), Failure> {
        Ok(self.tree.map(Gva::new(input), Gpa::new(output), bytes, attributes, leaves)?)
    }

    /// Unmaps, invalidates, frees; returns how many bytes were mapped.
    pub fn unmap(&mut self, input: u64, bytes: u64) -> Result<(u64, Finished), Failure> {
        let mut gather = Gather::new(self.shootdown, self.pid);
        let unmapped = self.tree.unmap(Gva::new(input), bytes, &mut gather)?;
        Ok((unmapped, gather.finish(self.tree.tables())?))
    }

    /// Changes what is allowed, and invalidates; returns how many bytes were mapped.
    pub fn protect(
        &mut self,
        input: u64,
        bytes: u64,
        prot: Prot,
    ) -> Result<(u64, Finished), Failure> {
        let mut gather = Gather::new(self.shootdown, self.pid);
        let changed = self.tree.protect(Gva::new(input), bytes, prot, &mut gather)?;
        Ok((changed, gather.finish(self.tree.tables())?))
    }

    /// Takes the dirty bits of a range, which is one of whole pages: a bit for each page.
    pub fn harvest(&mut self, input: u64, bytes: u64) -> Result<Vec<u64>, Failure> {
        let pages = bytes >> self.format().geometry().page_shift();
        let mut bits = vec![0; pages.div_ceil(64) as usize];
        let mut gather = Gather::new(self.shootdown, self.pid);
        let (dirty, stopped) = (Recorded::Dirty, Writers::Stopped);
        self.tree.harvest(Gva::new(input), bytes, dirty, stopped, &mut bits, &mut gather)?;
        gather.finish(self.tree.tables())?;
        Ok(bits)
    }

    /// Invalidates everything, and frees every table.
    pub fn destroy(self) -> Result<Finished, Failure> {
        let gather = Gather::new(self.shootdown, self.pid);
        self.tree.destroy(gather).map_err(|(_, error)| error.into())
    }
}
