//! The owner of a second stage ([`Stage2Tree`]) against the obvious model: a list of leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;

use pgtable::format::{Bits, Groups, SecondStage};
use pgtable::second_stage::{FaultInError, HostPage, MemorySlot, PageState, Placed, Stage2Tree};
use pgtable::tree::{Recorded, Writers};
use pgtable::{Access, AccessKind, Attributes, Error, Gpa, Hpa, Level, Position, Prot, low_bits};
use proptest::prelude::{Just, Strategy, prop, prop_oneof};
use proptest::strategy::BoxedStrategy;

use crate::flat::IDENTITY;
use crate::machine::Machine;
use crate::memory::{Arena, Tables};
use crate::mmu::Caches;
use crate::tree::ARENA;

type Stage<'m, F> = Stage2Tree<F, &'m Machine<'m, F>, &'m Machine<'m, F>, u32>;

/// A leaf of the model, by its first guest address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Page {
    shift: u8,
    hpa: u64,
    write: bool,
    accessed: bool,
    dirty: bool,
}

/// Where an address lies: a block of the largest size, of the middle one, of the smallest, and a
/// finest page in it.
type Place = (u8, u8, u8, u8);

/// Bytes: that many blocks of one of the three sizes, or so many bytes.
#[derive(Clone, Copy, Debug)]
enum Length {
    Bytes(u16),
    Blocks(u8, u8),
}

/// A page of the host: log2 of its size beyond one of the three, whether it may be written, whether
/// its slot is logged, and whether guest and host lie askew.
#[derive(Clone, Copy, Debug)]
struct Host {
    size: u8,
    beyond: u8,
    writable: bool,
    logged: bool,
    askew: bool,
}

#[derive(Clone, Debug)]
enum Op {
    FaultIn(Place, AccessKind, Host),
    Unmap(Place, Length),
    WriteProtect(Place, Length),
    Redirty(Place),
    Record(Place, AccessKind),
    Age(Place, Length),
    TestAge(Place, Length),
    ClearDirty(Place, Length),
    ClearLogged(Vec<Place>),
    Harvest(Place, Length, Recorded),
    /// The guest makes an access.
    Use(Place, AccessKind),
}

fn ops() -> BoxedStrategy<Vec<Op>> {
    let place = || (0u8..2, 0u8..3, 0u8..4, 0u8..2);
    let kind =
        || prop_oneof![Just(AccessKind::Read), Just(AccessKind::Write), Just(AccessKind::Fetch)];
    let length = || {
        prop_oneof![
            (1u16..).prop_map(Length::Bytes),
            (0u8..3, 1u8..4).prop_map(|(size, blocks)| Length::Blocks(size, blocks)),
        ]
    };
    let host = (
        0u8..4,
        0u8..4,
        prop::bool::weighted(0.7),
        prop::bool::weighted(0.3),
        prop::bool::weighted(0.2),
    );
    let host = host.prop_map(|(size, beyond, writable, logged, askew)| Host {
        size,
        beyond: beyond.saturating_sub(1),
        writable,
        logged,
        askew,
    });
    let recorded = prop_oneof![Just(Recorded::Accessed), Just(Recorded::Dirty)];
    let op = prop_oneof![
        8 => (place(), kind(), host).prop_map(|(at, kind, host)| Op::FaultIn(at, kind, host)),
        2 => (place(), length()).prop_map(|(at, length)| Op::Unmap(at, length)),
        1 => (place(), length()).prop_map(|(at, length)| Op::WriteProtect(at, length)),
        1 => place().prop_map(Op::Redirty),
        1 => (place(), kind()).prop_map(|(at, kind)| Op::Record(at, kind)),
        1 => (place(), length()).prop_map(|(at, length)| Op::Age(at, length)),
        1 => (place(), length()).prop_map(|(at, length)| Op::TestAge(at, length)),
        1 => (place(), length()).prop_map(|(at, length)| Op::ClearDirty(at, length)),
        1 => prop::collection::vec(place(), 1..4).prop_map(Op::ClearLogged),
        1 => (place(), length(), recorded)
            .prop_map(|(at, length, recorded)| Op::Harvest(at, length, recorded)),
        3 => (place(), kind()).prop_map(|(at, kind)| Op::Use(at, kind)),
    ];
    prop::collection::vec(op, 1..40).boxed()
}

/// Random faults, unmappings, logs and scans: alone, where the model says each record, and beside
/// an MMU that makes accesses in the middle of every verb.
///
/// # Panics
/// If the tree is not what the model says, if anything that is no longer true is cached, if a
/// record is lost, or if a table stays for nothing.
pub fn random<F: SecondStage>(format: F, caches: Caches, cases: u32) {
    for beside in [false, true] {
        crate::cases::run(cases, &ops(), &|ops: &Vec<Op>| {
            Run::new(format).all(caches, beside, ops);
        });
    }
}

/// What a format says of its leaves.
struct Run<F> {
    format: F,
    /// log2 of the leaf sizes that trees are made of, ascending.
    shifts: Vec<u8>,
    bits: Bits,
    /// Hardware makes the record by itself.
    sets_accessed: bool,
    sets_dirty: bool,
    privilege: Access,
    model: BTreeMap<u64, Page>,
}

impl<F: SecondStage> Run<F> {
    fn new(format: F) -> Self {
        let geometry = format.geometry();
        let at = Position { level: Level(0), shift: geometry.page_shift() };
        let bits = format.bits(at);
        let levels = (0..geometry.levels()).map(Level);
        let sizes = levels.flat_map(|level| {
            let leaf = geometry.is_leaf_level(level).then_some(0);
            let groups = (1..16).filter(move |group| geometry.groups(level) >> group & 1 == 1);
            leaf.into_iter().chain(groups).map(move |group| geometry.shift(level) + group)
        });
        let mut shifts: Vec<_> = sizes.filter(|shift| *shift <= 30).collect();
        shifts.sort_unstable();
        let (_, privilege) = crate::words::usable(&format).expect("a page can be mapped");
        let words = format.leaves(Hpa::new(0), Prot::RWX.for_user().into(), at).expect("a page");
        let allows = |word, kind| {
            format.check(word, at, F::Path::default(), Access { kind, ..privilege }).is_ok()
        };
        let used = bits.accessed.made(words.first);
        Self {
            sets_accessed: allows(bits.accessed.cleared_from(used), AccessKind::Read),
            sets_dirty: allows(bits.dirty.cleared_from(used), AccessKind::Write),
            format,
            shifts,
            bits,
            privilege,
            model: BTreeMap::new(),
        }
    }

    /// One of the largest, a middle, and the smallest size.
    fn size(&self, which: u8) -> u8 {
        let last = self.shifts.len() - 1;
        self.shifts[[last, last / 2, 0][usize::from(which).min(2)]]
    }

    fn gpa(&self, (large, middle, small, fine): Place) -> u64 {
        let blocks = [large, middle, small].into_iter().zip(0..);
        let start: u64 = blocks.map(|(n, which)| u64::from(n) << self.size(which)).sum();
        start + (u64::from(fine) << 12 & low_bits(self.size(2))) + 0x678
    }

    fn bytes(&self, length: Length) -> u64 {
        match length {
            Length::Bytes(bytes) => bytes.into(),
            Length::Blocks(size, blocks) => u64::from(blocks) << self.size(size),
        }
    }

    fn keeps_dirty(&self) -> bool {
        self.bits.dirty.exists()
    }

    /// The page as the format can say it.
    fn told(&self, page: Page) -> Page {
        Page {
            accessed: page.accessed || !self.bits.accessed.exists(),
            dirty: if self.keeps_dirty() { page.dirty } else { page.write },
            ..page
        }
    }

    fn page(&self, state: &PageState<F>) -> (u64, Page) {
        let leaf = state.leaf;
        let (write, accessed, dirty) =
            (leaf.attributes.prot().write(), state.accessed, state.dirty);
        assert_eq!(leaf.bytes, 1 << leaf.shift);
        let hpa = leaf.output.get();
        (leaf.input.get(), Page { shift: leaf.shift, hpa, write, accessed, dirty })
    }

    /// The first addresses of the leaves that map any of the range.
    fn within(&self, gpa: u64, bytes: u64) -> Vec<u64> {
        let meets = |(&start, page): (&u64, &Page)| {
            (start < gpa + bytes && gpa < start + (1 << page.shift)).then_some(start)
        };
        self.model.iter().filter_map(meets).collect()
    }

    fn take(&mut self, gpa: u64, bytes: u64) -> Vec<(u64, Page)> {
        let starts = self.within(gpa, bytes);
        starts.into_iter().filter_map(|start| self.model.remove_entry(&start)).collect()
    }

    /// Changes the leaves in a range; returns those that changed as they were.
    fn change(&mut self, (gpa, bytes): (u64, u64), change: impl Fn(&mut Page)) -> Vec<(u64, Page)> {
        let mut changed = Vec::new();
        for start in self.within(gpa, bytes) {
            let old = self.model[&start];
            let mut new = old;
            change(&mut new);
            let new = self.told(new);
            self.model.insert(start, new);
            if new != old {
                changed.push((start, old));
            }
        }
        changed
    }

    /// The leaf size for a fault: the largest at which guest and host lie alike, within the slot.
    fn wanted(&self, gpa: u64, slot: &MemorySlot, host: u8) -> Option<u8> {
        let hva = gpa - slot.gpa.get() + slot.hva;
        let base = self.format.geometry().page_shift();
        self.shifts.iter().rev().copied().find(|&shift| {
            let size = 1u64 << shift;
            let start = gpa / size * size;
            shift <= host
                && gpa % size == hva % size
                && start >= slot.gpa.get()
                && start + size <= slot.gpa.get() + slot.bytes
                && (!slot.logged || shift == base)
        })
    }

    /// Tables that the leaves need.
    fn needed(&self) -> usize {
        let geometry = self.format.geometry();
        let mut tables = BTreeSet::from([(geometry.root(), 0)]);
        for (start, page) in &self.model {
            let (level, _) =
                geometry.leaf(page.shift).or(geometry.group(page.shift)).expect("a size");
            for level in (level.0..geometry.root().0).map(Level) {
                let span = geometry.shift(level) + geometry.width(level);
                tables.insert((level, start >> span));
            }
        }
        tables.len()
    }

    fn all(mut self, caches: Caches, beside: bool, ops: &[Op]) {
        let arena = Arena::new(ARENA);
        let tables = Tables::new(&arena);
        let machine = Machine::new(self.format, &arena, &tables, caches);
        let mut stage: Stage<'_, F> =
            Stage2Tree::new(self.format, &machine, &machine, IDENTITY).expect("room for a root");
        machine.load(stage.root());
        for (generation, op) in (1u64..).zip(ops) {
            if beside {
                let starts: Vec<u64> = self
                    .model
                    .iter()
                    .flat_map(|(&start, page)| [start, start + low_bits(page.shift)])
                    .collect();
                machine.watch(starts.into_iter().chain(self.places(op)));
                machine.turn(8);
            } else {
                self.fill(&machine);
            }
            self.one(&machine, &mut stage, (generation, beside), op);
            machine.verify();
            self.compare(&stage, beside, op);
        }
        machine.watch([]);
        assert_eq!(tables.live(), self.needed(), "tables stay for nothing");
        let live = tables.live();
        let finished = stage.destroy(&machine).map_err(|(_, error)| error).expect("nothing fails");
        assert_eq!((finished.tables, tables.live()), (live, 0));
    }

    /// The addresses that `op` is about.
    fn places(&self, op: &Op) -> Vec<u64> {
        match op {
            Op::FaultIn(at, ..)
            | Op::Unmap(at, _)
            | Op::WriteProtect(at, _)
            | Op::Redirty(at)
            | Op::Record(at, _)
            | Op::Age(at, _)
            | Op::TestAge(at, _)
            | Op::ClearDirty(at, _)
            | Op::Harvest(at, ..)
            | Op::Use(at, _) => vec![self.gpa(*at)],
            Op::ClearLogged(log) => log.iter().map(|at| self.gpa(*at)).collect(),
        }
    }

    /// The MMU holds every leaf, by accesses that change no record.
    fn fill(&self, machine: &Machine<'_, F>) {
        machine.mmu(|mmu| {
            for (start, page) in self.model.iter().filter(|(_, page)| page.accessed) {
                let kind =
                    if page.write && page.dirty { AccessKind::Write } else { AccessKind::Read };
                mmu.walk(*start, Access { kind, ..self.privilege }, usize::MAX);
            }
        });
        // In a group another entry may have the record.
        if F::GROUPS == Groups::None {
            assert_eq!(machine.mmu(|mmu| mmu.recorded()), Some(Vec::new()));
        }
    }

    /// The MMU drops what it holds of the leaves in a range: what refused an access, where hardware
    /// does so by itself; what was aged.
    fn drop_cached(&self, machine: &Machine<'_, F>, gpa: u64, bytes: u64) {
        for start in self.within(gpa, bytes) {
            let shift = self.model[&start].shift;
            machine.mmu(|mmu| mmu.invalidate_range(start, start, shift));
        }
    }

    #[allow(clippy::too_many_lines, reason = "one arm for each verb")]
    fn one(
        &mut self,
        machine: &Machine<'_, F>,
        stage: &mut Stage<'_, F>,
        (generation, beside): (u64, bool),
        op: &Op,
    ) {
        let mut gather = stage.gather(machine);
        let mut seen = Vec::new();
        let mut note = |state: PageState<F>| {
            let range = (state.leaf.input.get(), state.leaf.bytes);
            machine.mmu(|mmu| {
                let end = range.0 + range.1;
                let lost = mmu.dirtied().iter().any(|it| it.start < end && range.0 < it.end);
                assert!(state.dirty || !lost, "a store is not told of: {state:x?}");
                mmu.told(range.0, range.1);
            });
            seen.push(state);
        };
        let failed = "nothing fails";
        let mut went = None;
        let mut quiet = None;
        match *op {
            Op::FaultIn(at, kind, host) => {
                let gpa = self.gpa(at);
                let (top, middle) = (self.size(0), self.size(1));
                let hva = 1 << 50 | if host.askew { 1 << middle } else { 0 };
                let Host { writable, logged, .. } = host;
                let (start, bytes) = (Gpa::new(0), 3 << top);
                let slot = MemorySlot { gpa: start, bytes, hva, read_only: false, logged };
                let size = if host.size < 3 { self.size(host.size) + host.beyond } else { 12 };
                // Pages move, but not always.
                let moved = (generation % 3) << 34;
                let frame = ((hva + gpa) >> size << size ^ moved) & !(1 << 50);
                let prot = Prot::RX.for_user().with_write(writable);
                let page =
                    HostPage { frame: Hpa::new(frame), shift: size, attributes: prot.into() };
                let ticket = stage.ticket();
                let placed = stage.fault_in(
                    ticket,
                    Gpa::new(gpa),
                    kind,
                    &slot,
                    page,
                    &mut gather,
                    &mut note,
                );
                let store = kind == AccessKind::Write;
                if store && !writable {
                    assert_eq!(placed, Err(FaultInError::ReadOnly));
                } else if let Some(shift) = self.wanted(gpa, &slot, size) {
                    let start = gpa >> shift << shift;
                    let hpa = ((hva + gpa) ^ moved) & !(1 << 50) & !low_bits(shift);
                    let write = writable && (store || !logged || self.keeps_dirty());
                    let dirty = writable && (store || !logged);
                    let new = self.told(Page { shift, hpa, write, accessed: true, dirty });
                    let old = self.model.get(&start).copied();
                    let same = old.filter(|old| old.shift == shift && old.hpa == hpa);
                    if let Some(old) = same {
                        let write = old.write || new.write;
                        let dirty = old.dirty || new.dirty;
                        let both = self.told(Page { write, dirty, ..new });
                        let placed = placed.expect(failed);
                        let want = if both == old { Placed::Already } else { Placed::Added };
                        // Hardware may have recorded it before.
                        assert!(
                            placed == want
                                || beside && placed == Placed::Already && write == old.write,
                            "{placed:?}, {old:?} and {new:?}"
                        );
                        self.model.insert(start, both);
                        quiet = (!self.format.keeps_refusals()).then_some((start, 1));
                    } else {
                        assert_eq!(placed, Ok(Placed::New));
                        went = Some(self.take(start, 1 << shift));
                        self.model.insert(start, new);
                    }
                } else {
                    assert_eq!(placed, Err(FaultInError::TooSmall { shift: size }));
                }
            }
            Op::Unmap(at, length) => {
                let (gpa, bytes) = (self.gpa(at), self.bytes(length));
                let ticket = stage.ticket();
                let unmapped = stage.unmap(Gpa::new(gpa), bytes, &mut gather, &mut note);
                let gone = self.take(gpa, bytes);
                assert_eq!(unmapped, Ok(gone.iter().map(|(_, page)| 1u64 << page.shift).sum()));
                assert_ne!(stage.ticket(), ticket);
                went = Some(gone);
            }
            Op::WriteProtect(at, length) => {
                let (gpa, bytes) = (self.gpa(at), self.bytes(length));
                let lost = stage.write_protect(Gpa::new(gpa), bytes, &mut gather);
                let want = self.change((gpa, bytes), |page| page.write = false);
                assert_eq!(lost, Ok(want.len() as u64));
            }
            Op::Redirty(at) => {
                let gpa = self.gpa(at);
                let found = stage.redirty(Gpa::new(gpa), &mut gather);
                assert_eq!(found, Ok(!self.within(gpa, 1).is_empty()));
                self.change((gpa, 1), |page| {
                    (page.write, page.accessed, page.dirty) = (true, true, true);
                });
                quiet = (!self.format.keeps_refusals()).then_some((gpa, 1));
            }
            Op::Record(at, kind) => {
                let gpa = self.gpa(at);
                let store = kind == AccessKind::Write;
                let recorded = stage.record(Gpa::new(gpa), kind, &mut gather);
                let here = self.within(gpa, 1).first().map(|start| self.model[start]);
                let allowed = here.is_some_and(|page| !store || page.write);
                assert_eq!(recorded, Ok(allowed));
                if allowed {
                    self.change((gpa, 1), |page| {
                        (page.accessed, page.dirty) = (true, page.dirty || store);
                    });
                }
                quiet = (!self.format.keeps_refusals()).then_some((gpa, 1));
            }
            Op::Age(at, length) => {
                let (gpa, bytes) = (self.gpa(at), self.bytes(length));
                let young = self.within(gpa, bytes).iter().any(|start| self.model[start].accessed);
                let aged = stage.age(Gpa::new(gpa), bytes, &mut gather, &mut note);
                assert!(beside && aged.is_ok() || aged == Ok(young), "{aged:?}");
                if self.bits.accessed.exists() {
                    self.change((gpa, bytes), |page| page.accessed = false);
                    quiet = Some((gpa, bytes));
                } else {
                    went = Some(self.take(gpa, bytes));
                }
            }
            Op::TestAge(at, length) => {
                let (gpa, bytes) = (self.gpa(at), self.bytes(length));
                let young = self.within(gpa, bytes).iter().any(|start| self.model[start].accessed);
                let told = stage.test_age(Gpa::new(gpa), bytes);
                assert!(beside && told.is_ok() || told == Ok(young), "{told:?}");
            }
            Op::ClearDirty(at, length) => {
                let (gpa, bytes) = (self.gpa(at), self.bytes(length));
                let dirty = stage.clear_dirty(Gpa::new(gpa), bytes, &mut gather, &mut note);
                let want = self.clean(gpa, bytes);
                assert!(beside && dirty.is_ok() || dirty == Ok(want.len() as u64), "{dirty:?}");
                went = Some(want);
            }
            Op::ClearLogged(ref log) => {
                let places: Vec<_> = log.iter().map(|at| self.gpa(*at)).collect();
                // Hardware cannot log what no tree maps; a log in memory may say anything.
                let log = places.iter().copied().chain([u64::MAX]).map(Gpa::new);
                let dirty = stage.clear_logged(log, &mut gather, &mut note);
                let want: Vec<_> = places.iter().flat_map(|gpa| self.clean(*gpa, 1)).collect();
                assert!(beside && dirty.is_ok() || dirty == Ok(want.len() as u64), "{dirty:?}");
                went = Some(want);
            }
            Op::Harvest(at, length, recorded) => {
                self.harvest(machine, stage, (at, length), recorded, beside, &mut gather);
            }
            Op::Use(at, kind) => {
                let (gpa, store) = (self.gpa(at), kind == AccessKind::Write);
                let access = Access { kind, ..self.privilege };
                let made = stage.walker().access(Gpa::new(gpa), access);
                let here = self.within(gpa, 1).first().map(|start| self.model[start]);
                let allowed = here.is_some_and(|page| {
                    (!store || page.write && (page.dirty || self.sets_dirty))
                        && (page.accessed || self.sets_accessed)
                });
                assert!(made.is_ok() == allowed || beside && here.is_some(), "{made:?}, {here:?}");
                if made.is_ok() {
                    self.change((gpa, 1), |page| {
                        (page.accessed, page.dirty) = (true, page.dirty || store);
                    });
                }
            }
        }
        stage.finish(&mut gather).expect(failed);
        if let Some((gpa, bytes)) = quiet {
            self.drop_cached(machine, gpa, bytes);
        }
        let seen: Vec<_> = seen.iter().map(|state| self.page(state)).collect();
        match went {
            Some(went) if beside => self.alike(&seen, &went),
            went => assert_eq!(seen, went.unwrap_or_default(), "{op:?}"),
        }
    }

    /// Clears the dirty records in a range of the model; returns the leaves that had one.
    fn clean(&mut self, gpa: u64, bytes: u64) -> Vec<(u64, Page)> {
        let keeps = self.keeps_dirty();
        self.change((gpa, bytes), |page| {
            page.write &= keeps || !page.dirty;
            page.dirty = false;
        })
    }

    /// `seen` says at least what the model knows, of leaves that are the same but for records.
    fn alike(&self, seen: &[(u64, Page)], model: &[(u64, Page)]) {
        for (start, page) in model {
            let found = seen.iter().find(|(at, _)| at == start);
            let Some((_, found)) = found else { panic!("{page:x?} at {start:#x} is not told of") };
            let records = Page { accessed: found.accessed, dirty: found.dirty, ..*page };
            assert!(*found == records && (found.dirty || !page.dirty), "{found:x?}, {page:x?}");
        }
    }

    fn harvest(
        &mut self,
        machine: &Machine<'_, F>,
        stage: &mut Stage<'_, F>,
        (at, length): (Place, Length),
        recorded: Recorded,
        beside: bool,
        gather: &mut pgtable::invalidate::Gather<'_, pgtable::Stage2, Machine<'_, F>>,
    ) {
        let base = self.format.geometry().page_shift();
        let (gpa, bytes) = (self.gpa(at), self.bytes(length));
        let (start, pages) = (gpa >> base << base, (bytes >> base).clamp(1, 2000));
        let mut bitmap = vec![0u64; pages.div_ceil(64) as usize];
        let bytes = pages << base;
        let (at, writers) = (Gpa::new(start), Writers::Running);
        let set = stage.harvest(at, bytes, recorded, writers, &mut bitmap, gather);
        let dirty = recorded == Recorded::Dirty;
        if !(if dirty { self.bits.dirty } else { self.bits.accessed }).exists() {
            assert!(matches!(set, Err(error) if error.error == Error::NoRecord), "{set:?}");
            return;
        }
        let told = |page: u64| bitmap[(page / 64) as usize] >> (page % 64) & 1 == 1;
        if dirty {
            machine.mmu(|mmu| mmu.harvested(start, bytes, |at| told((at - start) >> base)));
        }
        let mut want = 0;
        for page in 0..pages {
            let at = self.within(start + (page << base), 1).first().map(|it| self.model[it]);
            let bit = at.is_some_and(|it| if dirty { it.dirty } else { it.accessed });
            want += u64::from(bit);
            assert!(told(page) == bit || beside && at.is_some(), "page {page}");
        }
        assert!(beside && set.is_ok() || set == Ok(want), "{set:?}");
        for leaf in self.within(start, bytes) {
            let page = self.model.get_mut(&leaf).expect("a leaf of the model");
            if leaf >= start && leaf + (1 << page.shift) <= start + bytes {
                *(if dirty { &mut page.dirty } else { &mut page.accessed }) = false;
            }
        }
    }

    /// The tree is what the model says; beside an MMU the model learns what that recorded.
    fn compare(&mut self, stage: &Stage<'_, F>, beside: bool, op: &Op) {
        let mut seen = Vec::new();
        let end = 4 << self.size(0);
        let visited = stage.walker().for_each(Gpa::new(0), end, |leaf| {
            let state = stage.state_at(leaf.input).expect("nothing fails").expect("a leaf");
            assert_eq!((state.leaf.input, state.leaf.shift), (leaf.input, leaf.shift));
            seen.push(self.page(&state));
            ControlFlow::<()>::Continue(())
        });
        assert!(visited.is_ok(), "{visited:?}");
        if beside {
            assert_eq!(seen.len(), self.model.len(), "{op:?}");
            let model: Vec<_> = self.model.iter().map(|(&start, &page)| (start, page)).collect();
            self.alike(&seen, &model);
            self.model = seen.into_iter().collect();
        } else {
            let model: Vec<_> = self.model.iter().map(|(&start, &page)| (start, page)).collect();
            assert_eq!(seen, model, "{op:?}");
        }
    }
}
