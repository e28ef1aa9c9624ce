//! What the library says will come of a step: its own table, on which it carries out the same steps.
//!
//! Where KVM does things of its own that are no part of the table's meaning, this follows KVM, and only here: it takes away W, I and G of a page
//! of memory, unseen by the guest (so that fetching from a guarded page of memory works); it emulates devices by itself, looking at page
//! protection before keys and recording neither R nor C; after it resized a table it judges the first access to each entry like that, too.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::AtomicU64;

use arch_ppc64::hash::{
    Answer, Authority, Dialect, GROUP_ENTRIES, HashFault, HashMmu, HashTlbie, HashTranslation, Hcall, Hcalls, Hpt,
    HptOrder, Hpte, HpteR, HpteV, Keep, Layout, PageSize, PageSizes, Partition, Refused, ResizeError, ReturnCode,
    Segment, Slb, Storage, VirtualPage, judge, rehash,
};
use arch_ppc64::{Interrupt as Cause, Vector};
use examples::guest::ppc64::{Interrupt, Start};
use pgtable::{Access, AccessKind, Gpa, Gva, Hpa, MemoryError, TableMemory};

use super::layout::{CODE_KEY, REAL_MODE, STUBS, is_memory};
use super::step::{Call, Touch};
use crate::ppc64::end::End;

/// The entries of a table: place, and both doublewords.
pub type Contents = BTreeMap<u64, [u64; 2]>;
/// A table in this process's memory.
pub type Table = Hpt<Hpa, Words>;

/// Memory of a table, from address 0 on.
#[derive(Debug)]
pub struct Words(Vec<AtomicU64>);

impl TableMemory<Hpa> for Words {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.table(address, 1).map(|words| &words[0])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let error = MemoryError { address: address.get(), bytes: 8 * words as u64 };
        let first = usize::try_from(address.get() / 8).map_err(|_| error)?;
        let end = first.checked_add(words).ok_or(error)?;
        self.0.get(first..end).filter(|_| address.get() % 8 == 0).ok_or(error)
    }
}

/// An empty table.
pub fn table(order: HptOrder) -> Result<Table, Box<dyn Error>> {
    let words = Words((0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect());
    Ok(Hpt::new(words, Hpa::new(0), order, Layout::V3)?)
}

/// What a table holds, but for bits that are nobody's business.
pub fn contents(table: &Table) -> Contents {
    table.entries(0).map(|(ptex, hpte)| (ptex, [hpte.v.visible().into_bits(), hpte.r.into_bits()])).collect()
}

/// What becomes of a page of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageChange {
    /// It is filled with zeros.
    Zeroed(Gpa),
    /// It becomes what the other one is.
    Copied(Gpa, Gpa),
}

/// The partition: only its memory is real.
#[derive(Debug, Default)]
struct Memory {
    changed: Cell<Option<PageChange>>,
}

impl Partition for Memory {
    /// KVM has the real thing forgotten; whether it must be is seen by the accesses that come after.
    fn invalidate(&self, _: HashTlbie) {}

    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        match is_memory(page.get(), 1) {
            true if size > PageSize::K64 => Storage::SmallerPages,
            true => Storage::Memory,
            false => Storage::Device,
        }
    }

    fn zero(&self, page: Gpa, size: PageSize) -> Result<(), Refused> {
        if !is_memory(page.get(), size.bytes()) {
            return Err(Refused);
        }
        self.changed.set(Some(PageChange::Zeroed(page)));
        Ok(())
    }

    fn copy(&self, to: Gpa, from: Gpa) -> Result<(), Refused> {
        if !is_memory(to.get(), 1) || !is_memory(from.get(), 1) {
            return Err(Refused);
        }
        self.changed.set(Some(PageChange::Copied(to, from)));
        Ok(())
    }
}

/// How an access is judged.
enum Verdict {
    /// It goes there.
    Real(u64),
    /// It takes this interrupt.
    Refused(Cause),
}

/// The library's table.
pub struct Model {
    table: Table,
    partition: Memory,
    /// The places of the entries that the guest itself needs.
    kept: Vec<u64>,
    /// The places of all other entries, and of some that are gone.
    entered: RefCell<BTreeSet<u64>>,
    /// The places of entries of which KVM has told the hardware nothing yet.
    absent: RefCell<BTreeSet<u64>>,
    /// The places of entries of which it may, or may not.
    unsure: RefCell<BTreeSet<u64>>,
    /// The places of entries that were protected: if that allowed stores, KVM waits for one before it tells the hardware.
    protected: RefCell<BTreeSet<u64>>,
}

impl Model {
    /// A table with what the guest needs: the page with its code, for real mode and where the stubs are.
    pub fn new(order: HptOrder) -> Result<Self, Box<dyn Error>> {
        let table = table(order)?;
        for segment in [REAL_MODE, STUBS.segment] {
            let page = VirtualPage::of(&segment, Gva::new(0));
            let sizes = PageSizes::only(segment.base);
            let v = page.v().with_l(true).with_bolted(true);
            // Real mode is privileged state under storage key 0; the stubs are for everybody, and not to be written.
            let protection = if segment == REAL_MODE { 0 } else { 3 };
            let r = HpteR::new().with_protection(protection).with_key(CODE_KEY).with_m(true).with_r(true).with_c(true);
            table.insert(&page, Hpte { v, r: r.with_sizes(sizes) })?;
        }
        let kept = table.entries(0).map(|(ptex, _)| ptex).collect();
        Ok(Self {
            table,
            partition: Memory::default(),
            kept,
            entered: RefCell::default(),
            absent: RefCell::default(),
            unsure: RefCell::default(),
            protected: RefCell::default(),
        })
    }

    /// The table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Whether the guest itself needs the entry at `ptex`.
    pub fn is_kept(&self, ptex: u64) -> bool {
        self.kept.contains(&ptex)
    }

    /// What a hypercall answers, and what it does to memory.
    pub fn call(&self, call: &Call) -> (Answer, Option<PageChange>) {
        let answer = Hcalls::new(&self.table, &self.partition, Dialect::Kvm).call(call.number, call.arguments);
        if call.number == Hcall::Enter.number() && answer.code == ReturnCode::Success {
            self.entered.borrow_mut().insert(answer.values[0]);
            self.tell_the_hardware(answer.values[0]);
            self.protected.borrow_mut().remove(&answer.values[0]);
        }
        if call.number == Hcall::Protect.number() && answer.code == ReturnCode::Success {
            self.protected.borrow_mut().insert(call.arguments[1]);
        }
        (answer, self.partition.changed.take())
    }

    /// KVM has the table from elsewhere, and has told the hardware everything.
    pub fn is_fresh(&self) {
        for places in [&self.absent, &self.unsure, &self.protected] {
            places.borrow_mut().clear();
        }
    }

    fn tell_the_hardware(&self, ptex: u64) {
        self.absent.borrow_mut().remove(&ptex);
        self.unsure.borrow_mut().remove(&ptex);
    }

    /// Whether R and C of `hpte`, at `ptex`, are KVM's own affair: it may have kept from a guest that cleared them that they were set once.
    pub fn hides_use(&self, ptex: u64, hpte: Hpte) -> bool {
        let storage = |sizes: PageSizes| self.partition.storage(Gpa::new(hpte.r.page(sizes)), sizes.actual());
        let device = hpte.sizes().is_some_and(|sizes| storage(sizes) == Storage::Device);
        device || self.absent.borrow().contains(&ptex) || self.unsure.borrow().contains(&ptex)
    }

    /// The places of the bolted entries without which no two meet in a table of this order; those that the guest needs are none of them.
    pub fn in_the_way(&self, order: HptOrder) -> Vec<u64> {
        let from = self.table.order();
        let bolted = || self.table.entries(0).filter(|(_, hpte)| hpte.v.bolted());
        let place = |(ptex, hpte): &(u64, Hpte)| hpte.ptex_in(*ptex, from, order);
        // One pass: the guest's own have their places, of the others the first that comes.
        let mut taken: BTreeSet<_> =
            bolted().filter(|(ptex, _)| self.is_kept(*ptex)).filter_map(|it| place(&it)).collect();
        bolted()
            .filter(|(ptex, _)| !self.is_kept(*ptex))
            .filter_map(|it| place(&it).filter(|place| !taken.insert(*place)).map(|_| it.0))
            .collect()
    }

    /// How many places [`entry`](Self::entry) knows.
    pub fn entries(&self) -> usize {
        self.entered.borrow().len()
    }

    /// The place of an entry that the guest may do with as it likes, and its first doubleword; it may be gone.
    pub fn entry(&self, index: usize) -> Option<(u64, u64)> {
        let ptex = *self.entered.borrow().iter().nth(index)?;
        let v = self.table.read(ptex).ok().flatten()?.v.visible();
        if !v.v() {
            self.entered.borrow_mut().remove(&ptex);
        }
        Some((ptex, v.into_bits()))
    }

    /// Goes over to a table of another size, which only bolted entries do.
    pub fn resize(&mut self, order: HptOrder) -> Result<Result<(), ResizeError>, Box<dyn Error>> {
        let new = table(order)?;
        match rehash(&self.table, &new, Keep::Bolted) {
            Ok(_) => self.table = new,
            Err(error) => {
                // KVM begins, and gives up half-way.
                let all = self.table.entries(0).map(|(ptex, _)| ptex).filter(|ptex| !self.is_kept(*ptex));
                self.unsure.borrow_mut().extend(all);
                return Ok(Err(error));
            }
        }
        self.kept.clear();
        for segment in [REAL_MODE, STUBS.segment] {
            let found = self.table.find(&VirtualPage::of(&segment, Gva::new(0)))?;
            self.kept.push(found.ok_or("resizing lost what the guest needs")?.ptex);
        }
        let all: BTreeSet<_> =
            self.table.entries(0).map(|(ptex, _)| ptex).filter(|ptex| !self.is_kept(*ptex)).collect();
        self.unsure.borrow_mut().clear();
        *self.entered.borrow_mut() = all.clone();
        *self.absent.borrow_mut() = all;
        Ok(Ok(()))
    }

    /// What comes of an access that begins like this; `None`: that has no one answer.
    pub fn touch(&self, touch: &Touch, start: Start) -> Result<Option<End>, Box<dyn Error>> {
        // The first thing that the guest does is to fetch the stub.
        let stub = Touch { address: start.pc, access: Access { kind: AccessKind::Fetch, ..touch.access }, ..*touch };
        match self.judge(&stub)? {
            Some(Verdict::Refused(cause)) => return Ok(Some(End::Took(interrupt(&stub, cause, start)))),
            Some(Verdict::Real(_)) => {}
            None => return Ok(None),
        }
        Ok(self.judge(touch)?.map(|verdict| match verdict {
            Verdict::Refused(cause) => End::Took(interrupt(touch, cause, start)),
            Verdict::Real(address) if is_memory(address, 8) => End::Done(Gpa::new(address)),
            Verdict::Real(address) => End::NoMemory(Gpa::new(address)),
        }))
    }

    /// The page of the entry at `ptex`.
    pub fn page(&self, ptex: u64) -> Option<VirtualPage> {
        let hpte = self.table.read(ptex).ok().flatten().filter(|hpte| hpte.v.v())?;
        VirtualPage::of_entry(hpte, ptex / GROUP_ENTRIES as u64, self.table.order())
    }

    fn judge(&self, touch: &Touch) -> Result<Option<Verdict>, Box<dyn Error>> {
        let &Touch { ref slb, authority, address, access } = touch;
        let Some(segment) = slb.lookup(address) else {
            return self.translate(slb, authority, address, access).map(Some);
        };
        let page = VirtualPage::of(&segment, address);
        match self.matching(&page)? {
            0 => return self.translate(slb, authority, address, access).map(Some),
            1 => {}
            // Of several the hardware may take any.
            _ => return Ok(None),
        }
        let found = self.table.find(&page)?.ok_or("an entry that fits is not found")?;
        let sizes = found.hpte.sizes().ok_or("an entry without sizes is found")?;
        let r = found.hpte.r;
        // What these mean is undefined.
        if matches!(r.protection(), 4 | 5 | 7) {
            return Ok(None);
        }
        if self.partition.storage(Gpa::new(r.page(sizes)), sizes.actual()) == Storage::Device {
            let within = address.get() & pgtable::low_bits(sizes.actual().shift());
            return Ok(Some(Self::by_kvm(r, &segment, access, authority, r.page(sizes) | within)));
        }
        let unsure = self.unsure.borrow().contains(&found.ptex);
        if unsure || self.absent.borrow().contains(&found.ptex) {
            if let refused @ Verdict::Refused(_) = Self::by_kvm(r, &segment, access, authority, 0) {
                return Ok((!unsure).then_some(refused));
            }
            self.tell_the_hardware(found.ptex);
        }
        let open =
            judge(r, &segment, access, Authority::default()).is_ok() && judge(r, &segment, access, authority).is_err();
        if open && access.kind == AccessKind::Write && self.protected.borrow().contains(&found.ptex) {
            return Ok(None);
        }
        // As KVM has it in the real table.
        let shown = [r.w(), r.i(), r.m(), r.g()];
        let sao = [true, true, true, false];
        if shown == sao || shown == [false, false, true, false] {
            return self.translate(slb, authority, address, access).map(Some);
        }
        let hidden = r.with_w(false).with_i(false).with_g(false).with_m(true);
        let put =
            |r: HpteR| found.slot.put(self.table.layout().encode(Hpte { r, v: found.hpte.v.with_modified(true) }));
        put(hidden);
        let verdict = self.translate(slb, authority, address, access);
        let now = self.table.read(found.ptex)?.ok_or("an entry is gone")?.r;
        let [w, i, m, g] = shown;
        put(now.with_w(w).with_i(i).with_m(m).with_g(g));
        verdict.map(Some)
    }

    /// As the library's MMU does it.
    fn translate(
        &self,
        slb: &Slb,
        authority: Authority,
        address: Gva,
        access: Access,
    ) -> Result<Verdict, Box<dyn Error>> {
        match (HashMmu { slb, hpt: &self.table, authority }).translate(address, access) {
            Ok(HashTranslation { real, .. }) => Ok(Verdict::Real(real)),
            Err(HashFault::Interrupt(cause)) => Ok(Verdict::Refused(cause)),
            Err(HashFault::Table(error)) => Err(error.into()),
        }
    }

    /// As KVM judges by itself.
    fn by_kvm(r: HpteR, segment: &Segment, access: Access, authority: Authority, real: u64) -> Verdict {
        let fetch = access.kind == AccessKind::Fetch;
        // KVM knows no keys of fetches.
        let authority = if fetch { Authority::default() } else { authority };
        match judge(r, segment, access, authority) {
            Ok(()) => Verdict::Real(real),
            Err(status) => {
                let vector = if fetch { Vector::InstructionStorage } else { Vector::DataStorage };
                let status = if status.protection() { status.with_key(false) } else { status };
                Verdict::Refused(Cause { vector, status })
            }
        }
    }

    /// How many entries fit `page`.
    fn matching(&self, page: &VirtualPage) -> Result<usize, Box<dyn Error>> {
        let mut count = 0;
        for h in [false, true] {
            let first = self.table.order().group(page.hash(), h) * GROUP_ENTRIES as u64;
            let want = Self::compared(page.v().with_h(h));
            for ptex in first..first + GROUP_ENTRIES as u64 {
                let hpte = self.table.read(ptex)?.ok_or("a group beyond the table")?;
                let base = hpte.sizes().map(PageSizes::base);
                count += usize::from(Self::compared(hpte.v) == want && base == Some(page.base));
            }
        }
        Ok(count)
    }

    fn compared(v: HpteV) -> (u8, u64, bool, bool) {
        (v.b(), v.avpn(), v.h(), v.v())
    }
}

/// The interrupt with every register that goes with it.
fn interrupt(touch: &Touch, cause: Cause, start: Start) -> Interrupt {
    let fetch = touch.access.kind == AccessKind::Fetch;
    let status = cause.status.into_bits();
    Interrupt {
        vector: cause.vector.offset().into(),
        // A fetch has left the stub when it takes its interrupt.
        srr0: if fetch { touch.address.get() } else { start.pc.get() },
        srr1: if fetch { start.msr | u64::from(status) } else { start.msr },
        dsisr: if fetch { 0 } else { status },
        dar: if fetch { 0 } else { touch.address.get() },
    }
}
