//! What `ptdump` makes of an arbitrary file: as an ELF core, as raw memory.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use arbitrary::{Arbitrary, Unstructured};
use memory_image::{Allowance, Form, Image};
use pgtable::memory::TableMemory;
use pgtable::{Access, Gpa};
use table_dump::{Arch, Census, Located, Range, Request, RootChoice, Space, State, locate};

use crate::case::{access, bit, image, words};

/// What a case may cost. Tables that lead in circles reach it.
const ALLOWANCE: Allowance = Allowance { words: 1 << 15, bytes: 1 << 20 };
/// How many ranges of a list are looked at.
const MOST_RANGES: usize = 64;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    pid: u32,
    root: u64,
    base: u64,
    va: u64,
}

/// An arbitrary file, as it is or as words that fill 64 KiB of raw memory; an architecture, a root
/// (or none: then the file must tell) and an address.
///
/// # Oracles
/// Each word of memory is what a naive reader of program headers finds. What is listed is what
/// single translations say, first and last byte of each range, and what is not listed does not
/// translate; the census counts as many bytes as are listed; an image differs from itself in
/// nothing but what cannot be read. No question costs more than its allowance.
pub fn ptdump_core(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { flags, .. } = header;
    let file: Vec<u8> = if bit(flags, 0) {
        image(&words(input), 1 << 13).iter().flat_map(|word| word.to_le_bytes()).collect()
    } else {
        input.take_rest().to_vec()
    };
    let Ok(image) = Image::open(&file[..], header.base) else { return };
    memory(&image, &file, header.base, header.va);

    let archs = [
        Arch::X86_64,
        Arch::X86_64La57,
        Arch::Ept,
        Arch::Ppc64Radix,
        Arch::Ppc64Hash,
        Arch::Riscv64,
        Arch::Riscv64Guest,
    ];
    let others =
        [Arch::Aarch64, Arch::Aarch64Upper, Arch::Aarch64Stage2, Arch::X86_32, Arch::X86Pae];
    let archs = if bit(flags, 15) { &others[..] } else { &archs[..] };
    let request = Request {
        arch: archs.get(usize::from(flags >> 1 & 7)).copied(),
        tcr: bit(flags, 14).then_some(header.va),
        root: bit(flags, 4).then_some(RootChoice::Address(header.root)),
        pid: bit(flags, 5).then_some(header.pid),
        cpu: bit(flags, 6).then_some(1),
        layout: bit(flags, 7).then_some(pgtable_ppc64::hash::Layout::V2),
        ..Request::default()
    };
    let Ok(located) = locate(&image, &request, &|_, _| ()) else { return };
    let tables = image.tables(ALLOWANCE).without(located.foreign);
    let Ok(space) = Space::of(&image, &tables, &located) else { return };

    let mut listed = Vec::new();
    let mut take = |range: Range| {
        listed.push(range);
        ControlFlow::Continue(())
    };
    space.list(&mut take, &|_, _| ());
    let whole = !tables.is_over();
    within(tables.cost());
    check(&image, &located, &listed, whole, header.va, access((flags >> 8) as u8));
}

fn within((words, bytes): (u64, u64)) {
    assert!(words <= ALLOWANCE.words && bytes <= ALLOWANCE.bytes, "{words} words, {bytes} bytes");
}

/// What the list says against what else there is to ask.
fn check(
    image: &Image<'_>,
    located: &Located,
    listed: &[Range],
    whole: bool,
    va: u64,
    access: Access,
) {
    let fresh = image.tables(ALLOWANCE).without(located.foreign);
    let space = Space::of(image, &fresh, located).expect("it was read before");
    let hashed = matches!(space, Space::Hash(_));
    let mut last = None;
    for range in listed.iter().take(MOST_RANGES) {
        let (Some(start), Some(bytes)) = (range.va, range.bytes) else { continue };
        let end = start + (bytes - 1);
        if !hashed {
            assert!(last.is_none_or(|last| last < start), "{start:#x} is out of order");
            last = Some(end);
            for (at, within) in [(start, 0), (end, bytes - 1)] {
                let one = space.translate(at, None);
                assert_eq!(one.pa, range.pa.map(|pa| pa + within), "{at:#x}: {range:?} {one:?}");
                if range.pa.is_some() {
                    assert_eq!(
                        (one.size, one.rights, &one.attributes),
                        (range.size, range.rights, &range.attributes)
                    );
                }
            }
        }
    }
    for at in [va, va ^ 1 << 12, va ^ 1 << 47] {
        let one = space.translate(at, None);
        let judged = space.translate(at, Some(access));
        assert!(judged.pa.is_none() || judged.pa == one.pa, "{at:#x}: {one:?} {judged:?}");
        assert_eq!(
            (one.pa.is_none(), judged.pa.is_none()),
            (one.fault.is_some(), judged.fault.is_some())
        );
        for range in [&one, &judged] {
            assert_eq!(range.state == State::Mapped, range.pa.is_some(), "{range:?}");
        }
        assert!(one.state != State::Denied, "{one:?}");
        let covers = |range: &&Range| {
            range.va.is_some_and(|va| va <= at && at - va < range.bytes.unwrap_or(0))
        };
        let mut found = listed.iter().filter(covers);
        if whole && !hashed {
            let pa =
                found.next().and_then(|range| range.pa.map(|pa| pa + (at - range.va.unwrap_or(0))));
            assert_eq!(one.pa, pa, "{at:#x}");
        } else if whole && one.pa.is_some() {
            // Several entries may claim one page: one of them it is.
            assert!(
                found.any(|range| range.pa.map(|pa| pa + (at - range.va.unwrap_or(0))) == one.pa),
                "{at:#x} {one:?}"
            );
        }
    }
    within(fresh.cost());

    let fresh = image.tables(ALLOWANCE).without(located.foreign);
    let space = Space::of(image, &fresh, located).expect("it was read before");
    let census = space.census(&|_, _| ());
    within(fresh.cost());
    let missing =
        matches!(&census, Census::Tree(it) if it.levels.iter().any(|level| level.missing > 0));
    let whole = whole && !missing && !fresh.is_over();
    if let (Census::Tree(census), true) = (census, whole) {
        let mapped = listed.iter().filter(|range| range.pa.is_some());
        assert_eq!(census.mapped(), mapped.filter_map(|range| range.bytes).sum::<u64>());
    }

    let tables = || image.tables(ALLOWANCE).without(located.foreign);
    let (one, two) = (tables(), tables());
    let (before, after) = (Space::of(image, &one, located), Space::of(image, &two, located));
    let (before, after) = (before.expect("it was read before"), after.expect("it was read before"));
    let mut same = |difference: table_dump::Difference| {
        assert!(difference.fault.is_some(), "{difference:?}");
        ControlFlow::Continue(())
    };
    before.diff(&after, &mut same, &|_, _| ()).expect("the same kind");
    within(one.cost());
    within(two.cost());
}

/// Memory as `image` gives it against a search through the program headers for each byte. Of other
/// forms there is no naive reader here: what is stored can be read, and is the same as table
/// memory.
fn memory(image: &Image<'_>, file: &[u8], base: u64, va: u64) {
    let pieces = match image.form() {
        Form::Raw => Some(vec![(base, (file.len() as u64).min(u64::MAX - base), 0)]),
        Form::ElfCore if file.starts_with(b"\x7fELF\x02") => Some(pieces(file)),
        _ => None,
    };
    let byte = |address: u64| {
        let covers = |piece: &&(u64, u64, u64)| address >= piece.0 && address - piece.0 < piece.1;
        let (start, _, offset) = pieces.as_ref()?.iter().find(covers)?;
        file.get(usize::try_from(offset.checked_add(address - start)?).ok()?).copied()
    };
    let tables = image.tables(ALLOWANCE);
    let known =
        pieces.iter().flatten().take(8).flat_map(|piece| [piece.0, piece.0.wrapping_add(piece.1)]);
    let stored = [0, va, 1 << 32].into_iter().filter_map(|at| image.next_stored(at));
    for near in known.chain(stored).chain([va, 0, base]) {
        for address in
            [near & !7, (near & !7).wrapping_add(8), (near & !7).wrapping_sub(8), near | 1]
        {
            let mut bytes = [0; 8];
            let held = image.holds(address, 8);
            let read = image.read(address, &mut bytes).ok().map(|()| bytes);
            assert!(read.is_none() || held, "{address:#x}");
            if let Some(next) = image.next_stored(address) {
                assert!(next >= address && image.holds(next, 1), "{address:#x} {next:#x}");
                assert_eq!(next == address, image.holds(address, 1), "{address:#x}");
            }
            let seen = tables
                .word(Gpa::new(address))
                .ok()
                .map(|word| word.load(Ordering::Relaxed).to_ne_bytes());
            if address % 8 == 0 && tables.spent().is_none() {
                assert_eq!(seen, read, "{address:#x}");
            }
            if pieces.is_some() {
                let naive: Option<Vec<u8>> =
                    (0..8).map(|n| address.checked_add(n).and_then(byte)).collect();
                assert_eq!(read.map(|it| it.to_vec()), naive, "{address:#x}");
            }
        }
    }
    within(tables.cost());
}

/// The loaded pieces of a 64-bit ELF file, as far as the file has them: address, length, offset;
/// those that begin first come first.
fn pieces(file: &[u8]) -> Vec<(u64, u64, u64)> {
    let big = file[5] == 2;
    let number = |at: usize, size: usize| {
        let bytes = &file[at..at + size];
        let digit = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if big { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) }
    };
    let (first, mut count) = (number(32, 8), number(56, 2));
    if first == 0 {
        return Vec::new();
    }
    if count == 0xffff {
        // More than fit: section 0 says how many.
        count = number(number(40, 8) as usize + 44, 4);
    }
    let mut pieces = Vec::new();
    for header in (0..count).map(|n| (first + n * 56) as usize).filter(|at| number(*at, 4) == 1) {
        let [offset, _, start, in_file] = [8, 16, 24, 32].map(|field| number(header + field, 8));
        let stored = in_file.min((file.len() as u64).saturating_sub(offset));
        if start != u64::MAX && stored > 0 {
            pieces.push((start, stored.min(u64::MAX - start), offset));
        }
    }
    pieces.sort_by_key(|piece| piece.0);
    pieces
}
