//! `H_ENTER`: a new entry.

use pgtable::{Address, Gpa, TableMemory};

use super::{Dialect, HcallFlags, Hcalls, Partition, Storage};
use crate::hash::hpte::{Hpte, HpteR, HpteV};
use crate::hash::order::GROUP_SHIFT;
use crate::hash::return_code::ReturnCode;
use crate::hash::segment::SegmentSize;
use crate::hash::table::HptError;

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_ENTER`: puts the entry `pteh`, `ptel` into the first free place of the group in which
    /// `ptex` lies; with `EXACT` into `ptex` itself; with `ZERO_PAGE` the page is filled with zeros
    /// before ([`Dialect::Papr`]). Returns the place. V is set whatever `pteh` says; H is the
    /// caller's.
    ///
    /// # Errors
    /// `H_PARAMETER`: B is reserved, the page sizes are none, the storage consists of smaller
    /// pages, WIMG does not fit it ([`Dialect::Papr`]), the page cannot be zeroed, `ptex` is beyond
    /// the table. `H_PTEG_FULL`.
    pub fn enter(
        &self,
        flags: HcallFlags,
        ptex: u64,
        pteh: HpteV,
        ptel: HpteR,
    ) -> Result<u64, ReturnCode> {
        let sizes = Hpte { v: pteh, r: ptel }.sizes().ok_or(ReturnCode::Parameter)?;
        SegmentSize::of_b(pteh.b()).ok_or(ReturnCode::Parameter)?;
        let page = Gpa::new(ptel.page(sizes));
        let storage = self.partition.storage(page, sizes.actual());
        let ptel = match self.dialect {
            _ if storage == Storage::SmallerPages => return Err(ReturnCode::Parameter),
            Dialect::Kvm => ptel.with_ts(false),
            Dialect::Papr if !Self::cacheable_as_it_should(storage, ptel) => {
                return Err(ReturnCode::Parameter);
            }
            Dialect::Papr => ptel,
        };
        let slot = self.slot(ptex)?;
        if flags.zero_page() && self.dialect == Dialect::Papr {
            self.partition.zero(page, sizes.actual()).map_err(|_| ReturnCode::Parameter)?;
        }
        let words = self.hpt.layout().encode(Hpte { v: pteh.visible().with_v(true), r: ptel });
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
