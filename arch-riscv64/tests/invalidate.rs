//! What stale translations become: fences, calls of the SBI, commands of the IOMMU.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale, StaleRange};
use pgtable::{Address, Stage, Stage1, Stage2};
use pgtable_riscv64::{
    CEILING, Fence, FenceInstruction as F, HartMask, RFENCE, fence_after_map, hfence_gvma,
    hfence_vvma, iotinval_gvma, iotinval_vma, remote_hfence_gvma, remote_hfence_vvma,
    remote_sfence_vma, sfence_vma,
};

/// Lets a test look at a gather's contents and drop it.
struct Look;

impl<S: Stage> Invalidate<S> for Look {
    type Identity = ();

    fn invalidate(&self, (): (), _: &Stale<S::Input>) -> Result<(), InvalidateFailed> {
        Ok(())
    }

    fn abandoned(&self, (): (), _: usize, _: Result<(), InvalidateFailed>) {}
}

type Ranges<'a> = &'a [(u64, u64, u8)];

fn gather<S: Stage>(ranges: Ranges<'_>, everything: bool) -> Gather<'static, S, Look> {
    let mut gather = Gather::new(&Look, ());
    for &(start, last, shift) in ranges {
        gather.pages(S::Input::new(start), S::Input::new(last), shift);
    }
    if everything {
        gather.everything();
    }
    gather
}

const HIGH: u64 = 0xffff_ffff_ffff_f000;
const NAPOT: [u64; 16] = {
    let mut pages = [0; 16];
    let mut n = 0;
    while n < 16 {
        pages[n] = 0x2_0000 + n as u64 * 0x1000;
        n += 1;
    }
    pages
};

/// Ranges, whether everything is stale, the ceiling; the addresses, or `None` for all at once.
type Row<'a> = (Ranges<'a>, bool, u64, Option<&'a [u64]>);
const ROWS: &[Row<'_>] = &[
    (&[], false, CEILING, Some(&[])),
    (&[], true, CEILING, None),
    (&[(0x1000, 0x3000, 12)], false, CEILING, Some(&[0x1000, 0x2000, 0x3000])),
    (&[(0x1000, 0x3000, 12)], false, 2, None),
    (&[(0x1000, 0x3000, 12)], true, CEILING, None),
    (&[(0x20_0000, 0x40_0000, 21), (0, 0, 12)], false, 3, Some(&[0x20_0000, 0x40_0000, 0])),
    (&[(0, 0, 39)], false, CEILING, Some(&[0])),
    (&[(HIGH - 0x1000, HIGH, 12)], false, CEILING, Some(&[HIGH - 0x1000, HIGH])),
    // Of a NAPOT page each 4 KiB.
    (&[(0x2_0000, 0x2_0000, 16)], false, CEILING, Some(&NAPOT)),
    (&[(0x2_0000, 0x2_0000, 16)], false, 15, None),
    (&[(0, HIGH, 12)], false, CEILING, None),
];

fn fence(instruction: F, rs1: Option<u64>, rs2: Option<u16>) -> Fence {
    Fence { instruction, rs1, rs2 }
}

/// The fences that a row asks for.
fn fences(
    pages: Option<&[u64]>,
    (plain, single): (F, F),
    id: Option<u16>,
    svinval: bool,
    address: fn(u64) -> u64,
) -> Vec<Fence> {
    let Some(pages) = pages else { return vec![fence(plain, None, id)] };
    if pages.is_empty() {
        return Vec::new();
    }
    let by = if svinval { single } else { plain };
    let mut all: Vec<_> = pages.iter().map(|&page| fence(by, Some(address(page)), id)).collect();
    if svinval {
        all.insert(0, fence(F::SfenceWInval, None, None));
        all.push(fence(F::SfenceInvalIr, None, None));
    }
    all
}

#[test]
fn local_fences() {
    for &(ranges, everything, ceiling, pages) in ROWS {
        let (first, guest) =
            (gather::<Stage1>(ranges, everything), gather::<Stage2>(ranges, everything));
        for (id, svinval) in [(None, false), (Some(7), false), (None, true), (Some(0), true)] {
            let case = format!("{ranges:x?} {everything} {ceiling} {id:?} {svinval}");
            let found: Vec<_> = sfence_vma(first.stale(), id, svinval, ceiling).collect();
            let forms = (F::SfenceVma, F::SinvalVma);
            assert_eq!(found, fences(pages, forms, id, svinval, |it| it), "{case}");
            let found: Vec<_> = hfence_vvma(first.stale(), id, svinval, ceiling).collect();
            let forms = (F::HfenceVvma, F::HinvalVvma);
            assert_eq!(found, fences(pages, forms, id, svinval, |it| it), "{case}");
            let found: Vec<_> = hfence_gvma(guest.stale(), id, svinval, ceiling).collect();
            let forms = (F::HfenceGvma, F::HinvalGvma);
            assert_eq!(found, fences(pages, forms, id, svinval, |it| it >> 2), "{case}");
        }
    }
}

/// "RV32/RV64G Instruction Set Listings": SYSTEM, funct7, rs2, rs1.
#[test]
fn encodings() {
    for (instruction, word) in [
        (F::SfenceVma, 0x12b5_0073_u32),
        (F::HfenceVvma, 0x22b5_0073),
        (F::HfenceGvma, 0x62b5_0073),
        (F::SinvalVma, 0x16b5_0073),
        (F::HinvalVvma, 0x26b5_0073),
        (F::HinvalGvma, 0x66b5_0073),
    ] {
        let encoding = |rs1, rs2| fence(instruction, rs1, rs2).encoding(10, 11);
        assert_eq!(encoding(Some(0), Some(0)), word, "{instruction:?}");
        assert_eq!(encoding(Some(1), None), word & !(31 << 20), "{instruction:?}");
        assert_eq!(encoding(None, Some(1)), word & !(31 << 15), "{instruction:?}");
    }
    assert_eq!(fence(F::SfenceWInval, None, None).encoding(10, 11), 0x1800_0073);
    assert_eq!(fence(F::SfenceInvalIr, None, None).encoding(10, 11), 0x1810_0073);
    assert_eq!(fence_after_map(F::SfenceVma, Some(3), true), None);
    let owed = fence_after_map(F::SfenceVma, Some(3), false);
    assert_eq!(owed, Some(fence(F::SfenceVma, None, Some(3))));
}

fn bytes(range: &StaleRange<impl Address>) -> u64 {
    range.last.get() - range.start.get() + (1 << range.shift)
}

#[test]
fn remote_fences() {
    let harts = HartMask { mask: 0b101, base: 64 };
    for &(ranges, everything, ceiling, pages) in ROWS {
        let (first, guest) =
            (gather::<Stage1>(ranges, everything), gather::<Stage2>(ranges, everything));
        let parts: Vec<_> = match pages {
            None => vec![(0, 0)],
            Some(_) => {
                first.stale().ranges().iter().map(|it| (it.start.get(), bytes(it))).collect()
            }
        };
        for (id, functions) in [(None, [1, 6, 4]), (Some(9), [2, 5, 3])] {
            let found: [Vec<_>; 3] = [
                remote_sfence_vma(first.stale(), id, harts, ceiling).collect(),
                remote_hfence_vvma(first.stale(), id, harts, ceiling).collect(),
                remote_hfence_gvma(guest.stale(), id, harts, ceiling).collect(),
            ];
            for (calls, function) in found.into_iter().zip(functions) {
                let case = format!("{ranges:x?} {everything} {ceiling} {id:?}");
                assert_eq!(calls.len(), parts.len(), "{case}");
                for (call, &(start, size)) in calls.iter().zip(&parts) {
                    assert_eq!((call.extension, call.function), (RFENCE, function), "{case}");
                    let arguments = [0b101, 64, start, size, id.map_or(0, u64::from)];
                    assert_eq!(call.arguments, arguments, "{case}");
                }
            }
        }
    }
    assert_eq!(RFENCE.to_be_bytes(), *b"\0\0\0\0RFNC");
}

#[test]
fn hart_masks() {
    type Row<'a> = (&'a [u64], &'a [(u64, u64)]);
    let rows: &[Row<'_>] = &[
        (&[], &[]),
        (&[0], &[(1, 0)]),
        (&[3, 5, 66], &[(1 << 63 | 5, 3)]),
        (&[3, 5, 67], &[(5, 3), (1, 67)]),
        (&[u64::MAX - 1], &[(1, u64::MAX - 1)]),
        // Not ascending: nothing is lost.
        (&[5, 3], &[(1, 5), (1, 3)]),
    ];
    for &(harts, want) in rows {
        let found: Vec<_> =
            HartMask::of(harts.iter().copied()).map(|it| (it.mask, it.base)).collect();
        assert_eq!(found, want, "{harts:?}");
    }
    assert_eq!(HartMask::ALL.base, u64::MAX);
}

/// IOTINVAL.VMA and IOTINVAL.GVMA, bit by bit.
#[test]
fn iommu_commands() {
    let base = |function: u128| 1 | function << 7;
    for &(ranges, everything, ceiling, pages) in ROWS {
        let (first, guest) =
            (gather::<Stage1>(ranges, everything), gather::<Stage2>(ranges, everything));
        let of = |whole: u128, by_page: bool| -> Vec<u128> {
            match pages {
                Some(pages) if by_page || pages.is_empty() => pages
                    .iter()
                    .map(|&page| whole | 1 << 10 | u128::from(page >> 12) << 74)
                    .collect(),
                _ => vec![whole],
            }
        };
        for (pscid, gscid) in
            [(None, None), (Some(0xfffff), None), (None, Some(0x8001)), (Some(1), Some(2))]
        {
            let vm = gscid.map_or(0, |id: u16| 1 << 33 | u128::from(id) << 44);
            let space = pscid.map_or(0, |id: u32| 1 << 32 | u128::from(id) << 12);
            let case = format!("{ranges:x?} {everything} {ceiling} {pscid:?} {gscid:?}");
            let found = iotinval_vma(first.stale(), pscid, gscid, ceiling);
            let found: Vec<_> = found.map(u128::from).collect();
            assert_eq!(found, of(base(0) | vm | space, true), "{case}");
            let found = iotinval_gvma(guest.stale(), gscid, ceiling);
            let found: Vec<_> = found.map(u128::from).collect();
            assert_eq!(found, of(base(1) | vm, gscid.is_some()), "{case}");
        }
    }
}
