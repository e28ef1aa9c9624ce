//! `H_CLEAR_REF` and `H_CLEAR_MOD`: was the page used, was it written, since the last time?

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{HcallFlags, Hcalls, Partition};
use crate::hash::hpte::HpteR;
use crate::hash::return_code::ReturnCode;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_CLEAR_REF`: clears R of entry `ptex`; returns the second doubleword from before.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table. `H_NOT_FOUND`.
    pub fn clear_ref(&self, ptex: u64) -> Result<HpteR, ReturnCode> {
        self.clear(ptex, |r| r.with_r(false))
    }

    /// `H_CLEAR_MOD`: clears C of entry `ptex`; returns the second doubleword from before, when no
    /// store by the old translation can come any more.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table. `H_NOT_FOUND`.
    pub fn clear_mod(&self, ptex: u64) -> Result<HpteR, ReturnCode> {
        self.clear(ptex, |r| r.with_c(false))
    }

    fn clear(&self, ptex: u64, change: impl Fn(HpteR) -> HpteR) -> Result<HpteR, ReturnCode> {
        let mut locked = self.lock(HcallFlags::new(), ptex, 0)?;
        let (v, r) = (locked.v(), locked.r());
        locked.hide();
        self.invalidate(self.decode(v, r), ptex);
        let before = locked.update_r(|r| change(HpteR::from_bits(r)).into_bits());
        Ok(self.decode(v, before).r)
    }
}
