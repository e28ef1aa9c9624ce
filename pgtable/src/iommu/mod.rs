//! A page table as `vm-memory`'s IOMMU: what a device emulated in this process (vhost-user, virtio)
//! reads and writes through `IommuMemory` goes through a tree of ours.
//!
//! # Protocol
//! `vm-memory` takes translations as an [`Iotlb`], its interval tree. One interval tree of
//! everything grows slow; here each of `N` *windows* holds one page (or the pages of one small
//! request), found by the page's number. A translation locks a window, walks the tree if the window
//! does not hold what is asked for, and keeps the lock until the translation is dropped, which is
//! after the access. If that window is taken, it uses the next one. Nobody waits for a window, so a
//! thread may hold several.
//!
//! So this IOMMU is to the tree's writer what hardware is: it may walk, and use what it walked,
//! until it is told to forget. [`TableIommu::forget`] returns when every walk and every access that
//! began before has ended; those that begin later see the changed tree, and are not waited for. The
//! embedder's [`Invalidate`](crate::invalidate::Invalidate) calls it; tables that left the tree are
//! then safe to free, with no further grace period for this reader. Nothing is owed after
//! [`map`](crate::tree::PageTable::map) into an empty range: no window keeps that an address did
//! not translate.

extern crate std;

mod windows;

use core::ops::Deref;
use core::sync::atomic::{AtomicU64, Ordering};
use std::string::{String, ToString};
use std::sync::MutexGuard;

use vm_memory::iommu::{Error, Iommu, Iotlb, IotlbIterator, IovaRange};
use vm_memory::{GuestAddress, Permissions};

use crate::access::{Access, AccessKind, Privilege};
use crate::address::{Address, low_bits};
use crate::fault::Fault;
use crate::format::{Format, Input, Output};
use crate::memory::ReadMemory;
use crate::walk::Walker;
use windows::{Window, Windows};

/// The most pages that a window keeps; larger requests are translated each time.
const WINDOW_PAGES: usize = 8;

/// A leaf, as the IOMMU uses it.
#[derive(Clone, Copy)]
struct Piece {
    start: u64,
    /// One past its last address; the very last address of all is left out.
    end: u64,
    output: u64,
    allows: Permissions,
}

/// A tree of format `F` in memory `M`, as an IOMMU for `vm-memory`: I/O virtual addresses are the
/// tree's inputs, the guest addresses of the memory behind are its outputs.
///
/// At most `N` translations can be in use at a time (an `IommuMemory` access uses one). Shared by
/// any number of threads.
///
/// A request costs a walk, and a node of `vm-memory`'s interval tree, for each page of its range,
/// whatever the pages are; so bound the lengths that a guest's descriptors may ask for.
#[derive(Debug)]
pub struct TableIommu<F, M, const N: usize = 256> {
    format: F,
    memory: M,
    root: AtomicU64,
    privilege: Privilege,
    records: bool,
    windows: Windows,
}

impl<F: Format, M: ReadMemory<Output<F>>, const N: usize> TableIommu<F, M, N> {
    /// For the tree of `format` whose root table stands at `root` in `memory`. Devices access it as
    /// a supervisor, and leave no trace in it.
    ///
    /// ```
    /// # use pgtable::iommu::TableIommu;
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let iommu = TableIommu::<_, _, 16>::new(Sv::SV48, memory, tree.root());
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn new(format: F, memory: M, root: Output<F>) -> Self {
        let windows = Windows::new(N.max(1));
        let root = AtomicU64::new(root.get());
        Self { format, memory, root, privilege: Privilege::Supervisor, records: false, windows }
    }

    /// The same for devices that access as user mode does.
    ///
    /// ```
    /// # use pgtable::iommu::TableIommu;
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let iommu = TableIommu::<_, _, 16>::new(Sv::SV48, memory, tree.root()).by_user();
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn by_user(self) -> Self {
        Self { privilege: Privilege::User, ..self }
    }

    /// The same, recording accessed and dirty in the tree as hardware does ([`Walker::access`]).
    ///
    /// ```
    /// # use pgtable::iommu::TableIommu;
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let iommu = TableIommu::<_, _, 16>::new(Sv::SV48, memory, tree.root()).recording();
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn recording(self) -> Self {
        Self { records: true, ..self }
    }

    /// Devices go through the tree at `root` from now on; returns when they have left the old one.
    ///
    /// ```
    /// # use pgtable::iommu::TableIommu;
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let iommu = TableIommu::<_, _, 16>::new(Sv::SV48, memory, tree.root());
    /// let root = tree.relocate_root(|root| iommu.set_root(root), &mut gather)?;
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn set_root(&self, root: Output<F>) {
        self.root.store(root.get(), Ordering::Release);
        self.forget();
    }

    /// Forgets everything, and waits for accesses under way to end: what an
    /// [`Invalidate`](crate::invalidate::Invalidate) does for this IOMMU.
    ///
    /// It waits for each access that began before it was called, and for none that begins later
    /// (while fewer than `N` are under way).
    ///
    /// Must not be called by a thread that holds a translation of it, or it waits for itself.
    ///
    /// ```
    /// # use pgtable::iommu::TableIommu;
    /// # use pgtable_conformance::prelude::*;
    /// # pgtable_conformance::example!(mapped: arena, tables, tree, gather);
    /// # let memory = arena.memory::<Gpa>();
    /// let iommu = TableIommu::<_, _, 16>::new(Sv::SV48, memory, tree.root());
    /// tree.unmap(Gva::new(0x1000), 0x1000, &mut gather)?;
    /// // In the embedder's invalidation.
    /// iommu.forget();
    /// # gather.finish(tree.tables())?;
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    pub fn forget(&self) {
        self.windows.forget();
    }

    /// A window for `iova` that nobody uses.
    #[inline]
    fn window(&self, iova: u64) -> Result<MutexGuard<'_, Window>, Error> {
        // Neighbours get windows of their own, and so do pages at equal distances.
        let page = iova >> self.format.geometry().page_shift();
        self.windows.lock(page ^ (page >> 8) ^ (page >> 16)).ok_or_else(busy)
    }

    /// Walks to every page of `iova..end`; into `window` if they are few, otherwise into an
    /// interval tree of their own.
    #[cold]
    #[inline(never)]
    fn fill(
        &self,
        window: &mut Window,
        iova: u64,
        end: u64,
        access: Permissions,
    ) -> Result<Option<Iotlb>, Error> {
        let root = <Output<F> as Address>::new(self.root.load(Ordering::Acquire));
        let walker = Walker::new(self.format, &self.memory, root);
        let mut filled = Window { allows: Some(Permissions::ReadWrite), ..Window::default() };
        let (mut at, mut pages) = (iova, 0);
        while at < end {
            let piece = match self.piece(&walker, at, access, self.records) {
                Ok(piece) => piece.within(at, end),
                Err(fault) => return Err(self.unresolved(&walker, at, end, access, fault)),
            };
            filled.allows = filled.allows.map(|allows| allows & piece.allows);
            let length = (piece.end - piece.start) as usize;
            let (from, to) = (GuestAddress(piece.start), GuestAddress(piece.output));
            filled.iotlb.set_mapping(from, to, length, piece.allows)?;
            filled.start = if pages == 0 { piece.start } else { filled.start };
            (filled.end, at) = (piece.end, piece.end);
            pages += 1;
        }
        if pages > WINDOW_PAGES {
            return Ok(Some(filled.iotlb));
        }
        window.fill(filled);
        Ok(None)
    }

    /// The leaf at `iova`, which allows `access`.
    fn piece(
        &self,
        walker: &Walker<F, &M>,
        iova: u64,
        access: Permissions,
        records: bool,
    ) -> Result<Piece, Fault<F>> {
        let input = <Input<F> as Address>::new(iova);
        let by = |kind| Access { kind, privilege: self.privilege };
        let (read, write) = (by(AccessKind::Read), by(AccessKind::Write));
        let (translation, allows) = match access {
            // No access is made: any mapping will do.
            Permissions::No => match walker.query(input) {
                Ok(Some(translation)) => (translation, Permissions::No),
                _ => (walker.translate(input, read)?, Permissions::Read),
            },
            // A later access of another kind has to be recorded too: so nothing more is allowed
            // than was asked for.
            Permissions::Read if records => (walker.access(input, read)?, access),
            Permissions::Write if records => (walker.access(input, write)?, access),
            Permissions::ReadWrite if records => {
                walker.translate(input, read)?;
                (walker.access(input, write)?, access)
            }
            Permissions::Read | Permissions::Write | Permissions::ReadWrite => {
                let first = if access == Permissions::Write { write } else { read };
                let (leaf, offset) = walker.find(input, first)?;
                let allows =
                    |access| self.format.check(leaf.word, leaf.at, leaf.path, access).is_ok();
                let allowed = match (allows(read), allows(write)) {
                    (true, true) => Permissions::ReadWrite,
                    (true, false) => Permissions::Read,
                    (false, _) => Permissions::Write,
                };
                if !allowed.allow(access) {
                    walker.find(input, write)?;
                }
                (leaf.translation(&self.format, offset), allowed)
            }
        };
        let within = iova & low_bits(translation.shift);
        let start = iova - within;
        let end = start.saturating_add(1 << translation.shift);
        Ok(Piece { start, end, output: translation.output.get().wrapping_sub(within), allows })
    }

    /// The error for `at`, which does not translate: it names the stretch from there on that does
    /// not, as far as it was asked for.
    fn unresolved(
        &self,
        walker: &Walker<F, &M>,
        at: u64,
        end: u64,
        access: Permissions,
        fault: Fault<F>,
    ) -> Error {
        let mut next = Some(fault);
        let mut stretch = at;
        while let Some(fault) = next.filter(|_| stretch < end) {
            let hole = fault.at.and_then(|entry| (stretch | low_bits(entry.shift)).checked_add(1));
            stretch = hole.unwrap_or(end).min(end);
            next = self.piece(walker, stretch, access, false).err();
        }
        unresolved(at, stretch - at, fault.to_string())
    }
}

impl Piece {
    /// The whole leaf, or the part that is asked for if the leaf is larger than a length can say.
    fn within(self, at: u64, end: u64) -> Self {
        if usize::try_from(self.end - self.start).is_ok() {
            return self;
        }
        let end = self.end.min(end);
        Self { start: at, end, output: self.output.wrapping_add(at - self.start), ..self }
    }
}

/// An [`Iotlb`] with a translation, which stays true while this lives.
#[derive(Debug)]
pub struct Translated<'i> {
    /// The translation, if it is not the window's own.
    apart: Option<Iotlb>,
    window: MutexGuard<'i, Window>,
}

impl Deref for Translated<'_> {
    type Target = Iotlb;

    #[inline]
    fn deref(&self) -> &Iotlb {
        self.apart.as_ref().unwrap_or(&self.window.iotlb)
    }
}

impl<F, M, const N: usize> Iommu for TableIommu<F, M, N>
where
    F: Format,
    M: ReadMemory<Output<F>> + core::fmt::Debug + Send + Sync,
{
    type IotlbGuard<'i>
        = Translated<'i>
    where
        Self: 'i;

    /// # Errors
    /// [`Error::CannotResolve`] with the first stretch of the range that is not mapped or does not
    /// allow `access`, and the fault as reason; [`Error::IommuMisconfigured`] if more than `N`
    /// translations are in use.
    #[inline]
    fn translate(
        &self,
        iova: GuestAddress,
        length: usize,
        access: Permissions,
    ) -> Result<IotlbIterator<Translated<'_>>, Error> {
        let start = iova.0;
        let Some(end) = start.checked_add(length as u64) else {
            return Err(unresolved(start, u64::MAX - start, "the range wraps round".to_string()));
        };
        let mut window = self.window(start)?;
        let held = window.start <= start
            && end <= window.end
            && window.allows.is_some_and(|all| all.allow(access));
        let apart = if held { None } else { self.fill(&mut window, start, end, access)? };
        Iotlb::lookup(Translated { apart, window }, iova, length, access).map_err(|fails| {
            // What was just filled in holds everything.
            let fail = fails.misses.first().or(fails.access_fails.first());
            let range = fail.cloned().unwrap_or(IovaRange { base: iova, length });
            Error::CannotResolve {
                iova_range: range,
                reason: "the translation changed".to_string(),
            }
        })
    }
}

#[cold]
fn busy() -> Error {
    Error::IommuMisconfigured {
        reason: "all windows are in use: make the IOMMU with more".to_string(),
    }
}

#[cold]
fn unresolved(base: u64, length: u64, reason: String) -> Error {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    Error::CannotResolve { iova_range: IovaRange { base: GuestAddress(base), length }, reason }
}
