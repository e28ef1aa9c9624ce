//! Cases: what is asked of the machine, and what the library says to it.

use fastrand::Rng;
use pgtable::format::{Entry, Format};
use pgtable::two_stage::{TwoStage, TwoStageFault};
use pgtable::walk::Walker;
use pgtable::{Access, AccessKind, Cause, Fault, Gpa, Gva, Hpa, Level, Privilege, low_bits};
use pgtable_aarch64::{
    Esr, FailedPar, FaultKind, Granule, Paging, Shareability, Stage2Memory, Tree, VmsaStage1,
    VmsaStage2, combined_memory, combined_shareability,
};

use super::memory::Memory;
use super::records::{DATA, LOAD, MEMORY, Order, STORE, TABLES, VECTORS};
use super::scene::{CONTIGUOUS, Mode, Scene};

const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];
/// A word of tables that no tree uses: the first scene begins behind it.
pub const SCRATCH: u64 = TABLES.1 - 64;

/// What comes of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is made in memory, at this address.
    Done(u64),
    /// It is translated to where there is nothing.
    Nowhere(u64),
    /// Stage 1 refuses it.
    First(Esr),
    /// Stage 2 refuses it, at this address.
    Second(Esr, Gpa),
}

/// A case.
pub struct Case {
    pub order: Order,
    pub access: Access,
    pub outcome: Outcome,
    /// PAR_EL1 after the translation instruction.
    pub par: u64,
    /// The watched words afterwards, the patched one last.
    pub after: [u64; 3],
    pub code: u64,
    /// FAR_ELx of a fault.
    pub far: u64,
    pub kind: &'static str,
}

/// What QEMU 10.0 does otherwise than the manual says. A case in which that shows is judged by what
/// QEMU does, exactly, and counted by its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// The manual: where hardware manages dirty state, DBM makes a page writable, whatever the
    /// access: WXN, and the rule that EL1 does not execute what EL0 can write, count it
    /// (D8.4.1.2, D8.5.2). QEMU: for stores only.
    DbmCountsForStores,
    /// The manual: an output address beyond the output size is an address size fault, and with LPA
    /// and LPA2 the address has 52 bits whatever that size is (D8.3.1). QEMU: with a size below 52
    /// bits, descriptor bits 15:12 (LPA) and 9:8 (LPA2) are ignored.
    HighBitsIgnored,
    /// The manual: under DS, bits 5:2 of a TTBR are address bits 51:48, and beyond the output size
    /// they are an address size fault at level 0 (`AArch64.S1TTBaseAddress`,
    /// `AArch64.S1Translate`). QEMU: with a size below 52 bits they are ignored.
    RootBitsIgnored,
    /// The manual: of a block's address, what is below the block's size counts for nothing
    /// (`AArch64.LeafBase`). QEMU: it is held against the output size.
    BitsBelowBlock,
    /// The manual: PAN is for data, and fetches are judged without it. QEMU: PAN takes away EL1's
    /// right to write before WXN is asked, so that EL1 executes a page that it can write, if EL0
    /// can execute it too (EPAN).
    PanBeforeWxn,
    /// The manual: the device type of one stage stays beside a normal type of the other (D8.6.5).
    /// QEMU, in PAR_EL1: if the low half of that type's encoding is 4 (not cached), it counts as
    /// Device-nGnRE.
    NormalCountsAsDevice,
    /// The manual: under FWB, of two device types the stronger one counts
    /// (`AArch64.S2ApplyFWBMemAttrs`). QEMU, in PAR_EL1: stage 2's.
    SecondDeviceCounts,
    /// The manual: a set of contiguous entries of which one differs from the others, or lacks the
    /// hint, is misprogrammed, and which of its entries counts is CONSTRAINED UNPREDICTABLE
    /// (D8.7.1). QEMU: ignores the hint, so that each entry counts by itself.
    EntriesOfSetsAlone,
}

impl Otherwise {
    fn name(self) -> &'static str {
        match self {
            Self::DbmCountsForStores => "QEMU: DBM counts for stores only",
            Self::HighBitsIgnored => "QEMU: high address bits ignored",
            Self::RootBitsIgnored => "QEMU: bits 5:2 of TTBR ignored",
            Self::BitsBelowBlock => "QEMU: bits below a block count",
            Self::PanBeforeWxn => "QEMU: PAN before WXN",
            Self::NormalCountsAsDevice => "QEMU: a normal type's half",
            Self::SecondDeviceCounts => "QEMU: under FWB, stage 2's device type",
            Self::EntriesOfSetsAlone => "QEMU: entries of contiguous sets alone",
        }
    }
}

/// The bits of a descriptor that QEMU ignores though they are address bits.
fn ignored_bits(granule: Granule, output_bits: u8, physical_bits: u8, ds: bool) -> u64 {
    match granule {
        _ if output_bits == 52 => 0,
        Granule::K64 if physical_bits == 52 => 0xf000,
        Granule::K64 => 0,
        _ if ds => 0x300,
        _ => 0,
    }
}

/// Whether there is nothing at a physical address of the machine.
fn is_nowhere(pa: u64) -> bool {
    (MEMORY.1 + 0x1000_0000..0x40_0000_0000).contains(&pa) || pa >= 1 << 40
}

/// What a walk of the scene finds.
struct Bench<'s> {
    scene: &'s Scene,
    memory: &'s Memory,
}

/// Words that a walk reads.
#[derive(Default)]
struct Path {
    /// Of stage 1.
    first: Vec<u64>,
    /// The guest-physical address, if stage 1 has one.
    ipa: Option<u64>,
}

impl Bench<'_> {
    fn walker1(
        &self,
        format: VmsaStage1,
        root: Gpa,
    ) -> Walker<VmsaStage1, pgtable::memory::DirectMap<'_, Gpa>> {
        Walker::new(format, self.memory.map(), root)
    }

    fn walker2(&self) -> Option<Walker<VmsaStage2, pgtable::memory::DirectMap<'_, Hpa>>> {
        let (format, root) = self.scene.second?;
        Some(Walker::new(format, self.memory.map(), root))
    }

    /// What comes of an access; `None`: the library does not see the memory that would tell.
    fn outcome(
        &self,
        tree: &Result<Tree, Fault<VmsaStage1>>,
        va: u64,
        access: Access,
    ) -> Option<Outcome> {
        let done = |pa: u64| {
            if is_nowhere(pa) {
                Some(Outcome::Nowhere(pa))
            } else {
                (DATA.0..DATA.1).contains(&pa).then_some(Outcome::Done(pa))
            }
        };
        match (tree, self.walker2()) {
            (Err(fault), _) => Some(Outcome::First(fault.arch)),
            (Ok(Tree::Off { output: gpa, .. }), None) => done(gpa.get()),
            (Ok(Tree::Off { output: gpa, .. }), Some(second)) => {
                match second.translate(*gpa, access) {
                    Ok(page) => done(page.output.get()),
                    Err(fault) => seen(&fault, fault.entry.map(Hpa::get))
                        .then_some(Outcome::Second(fault.arch, *gpa)),
                }
            }
            (Ok(Tree::On { format, root, .. }), None) => {
                match self.walker1(*format, *root).translate(Gva::new(va), access) {
                    Ok(page) => done(page.output.get()),
                    Err(fault) => seen(&fault, fault.entry.map(Gpa::get))
                        .then_some(Outcome::First(fault.arch)),
                }
            }
            (Ok(Tree::On { format, root, .. }), Some(second)) => {
                match TwoStage::new(*format, *root, second).translate(Gva::new(va), access) {
                    Ok(page) => done(page.output().get()),
                    Err(TwoStageFault::Stage1(fault)) => {
                        seen(&fault, None).then_some(Outcome::First(fault.arch))
                    }
                    Err(TwoStageFault::Stage2 { fault, .. }) => {
                        let entry = fault.entry.map(Hpa::get);
                        seen(&fault, entry).then_some(Outcome::Second(fault.arch, fault.address))
                    }
                }
            }
        }
    }

    /// The words of stage 1 that an access reads.
    fn path(&self, tree: &Result<Tree, Fault<VmsaStage1>>, va: u64) -> Path {
        match tree {
            Err(_) => Path::default(),
            Ok(Tree::Off { output: gpa, .. }) => Path { first: Vec::new(), ipa: Some(gpa.get()) },
            Ok(Tree::On { format, root, .. }) => {
                let walker = self.walker1(*format, *root);
                let trace = walker.trace(Gva::new(va));
                let first = trace.iter().map(|entry| entry.address.get()).collect();
                let ipa = walker.debug_translate(Gva::new(va), Access::READ).ok();
                Path { first, ipa: ipa.map(|page| page.output.get()) }
            }
        }
    }

    /// Whether PAN keeps EL1 from reading `va`.
    fn pan_denies(&self, va: u64) -> bool {
        let read = |paging: &Paging| match paging.tree(Gva::new(va), Access::READ) {
            Ok(Tree::On { format, root, .. }) => {
                let walker = self.walker1(format, root);
                walker.translate(Gva::new(va), Access::READ).is_ok()
            }
            _ => false,
        };
        // AF is no matter of rights: QEMU looks at it before.
        !read(&self.scene.paging) && read(&self.scene.paging_without_pan)
    }

    /// The bits of the descriptor at `at` that QEMU ignores though they are address bits.
    fn ignored(&self, tree: &Result<Tree, Fault<VmsaStage1>>, va: u64, at: u64) -> u64 {
        if self.path(tree, va).first.contains(&at) {
            let Ok(Tree::On { format, .. }) = tree else { return 0 };
            let controls = format.controls();
            ignored_bits(
                controls.granule,
                controls.output_bits,
                controls.physical_bits,
                controls.ds,
            )
        } else {
            let Some((format, _)) = self.scene.second else { return 0 };
            let controls = format.controls();
            ignored_bits(
                controls.granule,
                controls.output_bits,
                controls.physical_bits,
                controls.ds,
            )
        }
    }

    /// Whether the word `patch` is a block with address bits below its size that are beyond the
    /// output size.
    fn is_beyond_below(
        &self,
        tree: &Result<Tree, Fault<VmsaStage1>>,
        va: u64,
        patch: (u64, u64),
    ) -> bool {
        let beyond = |shift: u8, output_bits: u8| {
            patch.1 & 0x0000_ffff_ffff_f000 & ((1 << shift) - 1) >> output_bits << output_bits != 0
        };
        let path = self.path(tree, va);
        if path.first.contains(&patch.0) {
            let Ok(Tree::On { format, root, .. }) = tree else { return false };
            let trace = self.walker1(*format, *root).trace(Gva::new(va));
            let step = trace.iter().find(|step| step.address.get() == patch.0);
            return step.is_some_and(|step| {
                matches!(step.entry, Entry::Leaf { .. })
                    && beyond(step.at.shift, format.controls().output_bits)
            });
        }
        let Some((format, _)) = self.scene.second else { return false };
        path.first.iter().copied().chain(path.ipa).any(|gpa| {
            let trace = self.walker2().map(|walker| walker.trace(Gpa::new(gpa)));
            let step = trace
                .iter()
                .flat_map(|trace| trace.iter())
                .find(|step| step.address.get() == patch.0);
            step.is_some_and(|step| {
                matches!(step.entry, Entry::Leaf { .. })
                    && beyond(step.at.shift, format.controls().output_bits)
            })
        })
    }

    /// Where stage 2's last word for a guest-physical address stands.
    fn leaf2(&self, gpa: u64) -> Option<u64> {
        self.walker2()?.trace(Gpa::new(gpa)).last().map(|entry| entry.address.get())
    }

    /// Does to the words what the machine does.
    fn record(
        &self,
        tree: &Result<Tree, Fault<VmsaStage1>>,
        va: u64,
        access: Access,
        outcome: Outcome,
    ) {
        let path = self.path(tree, va);
        let second = |gpa: u64, access| {
            if let Some(walker) = self.walker2() {
                // One that is refused records nothing.
                let _ = walker.access(Gpa::new(gpa), access);
            }
        };
        for &entry in &path.first {
            let read = Gpa::new(entry);
            if self.walker2().is_some_and(|walker| walker.translate(read, Access::READ).is_err()) {
                return;
            }
            second(entry, Access::READ);
        }
        if let Ok(Tree::On { format, root, .. }) = tree {
            let leaf = path.first.last().copied().unwrap_or(SCRATCH);
            let before = self.memory.load(leaf);
            let walker = self.walker1(*format, *root);
            if walker.access(Gva::new(va), access).is_err() {
                return;
            }
            let marked = self.memory.load(leaf) != before;
            let stage2 = self.walker2().filter(|_| marked);
            if stage2.is_some_and(|walker| walker.access(Gpa::new(leaf), Access::WRITE).is_err()) {
                self.memory.store(leaf, before.unwrap_or(0));
                return;
            }
        }
        if let (Some(ipa), Outcome::Done(_) | Outcome::Nowhere(_)) = (path.ipa, outcome) {
            second(ipa, access);
        }
    }

    /// PAR_EL1 after the translation instruction for `access`; `None` if the library does not say.
    fn par(&self, va: u64, access: Access) -> Option<(u64, Option<Otherwise>)> {
        let tree = self.scene.paging_without_pan.tree(Gva::new(va), access);
        let (pa, first, sh, second) = match self.outcome(&tree, va, access)? {
            // An external abort on a walk is taken, and not told in PAR_EL1.
            Outcome::First(esr) | Outcome::Second(esr, _) if is_walk_abort(esr) => return None,
            Outcome::First(esr) => return Some((FailedPar::of(esr, false).into_bits(), None)),
            Outcome::Second(esr, _) => return Some((FailedPar::of(esr, true).into_bits(), None)),
            Outcome::Done(pa) | Outcome::Nowhere(pa) => {
                let (first, sh) = self.first_attributes(&tree, va)?;
                let ipa = self.path(&tree, va).ipa?;
                // SH = 1 is reserved.
                let leaves = [self.path(&tree, va).first.last().copied(), self.leaf2(ipa)];
                if leaves
                    .iter()
                    .flatten()
                    .any(|at| self.memory.load(*at).is_some_and(|word| word >> 8 & 3 == 1))
                {
                    return None;
                }
                let second = self.walker2().and_then(|walker| {
                    let page = walker.query(Gpa::new(ipa)).ok()??;
                    Some((page.attributes, walker.format().controls().fwb))
                });
                (pa, first, sh, second)
            }
        };
        let (attr, sh, otherwise) = match second {
            None => (first, sh, None),
            Some((attributes, fwb)) => {
                let second = attributes.memory_type();
                if matches!(second, Stage2Memory::Other(bits) if fwb || bits & 3 == 0) {
                    // Reserved.
                    return None;
                }
                let attr = combined_memory(first, second, fwb);
                let sh = combined_shareability(sh, attributes.shareability());
                let normal_half = first >= 16 && first & 15 == 4 && second.is_device()
                    || first < 16
                        && second.into_bits(fwb).is_some_and(|bits| bits & 3 == 1 && bits >= 4);
                let forced = second.into_bits(fwb).map(|bits| bits << 2);
                if normal_half && !fwb && attr > 4 {
                    (4, sh, Some(Otherwise::NormalCountsAsDevice))
                } else if let (true, true, Some(forced)) = (fwb, second.is_device(), forced) {
                    (forced, sh, (forced != attr).then_some(Otherwise::SecondDeviceCounts))
                } else {
                    (attr, sh, None)
                }
            }
        };
        let sh = if matches!(attr, 0..16 | 0x44) { Shareability::Outer } else { sh };
        let page = pa & low_bits(52) & !low_bits(12);
        Some((page | u64::from(attr) << 56 | (sh as u64) << 7 | 1 << 9 | 1 << 11, otherwise))
    }

    /// Stage 1's memory type and shareability.
    fn first_attributes(
        &self,
        tree: &Result<Tree, Fault<VmsaStage1>>,
        va: u64,
    ) -> Option<(u8, Shareability)> {
        let Ok(Tree::On { format, root, .. }) = tree else { return Some((0, Shareability::Outer)) };
        let page = self.walker1(*format, *root).query(Gva::new(va)).ok()??;
        Some((self.scene.mair.attr(page.attributes.attr_index()), page.attributes.shareability()))
    }
}

fn is_walk_abort(esr: Esr) -> bool {
    esr.fault().is_some_and(|fault| fault.kind() == FaultKind::WalkAbort)
}

/// Whether the library sees why a walk ended: a table where there is nothing is an external abort,
/// and one elsewhere is not the library's.
fn seen<F: Format>(fault: &Fault<F>, entry: Option<u64>) -> bool {
    fault.cause != Cause::TableAccess || entry.is_some_and(is_nowhere)
}

/// Something odd in place of `word`.
fn odd(word: u64, rng: &mut Rng) -> u64 {
    let random = rng.u64(..);
    match rng.u8(..12) {
        0 => 0,
        1 => word & !1,
        2 => word ^ 2,
        3 => word ^ 1 << 10,
        4 => word ^ random & 0xc0,
        5 => word ^ random & 7 << 51,
        6 => word ^ random & 0xf << 59,
        7 => word ^ random & 0xf0_0000_0000_f000,
        8 => word ^ random & 0x3_0000_0000_0300,
        9 => word ^ random & 0x3c,
        10 => word ^ 1 << rng.u8(28..52),
        _ => word ^ 1 << (random & 63),
    }
}

/// A case of `scene`; `None`: it has an answer that the machine could not tell, or the library.
pub fn case(scene: &Scene, memory: &Memory, rng: &mut Rng) -> Option<Case> {
    let bench = Bench { scene, memory };
    let (from, shift, to) = scene.mappings[rng.usize(..scene.mappings.len())];
    // Somewhere in the page, where data is.
    let target = rng.u64(DATA.0..DATA.1);
    let within = if to >> shift == target >> shift { target } else { rng.u64(..) };
    let mut va = (from | within & low_bits(shift)) & !15;
    match rng.u8(..16) {
        0 => va ^= 1 << rng.u8(12..56),
        1 => va ^= rng.u64(..) << 56,
        _ => {}
    }
    let mut access = ACCESSES[rng.usize(..6)];
    if scene.mode == Mode::El2 {
        access.privilege = Privilege::Supervisor;
    }
    let tree = scene.paging.tree(Gva::new(va), access);
    let patch = if rng.bool() { patch(&bench, &tree, va, rng) } else { None };
    let patch = patch.unwrap_or(Patch { at: SCRATCH, word: 0, breaks_set: false });
    let before = memory.load(patch.at)?;
    memory.store(patch.at, patch.word);
    let case = predict(&bench, va, access, patch, rng);
    memory.store(patch.at, before);
    case
}

/// A descriptor that is changed before the access.
#[derive(Clone, Copy)]
struct Patch {
    at: u64,
    word: u64,
    /// The old or the new descriptor is one of a set of contiguous entries, and its neighbours are
    /// not changed with it.
    breaks_set: bool,
}

/// A word on the way to `va`, of either stage, and something odd to be in its place.
fn patch(
    bench: &Bench<'_>,
    tree: &Result<Tree, Fault<VmsaStage1>>,
    va: u64,
    rng: &mut Rng,
) -> Option<Patch> {
    let mut words = Vec::new();
    if let Ok(Tree::On { format, root, .. }) = tree {
        let trace = bench.walker1(*format, *root).trace(Gva::new(va));
        words.extend(trace.iter().map(|entry| (entry.address.get(), entry.at.level)));
    }
    let path = bench.path(tree, va);
    if let Some(walker) = bench.walker2() {
        for gpa in path.first.iter().copied().chain(path.ipa) {
            let trace = walker.trace(Gpa::new(gpa));
            words.extend(trace.iter().map(|entry| (entry.address.get(), entry.at.level)));
        }
    }
    let (at, level) = *words.get(rng.usize(..words.len().max(1)))?;
    let word = bench.memory.load(at)?;
    let odd = odd(word, rng);
    let breaks_set = is_hinted(word, level) || is_hinted(odd, level);
    Some(Patch { at, word: odd, breaks_set })
}

/// Whether a descriptor is a block or a page of a set of contiguous entries.
const fn is_hinted(word: u64, level: Level) -> bool {
    let leaf = word & 1 == 1 && (level.0 == 0 || word & 2 == 0);
    leaf && word & CONTIGUOUS != 0
}

fn predict(
    bench: &Bench<'_>,
    va: u64,
    access: Access,
    patch: Patch,
    rng: &mut Rng,
) -> Option<Case> {
    let Bench { scene, memory } = *bench;
    let breaks_set = patch.breaks_set;
    let patch = (patch.at, patch.word);
    // The guest must find its own code, and the hypervisor its own.
    let mut needed = vec![(scene.code, Access::FETCH)];
    if scene.mode != Mode::El2 {
        needed.push((scene.code, access.by_user()));
        if access.privilege == Privilege::User {
            needed[1].1 = Access::FETCH.by_user();
        } else {
            needed.pop();
        }
    }
    let hypervisor = matches!(scene.mode, Mode::El2 | Mode::El20);
    if hypervisor {
        needed.push((0x1000, Access::FETCH));
    }
    for (at, access) in needed {
        let tree = scene.paging.tree(Gva::new(at), access);
        let found = match tree {
            Ok(Tree::On { format, root, .. }) => match bench.walker2() {
                None => bench
                    .walker1(format, root)
                    .translate(Gva::new(at), access)
                    .map(|it| it.output.get())
                    .ok(),
                Some(second) => TwoStage::new(format, root, second)
                    .translate(Gva::new(at), access)
                    .map(|it| it.output().get())
                    .ok(),
            },
            Ok(Tree::Off { output: gpa, .. }) => {
                bench.walker2()?.translate(gpa, access).map(|it| it.output.get()).ok()
            }
            Err(_) => None,
        };
        let want = if at == scene.code { super::records::CODE } else { at };
        if found != Some(want) {
            return None;
        }
    }
    let strict_tree = scene.strict.tree(Gva::new(va), access);
    let strict = bench.outcome(&strict_tree, va, access);
    // What QEMU does.
    let tree = if access.kind == AccessKind::Fetch {
        scene.paging_without_hd.tree(Gva::new(va), access)
    } else {
        scene.paging.tree(Gva::new(va), access)
    };
    let mut otherwise = None;
    if bench.outcome(&tree, va, access) != strict {
        let same_roots = scene.paging == scene.strict;
        otherwise = Some(match same_roots {
            true => Otherwise::DbmCountsForStores,
            false => Otherwise::RootBitsIgnored,
        });
    }
    let tree = if access == Access::FETCH && bench.pan_denies(va) {
        let lenient = scene.paging_without_wxn.tree(Gva::new(va), access);
        if bench.outcome(&lenient, va, access) != bench.outcome(&tree, va, access) {
            otherwise = Some(Otherwise::PanBeforeWxn);
        }
        lenient
    } else {
        tree
    };
    let ignored = bench.ignored(&tree, va, patch.0) & patch.1;
    if ignored != 0 {
        memory.store(patch.0, patch.1 & !ignored);
        if bench.outcome(&tree, va, access) != strict {
            otherwise = Some(Otherwise::HighBitsIgnored);
        }
    }
    let mut raised = 0;
    if bench.is_beyond_below(&tree, va, patch) {
        // The same refusal by an address bit of the block itself.
        raised = 1 << 47;
        memory.store(patch.0, memory.load(patch.0).unwrap_or(0) | raised);
        if bench.outcome(&tree, va, access) != strict {
            otherwise = Some(Otherwise::BitsBelowBlock);
        }
    }
    let outcome = bench.outcome(&tree, va, access)?;
    let path = bench.path(&tree, va);
    // Stage 1's tables stand where they say, or not at all: other words are not followed.
    let moved = |gpa: &u64| {
        let found = bench.walker2()?.query(Gpa::new(*gpa)).ok()??;
        (found.output.get() != *gpa).then_some(())
    };
    if path.first.iter().any(|gpa| moved(gpa).is_some()) {
        return None;
    }
    let in_tables = |at: &u64| memory.load(*at).is_some();
    let leaf1 = path.first.last().copied().filter(in_tables).unwrap_or(SCRATCH);
    let leaf2 = path.ipa.and_then(|ipa| bench.leaf2(ipa)).filter(in_tables).unwrap_or(SCRATCH);

    let at = translation(scene, access);
    // AT judges data accesses: with TBID, a fetch from there needs no walk.
    let par = match bench.par(va, at_access(access)) {
        Some((par, row)) if at != 0 && strict_tree.is_ok() => {
            otherwise = otherwise.or(row);
            Some(par)
        }
        _ => None,
    };
    let watched = [leaf1, leaf2, patch.0];
    let before = watched.map(|at| memory.load(at).unwrap_or(0));
    bench.record(&tree, va, access, outcome);
    let after = watched.map(|at| {
        let word = memory.load(at).unwrap_or(0);
        if at == patch.0 { word & !raised | ignored } else { word }
    });
    for (at, word) in watched.iter().zip(before) {
        memory.store(*at, word);
    }
    // A branch drops the tag (AArch64.BranchAddr).
    let far = match (access.kind, scene.paging.branch_target(Gva::new(va))) {
        (AccessKind::Fetch, target) => target.get(),
        _ => va,
    };
    let user = access.privilege == Privilege::User;
    let level = match (scene.mode, user) {
        (_, true) => 0x3c0,
        (Mode::El2 | Mode::El20, false) => 0x3c9,
        (_, false) => 0x3c5,
    };
    let order = Order {
        spsr: level | u64::from(scene.pan && !user) << 22,
        pc: match access.kind {
            AccessKind::Read => scene.code + LOAD,
            AccessKind::Write => scene.code + STORE,
            AccessKind::Fetch => va,
        },
        address: va,
        value: rng.u64(..),
        patch,
        leaves: [leaf1, leaf2],
        data: if let Outcome::Done(pa) = outcome { pa } else { DATA.0 },
        at: if par.is_some() { at } else { 0 },
        vbar: scene.code + VECTORS,
        ..scene.order
    };
    if breaks_set {
        otherwise = otherwise.or(Some(Otherwise::EntriesOfSetsAlone));
    }
    let of_a_set = before[..2].iter().any(|leaf| leaf & 1 == 1 && leaf & CONTIGUOUS != 0);
    let kind = match scene.mode {
        _ if otherwise.is_some() => otherwise.map_or("", Otherwise::name),
        Mode::Second | Mode::Both if of_a_set => "contiguous, behind stage 2",
        _ if scene.odd_root => "EL1&0, bits 5:2 of TTBR1",
        _ if of_a_set => "contiguous, stage 1",
        Mode::First => "EL1&0",
        Mode::El2 => "EL2",
        Mode::El20 => "EL2&0",
        Mode::Second => "stage 2",
        Mode::Both => "both stages",
    };
    let par = par.unwrap_or(0);
    Some(Case { order, access, outcome, par, after, code: scene.code, far, kind })
}

/// The access that a translation instruction judges.
fn at_access(access: Access) -> Access {
    let kind = if access.kind == AccessKind::Write { AccessKind::Write } else { AccessKind::Read };
    Access { kind, ..access }
}

/// The translation instruction of an access, by its place in the hypervisor's list.
fn translation(scene: &Scene, access: Access) -> u64 {
    let write = u64::from(access.kind == AccessKind::Write);
    let user = u64::from(access.privilege == Privilege::User) * 2;
    match scene.mode {
        Mode::First | Mode::El20 => 1 + user + write,
        Mode::El2 => 9 + write,
        Mode::Second | Mode::Both => 5 + user + write,
    }
}
