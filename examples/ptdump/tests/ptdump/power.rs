//! POWER: which of several process tables, which kind of tables, and where old kernels have their
//! addresses.

use pgtable::{Gpa, Gva, Prot};
use pgtable_ppc64::hash::{
    Context, Hpt, HptOrder, Hpte, HpteR, Layout, PageSize, PageSizes, Segment, SegmentSize,
    VirtualPage,
};
use pgtable_ppc64::radix::{Granule, ProcessScoped, ProcessTable, Prte, Quadrants};

use crate::cores::{Note, core};
use crate::support::{Bench, Memory, build, json, number, ranges, text};
use crate::synthetic::vmcoreinfo;

const POWER: u16 = 21;
const LINEAR: u64 = 0xc000_0000_0000_0000;

/// A kernel's tree at `root`, its process table at `table`; where vmalloc's first page goes.
fn kernel(memory: &Memory, first: u64, table: u64, vmalloc: u64) -> u64 {
    let rows = [
        (LINEAR, 0, 1 << 30, 30, Prot::RW),
        (0xc008_0000_0000_0000, vmalloc, 0x1_0000, 16, Prot::RW),
    ];
    let format = ProcessScoped::new(Granule::K64).with_quadrants(Quadrants::Three);
    let (root, _) = build(format, memory, first, &rows);
    let table = ProcessTable::new(Gpa::new(table), 4).unwrap();
    table.write(&memory.map(), 0, Prte::of_tree(root).unwrap()).unwrap();
    root
}

fn status() -> Note<'static> {
    ("CORE", 1, vec![0; 504])
}

/// Two kernels' process tables, an old one and the running one: both are named.
#[test]
fn case_two_process_tables_are_both_named() {
    let bench = Bench::new();
    let memory = Memory::new(0, 4 << 20);
    let stale = kernel(&memory, 0x4_0000, 0x10_0000, 0x5_0000);
    let running = kernel(&memory, 0x20_0000, 0x30_0000, 0x7_0000);
    let bytes = memory.bytes();
    let image = bench.file("two", &core(false, POWER, &[status()], &[(0, &bytes, 0)]));
    let (status_of, out, error) = text(&image, "");
    assert_eq!((status_of, out.as_str()), (3, ""));
    for part in ["2 process tables", "--root 0x100000", "--root 0x300000"] {
        assert!(error.contains(part), "{error}");
    }
    assert!(error.contains(&format!("{stale:#x}")) && error.contains(&format!("{running:#x}")));
    let (_, answer) = json(&image, "--root 0x300000 translate 0xc008000000000000");
    assert_eq!(number(&answer[0]["pa"]), Some(0x7_0000));
    // The kernel says which is its own.
    let info = format!("SYMBOL(swapper_pg_dir)={:x}\nNUMBER(RADIX_MMU)=1\n", LINEAR | running);
    let notes = [status(), vmcoreinfo(&info)];
    let image = bench.file("told", &core(false, POWER, &notes, &[(0, &bytes, 0)]));
    let (status_of, answer) = json(&image, "translate 0xc008000000000000");
    assert_eq!((status_of, number(&answer[0]["pa"])), (0, Some(0x7_0000)));
    // So it does for other processes, whose entry is absent here.
    let (status_of, _, error) = text(&image, "--pid 3");
    assert_eq!(status_of, 3);
    assert!(error.contains("in the process table at 0x300000 is absent"), "{error}");
}

/// Whether the tables are radix or hashed is said by RADIX_MMU, since Linux 6.7; before, it shows.
#[test]
fn case_the_kind_of_tables_is_told_or_seen() {
    let bench = Bench::new();
    let memory = Memory::new(0, 4 << 20);
    let root = kernel(&memory, 0x4_0000, 0x10_0000, 0x5_0000);
    let bytes = memory.bytes();
    for (name, swapper, mmu, said) in [
        ("told", root, "NUMBER(RADIX_MMU)=1\n", None),
        ("seen", root, "", None),
        ("hashed", root, "NUMBER(RADIX_MMU)=0\n", Some("uses a hashed page table (RADIX_MMU=0)")),
        ("unseen", 0x20_0000, "", Some("no radix tree stands")),
    ] {
        let info = format!("OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)={:x}\n{mmu}", LINEAR | swapper);
        let notes = [status(), vmcoreinfo(&info)];
        let image = bench.file(name, &core(false, POWER, &notes, &[(0, &bytes, 0)]));
        let (status_of, out, error) = text(&image, "");
        match said {
            None => assert_eq!(status_of, 0, "{name}: {error}"),
            Some(said) => {
                assert_eq!((status_of, out.as_str()), (3, ""), "{name}: {error}");
                assert!(error.contains(said), "{name}: {error}");
            }
        }
    }
}

/// QEMU's kdump-compressed files name no machine; what the kernel says of itself tells POWER, also
/// before Linux 6.7.
#[test]
fn case_a_nameless_machine_is_told_by_the_kernel() {
    let bench = Bench::new();
    let memory = Memory::new(0, 4 << 20);
    let root = kernel(&memory, 0x4_0000, 0x10_0000, 0x5_0000);
    let bytes = memory.bytes();
    for (name, symbol, status) in [
        ("old", "SYMBOL(vmemmap_list)=c0000000015b1e38\n", 0),
        ("new", "NUMBER(RADIX_MMU)=1\n", 0),
        ("silent", "", 3),
    ] {
        let info = format!("OSRELEASE=6.1.0\nSYMBOL(swapper_pg_dir)={:x}\n{symbol}", LINEAR | root);
        let image = bench.file(name, &core(false, 0, &[vmcoreinfo(&info)], &[(0, &bytes, 0)]));
        let (seen, _, error) = text(&image, "");
        assert_eq!(seen, status, "{name}: {error}");
        assert_eq!(
            error.contains("does not tell its architecture"),
            status == 3,
            "{name}: {error}"
        );
    }
}

/// Enters a bolted page of the kernel.
fn enter(
    hpt: &Hpt<Gpa, pgtable::memory::DirectMap<'_, Gpa>>,
    context: u32,
    va: u64,
    pa: u64,
    size: PageSize,
) {
    let sizes = PageSizes::only(size);
    let vsid = Context::new(context).unwrap().vsid(Gva::new(va), SegmentSize::T1);
    let (ks, kp, n, class) = (false, true, false, false);
    let segment = Segment { vsid, size: SegmentSize::T1, base: sizes.base(), ks, kp, n, class };
    let page = VirtualPage::of(&segment, Gva::new(va));
    let r = HpteR::from_bits(pa).with_sizes(sizes).with_r(true).with_m(true);
    let v = page.v().with_l(sizes.lp().is_some()).with_bolted(true);
    hpt.insert(&page, Hpte { v, r }).unwrap().unwrap();
}

/// Kernels before 5.2, and those with pages of 4 KiB, have vmalloc, I/O and vmemmap elsewhere.
#[test]
fn case_old_kernels_and_small_pages_have_other_addresses() {
    type Page = (u32, u64, u64);
    let bench = Bench::new();
    let rows: [(&str, &str, PageSize, &[Page]); 3] = [
        (
            "64k-before-5.2",
            "OSRELEASE=4.18.0\nPAGESIZE=65536\n",
            PageSize::K64,
            &[
                (1, LINEAR, 0),
                (5, 0xd000_0000_0001_0000, 0x35_0000),
                (7, 0xf000_0000_0000_0000, 0x36_0000),
            ],
        ),
        (
            "64k",
            "OSRELEASE=5.10.0\nPAGESIZE=65536\n",
            PageSize::K64,
            &[
                (1, LINEAR, 0),
                (5, 0xc008_0000_0001_0000, 0x35_0000),
                (7, 0xc00c_0000_0000_0000, 0x36_0000),
            ],
        ),
        (
            "4k",
            "OSRELEASE=5.10.0\nPAGESIZE=4096\n",
            PageSize::K4,
            &[
                (1, LINEAR, 0),
                (2, 0xc000_3d00_0001_0000, 0x35_0000),
                (3, 0xc000_3e00_0000_0000, 0x35_5000),
                (4, 0xc000_3f00_0000_0000, 0x36_0000),
            ],
        ),
    ];
    for (layout, info, size, pages) in rows {
        let memory = Memory::new(0x4_0000, 1 << 18);
        let base = Gpa::new(0x4_0000);
        let hpt = Hpt::new(memory.map::<Gpa>(), base, HptOrder::MIN, Layout::V3).unwrap();
        for (context, va, pa) in pages {
            enter(&hpt, *context, *va, *pa, size);
        }
        let want: Vec<_> = pages
            .iter()
            .map(|(_, va, pa)| (*va, Some(*pa), size.bytes(), Some(size.bytes())))
            .collect();
        let bytes = memory.bytes();
        let notes = [status(), vmcoreinfo(info)];
        let told = core(false, POWER, &notes, &[(0x4_0000, &bytes, 0)]);
        let told = bench.file("told", &told);
        let asked = bench.file("asked", &bytes);
        let tables = "--arch ppc64-hash --root 0x40000 --pid 0";
        for (image, options) in [
            (&told, tables.to_owned()),
            (&asked, format!("{tables} --base 0x40000 --linux-layout {layout}")),
        ] {
            let (status_of, list) = json(image, &options);
            assert_eq!(status_of, 0, "{layout}");
            assert_eq!(ranges(&list), want, "{layout}");
            for (_, va, pa) in pages {
                let (_, answer) = json(image, &format!("{options} translate {va:#x}"));
                assert_eq!(number(&answer[0]["pa"]), Some(*pa), "{layout} {va:#x}");
            }
        }
    }
}

/// A hashed page table of 2^46 bytes of which the image has the first and the last group.
#[test]
fn case_a8_absent_groups_cost_nothing() {
    let bench = Bench::new();
    let group = [0_u8; 128];
    let last = (1_u64 << 46) - 128;
    let pieces = [(0, &group[..], 0), (last, &group[..], 0)];
    let image = bench.file("holes", &core(false, POWER, &[status()], &pieces));
    let options = "--arch ppc64-hash --root 0x1c";
    let start = std::time::Instant::now();
    let (status_of, stats) = json(&image, &format!("{options} stats"));
    assert_eq!((status_of, &stats["hash"]["missing"]), (3, &((1_u64 << 39) - 2).into()));
    let (status_of, _, error) = text(&image, options);
    assert!(status_of == 1 && error.contains("nothing is mapped"), "{error}");
    let (status_of, answer) = json(&image, &format!("{options} translate {LINEAR:#x}"));
    assert_eq!((status_of, &answer[0]["state"]), (3, &"unknown".into()));
    assert!(start.elapsed() < std::time::Duration::from_secs(10), "{:?}", start.elapsed());
}
