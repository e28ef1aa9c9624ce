//! What the machine's answer is compared with.

use pgtable::{AccessKind, Gpa, Privilege, low_bits};
use pgtable_aarch64::{Abort, Esr, FaultKind, hpfar};

use super::bench::{Case, Outcome};
use super::records::{Answer, block};

impl Case {
    /// In what the machine's answer is another.
    pub fn differences(&self, seen: &Answer) -> Vec<String> {
        let mut all = Vec::new();
        let mut field = |name: &str, expected: u64, seen: u64| {
            if expected != seen {
                all.push(format!("{name}: expected {expected:#x}, seen {seen:#x}"));
            }
        };
        let user = self.access.privilege == Privilege::User;
        let el2 = self.order.mode == 1;
        field("PAR_EL1", self.par, seen.par);
        field("stage 1's leaf", self.after[0], seen.leaves[0]);
        field("stage 2's leaf", self.after[1], seen.leaves[1]);
        field("patched word", self.after[2], seen.patch);
        // HVC 0 of EL1 and EL2; of EL0 it is undefined, and EL1's vector calls on.
        let (hvc0, hvc1, undefined) = (0x5a00_0000, 0x5a00_0001, 0x0200_0000);
        let lower = if el2 && !user { 0x200 } else { 0x400 };
        match self.outcome {
            Outcome::Done(pa) => {
                field("vector", lower, seen.vector);
                match (user, el2) {
                    (false, _) => field("ESR_EL2", hvc0, seen.esr2),
                    (true, true) => field("ESR_EL2", undefined, seen.esr2),
                    (true, false) => {
                        field("ESR_EL2", hvc1, seen.esr2);
                        field("ESR_EL1", undefined, seen.esr1);
                    }
                }
                match self.access.kind {
                    AccessKind::Read => field("loaded", block(pa), seen.result),
                    AccessKind::Write => field("stored", self.order.value, seen.data),
                    AccessKind::Fetch => field("run", pa >> 4, seen.result),
                }
            }
            Outcome::Nowhere(_) => self.fault(&mut field, seen, self.external(), None),
            Outcome::First(esr) => self.fault(&mut field, seen, esr, None),
            Outcome::Second(esr, ipa) => self.fault(&mut field, seen, esr, Some(ipa)),
        }
        all
    }

    /// The external abort of an access where there is nothing.
    fn external(&self) -> Esr {
        let user = self.access.privilege == Privilege::User;
        Esr::of_access(self.access, user).with_status(0x10)
    }

    /// A fault: of stage 1, taken by EL1 or EL2, or of stage 2, with its address.
    fn fault(
        &self,
        field: &mut impl FnMut(&str, u64, u64),
        seen: &Answer,
        esr: Esr,
        ipa: Option<Gpa>,
    ) {
        let user = self.access.privilege == Privilege::User;
        let el2 = self.order.mode == 1;
        let far = self.far;
        let mut esr = esr;
        match ipa {
            Some(ipa) => {
                // What the machine knows of the instruction.
                if !esr.is_fetch() && !esr.s1ptw() {
                    let register = if self.access.kind == AccessKind::Write { 1 } else { 2 };
                    esr = esr.with_isv(true).with_sas(3).with_srt(register).with_sf(true);
                }
                field("vector", 0x400, seen.vector);
                field("ESR_EL2", esr.into_bits(), seen.esr2);
                field("FAR_EL2", far, seen.far2);
                field("HPFAR_EL2", hpfar(ipa), seen.hpfar);
                // What a handler makes of the machine's registers.
                let table = esr.s1ptw();
                let handled = Abort::from_registers(seen.esr2, seen.far2, seen.hpfar);
                let page = if table { ipa.get() & !low_bits(12) } else { ipa.get() };
                // A table that is not there is none of stage 2's faults.
                let external = esr.fault().is_some_and(|it| it.kind() == FaultKind::WalkAbort);
                let page = if external { u64::MAX } else { page };
                let told = handled.map(|abort| abort.ipa().map_or(page, Gpa::get));
                field("the address to be handled", page, told.unwrap_or(u64::MAX));
                if !table && !external {
                    let kind = handled.map(|abort| abort.access().kind as u64);
                    let wanted = self.access.kind as u64;
                    field("the access to be handled", wanted, kind.unwrap_or(u64::MAX));
                }
            }
            None if el2 => {
                field("vector", if user { 0x400 } else { 0x200 }, seen.vector);
                field("ESR_EL2", esr.into_bits(), seen.esr2);
                field("FAR_EL2", far, seen.far2);
            }
            None => {
                field("vector", 0x400, seen.vector);
                field("ESR_EL2", 0x5a00_0001, seen.esr2);
                let handled = Abort::from_registers(seen.esr2, seen.far2, seen.hpfar);
                field("a fault of stage 2", 0, handled.is_ok().into());
                field("ESR_EL1", esr.into_bits(), seen.esr1);
                field("FAR_EL1", far, seen.far1);
            }
        }
        if self.access.kind == AccessKind::Fetch && (ipa.is_some() || el2) {
            field("ELR_EL2", far, seen.elr2);
        }
    }

    /// The words on the way, for a person.
    pub fn describe(&self) -> String {
        let Self { order, access, outcome, code, kind, .. } = self;
        format!(
            "  scene     {kind}, code at {code:#x}\n  access    {access} at {:#x}\n  patch     {:#x}: {:#x}\n  \
             outcome   {outcome:x?}\n  order     {order:x?}",
            order.address, order.patch.0, order.patch.1
        )
    }
}
