//! `H_READ`: what entries say.

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{Hcalls, Partition};
use crate::hash::hpte::Hpte;
use crate::hash::return_code::ReturnCode;
use crate::hash::table::HptError;

/// How many entries `READ_4` reads.
const FOUR: u64 = 4;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_READ`: what entry `ptex` says, valid or not.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table.
    pub fn read(&self, ptex: u64) -> Result<Hpte, ReturnCode> {
        let hpte = self.hpt.layout().decode(self.slot(ptex)?.read().map_err(HptError::from)?);
        Ok(Hpte { v: hpte.v.visible(), ..hpte })
    }

    /// `H_READ` with `READ_4`: what the four entries around `ptex` say, whose first is a multiple
    /// of four.
    ///
    /// # Errors
    /// `H_PARAMETER`: `ptex` is beyond the table.
    pub fn read_4(&self, ptex: u64) -> Result<[Hpte; 4], ReturnCode> {
        let mut four = [Hpte::default(); FOUR as usize];
        let first = ptex & !(FOUR - 1);
        for (hpte, ptex) in four.iter_mut().zip(first..) {
            *hpte = self.read(ptex)?;
        }
        Ok(four)
    }
}
