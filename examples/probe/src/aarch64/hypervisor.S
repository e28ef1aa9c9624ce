/*
 * A hypervisor for one purpose, AArch64 at EL2, started by QEMU as the firmware of a `virt`
 * machine: it makes accesses at EL0, EL1 or EL2 under the registers of each record, asks the AT
 * instructions about them, and notes what came of both.
 *
 * What it works on stands at IMAGE; offsets as in `records.rs`:
 *
 *      0   1 when all is done
 *      8   how many records there are
 *      16  first address and end of the memory that is filled with blocks
 *      32  to be written: ID_AA64MMFR0 to 2, ID_AA64ISAR1 and 2
 *      256 the records, 320 bytes each
 *
 * A block is 16 bytes: code that loads its own number (its address / 16) into X2 and calls the
 * hypervisor. So a fetch tells where it went, and a load too.
 */

#define IMAGE           0x50000000
#define RECORD_SIZE     320

/* A record: what to do, */
#define MODE            0       /* 0: registers of EL1, 1: registers of EL2 */
#define HCR             8
#define VTCR            16
#define VTTBR           24
#define TCR             32
#define TTBR0           40
#define TTBR1           48
#define SCTLR           56
#define MAIR            64
#define SPSR            72
#define PC              80
#define ADDRESS         88      /* X0 */
#define VALUE           96      /* X1 */
#define PATCH           104     /* a word that is changed before, and restored after */
#define PATCH_TO        112
#define LEAF1           120     /* words to look at and to restore */
#define LEAF2           128
#define DATA            136
#define AT              144     /* which AT instruction, by its place in `translations` */
/* and what came of it. */
#define VECTOR          152
#define ESR2            160
#define FAR2            168
#define HPFAR           176
#define ELR2            184
#define ESR1            192
#define FAR1            200
#define RESULT          208
#define PAR             216
#define LEAF1_AFTER     224
#define LEAF2_AFTER     232
#define PATCH_AFTER     240
#define DATA_AFTER      248
#define VBAR            256     /* VBAR_EL1 */

#define HCR_HERE        1 << 31                 /* RW */

        .arch   armv8.2-a
        .text
start:
        b       setup

        .org    start + 0x800
vectors:
        .macro  VECTORS from, to
        .set    offset, \from
        .rept   (\to - \from) / 0x80
        .org    start + 0x800 + offset
        mov     x3, #offset
        b       note
        .set    offset, offset + 0x80
        .endr
        .endm
        VECTORS 0, 0x800

        .org    start + 0x1000
setup:
        adr     x0, vectors
        msr     vbar_el2, x0
        mov     x0, #HCR_HERE
        msr     hcr_el2, x0
        mov     x0, #0x33ff             /* CPTR_EL2: RES1, nothing is trapped */
        bic     x0, x0, #0x400
        msr     cptr_el2, x0
        mrs     x24, sctlr_el2
        bic     x24, x24, #1
        bic     x24, x24, #2            /* A */
        msr     sctlr_el2, x24
        isb
        mov     x28, #IMAGE
        mrs     x0, id_aa64mmfr0_el1
        str     x0, [x28, #32]
        mrs     x0, id_aa64mmfr1_el1
        str     x0, [x28, #40]
        mrs     x0, s3_0_c0_c7_2        /* ID_AA64MMFR2_EL1 */
        str     x0, [x28, #48]
        mrs     x0, id_aa64isar1_el1
        str     x0, [x28, #56]
        mrs     x0, s3_0_c0_c6_2        /* ID_AA64ISAR2_EL1 */
        str     x0, [x28, #64]

        /* Blocks: movz x2, low; movk x2, high, lsl 16; hvc 0; nop */
        ldp     x5, x6, [x28, #16]
        ldr     w7, =0xd2800002
        ldr     w8, =0xf2a00002
        ldr     w9, =0xd4000002
        ldr     w10, =0xd503201f
1:      lsr     x11, x5, #4
        ubfiz   x12, x11, #5, #16
        orr     w12, w12, w7
        lsr     x11, x11, #16
        ubfiz   x13, x11, #5, #16
        orr     w13, w13, w8
        stp     w12, w13, [x5], #8
        stp     w9, w10, [x5], #8
        cmp     x5, x6
        b.lo    1b
        dsb     sy
        ic      iallu
        dsb     sy
        isb

        ldr     x27, [x28, #8]
        add     x26, x28, #256
next:
        cbz     x27, done
        /* What the words hold, then the patch. */
        ldr     x14, [x26, #PATCH]
        ldr     x15, [x26, #LEAF1]
        ldr     x16, [x26, #LEAF2]
        ldr     x17, [x26, #DATA]
        ldr     x20, [x14]
        ldr     x21, [x15]
        ldr     x22, [x16]
        ldr     x23, [x17]
        ldr     x0, [x26, #PATCH_TO]
        str     x0, [x14]

        ldr     x0, [x26, #VTCR]
        msr     vtcr_el2, x0
        ldr     x0, [x26, #VTTBR]
        msr     vttbr_el2, x0
        ldr     x0, [x26, #TCR]
        ldr     x1, [x26, #TTBR0]
        ldr     x2, [x26, #TTBR1]
        ldr     x3, [x26, #SCTLR]
        ldr     x4, [x26, #MAIR]
        ldr     x5, [x26, #MODE]
        cbnz    x5, 2f
        msr     tcr_el1, x0
        msr     ttbr0_el1, x1
        msr     ttbr1_el1, x2
        msr     sctlr_el1, x3
        msr     mair_el1, x4
        mov     x25, x24                /* SCTLR_EL2 for the access */
        b       3f
2:      msr     tcr_el2, x0
        msr     ttbr0_el2, x1
        msr     mair_el2, x4
        mov     x25, x3
        cbz     x2, 3f
        msr     s3_4_c2_c0_1, x2        /* TTBR1_EL2 */
3:      ldr     x0, [x26, #HCR]
        msr     hcr_el2, x0
        bl      invalidate

        /* The translation instructions. */
        mov     x2, #0
        ldr     x0, [x26, #AT]
        cbz     x0, 4f
        adr     x1, translations
        add     x1, x1, x0, lsl #4
        ldr     x0, [x26, #ADDRESS]
        msr     sctlr_el2, x25
        isb
        blr     x1
        isb
        mrs     x2, par_el1
        msr     sctlr_el2, x24
        isb
4:      str     x2, [x26, #PAR]
        str     x21, [x15]
        str     x22, [x16]
        str     x23, [x17]
        ldr     x0, [x26, #PATCH_TO]
        str     x0, [x14]
        bl      invalidate

        ldr     x0, [x26, #HCR]
        tbnz    x0, #34, 5f             /* with E2H, these names are EL2's */
        ldr     x0, [x26, #VBAR]
        msr     vbar_el1, x0
        msr     esr_el1, xzr
        msr     far_el1, xzr
5:      msr     hpfar_el2, xzr
        msr     far_el2, xzr
        ldr     x0, [x26, #PC]
        msr     elr_el2, x0
        ldr     x0, [x26, #SPSR]
        msr     spsr_el2, x0
        ldr     x0, [x26, #ADDRESS]
        ldr     x1, [x26, #VALUE]
        mov     x2, #0
        msr     sctlr_el2, x25
        isb
        eret

note:
        msr     sctlr_el2, x24
        isb
        str     x3, [x26, #VECTOR]
        mrs     x3, esr_el2
        str     x3, [x26, #ESR2]
        mrs     x3, far_el2
        str     x3, [x26, #FAR2]
        mrs     x3, hpfar_el2
        str     x3, [x26, #HPFAR]
        mrs     x3, elr_el2
        str     x3, [x26, #ELR2]
        mov     x3, #HCR_HERE
        msr     hcr_el2, x3
        isb
        mrs     x3, esr_el1
        str     x3, [x26, #ESR1]
        mrs     x3, far_el1
        str     x3, [x26, #FAR1]
        str     x2, [x26, #RESULT]
        ldr     x3, [x15]
        str     x3, [x26, #LEAF1_AFTER]
        ldr     x3, [x16]
        str     x3, [x26, #LEAF2_AFTER]
        ldr     x3, [x14]
        str     x3, [x26, #PATCH_AFTER]
        ldr     x3, [x17]
        str     x3, [x26, #DATA_AFTER]
        str     x21, [x15]
        str     x22, [x16]
        str     x23, [x17]
        str     x20, [x14]
        add     x26, x26, #RECORD_SIZE
        sub     x27, x27, #1
        b       next

invalidate:
        dsb     sy
        tlbi    alle1
        tlbi    alle2
        tlbi    vmalle1                 /* with E2H and TGE: of EL2&0 */
        dsb     sy
        isb
        ret

done:
        dsb     sy
        mov     x0, #1
        str     x0, [x28]
6:      wfi
        b       6b

/* 16 bytes each; the first is none. */
        .balign 16
translations:
        .macro  TRANSLATION op
        .balign 16
        at      \op, x0
        ret
        .endm
        .balign 16
        ret
        TRANSLATION s1e1r               /* 1 */
        TRANSLATION s1e1w
        TRANSLATION s1e0r
        TRANSLATION s1e0w
        TRANSLATION s12e1r              /* 5 */
        TRANSLATION s12e1w
        TRANSLATION s12e0r
        TRANSLATION s12e0w
        TRANSLATION s1e2r               /* 9 */
        TRANSLATION s1e2w
        .balign 16                      /* 11: S1E1RP with PSTATE.PAN = 1 */
        msr     pan, #1
        at      s1e1rp, x0
        msr     pan, #0
        ret
        .balign 16                      /* 12 */
        msr     pan, #1
        at      s1e1wp, x0
        msr     pan, #0
        ret

        .section .note.GNU-stack, "", @progbits
