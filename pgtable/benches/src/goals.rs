//! The goals, as data: a row of ours against the best peer of the same run, and against the same
//! work by hand, with the same checks.

use crate::row::Row;
use bench_harness::{Goal, Row as _, Table};

/// The same work by hand, with the same checks.
const CHECKED: &[&str] = &["by hand, checked"];
/// The columns of crates that keep page tables.
pub const PEERS: &[&str] =
    &["x86_64 mapped", "x86_64 offset", "multiarch", "generic", "aarch64", "hyperlight"];

/// The goals whose rows were run.
pub fn goals(table: &Table) -> Vec<Goal> {
    BOUNDS
        .iter()
        .filter_map(|bound| {
            let ours = table.get(bound.row.title(), bound.column)?;
            let theirs = table.best(bound.against_row.title(), bound.against)?;
            Some(Goal { name: bound.name.to_owned(), measured: ours / theirs, bound: bound.ratio })
        })
        .collect()
}

/// `row` of `column` takes at most `ratio` of the best of `against` in `against_row`.
struct Bound {
    name: &'static str,
    row: Row,
    column: &'static str,
    against_row: Row,
    against: &'static [&'static str],
    ratio: f64,
}

const fn bound(
    name: &'static str,
    row: Row,
    column: &'static str,
    against: &'static [&'static str],
    ratio: f64,
) -> Bound {
    Bound { name, row, column, against_row: row, against, ratio }
}

const X86: &str = "x86";
const K4: &str = "radix 4K";
/// Its bounds are those of x86; the README says why it falls short of some.
const ARM: &str = "AArch64 4K";
const SV39: &str = "Sv39";
const SV48: &[&str] = &["Sv48"];
const GUEST: &str = "x86, 4 regions";
/// A compare-exchange for each word of an array.
const EXCHANGES: &[&str] = &["flat, locked"];
const X86_64: &[&str] = &["x86_64 mapped", "x86_64 offset"];
const GENERIC: &[&str] = &["generic"];

const fn than(
    name: &'static str,
    rows: (Row, Row),
    column: &'static str,
    against: &'static [&'static str],
    ratio: f64,
) -> Bound {
    Bound { name, row: rows.0, column, against_row: rows.1, against, ratio }
}

const BOUNDS: &[Bound] = &[
    bound("map-one-over-hand", Row::Map, X86, CHECKED, 1.25),
    bound("translate-hot-over-hand", Row::TranslateHot, X86, CHECKED, 1.25),
    bound("translate-cold-over-hand", Row::TranslateCold, X86, CHECKED, 1.25),
    bound("batch-cold-over-hand", Row::BatchCold, X86, CHECKED, 1.25),
    bound("unmap-one-over-hand", Row::UnmapAlone, X86, CHECKED, 1.25),
    bound("map-range-over-hand", Row::MapRange, X86, CHECKED, 1.15),
    bound("unmap-range-over-hand", Row::UnmapRange, X86, CHECKED, 2.0),
    bound("protect-range-exchange-over-hand", Row::ProtectRange, X86, CHECKED, 1.15),
    bound("protect-range-stores-over-hand", Row::ProtectStopped, X86, CHECKED, 1.15),
    bound("iterate-over-hand", Row::Iterate, X86, CHECKED, 1.2),
    bound("iterate-iterator-over-hand", Row::IterateExternal, X86, CHECKED, 1.2),
    bound("churn-over-hand", Row::ChurnBeside, X86, CHECKED, 1.3),
    bound("map-one-x86", Row::Map, X86, PEERS, 1.0),
    bound("map-one-aarch64", Row::Map, ARM, PEERS, 1.0),
    bound("map-one-radix4k", Row::Map, K4, PEERS, 1.25),
    than("map-cursor-x86", (Row::MapCursor, Row::Map), X86, PEERS, 0.33),
    than("map-cursor-aarch64", (Row::MapCursor, Row::Map), ARM, PEERS, 0.33),
    than("map-cursor-radix4k", (Row::MapCursor, Row::Map), K4, PEERS, 0.4),
    bound("map-range-x86", Row::MapRange, X86, PEERS, 0.2),
    bound("map-range-aarch64", Row::MapRange, ARM, PEERS, 0.2),
    bound("map-range-radix4k", Row::MapRange, K4, PEERS, 0.2),
    bound("translate-hot-x86", Row::TranslateHot, X86, PEERS, 1.2),
    bound("translate-hot-aarch64", Row::TranslateHot, ARM, PEERS, 1.2),
    bound("translate-hot-radix4k", Row::TranslateHot, K4, PEERS, 1.5),
    than("translate-anchored-x86", (Row::AnchoredHot, Row::TranslateHot), X86, PEERS, 1.0),
    than("translate-anchored-aarch64", (Row::AnchoredHot, Row::TranslateHot), ARM, PEERS, 1.0),
    than("translate-anchored-radix4k", (Row::AnchoredHot, Row::TranslateHot), K4, PEERS, 1.35),
    than("translate-cursor-x86", (Row::CursorInOrder, Row::TranslateInOrder), X86, PEERS, 0.65),
    than("translate-cursor-aarch64", (Row::CursorInOrder, Row::TranslateInOrder), ARM, PEERS, 0.65),
    than("translate-cursor-radix4k", (Row::CursorInOrder, Row::TranslateInOrder), K4, PEERS, 1.0),
    than("batch-cold-x86", (Row::BatchCold, Row::TranslateCold), X86, PEERS, 0.3),
    than("batch-cold-aarch64", (Row::BatchCold, Row::TranslateCold), ARM, PEERS, 0.3),
    than("batch-cold-radix4k", (Row::BatchCold, Row::TranslateCold), K4, PEERS, 0.33),
    bound("unmap-one-x86", Row::Unmap, X86, X86_64, 1.8),
    bound("unmap-one-aarch64", Row::Unmap, ARM, X86_64, 1.8),
    bound("unmap-one-radix4k", Row::Unmap, K4, X86_64, 2.4),
    bound("unmap-one-freeing-x86", Row::Unmap, X86, GENERIC, 0.06),
    bound("unmap-one-freeing-aarch64", Row::Unmap, ARM, GENERIC, 0.06),
    bound("unmap-one-freeing-radix4k", Row::Unmap, K4, GENERIC, 0.06),
    than("unmap-cursor-x86", (Row::UnmapCursor, Row::Unmap), X86, X86_64, 0.55),
    than("unmap-cursor-aarch64", (Row::UnmapCursor, Row::Unmap), ARM, X86_64, 0.55),
    than("unmap-cursor-radix4k", (Row::UnmapCursor, Row::Unmap), K4, X86_64, 0.65),
    bound("unmap-range-x86", Row::UnmapRange, X86, PEERS, 0.3),
    bound("unmap-range-aarch64", Row::UnmapRange, ARM, PEERS, 0.3),
    bound("unmap-range-radix4k", Row::UnmapRange, K4, PEERS, 0.3),
    than("unmap-range-mixed-x86", (Row::UnmapMixed, Row::UnmapRange), X86, PEERS, 0.45),
    than("unmap-range-mixed-aarch64", (Row::UnmapMixed, Row::UnmapRange), ARM, PEERS, 0.45),
    than("unmap-range-mixed-radix4k", (Row::UnmapMixed, Row::UnmapRange), K4, PEERS, 0.45),
    than("protect-range-stores-x86", (Row::ProtectStopped, Row::ProtectRange), X86, PEERS, 0.25),
    than(
        "protect-range-stores-aarch64",
        (Row::ProtectStopped, Row::ProtectRange),
        ARM,
        PEERS,
        0.25,
    ),
    than("protect-range-stores-radix4k", (Row::ProtectStopped, Row::ProtectRange), K4, PEERS, 0.25),
    bound("protect-range-exchange-x86", Row::ProtectRange, X86, EXCHANGES, 1.1),
    bound("protect-range-exchange-aarch64", Row::ProtectRange, ARM, EXCHANGES, 1.1),
    bound("protect-range-exchange-radix4k", Row::ProtectRange, K4, EXCHANGES, 1.1),
    than("iterate-runs-x86", (Row::IterateRuns, Row::Iterate), X86, PEERS, 0.9),
    than("iterate-runs-aarch64", (Row::IterateRuns, Row::Iterate), ARM, PEERS, 0.9),
    than("iterate-runs-radix4k", (Row::IterateRuns, Row::Iterate), K4, PEERS, 1.05),
    than("iterate-iterator-x86", (Row::IterateExternal, Row::Iterate), X86, PEERS, 1.2),
    than("iterate-iterator-aarch64", (Row::IterateExternal, Row::Iterate), ARM, PEERS, 1.2),
    than("iterate-iterator-radix4k", (Row::IterateExternal, Row::Iterate), K4, PEERS, 1.2),
    bound("churn-x86", Row::ChurnAlone, X86, X86_64, 1.3),
    bound("churn-aarch64", Row::ChurnAlone, ARM, X86_64, 1.3),
    bound("churn-radix4k", Row::ChurnAlone, K4, X86_64, 1.3),
    bound("three-levels-translate-hot", Row::TranslateHot, SV39, SV48, 0.85),
    bound("regions-translate-hot", Row::TranslateHot, GUEST, &[X86], 2.2),
    bound("regions-batch-cold", Row::BatchCold, GUEST, &[X86], 1.35),
    bound("regions-map-range", Row::MapRange, GUEST, &[X86], 1.1),
    bound("regions-protect-range", Row::ProtectRange, GUEST, &[X86], 1.1),
    bound("regions-unmap-range", Row::UnmapRange, GUEST, &[X86], 1.1),
];
