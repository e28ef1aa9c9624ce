//! `H_REMOVE`: an entry less.

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{HcallFlags, Hcalls, Partition};
use crate::hash::hpte::Hpte;
use crate::hash::return_code::ReturnCode;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_REMOVE`: takes out entry `ptex`; with `AVPN` only if its segment size and AVPN are
    /// `avpn`, with `ANDCOND` only if its first doubleword has none of the bits of `avpn` (with
    /// both, both). Returns what it said, with R and C as they are once its translation is
    /// forgotten.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table. `H_NOT_FOUND`.
    pub fn remove(&self, flags: HcallFlags, ptex: u64, avpn: u64) -> Result<Hpte, ReturnCode> {
        let mut locked = self.lock(flags, ptex, avpn)?;
        let v = locked.v();
        let before = self.decode(v, locked.r());
        locked.hide();
        self.invalidate(before, ptex);
        let hpte = self.decode(v, locked.clear());
        Ok(Hpte { v: hpte.v.visible(), ..hpte })
    }
}
