//! Steps in which everything is varied at once, valid and invalid.

use std::collections::VecDeque;

use fastrand::Rng;
use pgtable::Gva;
use pgtable_ppc64::hash::{
    Authority, BulkKind, BulkRequest, Hcall, HcallFlags, Hpte, HpteR, HpteV, PageSizes, Segment,
    SlbEsid, VirtualPage,
};

use super::layout::{CODE_KEY, DATA, DEVICES, PLACES, STUBS, is_data, is_memory, slb};
use super::model::Model;
use super::step::{Action, Call, SlbInstruction, Step, Touch};
use super::systematic::ACCESSES;

/// Bits of a first doubleword that KVM uses for itself while it holds the entry, V among them:
/// whether an AND condition on them is met depends on what KVM is doing with the page just then.
const KVMS_OWN: u64 = 0x61;

/// Makes steps.
pub struct Random {
    rng: Rng,
    waiting: VecDeque<Step>,
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())]
}

impl Random {
    /// Steps from `seed` on, after those of `first`.
    pub fn new(seed: u64, first: Vec<Step>) -> Self {
        Self { rng: Rng::with_seed(seed), waiting: first.into() }
    }

    /// The next step. None of them destroys what the guest itself needs.
    pub fn step(&mut self, model: &Model) -> Step {
        if let Some(step) = self.waiting.pop_front() {
            return step;
        }
        let step = |kind, number, arguments: [u64; 4]| (kind, Call::new(number, arguments));
        let (kind, mut call) = match self.rng.u8(..100) {
            0..30 => return self.touch(model),
            30..34 => return self.slb(),
            34..62 => ("H_ENTER", self.enter(model)),
            62..72 => step("H_REMOVE", Hcall::Remove.number(), self.about_an_entry(model)),
            72..81 => step("H_PROTECT", Hcall::Protect.number(), self.about_an_entry(model)),
            81..88 => ("H_BULK_REMOVE", self.bulk_remove(model)),
            88..92 => step("H_READ", Hcall::Read.number(), self.about_an_entry(model)),
            92..95 => step("H_CLEAR_REF", Hcall::ClearRef.number(), self.about_an_entry(model)),
            95..98 => step("H_CLEAR_MOD", Hcall::ClearMod.number(), self.about_an_entry(model)),
            _ => ("H_PAGE_INIT", self.page_init()),
        };
        self.spare_the_guest(&mut call, model);
        Step { kind, action: Action::Call(call) }
    }

    /// An address: most of the time of a page that is there.
    fn address(&mut self, model: &Model) -> Gva {
        let (ptex, _) = self.entry(model);
        let rng = &mut self.rng;
        let known = model.page(ptex).filter(|_| rng.u8(..4) != 0);
        let known = known.and_then(|page| {
            PLACES
                .iter()
                .find(|place| place.has(&page))
                .map(|place| (*place, place.start + page.offset))
        });
        let (place, start) = known.unwrap_or_else(|| {
            let place = pick(rng, &PLACES);
            let numbers: Vec<_> = place.numbers().collect();
            (place, place.address(pick(rng, &numbers)).get())
        });
        let address = start | rng.u64(..) & pgtable::low_bits(place.segment.base.shift()) & !7;
        Gva::new(if rng.u8(..32) == 0 { address ^ 1 << rng.u8(12..64) } else { address })
    }

    fn touch(&mut self, model: &Model) -> Step {
        let address = self.address(model);
        let rng = &mut self.rng;
        let access = pick(rng, &ACCESSES);
        // Most of the time nothing is in the way of whatever else is odd.
        let open = !(3 << (2 * (31 - CODE_KEY)));
        let authority = match rng.u8(..4) {
            0 => Authority {
                amr: rng.u64(..) & rng.u64(..) & open,
                iamr: rng.u64(..) & rng.u64(..) & open,
            },
            _ => Authority::default(),
        };
        let odd = rng.u8(..4) == 0;
        let bits = rng.u8(..);
        let changed = |segment| Segment {
            ks: bits & 1 != 0,
            kp: bits & 2 != 0,
            n: bits & 12 == 0,
            ..segment
        };
        let slb = slb(|_, segment| {
            (!odd || bits & 0xf0 != 0).then_some(if odd { changed(segment) } else { segment })
        });
        Step {
            kind: "access",
            action: Action::Touch(Box::new(Touch { slb, authority, address, access })),
        }
    }

    fn enter(&mut self, model: &Model) -> Call {
        let rng = &mut self.rng;
        let place = pick(rng, &PLACES);
        let numbers: Vec<_> = place.numbers().collect();
        let mut page = place.page(pick(rng, &numbers));
        let all: Vec<_> =
            PageSizes::ALL.into_iter().filter(|sizes| sizes.base() == page.base).collect();
        let sizes = if rng.u8(..32) == 0 { pick(rng, &PageSizes::ALL) } else { pick(rng, &all) };
        // A page that is there already is rarely entered again.
        if rng.u8(..16) != 0 && model.table().find(&page).is_ok_and(|found| found.is_some()) {
            page = place.page(rng.u64(..));
        }
        let (start, bytes) = pick(rng, &DATA);
        let real = match rng.u8(..8) {
            0 => pick(rng, &DEVICES) + (rng.u64(..1 << 24) & !0xfff),
            _ => start + (rng.u64(..bytes) & !0xfff),
        };
        let real = real >> sizes.actual().shift() << sizes.actual().shift();
        let secondary = rng.u8(..4) == 0;
        let software = pick(rng, &[0, 0, 0x10, 0x10, 0x10, 0x18, 0x60, 0x79]);
        let v =
            page.v().with_v(rng.bool()).with_l(sizes.lp().is_some()).with_h(secondary).into_bits()
                | software;
        let protection = pick(rng, &[0, 1, 2, 2, 2, 2, 3, 6, 6, 4, 5, 7]);
        let key = if rng.bool() { rng.u8(..32) } else { 0 };
        let bits = rng.u16(..);
        let r = HpteR::from_bits(real).with_sizes(sizes).with_protection(protection).with_key(key);
        let r = r
            .with_n(bits & 7 == 0)
            .with_ts(bits & 0x38 == 0)
            .with_r(bits & 0x40 == 0)
            .with_c(bits & 0x80 == 0);
        let r = match bits >> 8 & 15 {
            0 => r.with_i(true),
            1 => r.with_i(true).with_g(true),
            2 => HpteR::from_bits(r.into_bits() | u64::from(bits >> 12) << 3),
            _ => r.with_m(true),
        };
        let group = model.table().order().group(page.hash(), secondary);
        let flags =
            HcallFlags::new().with_exact(bits & 3 == 0).with_large_page(sizes.lp().is_some());
        let flags = flags.with_zero_page(rng.u8(..32) == 0);
        let mut arguments = [flags.into_bits(), group << 3 | rng.u64(..8), v, r.into_bits()];
        match rng.u8(..32) {
            0 => arguments[1] = rng.u64(..),
            1 => arguments[1] = rng.u64(..model.table().order().entries()),
            2 => arguments[2] ^= 1 << rng.u8(..64),
            // Not what is beyond the fields of this layout.
            3 => arguments[3] ^= 1 << rng.u8(..58),
            4 => arguments[0] ^= 1 << rng.u8(..64),
            _ => {}
        }
        Call::new(Hcall::Enter.number(), arguments)
    }

    /// Which entry, and of which page it is: most of the time one that is there.
    fn entry(&mut self, model: &Model) -> (u64, u64) {
        let rng = &mut self.rng;
        match model.entry(rng.usize(..model.entries().max(1))) {
            Some((ptex, v)) if rng.u8(..8) != 0 => (ptex, v & !0x7f),
            _ => {
                let any = rng.u64(..1 << 14);
                (pick(rng, &[any, any, 1 << 14, 1 << 15, u64::MAX, 0]), 0)
            }
        }
    }

    /// Flags, place, AVPN or condition; all in all what fits together.
    fn about_an_entry(&mut self, model: &Model) -> [u64; 4] {
        let (ptex, avpn) = self.entry(model);
        let rng = &mut self.rng;
        let new = rng.u64(..) & 0x3f07;
        let flags = HcallFlags::from_bits(new).with_read_4(rng.u8(..4) == 0);
        let (flags, condition) = match rng.u8(..8) {
            0 | 1 => (flags, rng.u64(..)),
            2..5 => (flags.with_avpn(true), avpn),
            5 => (flags.with_avpn(true), avpn ^ 1 << rng.u8(..64)),
            6 => (
                flags.with_andcond(true),
                pick(rng, &[0x10, 2, 4, !avpn, 1 << 20, 0x18]) & !KVMS_OWN,
            ),
            _ => (flags.with_avpn(true).with_andcond(true), avpn & !KVMS_OWN),
        };
        let flags = if rng.u8(..16) == 0 {
            flags.into_bits() ^ 1 << rng.u8(..30)
        } else {
            flags.into_bits()
        };
        [flags, ptex, condition, 0]
    }

    fn bulk_remove(&mut self, model: &Model) -> Call {
        let mut arguments = [0; 9];
        for pair in arguments.chunks_exact_mut(2) {
            let [flags, ptex, condition, _] = self.about_an_entry(model);
            let flags = HcallFlags::from_bits(flags);
            let rng = &mut self.rng;
            let kind = match rng.u8(..16) {
                0 => BulkKind::Reserved,
                1 => BulkKind::Response,
                2 | 3 => BulkKind::End,
                _ => BulkKind::Request,
            };
            let request = BulkRequest::new()
                .with_kind(kind)
                .with_avpn(flags.avpn())
                .with_andcond(flags.andcond());
            let request = request.with_ptex(ptex & ((1 << 56) - 1)).into_bits();
            pair[0] = if rng.u8(..16) == 0 { request ^ 1 << rng.u8(56..64) } else { request };
            let conditional = BulkRequest::from_bits(pair[0]).andcond();
            pair[1] = if conditional { condition & !KVMS_OWN } else { condition };
        }
        Call::new(Hcall::BulkRemove.number(), arguments)
    }

    fn page_init(&mut self) -> Call {
        let rng = &mut self.rng;
        let mut page = || {
            let (start, bytes) = pick(rng, &DATA);
            let page = start + (rng.u64(..bytes) & !0xfff);
            match rng.u8(..8) {
                0 => pick(rng, &DEVICES),
                1 => page + 8,
                _ => page,
            }
        };
        let (to, from) = (page(), page());
        let flags = HcallFlags::new().with_zero_page(rng.bool()).with_copy_page(rng.bool());
        let flags = flags
            .with_icache_invalidate(rng.bool())
            .with_icache_synchronize(rng.bool())
            .into_bits();
        let flags = if rng.u8(..8) == 0 { flags ^ 1 << rng.u8(..64) } else { flags };
        Call::new(Hcall::PageInit.number(), [flags, to, from])
    }

    fn slb(&mut self) -> Step {
        let rng = &mut self.rng;
        let slb = slb(|_, segment| Some(segment));
        let instructions = (0..rng.usize(1..6)).map(|_| {
            let place = pick(rng, &PLACES);
            match rng.u8(..8) {
                0 => SlbInstruction::Slbia,
                1 | 2 => SlbInstruction::Slbie(place.address(rng.u64(..))),
                // Again the segment that is there, at its own place: no two entries ever fit one
                // address.
                _ => {
                    let index =
                        PLACES.iter().position(|other| other.start == place.start).unwrap_or(0)
                            as u16
                            + 1;
                    let vsid = Segment {
                        vsid: rng.u64(..1 << 26),
                        ks: rng.bool(),
                        n: rng.bool(),
                        ..place.segment
                    };
                    let (mut rb, mut rs) =
                        (place.esid().with_index(index).with_v(rng.u8(..4) != 0), vsid.slb_word());
                    match rng.u8(..8) {
                        0 => rb = SlbEsid::from_bits(rb.into_bits() ^ 1 << rng.u8(5..27)),
                        1 => rs = rs.with_b(rng.u8(2..4)),
                        _ => {}
                    }
                    SlbInstruction::Slbmte(rb, rs)
                }
            }
        });
        Step {
            kind: "slbmte, slbie, slbia",
            action: Action::Slb(Box::new(slb), instructions.collect()),
        }
    }

    /// Changes a call that would take away or cover what the guest itself needs into one that does
    /// not.
    fn spare_the_guest(&mut self, call: &mut Call, model: &Model) {
        let arguments = &mut call.arguments;
        match Hcall::of_number(call.number) {
            Some(Hcall::Remove | Hcall::Protect | Hcall::ClearRef | Hcall::ClearMod)
                if model.is_kept(arguments[1]) =>
            {
                arguments[1] = u64::MAX;
            }
            Some(Hcall::BulkRemove) => {
                for pair in arguments.chunks_exact_mut(2) {
                    let request = BulkRequest::from_bits(pair[0]);
                    if model.is_kept(request.ptex()) {
                        pair[0] = request.with_ptex(1 << 14).into_bits();
                    }
                }
            }
            Some(Hcall::PageInit) if is_memory(arguments[1], 1) && !is_data(arguments[1]) => {
                arguments[1] = DATA[0].0;
            }
            Some(Hcall::Enter) => {
                let (v, r) = (HpteV::from_bits(arguments[2]), HpteR::from_bits(arguments[3]));
                let stubs = VirtualPage::of(&STUBS.segment, Gva::new(0)).v();
                let page = Hpte { v, r }.sizes().map_or(0, |sizes| r.page(sizes));
                if v.avpn() == stubs.avpn() || !is_data(page) && is_memory(page, 1) {
                    arguments[1] = u64::MAX;
                }
            }
            _ => {}
        }
    }
}
