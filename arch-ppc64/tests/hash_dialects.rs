//! The table of `Dialect`, row by row: what a guest sees in either dialect.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;

use pgtable::Gpa;
use pgtable::memory::DirectMap;
use pgtable_ppc64::hash::{
    Dialect, HashTlbie, Hcalls, Hpt, HptOrder, Layout, PageSize, Partition, Refused, Storage,
};

const ENTER: u64 = 0x08;
const READ: u64 = 0x0c;
const PARAMETER: i64 = -4;
/// An entry of a page of 4 KiB, and one of 16 MiB.
const V: u64 = 0x12_3450_0001;
const LARGE: u64 = V | 4;
/// A page of memory, WIMG 0010.
const R: u64 = 0x190;
/// From here on there are devices; the 16 MiB below are in pieces.
const DEVICES: u64 = 1 << 30;
const PIECES: u64 = DEVICES - (16 << 20);

#[derive(Default)]
struct Guest(Cell<u32>);

impl Partition for Guest {
    fn invalidate(&self, _: HashTlbie) {}
    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        match page.get() {
            PIECES if size == PageSize::M16 => Storage::SmallerPages,
            0..DEVICES => Storage::Memory,
            _ => Storage::Device,
        }
    }
    fn zero(&self, _: Gpa, _: PageSize) -> Result<(), Refused> {
        self.0.set(self.0.get() + 1);
        Ok(())
    }
    fn copy(&self, _: Gpa, _: Gpa) -> Result<(), Refused> {
        Ok(())
    }
}

/// What a call answers: the code and the first two registers; and how many pages were zeroed.
type Seen = (i64, [u64; 2], u32);

/// A row: its name, the layout, calls, the last of which counts, and what it answers by either
/// dialect, PAPR's first.
type Row = (&'static str, Layout, Vec<(u64, [u64; 4])>, [Seen; 2]);

fn rows() -> Vec<Row> {
    use Layout::{V2, V3};
    let enter = |v, r| (ENTER, [0, 8, v, r]);
    let read = (READ, [0, 8, 0, 0]);
    // Entered, and read: what stands there.
    let entered = |v, r| (0, [v, r], 0);
    let refused = |a, b| (PARAMETER, [a, b], 0);
    // Nothing was entered: the place is empty.
    let none = (0, [0, 0], 0);
    let both = |seen| [seen, seen];
    vec![
        ("`H_ENTER`, V = 0", V2, vec![enter(V & !1, R), read], both(entered(V, R))),
        ("`H_ENTER`, B = 0b1x", V2, vec![enter(2 << 62 | V, R)], both(refused(0, 8))),
        (
            "`H_ENTER`, memory not WIMG 0010",
            V2,
            vec![enter(V, 0x180), read],
            [none, entered(V, 0x180)],
        ),
        (
            "`H_ENTER`, a device not WIMG 01xx",
            V2,
            vec![enter(V, DEVICES | R), read],
            [none, entered(V, DEVICES | R)],
        ),
        (
            "`H_ENTER`, page number bits between LP and the page",
            V2,
            vec![enter(LARGE, 0x20_0000 | R), read],
            [none, entered(LARGE, 0x20_0000 | R)],
        ),
        (
            "`H_ENTER`, memory in smaller pieces",
            V2,
            vec![enter(LARGE, PIECES | R)],
            both(refused(0, 8)),
        ),
        (
            "`H_ENTER`, TS",
            V2,
            vec![enter(V, 1 << 62 | R), read],
            [entered(V, 1 << 62 | R), entered(V, R)],
        ),
        (
            "`H_ENTER`, `ZERO_PAGE`",
            V2,
            vec![(ENTER, [1 << 15, 8, V, R]), read],
            [(0, [V, R], 1), entered(V, R)],
        ),
        (
            "`H_ENTER`, page number bits that layout V3 lacks",
            V3,
            vec![enter(V, 1 << 58 | 0x1b0)],
            both(refused(0, 8)),
        ),
        (
            "`H_ENTER`, virtual address bits that layout V3 lacks",
            V3,
            vec![enter(V | 1 << 52, R), read],
            both(entered(V, R)),
        ),
        (
            "`H_READ` of an entry that changed",
            V2,
            vec![enter(V, R), (0x18, [2, 8, 0, 0]), read],
            both(entered(V, R | 2)),
        ),
        (
            "`H_READ` of an entry that was removed",
            V2,
            vec![enter(V, R), (0x04, [0, 8, 0, 0]), read],
            both(none),
        ),
        (
            "`H_BULK_REMOVE`, a specifier that is no request",
            V2,
            vec![(0x124, [2 << 62 | 8, 0, 0, 0])],
            both((PARAMETER, [0xa0 << 56 | 8, 0], 0)),
        ),
        ("`H_CLEAR_REF`", V2, vec![enter(V, R), (0x14, [0, 8, 0, 0])], both((0, [R, 8], 0))),
        ("`H_CLEAR_MOD`", V2, vec![enter(V, R), (0x10, [0, 8, 0, 0])], both((0, [R, 8], 0))),
        (
            "`H_PAGE_INIT`, flags of memory over-commitment",
            V2,
            vec![(0x2c, [15 << 32, 0x1000, 0, 0])],
            both((0, [15 << 32, 0x1000], 0)),
        ),
    ]
}

#[test]
fn case_b18_each_row_of_the_table() {
    for (name, layout, calls, want) in rows() {
        for (dialect, want) in [Dialect::Papr, Dialect::Kvm].into_iter().zip(want) {
            let words: Vec<_> = (0..1 << 15).map(|_| AtomicU64::new(0)).collect();
            let memory = DirectMap::new(&words, Gpa::new(0));
            let hpt = Hpt::new(memory, Gpa::new(0), HptOrder::MIN, layout).unwrap();
            let guest = Guest::default();
            let hcalls = Hcalls::new(&hpt, &guest, dialect);
            let mut seen = None;
            for &(number, [a, b, c, d]) in &calls {
                let answer = hcalls.call(number, [a, b, c, d, 0, 0, 0, 0, 0]);
                let [first, second, ..] = answer.values;
                seen = Some((answer.code.code(), [first, second], guest.0.get()));
            }
            assert_eq!(seen, Some(want), "{name}, {dialect:?}");
        }
    }
}

/// No row is documented that is not tested, and none tested that is not documented.
#[test]
fn case_b18_the_table_and_the_test_have_the_same_rows() {
    let source = include_str!("../src/hash/hcall/dialect.rs");
    let table = source.lines().filter_map(|line| line.strip_prefix("/// | `H_"));
    let documented: BTreeSet<_> =
        table.map(|row| format!("`H_{}", row.split(" | ").next().unwrap())).collect();
    let tested: BTreeSet<_> = rows().into_iter().map(|(name, ..)| name.to_owned()).collect();
    assert_eq!(documented, tested);
}
