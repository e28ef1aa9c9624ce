//! Partition-scoped trees on an MMU that we did not write: QEMU's, as a bare machine has it,
//! without a host that could help.
//!
//! The library builds a partition table and a partition-scoped tree in an image of memory, and says
//! of each access of a guest in real mode, for which guest real addresses are all there is, where
//! it goes or which interrupt the hypervisor takes, with HDSISR, HDAR and ASDR. In half of the
//! cases one entry is changed to something odd. A tiny hypervisor (`hypervisor.S`) on a bare
//! powernv machine makes these accesses; the image that it leaves behind is compared. The program
//! runs on any machine; `cargo xtask probe --mmu radix --stage2` runs it, then the machine, then it
//! again.
//!
//! Pages are of 4 KiB if the seed is even, of 64 KiB if it is odd; with 2 MiB and 1 GiB both.

mod nested;
mod records;

use std::error::Error;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::allocator::TableAllocator;
use pgtable::format::Format;
use pgtable::memory::{DirectMap, TableMemory};
use pgtable::tree::PageTable;
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Gpa, Gva, Hpa, Leaves, Stage2};
use pgtable_ppc64::Vector;
use pgtable_ppc64::radix::{
    Granule, HypervisorFault, PageAttributes, PartitionScoped, PartitionTable, Pate,
    ProcessTableWord, Pte, RadixRoot, RcPolicy, Ric, Rs, Strictness, Tlbie,
};

use crate::Asked;
use crate::report::{Ended, Report};
use nested::Scene;
use records::{Answer, DATA, Header, Order, STUBS, TABLES, block};

/// The partition.
const LPID: u32 = 5;
/// PATS: 4096 partitions.
const PATS: u8 = 4;
/// Where the partition table is.
const PARTITION_TABLE: u64 = TABLES.0;
/// A word that nobody uses: of the last partition.
const SCRATCH: u64 = PARTITION_TABLE + 0xfff8;
/// The frames that tables are made of.
const FRAMES: (u64, u32) = (TABLES.0 + 0x1_0000, 126);
/// How many mappings are tried.
const MAPPINGS: usize = 400;

type Memory<'w> = DirectMap<'w, Hpa>;

/// A case: what is asked of the machine, and what the library says to it.
struct Case {
    order: Order,
    access: Access,
    address: u64,
    expected: Expected,
    /// What the leaf holds afterwards.
    leaf: u64,
    odd: bool,
}

/// What comes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Done(u64),
    Refused(HypervisorFault),
}

/// A mapping: guest real address, log2 of its size, host real address.
type Mapping = (u64, u8, u64);

/// What the trees are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guests {
    /// Guests of ours.
    Own,
    /// A guest's guests: shadows.
    Nested,
}

/// Writes the image.
pub fn write(
    path: &Path,
    guests: Guests,
    rc: RcPolicy,
    asked: &Asked,
) -> Result<(), Box<dyn Error>> {
    let header = header()?;
    if guests == Guests::Nested {
        let Scene { tables, writes, cases } = nested::generate(rc, asked)?;
        let orders: Vec<_> = cases.iter().map(|case| case.order).collect();
        return Ok(fs::write(path, records::write(header, &orders, &writes, tables)?)?);
    }
    with_cases(rc, asked, |bench, _, cases| {
        let orders: Vec<_> = cases.iter().map(|case| case.order).collect();
        let tables = (TABLES.0..TABLES.1)
            .step_by(8)
            .map(|at| bench.load(at))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(fs::write(path, records::write(header, &orders, &[], tables)?)?)
    })
}

/// What the records have in common.
fn header() -> Result<Header, Box<dyn Error>> {
    let tlbie = Tlbie::<Stage2>::space(Ric::All, Rs::new().with_lpid(LPID));
    Ok(Header {
        ptcr: partition_table()?.ptcr().into(),
        lpidr: LPID.into(),
        tlbie: [tlbie.rb().into(), tlbie.rs().into()],
    })
}

fn partition_table() -> Result<PartitionTable, Box<dyn Error>> {
    let table = PartitionTable::new(Hpa::new(PARTITION_TABLE), PATS);
    table.ok_or_else(|| "the partition table is not aligned".into())
}

/// Judges the image that the machine left behind.
pub fn judge(
    path: &Path,
    guests: Guests,
    rc: RcPolicy,
    asked: &Asked,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    report.fact("R and C", format!("{rc:?}"));
    if guests == Guests::Nested {
        return compare(path, &nested::generate(rc, asked)?.cases, |_| "shadow", report);
    }
    with_cases(rc, asked, |bench, mappings, cases| {
        report.fact("pages", format!("{:?}", bench.format.granule()));
        report.fact("mappings", mappings);
        let kind = |odd| if odd { "second stage, an odd entry" } else { "second stage" };
        compare(path, cases, kind, report)
    })
}

fn compare(
    path: &Path,
    cases: &[Case],
    kind: impl Fn(bool) -> &'static str,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    for (number, (case, answer)) in
        cases.iter().zip(records::read(&fs::read(path)?, cases.len())?).enumerate()
    {
        let differences = case.differences(&answer);
        let mismatch = (!differences.is_empty()).then(|| {
            let list = differences.join("\n            ");
            format!("{case}\n  case      {number}\n  seen      {answer:x?}\n  differs   {list}")
        });
        let ended = if answer.vector == 0xc00 { Ended::Done } else { Ended::Refused };
        report.case(kind(case.odd), ended, mismatch.as_deref());
    }
    Ok(())
}

/// Builds the tables and makes the cases, the same for the same seed, and calls `act` with them,
/// and with how many mappings there are.
fn with_cases(
    rc: RcPolicy,
    asked: &Asked,
    act: impl FnOnce(&Bench<'_>, usize, &[Case]) -> Result<(), Box<dyn Error>>,
) -> Result<(), Box<dyn Error>> {
    let granule = if asked.seed % 2 == 0 { Granule::K4 } else { Granule::K64 };
    let format = PartitionScoped::new(granule).with_strictness(Strictness::Qemu).with_rc(rc);
    let words: Vec<_> = (TABLES.0..TABLES.1).step_by(8).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(TABLES.0));
    let frames = Frames::new(Region::new(memory, Hpa::new(FRAMES.0), FRAMES.1, 16)?)?;
    let tables = Cache::new(&frames, Owner(LPID), Kind::User, Policy::Reuse);
    let mut rng = Rng::with_seed(asked.seed);
    let mut tree = PageTable::new(format, memory, &tables)?;
    let mappings = map(&mut tree, &mut rng)?;
    let partitions = partition_table()?;
    let root =
        RadixRoot::of_tree(tree.root().get()).ok_or("the root is not aligned")?.with_hr(true);
    partitions.write(
        &memory,
        LPID,
        Pate { tree: root, process_table: ProcessTableWord::new().with_gr(true) },
    )?;

    let count = asked.cases.min(records::room());
    let bench = Bench { memory, partitions, format };
    let mut cases = Vec::with_capacity(count);
    while cases.len() < count {
        cases.extend(bench.case(&mappings, &mut rng)?);
    }
    act(&bench, mappings.len(), &cases)
}

/// Maps the guest's own code, and pages of all sizes all over its addresses, with all attributes.
/// Returns what is mapped.
fn map<A: TableAllocator<Hpa>>(
    tree: &mut PageTable<PartitionScoped, Memory<'_>, A>,
    rng: &mut Rng,
) -> Result<Vec<Mapping>, Box<dyn Error>> {
    let sizes: Vec<u8> = tree.format().geometry().leaf_shifts().into_iter().collect();
    let page = sizes[0];
    let code = STUBS[0] >> page << page;
    let all = |bits: u64| PageAttributes::of(Pte::from_bits(bits));
    tree.map(Gpa::new(code), Hpa::new(code), 1 << page, all(0x18d), Leaves::Exactly(page))?;
    let far: Vec<u64> = (0..12).map(|_| rng.u64(1 << 30..1 << 52) >> 30 << 30).collect();
    let mut mappings = Vec::new();
    for _ in 0..MAPPINGS {
        let shift = sizes[rng.usize(..sizes.len())];
        let near = rng.u64(..) & pgtable::low_bits(if rng.bool() { 30 } else { 23 });
        let from = (far[rng.usize(..far.len())] | near) >> shift << shift;
        let to =
            if shift < 30 { rng.u64(DATA.0..DATA.1) } else { rng.u64(..1 << 30) } >> shift << shift;
        let allow = if rng.bool() { 0xf } else { 0 };
        let bits = rng.u64(..) & 0x2000_0000_0000_0fbf | allow;
        // What is mapped already, or cannot be said, is left out.
        if tree
            .map(Gpa::new(from), Hpa::new(to), 1 << shift, all(bits), Leaves::Exactly(shift))
            .is_ok()
        {
            mappings.push((from, shift, to));
        }
    }
    Ok(mappings)
}

/// The library's side.
struct Bench<'w> {
    memory: Memory<'w>,
    partitions: PartitionTable,
    format: PartitionScoped,
}

impl Bench<'_> {
    fn load(&self, address: u64) -> Result<u64, Box<dyn Error>> {
        Ok(u64::from_be(self.memory.word(Hpa::new(address))?.load(Ordering::Relaxed)))
    }

    fn store(&self, address: u64, word: u64) -> Result<(), Box<dyn Error>> {
        self.memory.word(Hpa::new(address))?.store(word.to_be(), Ordering::Relaxed);
        Ok(())
    }

    fn walker(&self) -> Result<Walker<PartitionScoped, Memory<'_>>, Cause> {
        let root = self.partitions.root(&self.memory, LPID, Strictness::Qemu)?;
        Ok(Walker::new(self.format, self.memory, root))
    }

    /// A case; `None`: it has an answer that the machine could not tell.
    fn case(&self, mappings: &[Mapping], rng: &mut Rng) -> Result<Option<Case>, Box<dyn Error>> {
        let (from, shift, to) = mappings[rng.usize(..mappings.len())];
        // Somewhere in the page, where data is.
        let within = if shift < 30 { rng.u64(..1 << shift) } else { rng.u64(DATA.0..DATA.1) - to };
        let mut address = (from | within & pgtable::low_bits(shift)) & !15;
        if rng.u8(..8) == 0 {
            address ^= 1 << rng.u8(12..52);
        }
        let mut access = [Access::READ, Access::WRITE, Access::FETCH][rng.usize(..3)];
        let patch = if rng.bool() { self.patch(address, rng)? } else { None };
        let odd = patch.is_some();
        let patch = patch.unwrap_or((SCRATCH, 0));
        let before = self.load(patch.0)?;
        self.store(patch.0, patch.1)?;
        let case = self.predict(address, &mut access, patch, odd, rng.u64(..));
        self.store(patch.0, before)?;
        case
    }

    /// An entry on the way to `address`, or the partition table's, and something odd to be in its
    /// place.
    fn patch(&self, address: u64, rng: &mut Rng) -> Result<Option<(u64, u64)>, Box<dyn Error>> {
        let Ok(walker) = self.walker() else { return Ok(None) };
        let trace = walker.trace(Gpa::new(address));
        let pate = self.partitions.entry(LPID)?.get();
        let Some(at) = trace.get(rng.usize(..trace.len().max(1))).map(|entry| entry.address.get())
        else {
            return Ok(None);
        };
        let at = if rng.u8(..16) == 0 { pate } else { at };
        let word = self.load(at)?;
        let random = rng.u64(..);
        let word = match rng.u8(..10) {
            0 => 0,
            1 => word & !(1 << 63),
            2 => word ^ 1 << 62,
            3 => word & !0x1f | random & 0x1f,
            4 => word ^ random & 0xe0,
            5 => word ^ random & 0x3e00_0000_0000_0000,
            6 => word ^ random & 0xff00,
            7 => word & !0xfff | random & 0xfff,
            8 => random & 0xfff | 3 << 62 | rng.u64(DATA.0..DATA.1) & !0xfff,
            _ => word ^ 1 << (random & 63),
        };
        Ok(Some((at, word)))
    }

    fn predict(
        &self,
        address: u64,
        access: &mut Access,
        patch: (u64, u64),
        odd: bool,
        value: u64,
    ) -> Result<Option<Case>, Box<dyn Error>> {
        let is_data = |at: u64| (DATA.0..DATA.1).contains(&at);
        // The guest must find its own code.
        if self.translate(STUBS[0], Access::FETCH) != Some(Expected::Done(STUBS[0])) {
            return Ok(None);
        }
        let Some(expected) = self.translate(address, *access) else { return Ok(None) };
        if matches!(expected, Expected::Done(at) if !is_data(at)) {
            return Ok(None);
        }
        let trace = self.walker().map(|walker| walker.trace(Gpa::new(address))).unwrap_or_default();
        let leaf = trace.last().map_or(SCRATCH, |entry| entry.address.get());
        let before = self.load(leaf)?;
        if let (Ok(walker), Expected::Done(_)) = (self.walker(), expected) {
            walker.access(Gpa::new(address), *access)?;
        }
        let after = self.load(leaf)?;
        self.store(leaf, before)?;
        let pc = match access.kind {
            AccessKind::Read => STUBS[0],
            AccessKind::Write => STUBS[1],
            AccessKind::Fetch => address,
        };
        let data = if let Expected::Done(at) = expected { at } else { SCRATCH };
        let order = Order { pc, address, value, patch, leaf, data, writes: (0, 0) };
        Ok(Some(Case { order, access: *access, address, expected, leaf: after, odd }))
    }

    /// What comes of it; `None`: a table stands where the library sees no memory, or the partition
    /// has no tree: then the guest could not begin.
    fn translate(&self, address: u64, access: Access) -> Option<Expected> {
        match self.walker().ok()?.translate(Gpa::new(address), access) {
            Ok(found) => Some(Expected::Done(found.output.get())),
            Err(fault) if fault.cause == Cause::TableAccess => None,
            Err(fault) => {
                Some(Expected::Refused(HypervisorFault::of_access(&fault, Gva::new(address))))
            }
        }
    }
}

impl Case {
    /// In what the machine's answer is another.
    fn differences(&self, seen: &Answer) -> Vec<String> {
        let mut all = Vec::new();
        let mut field = |name: &str, expected: u64, seen: u64| {
            if expected != seen {
                all.push(format!("{name}: expected {expected:#x}, seen {seen:#x}"));
            }
        };
        field("leaf", self.leaf, seen.leaf);
        match self.expected {
            Expected::Done(at) => {
                field("vector", 0xc00, seen.vector);
                match self.access.kind {
                    AccessKind::Read => field("loaded", block(at), seen.result),
                    AccessKind::Write => field("stored", self.order.value, seen.data),
                    AccessKind::Fetch => field("run", at >> 4, seen.result),
                }
            }
            Expected::Refused(HypervisorFault { interrupt, hdar, asdr }) => {
                field("vector", interrupt.vector.offset().into(), seen.vector);
                // QEMU's ASDR has the low twelve bits too; the manual's has not, and nobody looks
                // at them.
                field("ASDR", asdr.get(), seen.asdr & !0xfff);
                let status = u64::from(interrupt.status.into_bits());
                if interrupt.vector == Vector::HypervisorInstructionStorage {
                    field("HSRR1 reason", status, seen.srr1 & 0x783f_0000);
                    field("HSRR0", hdar.get(), seen.srr0);
                } else {
                    field("HDSISR", status, seen.hdsisr);
                    field("HDAR", hdar.get(), seen.hdar);
                    field("HSRR0", self.order.pc, seen.srr0);
                }
            }
        }
        all
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, access, address, expected, .. } = self;
        writeln!(f, "  access    {access} at guest real {address:#x}")?;
        if self.odd {
            writeln!(f, "  entry     {:#x}: {:#018x}", order.patch.0, order.patch.1)?;
        }
        match expected {
            Expected::Done(at) => write!(f, "  expected  done at {at:#x}"),
            Expected::Refused(fault) => write!(f, "  expected  {fault}"),
        }
    }
}
