//! A guest's hypercalls on its hashed page table, with any arguments.

use arbitrary::{Arbitrary, Unstructured};
use pgtable_ppc64::hash::{Dialect, Layout};

use crate::oracle::hash_hcall::run;

/// More calls than this reach nothing new: the table is looked at whole after them.
const MOST: usize = 64;

/// Numbers that mean something, and some that do not.
const NUMBERS: [u64; 12] =
    [0x08, 0x04, 0x08, 0x18, 0x124, 0x0c, 0x10, 0x14, 0x2c, 0x36c, 0x370, 0x328];
/// The flags of all calls (bit 0 is the least significant).
const FLAGS: [u32; 16] = [39, 31, 30, 37, 15, 14, 23, 22, 47, 38, 35, 28, 8, 12, 0, 62];
/// Of a table of 2^18 bytes.
const ENTRIES: u64 = 1 << 14;
/// What the third doubleword's layout keeps of a first doubleword, and of a second (Power ISA v3.0B
/// Book III 5.7.9.1): the segment size has the place of two reserved bits, and ten bits of the
/// virtual address are gone.
const KEPT: (u64, u64) = (3 << 62 | ((1 << 52) - 1), !(3 << 58));

#[derive(Arbitrary)]
struct Call {
    number: u8,
    flags: u16,
    place: u8,
    page: u8,
    low: u8,
    raw: u64,
    other: u64,
}

impl Call {
    fn flags(&self) -> u64 {
        (0..16).filter(|n| self.flags >> n & 1 != 0).map(|n| 1 << FLAGS[n]).sum()
    }

    /// Few groups, so that they fill up; places about the end of the table; any.
    fn place(place: u8, raw: u64) -> u64 {
        match place {
            0..=0x9f => u64::from(place & 31),
            0xa0..=0xdf => ENTRIES - 8 + u64::from(place & 31),
            _ => raw,
        }
    }

    /// A first doubleword: of a few pages, or any.
    fn first(&self) -> u64 {
        if self.page < 0xc0 {
            u64::from(self.page) << 62 | 0x12_3450_0000 | u64::from(self.low)
        } else {
            self.raw
        }
    }

    /// A second doubleword: a few pages of any size within and beyond memory, or any.
    fn second(&self) -> u64 {
        let page = (self.other & 0x7f) << 20 | (self.other >> 8 & 0xff) << 12;
        if self.page & 0x20 == 0 { page | 0x10 | self.other >> 16 & 0x187 } else { self.other }
    }

    fn arguments(&self, layout: Layout) -> (u64, [u64; 9]) {
        let number = NUMBERS
            .get(usize::from(self.number))
            .copied()
            .unwrap_or(NUMBERS[usize::from(self.number) % 9]);
        let number = if self.number == 0xff { self.raw } else { number };
        let kept = if layout == Layout::V3 { KEPT } else { (!0, !0) };
        let place = Self::place(self.place, self.raw);
        let mut arguments =
            [self.flags(), place, self.first(), self.second(), self.raw, self.other, 0, 1, 2];
        match number {
            0x08 => {
                arguments[2] &= kept.0;
                arguments[3] &= kept.1;
            }
            // By what was entered before, in part.
            0x04 | 0x18 if self.page & 1 == 0 => arguments[2] &= !0x7f,
            0x124 => {
                for (index, pair) in arguments[..8].chunks_exact_mut(2).enumerate() {
                    let kind = [1, 1, 1, u64::from(self.flags)][index] << 62;
                    let by = u64::from(self.flags >> (index * 2) & 3) << 56;
                    let place = Self::place(
                        self.place.wrapping_add((index as u8).wrapping_mul(self.low)),
                        self.raw,
                    );
                    pair[0] = kind | by | place & ((1 << 56) - 1);
                    pair[1] = self.first() & if index & 1 == 0 { !0x7f } else { !0 };
                }
            }
            // Pages, or what is none.
            0x2c => {
                let page = |raw: u64| if self.page & 0x40 == 0 { raw & 0x0fff_f000 } else { raw };
                (arguments[1], arguments[2]) = (page(self.raw), page(self.other));
            }
            _ => {}
        }
        (number, arguments)
    }
}

/// Calls in any order, on a table of either layout and by either dialect.
///
/// # Oracles
/// The model of `arch-ppc64/tests/hash_hcall.rs` (a vector of entries and PAPR's rules): every
/// return code and register, and at the end every entry of the table.
pub fn hpt_hcalls(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(flags) = input.arbitrary::<u8>() else { return };
    let layout = if flags & 1 == 0 { Layout::V2 } else { Layout::V3 };
    let dialect = if flags & 2 == 0 { Dialect::Kvm } else { Dialect::Papr };
    let calls = input.arbitrary_iter::<Call>().map_or_else(
        |_| vec![],
        |calls| calls.map_while(Result::ok).take(MOST).map(|call| call.arguments(layout)).collect(),
    );
    run(layout, dialect, &calls);
}
