//! Steps that go through everything that decides about an access, one after the other: an entry is
//! made, used, and taken out.

use pgtable::Access;
use pgtable_ppc64::hash::{
    Authority, Hcall, HcallFlags, HptOrder, Hpte, HpteR, PageSizes, Segment,
};

use super::layout::{DATA, DEVICES, ORDER, PLACES, Place, slb};
use super::step::{Action, Call, Step, Touch};

/// Every way to access a place.
pub const ACCESSES: [Access; 6] = [
    Access::READ,
    Access::WRITE,
    Access::FETCH,
    Access::READ.by_user(),
    Access::WRITE.by_user(),
    Access::FETCH.by_user(),
];

/// Bytes of the pages that `H_PAGE_INIT` is about.
const PAGE: u64 = 1 << 12;

/// A page, and how it is entered and used.
#[derive(Clone, Copy)]
struct Scene {
    kind: &'static str,
    /// Which of [`PLACES`].
    place: usize,
    /// The segment as the SLB has it.
    segment: Option<Segment>,
    number: u64,
    sizes: PageSizes,
    real: u64,
    secondary: bool,
    /// The second doubleword's bits besides the page.
    r: HpteR,
    authority: Authority,
}

impl Scene {
    /// Process data: readable, writable, executable for everybody.
    fn plain(kind: &'static str, place: usize) -> Self {
        let segment = PLACES[place].segment;
        Self {
            kind,
            place,
            segment: Some(segment),
            number: 5,
            sizes: PageSizes::only(segment.base),
            real: DATA[0].0 + 0x12_0000,
            secondary: false,
            r: HpteR::new().with_protection(2).with_m(true),
            authority: Authority::default(),
        }
    }

    /// The entry is made, each of `accesses` is made, the entry is taken out, by the place where it
    /// was put.
    fn steps(self, accesses: &[Access], steps: &mut Vec<Step>) {
        let place: Place = PLACES[self.place];
        let page = place.page(self.number);
        let v = page.v().with_l(self.sizes.lp().is_some()).with_h(self.secondary);
        let real = self.real >> self.sizes.actual().shift() << self.sizes.actual().shift();
        let r = HpteR::from_bits(self.r.into_bits() | real).with_sizes(self.sizes);
        let Hpte { v, r } = Hpte { v, r };
        let order = HptOrder::new(ORDER).unwrap_or(HptOrder::MIN);
        let ptex = order.group(page.hash(), self.secondary) << 3 | 3;
        let exact = HcallFlags::new().with_exact(true).into_bits();
        let avpn = HcallFlags::new().with_avpn(true).into_bits();
        let mut call = |call: Hcall, arguments: [u64; 4]| {
            let call = Call::new(call.number(), arguments);
            steps.push(Step { kind: self.kind, action: Action::Call(call) });
        };
        call(Hcall::Enter, [exact, ptex, v.into_bits(), r.into_bits()]);
        let slb =
            slb(|index, segment| if index == self.place { self.segment } else { Some(segment) });
        for &access in accesses {
            // Somewhere in the actual page, but not beyond the base page.
            let address = pgtable::Gva::new(place.address(self.number).get() + 0x238);
            let touch = Touch { slb, authority: self.authority, address, access };
            steps.push(Step { kind: self.kind, action: Action::Touch(Box::new(touch)) });
        }
        let mut call = |call: Hcall, arguments: [u64; 4]| {
            let call = Call::new(call.number(), arguments);
            steps.push(Step { kind: self.kind, action: Action::Call(call) });
        };
        call(Hcall::Read, [0, ptex, 0, 0]);
        call(Hcall::Remove, [avpn, ptex, v.into_bits() & !0x7f, 0]);
    }
}

/// All steps, in order.
pub fn steps() -> Vec<Step> {
    let mut steps = Vec::new();
    for protection in [0, 1, 2, 3, 6] {
        for (ks, kp) in [(false, false), (false, true), (true, false), (true, true)] {
            for access in ACCESSES {
                let scene = Scene::plain("page protection and storage keys", 0);
                let segment = Some(Segment { ks, kp, ..PLACES[0].segment });
                let r = scene.r.with_protection(protection);
                Scene { segment, r, ..scene }.steps(&[access], &mut steps);
            }
        }
    }
    for (place, &Place { segment, .. }) in PLACES.iter().enumerate() {
        for sizes in PageSizes::ALL.into_iter().filter(|sizes| sizes.base() == segment.base) {
            for secondary in [false, true] {
                for real in [
                    DATA[0].0 + 0x34_5000,
                    DATA[2].0 + 0x1_7000,
                    DEVICES[0],
                    DEVICES[4] + 0x543_2000,
                ] {
                    let scene = Scene::plain("page sizes, segments, both groups", place);
                    let number = if secondary { 7 } else { 9 };
                    let scene = Scene { sizes, secondary, real, number, ..scene };
                    scene
                        .steps(&[Access::READ, Access::WRITE.by_user(), Access::FETCH], &mut steps);
                }
            }
        }
    }
    for key in [0, 1, 7, 8, 15, 16, 28, 30, 31] {
        let at = 2 * (31 - key);
        for bits in 0..4_u64 {
            let scene = Scene::plain("virtual page class keys", 3);
            let authority = Authority { amr: bits << at, iamr: bits << at };
            let r = scene.r.with_key(key).with_protection(if bits == 3 { 3 } else { 2 });
            Scene { r, authority, ..scene }.steps(&ACCESSES, &mut steps);
        }
    }
    for (n_segment, n, protection) in
        [(false, true, 2), (true, false, 2), (true, true, 3), (false, true, 0)]
    {
        let scene = Scene::plain("no execute", 1);
        let segment = Some(Segment { n: n_segment, ..PLACES[1].segment });
        Scene { segment, r: scene.r.with_n(n).with_protection(protection), ..scene }
            .steps(&ACCESSES, &mut steps);
    }
    for rc in 0..4 {
        for access in ACCESSES {
            let scene = Scene::plain("R and C", 4);
            Scene { r: scene.r.with_r(rc & 1 != 0).with_c(rc & 2 != 0), ..scene }
                .steps(&[access], &mut steps);
        }
    }
    for wimg in 0..16_u8 {
        for real in [DATA[1].0, DEVICES[1]] {
            let scene = Scene::plain("storage control", 0);
            let r = scene
                .r
                .with_w(wimg & 8 != 0)
                .with_i(wimg & 4 != 0)
                .with_m(wimg & 2 != 0)
                .with_g(wimg & 1 != 0);
            Scene { r, real, ..scene }
                .steps(&[Access::READ, Access::WRITE.by_user(), Access::FETCH], &mut steps);
        }
    }
    for (start, bytes) in DATA {
        let (first, last, middle) = (start, start + bytes - PAGE, start + bytes / 2);
        for (to, from) in
            [(first, last), (last, first), (middle, last - PAGE), (last - PAGE, middle)]
        {
            for flags in
                [HcallFlags::new().with_copy_page(true), HcallFlags::new().with_zero_page(true)]
            {
                let call = Call::new(Hcall::PageInit.number(), [flags.into_bits(), to, from]);
                steps.push(Step { kind: "H_PAGE_INIT", action: Action::Call(call) });
            }
        }
    }
    for access in ACCESSES {
        Scene { segment: None, ..Scene::plain("no segment", 6) }.steps(&[access], &mut steps);
        let mut scene = Vec::new();
        Scene::plain("no entry", 7).steps(&[access], &mut scene);
        // The same without the entry.
        steps.extend(scene.into_iter().filter(|step| matches!(step.action, Action::Touch(_))));
    }
    steps
}
