//! Nested paging: the VMCB's fields (APM, appendix B), and what an exit tells in them.

use pgtable::{Fault, Hpa, Privilege};
use pgtable_x86::{Levels, Npt, NptControls};

use super::records::Answer;
use super::second::{End, Machine, Second, Start};

/// The control area.
const EXCEPTIONS: u64 = 0x08;
const INSTRUCTIONS: u64 = 0x10;
const ASID_TLB: u64 = 0x58;
const EXITCODE: u64 = 0x70;
const EXITINFO1: u64 = 0x78;
const EXITINFO2: u64 = 0x80;
const NP_ENABLE: u64 = 0x90;
const N_CR3: u64 = 0xb0;
/// The state-save area.
const ES: u64 = 0x400;
const CS: u64 = 0x410;
const SS: u64 = 0x420;
const DS: u64 = 0x430;
const TR: u64 = 0x490;
const CPL: u64 = 0x4c8;
const EFER: u64 = 0x4d0;
const CR4: u64 = 0x548;
const CR3: u64 = 0x550;
const CR0: u64 = 0x558;
const DR7: u64 = 0x560;
const DR6: u64 = 0x568;
const RFLAGS: u64 = 0x570;
const RIP: u64 = 0x578;
const G_PAT: u64 = 0x668;

/// Exit codes (APM, appendix C).
const VMEXIT_EXCP: u64 = 0x40;
const VMEXIT_VMMCALL: u64 = 0x81;
const VMEXIT_NPF: u64 = 0x400;

const SVME: u64 = 1 << 12;

/// A segment register's first word: selector, attributes, limit.
const fn segment(attributes: u64) -> u64 {
    8 | attributes << 16 | 0xffff_ffff << 32
}

impl Second for Npt {
    type Controls = NptControls;

    /// P, R/W, U/S, NX.
    const RIGHTS: &'static [u64] = &[1 << 0, 1 << 1, 1 << 2, 1 << 63];
    /// A, D.
    const LEAF_BITS: &'static [u64] = &[1 << 5, 1 << 6];

    fn under(levels: Levels, controls: NptControls) -> Self {
        Self::new(levels, controls)
    }

    fn controls(machine: &Machine) -> Vec<NptControls> {
        let usual = NptControls {
            gib_pages: machine.gib_pages,
            maxphyaddr: machine.maxphyaddr,
            ..NptControls::new()
        };
        vec![usual, NptControls { nxe: false, ..usual }]
    }

    fn end(fault: &Fault<Self>, _: u64) -> End {
        End::Nested { gpa: fault.address.get(), info: fault.arch.into_bits(), linear: None }
    }

    fn setup(&self) -> Vec<(u64, u64, u64)> {
        let data = segment(0xcf3);
        let fields = [
            // All exceptions; INTR, NMI, HLT, SHUTDOWN.
            (EXCEPTIONS, 0xffff_ffff | (1 << 0 | 1 << 1 | 1 << 24 | 1 << 31) << 32),
            // VMRUN, VMMCALL.
            (INSTRUCTIONS, 0b11),
            // ASID 1; flush everything.
            (ASID_TLB, 1 | 1 << 32),
            (NP_ENABLE, 1),
            (ES, data),
            (DS, data),
            (TR, segment(0x8b)),
            (DR7, 0x400),
            (DR6, 0xffff_0ff0),
            (G_PAT, 0x0007_0406_0007_0406),
        ];
        fields.into_iter().map(|(field, value)| (field, value, 0)).collect()
    }

    fn read() -> Vec<u64> {
        vec![EXITCODE, EXITINFO1, EXITINFO2, RIP]
    }

    fn fields(&self, root: Hpa, start: &Start) -> Vec<(u64, u64)> {
        let Start { registers, ac, rip, privilege } = *start;
        let cpl = if privilege == Privilege::User { 3 } else { 0 };
        vec![
            (N_CR3, root.get()),
            (CR0, registers.cr0.into_bits() | 0x10),
            (CR3, registers.cr3.into_bits()),
            (CR4, registers.cr4.into_bits()),
            (EFER, registers.efer.into_bits() | SVME),
            (RFLAGS, 2 | u64::from(ac) << 18),
            (RIP, rip),
            (CPL, cpl << 24),
            // L, P, S, code; and data.
            (CS, segment(0x29b | cpl << 5)),
            (SS, segment(0xc93 | cpl << 5)),
        ]
    }

    fn host_efer(&self) -> u64 {
        SVME | 0x500 | if self.controls().nxe { 0x800 } else { 0 }
    }

    fn seen(answer: &Answer) -> (End, u64) {
        let [code, info1, info2, rip, ..] = answer.fields;
        let end = match code.wrapping_sub(VMEXIT_EXCP) {
            _ if code == VMEXIT_VMMCALL => End::Called,
            _ if code == VMEXIT_NPF => End::Nested { gpa: info2, info: info1, linear: None },
            14 => End::PageFault { code: info1, address: info2 },
            13 => End::GeneralProtection,
            _ => End::Odd(format!("exit {code:#x}, {info1:#x}, {info2:#x}")),
        };
        (end, rip)
    }
}
