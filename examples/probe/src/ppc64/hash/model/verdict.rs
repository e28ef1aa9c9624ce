//! What comes of an access: by the library's MMU, and where KVM has a say in it, by what KVM does,
//! as the documentation of `model` says.

use std::error::Error;

use pgtable::{Access, AccessKind, Gpa, Gva};
use pgtable_ppc64::hash::{
    Authority, GROUP_ENTRIES, HashFault, HashMmu, HashTranslation, Hpte, HpteR, HpteV, PageSizes,
    Partition, Segment, Slb, Storage, VirtualPage, judge,
};
use pgtable_ppc64::{Interrupt as Cause, Vector};
use probe_guest::ppc64::{Interrupt, Start};

use super::Model;
use crate::ppc64::end::End;
use crate::ppc64::hash::layout::is_memory;
use crate::ppc64::hash::step::Touch;

/// How an access is judged.
enum Verdict {
    /// It goes there.
    Real(u64),
    /// It takes this interrupt.
    Refused(Cause),
}

impl Model {
    /// What comes of an access that begins like this; `None`: that has no one answer.
    pub fn touch(&self, touch: &Touch, start: Start) -> Result<Option<End>, Box<dyn Error>> {
        // The first thing that the guest does is to fetch the stub.
        let stub = Touch {
            address: start.pc,
            access: Access { kind: AccessKind::Fetch, ..touch.access },
            ..*touch
        };
        match self.judge(&stub)? {
            Some(Verdict::Refused(cause)) => {
                return Ok(Some(End::Took(interrupt(&stub, cause, start))));
            }
            Some(Verdict::Real(_)) => {}
            None => return Ok(None),
        }
        Ok(self.judge(touch)?.map(|verdict| match verdict {
            Verdict::Refused(cause) => End::Took(interrupt(touch, cause, start)),
            Verdict::Real(address) if is_memory(address, 8) => End::Done(Gpa::new(address)),
            Verdict::Real(address) => End::NoMemory(Gpa::new(address)),
        }))
    }

    fn judge(&self, touch: &Touch) -> Result<Option<Verdict>, Box<dyn Error>> {
        let &Touch { ref slb, authority, address, access } = touch;
        let Ok(segment) = slb.lookup(address) else {
            return self.translate(slb, authority, address, access).map(Some);
        };
        let page = VirtualPage::of(&segment, address);
        let matching = self.matching(&page)?;
        if matching > 1 {
            // Of several the hardware may take any.
            return Ok(None);
        }
        // If the hardware has none KVM asks its memory first.
        if let Some(it) = self.devices.borrow().remembered(&segment, address) {
            let there = self.table.find(&page)?;
            if there.is_none_or(|found| self.hides_use(found.ptex, found.hpte)) {
                let unsure = there.is_some_and(|found| self.unsure.borrow().contains(&found.ptex));
                let real = it.r.page(it.sizes)
                    | address.get() & pgtable::low_bits(it.sizes.actual().shift());
                return Ok((!unsure).then(|| Self::by_kvm(it.r, &segment, access, authority, real)));
            }
        }
        if matching == 0 {
            return self.translate(slb, authority, address, access).map(Some);
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
            let verdict = Self::by_kvm(r, &segment, access, authority, r.page(sizes) | within);
            if let Verdict::Real(_) = verdict {
                self.devices.borrow_mut().remember(&segment, address, r, sizes);
            }
            return Ok(Some(verdict));
        }
        let unsure = self.unsure.borrow().contains(&found.ptex);
        if unsure || self.absent.borrow().contains(&found.ptex) {
            if let refused @ Verdict::Refused(_) = Self::by_kvm(r, &segment, access, authority, 0) {
                return Ok((!unsure).then_some(refused));
            }
            self.tell_the_hardware(found.ptex);
        }
        let open = judge(r, &segment, access, Authority::default()).is_ok()
            && judge(r, &segment, access, authority).is_err();
        if open && access.kind == AccessKind::Write && self.protected.borrow().contains(&found.ptex)
        {
            return Ok(None);
        }
        // As KVM has it in the real table.
        let shown = [r.w(), r.i(), r.m(), r.g()];
        let sao = [true, true, true, false];
        let kept = shown == sao || shown == [false, false, true, false];
        let put = |r: HpteR| {
            found
                .slot
                .put(self.table.layout().encode(Hpte { r, v: found.hpte.v.with_modified(true) }));
        };
        if !kept {
            put(r.with_w(false).with_i(false).with_g(false).with_m(true));
        }
        let verdict = self.translate(slb, authority, address, access);
        let now = self.table.read(found.ptex)?.ok_or("an entry is gone")?.r;
        let set =
            now.into_bits() & !r.into_bits() & HpteR::new().with_r(true).with_c(true).into_bits();
        *self.unread.borrow_mut().entry(found.ptex).or_default() |= set;
        if !kept {
            let [w, i, m, g] = shown;
            put(now.with_w(w).with_i(i).with_m(m).with_g(g));
        }
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
            Err(error) => Err(error.into()),
        }
    }

    /// As KVM judges by itself.
    fn by_kvm(
        r: HpteR,
        segment: &Segment,
        access: Access,
        authority: Authority,
        real: u64,
    ) -> Verdict {
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
