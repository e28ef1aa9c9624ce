//! Bytes at translated addresses against a model that knows one byte at a time: around every
//! border of pages of every size, holes, rights, memory that ends within a page, and the end of the
//! address space.

#![cfg(feature = "vm-memory")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[allow(dead_code, reason = "the models use the rest")]
#[path = "support/mod.rs"]
mod support;

use pgtable::bytes::{ByteMemory, Debugger, GuestBytes, Reason, Stopped, WordBytes};
use pgtable::format::{Format, Input, Output};
use pgtable::memory::DirectMap;
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Address, Cause, Leaves, Mapping, Privilege, Prot};
use pgtable_ppc64::radix::{Granule, PartitionScoped, ProcessScoped};
use pgtable_x86::{Controls, Ept, EptControls, Levels, LongMode, Npt, NptControls};
use support::{Arena, Tables};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

/// How far around a border is looked.
const NEAR: u64 = 1;

/// One page: where, to where, log2 of its size, what it allows.
#[derive(Clone, Copy)]
struct Page {
    input: u64,
    output: u64,
    shift: u8,
    prot: Prot,
}

/// Memory behind the pages: (start, bytes).
const REGIONS: [(u64, usize); 6] = [
    (0x10_0000, 0x8000),
    (0x11_0000, 0x6_0000),
    // Two pieces of a page of 2 MiB, the first ending between two words.
    (0x4000_0000, 0x3005),
    (0x401f_f000, 0x1000),
    // Two of a page of 1 GiB.
    (0x8000_0000, 0x1000),
    (0xbfff_f000, 0x1000),
];

/// What a range comes to: how many bytes are done, then why not the next (`None`: all are).
type Outcome = (u64, Option<Why>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Why {
    NotPresent,
    Denied,
    Address,
    Memory,
    End,
}

/// The bytes of [`REGIONS`].
struct Ram([Vec<u8>; 6]);

impl Ram {
    fn new() -> Self {
        let byte = |at: u64| (at >> 3) as u8 ^ at as u8;
        Self(REGIONS.map(|(start, bytes)| (start..).take(bytes).map(byte).collect()))
    }

    /// The byte at `at`; `None` where there is none.
    fn get(&mut self, at: u64) -> Option<&mut u8> {
        let mut regions = self.0.iter_mut().zip(REGIONS);
        regions.find_map(|(held, (start, _))| held.get_mut(at.checked_sub(start)? as usize))
    }
}

struct Model {
    pages: Vec<Page>,
    ram: Ram,
    /// Whether the format knows whose a page is.
    privileges: bool,
    /// The addresses that the space has.
    space: fn(u64) -> bool,
}

impl Model {
    /// The output address of one byte, as an access of this kind reaches it.
    fn byte(&self, at: u64, access: Option<Access>) -> Result<u64, Why> {
        if !(self.space)(at) {
            return Err(Why::Address);
        }
        let holds = |page: &&Page| at >> page.shift == page.input >> page.shift;
        let page = self.pages.iter().find(holds).ok_or(Why::NotPresent)?;
        let allowed = access.is_none_or(|access| {
            let kind = match access.kind {
                AccessKind::Read => page.prot.read(),
                AccessKind::Write => page.prot.write(),
                AccessKind::Fetch => page.prot.execute(),
            };
            let user = access.privilege == Privilege::User && self.privileges;
            kind && (page.prot.user() || !user)
        });
        let output = page.output + (at - page.input);
        if allowed { Ok(output) } else { Err(Why::Denied) }
    }

    fn range(&mut self, start: u64, bytes: u64, access: Option<Access>) -> Outcome {
        for done in 0..bytes {
            let Some(at) = start.checked_add(done) else { return (done, Some(Why::End)) };
            match self.byte(at, access) {
                Ok(output) if self.ram.get(output).is_some() => {}
                Ok(_) => return (done, Some(Why::Memory)),
                Err(why) => return (done, Some(why)),
            }
        }
        (bytes, None)
    }

    fn outputs(&self, start: u64, bytes: u64) -> Vec<u64> {
        (0..bytes).map(|n| self.byte(start + n, None).unwrap()).collect()
    }

    fn held(&mut self, outputs: &[u64]) -> Vec<u8> {
        outputs.iter().map(|&output| *self.ram.get(output).unwrap()).collect()
    }

    fn set(&mut self, outputs: &[u64], bytes: &[u8]) {
        for (&output, &byte) in outputs.iter().zip(bytes) {
            *self.ram.get(output).unwrap() = byte;
        }
    }
}

fn outcome<F: Format, E>(
    start: u64,
    bytes: u64,
    result: Result<(), Stopped<Input<F>, pgtable::Fault<F>, E>>,
) -> Outcome {
    let Err(Stopped { at, done, reason }) = result else { return (bytes, None) };
    let why = match reason {
        Reason::Fault(fault) => {
            assert_eq!(fault.address, at, "the fault names the byte");
            match fault.cause {
                Cause::NotPresent => Why::NotPresent,
                Cause::Denied => Why::Denied,
                Cause::Address => Why::Address,
                other => panic!("{other}"),
            }
        }
        Reason::Memory(_) => Why::Memory,
        Reason::End => {
            assert_eq!(at.get(), u64::MAX);
            return (done, Some(Why::End));
        }
    };
    assert_eq!(at.get(), start + done, "the first byte that is not done");
    (done, Some(why))
}

/// Pages of every size of `format` in a row with holes, of all rights, at the space's `start`.
fn pages<F: Format>(format: &F, start: u64, top: Option<u64>) -> Vec<Page> {
    let unit = format.geometry().page_shift();
    let page = |shift: u8, input: u64, output: u64, prot| Page { input, output, shift, prot };
    let (size, all) = (1 << unit, Prot::RWX.for_user());
    // Backed in reverse, so that no two are neighbours in memory; the fourth is missing.
    let rights = [all, all, Prot::RW, Prot::R, Prot::R.for_user(), Prot::RX, all];
    let small = [0, 1, 2, 4, 5, 6, 7].into_iter().zip(rights);
    let base = 0x10_0000_u64;
    let last = if unit == 12 { 7 } else { 0 };
    let mut pages: Vec<_> = small
        .map(|(n, prot)| {
            let output =
                if unit == 12 { base + (last - n) * size } else { 0x11_0000 + (n % 6) * size };
            page(unit, start + n * size, output, prot)
        })
        .collect();
    for (shift, output) in [(21, 0x4000_0000), (30, 0x8000_0000)] {
        if format.geometry().leaf(shift).is_some() {
            pages.push(page(shift, start + (1 << shift), output, all));
        }
    }
    // The last page of the space.
    pages.extend(top.map(|top| page(unit, top, 0x10_0000, all)));
    pages
}

/// Every range that begins and ends near a border of a page, of memory, of a chunk, or of a word.
fn ranges(model: &Model) -> Vec<(u64, u64)> {
    let mut borders = Vec::new();
    for page in &model.pages {
        let size = 1 << page.shift;
        borders.extend([page.input, page.input.wrapping_add(size)]);
        for (start, bytes) in REGIONS {
            for border in [start, start + bytes as u64] {
                if border > page.output && border < page.output + size {
                    borders.push(page.input + (border - page.output));
                }
            }
        }
    }
    borders.push(model.pages[0].input + 512);
    borders.sort_unstable();
    borders.dedup();
    let around =
        |border: u64| (0..=2 * NEAR).map(move |n| border.wrapping_sub(NEAR).wrapping_add(n));
    let starts: Vec<u64> = borders.iter().flat_map(|&border| around(border)).collect();
    let mut ranges = Vec::new();
    for &start in &starts {
        let lengths = [0, 1, 8, 511, 513].into_iter();
        let ends = starts.iter().map(|&end| end.wrapping_sub(start));
        // To the borders around, and to the next two.
        let mut reach: Vec<u64> = ends.filter(|&bytes| bytes <= 0x3_0000).collect();
        reach.sort_unstable();
        reach.truncate(9);
        ranges.extend(lengths.chain(reach).map(|bytes| (start, bytes)));
    }
    ranges.sort_unstable();
    ranges.dedup();
    // Of the long ones a third.
    ranges.retain(|&(start, bytes)| bytes < 0x4000 || start.wrapping_add(bytes) % 3 == 0);
    ranges
}

fn check<F: Format, M: ByteMemory<Output<F>>>(
    walker: &Walker<F, DirectMap<'_, Output<F>>>,
    model: &mut Model,
    memory: &M,
) {
    let judged = [Privilege::Supervisor, Privilege::User]
        .map(|privilege| (GuestBytes::new(walker, memory).by(privilege), privilege));
    let debugger = GuestBytes::new(Debugger(walker), memory);
    let mut turn = 0_u8;
    for (start, bytes) in ranges(model) {
        let at = Input::<F>::new(start);
        let mut buffer = vec![0xee; bytes as usize];
        let expect = |model: &mut Model, got: Outcome, access: Option<Access>| {
            let want = model.range(start, bytes, access);
            assert_eq!(got, want, "{access:?} of {bytes:#x} bytes at {start:#x}");
            want.0
        };
        for (bytes_of, privilege) in &judged {
            let access = |kind| Access { kind, privilege: *privilege };
            let (read, fetch) = (access(AccessKind::Read), access(AccessKind::Fetch));
            buffer.fill(0xee);
            let result = bytes_of.fetch(at, &mut buffer);
            expect(model, outcome::<F, _>(start, bytes, result), Some(fetch));
            buffer.fill(0xee);
            let result = bytes_of.read(at, &mut buffer);
            let done = expect(model, outcome::<F, _>(start, bytes, result), Some(read)) as usize;
            let held = model.held(&model.outputs(start, done as u64));
            assert!(buffer[..done] == held, "{bytes:#x} bytes at {start:#x}");
            assert!(buffer[done..].iter().all(|&byte| byte == 0xee), "and nothing behind");

            // Segments are the same in pieces of pages.
            let mut next = start;
            for segment in bytes_of.segments(at, bytes, AccessKind::Read).filter_map(Result::ok) {
                let Mapping { input, output, bytes, shift, .. } = segment;
                assert_eq!(input.get(), next);
                assert_eq!(Ok(output.get()), model.byte(next, None));
                assert_eq!(next >> shift, (next + (bytes - 1)) >> shift, "within one page");
                next = next.wrapping_add(bytes);
            }
            assert!(next.wrapping_sub(start) >= done as u64);
        }

        // Written by who may, and by a debugger, who always may.
        for privilege in [Some(Privilege::Supervisor), Some(Privilege::User), None] {
            turn = turn.wrapping_add(1);
            let new: Vec<u8> = (0..bytes).map(|n| (n as u8).wrapping_mul(7) ^ turn).collect();
            let access = privilege.map(|privilege| Access { kind: AccessKind::Write, privilege });
            let result = match privilege {
                Some(privilege) => GuestBytes::new(walker, memory).by(privilege).write(at, &new),
                None => debugger.write(at, &new),
            };
            let done = expect(model, outcome::<F, _>(start, bytes, result), access);
            model.set(&model.outputs(start, done), &new);
        }

        // Compared: the first difference if it comes before what cannot be reached.
        let (done, why) = model.range(start, bytes, None);
        let mut same = model.held(&model.outputs(start, done));
        same.resize(bytes as usize, 0);
        let result = debugger.compare(at, &same);
        match (result, why) {
            (Ok(None), None) => {}
            (Err(stopped), Some(_)) => {
                assert_eq!(outcome::<F, _>(start, bytes, Err(stopped)), (done, why));
            }
            (other, why) => panic!("{:?}, but {why:?}", other.map_err(|stopped| stopped.done)),
        }
        for differs in [0, done / 2, done.saturating_sub(1)].into_iter().filter(|&at| at < done) {
            same[differs as usize] ^= 0x10;
            assert_eq!(debugger.compare(at, &same).ok(), Some(Some(differs)));
            same[differs as usize] ^= 0x10;
        }
    }
    copies(walker, model, memory);
    // Nobody but the writes above wrote: everything is as the model says.
    for (held, (start, _)) in model.ram.0.iter().zip(REGIONS) {
        let mut found = vec![0; held.len()];
        memory.read(Output::<F>::new(start), &mut found).unwrap();
        assert!(found == *held, "the region at {start:#x}");
    }
}

/// Copies and comparisons between pairs of ranges that share no byte.
fn copies<F: Format, M: ByteMemory<Output<F>>>(
    walker: &Walker<F, DirectMap<'_, Output<F>>>,
    model: &mut Model,
    memory: &M,
) {
    let supervisor = GuestBytes::new(walker, memory);
    let (read, write) = (Access::READ, Access::WRITE);
    let ranges = ranges(model);
    let starts: Vec<u64> =
        ranges.iter().filter(|range| range.1 == 1).map(|range| range.0).collect();
    let mut compared = 0;
    for (index, &from) in starts.iter().enumerate() {
        for &to in starts.iter().skip(index % 7).step_by(7) {
            for bytes in [1, 6, 700, 0x1800] {
                let (can_read, why) = model.range(from, bytes, Some(read));
                let (can_write, why_not) = model.range(to, bytes, Some(write));
                let done = can_read.min(can_write);
                let sources = model.outputs(from, done);
                let targets = model.outputs(to, done);
                let mut sorted = targets.clone();
                sorted.sort_unstable();
                if sources.iter().any(|output| sorted.binary_search(output).is_ok()) {
                    continue;
                }
                let result = supervisor.copy(Input::<F>::new(from), Input::<F>::new(to), bytes);
                // Whoever stops first is named; the reader, if both stop at once.
                let (start, want) = if can_read <= can_write { (from, why) } else { (to, why_not) };
                assert_eq!(
                    outcome::<F, _>(start, bytes, result),
                    (done, want),
                    "{from:#x} {to:#x}"
                );
                let copied = model.held(&sources);
                model.set(&targets, &copied);
                let (one, other) = (Input::<F>::new(to), Input::<F>::new(from));
                let readable = model.range(to, bytes, Some(read)).0.min(can_read);
                if readable == bytes && done == bytes {
                    assert_eq!(supervisor.compare_with(one, other, bytes).ok(), Some(None));
                    // And with the last byte another one.
                    let last = Input::<F>::new(to + (bytes - 1));
                    let flip = !copied[done as usize - 1];
                    supervisor.write(last, &[flip]).unwrap();
                    model.set(&targets[done as usize - 1..], &[flip]);
                    let found = supervisor.compare_with(one, other, bytes).ok();
                    assert_eq!(found, Some(Some(bytes - 1)));
                    compared += 1;
                }
            }
        }
    }
    assert!(compared > 10, "{compared} copies were compared");
}

fn every_border<F: Format>(
    format: F,
    start: u64,
    top: Option<u64>,
    privileges: bool,
    space: fn(u64) -> bool,
) {
    let arena = Arena::new(1 << 20);
    let tables = Tables::new(&arena);
    let mut tree = PageTable::new(format, arena.memory::<Output<F>>(), &tables).unwrap();
    let pages = pages(&format, start, top);
    for &Page { input, output, shift, prot } in &pages {
        let (input, output) = (Input::<F>::new(input), Output::<F>::new(output));
        tree.map(input, output, 1 << shift, prot.into(), Leaves::Exactly(shift)).unwrap();
    }
    let walker = Walker::new(format, arena.memory(), tree.root());
    let ranges = REGIONS.map(|(start, bytes)| (GuestAddress(start), bytes));
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).unwrap();
    let ram = Ram::new();
    for (held, (start, _)) in ram.0.iter().zip(REGIONS) {
        memory.write_slice(held, GuestAddress(start)).unwrap();
    }
    let mut model = Model { pages, ram, privileges, space };
    check(&walker, &mut model, &memory);

    // The same memory, word by word: what is no whole word is none of it.
    let tables = pgtable::memory::GuestTables::new(&memory).unwrap();
    model.ram.0[2].truncate(0x3000);
    check(&walker, &mut model, &WordBytes(&tables));
}

fn canonical(at: u64) -> bool {
    (at as i64) << 16 >> 16 == at as i64
}

fn canonical_57(at: u64) -> bool {
    (at as i64) << 7 >> 7 == at as i64
}

#[test]
fn x86_4_level() {
    let format = LongMode::new(Levels::Four, Controls::new());
    every_border(format, 0, Some(0xffff_ffff_ffff_f000), true, canonical);
}

#[test]
fn x86_5_level() {
    let format = LongMode::new(Levels::Five, Controls::new());
    every_border(format, 0xff00_0000_0000_0000, Some(0xffff_ffff_ffff_f000), true, canonical_57);
}

#[test]
fn radix_process() {
    let all = |at: u64| at >> 62 == 0 && at >> 52 == 0;
    every_border(ProcessScoped::new(Granule::K4), 0, None, true, all);
    every_border(ProcessScoped::new(Granule::K64), 0x8000_0000_0000, None, true, all);
}

#[test]
fn second_stages() {
    every_border(PartitionScoped::new(Granule::K64), 0, None, false, |at| at >> 52 == 0);
    every_border(Ept::new(Levels::Four, EptControls::new()), 0, None, false, |at| at >> 48 == 0);
    every_border(Npt::new(Levels::Five, NptControls::new()), 0, None, false, |at| at >> 57 == 0);
}
