//! `H_PAGE_INIT`: a page zeroed or copied.

use pgtable::memory::TableMemory;
use pgtable::{Address, Gpa};

use super::{HcallFlags, Hcalls, Partition};
use crate::hash::page_size::PageSize;
use crate::hash::return_code::ReturnCode;

/// The flags that the call knows: those of the page, of the instruction cache, of cooperative
/// memory over-commitment.
const KNOWN: u64 = HcallFlags::new()
    .with_zero_page(true)
    .with_copy_page(true)
    .with_icache_invalidate(true)
    .with_icache_synchronize(true)
    .with_page_state_change(true)
    .with_page_unused(3)
    .with_page_loaned(true)
    .into_bits();

impl<A: Address, M: TableMemory<A>, P: Partition> Hcalls<'_, A, M, P> {
    /// `H_PAGE_INIT`: copies the 4 KiB page at `source` to `destination` (`COPY_PAGE`), or fills
    /// that with zeros (`ZERO_PAGE`; copying goes first if both are asked for, and then nothing is
    /// zeroed, as in KVM).
    ///
    /// # Errors
    /// `H_PARAMETER`: an unknown flag, an address that is not a multiple of 4 KiB, or not in the
    /// partition's memory.
    pub fn page_init(
        &self,
        flags: HcallFlags,
        destination: Gpa,
        source: Gpa,
    ) -> Result<(), ReturnCode> {
        let aligned = |page: Gpa| page.is_aligned(PageSize::K4.shift());
        if flags.into_bits() & !KNOWN != 0
            || !aligned(destination)
            || (flags.copy_page() && !aligned(source))
        {
            return Err(ReturnCode::Parameter);
        }
        if flags.copy_page() {
            self.partition.copy(destination, source).map_err(|_| ReturnCode::Parameter)?;
        } else if flags.zero_page() {
            self.partition.zero(destination, PageSize::K4).map_err(|_| ReturnCode::Parameter)?;
        }
        if flags.icache_invalidate() || flags.icache_synchronize() {
            self.partition.synchronize_instructions(destination);
        }
        Ok(())
    }
}
