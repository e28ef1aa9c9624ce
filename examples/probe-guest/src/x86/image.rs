//! The guest's code, and where its stubs are in it. It is assembled into this program and copied
//! into the guest's memory.
//!
//! Position-independent: the VMM maps the page where it likes, once for each privilege.

use std::arch::global_asm;
use std::slice;

/// The port at which the guest reports that a stub came through; the value is in RAX. The number is
/// agreed with the code below.
pub const PORT_DONE: u16 = 0xe0;
/// The port at which the guest reports an exception; the frame is on its stack.
pub const PORT_TRAPPED: u16 = 0xe1;
/// The port of the console: COM1, as far as a guest that only writes can tell.
pub const PORT_CONSOLE: u16 = 0x3f8;
/// How many exception vectors there are.
pub const VECTORS: u64 = 32;
/// Bytes from one vector's code to the next.
const VECTOR_STRIDE: u64 = 16;

/// What the guest says.
pub const GREETING: &str = "Hello from a guest behind four levels of page tables.\n";

// The access is each stub's first instruction, so that the exception's RIP is the stub's address.
// RBX: the address of the access. RAX: what a store stores, what a load loaded, what a called
// function says.
global_asm!(
    r#"
    .pushsection .rodata.x86_probe_guest, "a", @progbits
    .balign 4096
x86_probe_guest_start:

x86_probe_guest_load:
    mov rax, qword ptr [rbx]
    out 0xe0, al

    .balign 16
x86_probe_guest_store:
    mov qword ptr [rbx], rax
    out 0xe0, al

    .balign 16
x86_probe_guest_fetch:
    jmp rbx

    # Each address from RBX on, RCX of them, RDX bytes apart.
    .balign 16
x86_probe_guest_invlpg:
    invlpg [rbx]
    add rbx, rdx
    dec rcx
    jnz x86_probe_guest_invlpg
    out 0xe0, al

    .balign 16
x86_probe_guest_flush:
    mov rax, cr3
    mov cr3, rax
    out 0xe0, al

    # PKRU := EAX.
    .balign 16
x86_probe_guest_wrpkru:
    xor ecx, ecx
    xor edx, edx
    wrpkru
    out 0xe0, al

    # Loads, stores RSI to the entry at RCX, loads into R8, invalidates, loads into R9.
    .balign 16
x86_probe_guest_edit:
    mov rax, qword ptr [rbx]
    mov qword ptr [rcx], rsi
    mov r8, qword ptr [rbx]
    invlpg [rbx]
    mov r9, qword ptr [rbx]
    out 0xe0, al

    # Prints RCX characters from the greeting.
    .balign 16
x86_probe_guest_hello:
    lea rsi, [rip + x86_probe_guest_greeting]
    mov edx, 0x3f8
2:
    mov al, byte ptr [rsi]
    out dx, al
    inc rsi
    dec rcx
    jnz 2b
    out 0xe0, al

    # A function that says a number, and does not return: no stack is needed.
    .balign 16
x86_probe_guest_target:
    mov eax, 0x11223344
    out 0xe0, al
    hlt
x86_probe_guest_target_end:

x86_probe_guest_greeting:
    .ascii "Hello from a guest behind four levels of page tables.\n"

    # Every exception: an error code if it has none of its own, its number, CR2.
    .balign 16
x86_probe_guest_vectors:
    .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    .balign 16
    .if !((0x60227d00 >> \vector) & 1)
    push 0
    .endif
    push \vector
    jmp x86_probe_guest_trapped
    .endr
    .balign 16
x86_probe_guest_trapped:
    mov rax, cr2
    push rax
    out 0xe1, al
x86_probe_guest_end:
    .popsection
"#
);

unsafe extern "C" {
    static x86_probe_guest_start: u8;
    static x86_probe_guest_load: u8;
    static x86_probe_guest_store: u8;
    static x86_probe_guest_fetch: u8;
    static x86_probe_guest_invlpg: u8;
    static x86_probe_guest_flush: u8;
    static x86_probe_guest_wrpkru: u8;
    static x86_probe_guest_edit: u8;
    static x86_probe_guest_hello: u8;
    static x86_probe_guest_target: u8;
    static x86_probe_guest_target_end: u8;
    static x86_probe_guest_vectors: u8;
    static x86_probe_guest_end: u8;
}

/// The guest's code, as it lies in this program.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// The page of code.
    pub bytes: &'static [u8],
    /// Offsets of the stubs.
    pub entry: Entries,
    vectors: u64,
    target: &'static [u8],
}

/// Offsets of the stubs.
#[derive(Clone, Copy, Debug)]
pub struct Entries {
    /// Loads.
    pub load: u64,
    /// Stores.
    pub store: u64,
    /// Jumps.
    pub fetch: u64,
    /// Runs INVLPG.
    pub invlpg: u64,
    /// Loads CR3 again.
    pub flush: u64,
    /// Sets PKRU.
    pub wrpkru: u64,
    /// Edits a table between loads.
    pub edit: u64,
    /// Prints a line.
    pub hello: u64,
}

impl Image {
    /// The code.
    #[must_use]
    pub fn linked() -> Self {
        // SAFETY: the code above defines these symbols, in this order, in one read-only section.
        // Everything between the first and the last is initialised and never changes.
        unsafe {
            let start = &raw const x86_probe_guest_start;
            let target = &raw const x86_probe_guest_target;
            let between = |from: *const u8, to: *const u8| to.offset_from(from).unsigned_abs();
            let entry = |symbol| between(start, symbol) as u64;
            Self {
                bytes: slice::from_raw_parts(start, between(start, &raw const x86_probe_guest_end)),
                entry: Entries {
                    load: entry(&raw const x86_probe_guest_load),
                    store: entry(&raw const x86_probe_guest_store),
                    fetch: entry(&raw const x86_probe_guest_fetch),
                    invlpg: entry(&raw const x86_probe_guest_invlpg),
                    flush: entry(&raw const x86_probe_guest_flush),
                    wrpkru: entry(&raw const x86_probe_guest_wrpkru),
                    edit: entry(&raw const x86_probe_guest_edit),
                    hello: entry(&raw const x86_probe_guest_hello),
                },
                vectors: entry(&raw const x86_probe_guest_vectors),
                target: slice::from_raw_parts(
                    target,
                    between(target, &raw const x86_probe_guest_target_end),
                ),
            }
        }
    }

    /// The offset of an exception's code.
    #[must_use]
    pub fn vector(&self, vector: u64) -> u64 {
        self.vectors + vector * VECTOR_STRIDE
    }

    /// A function of eight bytes that says `number`.
    #[must_use]
    pub fn target(&self, number: u32) -> [u8; 8] {
        let mut code = [0; 8];
        code[..self.target.len()].copy_from_slice(self.target);
        // The operand of MOV is the four bytes after its opcode.
        code[1..5].copy_from_slice(&number.to_le_bytes());
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_one_page_and_what_the_vmm_takes_it_for() {
        let image = Image::linked();
        assert!(image.bytes.len() <= 0x1000, "{:#x}", image.bytes.len());
        assert_eq!(image.target(0x0403_0201), [0xb8, 1, 2, 3, 4, 0xe6, PORT_DONE as u8, 0xf4]);
        for vector in 0..VECTORS {
            let code = &image.bytes[image.vector(vector) as usize..];
            // Those with an error code: SDM table 6-1, and AMD's #VC (29) and #SX (30).
            let pushes = [0x6a, vector as u8];
            if [8, 10, 11, 12, 13, 14, 17, 21, 29, 30].contains(&vector) {
                assert_eq!(code[..2], pushes, "vector {vector}");
            } else {
                assert_eq!(code[..4], [0x6a, 0, pushes[0], pushes[1]], "vector {vector}");
            }
        }
        let greeting = image.bytes.windows(GREETING.len()).any(|it| it == GREETING.as_bytes());
        assert!(greeting, "the greeting is part of the code");
    }
}
