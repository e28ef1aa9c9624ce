//! `H_PROTECT`: other permissions.

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{HcallFlags, Hcalls, Partition};
use crate::hash::hpte::HpteR;
use crate::hash::return_code::ReturnCode;

impl HcallFlags {
    /// `r` with the page protection, key and no-execute bit that the flags hold.
    fn applied_to(self, r: HpteR) -> HpteR {
        r.with_pp0(self.pp0())
            .with_pp(self.pp())
            .with_key_high(self.key_high())
            .with_key_low(self.key_low())
            .with_n(self.n())
    }
}

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_PROTECT`: gives entry `ptex` the page protection, key and no-execute bit that stand in
    /// `flags`; with `AVPN` only if its segment size and AVPN are `avpn`. Its translation is
    /// forgotten, whatever changed; R and C are kept.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table. `H_NOT_FOUND`.
    pub fn protect(&self, flags: HcallFlags, ptex: u64, avpn: u64) -> Result<(), ReturnCode> {
        let mut locked = self.lock(flags.with_andcond(false), ptex, avpn)?;
        let before = self.decode(locked.v(), locked.r());
        locked.hide();
        self.invalidate(before, ptex);
        // What changes has the same place in both layouts.
        locked.update_r(|r| flags.applied_to(HpteR::from_bits(r)).into_bits());
        Ok(())
    }
}
