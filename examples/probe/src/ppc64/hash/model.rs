//! What the library says will come of a step: its own table, on which it carries out the same
//! steps.
//!
//! Where KVM does things of its own that are no part of the table's meaning, this follows KVM, and
//! only here: it takes away W, I and G of a page of memory, unseen by the guest (so that fetching
//! from a guarded page of memory works); it emulates devices by itself, looking at page protection
//! before keys and recording neither R nor C, and remembers such entries (see `devices`); after it
//! resized a table it judges the first access to each entry like that, too.

mod verdict;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::atomic::AtomicU64;

use pgtable::memory::{MemoryError, ReadMemory, TableMemory};
use pgtable::{Gpa, Gva, Hpa};
use pgtable_ppc64::hash::{
    Answer, BulkRequest, Dialect, GROUP_ENTRIES, HashTlbie, Hcall, HcallFlags, Hcalls, Hpt,
    HptOrder, Hpte, HpteR, HpteV, Keep, Layout, PageSize, PageSizes, Partition, Refused,
    ResizeError, ReturnCode, Segment, Storage, VirtualPage, load, rehash,
};

use super::devices::Devices;
use super::layout::{CODE_KEY, REAL_MODE, code, is_memory};
use super::step::Call;

/// The entries of a table: place, and both doublewords.
pub type Contents = BTreeMap<u64, [u64; 2]>;
/// A place, and bits of its second doubleword.
pub type Unread = (u64, u64);
/// A table in this process's memory.
pub type Table = Hpt<Hpa, Words>;

/// Memory of a table, from address 0 on.
#[derive(Debug)]
pub struct Words(Vec<AtomicU64>);

impl ReadMemory<Hpa> for Words {
    pgtable::words_in_place!(Hpa);
}

impl TableMemory<Hpa> for Words {
    fn word(&self, address: Hpa) -> Result<&AtomicU64, MemoryError> {
        self.table(address, 1).map(|words| &words[0])
    }

    fn table(&self, address: Hpa, words: usize) -> Result<&[AtomicU64], MemoryError> {
        let error = MemoryError::outside(address, words);
        let first = usize::try_from(address.get() / 8).map_err(|_| error)?;
        let end = first.checked_add(words).ok_or(error)?;
        self.0.get(first..end).ok_or(error)
    }

    fn wrote(&self, _: Hpa, _: usize) {}
}

/// An empty table.
pub fn table(order: HptOrder) -> Result<Table, Box<dyn Error>> {
    let words = Words((0..order.bytes() / 8).map(|_| AtomicU64::new(0)).collect());
    Ok(Hpt::new(words, Hpa::new(0), order, Layout::V3)?)
}

/// What a table holds, but for bits that are nobody's business.
pub fn contents(table: &Table) -> Contents {
    table
        .entries(0)
        .map(|(ptex, hpte)| (ptex, [hpte.v.visible().into_bits(), hpte.r.into_bits()]))
        .collect()
}

/// The places of the entries that the guest itself needs.
fn needed(table: &Table) -> Result<Vec<u64>, Box<dyn Error>> {
    let place = |(_, page)| {
        let found = table.find(&page)?;
        Ok(found.ok_or("the table lacks what the guest needs")?.ptex)
    };
    code().map(place).collect()
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
#[derive(Debug)]
struct Memory {
    /// The pages that back it.
    backing: PageSize,
    changed: Cell<Option<PageChange>>,
}

impl Partition for Memory {
    /// KVM has the real thing forgotten; whether it must be is seen by the accesses that come
    /// after.
    fn invalidate(&self, _: HashTlbie) {}

    fn storage(&self, page: Gpa, size: PageSize) -> Storage {
        match is_memory(page.get(), 1) {
            true if size > self.backing => Storage::SmallerPages,
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

    /// For KVM the last page of a region is neither copied nor copied to: the end of the page must
    /// lie before the region's (`kvmppc_copy_guest`).
    fn copy(&self, to: Gpa, from: Gpa) -> Result<(), Refused> {
        let and_a_byte = PageSize::K4.bytes() + 1;
        if !is_memory(to.get(), and_a_byte) || !is_memory(from.get(), and_a_byte) {
            return Err(Refused);
        }
        self.changed.set(Some(PageChange::Copied(to, from)));
        Ok(())
    }
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
    /// The places of entries that were protected: if that allowed stores, KVM waits for one before
    /// it tells the hardware.
    protected: RefCell<BTreeSet<u64>>,
    /// What of R and C accesses have set, by place, since KVM's own copies of the second
    /// doublewords have it: which is when somebody reads the table.
    unread: RefCell<BTreeMap<u64, u64>>,
    /// What KVM remembers of entries for devices.
    devices: RefCell<Devices>,
}

impl Model {
    /// A table with what the guest needs: the page with its code, for real mode and where the stubs
    /// are.
    ///
    /// The host backs the guest's memory with pages of size `backing`.
    pub fn new(order: HptOrder, backing: PageSize) -> Result<Self, Box<dyn Error>> {
        let table = table(order)?;
        for (segment, page) in code() {
            let sizes = PageSizes::only(segment.base);
            let v = page.v().with_l(sizes.lp().is_some()).with_bolted(true);
            // Real mode is privileged state under storage key 0; the stubs are for everybody, and
            // not to be written.
            let protection = if segment == REAL_MODE { 0 } else { 3 };
            // The code stands at real address 0.
            let r = HpteR::from_bits(page.offset)
                .with_protection(protection)
                .with_key(CODE_KEY)
                .with_m(true)
                .with_r(true)
                .with_c(true);
            table.insert(&page, Hpte { v, r: r.with_sizes(sizes) })?;
        }
        Self::of(table, backing)
    }

    /// A table that a guest brings from another host, as a stream.
    ///
    /// # Errors
    /// It is no stream of such a table, or what the guest needs is not in it.
    pub fn arrived(
        order: HptOrder,
        stream: &[u8],
        backing: PageSize,
    ) -> Result<Self, Box<dyn Error>> {
        let table = table(order)?;
        load(&table, stream)?;
        Self::of(table, backing)
    }

    fn of(table: Table, backing: PageSize) -> Result<Self, Box<dyn Error>> {
        let kept = needed(&table)?;
        let others = table.entries(0).map(|(ptex, _)| ptex).filter(|ptex| !kept.contains(ptex));
        let entered = RefCell::new(others.collect());
        Ok(Self {
            table,
            partition: Memory { backing, changed: Cell::default() },
            kept,
            entered,
            absent: RefCell::default(),
            unsure: RefCell::default(),
            protected: RefCell::default(),
            unread: RefCell::default(),
            devices: RefCell::default(),
        })
    }

    /// The places of the entries that this host refuses: their pages are larger than those that
    /// back the guest's memory.
    pub fn refused(&self) -> Result<Vec<u64>, Box<dyn Error>> {
        let empty = table(self.table.order())?;
        let calls = Hcalls::new(&empty, &self.partition, Dialect::Kvm);
        let exact = HcallFlags::new().with_exact(true).into_bits();
        let is_refused = |(ptex, hpte): &(u64, Hpte)| {
            let (v, r) = (hpte.v.visible().into_bits(), hpte.r.into_bits());
            let enter = Call::new(Hcall::Enter.number(), [exact, *ptex, v, r]);
            calls.call(enter.number, enter.arguments).code != ReturnCode::Success
        };
        Ok(self.table.entries(0).filter(is_refused).map(|(ptex, _)| ptex).collect())
    }

    /// Takes entries out of a table that nobody uses yet.
    pub fn leave_behind(&self, places: &[u64]) -> Result<(), Box<dyn Error>> {
        for &ptex in places {
            let slot = self.table.slot(ptex)?.ok_or("a place beyond the table")?;
            slot.put(self.table.layout().encode(Hpte { v: HpteV::new(), r: HpteR::new() }));
            self.entered.borrow_mut().remove(&ptex);
        }
        Ok(())
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
        let about = self.devices_named_by(call);
        let answer = Hcalls::new(&self.table, &self.partition, Dialect::Kvm)
            .call(call.number, call.arguments);
        let done = answer.code == ReturnCode::Success;
        match Hcall::of_number(call.number) {
            Some(Hcall::Enter) if done => {
                let ptex = answer.values[0];
                self.entered.borrow_mut().insert(ptex);
                self.tell_the_hardware(ptex);
                self.protected.borrow_mut().remove(&ptex);
                self.unread.borrow_mut().remove(&ptex);
            }
            Some(Hcall::Protect) if done => {
                self.protected.borrow_mut().insert(call.arguments[1]);
                about.iter().for_each(|_| self.devices.borrow_mut().changed());
            }
            // Of several entries some may be gone, whatever the call answers.
            Some(Hcall::Remove | Hcall::BulkRemove) => {
                let gone = about.iter().filter(|ptex| self.page(**ptex).is_none());
                gone.for_each(|_| self.devices.borrow_mut().changed());
            }
            _ => {}
        }
        (answer, self.partition.changed.take())
    }

    /// KVM has put an entry at `seen` that [`call`](Self::call) has put at `expected`: does so too,
    /// and returns the place. `None`: that place is not free, or of another group.
    pub fn entered_elsewhere(
        &self,
        expected: u64,
        seen: u64,
    ) -> Result<Option<u64>, Box<dyn Error>> {
        let group = |ptex: u64| ptex / GROUP_ENTRIES as u64;
        let places = self.table.slot(expected)?.zip(self.table.slot(seen)?);
        let Some((from, to)) = places.filter(|_| group(expected) == group(seen)) else {
            return Ok(None);
        };
        let layout = self.table.layout();
        if layout.decode(to.read()?).v.v() {
            return Ok(None);
        }
        to.put(from.read()?);
        from.put(layout.encode(Hpte { v: HpteV::new(), r: HpteR::new() }));
        self.entered.borrow_mut().insert(seen);
        self.tell_the_hardware(seen);
        self.protected.borrow_mut().remove(&seen);
        self.unread.borrow_mut().remove(&seen);
        Ok(Some(seen))
    }

    /// The places of the entries for devices that a call may change or take out.
    fn devices_named_by(&self, call: &Call) -> BTreeSet<u64> {
        let places = match Hcall::of_number(call.number) {
            Some(Hcall::Remove | Hcall::Protect) => vec![call.arguments[1]],
            Some(Hcall::BulkRemove) => call
                .arguments
                .chunks_exact(2)
                .map(|pair| BulkRequest::from_bits(pair[0]).ptex())
                .collect(),
            _ => vec![],
        };
        places.into_iter().filter(|&ptex| self.is_device(ptex)).collect()
    }

    fn is_device(&self, ptex: u64) -> bool {
        let hpte = self.table.read(ptex).ok().flatten().filter(|hpte| hpte.v.v());
        let storage = |hpte: Hpte, sizes: PageSizes| {
            self.partition.storage(Gpa::new(hpte.r.page(sizes)), sizes.actual()) == Storage::Device
        };
        hpte.is_some_and(|hpte| hpte.sizes().is_some_and(|sizes| storage(hpte, sizes)))
    }

    /// KVM has the table from elsewhere, and has told the hardware everything.
    pub fn is_fresh(&self) {
        for places in [&self.absent, &self.unsure, &self.protected] {
            places.borrow_mut().clear();
        }
        self.is_read();
        self.devices.take();
    }

    /// Somebody has read all of KVM's table.
    pub fn is_read(&self) {
        self.unread.borrow_mut().clear();
    }

    fn tell_the_hardware(&self, ptex: u64) {
        self.absent.borrow_mut().remove(&ptex);
        self.unsure.borrow_mut().remove(&ptex);
    }

    /// Whether R and C of `hpte`, at `ptex`, are KVM's own affair: it may have kept from a guest
    /// that cleared them that they were set once.
    pub fn hides_use(&self, ptex: u64, hpte: Hpte) -> bool {
        let storage =
            |sizes: PageSizes| self.partition.storage(Gpa::new(hpte.r.page(sizes)), sizes.actual());
        let device = hpte.sizes().is_some_and(|sizes| storage(sizes) == Storage::Device);
        device || self.absent.borrow().contains(&ptex) || self.unsure.borrow().contains(&ptex)
    }

    /// The places of the bolted entries without which no two meet in a table of this order; those
    /// that the guest needs are none of them.
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

    /// The place of an entry that the guest may do with as it likes, and its first doubleword; it
    /// may be gone.
    pub fn entry(&self, index: usize) -> Option<(u64, u64)> {
        let ptex = *self.entered.borrow().iter().nth(index)?;
        let v = self.table.read(ptex).ok().flatten()?.v.visible();
        if !v.v() {
            self.entered.borrow_mut().remove(&ptex);
        }
        Some((ptex, v.into_bits()))
    }

    /// Goes over to a table of another size, which only bolted entries do. Returns what of R and C
    /// nobody had read until then, by place: Linux copies its own copy of a second doubleword
    /// before it looks what the hardware has set (`resize_hpt_rehash_hpte`), so that this is lost.
    pub fn resize(
        &mut self,
        order: HptOrder,
    ) -> Result<Result<Vec<Unread>, ResizeError>, Box<dyn Error>> {
        let new = table(order)?;
        let mut unread = Vec::new();
        match rehash(&self.table, &new, Keep::Bolted) {
            Ok(_) => {
                let old = std::mem::replace(&mut self.table, new);
                for (ptex, bits) in self.unread.take() {
                    let hpte = old.read(ptex)?.filter(|hpte| hpte.v.v() && hpte.v.bolted());
                    let Some(hpte) = hpte else { continue };
                    let to = hpte
                        .ptex_in(ptex, old.order(), order)
                        .ok_or("a used entry names no sizes")?;
                    // What the guest has cleared since is not lost.
                    let bits = bits & hpte.r.into_bits();
                    unread.extend((bits != 0).then_some((to, bits)));
                }
                self.devices.borrow_mut().resized();
            }
            Err(error) => {
                // KVM begins, and gives up half-way.
                let all =
                    self.table.entries(0).map(|(ptex, _)| ptex).filter(|ptex| !self.is_kept(*ptex));
                self.unsure.borrow_mut().extend(all);
                return Ok(Err(error));
            }
        }
        self.kept = needed(&self.table)?;
        let all: BTreeSet<_> = self
            .table
            .entries(0)
            .map(|(ptex, _)| ptex)
            .filter(|ptex| !self.is_kept(*ptex))
            .collect();
        self.unsure.borrow_mut().clear();
        *self.entered.borrow_mut() = all.clone();
        *self.absent.borrow_mut() = all;
        Ok(Ok(unread))
    }

    /// This was lost.
    pub fn lose(&self, unread: &[Unread]) -> Result<(), Box<dyn Error>> {
        for &(ptex, bits) in unread {
            let slot = self.table.slot(ptex)?.ok_or("a place beyond the table")?;
            let Hpte { v, r } = self.table.layout().decode(slot.read()?);
            slot.put(
                self.table.layout().encode(Hpte { v, r: HpteR::from_bits(r.into_bits() & !bits) }),
            );
        }
        Ok(())
    }

    /// The page of the entry at `ptex`.
    pub fn page(&self, ptex: u64) -> Option<VirtualPage> {
        let hpte = self.table.read(ptex).ok().flatten().filter(|hpte| hpte.v.v())?;
        VirtualPage::of_entry(hpte, ptex / GROUP_ENTRIES as u64, self.table.order())
    }

    /// Whether KVM remembers an entry for a device at `address`.
    pub fn remembers(&self, segment: &Segment, address: Gva) -> bool {
        self.devices.borrow().remembered(segment, address).is_some()
    }

    /// The pages of the bolted entries, but for those that the guest itself needs.
    pub fn bolted(&self) -> impl Iterator<Item = VirtualPage> + '_ {
        let bolted =
            self.table.entries(0).filter(|(ptex, hpte)| hpte.v.bolted() && !self.is_kept(*ptex));
        bolted.filter_map(|(ptex, _)| self.page(ptex))
    }
}

#[cfg(test)]
mod tests {
    use super::super::htab::stream_of;
    use super::super::layout::{DATA, DEVICES, PLACES};
    use super::*;

    /// A guest of a host with 64K pages, on hosts with 64K and with 4K pages: pages of memory must
    /// not be larger than their backing, pages of devices may be.
    #[test]
    fn what_a_host_with_smaller_pages_refuses() {
        let order = HptOrder::MIN;
        let there = Model::new(order, PageSize::K64).expect("a table");
        let enter = |index: usize, actual: PageSize, real: u64| {
            let place = PLACES[index];
            let page = place.page(5);
            let sizes = PageSizes::new(place.segment.base, actual).expect("a pair");
            let r = HpteR::from_bits(real).with_protection(2).with_m(true).with_sizes(sizes);
            let v = page.v().with_l(sizes.lp().is_some()).into_bits();
            let group = order.group(page.hash(), false) << 3;
            let call = Call::new(Hcall::Enter.number(), [0, group, v, r.into_bits()]);
            let (answer, _) = there.call(&call);
            assert_eq!(answer.code, ReturnCode::Success, "{place:x?}");
            answer.values[0]
        };
        enter(0, PageSize::K4, DATA[0].0);
        let large =
            [enter(1, PageSize::K64, DATA[0].0 + 0x1_0000), enter(3, PageSize::K64, DATA[1].0)];
        enter(4, PageSize::K64, DEVICES[0]);
        let stream = stream_of(there.table()).expect("a stream");
        for (backing, refused) in [(PageSize::K64, vec![]), (PageSize::K4, large.to_vec())] {
            let here = Model::arrived(order, &stream, backing).expect("a table");
            assert_eq!(contents(here.table()), contents(there.table()));
            assert_eq!(here.entries(), 4, "but the guest's own");
            let mut seen = here.refused().expect("a table");
            let mut refused = refused;
            refused.sort_unstable();
            seen.sort_unstable();
            assert_eq!(seen, refused, "{backing:?}");
            here.leave_behind(&refused).expect("places");
            assert_eq!(here.refused().expect("a table"), [0; 0]);
            assert_eq!(here.entries(), 4 - refused.len());
        }
        let without = Model::arrived(order, &[], PageSize::K4).err();
        assert!(without.is_some_and(|error| error.to_string().contains("needs")));
    }

    #[test]
    fn an_entry_is_put_where_kvm_has_put_it_if_that_place_is_free_and_of_the_group() {
        let order = HptOrder::MIN;
        let model = Model::new(order, PageSize::K4).expect("a table");
        let place = PLACES[0];
        let enter = |number: u64| {
            let page = place.page(number);
            let group = order.group(page.hash(), false) << 3;
            let r = HpteR::from_bits(DATA[0].0).with_protection(2).with_m(true);
            let v = page.v().into_bits();
            let call = Call::new(Hcall::Enter.number(), [0, group, v, r.into_bits()]);
            (model.call(&call).0.values[0], page)
        };
        let (first, page) = enter(5);
        let (second, _) = enter(5 + 2048);
        assert_eq!(second, first + 1);
        let elsewhere = |to: u64| model.entered_elsewhere(first, to).expect("a table of ours");
        assert_eq!(elsewhere(second), None, "used");
        assert_eq!(elsewhere(first + 8), None, "another group");
        assert_eq!(elsewhere(u64::MAX), None, "no place");
        assert_eq!(elsewhere(first + 5), Some(first + 5));
        let found = model.table().find(&page).expect("a table of ours");
        assert_eq!(found.map(|it| it.ptex), Some(first + 5));
        assert_eq!(enter(5 + 4096).0, first, "free again");
    }
}
