//! Tables of other sizes, and what KVM does to entries on the way.
//!
//! Two things that it does no specification asks for, so each is brought about here, and the model
//! knows it. What the hardware set in an entry since somebody last read the table is lost
//! ([`use_bolted`](Stand::use_bolted)). And an entry for a device that the guest met before, and
//! that is gone with the old table, is met again when as many such entries were taken out as before
//! ([`meet_device`](Stand::meet_device)).

use std::error::Error;
use std::io::ErrorKind;
use std::thread;

use pgtable::{Access, Gva};
use pgtable_ppc64::hash::{Authority, Hcall, HptOrder, HpteR, PageSizes};
use pgtable_ppc64::kvm::{PpcMmu, ResizePrepare, kvm_ppc_resize_hpt};

use super::htab::Mirror;
use super::layout::{DEVICES, PLACES, Place, slb};
use super::model::Unread;
use super::stand::{Stand, Tried};
use super::step::{Call, Touch};

/// How many bolted entries are used before a table is resized.
const USED: usize = 32;
/// The segment in which a device is met, and the number of its page, which no other step has.
const DEVICE: (Place, u64) = (PLACES[0], 0xbeef);
/// How many entries for devices are taken out at most until one is met again.
const TAKEN_OUT: usize = 1000;

impl Stand {
    /// An access in the segments of the layout, with no key forbidden; `None`: it has no one
    /// answer.
    pub(super) fn plain(
        &mut self,
        address: Gva,
        access: Access,
    ) -> Result<Option<Tried>, Box<dyn Error>> {
        let slb = slb(|_, segment| Some(segment));
        self.touch(&mut Touch { slb, authority: Authority::default(), address, access })
    }

    fn access(&mut self, address: Gva, access: Access) -> Result<Vec<String>, Box<dyn Error>> {
        Ok(self.plain(address, access)?.map_or(vec![], |tried| tried.differences))
    }

    /// Uses pages of bolted entries, so that there is something in them that nobody has read.
    pub fn use_bolted(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let mut differences = Vec::new();
        let bolted: Vec<_> = self.model.bolted().take(USED).collect();
        for (page, access) in
            bolted.into_iter().zip([Access::READ, Access::WRITE].into_iter().cycle())
        {
            if let Some(place) = PLACES.iter().find(|place| place.has(&page)) {
                differences.extend(self.access(Gva::new(place.start + page.offset), access)?);
            }
        }
        Ok(differences)
    }

    /// Enters an entry for a device, by calls that may fail if its groups are full.
    fn enter_device(&mut self, number: u64) -> Result<Vec<String>, Box<dyn Error>> {
        let (place, _) = DEVICE;
        let page = place.page(number);
        let r = HpteR::from_bits(DEVICES[0]).with_protection(2).with_m(true);
        let r = r.with_sizes(PageSizes::only(place.segment.base));
        let mut differences = Vec::new();
        for h in [false, true] {
            if self.model.table().find(&page)?.is_none() {
                let group = self.model.table().order().group(page.hash(), h) << 3;
                let v = page.v().with_h(h);
                let call =
                    Call::new(Hcall::Enter.number(), [0, group, v.into_bits(), r.into_bits()]);
                differences.extend(self.call(&call)?.differences);
            }
        }
        Ok(differences)
    }

    /// Accesses a device of whose entry KVM takes note.
    pub fn use_device(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let (place, number) = DEVICE;
        let mut differences = self.enter_device(number)?;
        differences.extend(self.access(place.address(number), Access::READ)?);
        Ok(differences)
    }

    /// Takes entries for devices out until there were as many changes as when
    /// [`use_device`](Self::use_device) took note of one, and accesses that one, which no entry is
    /// there for any more.
    pub fn meet_device(&mut self) -> Result<Vec<String>, Box<dyn Error>> {
        let (place, number) = DEVICE;
        let mut differences = Vec::new();
        for _ in 0..TAKEN_OUT {
            if self.model.remembers(&place.segment, place.address(number)) {
                break;
            }
            differences.extend(self.enter_device(number + 1)?);
            let Some(found) = self.model.table().find(&place.page(number + 1))? else { break };
            let call = Call::new(Hcall::Remove.number(), [0, found.ptex, 0]);
            differences.extend(self.call(&call)?.differences);
        }
        differences.extend(self.access(place.address(number), Access::READ)?);
        Ok(differences)
    }

    /// Has the guest take out whatever would keep its table from getting this size.
    pub fn make_way(&mut self, order: HptOrder) -> Result<Vec<String>, Box<dyn Error>> {
        let mut differences = Vec::new();
        for ptex in self.model.in_the_way(order) {
            differences
                .extend(self.call(&Call::new(Hcall::Remove.number(), [0, ptex, 0]))?.differences);
        }
        Ok(differences)
    }

    /// Has KVM give the guest a table of another size, and does the same. Returns how much of R and
    /// C was lost on the way.
    pub fn resize(&mut self, order: HptOrder) -> Result<(usize, Vec<String>), Box<dyn Error>> {
        let argument = kvm_ppc_resize_hpt { flags: 0, shift: order.get().into(), pad: 0 };
        while let ResizePrepare::Busy(time) = self.guest.vm().resize_hpt_prepare(&argument)? {
            thread::sleep(time);
        }
        let seen = self.guest.vm().resize_hpt_commit(&argument);
        let expected = self.model.resize(order)?;
        self.mirror = Mirror::new(self.guest.vm(), self.model.table().order())?;
        match (expected, seen) {
            (Ok(unread), Ok(())) => {
                self.read()?;
                let seen = self.mirror.contents();
                // All of it, or none: what a table lacks beyond that is a difference when it is
                // compared.
                let lost =
                    |&(ptex, bits): &Unread| seen.get(&ptex).is_some_and(|[_, r]| r & bits == 0);
                if !unread.is_empty() && unread.iter().all(lost) {
                    self.model.lose(&unread)?;
                    return Ok((unread.len(), vec![]));
                }
                Ok((0, vec![]))
            }
            // `ENOSPC`: two bolted entries meet.
            (Err(_), Err(error)) if error.kind() == ErrorKind::StorageFull => Ok((0, vec![])),
            (expected, seen) => Ok((
                0,
                vec![format!("resizing to {order:?}: expected {expected:?}, seen {seen:?}")],
            )),
        }
    }
}
