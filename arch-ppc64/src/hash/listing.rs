//! A table for people to read.

use core::fmt;

use pgtable::Address;
use pgtable::memory::TableMemory;

use super::hpte::Hpte;
use super::order::{GROUP_ENTRIES, HptOrder};
use super::table::Hpt;
use super::virtual_page::VirtualPage;

/// One entry, with its place: virtual page, real page, what it allows.
#[derive(Clone, Copy, Debug)]
pub struct ListedEntry {
    ptex: u64,
    hpte: Hpte,
    order: HptOrder,
}

impl ListedEntry {
    /// The entry `hpte` at `ptex` of a table of `order`.
    #[must_use]
    pub const fn new(ptex: u64, hpte: Hpte, order: HptOrder) -> Self {
        Self { ptex, hpte, order }
    }
}

impl fmt::Display for ListedEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ptex, hpte: Hpte { v, r }, order } = *self;
        write!(f, "{ptex:#010x} {}", if v.h() { 's' } else { 'p' })?;
        let (Some(page), Some(sizes)) = (
            VirtualPage::of_entry(self.hpte, ptex / GROUP_ENTRIES as u64, order),
            self.hpte.sizes(),
        ) else {
            return write!(f, " undecodable {:#018x} {:#018x}", v.into_bits(), r.into_bits());
        };
        let size = |shift: u8| match shift {
            12 => "4K",
            16 => "64K",
            24 => "16M",
            28 => "256M",
            34 => "16G",
            _ => "1T",
        };
        write!(
            f,
            " vsid {:#012x} ({}) + {:#011x} -> {:#014x} {} in {}, pp {} key {} {}{}{}{}{}{}{}{}",
            page.vsid,
            size(page.segment.shift()),
            page.offset,
            r.page(sizes),
            size(sizes.actual().shift()),
            size(sizes.base().shift()),
            r.protection(),
            r.key(),
            if r.r() { 'R' } else { '-' },
            if r.c() { 'C' } else { '-' },
            if r.w() { 'W' } else { '-' },
            if r.i() { 'I' } else { '-' },
            if r.m() { 'M' } else { '-' },
            if r.g() { 'G' } else { '-' },
            if r.n() { 'N' } else { '-' },
            if v.bolted() { " bolted" } else { "" },
        )
    }
}

/// All valid entries of a table, a line each.
#[derive(Clone, Copy, Debug)]
pub struct Listing<'h, A, M>(&'h Hpt<A, M>);

impl<A: Address, M: TableMemory<A>> Hpt<A, M> {
    /// All valid entries, a line each.
    pub fn listing(&self) -> Listing<'_, A, M> {
        Listing(self)
    }
}

impl<A: Address, M: TableMemory<A>> fmt::Display for Listing<'_, A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.entries(0).try_for_each(|(ptex, hpte)| {
            writeln!(f, "{}", ListedEntry::new(ptex, hpte, self.0.order()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    extern crate std;
    use crate::hash::{HpteR, HpteV};
    use std::string::ToString;

    #[test]
    fn kvms_real_mode_entry() {
        let hpte =
            Hpte { v: HpteV::from_bits(0x4001_ffff_ff00_0395), r: HpteR::from_bits(0x3ff_1190) };
        let order = HptOrder::MIN;
        let ptex = order.group(crate::hash::PageHash(0x1ff_ffff ^ 0x1ff_ffff << 25 ^ 0x3ff), false)
            * 8
            + 7;
        assert_eq!(
            ListedEntry::new(ptex, hpte, order).to_string(),
            "0x00002007 p vsid 0x0001ffffff (1T) + 0x003ff0000 -> 0x000003ff0000 64K in 64K, pp 0 key 0 RC--M-- bolted"
        );
        let nonsense = Hpte { v: HpteV::from_bits(5), r: HpteR::from_bits(0xf000) };
        assert_eq!(
            ListedEntry::new(0, nonsense, order).to_string(),
            "0x00000000 p undecodable 0x0000000000000005 0x000000000000f000"
        );
    }
}
