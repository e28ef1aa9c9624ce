/*
 * A hypervisor for one purpose: the firmware of a bare RISC-V hart with the hypervisor extension.
 * It makes accesses behind one stage of tables, in S- and U-mode, or behind two, in VS- and
 * VU-mode, and notes what came of each.
 *
 * With one stage the trap is taken in M-mode, which translates nothing: a handler in S-mode would
 * need the tables that are tried. With two stages it is taken in HS-mode, whose satp is Bare.
 *
 * What it works on stands at IMAGE, little-endian; offsets as in `records.rs`:
 *
 *      0     1 when all is done
 *      8     how many records there are
 *      16    first address and end of the memory that is filled with blocks
 *      32    the first block
 *      40    what CSRs hold after all that they can hold was stored: see `facts`
 *      0x10000 the tables
 *      0x1000000 the records
 *
 * A block is 16 bytes, of which 8 are used: LUI of its own number into a0, and ECALL. So a fetch
 * tells where it went, and a load too.
 */

#define RESET           0x80000000
#define END             (RESET + 0x10000)       /* Spike stops when 1 is stored here */
#define STATE           (RESET + 0x11000)       /* the record, */
#define SAVED           (RESET + 0x11040)       /* and what it changes, as it was */
#define IMAGE           0x82000000
#define DATA            16
#define BLOCK           32
#define FACTS           40
#define RECORDS         0x1000000
#define RECORD_SIZE     576

/* A record: what to do, */
#define PATCHES         0       /* two words that are changed before: address, content */
#define WATCHES         32      /* how many words to look at and to restore, and their addresses */
#define SATP            360
#define VSATP           368
#define HGATP           376
#define MENVCFG         384
#define HENVCFG         392
#define SENVCFG         400
#define SSTATUS         408     /* bits to be set */
#define VSSTATUS        416
#define HSTATUS         424
#define MEDELEG         432
#define PC              440
#define A1              448
#define A2              456
/* and what came of it: what the watched words held, in place of their addresses, and */
#define CAUSE           464
#define TVAL            472
#define TVAL2           480
#define TINST           488
#define HSTATUS_AFTER   496
#define EPC             504
#define A0              512
#define TAKEN_IN        520     /* the mode in which the trap was taken: 1 HS, 3 M */

/* sstatus and vsstatus: SUM, MXR and SPP; hstatus: GVA, SPV, SPVP */
#define STATUS_BITS     ((1 << 18) | (1 << 19) | (1 << 8))
#define HSTATUS_BITS    ((1 << 6) | (1 << 7) | (1 << 8))

/* What CSRs hold after `value` was stored. */
        .macro  fact csr, value, at
        li      t0, \value
        csrw    \csr, t0
        csrr    t0, \csr
        sd      t0, FACTS + 8 * \at(s0)
        csrw    \csr, zero
        .endm

/* The bits `mask` of a CSR become those of a field of the record. */
        .macro  bits csr, mask, field
        li      t0, \mask
        csrc    \csr, t0
        ld      t0, \field(s2)
        csrs    \csr, t0
        .endm

        .option norvc
        .option norelax
        .text
        .globl  _start
_start:
        csrr    t0, mhartid
        beqz    t0, 2f
1:      wfi
        j       1b
2:      jal     t0, 1f
        j       trap_m
1:      csrw    mtvec, t0
        jal     t0, 1f
        j       trap_s
1:      csrw    stvec, t0
        /* One PMP entry allows all to all. */
        li      t0, -1
        csrw    pmpaddr0, t0
        li      t0, 0x1f
        csrw    pmpcfg0, t0
        csrw    mie, zero
        csrw    hedeleg, zero

        li      s0, IMAGE
        /* Mode Sv39 with all else, mode Sv57. */
        fact    satp, 0x8fffffffffffffff, 0
        fact    satp, 0xa000000000000000, 1
        fact    hgatp, 0x8fffffffffffffff, 2
        fact    hgatp, 0xa000000000000000, 3
        fact    menvcfg, -1, 4
        li      t0, -1
        csrw    menvcfg, t0     /* without its bits henvcfg has none */
        fact    henvcfg, -1, 5
        fact    senvcfg, -1, 6

        ld      t0, DATA(s0)
        ld      t1, DATA + 8(s0)
        ld      t2, BLOCK(s0)
        li      t3, 0x1000
1:      sd      t2, 0(t0)
        add     t2, t2, t3
        addi    t0, t0, 16
        bltu    t0, t1, 1b

        ld      s1, 8(s0)
        li      s2, IMAGE + RECORDS
next:   beqz    s1, done
        li      s3, STATE
        sd      s2, 0(s3)
        sd      s1, 8(s3)

        li      s3, SAVED
        .irp    at, 0, 16
        ld      t0, PATCHES + \at(s2)
        ld      t1, PATCHES + \at + 8(s2)
        ld      t2, 0(t0)
        sd      t2, \at / 2(s3)
        sd      t1, 0(t0)
        .endr
        ld      t0, WATCHES(s2)
        addi    t1, s2, WATCHES + 8
        addi    t2, s3, 16
1:      beqz    t0, 2f
        ld      t3, 0(t1)
        ld      t3, 0(t3)
        sd      t3, 0(t2)
        addi    t0, t0, -1
        addi    t1, t1, 8
        addi    t2, t2, 8
        j       1b

2:      ld      t0, SATP(s2)
        csrw    satp, t0
        ld      t0, VSATP(s2)
        csrw    vsatp, t0
        ld      t0, HGATP(s2)
        csrw    hgatp, t0
        ld      t0, MENVCFG(s2)
        csrw    menvcfg, t0
        ld      t0, HENVCFG(s2)
        csrw    henvcfg, t0
        ld      t0, SENVCFG(s2)
        csrw    senvcfg, t0
        ld      t0, MEDELEG(s2)
        csrw    medeleg, t0
        bits    sstatus, STATUS_BITS, SSTATUS
        bits    vsstatus, STATUS_BITS, VSSTATUS
        bits    hstatus, HSTATUS_BITS, HSTATUS
        ld      t0, PC(s2)
        csrw    sepc, t0
        ld      a1, A1(s2)
        ld      a2, A2(s2)
        li      a0, 0
        li      a7, 0
        sfence.vma
        hfence.vvma
        hfence.gvma
        fence.i
        sret

        .balign 4
trap_s: csrr    a1, scause
        csrr    a2, stval
        csrr    a3, htval
        csrr    a4, htinst
        csrr    a5, sepc
        li      a7, 1
        ecall

        .balign 4
trap_m: li      t0, 1
        beq     a7, t0, 1f
        csrr    a1, mcause
        csrr    a2, mtval
        csrr    a3, mtval2
        csrr    a4, mtinst
        csrr    a5, mepc
        li      a7, 3
1:      csrr    a6, hstatus
        csrw    satp, zero
        li      s3, STATE
        ld      s2, 0(s3)
        ld      s1, 8(s3)
        sd      a1, CAUSE(s2)
        sd      a2, TVAL(s2)
        sd      a3, TVAL2(s2)
        sd      a4, TINST(s2)
        sd      a5, EPC(s2)
        sd      a6, HSTATUS_AFTER(s2)
        sd      a0, A0(s2)
        sd      a7, TAKEN_IN(s2)

        li      s3, SAVED
        ld      t0, WATCHES(s2)
        addi    t1, s2, WATCHES + 8
        addi    t2, s3, 16
1:      beqz    t0, 2f
        ld      t3, 0(t1)       /* the address */
        ld      t4, 0(t3)       /* what is there, */
        ld      t5, 0(t2)       /* and was */
        sd      t4, 0(t1)
        sd      t5, 0(t3)
        addi    t0, t0, -1
        addi    t1, t1, 8
        addi    t2, t2, 8
        j       1b
2:      .irp    at, 16, 0
        ld      t0, PATCHES + \at(s2)
        ld      t2, \at / 2(s3)
        sd      t2, 0(t0)
        .endr
        addi    s1, s1, -1
        addi    s2, s2, RECORD_SIZE
        j       next

done:   li      t0, 1
        li      s0, IMAGE
        sd      t0, 0(s0)
        fence
        li      t1, END
        sd      t0, 0(t1)
1:      j       1b
