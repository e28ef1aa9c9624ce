//! The hypercalls on a hashed page table (PAPR, LoPAPR 14.5.4.1), for a hypervisor that keeps the
//! table of a partition.
//!
//! [`Hcalls`] has a method for each call, with typed results, and [`Hcalls::call`] for the
//! registers as a guest fills them. What a call needs beside the table (is there memory at this
//! address? forget this translation!) it asks of a [`Partition`].
//!
//! Where hypervisors differ, [`Dialect`] says whom to follow, row by row.

mod bulk_remove;
mod clear;
mod dialect;
mod enter;
mod flags;
mod page_init;
mod protect;
mod read;
mod registers;
mod remove;

use core::sync::atomic::AtomicU64;

use pgtable::memory::TableMemory;
use pgtable::{Address, Gpa};

pub use bulk_remove::{BulkAnswer, BulkKind, BulkRequest};
pub use dialect::Dialect;
pub use flags::HcallFlags;
pub use registers::{Answer, Hcall};

use super::hpte::{Hpte, HpteV};
use super::page_size::PageSize;
use super::return_code::ReturnCode;
use super::slot::{Locked, Slot};
use super::table::{Hpt, HptError};
use super::tlbie::HashTlbie;

/// What stands at a guest real address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Storage {
    /// The partition's memory.
    Memory,
    /// The partition's memory, but in pieces that are smaller than the page, so that no processor
    /// could have one translation for it: the call is refused. A host that backs its guests' memory
    /// with small pages has this (`Supported::limited_by_backing`).
    SmallerPages,
    /// Anything else: a device, emulated or passed through.
    Device,
}

/// An action on the partition's memory could not be done.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, thiserror::Error)]
#[error("not in the partition's memory")]
pub struct Refused;

/// What the hypercalls need from the partition whose table it is.
pub trait Partition {
    /// Makes the translation of an entry that was just hidden unreachable, on every processor,
    /// before it returns.
    fn invalidate(&self, operand: HashTlbie);

    /// What stands at the page of `size` at `page`.
    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        let _ = (page, size);
        Storage::Memory
    }

    /// Fills the page of `size` at `page` with zeros.
    ///
    /// # Errors
    /// [`Refused`].
    fn zero(&self, page: Gpa, size: PageSize) -> Result<(), Refused>;

    /// Copies the 4 KiB page at `from` to `to`.
    ///
    /// # Errors
    /// [`Refused`].
    fn copy(&self, to: Gpa, from: Gpa) -> Result<(), Refused>;

    /// Makes instruction fetches from the 4 KiB page at `page` see what was stored there.
    fn synchronize_instructions(&self, page: Gpa) {
        let _ = page;
    }
}

/// The hypercalls on a table, for one partition.
#[derive(Debug)]
pub struct Hcalls<'h, A, M, P> {
    hpt: &'h Hpt<A, M>,
    partition: &'h P,
    dialect: Dialect,
}

impl<'h, A: Address, M: TableMemory<A>, P: Partition> Hcalls<'h, A, M, P> {
    /// The hypercalls on `hpt`.
    pub fn new(hpt: &'h Hpt<A, M>, partition: &'h P, dialect: Dialect) -> Self {
        Self { hpt, partition, dialect }
    }

    fn slot(&self, ptex: u64) -> Result<Slot<'h, AtomicU64>, ReturnCode> {
        self.hpt.slot(ptex).map_err(HptError::from)?.ok_or(ReturnCode::Parameter)
    }

    /// Locks entry `ptex` if it is valid and fits what `flags` ask of `avpn`.
    fn lock(
        &self,
        flags: HcallFlags,
        ptex: u64,
        avpn: u64,
    ) -> Result<Locked<'h, AtomicU64>, ReturnCode> {
        let slot = self.slot(ptex)?;
        let locked = slot
            .lock_if(|v| v & HpteV::V != 0)
            .map_err(HptError::from)?
            .ok_or(ReturnCode::NotFound)?;
        let v = self.decode(locked.v(), locked.r()).v.visible().into_bits();
        let fits =
            (!flags.avpn() || v & HpteV::PAGE == avpn) && (!flags.andcond() || v & avpn == 0);
        if fits { Ok(locked) } else { Err(ReturnCode::NotFound) }
    }

    fn decode(&self, v: u64, r: u64) -> Hpte {
        self.hpt.layout().decode([v, r])
    }

    /// Has the translation of `hpte` at `ptex` forgotten. One that names no page size has none.
    fn invalidate(&self, hpte: Hpte, ptex: u64) {
        if let Some(operand) = HashTlbie::of(hpte, ptex) {
            self.partition.invalidate(operand);
        }
    }
}
