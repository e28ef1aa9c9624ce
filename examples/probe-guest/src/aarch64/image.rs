//! The guest's code, and where its stubs are in it. It is assembled into this program and copied
//! into the guest's memory.
//!
//! Position-independent: the VMM maps the page where it likes, once for each privilege.

use std::arch::global_asm;
use std::slice;

use pgtable_aarch64::Tlbi;

/// What the guest says.
pub const GREETING: &str = "Hello from a guest behind VMSAv8-64.\n";

/// Each TLBI operation between the barriers of `Barrier::BEFORE` and `Barrier::AFTER`, and how many
/// bytes of code each has. Operations by range stand as SYS: not every assembler knows them.
const TLBI_BYTES: u64 = 20;

// The access is each stub's first instruction, so that the exception's ELR is the stub's address.
// x1: the address of the access, or an operand of TLBI. x0: what a store stores, what a load
// loaded, what a called function says. Each ends with BRK, which the handler reports like any
// exception: with ESR, FAR, ELR and SPSR in x8 to x11, and a store to the device at x7.
global_asm!(
    r#"
    .pushsection .rodata.aarch64_probe_guest, "a", @progbits
    .balign 4096
aarch64_probe_guest_start:

aarch64_probe_guest_load:
    ldr x0, [x1]
    brk #0

aarch64_probe_guest_store:
    str x0, [x1]
    brk #0

    .macro invalidate operation:vararg
    dsb ishst
    \operation
    dsb ish
    isb
    brk #0
    .endm
aarch64_probe_guest_tlbi:
    invalidate tlbi vae1is, x1
    invalidate tlbi vale1is, x1
    invalidate tlbi vaae1is, x1
    invalidate tlbi vaale1is, x1
    invalidate tlbi aside1is, x1
    invalidate tlbi vmalle1is
    // RVAE1IS, RVALE1IS, RVAAE1IS, RVAALE1IS.
    invalidate sys #0, c8, c2, #1, x1
    invalidate sys #0, c8, c2, #5, x1
    invalidate sys #0, c8, c2, #3, x1
    invalidate sys #0, c8, c2, #7, x1
    .purgem invalidate

    // Code that the VMM wrote is fetched.
aarch64_probe_guest_fresh:
    ic ialluis
    dsb ish
    isb
    brk #0

    // Loads, breaks the entry at x4, invalidates for the operand x2, makes it x3, loads into x5.
aarch64_probe_guest_edit:
    ldr x0, [x1]
    str xzr, [x4]
    dsb ishst
    tlbi vae1is, x2
    dsb ish
    str x3, [x4]
    dsb ishst
    isb
    ldr x5, [x1]
    brk #0

aarch64_probe_guest_hello:
    adr x1, aarch64_probe_guest_greeting
2:  ldrb w0, [x1], #1
    cbz w0, 3f
    strb w0, [x7, #8]
    b 2b
3:  brk #0

aarch64_probe_guest_greeting:
    .asciz "Hello from a guest behind VMSAv8-64.\n"

    .balign 2048
aarch64_probe_guest_vectors:
    .rept 16
    .balign 128
    mrs x8, esr_el1
    mrs x9, far_el1
    mrs x10, elr_el1
    mrs x11, spsr_el1
    str x8, [x7]
4:  b 4b
    .endr
    .balign 128
aarch64_probe_guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static aarch64_probe_guest_start: u8;
    static aarch64_probe_guest_load: u8;
    static aarch64_probe_guest_store: u8;
    static aarch64_probe_guest_tlbi: u8;
    static aarch64_probe_guest_fresh: u8;
    static aarch64_probe_guest_edit: u8;
    static aarch64_probe_guest_hello: u8;
    static aarch64_probe_guest_vectors: u8;
    static aarch64_probe_guest_end: u8;
}

/// The guest's code, as it lies in this program: the page, and offsets of the stubs in it.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub bytes: &'static [u8],
    pub load: u64,
    pub store: u64,
    tlbi: u64,
    pub fresh: u64,
    pub edit: u64,
    pub hello: u64,
    pub vectors: u64,
}

impl Image {
    /// The code.
    #[must_use]
    pub fn linked() -> Self {
        // SAFETY: the code above defines these symbols, in this order, in one read-only section.
        // Everything between the first and the last is initialised and never changes.
        unsafe {
            let start = &raw const aarch64_probe_guest_start;
            let bytes = |to: *const u8| to.offset_from(start).unsigned_abs();
            let entry = |symbol| bytes(symbol) as u64;
            Self {
                bytes: slice::from_raw_parts(start, bytes(&raw const aarch64_probe_guest_end)),
                load: entry(&raw const aarch64_probe_guest_load),
                store: entry(&raw const aarch64_probe_guest_store),
                tlbi: entry(&raw const aarch64_probe_guest_tlbi),
                fresh: entry(&raw const aarch64_probe_guest_fresh),
                edit: entry(&raw const aarch64_probe_guest_edit),
                hello: entry(&raw const aarch64_probe_guest_hello),
                vectors: entry(&raw const aarch64_probe_guest_vectors),
            }
        }
    }

    /// The stub that runs an operation of stage 1, and the operand; `None` for stage 2's.
    #[must_use]
    pub fn tlbi(&self, operation: Tlbi) -> Option<(u64, u64)> {
        let (index, operand) = match operation {
            Tlbi::Va { operand, last } => (u64::from(last), operand.into_bits()),
            Tlbi::VaAllAsids { operand, last } => (2 + u64::from(last), operand.into_bits()),
            Tlbi::Asid(operand) => (4, operand.into_bits()),
            Tlbi::VmAllE1 => (5, 0),
            Tlbi::VaRange { operand, last } => (6 + u64::from(last), operand.into_bits()),
            Tlbi::VaRangeAllAsids { operand, last } => (8 + u64::from(last), operand.into_bits()),
            Tlbi::Ipa { .. } | Tlbi::IpaRange { .. } | Tlbi::VmAllS12 => return None,
        };
        Some((self.tlbi + index * TLBI_BYTES, operand))
    }
}

/// A function of eight bytes that says `number`: MOVZ to x0, and BRK.
#[must_use]
pub fn target(number: u16) -> ([u8; 8], u64) {
    let word = 0xd420_0000_u64 << 32 | u64::from(0xd280_0000 | u32::from(number) << 5);
    (word.to_le_bytes(), number.into())
}
