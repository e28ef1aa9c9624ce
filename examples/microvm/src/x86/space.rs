//! An address space: a process's tree, made of tables from that process's own cache, and how to
//! change it.

use arch_x86::{LongMode, PageAttributes};
use pgtable::{Finished, Format, Gather, Gpa, GuestTables, Gva, Leaves, PageTable, Prot};

use super::shootdown::Shootdown;
use crate::report::Failure;
use crate::space::TableCache;

/// The tree.
type Tree<'a> = PageTable<LongMode, &'a GuestTables<'a, Gpa>, &'a TableCache<'a>>;

/// A process's address space.
pub struct Space<'a> {
    pub pid: u32,
    tree: Tree<'a>,
    shootdown: &'a Shootdown<'a>,
}

impl<'a> Space<'a> {
    /// An empty one.
    pub fn new(
        pid: u32,
        format: LongMode,
        tables: &'a GuestTables<'a, Gpa>,
        shootdown: &'a Shootdown<'a>,
        cache: &'a TableCache<'a>,
    ) -> Result<Self, Failure> {
        Ok(Self { pid, tree: PageTable::new(format, tables, cache)?, shootdown })
    }

    /// Where the root is.
    pub fn root(&self) -> Gpa {
        self.tree.root()
    }

    /// Whether there are pages of `2^shift` bytes.
    pub fn has_leaf(&self, shift: u8) -> bool {
        self.tree.format().geometry().leaf(shift).is_some()
    }

    /// Maps. Nothing is stale after it: the processor does not remember that a page was absent, and
    /// KVM looks again at a fault.
    pub fn map(
        &mut self,
        input: u64,
        output: u64,
        bytes: u64,
        attributes: PageAttributes,
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

    /// Invalidates everything, and frees every table.
    pub fn destroy(self) -> Result<Finished, Failure> {
        let gather = Gather::new(self.shootdown, self.pid);
        self.tree.destroy(gather).map_err(|(_, error)| error.into())
    }
}
