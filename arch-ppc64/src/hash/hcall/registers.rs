//! The calls as a guest makes them: numbers in registers.

use pgtable::memory::TableMemory;
use pgtable::{Address, Gpa};

use super::{BulkRequest, HcallFlags, Hcalls, Partition};
use crate::hash::hpte::{HpteR, HpteV};
use crate::hash::return_code::ReturnCode;

/// The number of a hypercall on a hashed page table (r3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u64)]
#[non_exhaustive]
pub enum Hcall {
    /// `H_REMOVE`
    Remove = 0x04,
    /// `H_ENTER`
    Enter = 0x08,
    /// `H_READ`
    Read = 0x0c,
    /// `H_CLEAR_MOD`
    ClearMod = 0x10,
    /// `H_CLEAR_REF`
    ClearRef = 0x14,
    /// `H_PROTECT`
    Protect = 0x18,
    /// `H_PAGE_INIT`
    PageInit = 0x2c,
    /// `H_BULK_REMOVE`
    BulkRemove = 0x124,
    /// `H_RESIZE_HPT_PREPARE`: see [`Resize`](crate::hash::Resize).
    ResizeHptPrepare = 0x36c,
    /// `H_RESIZE_HPT_COMMIT`: see [`Resize`](crate::hash::Resize).
    ResizeHptCommit = 0x370,
}

impl Hcall {
    /// All.
    pub const ALL: [Self; 10] = [
        Self::Remove,
        Self::Enter,
        Self::Read,
        Self::ClearMod,
        Self::ClearRef,
        Self::Protect,
        Self::PageInit,
        Self::BulkRemove,
        Self::ResizeHptPrepare,
        Self::ResizeHptCommit,
    ];

    /// The call of this number.
    #[must_use]
    pub fn of_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|call| call.number() == number)
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self as u64
    }
}

/// What a guest gets back.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Answer {
    /// r3.
    pub code: ReturnCode,
    /// r4 to r12: as they were, but for those in which the call returns something.
    pub values: [u64; 9],
}

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// Carries out the call of this number (r3) with these arguments (r4 to r12). `H_FUNCTION` for
    /// one that is not this table's: resizing too, which concerns two tables.
    #[must_use]
    pub fn call(&self, number: u64, arguments: [u64; 9]) -> Answer {
        let mut values = arguments;
        let code = match self.carry_out(number, &mut values) {
            Ok(()) => ReturnCode::Success,
            Err(code) => code,
        };
        Answer { code, values }
    }

    fn carry_out(&self, number: u64, values: &mut [u64; 9]) -> Result<(), ReturnCode> {
        let [first, second, third, fourth, ..] = *values;
        let flags = HcallFlags::from_bits(first);
        match Hcall::of_number(number).ok_or(ReturnCode::Function)? {
            Hcall::Remove => {
                let hpte = self.remove(flags, second, third)?;
                values[..2].copy_from_slice(&[hpte.v.into_bits(), hpte.r.into_bits()]);
            }
            Hcall::Enter => {
                values[0] =
                    self.enter(flags, second, HpteV::from_bits(third), HpteR::from_bits(fourth))?;
            }
            Hcall::Read if flags.read_4() => {
                for (pair, hpte) in values.chunks_exact_mut(2).zip(self.read_4(second)?) {
                    pair.copy_from_slice(&[hpte.v.into_bits(), hpte.r.into_bits()]);
                }
            }
            Hcall::Read => {
                let hpte = self.read(second)?;
                values[..2].copy_from_slice(&[hpte.v.into_bits(), hpte.r.into_bits()]);
            }
            Hcall::ClearMod => values[0] = self.clear_mod(second)?.into_bits(),
            Hcall::ClearRef => values[0] = self.clear_ref(second)?.into_bits(),
            Hcall::Protect => self.protect(flags, second, third)?,
            Hcall::PageInit => self.page_init(flags, Gpa::new(second), Gpa::new(third))?,
            Hcall::BulkRemove => return self.bulk_remove_registers(values),
            Hcall::ResizeHptPrepare | Hcall::ResizeHptCommit => return Err(ReturnCode::Function),
        }
        Ok(())
    }

    /// The answers stand in the registers even if the call failed.
    fn bulk_remove_registers(&self, values: &mut [u64; 9]) -> Result<(), ReturnCode> {
        let mut requests = [(BulkRequest::new(), 0); 4];
        for (request, pair) in requests.iter_mut().zip(values.chunks_exact(2)) {
            *request = (BulkRequest::from_bits(pair[0]), pair[1]);
        }
        let result = self.bulk_remove(&mut requests);
        for ((request, _), pair) in requests.iter().zip(values.chunks_exact_mut(2)) {
            pair[0] = request.into_bits();
        }
        result
    }
}
