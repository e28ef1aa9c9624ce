/*
 * A hypervisor for one purpose, big-endian POWER9, started by QEMU as the firmware
 * of a powernv machine: it makes accesses as a guest in real mode, whose every
 * address the partition-scoped tree translates, and notes what came of each.
 *
 * What it works on stands at IMAGE; offsets as in `records.rs`:
 *
 *      0   1 when all is done
 *      8   how many records there are
 *      16  PTCR
 *      24  LPIDR
 *      32  the operands RB and RS of the tlbie that drops the partition
 *      48  first address and end of the memory that is filled with blocks
 *      256 the records, 144 bytes each; behind them words to write, address and content
 *
 * A block is 16 bytes: code that loads its own number (its address / 16) into R15 and calls
 * the hypervisor. So a fetch tells where it went, and a load too.
 */

#define IMAGE           0x2000000
#define RECORD_SIZE     144

/* A record: what to do, */
#define PC              0       /* where the guest begins */
#define ADDRESS         8       /* R14 */
#define VALUE           16      /* R15 */
#define PATCH           24      /* a word that is changed before, and restored after */
#define PATCH_TO        32
#define LEAF            40      /* a word to look at and to restore */
#define DATA            48      /* another */
#define WRITES          128     /* words that are changed before, for good: where the list is, */
#define WRITES_COUNT    136     /* and how many */
/* and what came of it. */
#define VECTOR          56
#define SRR0            64
#define SRR1            72
#define HDSISR          80
#define HDAR            88
#define ASDR            96
#define RESULT          104
#define LEAF_AFTER      112
#define DATA_AFTER      120

#define SPR_DSISR       18
#define SPR_DAR         19
#define SPR_SRR0        26
#define SPR_SRR1        27
#define SPR_HSPRG0      304
#define SPR_HDSISR      306
#define SPR_HDAR        307
#define SPR_HRMOR       313
#define SPR_HSRR0       314
#define SPR_HSRR1       315
#define SPR_LPCR        318
#define SPR_LPIDR       319
#define SPR_PTCR        464
#define SPR_ASDR        816

        .text
start:
        .org    start + 0x10            /* where QEMU begins */
        b       setup

        .macro  INTERRUPT vector
        .org    start + \vector
        li      %r4, \vector
        b       note
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
        INTERRUPT 0x900         /* decrementer */
        INTERRUPT 0x980         /* hypervisor decrementer */
        INTERRUPT 0xc00         /* system call: sc 1 */
        INTERRUPT 0xe00         /* hypervisor data storage */
        INTERRUPT 0xe20         /* hypervisor instruction storage */
        INTERRUPT 0xe40         /* hypervisor emulation assistance */

/* What the guest runs: this page is its own, at the same address. */
        .org    start + 0x3000
        ld      %r15, 0(%r14)
        sc      1
        .org    start + 0x3010
        std     %r15, 0(%r14)
        sc      1

        .org    start + 0x4000
setup:
        lis     %r31, IMAGE >> 16
        li      %r0, 0
        mtspr   SPR_HRMOR, %r0
        ld      %r3, 16(%r31)
        mtspr   SPR_PTCR, %r3
        ld      %r3, 24(%r31)
        mtspr   SPR_LPIDR, %r3
        lis     %r3, 0x50               /* UPRT, HR: radix */
        mtspr   SPR_LPCR, %r3
        isync

        /* Blocks: lis r15, high; ori r15, r15, low; sc 1; nop */
        ld      %r5, 48(%r31)
        ld      %r6, 56(%r31)
        lis     %r7, 0x3de0
        lis     %r8, 0x61ef
        lis     %r9, 0x4400
        ori     %r9, %r9, 0x22
        lis     %r10, 0x6000
1:      srdi    %r11, %r5, 4
        srdi    %r12, %r11, 16
        or      %r12, %r12, %r7
        stw     %r12, 0(%r5)
        andi.   %r12, %r11, 0xffff
        or      %r12, %r12, %r8
        stw     %r12, 4(%r5)
        stw     %r9, 8(%r5)
        stw     %r10, 12(%r5)
        addi    %r5, %r5, 16
        cmpld   %r5, %r6
        blt     1b

        ld      %r16, 8(%r31)
        addi    %r3, %r31, 256
next:
        cmpdi   %r16, 0
        beq     done
        mtspr   SPR_HSPRG0, %r3
        ld      %r9, WRITES(%r3)
        ld      %r10, WRITES_COUNT(%r3)
2:      cmpdi   %r10, 0
        beq     3f
        ld      %r11, 0(%r9)
        ld      %r12, 8(%r9)
        std     %r12, 0(%r11)
        addi    %r9, %r9, 16
        addi    %r10, %r10, -1
        b       2b
3:
        ld      %r5, PATCH(%r3)
        ld      %r6, LEAF(%r3)
        ld      %r7, DATA(%r3)
        ld      %r20, 0(%r5)
        ld      %r21, 0(%r6)
        ld      %r22, 0(%r7)
        ld      %r8, PATCH_TO(%r3)
        std     %r8, 0(%r5)
        bl      invalidate
        mtspr   SPR_HDSISR, %r0
        mtspr   SPR_HDAR, %r0
        mtspr   SPR_ASDR, %r0
        ld      %r4, PC(%r3)
        mtspr   SPR_HSRR0, %r4
        li      %r4, 1                  /* the guest's MSR: SF, ME */
        rldicr  %r4, %r4, 63, 0
        ori     %r4, %r4, 0x1000
        mtspr   SPR_HSRR1, %r4
        ld      %r14, ADDRESS(%r3)
        ld      %r15, VALUE(%r3)
        hrfid

note:
        mfspr   %r3, SPR_HSPRG0
        std     %r4, VECTOR(%r3)
        mfspr   %r5, SPR_SRR0
        mfspr   %r6, SPR_SRR1
        cmpdi   %r4, 0xe00
        blt     1f
        mfspr   %r5, SPR_HSRR0
        mfspr   %r6, SPR_HSRR1
1:      std     %r5, SRR0(%r3)
        std     %r6, SRR1(%r3)
        mfspr   %r5, SPR_HDSISR
        std     %r5, HDSISR(%r3)
        mfspr   %r5, SPR_HDAR
        std     %r5, HDAR(%r3)
        mfspr   %r5, SPR_ASDR
        std     %r5, ASDR(%r3)
        std     %r15, RESULT(%r3)
        ld      %r5, PATCH(%r3)
        ld      %r6, LEAF(%r3)
        ld      %r7, DATA(%r3)
        ld      %r8, 0(%r6)
        std     %r8, LEAF_AFTER(%r3)
        ld      %r8, 0(%r7)
        std     %r8, DATA_AFTER(%r3)
        std     %r22, 0(%r7)
        std     %r21, 0(%r6)
        std     %r20, 0(%r5)
        addi    %r3, %r3, RECORD_SIZE
        addi    %r16, %r16, -1
        b       next

invalidate:
        ld      %r17, 32(%r31)
        ld      %r18, 40(%r31)
        ptesync
        .long   0x7c000264 | 18 << 21 | 2 << 18 | 1 << 16 | 17 << 11    /* tlbie r17, r18, 2, 0, 1 */
        eieio
        tlbsync
        ptesync
        blr

done:
        bl      invalidate
        li      %r4, 1
        std     %r4, 0(%r31)
2:      b       2b

        .section .note.GNU-stack, "", @progbits
