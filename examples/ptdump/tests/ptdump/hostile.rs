//! Images that somebody hostile made: nothing crashes, nothing runs for ever, and what is wrong is
//! said where it is.

use std::time::{Duration, Instant};

use pgtable::{Gpa, Prot};
use pgtable_x86::{Controls, Levels, LongMode};

use crate::support::{Bench, Memory, build, json, ranges, text};

const START: u64 = 0x20_0000;

/// A table all of whose entries lead to itself: 512^4 pages.
#[test]
fn circles_end_at_the_limit() {
    let bench = Bench::new();
    let memory = Memory::new(START, 0x1000);
    for word in &memory.words {
        word.store((START | 7).to_le(), std::sync::atomic::Ordering::Relaxed);
    }
    let image = bench.file("image", &memory.bytes());
    let options = format!("--arch x86-64 --base {START:#x} --root {START:#x} --limit-words 2M");
    let start = Instant::now();
    for command in ["list", "stats", &format!("diff {}", image.display())] {
        let (status, _, error) = text(&image, &format!("{options} {command}"));
        assert_eq!(status, 3, "{command}: {error}");
        assert!(error.contains("stopped after 2097152 table words"), "{error}");
    }
    for command in
        [format!("list --svg {}", bench.path("a.svg").display()), "list --json".to_owned()]
    {
        assert_eq!(text(&image, &format!("{options} {command}")).0, 3);
    }
    assert!(std::fs::metadata(bench.path("a.svg")).unwrap().len() < 1 << 20);
    assert!(start.elapsed() < Duration::from_secs(120), "{:?}", start.elapsed());
    let (status, answer) = json(&image, &format!("{options} translate 0x123456789abc"));
    assert_eq!((status, answer[0]["pa"].as_str()), (0, Some("0x200abc")));
}

/// Wrong entries at every level are told, neighbours as one, and what is sound around them is
/// listed.
#[test]
fn wrong_entries_are_told_and_passed() {
    let bench = Bench::new();
    let memory = Memory::new(START, 1 << 20);
    let rows = [
        (0x1000, 0x5000, 0x4000, 12, Prot::RW),
        (0x8000_0000, 0x4000_0000, 0x40_0000, 21, Prot::RW),
    ];
    let format = LongMode::new(Levels::Four, Controls { maxphyaddr: 40, ..Controls::new() });
    let (root, _) = build(format, &memory, START, &rows);
    // PML4 entries 5 and 6: PS is reserved there; 7: a table outside the image.
    memory.put::<Gpa>(root + 5 * 8, 0x80 | 1);
    memory.put::<Gpa>(root + 6 * 8, 0x80 | 1);
    memory.put::<Gpa>(root + 7 * 8, 0x7_0000_0001);
    let image = bench.file("image", &memory.bytes());
    let options = format!("--arch x86-64 --base {START:#x} --root {root:#x}");
    let (status, list) = json(&image, &options);
    assert_eq!(status, 3, "something is unknown");
    let span = 1 << 39;
    assert_eq!(
        ranges(&list),
        [
            (0x1000, Some(0x5000), 0x4000, Some(0x1000)),
            (0x8000_0000, Some(0x4000_0000), 0x40_0000, Some(0x20_0000)),
            (5 * span, None, 2 * span, Some(span)),
            (7 * span, None, span, Some(span)),
        ]
    );
    let fault = list[2]["fault"].as_str().unwrap();
    assert!(fault.contains("malformed entry 0x0000000000000081 of 2^39 bytes"), "{fault}");
    assert_eq!([&list[2]["state"], &list[3]["state"]], ["malformed", "unknown"]);
    let fault = list[3]["fault"].as_str().unwrap();
    let why = "the table at 0x700000000 is not in the image, where the PML4E 0x0000000700000001";
    assert!(fault.contains(why), "{fault}");
    let (_, stats) = json(&image, &format!("{options} stats"));
    let levels = &stats["tree"]["levels"];
    assert_eq!(
        (levels[0]["malformed"].as_u64(), levels[1]["missing"].as_u64()),
        (Some(2), Some(1))
    );
    let (status, differences) = json(&image, &format!("{options} diff {}", image.display()));
    assert_eq!(
        (status, differences.as_array().unwrap().len()),
        (3, 3),
        "what cannot be read cannot be compared"
    );
}

/// Every byte of a small core changed in turn, and the core cut at every length: an answer each
/// time.
#[test]
fn damaged_cores_are_refused_or_read() {
    use memory_image::{Allowance, Image};
    use std::ops::ControlFlow;
    use table_dump::{Request, Space, locate};

    let memory = Memory::new(0x1000, 0x4000);
    let rows = [(0x1000, 0x5000, 0x1000, 12, Prot::RW)];
    let (root, _) = build(LongMode::new(Levels::Four, Controls::new()), &memory, 0x1000, &rows);
    let info = format!(
        "SYMBOL(swapper_pg_dir)={:x}\nNUMBER(phys_base)=0\n",
        0xffff_ffff_8000_0000_u64 + root
    );
    let good = crate::cores::core(
        false,
        62,
        &[("VMCOREINFO", 0, info.into_bytes())],
        &[(0x1000, &memory.bytes(), 0)],
    );
    let look = |bytes: &[u8]| {
        let Ok(image) = Image::open(bytes, 0) else { return 0 };
        let Ok(located) = locate(&image, &Request::default(), &|_, _| ()) else { return 0 };
        let tables = image.tables(Allowance { words: 1 << 14, bytes: 1 << 20 });
        let Ok(space) = Space::of(&image, &tables, &located) else { return 0 };
        let mut mapped = 0;
        let mut take = |range: table_dump::Range| {
            mapped += u64::from(range.pa.is_some());
            ControlFlow::Continue(())
        };
        space.list(&mut take, &|_, _| ());
        mapped
    };
    assert_eq!(look(&good), 1);
    for at in 0..0x1e0 {
        for byte in [0, 1, 0x7f, 0xff, good[at] ^ 0x80] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            look(&bytes);
        }
    }
    for length in 0..good.len() {
        if length < 0x200 || length % 97 == 0 {
            look(&good[..length]);
        }
    }
}
