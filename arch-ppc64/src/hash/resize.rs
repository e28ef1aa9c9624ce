//! A table of another size: every entry moved to its new group, and the two hypercalls by which a
//! guest asks for it.

use pgtable::Address;
use pgtable::memory::{MemoryError, TableMemory};

use super::hpte::{Hpte, HpteV};
use super::order::{GROUP_ENTRIES, GROUP_SHIFT, HptOrder};
use super::return_code::ReturnCode;
use super::table::Hpt;
use super::virtual_page::VirtualPage;

/// Which entries a new table has from the old one.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Keep {
    /// Those with the BOLTED bit; a guest makes the others anew when they fault. As KVM and QEMU
    /// do.
    Bolted,
    /// All.
    All,
}

/// What moving entries did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rehashed {
    /// Entries in the new table.
    pub moved: u64,
    /// Entries that are not: not wanted, or their place was taken.
    pub dropped: u64,
}

/// Why the entries could not be moved. The old table is as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResizeError {
    /// Two bolted entries would stand at the same place of the smaller table. (KVM: `ENOSPC`.)
    #[error("two bolted entries meet at entry {ptex:#x} of the smaller table")]
    Collision {
        /// The place in the new table.
        ptex: u64,
    },
    /// The new table is not empty: an entry that was not moved there stands in the way of one that
    /// is to be.
    #[error("the new table is not empty: entry {ptex:#x}")]
    NotEmpty {
        /// The place in the new table.
        ptex: u64,
    },
    /// Part of a table lies outside table memory.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}

impl From<ResizeError> for ReturnCode {
    fn from(error: ResizeError) -> Self {
        match error {
            ResizeError::Collision { .. } => Self::PtegFull,
            ResizeError::NotEmpty { .. } | ResizeError::Memory(_) => Self::Hardware,
        }
    }
}

/// The group of a table of order `to` in which `hpte` stands after resizing, which stands in
/// `group` of one of order `from`; `None` if it names no segment size or no page size.
#[inline]
const fn group_in(hpte: Hpte, group: u64, from: HptOrder, to: HptOrder) -> Option<u64> {
    match VirtualPage::rehash(hpte, group, from) {
        Some(hash) => Some(to.group(hash, hpte.v.h())),
        None => None,
    }
}

impl Hpte {
    /// Where this entry, which stands at `ptex` of a table of order `from`, stands after [`rehash`]
    /// into one of order `to`. `None` if it goes nowhere: it names no segment size or no page size.
    #[must_use]
    pub const fn ptex_in(self, ptex: u64, from: HptOrder, to: HptOrder) -> Option<u64> {
        match group_in(self, ptex >> GROUP_SHIFT, from, to) {
            Some(group) => Some(group << GROUP_SHIFT | ptex & (GROUP_ENTRIES as u64 - 1)),
            None => None,
        }
    }
}

/// Copies the entries of `old` to `new`, which is empty: each to the same place of its new group,
/// primary or secondary as before. So whoever remembers a place and a hash finds it again. In a
/// larger table no two meet that stand in their pages' groups; a guest can put entries into other
/// groups, where nobody finds them, and these may.
///
/// `new` must be empty. That is looked at only where an entry stands in the way; any others stay.
///
/// Nobody may use either table meanwhile. After an error `new` holds whatever was copied until
/// then.
///
/// # Errors
/// [`ResizeError`].
pub fn rehash<A, M, B, N>(
    old: &Hpt<A, M>,
    new: &Hpt<B, N>,
    keep: Keep,
) -> Result<Rehashed, ResizeError>
where
    A: Address,
    M: TableMemory<A>,
    B: Address,
    N: TableMemory<B>,
{
    let mut done = Rehashed::default();
    let mut was_empty = false;
    let (from, to) = (old.layout(), new.layout());
    for group in 0..old.order().groups() {
        let entries = old.group(group)?;
        for index in 0..GROUP_ENTRIES {
            let slot = entries.slot(index);
            let v = slot.v();
            if v & HpteV::V == 0 {
                continue;
            }
            let hpte = from.decode([v, slot.r()]);
            let bolted = hpte.v.bolted();
            let target_group = match group_in(hpte, group, old.order(), new.order()) {
                Some(target) if bolted || keep == Keep::All => target,
                _ => {
                    done.dropped += 1;
                    continue;
                }
            };
            let target = new.group(target_group)?.slot(index);
            let there = HpteV::from_bits(target.v());
            if there.v() {
                let ptex = target_group << GROUP_SHIFT | index as u64;
                // Nobody else uses the table, so that it is enough to look once.
                was_empty = was_empty || count(new)? == done.moved;
                if !was_empty {
                    return Err(ResizeError::NotEmpty { ptex });
                }
                if there.bolted() && bolted {
                    return Err(ResizeError::Collision { ptex });
                }
                done.dropped += 1;
                if there.bolted() || !bolted {
                    continue;
                }
                done.moved -= 1;
            }
            let v = hpte.v.with_hvlock(false).with_modified(true);
            target.put(to.encode(Hpte { v, r: hpte.r }));
            done.moved += 1;
        }
    }
    Ok(done)
}

/// How many valid entries a table has that nobody changes.
#[cold]
fn count<A: Address, M: TableMemory<A>>(hpt: &Hpt<A, M>) -> Result<u64, MemoryError> {
    let mut valid = 0;
    for group in 0..hpt.order().groups() {
        let entries = hpt.group(group)?;
        valid += (0..GROUP_ENTRIES).filter(|&index| entries.slot(index).v() & HpteV::V != 0).count()
            as u64;
    }
    Ok(valid)
}

/// What the hypervisor has to do after a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub enum Action<T> {
    /// Nothing.
    Nothing,
    /// Allocate a zeroed table of this size, at leisure, and hand it to [`Resize::allocated`].
    Allocate(HptOrder),
    /// Free this table, and then, if there is an order, as [`Allocate`](Self::Allocate).
    Free(T, Option<HptOrder>),
}

/// What was prepared.
#[derive(Debug)]
enum Pending<T> {
    Nothing,
    Allocating(HptOrder),
    Ready(HptOrder, T),
    Failed(HptOrder, ReturnCode),
}

/// Resizing as a guest asks for it: `H_RESIZE_HPT_PREPARE` until it succeeds, then
/// `H_RESIZE_HPT_COMMIT` with all its processors stopped.
///
/// `T` is whatever the hypervisor holds a prepared table by.
#[derive(Debug)]
pub struct Resize<T> {
    pending: Pending<T>,
    enabled: bool,
    largest: HptOrder,
}

impl<T> Resize<T> {
    /// Nothing is prepared. The guest may ask for tables up to twice the `recommended` size; if not
    /// `enabled` for none.
    #[must_use]
    pub fn new(enabled: bool, recommended: HptOrder) -> Self {
        let largest = HptOrder::new(u64::from(recommended.get()) + 1).unwrap_or(HptOrder::MAX);
        Self { pending: Pending::Nothing, enabled, largest }
    }

    /// What both calls check first. `None` stands for order 0.
    fn order(&self, flags: u64, shift: u64) -> Result<Option<HptOrder>, ReturnCode> {
        if !self.enabled {
            return Err(ReturnCode::Authority);
        }
        if flags != 0 {
            return Err(ReturnCode::Parameter);
        }
        if shift == 0 {
            return Ok(None);
        }
        HptOrder::new(shift).map(Some).ok_or(ReturnCode::Parameter)
    }

    /// `H_RESIZE_HPT_PREPARE`: a table of `2^shift` bytes; 0 cancels. Answers
    /// `H_LONG_BUSY_ORDER_100_MSEC` until [`allocated`](Self::allocated) was called. Another size
    /// than last time cancels that one.
    pub fn prepare(&mut self, flags: u64, shift: u64) -> (ReturnCode, Action<T>) {
        let wanted = match self.order(flags, shift) {
            Ok(Some(order)) if order > self.largest => {
                return (ReturnCode::Resource, Action::Nothing);
            }
            Ok(wanted) => wanted,
            Err(code) => return (code, Action::Nothing),
        };
        match (&self.pending, wanted) {
            (Pending::Allocating(order), Some(wanted)) if *order == wanted => {
                return (ReturnCode::LongBusy100Ms, Action::Nothing);
            }
            (Pending::Ready(order, _), Some(wanted)) if *order == wanted => {
                return (ReturnCode::Success, Action::Nothing);
            }
            (&Pending::Failed(order, code), Some(wanted)) if order == wanted => {
                self.pending = Pending::Nothing;
                return (code, Action::Nothing);
            }
            _ => {}
        }
        let code = if wanted.is_some() { ReturnCode::LongBusy100Ms } else { ReturnCode::Success };
        let next = wanted.map_or(Pending::Nothing, Pending::Allocating);
        match (core::mem::replace(&mut self.pending, next), wanted) {
            (Pending::Ready(_, table), wanted) => (code, Action::Free(table, wanted)),
            (_, Some(order)) => (code, Action::Allocate(order)),
            (_, None) => (code, Action::Nothing),
        }
    }

    /// The table of `order` that was asked for, or why there is none.
    ///
    /// # Errors
    /// The table, if the guest does not want it any more.
    pub fn allocated(
        &mut self,
        order: HptOrder,
        table: Result<T, ReturnCode>,
    ) -> Result<(), Option<T>> {
        match &self.pending {
            Pending::Allocating(wanted) if *wanted == order => {
                self.pending = match table {
                    Ok(table) => Pending::Ready(order, table),
                    Err(code) => Pending::Failed(order, code),
                };
                Ok(())
            }
            _ => Err(table.ok()),
        }
    }

    /// `H_RESIZE_HPT_COMMIT`: calls `rehash` with the prepared table of `2^shift` bytes. If that
    /// succeeds the table is the guest's from now on, and is returned.
    ///
    /// # Errors
    /// `H_AUTHORITY`, `H_PARAMETER`: as [`prepare`](Self::prepare). `H_CLOSED`: no such table was
    /// prepared, larger ones than the guest may have included; `H_BUSY`: it is not ready yet; what
    /// `rehash` says: then the table is returned too, to be freed, and nothing is prepared any
    /// more.
    pub fn commit(
        &mut self,
        flags: u64,
        shift: u64,
        rehash: impl FnOnce(&T) -> Result<Rehashed, ResizeError>,
    ) -> Result<T, (ReturnCode, Option<T>)> {
        let wanted = self.order(flags, shift).map_err(|code| (code, None))?;
        match core::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Ready(order, table) if Some(order) == wanted => match rehash(&table) {
                Ok(_) => Ok(table),
                Err(error) => Err((error.into(), Some(table))),
            },
            Pending::Failed(order, code) if Some(order) == wanted => Err((code, None)),
            pending => {
                let busy = matches!(pending, Pending::Allocating(order) if Some(order) == wanted);
                self.pending = pending;
                Err((if busy { ReturnCode::Busy } else { ReturnCode::Closed }, None))
            }
        }
    }
}
