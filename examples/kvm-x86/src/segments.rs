//! Long mode's segments: a descriptor table, and a vCPU's segment registers that agree with it.

use kvm_bindings::{kvm_segment, kvm_sregs};
use pgtable::Privilege;

/// Places in [`GDT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Selector {
    /// 64-bit code, DPL 0.
    KernelCode = 0x08,
    /// Data, DPL 0.
    KernelData = 0x10,
    /// Data, DPL 3.
    UserData = 0x18,
    /// 64-bit code, DPL 3.
    UserCode = 0x20,
    /// The task state segment; in the table it is left out, as the register is set directly and the
    /// processor looks it up nowhere else.
    Task = 0x28,
}

/// The descriptors (SDM §3.4.5), marked accessed, so that the processor never writes the table.
pub const GDT: [u64; 5] =
    [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x00cf_f300_0000_ffff, 0x00af_fb00_0000_ffff];

/// Flat segments for `privilege`, and the task register with its segment of `limit + 1` bytes at
/// `base`.
pub fn long_mode_segments(sregs: &mut kvm_sregs, privilege: Privilege, (base, limit): (u64, u16)) {
    let (code, data) = match privilege {
        Privilege::Supervisor => (flat(Selector::KernelCode, 0), flat(Selector::KernelData, 0)),
        Privilege::User => (flat(Selector::UserCode, 3), flat(Selector::UserData, 3)),
    };
    sregs.cs = code;
    for segment in [&mut sregs.ds, &mut sregs.es, &mut sregs.fs, &mut sregs.gs, &mut sregs.ss] {
        *segment = data;
    }
    // Type 11: a busy 64-bit task state segment.
    sregs.tr = kvm_segment {
        base,
        limit: limit.into(),
        selector: Selector::Task as u16,
        type_: 11,
        present: 1,
        ..sregs.tr
    };
    sregs.ldt = kvm_segment { unusable: 1, type_: 2, ..kvm_segment::default() };
}

fn flat(selector: Selector, dpl: u8) -> kvm_segment {
    let code = matches!(selector, Selector::KernelCode | Selector::UserCode);
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: selector as u16 | u16::from(dpl),
        // Code that can be read, or data that can be written; accessed.
        type_: if code { 0xb } else { 0x3 },
        present: 1,
        dpl,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..kvm_segment::default()
    }
}
