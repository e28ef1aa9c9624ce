//! EPT: the VMCS's fields (SDM, appendix B), and what an exit tells in them.

use pgtable::{Fault, Hpa, Privilege};
use pgtable_x86::{Ept, EptControls, EptFault, Levels};

use super::records::Answer;
use super::second::{End, Machine, Second, Start};

const PIN_CONTROLS: u64 = 0x4000;
const PRIMARY_CONTROLS: u64 = 0x4002;
const EXCEPTIONS: u64 = 0x4004;
const EXIT_CONTROLS: u64 = 0x400c;
const ENTRY_CONTROLS: u64 = 0x4012;
const SECONDARY_CONTROLS: u64 = 0x401e;
const EPT_POINTER: u64 = 0x201a;
const LINK_POINTER: u64 = 0x2800;
const EXIT_REASON: u64 = 0x4402;
const QUALIFICATION: u64 = 0x6400;
const GUEST_PHYSICAL: u64 = 0x2400;
const GUEST_LINEAR: u64 = 0x640a;
const INTERRUPTION: u64 = 0x4404;
const INTERRUPTION_CODE: u64 = 0x4406;
/// The guest's segments: ES, CS, SS, DS, FS, GS, LDTR, TR, each two further.
const SELECTOR: u64 = 0x800;
const LIMIT: u64 = 0x4800;
const RIGHTS: u64 = 0x4814;
const CS: u64 = 2;
const SS: u64 = 4;
const LDTR: u64 = 12;
const TR: u64 = 14;
const EFER: u64 = 0x2806;
const CR0: u64 = 0x6800;
const CR3: u64 = 0x6802;
const CR4: u64 = 0x6804;
const DR7: u64 = 0x681a;
const RIP: u64 = 0x681e;
const RFLAGS: u64 = 0x6820;

/// IA32_VMX_PINBASED_CTLS, and those behind it: which control bits may be 0 and which 1.
const PIN_LIMITS: u64 = 0x481;
const PRIMARY_LIMITS: u64 = 0x482;
const EXIT_LIMITS: u64 = 0x483;
const ENTRY_LIMITS: u64 = 0x484;

/// Secondary controls: "enable EPT".
const ENABLE_EPT: u64 = 1 << 1;

/// Exit reasons (SDM, appendix C).
const EXCEPTION: u64 = 0;
const VMCALL: u64 = 18;
const EPT_VIOLATION: u64 = 48;
const EPT_MISCONFIGURATION: u64 = 49;

/// The bits of the exit qualification that a walk tells.
const TOLD: u64 = 0x1ff;

impl Second for Ept {
    type Controls = EptControls;

    /// R, W, X.
    const RIGHTS: &'static [u64] = &[1, 2, 4];
    /// Memory type, IPAT, A, D.
    const LEAF_BITS: &'static [u64] = &[1 << 3, 1 << 4, 1 << 5, 1 << 6, 1 << 8, 1 << 9];

    fn under(levels: Levels, controls: EptControls) -> Self {
        Self::new(levels, controls)
    }

    fn controls(machine: &Machine) -> Vec<EptControls> {
        let Machine { gib_pages, maxphyaddr, .. } = *machine;
        let usual = EptControls { gib_pages, maxphyaddr, ..EptControls::new() };
        let without = EptControls { accessed_dirty: false, ..usual };
        if machine.ept_accessed_dirty { vec![usual, without] } else { vec![without] }
    }

    fn end(fault: &Fault<Self>, linear: u64) -> End {
        let gpa = fault.address.get();
        match fault.arch {
            EptFault::Violation(violation) => {
                End::Nested { gpa, info: violation.into_bits() & TOLD, linear: Some(linear) }
            }
            EptFault::Misconfiguration => End::Misconfigured { gpa },
        }
    }

    fn setup(&self) -> Vec<(u64, u64, u64)> {
        let mut fields = vec![
            (PIN_CONTROLS, 0, PIN_LIMITS),
            // HLT exits; the secondary controls count.
            (PRIMARY_CONTROLS, 1 << 7 | 1 << 31, PRIMARY_LIMITS),
            // All exceptions.
            (EXCEPTIONS, 0xffff_ffff, 0),
            // The host is in 64-bit mode; its IA32_EFER is loaded.
            (EXIT_CONTROLS, 1 << 9 | 1 << 21, EXIT_LIMITS),
            // So is the guest, and its.
            (ENTRY_CONTROLS, 1 << 9 | 1 << 15, ENTRY_LIMITS),
            (LINK_POINTER, u64::MAX, 0),
            (SELECTOR + TR, 8, 0),
            (RIGHTS + TR, 0x8b, 0),
            (RIGHTS + LDTR, 1 << 16, 0),
            (DR7, 0x400, 0),
        ];
        for segment in (0..12).step_by(2) {
            fields.push((LIMIT + segment, 0xffff_ffff, 0));
            fields.push((RIGHTS + segment, 0xc0f3, 0));
        }
        fields
    }

    fn read() -> Vec<u64> {
        vec![
            EXIT_REASON,
            QUALIFICATION,
            GUEST_PHYSICAL,
            GUEST_LINEAR,
            RIP,
            INTERRUPTION,
            INTERRUPTION_CODE,
        ]
    }

    fn fields(&self, root: Hpa, start: &Start) -> Vec<(u64, u64)> {
        let Start { registers, ac, rip, privilege } = *start;
        let ring = if privilege == Privilege::User { 3 } else { 0 };
        vec![
            (EPT_POINTER, self.eptp(root).into_bits()),
            (SECONDARY_CONTROLS, ENABLE_EPT),
            // NE and VMXE: VMX operation demands them.
            (CR0, registers.cr0.into_bits() | 0x30),
            (CR3, registers.cr3.into_bits()),
            (CR4, registers.cr4.into_bits() | 1 << 13),
            (EFER, registers.efer.into_bits()),
            (RFLAGS, 2 | u64::from(ac) << 18),
            (RIP, rip),
            (SELECTOR + CS, ring),
            (SELECTOR + SS, ring),
            (RIGHTS + CS, 0xa09b | ring << 5),
            (RIGHTS + SS, 0xc093 | ring << 5),
        ]
    }

    fn host_efer(&self) -> u64 {
        0xd00
    }

    fn seen(answer: &Answer) -> (End, u64) {
        let [reason, qualification, physical, linear, rip, interruption, code] = answer.fields;
        let end = match reason {
            VMCALL => End::Called,
            EPT_VIOLATION => {
                End::Nested { gpa: physical, info: qualification & TOLD, linear: Some(linear) }
            }
            EPT_MISCONFIGURATION => End::Misconfigured { gpa: physical },
            EXCEPTION if interruption & 0xff == 14 => {
                End::PageFault { code, address: qualification }
            }
            EXCEPTION if interruption & 0xff == 13 => End::GeneralProtection,
            _ => End::Odd(format!(
                "exit {reason:#x}, {qualification:#x}, interruption {interruption:#x}"
            )),
        };
        (end, rip)
    }
}
