//! Cases in which one thing after the other is varied, and everything else is as it should be.

use pgtable::Access;

use super::case::{ACCESSES, C, Case, KINDS, L, R, RWX, Regime, SIZES, Shape, TREE, V};
use super::layout::{self, DATA, LARGER, NOWHERE, PROCESS_TABLE, PRTS, TABLES};

/// All of them, kind by kind.
pub fn cases() -> Vec<Case> {
    [
        authority(),
        reference_and_change(),
        sizes(),
        address_bits(),
        no_entry(),
        next_level_size(),
        below_the_last(),
        leaf_for_table(),
        misaligned(),
        reserved(),
        tree_size(),
        processes(),
        quadrants(),
        process_table_word(),
        tables_nowhere(),
        pages_nowhere(),
        beyond(),
    ]
    .concat()
}

/// `Shape::PLAIN` with leaves of `size`, in the region of data that fits it.
fn of_size(size: u8) -> Shape {
    Shape { size, ..Shape::PLAIN }
}

/// Every access authority, for each access, under every authority mask.
fn authority() -> Vec<Case> {
    let mut cases = Vec::new();
    for eaa in 0..16 {
        for access in ACCESSES {
            for masks in 0..8_u64 {
                let shape = Shape { leaf: R | C | eaa, ..Shape::PLAIN };
                let (amr, iamr) = (masks >> 1 << 62, (masks & 1) << 62);
                cases.push(Case { amr, iamr, ..shape.case("authority, privilege, keys", access) });
            }
        }
    }
    cases
}

/// Every state of R, C and the attributes, in leaves of each size in turn.
fn reference_and_change() -> Vec<Case> {
    let mut cases = Vec::new();
    for eaa in [RWX, 8 | RWX, 4, 2, 1] {
        for state in 0..16 {
            let size = SIZES[cases.len() / ACCESSES.len() % SIZES.len()];
            // Bits 55 and 56 are R and C, 58 and 59 the attributes.
            let leaf = (state & 3) << 7 | state >> 2 << 4 | eaa;
            let shape = Shape { leaf, ..of_size(size) };
            cases.extend(ACCESSES.map(|access| shape.case("R, C and attributes", access)));
        }
    }
    cases
}

/// Leaves of each size, everywhere, from every quadrant, by tables everywhere.
fn sizes() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        for regime in Regime::ALL {
            for ((start, bytes), tables) in DATA.into_iter().zip(TABLES) {
                for (target, access) in
                    [start, start + bytes - 8, start + ((bytes / 3) & !7)].into_iter().zip(KINDS)
                {
                    cases.push(
                        Shape { regime, tables, target, ..of_size(size) }
                            .case("levels and leaf sizes", access),
                    );
                }
            }
        }
    }
    cases
}

/// One address bit at a time, in the leaf and above.
fn address_bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in SIZES {
        for bit in (3..52).map(|bit| 1 << bit) {
            let shape = Shape { high: bit, target: DATA[0].0 ^ bit, ..of_size(size) };
            cases.extend(
                [Access::READ, Access::FETCH.by_user()]
                    .map(|access| shape.case("address bits", access)),
            );
        }
    }
    cases
}

/// Entries without V at each level, empty and not, and an empty process table entry.
fn no_entry() -> Vec<Case> {
    let kind = "no entry";
    let mut cases = Vec::new();
    for size in SIZES {
        for access in KINDS {
            let good = of_size(size).case(kind, access);
            for index in 0..good.entries.len() {
                let changes: [fn(u64) -> u64; 4] = [|_| 0, |word| word & !V, |_| !V, |_| L];
                cases.extend(changes.map(|change| good.clone().entry(index, change)));
            }
            cases.push(good.prte(0, |_| 0));
        }
    }
    cases
}

/// Every size of the next table, at each level that has one.
fn next_level_size() -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, size) in (0..32)
        .flat_map(|nls| (0..3).map(move |level| (nls, level)))
        .zip([12, 16].into_iter().cycle())
    {
        let (nls, level) = at;
        cases.extend(KINDS.map(|access| {
            of_size(size)
                .case("size of the next table", access)
                .entry(level, |word| word & !0x1f | nls)
        }));
    }
    cases
}

/// Directory entries of every size where only leaves may stand.
fn below_the_last() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [12, 16] {
        for nls in 0..32 {
            cases.extend(KINDS.map(|access| {
                of_size(size)
                    .case("table below the last level", access)
                    .leaf(|_| V | TABLES[0][3] | nls)
            }));
        }
    }
    cases
}

/// L set in what was made as a directory entry: a leaf of whatever the bits say.
fn leaf_for_table() -> Vec<Case> {
    let mut cases = Vec::new();
    for (level, tables) in (0..3).flat_map(|level| TABLES.map(|tables| (level, tables))) {
        cases.extend(ACCESSES.map(|access| {
            Shape { tables, ..Shape::PLAIN }
                .case("leaf for a table", access)
                .entry(level, |word| word | L)
        }));
    }
    cases
}

/// Each address bit that is too low for the root, a table, or a page.
fn misaligned() -> Vec<Case> {
    let mut cases = Vec::new();
    for bit in (8..16).map(|bit| 1 << bit) {
        // The root's entry is added to its base as it is.
        let mut tables = TABLES[0];
        tables[0] += bit;
        cases.extend(
            KINDS.map(|access| Shape { tables, ..Shape::PLAIN }.case("misaligned root", access)),
        );
    }
    for (level, bit) in (0..3).flat_map(|level| (8..12).map(move |bit| (level, 1 << bit))) {
        for size in [12, 16] {
            cases.extend(KINDS.map(|access| {
                of_size(size).case("misaligned table", access).entry(level, |word| word | bit)
            }));
        }
    }
    for size in SIZES {
        for bit in (12..size).map(|bit| 1 << bit) {
            cases.extend(KINDS.map(|access| {
                of_size(size).case("misaligned page", access).leaf(|word| word | bit)
            }));
        }
    }
    cases
}

/// Each bit that the manual reserves or leaves to software.
fn reserved() -> Vec<Case> {
    const LEAF: [u32; 9] = [61, 60, 59, 58, 57, 11, 10, 9, 6];
    const TABLE: [u32; 5] = [61, 60, 7, 6, 5];
    let mut cases = Vec::new();
    for size in SIZES {
        for bit in
            LEAF.map(|bit| 1 << bit).into_iter().chain([LEAF.iter().map(|bit| 1 << bit).sum()])
        {
            cases.extend(KINDS.map(|access| {
                of_size(size).case("reserved and software bits", access).leaf(|word| word ^ bit)
            }));
        }
    }
    for (level, bit) in (0..3).flat_map(|level| TABLE.map(|bit| (level, 1 << bit))) {
        cases.extend(KINDS.map(|access| {
            Shape::PLAIN.case("reserved bits of a table", access).entry(level, |word| word ^ bit)
        }));
    }
    for (index, bit) in [(0, 63), (0, 60)].into_iter().chain((0..64).map(|bit| (1, bit))) {
        let access = KINDS[bit as usize % KINDS.len()];
        cases.push(
            Shape::PLAIN
                .case("reserved bits of a process", access)
                .prte(index, |word| word ^ 1 << bit),
        );
    }
    cases
}

/// Every size of the tree, and of its root.
fn tree_size() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in 0..32_u64 {
        let trees = [TREE & !0x1f | size, TREE & 0x1f | size >> 3 << 61 | (size & 7) << 5];
        for tree in trees {
            cases.extend(KINDS.map(|access| {
                Shape::PLAIN
                    .case("size of tree and root", access)
                    .prte(0, |word| word & !(TREE | 3 << 61 | 0xff) | tree)
            }));
        }
    }
    cases
}

/// Processes within the table and beyond it; quadrant 3 is always process 0's.
fn processes() -> Vec<Case> {
    let mut cases = Vec::new();
    for prts in [PRTS, LARGER] {
        let last = layout::processes(prts) - 1;
        let pids = (0..20).map(|bit| 1 << bit).chain([0, last, last + 2, 0xf_ffff]);
        for regime in pids.flat_map(|pid| [Regime::Process(pid), Regime::Kernel(pid)]) {
            let shape = Shape { regime, prts, ..Shape::PLAIN };
            cases.extend(KINDS.map(|access| shape.case("processes", access)));
        }
    }
    cases
}

/// Every quadrant, with each bit set that no tree translates.
fn quadrants() -> Vec<Case> {
    let mut cases = Vec::new();
    for (regime, quadrant) in [Regime::Process(42), Regime::Process(0)]
        .into_iter()
        .flat_map(|it| (0..4).map(move |q| (it, q)))
    {
        for bit in (52..62).map(|bit| 1 << bit).chain([0]) {
            cases.extend(KINDS.map(|access| {
                let case = Shape { regime, ..Shape::PLAIN }.case("quadrants", access);
                Case { address: case.address | quadrant << 62 | bit, ..case }
            }));
        }
    }
    cases
}

/// Process tables of every size, misaligned, empty, outside memory. In most of them the guest
/// cannot even fetch its stub.
fn process_table_word() -> Vec<Case> {
    let here = (0..=24).map(|prts| V | PROCESS_TABLE | prts);
    let elsewhere = [0x50_0000, 1 << 30].into_iter().chain(NOWHERE).map(|base| V | base);
    let reserved = (5..12).chain(60..63).map(|bit| V | PROCESS_TABLE | u64::from(PRTS) | 1 << bit);
    here.chain(elsewhere)
        .chain(reserved)
        .flat_map(|process_table| {
            [Access::READ, Access::READ.by_user()]
                .map(|access| Case { process_table, ..Shape::PLAIN.case("process table", access) })
        })
        .collect()
}

/// Roots and tables outside memory, of supported sizes and others.
fn tables_nowhere() -> Vec<Case> {
    let kind = "table outside memory";
    let mut cases = Vec::new();
    for (base, access) in NOWHERE.into_iter().flat_map(|base| ACCESSES.map(|access| (base, access)))
    {
        cases.push(Shape::PLAIN.case(kind, access).prte(0, |_| base | TREE));
        for (level, nls) in (0..3).flat_map(|level| [5, 9, 12].map(|nls| (level, nls))) {
            cases.push(Shape::PLAIN.case(kind, access).entry(level, |_| V | base | nls));
        }
        cases.push(Shape::PLAIN.case(kind, access).leaf(|_| V | base | 9));
    }
    cases
}

/// Pages outside memory, of each size.
fn pages_nowhere() -> Vec<Case> {
    let mut cases = Vec::new();
    let loads_and_stores =
        [Access::READ, Access::WRITE, Access::READ.by_user(), Access::WRITE.by_user()];
    for (size, target) in
        SIZES.into_iter().flat_map(|size| NOWHERE.map(|target| (size, target + 0x5678)))
    {
        cases.extend(loads_and_stores.map(|access| {
            Shape { target, leaf: RWX, ..of_size(size) }.case("page outside memory", access)
        }));
    }
    cases
}

/// Pages and tables beyond what a partition-scoped tree translates.
fn beyond() -> Vec<Case> {
    let kind = "beyond 2^52";
    let mut cases = Vec::new();
    for (base, bit) in [NOWHERE[0], NOWHERE[2]]
        .into_iter()
        .flat_map(|base| (52..60).map(move |bit| (base, 1 << bit)))
    {
        for access in KINDS {
            cases.push(Shape::PLAIN.case(kind, access).prte(0, |_| base | bit | TREE));
            cases.extend(
                (0..3).map(|level| {
                    Shape::PLAIN.case(kind, access).entry(level, |_| V | base | bit | 9)
                }),
            );
            // A page's address has three bits less.
            cases.push(Shape::PLAIN.case(kind, access).leaf(|_| V | L | R | C | RWX | base | bit));
        }
    }
    cases
}
