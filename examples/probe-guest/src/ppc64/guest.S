/*
 * The probe guest, little-endian POWER9.
 *
 * The decrementer's interrupt is not reported: its handler puts the decrementer off
 * again (R3 is no stub's in problem state, where alone it can come). QEMU 10.0's nested
 * API v2 brings it after every exit: it keeps the time to the interrupt with the wrong
 * sign.
 *
 * The VMM copies everything between probe_guest_start and probe_guest_end to
 * guest real address 0. The code is position-independent: it runs where it was
 * copied, and the page of stubs also at whatever effective address the VMM maps
 * it.
 *
 * Interrupts arrive in real mode at their vector (LPCR[AIL] = 0). Each one tells
 * the VMM about itself with a hypercall of our own:
 *
 *      R3  H_PROBE_REPORT
 *      R4  the vector
 *      R5  SRR0
 *      R6  SRR1
 *      R7  DSISR
 *      R8  DAR
 *      R9  R15, the value that the stub loaded or computed
 *      R10 R17 and
 *      R11 R18, for the stub that loads more than once
 *
 * A stub that comes through ends with `sc`, so that it can end in problem state
 * too, where `sc 1` is not allowed: the system call interrupt is the sign of
 * success.
 *
 * What the VMM gives a stub stands in R14 and up: KVM overwrites R3 to R12 when
 * it finishes the hypercall before.
 *
 *      R14  address
 *      R15  value
 *      R16  the operand RS of tlbie
 *      R17  address of a table entry, R18 its new content, R19 the operand RB of tlbie:
 *           for the stub that edits a table
 */

#define H_PUT_TERM_CHAR 0x58
#define H_PROBE_REPORT  0xfa00  /* unassigned; PAPR leaves 0xf000 and up to platforms */
#define H_PROBE_ANSWER  0xfa04

#define SPR_DSISR       18
#define SPR_DAR         19
#define SPR_DEC         22

        .section .rodata.probe_guest, "a", @progbits
        .balign 0x1000

        .globl  probe_guest_start
probe_guest_start:

        .macro  INTERRUPT vector
        .org    probe_guest_start + \vector
        li      %r4, \vector
        b       report
        .endm

/*
 * Puts the decrementer off: for a year if LPCR[LD] makes it large, else for four
 * seconds.
 */
        .macro  PUT_OFF register
        lis     \register, 0x3f
        ori     \register, \register, 0xffff
        sldi    \register, \register, 32
        oris    \register, \register, 0x7fff
        ori     \register, \register, 0xffff
        mtspr   SPR_DEC, \register
        .endm

        INTERRUPT 0x100         /* system reset */
        INTERRUPT 0x200         /* machine check */
        INTERRUPT 0x300         /* data storage */
        INTERRUPT 0x380         /* data segment */
        INTERRUPT 0x400         /* instruction storage */
        INTERRUPT 0x480         /* instruction segment */
        INTERRUPT 0x500         /* external */
        INTERRUPT 0x600         /* alignment */
        INTERRUPT 0x700         /* program */
        INTERRUPT 0x800         /* floating-point unavailable */
        .org    probe_guest_start + 0x900       /* decrementer: put it off, go on */
        PUT_OFF %r3
        rfid
        INTERRUPT 0xa00         /* directed privileged doorbell */
        INTERRUPT 0xc00         /* system call */
        INTERRUPT 0xd00         /* trace */
        INTERRUPT 0xf00         /* performance monitor */
        INTERRUPT 0xf20         /* vector unavailable */
        INTERRUPT 0xf40         /* VSX unavailable */
        INTERRUPT 0xf60         /* facility unavailable */

        .org    probe_guest_start + 0x1000
report:
        mfsrr0  %r5
        mfsrr1  %r6
        mfspr   %r7, SPR_DSISR
        mfspr   %r8, SPR_DAR
        mr      %r9, %r15
        mr      %r10, %r17
        mr      %r11, %r18
        li      %r3, 0
        mtspr   SPR_DSISR, %r3          /* nothing old in the next report */
        mtspr   SPR_DAR, %r3
        ori     %r3, %r3, H_PROBE_REPORT
        sc      1
        b       .

/* The stubs: one page, of which the VMM needs an executable mapping. */
        .org    probe_guest_start + 0x2000
        .globl  probe_guest_stubs
probe_guest_stubs:

        .globl  probe_guest_load
probe_guest_load:
        ld      %r15, 0(%r14)
        sc

        .globl  probe_guest_store
probe_guest_store:
        std     %r15, 0(%r14)
        sc

        .globl  probe_guest_fetch
probe_guest_fetch:
        bcl     20, 31, 1f              /* the VMM may just have written the code: */
1:      mflr    %r17
        sync
        icbi    0, %r17                 /* POWER drops prefetched instructions at any icbi */
        sync
        isync
        mtctr   %r14
        bctrl
        sc

/* tlbie by its fields: not every assembler knows the operands of ISA v3.0. */
        .macro  TLBIE rb, rs, ric, prs, r
        .long   0x7c000264 | \rs << 21 | \ric << 18 | \prs << 17 | \r << 16 | \rb << 11
        .endm

/*
 * tlbie, process-scoped, radix: R14 is RB, R16 is RS. One stub for each RIC, an
 * immediate field. The sequence of Power ISA v3.0B, book III, 5.10.
 */
        .macro  INVALIDATE name, ric
        .globl  \name
\name:
        ptesync
        TLBIE   14, 16, \ric, 1, 1
        eieio
        tlbsync
        ptesync
        sc
        .endm

        INVALIDATE probe_guest_tlbie_tlb, 0
        INVALIDATE probe_guest_tlbie_pwc, 1
        INVALIDATE probe_guest_tlbie_all, 2

/*
 * Loads, edits the entry that translates the load, loads again, invalidates, loads
 * again: all without leaving the guest, so that whatever the processor has cached
 * stays cached until the tlbie. Answers with R15, R17, R18.
 */
        .globl  probe_guest_edit
probe_guest_edit:
        ld      %r15, 0(%r14)
        std     %r18, 0(%r17)
        ptesync
        ld      %r17, 0(%r14)
        ptesync
        TLBIE   19, 16, 0, 1, 1
        eieio
        tlbsync
        ptesync
        ld      %r18, 0(%r14)
        sc

/*
 * Makes a hypercall: R3 to R12 from R14 to R23. Reports R3 to R11, as they are
 * afterwards, by a hypercall of our own that has them in R4 to R12.
 */
        .globl  probe_guest_hcall
probe_guest_hcall:
        mr      %r3, %r14
        mr      %r4, %r15
        mr      %r5, %r16
        mr      %r6, %r17
        mr      %r7, %r18
        mr      %r8, %r19
        mr      %r9, %r20
        mr      %r10, %r21
        mr      %r11, %r22
        mr      %r12, %r23
        sc      1
        mr      %r12, %r11
        mr      %r11, %r10
        mr      %r10, %r9
        mr      %r9, %r8
        mr      %r8, %r7
        mr      %r7, %r6
        mr      %r6, %r5
        mr      %r5, %r4
        mr      %r4, %r3
        li      %r3, 0
        ori     %r3, %r3, H_PROBE_ANSWER
        sc      1
        b       .

/*
 * Changes the SLB: R14 is RB, R16 is RS.
 */
        .globl  probe_guest_slbmte
probe_guest_slbmte:
        slbmte  %r16, %r14
        isync
        sc
        .globl  probe_guest_slbie
probe_guest_slbie:
        slbie   %r14
        isync
        sc
        .globl  probe_guest_slbia
probe_guest_slbia:
        slbia
        isync
        sc

/*
 * Puts the decrementer off, and prints a line.
 */
        .globl  probe_guest_hello
probe_guest_hello:
        PUT_OFF %r14

        bcl     20, 31, 1f
1:      mflr    %r14
        addi    %r14, %r14, line - 1b
        li      %r15, line_end - line
2:      li      %r4, 0                  /* the first console */
        li      %r5, 16
        cmpdi   %r15, 16
        bge     3f
        mr      %r5, %r15
3:      li      %r8, 8
        ldbrx   %r6, 0, %r14            /* PAPR packs characters big-endian */
        ldbrx   %r7, %r8, %r14
        li      %r3, H_PUT_TERM_CHAR
        sc      1
        addi    %r14, %r14, 16
        addic.  %r15, %r15, -16
        bgt     2b
        sc
line:   .ascii  "Hello from a guest behind a tree of radix tables.\n"
line_end:
        .balign 16
        .space  16                      /* the last load reads past the line */

/*
 * A function that the VMM copies to wherever the guest is to call it. The VMM may put
 * another immediate operand in, so that each copy has its own answer.
 */
        .globl  probe_guest_target
probe_guest_target:
        addi    %r15, %r15, 1
        blr
        .globl  probe_guest_target_end
probe_guest_target_end:

        .org    probe_guest_start + 0x3000
        .globl  probe_guest_end
probe_guest_end:

        .section .note.GNU-stack, "", @progbits
