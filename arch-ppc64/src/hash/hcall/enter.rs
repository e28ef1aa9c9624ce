//! `H_ENTER`: a new entry.

use core::sync::atomic::AtomicU64;

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::{Dialect, HcallFlags, Hcalls, Partition, Storage};
use crate::hash::checked::CheckedEntry;
use crate::hash::hpte::{HpteR, HpteV};
use crate::hash::order::GROUP_SHIFT;
use crate::hash::return_code::ReturnCode;
use crate::hash::slot::Locked;
use crate::hash::table::HptError;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_ENTER`: puts the entry `pteh`, `ptel` into the first free place of the group in which
    /// `ptex` lies; with `EXACT` into `ptex` itself; with `ZERO_PAGE` the page is filled with zeros
    /// when there is a place, which stays locked meanwhile, and before the entry is valid
    /// ([`Dialect::Papr`]): a call that fails leaves the page as it is. Returns the place. V is set
    /// whatever `pteh` says; H is the caller's.
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
        let words = entry.words();
        if flags.zero_page() && self.dialect == Dialect::Papr {
            let (ptex, place) = self.lock_free(flags, ptex)?;
            self.partition.zero(page, size).map_err(|_| ReturnCode::Parameter)?;
            place.fill(words);
            return Ok(ptex);
        }
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

    /// Locks the place that [`enter`](Self::enter) would fill.
    fn lock_free(
        &self,
        flags: HcallFlags,
        ptex: u64,
    ) -> Result<(u64, Locked<'_, AtomicU64>), ReturnCode> {
        let place = if flags.exact() {
            let free = self.slot(ptex)?.lock_if(|v| v & HpteV::V == 0).map_err(HptError::from)?;
            free.map(|locked| (ptex, locked))
        } else {
            let group = ptex >> GROUP_SHIFT;
            let free = self.hpt.group(group).map_err(HptError::from)?.lock_free();
            free.map_err(HptError::from)?
                .map(|(index, locked)| (group << GROUP_SHIFT | index as u64, locked))
        };
        place.ok_or(ReturnCode::PtegFull)
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
