//! A nested guest's shadow tables on the bare machine's MMU.
//!
//! We are the hypervisor of a guest (L1), whose memory our second stage maps. L1 is a hypervisor of
//! this library's as well: it keeps a partition-scoped tree in its own memory for its guest (L2).
//! What the machine walks is L2's shadow, which [`Nested`] makes out of both, fault by fault. Each
//! access of L2's is made on the machine until the library says that it is done, or that L1 or the
//! program around it must act: what each try comes to is compared, and where it ends must be where
//! L1's map and then ours lead. Meanwhile L1 maps, unmaps and tells us, and we unmap, write-protect
//! and age.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};

use fastrand::Rng;
use frag_alloc::{Cache, Frames, Kind, Owner, Policy, Region};
use pgtable::invalidate::{Gather, Invalidate, InvalidateFailed, Stale};
use pgtable::memory::{DirectMap, ReadMemory};
use pgtable::second_stage::{MemorySlot, PageState};
use pgtable::tree::PageTable;
use pgtable::{Access, AccessKind, Gpa, Gva, Hpa, Leaves, Prot, Stage2, low_bits};
use pgtable_ppc64::radix::{
    Eaa, Granule, HypervisorFault, PageAttributes, PartitionScoped, PartitionTable, Pate,
    ProcessTableWord, Pte, RadixRoot, RcPolicy, Strictness, h_tlb_invalidate,
};
use pgtable_ppc64::second_stage::{Action, HostPage, SecondStage};
use pgtable_ppc64::shadow::{self, L1Memory, Nested, Outcome, Restriction};

use super::records::{self, DATA, Order, STUBS, TABLES};
use super::{Case, Expected, LPID, PARTITION_TABLE, PATS, SCRATCH};
use crate::Asked;

/// Our LPID of L1.
const L1_LPID: u32 = 1;
/// The LPID that L1 gave L2; its shadow has [`LPID`].
const L2: u32 = 3;
/// The frames that our tables are made of, both trees'.
const FRAMES: (u64, u32) = (TABLES.0 + 0x1_0000, 15);
/// Words of memory in which our tables and the partition table stand.
const WORDS: usize = 16 << 13;
/// L1's tables, in its own memory: the partition table, then frames.
const L1_TABLES: u64 = 0x80_0000_0000;
const L1_FRAMES: u32 = 31;
/// Where L1 has the page with L2's code.
const CODE: u64 = 0x4000_3000;
/// The first of the addresses that L2 uses.
const N_GPA: u64 = 0x1_0000_0000;
/// How often an access is tried at most: a fault at each of both trees, and sizes that change.
const TRIES: usize = 8;

type Memory<'w> = DirectMap<'w, Hpa>;
type L1Words<'w> = DirectMap<'w, Gpa>;
type Source<'w> = Region<Hpa, Memory<'w>>;
type Tables<'w> = &'w Cache<Hpa, Source<'w>, &'w Frames<Hpa, Source<'w>>>;
type L1Source<'w> = Region<Hpa, L1Memory<'w, L1Words<'w>>>;
type L1Tables<'w> = &'w Cache<Hpa, L1Source<'w>, &'w Frames<Hpa, L1Source<'w>>>;
type Failure = Box<dyn Error>;

/// What was generated.
pub struct Scene {
    /// The tables as they are before the first record.
    pub tables: Vec<u64>,
    /// The changes of tables between records.
    pub writes: Vec<(u64, u64)>,
    pub cases: Vec<Case>,
}

/// The machine drops all of L2's translations before each record.
struct Flush;

impl Invalidate<Stage2> for Flush {
    type Identity = u32;

    fn invalidate(&self, _: u32, _: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        Ok(())
    }

    fn abandoned(&self, lpid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("probe: partition {lpid}: {tables} tables are lost");
    }
}

/// The hypercalls in which L1's gathers end.
#[derive(Default)]
struct Calls(RefCell<Vec<[u64; 3]>>);

impl Invalidate<Stage2> for Calls {
    type Identity = u32;

    fn invalidate(&self, lpid: u32, stale: &Stale<Gpa>) -> Result<(), InvalidateFailed> {
        h_tlb_invalidate(stale, lpid, |call| self.0.borrow_mut().push(call));
        Ok(())
    }

    fn abandoned(&self, lpid: u32, tables: usize, _: Result<(), InvalidateFailed>) {
        eprintln!("probe: L1's partition {lpid}: {tables} tables are lost");
    }
}

/// A leaf of L1's tree.
#[derive(Clone, Copy)]
struct L1Leaf {
    shift: u8,
    gpa: u64,
    eaa: u8,
}

impl L1Leaf {
    fn allows(self, kind: AccessKind) -> bool {
        match kind {
            AccessKind::Read => self.eaa & 6 != 0,
            AccessKind::Write => self.eaa & 2 != 0,
            AccessKind::Fetch => self.eaa & 1 != 0,
        }
    }
}

/// L1's memory: what L2 works on, and the page with L2's code. The "host address" is where
/// [`host_page`] looks.
fn slot(gpa: Gpa) -> Option<MemorySlot> {
    let memory = |gpa, bytes, hva| MemorySlot {
        gpa: Gpa::new(gpa),
        bytes,
        hva,
        read_only: false,
        logged: false,
    };
    let slots = [memory(0, DATA.1 - DATA.0, DATA.0), memory(CODE & !0xffff, 1 << 16, 0)];
    slots.into_iter().find(|slot| slot.contains(gpa))
}

/// The host's pages: of 2 MiB and of 64 KiB by turns, in another order than L1's memory.
fn host_page(hva: u64) -> HostPage {
    let attributes = PageAttributes::from(Prot::RWX.for_user());
    if hva < DATA.0 {
        return HostPage { frame: Hpa::new(hva & !0xffff), shift: 16, attributes };
    }
    let area = (hva - DATA.0) >> 21;
    let base = DATA.1 - ((area + 1) << 21);
    let (shift, frame) = match area % 2 {
        0 => (21, base),
        _ => (16, base + ((31 - ((hva >> 16) & 31)) << 16)),
    };
    HostPage { frame: Hpa::new(frame), shift, attributes }
}

struct World<'w> {
    words: &'w [AtomicU64],
    known: Vec<u64>,
    host: SecondStage<Memory<'w>, Tables<'w>>,
    nested: Nested<Memory<'w>, Tables<'w>>,
    l1: PageTable<PartitionScoped, L1Memory<'w, L1Words<'w>>, L1Tables<'w>>,
    l1_memory: &'w L1Words<'w>,
    calls: &'w Calls,
    /// What L1's tree says, by L2's address.
    map: BTreeMap<u64, L1Leaf>,
    scene: Scene,
}

/// Makes the cases, the same for the same seed.
pub fn generate(rc: RcPolicy, asked: &Asked) -> Result<Scene, Failure> {
    let mut granules = [Granule::K4, Granule::K64];
    granules.rotate_left((asked.seed % 2) as usize);
    let [granule, l1_granule] = granules;
    let format =
        |granule| PartitionScoped::new(granule).with_strictness(Strictness::Qemu).with_rc(rc);
    let words: Vec<_> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
    let memory = DirectMap::new(&words, Hpa::new(TABLES.0));
    let frames = Frames::new(Region::new(memory, Hpa::new(FRAMES.0), FRAMES.1, 16)?)?;
    let [ours, shadows] =
        [L1_LPID, LPID].map(|lpid| Cache::new(&frames, Owner(lpid), Kind::User, Policy::Reuse));
    let l1_words: Vec<_> = (0..(L1_FRAMES + 1) << 13).map(|_| AtomicU64::new(0)).collect();
    let l1_memory = DirectMap::new(&l1_words, Gpa::new(L1_TABLES));
    let l1_frames =
        Region::new(L1Memory(&l1_memory), Hpa::new(L1_TABLES + 0x1_0000), L1_FRAMES, 16)?;
    let l1_frames = Frames::new(l1_frames)?;
    let l1_tables = Cache::new(&l1_frames, Owner(L2), Kind::User, Policy::Reuse);
    let calls = Calls::default();

    // L1 boots: a tree for L2, a partition table that leads to it, and it tells us.
    let l1 = PageTable::new(PartitionScoped::new(l1_granule), L1Memory(&l1_memory), &l1_tables)?;
    let partitions = PartitionTable::new(Hpa::new(L1_TABLES), PATS).ok_or("not aligned")?;
    let process_table = ProcessTableWord::new().with_gr(true);
    let tree = |root: Hpa| {
        let tree = RadixRoot::of_tree(root.get()).ok_or("a root is not aligned")?.with_hr(true);
        Ok::<_, Failure>(Pate { tree, process_table })
    };
    partitions.write(&L1Memory(&l1_memory), L2, tree(l1.root())?)?;
    let mut nested = Nested::new();
    nested
        .h_set_partition_table(partitions.ptcr().into(), |gpa| l1_memory.load(gpa).is_ok())
        .map_err(|error| format!("H_SET_PARTITION_TABLE: {error:?}"))?;

    let host = SecondStage::new(format(granule), memory, &ours, L1_LPID)?;
    let shadow = SecondStage::new(format(Granule::K4), memory, &shadows, LPID)?;
    let table = PartitionTable::new(Hpa::new(PARTITION_TABLE), PATS).ok_or("not aligned")?;
    table.write(&memory, LPID, tree(shadow.root())?)?;
    nested.insert(L2, shadow).map_err(|_| "L2 has a shadow already")?;

    let known: Vec<_> = words.iter().map(|word| word.load(Ordering::Relaxed)).collect();
    let tables = known.iter().map(|word| u64::from_be(*word)).collect();
    let mut world = World {
        words: &words,
        known,
        host,
        nested,
        l1,
        l1_memory: &l1_memory,
        calls: &calls,
        map: BTreeMap::new(),
        scene: Scene { tables, writes: Vec::new(), cases: Vec::new() },
    };
    let page = l1_granule.geometry().page_shift();
    let code = L1Leaf { shift: page, gpa: CODE >> page << page, eaa: 5 };
    world.l1_map(STUBS[0] >> page << page, code)?;
    let mut rng = Rng::with_seed(asked.seed);
    let count = asked.cases.min(records::room() / 2);
    while world.scene.cases.len() < count {
        world.step(&mut rng)?;
    }
    Ok(world.scene)
}

impl World<'_> {
    fn step(&mut self, rng: &mut Rng) -> Result<(), Failure> {
        let n_gpa = n_gpa(rng);
        let gpa = Gpa::new(rng.u64(..DATA.1 - DATA.0) & !0xffff);
        let bytes = [0x1_0000, 0x20_0000][rng.usize(..2)];
        match rng.u8(..16) {
            0..4 => {
                let shift =
                    [self.l1.format().granule().geometry().page_shift(), 21][rng.usize(..2)];
                let gpa = match rng.u8(..12) {
                    0 => 0x10_0000_0000,
                    _ => rng.u64(..DATA.1 - DATA.0),
                };
                let eaa = if rng.u8(..3) == 0 { rng.u8(..8) } else { 7 };
                self.l1_map(
                    n_gpa >> shift << shift,
                    L1Leaf { shift, gpa: gpa >> shift << shift, eaa },
                )?;
            }
            4 => self.l1_unmap(n_gpa >> 16 << 16, 1 << 16)?,
            5 => {
                let mut gather = self.host.gather(&Flush);
                let mut lost = Ok(());
                let gone = gone(&mut self.nested, &mut lost);
                self.host.unmap(gpa, bytes, &mut gather, gone)?;
                lost?;
                self.host.finish(&mut gather)?;
            }
            6 => {
                let mut gather = self.host.gather(&Flush);
                self.host.write_protect(gpa, bytes, &mut gather)?;
                self.host.finish(&mut gather)?;
                self.nested.restrict(&self.host, gpa, bytes, Restriction::Write, &Flush)?;
            }
            7 => {
                let mut gather = self.host.gather(&Flush);
                self.host.age(gpa, bytes, &mut gather, |_| ())?;
                self.host.finish(&mut gather)?;
                self.nested.restrict(&self.host, gpa, bytes, Restriction::Reference, &Flush)?;
            }
            _ => {}
        }
        let kind = [AccessKind::Read, AccessKind::Write, AccessKind::Fetch][rng.usize(..3)];
        self.access(n_gpa, kind, rng.u64(..))
    }

    /// One access of L2's: each try is a record.
    fn access(&mut self, n_gpa: u64, kind: AccessKind, value: u64) -> Result<(), Failure> {
        let wanted = self.composed(n_gpa, kind);
        for _ in 0..TRIES {
            self.find_code()?;
            match self.translate(n_gpa, kind)? {
                Ok(at) => {
                    if wanted != Some(at) {
                        return Err(format!(
                            "L2's {kind:?} at {n_gpa:#x}: the shadow leads to {at:#x}, both trees to {wanted:x?}"
                        )
                        .into());
                    }
                    return self.record(n_gpa, kind, value, Expected::Done(at));
                }
                Err(fault) => {
                    self.record(n_gpa, kind, value, Expected::Refused(fault))?;
                    if !self.handle(&fault)? {
                        return match wanted {
                            None => Ok(()),
                            Some(at) => {
                                Err(format!("L2's {kind:?} at {n_gpa:#x} is refused, not {at:#x}")
                                    .into())
                            }
                        };
                    }
                }
            }
        }
        Err(format!("L2 faults for ever at {n_gpa:#x}, {kind:?}").into())
    }

    /// Where L1's map and then ours lead, if L1 lets it.
    fn composed(&self, n_gpa: u64, kind: AccessKind) -> Option<u64> {
        let (start, leaf) = self.map.range(..=n_gpa).next_back()?;
        if (n_gpa - start) >> leaf.shift != 0 || !leaf.allows(kind) {
            return None;
        }
        let gpa = Gpa::new(leaf.gpa + (n_gpa - start));
        let hva = slot(gpa)?.host_address(gpa)?;
        let page = host_page(hva);
        Some(page.frame.get() | (hva & low_bits(page.shift)))
    }

    /// What the shadow says.
    fn translate(
        &self,
        n_gpa: u64,
        kind: AccessKind,
    ) -> Result<Result<u64, HypervisorFault>, Failure> {
        let shadow = self.nested.shadow(L2).ok_or("L2 has no shadow")?;
        let found = shadow.walker().translate(Gpa::new(n_gpa), Access { kind, ..Access::READ });
        Ok(found
            .map(|found| found.output.get())
            .map_err(|fault| HypervisorFault::of_access(&fault, Gva::new(n_gpa))))
    }

    /// Does what a fault of L2's asks for; false if L2 cannot go on.
    fn handle(&mut self, fault: &HypervisorFault) -> Result<bool, Failure> {
        let Self { nested, host, l1_memory, .. } = self;
        Ok(match nested.fault(L2, fault, *l1_memory, host, slot, &Flush)? {
            Outcome::Retry => true,
            Outcome::Host(Action::Instantiate { gpa, kind }) => {
                let slot = slot(gpa).ok_or("no memory to fault in")?;
                let page = host_page(slot.host_address(gpa).ok_or("no memory to fault in")?);
                let (ticket, mut gather) = (host.ticket(), host.gather(&Flush));
                let mut lost = Ok(());
                let gone = gone(nested, &mut lost);
                host.fault_in(ticket, gpa, kind, &slot, page, &mut gather, gone)?;
                lost?;
                host.finish(&mut gather)?;
                true
            }
            Outcome::ToL1(_) | Outcome::Host(_) => false,
        })
    }

    /// Sees to it that L2 finds its own code, without a record.
    fn find_code(&mut self) -> Result<(), Failure> {
        for _ in 0..TRIES {
            match self.translate(STUBS[0], AccessKind::Fetch)? {
                Ok(at) if at == STUBS[0] => return Ok(()),
                Ok(at) => return Err(format!("L2's code is at {at:#x}").into()),
                Err(fault) => _ = self.handle(&fault)?,
            }
        }
        Err("L2 does not find its code".into())
    }

    /// Takes down a try, with what our tables became since the last one.
    fn record(
        &mut self,
        n_gpa: u64,
        kind: AccessKind,
        value: u64,
        expected: Expected,
    ) -> Result<(), Failure> {
        let writes = self.changes();
        let access = Access { kind, ..Access::READ };
        let shadow = self.nested.shadow(L2).ok_or("L2 has no shadow")?;
        let walker = shadow.walker();
        let trace = walker.trace(Gpa::new(n_gpa));
        let leaf = trace.last().map_or(SCRATCH, |entry| entry.address.get());
        let word = &self.words[((leaf - TABLES.0) / 8) as usize];
        let before = word.load(Ordering::Relaxed);
        if let Expected::Done(_) = expected {
            walker.access(Gpa::new(n_gpa), access)?;
        }
        // The machine restores it, too.
        let after = word.swap(before, Ordering::Relaxed);
        let pc = match kind {
            AccessKind::Read => STUBS[0],
            AccessKind::Write => STUBS[1],
            AccessKind::Fetch => n_gpa,
        };
        let data = if let Expected::Done(at) = expected { at } else { SCRATCH };
        let patch = (SCRATCH, 0);
        let order = Order { pc, address: n_gpa, value, patch, leaf, data, writes };
        let leaf = u64::from_be(after);
        self.scene.cases.push(Case { order, access, address: n_gpa, expected, leaf, odd: false });
        Ok(())
    }

    /// Which words of our tables are others than before: where they begin in the list, how many.
    fn changes(&mut self) -> (usize, usize) {
        let start = self.scene.writes.len();
        for ((word, known), at) in
            self.words.iter().zip(&mut self.known).zip((TABLES.0..).step_by(8))
        {
            let now = word.load(Ordering::Relaxed);
            if now != *known {
                *known = now;
                self.scene.writes.push((at, u64::from_be(now)));
            }
        }
        (start, self.scene.writes.len() - start)
    }

    fn l1_map(&mut self, n_gpa: u64, leaf: L1Leaf) -> Result<(), Failure> {
        self.l1_unmap(n_gpa, 1 << leaf.shift)?;
        let pte = Pte::new().with_eaa(Eaa::from_bits(leaf.eaa)).with_r(true).with_c(true);
        let (input, output) = (Gpa::new(n_gpa), Hpa::new(leaf.gpa));
        let attributes = PageAttributes::of(pte);
        self.l1.map(input, output, 1 << leaf.shift, attributes, Leaves::Exactly(leaf.shift))?;
        self.map.insert(n_gpa, leaf);
        Ok(())
    }

    /// Whole leaves: what a hypervisor does that does not split.
    fn l1_unmap(&mut self, start: u64, bytes: u64) -> Result<(), Failure> {
        let meets = |(&at, leaf): (&u64, &L1Leaf)| {
            (at < start + bytes && start < at + (1 << leaf.shift)).then_some((at, leaf.shift))
        };
        for (at, shift) in self.map.iter().filter_map(meets).collect::<Vec<_>>() {
            self.map.remove(&at);
            let mut gather = Gather::new(self.calls, L2);
            self.l1.unmap(Gpa::new(at), 1 << shift, &mut gather)?;
            gather.finish(self.l1.tables())?;
        }
        for call in self.calls.0.take() {
            let heard = self.nested.h_tlb_invalidate(call, self.l1_memory, &Flush);
            heard.map_err(|error| format!("H_TLB_INVALIDATE: {error:?}"))?;
        }
        Ok(())
    }
}

/// Hands each leaf that our second stage loses to the shadows. The first error stays in `lost`.
fn gone<'n, 'w>(
    nested: &'n mut Nested<Memory<'w>, Tables<'w>>,
    lost: &'n mut Result<(), shadow::Error>,
) -> impl FnMut(PageState<PartitionScoped>) + use<'n, 'w> {
    |state| {
        let done = nested.lost(state.leaf.input, state.leaf.bytes, &Flush);
        if lost.is_ok() {
            *lost = done.map(drop);
        }
    }
}

/// Few pages, of which each is used in several sizes.
fn n_gpa(rng: &mut Rng) -> u64 {
    let [m, k64, k4] = [rng.u64(..2), rng.u64(..3), rng.u64(..2)];
    N_GPA | m << 21 | k64 << 16 | k4 << 12 | rng.u64(..0x1000) & !15
}
