//! Hashed page tables that `pgtable-ppc64` filled.

use pgtable::{Gpa, Gva};
use pgtable_ppc64::hash::{
    Context, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, PageSizes, Segment, SegmentSize,
    VirtualPage,
};
use serde_json::json;

use crate::support::{Bench, Memory, json, number, ranges, text};

const BASE: u64 = 0x40_0000;

/// Enters a page of `sizes` at `va` of `context`.
fn enter(
    hpt: &Hpt<Gpa, pgtable::memory::DirectMap<'_, Gpa>>,
    context: u32,
    va: u64,
    pa: u64,
    sizes: PageSizes,
    pp: u8,
) {
    let size = if va >> 60 == 0 && va < 1 << 40 { SegmentSize::M256 } else { SegmentSize::T1 };
    let vsid = Context::new(context).unwrap().vsid(Gva::new(va), size);
    let segment = Segment {
        vsid,
        size,
        base: sizes.base(),
        ks: context > 7,
        kp: true,
        n: false,
        class: false,
    };
    let page = VirtualPage::of(&segment, Gva::new(va));
    let r = HpteR::from_bits(pa).with_protection(pp).with_sizes(sizes).with_r(true).with_m(true);
    let v = page.v().with_l(sizes.lp().is_some()).with_bolted(context < 8);
    hpt.insert(&page, Hpte { v, r }).unwrap().unwrap();
}

#[test]
fn lists_and_translations() {
    let bench = Bench::new();
    for (layout, option) in [(Layout::V3, "isa3"), (Layout::V2, "isa2")] {
        let memory = Memory::new(BASE, 1 << 18);
        let order = HptOrder::MIN;
        let hpt = Hpt::new(memory.map::<Gpa>(), Gpa::new(BASE), order, layout).unwrap();
        let (k4, k64) = (PageSizes::only(PageSize::K4), PageSizes::only(PageSize::K64));
        let m16 = PageSizes::new(PageSize::K64, PageSize::M16).unwrap();
        for page in 0..4 {
            enter(
                &hpt,
                1,
                0xc000_0000_0000_0000 + (page << 24),
                page << 24,
                PageSizes::only(PageSize::M16),
                0,
            );
        }
        // Three parts of a page that is larger than its segment's base size.
        for part in [3, 4, 5] {
            enter(&hpt, 9, 0x6000_0000_0000 + (part << 16), 0x3100_0000, m16, 2);
        }
        enter(&hpt, 5, 0xc008_0000_0001_0000, 0x123_0000, k64, 0);
        enter(&hpt, 9, 0x1000_0000, 0x200_0000, k64, 3);
        enter(&hpt, 9, 0x1001_0000, 0x201_0000, k64, 3);
        enter(&hpt, 9, 0x7fff_0000_0000, 0x300_0000, k64, 2);
        enter(&hpt, 10, 0x1000_0000, 0x400_0000, k4, 2);
        let image = bench.file("image", &memory.bytes());
        let options =
            format!("--arch ppc64-hash --base {BASE:#x} --root {BASE:#x} --hpte-layout {option}");

        let (status, list) = json(&image, &options);
        assert_eq!(status, 0);
        // The entries tell their layout.
        let untold = options.replace(&format!(" --hpte-layout {option}"), "");
        assert_eq!(json(&image, &untold), (0, list.clone()), "{option}");
        let (_, _, said) = text(&image, &untold);
        assert_eq!(said.contains("--hpte-layout isa2"), layout == Layout::V2, "{said}");
        let kernel = [
            (0xc000_0000_0000_0000, Some(0), 0x400_0000, Some(0x100_0000)),
            (0xc008_0000_0001_0000, Some(0x123_0000), 0x1_0000, Some(0x1_0000)),
        ];
        let nine = [
            (0x1000_0000, Some(0x200_0000), 0x2_0000, Some(0x1_0000)),
            (0x6000_0003_0000, Some(0x3103_0000), 0x3_0000, Some(0x100_0000)),
            (0x7fff_0000_0000, Some(0x300_0000), 0x1_0000, Some(0x1_0000)),
        ];
        let ten = [(0x1000_0000, Some(0x400_0000), 0x1000, Some(0x1000))];
        assert_eq!(ranges(&list), [&kernel[..], &nine, &ten].concat());
        let contexts: Vec<_> =
            list.as_array().unwrap().iter().map(|range| range["context"].as_u64()).collect();
        assert_eq!(contexts, [0, 0, 9, 9, 9, 10].map(Some));
        let rights: Vec<_> = list
            .as_array()
            .unwrap()
            .iter()
            .map(|it| format!("{}/{}", it["supervisor"], it["user"]))
            .collect();
        let want = [
            r#""rwx"/"---""#,
            r#""rwx"/"---""#,
            r#""r-x"/"r-x""#,
            r#""rwx"/"rwx""#,
            r#""rwx"/"rwx""#,
            r#""rwx"/"rwx""#,
        ];
        assert_eq!(rights, want);
        assert_eq!(ranges(&json(&image, &format!("{options} --pid 9")).1), nine);

        for (view, va, pa) in [
            ("", 0xc000_0000_0123_4567_u64, Some(0x123_4567)),
            ("", 0xc008_0000_0001_0010, Some(0x123_0010)),
            ("", 0xc008_0000_0002_0010, None),
            ("", 0x1000_0000, None),
            ("--pid 9", 0x1001_2345, Some(0x201_2345)),
            ("--pid 9", 0x7fff_0000_ffff, Some(0x300_ffff)),
            ("--pid 9", 0x6000_0004_0123, Some(0x3104_0123)),
            ("--pid 9", 0x6000_0006_0123, None),
            ("--pid 10", 0x1000_0fff, Some(0x400_0fff)),
            ("--pid 10", 0x1000_1000, None),
        ] {
            let (status, answer) = json(&image, &format!("{options} {view} translate {va:#x}"));
            assert_eq!(number(&answer[0]["pa"]), pa, "{view} {va:#x}: {answer}");
            assert_eq!(status, i32::from(pa.is_none()));
        }

        // The same through a segment as the processor has it.
        let vsid = Context::new(9).unwrap().vsid(Gva::new(0x1000_0000), SegmentSize::M256);
        let segment = Segment {
            vsid,
            size: SegmentSize::M256,
            base: PageSize::K64,
            ks: true,
            kp: true,
            n: false,
            class: false,
        };
        let slb = format!("--slb 0x18000000:{:#x}", segment.slb_word().into_bits());
        let (_, answer) =
            json(&image, &format!("{options} {slb} translate 0x10012345 0xc000000000000000"));
        assert_eq!([number(&answer[0]["pa"]), number(&answer[1]["pa"])], [Some(0x201_2345), None]);
        let (status, answer) =
            json(&image, &format!("{options} {slb} translate 0x10012345 --access write --user"));
        assert_eq!((status, &answer[0]["pa"]), (1, &json!(null)));

        let (status, stats) = json(&image, &format!("{options} stats"));
        assert_eq!(status, 0);
        let hash = &stats["hash"];
        assert_eq!(
            (&hash["valid"], &hash["bolted"], &hash["groups"]),
            (&json!(12), &json!(5), &json!(2048))
        );
        assert_eq!(hash["pages"], json!({"4096": 1, "65536": 4, "16777216": 7}));
        let fill: Vec<_> =
            hash["fill"].as_array().unwrap().iter().map(|it| it.as_u64().unwrap()).collect();
        assert_eq!(fill.iter().sum::<u64>(), 2048);
        assert_eq!(fill.iter().zip(0..).map(|(groups, valid)| groups * valid).sum::<u64>(), 12);

        // Another image, with a page more.
        enter(&hpt, 9, 0x1005_0000, 0x500_0000, k64, 2);
        let after = bench.file("after", &memory.bytes());
        let (status, differences) = json(&image, &format!("{options} diff {}", after.display()));
        assert_eq!((status, differences.as_array().unwrap().len()), (1, 1));
        assert_eq!(number(&differences[0]["va"]), Some(0x1005_0000));
        assert_eq!(differences[0]["before"], json!(null));
        assert_eq!(json(&image, &format!("{options} diff {}", image.display())), (0, json!([])));
    }
}

/// Locks that nobody opens any more, in a still image: nothing waits for them.
#[test]
fn locked_entries_are_read_as_they_are() {
    let bench = Bench::new();
    let memory = Memory::new(BASE, 1 << 18);
    for word in &memory.words {
        word.store(0x0001_ffff_ff00_0041_u64.to_be(), std::sync::atomic::Ordering::Relaxed);
    }
    let image = bench.file("image", &memory.bytes());
    let options = format!("--arch ppc64-hash --base {BASE:#x} --root {BASE:#x}");
    let start = std::time::Instant::now();
    assert_eq!(json(&image, &format!("{options} translate 0xc000000000000000")).0, 1);
    assert_eq!(json(&image, &format!("{options} stats")).1["hash"]["valid"], 1 << 14);
    assert!(start.elapsed() < std::time::Duration::from_secs(20));
    let (status, _, error) =
        text(&image, &format!("--arch ppc64-hash --base {BASE:#x} --root {:#x}", BASE | 3));
    assert_eq!(status, 3);
    assert!(error.contains("not within one piece of table memory"), "{error}");
}
