//! An address space: a process's tree, made of tables from that process's own cache, and how to
//! change it.

use arch_ppc64::radix::{Granule, PageAttributes, ProcessScoped, Quadrants};
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::{Finished, Gather, Gpa, GuestTables, Gva, Leaves, PageTable, Prot};

use crate::machine::Machine;
use crate::report::Failure;
use crate::shootdown::Shootdown;

/// The frames that tables come from: a range of guest memory.
pub type Source<'m> = Region<Gpa, GuestTables<'m, Gpa>>;
/// Their frame table.
pub type TableFrames<'m> = Frames<Gpa, Source<'m>>;
/// The tables of one address space.
pub type TableCache<'a> = Cache<Gpa, Source<'a>, &'a TableFrames<'a>>;
/// The tree.
type Tree<'a> = PageTable<ProcessScoped, &'a GuestTables<'a, Gpa>, &'a TableCache<'a>>;

/// The cache of process `pid`.
pub fn cache<'a>(frames: &'a TableFrames<'a>, pid: u32) -> TableCache<'a> {
    let kind = if pid == 0 { Kind::Kernel } else { Kind::User };
    Cache::new(frames, Owner(pid), kind, Policy::Reuse)
}

/// A process's address space.
pub struct Space<'a> {
    pub pid: u32,
    tree: Tree<'a>,
    shootdown: &'a Shootdown<'a>,
}

impl<'a> Space<'a> {
    /// An empty one.
    pub fn new(pid: u32, machine: Machine<'a>, cache: &'a TableCache<'a>) -> Result<Self, Failure> {
        // Both granules, so that both ways to cut a large leaf are taken.
        let (granule, quadrants) = match pid {
            0 => (Granule::K4, Quadrants::Three),
            _ => (Granule::K64, Quadrants::Zero),
        };
        let format = ProcessScoped::new(granule).with_quadrants(quadrants);
        Ok(Self {
            pid,
            tree: PageTable::new(format, machine.tables, cache)?,
            shootdown: machine.shootdown,
        })
    }

    /// Where the root is.
    pub fn root(&self) -> Gpa {
        self.tree.root()
    }

    /// How last-level tables are made.
    pub fn granule(&self) -> Granule {
        self.tree.format().granule()
    }

    /// Maps. Nothing is stale after it.
    pub fn map(
        &mut self,
        input: u64,
        output: u64,
        bytes: u64,
        prot: Prot,
        leaves: Leaves,
    ) -> Result<(), Failure> {
        Ok(self.tree.map(
            Gva::new(input),
            Gpa::new(output),
            bytes,
            PageAttributes::from(prot),
            leaves,
        )?)
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

    /// Invalidates everything, and frees every table.
    pub fn destroy(self) -> Result<Finished, Failure> {
        let gather = Gather::new(self.shootdown, self.pid);
        self.tree.destroy(gather).map_err(|(_, error)| error.into())
    }
}
