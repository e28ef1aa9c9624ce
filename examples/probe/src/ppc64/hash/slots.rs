//! Where KVM enters what need not stand at one place (`kvmppc_do_h_enter`).
//!
//! It takes the first free place of the group, and tries each once: if an interrupt of the host
//! comes between `ldarx` and `stdcx.`, `try_lock_hpte` fails, and the place is passed over as if it
//! were used. (If none is left, all are tried again, and waited for.) So any free place of the
//! group is right, and it is rare that it is not the first: 5 of 110 runs on Linux 6.12.

use pgtable_ppc64::hash::HcallFlags;

use super::step::Call;

/// Counts.
#[derive(Debug, Default)]
pub struct Slots {
    /// How many calls have entered something.
    pub entered: usize,
    /// How many of them have passed over a free place.
    pub passed_over: usize,
}

impl Slots {
    /// Whether KVM may have passed over a free place once more: in one call of 100, or in the first
    /// three.
    pub fn may_pass_over(&mut self, call: &Call) -> bool {
        self.passed_over += 1;
        !HcallFlags::from_bits(call.arguments[0]).exact()
            && self.passed_over <= 3.max(self.entered / 100)
    }
}

#[cfg(test)]
mod tests {
    use pgtable_ppc64::hash::Hcall;

    use super::*;

    #[test]
    fn a_free_place_is_passed_over_rarely_and_never_where_one_place_is_asked_for() {
        let call = |exact| {
            let flags = HcallFlags::new().with_exact(exact).into_bits();
            Call::new(Hcall::Enter.number(), [flags])
        };
        let mut slots = Slots { entered: 100, passed_over: 0 };
        assert!(!slots.may_pass_over(&call(true)));
        assert!((0..2).all(|_| slots.may_pass_over(&call(false))));
        assert!(!slots.may_pass_over(&call(false)), "the fourth of 100");
        slots.entered = 1000;
        assert!(slots.may_pass_over(&call(false)), "the fifth of 1000");
    }
}
