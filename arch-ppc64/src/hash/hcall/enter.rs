//! `H_ENTER`: a new entry.

use pgtable::{Address, TableMemory};

use super::{Dialect, HcallFlags, Hcalls, Partition, Storage};
use crate::hash::checked::CheckedEntry;
use crate::hash::hpte::{HpteR, HpteV};
use crate::hash::order::GROUP_SHIFT;
use crate::hash::return_code::ReturnCode;
use crate::hash::table::HptError;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_ENTER`: puts the entry `pteh`, `ptel` into the first free place of the group in which
    /// `ptex` lies; with `EXACT` into `ptex` itself; with `ZERO_PAGE` the page is filled with zeros
    /// before ([`Dialect::Papr`]). Returns the place. V is set whatever `pteh` says; H is the
    /// caller's.
    ///
    /// # Errors
    /// `H_PARAMETER`: B is reserved, the page sizes are none, the layout has no room for `ptel`,
    /// the storage consists of smaller pages, WIMG does not fit it or the page number has bits
    /// below the page's size ([`Dialect::Papr`]), the page cannot be zeroed, `ptex` is beyond the
    /// table. `H_PTEG_FULL`.
    pub fn enter(
        &self,
        flags: HcallFlags,
        ptex: u64,
        pteh: HpteV,
        ptel: HpteR,
    ) -> Result<u64, ReturnCode> {
        let ptel = match self.dialect {
            Dialect::Kvm => ptel.with_ts(false),
            Dialect::Papr => ptel,
        };
        let entry =
            CheckedEntry::new(self.hpt.layout(), pteh, ptel).ok_or(ReturnCode::Parameter)?;
        let (page, size) = entry.page();
        let storage = self.partition.storage(page, size);
        let fits = match self.dialect {
            Dialect::Kvm => true,
            Dialect::Papr => {
                Self::cacheable_as_it_should(storage, entry.r()) && !entry.has_low_bits()
            }
        };
        if storage == Storage::SmallerPages || !fits {
            return Err(ReturnCode::Parameter);
        }
        let slot = self.slot(ptex)?;
        if flags.zero_page() && self.dialect == Dialect::Papr {
            self.partition.zero(page, size).map_err(|_| ReturnCode::Parameter)?;
        }
        let words = entry.words();
        if flags.exact() {
            let entered = slot.enter(words) || slot.enter_waiting(words).map_err(HptError::from)?;
            return if entered { Ok(ptex) } else { Err(ReturnCode::PtegFull) };
        }
        let group = ptex >> GROUP_SHIFT;
        let entered = self
            .hpt
            .group(group)
            .map_err(HptError::from)?
            .enter(words, u8::MAX)
            .map_err(HptError::from)?;
        entered.map(|index| group << GROUP_SHIFT | index as u64).ok_or(ReturnCode::PtegFull)
    }

    /// Whether WIMG says what PAPR wants for what stands there.
    fn cacheable_as_it_should(storage: Storage, ptel: HpteR) -> bool {
        match storage {
            Storage::Memory | Storage::SmallerPages => {
                !ptel.w() && !ptel.i() && ptel.m() && !ptel.g()
            }
            Storage::Device => !ptel.w() && ptel.i(),
        }
    }
}
