//! The guest's code, and where its stubs are in it. It is assembled into this program and copied
//! into the guest's memory.
//!
//! Position-independent: the VMM maps the page where it likes, once for each privilege.

use std::arch::global_asm;
use std::slice;

/// What the guest says.
pub const GREETING: &str = "Hello from a guest in S-mode.\n";

// The access is each stub's first instruction, so that the exception's sepc is the stub's address.
// a1: the address of the access. a0: what a store stores, what a load loaded, what a called
// function says. Each ends with EBREAK, which the handler reports like any exception: with scause,
// stval, sepc and sstatus in t0 to t3, and a store to the device at a7.
global_asm!(
    r#"
    .pushsection .rodata.riscv_probe_guest, "a", @progbits
    .option push
    .option norvc
    .option norelax
    .balign 4096
riscv_probe_guest_start:

riscv_probe_guest_load:
    ld a0, 0(a1)
    ebreak

riscv_probe_guest_store:
    sd a0, 0(a1)
    ebreak

    # One address of the space a2.
riscv_probe_guest_sfence:
    sfence.vma a1, a2
    ebreak

    # All of the space a2.
riscv_probe_guest_flush:
    sfence.vma x0, a2
    ebreak

    # Loads, stores a3 to the entry at a4, loads into a5, invalidates, loads into a6.
riscv_probe_guest_edit:
    ld a0, 0(a1)
    sd a3, 0(a4)
    ld a5, 0(a1)
    sfence.vma a1, a2
    ld a6, 0(a1)
    ebreak

riscv_probe_guest_hello:
    lla a1, riscv_probe_guest_greeting
2:  lbu a0, 0(a1)
    beqz a0, 3f
    sb a0, 8(a7)
    addi a1, a1, 1
    j 2b
3:  ebreak

    .balign 4
riscv_probe_guest_handler:
    csrr t0, scause
    csrr t1, stval
    csrr t2, sepc
    csrr t3, sstatus
    sd t0, 0(a7)
4:  j 4b

riscv_probe_guest_greeting:
    .asciz "Hello from a guest in S-mode.\n"
    .balign 4
riscv_probe_guest_end:
    .option pop
    .popsection
"#
);

unsafe extern "C" {
    static riscv_probe_guest_start: u8;
    static riscv_probe_guest_load: u8;
    static riscv_probe_guest_store: u8;
    static riscv_probe_guest_sfence: u8;
    static riscv_probe_guest_flush: u8;
    static riscv_probe_guest_edit: u8;
    static riscv_probe_guest_hello: u8;
    static riscv_probe_guest_handler: u8;
    static riscv_probe_guest_end: u8;
}

/// The guest's code, as it lies in this program: the page, and offsets of the stubs in it.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub bytes: &'static [u8],
    pub load: u64,
    pub store: u64,
    pub sfence: u64,
    pub flush: u64,
    pub edit: u64,
    pub hello: u64,
    pub handler: u64,
}

impl Image {
    /// The code.
    #[must_use]
    pub fn linked() -> Self {
        // SAFETY: the code above defines these symbols, in this order, in one read-only section.
        // Everything between the first and the last is initialised and never changes.
        unsafe {
            let start = &raw const riscv_probe_guest_start;
            let bytes = |to: *const u8| to.offset_from(start).unsigned_abs();
            let entry = |symbol| bytes(symbol) as u64;
            Self {
                bytes: slice::from_raw_parts(start, bytes(&raw const riscv_probe_guest_end)),
                load: entry(&raw const riscv_probe_guest_load),
                store: entry(&raw const riscv_probe_guest_store),
                sfence: entry(&raw const riscv_probe_guest_sfence),
                flush: entry(&raw const riscv_probe_guest_flush),
                edit: entry(&raw const riscv_probe_guest_edit),
                hello: entry(&raw const riscv_probe_guest_hello),
                handler: entry(&raw const riscv_probe_guest_handler),
            }
        }
    }
}

/// A function of eight bytes that says `number << 12`, sign-extended from 32 bits: LUI into a0, and
/// EBREAK.
#[must_use]
pub fn target(number: u32) -> ([u8; 8], u64) {
    let word = 0x0010_0073_u64 << 32 | u64::from(number << 12 | 0x537);
    (word.to_le_bytes(), (number << 12) as i32 as u64)
}
