/*
 * Tables with granules of 64 KiB, which no kernel of Debian's has: a bare `virt` machine of QEMU's
 * makes them, turns translation on at EL1, says so on its serial port, and stands still.
 *
 * The lower range has 48 bits (three levels), the upper one 42 (two). A table of the last level,
 * which several entries lead to, has pages and holes by a generator of random numbers.
 */

        .text
        movz    x19, #0x4200, lsl #16           /* the lower root: 64 entries, */
        add     x20, x19, #16, lsl #12          /* its table of level 2, */
        add     x21, x20, #16, lsl #12          /* the table of level 3, */
        add     x22, x21, #16, lsl #12          /* the upper root, of level 2 */

        orr     x0, x20, #3
        str     x0, [x19]
        str     x0, [x19, #5 * 8]
        str     x0, [x19, #63 * 8]
        mov     x0, #0x405                      /* devices: the serial port */
        str     x0, [x20]
        movz    x0, #0x4000, lsl #16            /* memory, where it is */
        movk    x0, #0x701
        str     x0, [x20, #2 * 8]
        movz    x1, #0x1234, lsl #32            /* a block elsewhere */
        movk    x1, #0xa000, lsl #16
        movk    x1, #0x7c1
        str     x1, [x20, #9 * 8]
        str     x1, [x22, #4095 * 8]
        orr     x0, x21, #3
        str     x0, [x20, #7 * 8]
        str     x0, [x22]
        str     x0, [x22, #100 * 8]
        add     x1, x22, #15, lsl #12
        str     x0, [x1, #511 * 8]              /* the last entry */

        movz    x3, #0x5851, lsl #48            /* Knuth's generator */
        movk    x3, #0xf42d, lsl #32
        movk    x3, #0x4c95, lsl #16
        movk    x3, #0x7f2d
        mov     x1, #0
        mov     x2, #1
        mov     x7, #0x703
1:      mul     x2, x2, x3
        add     x2, x2, #1
        lsr     x5, x2, #33
        and     x6, x2, #0x0000ffffffff0000     /* an address of 48 bits */
        orr     x6, x6, x7
        and     x8, x5, #0xc0                   /* AP */
        orr     x6, x6, x8
        lsl     x8, x5, #50
        and     x8, x8, #0x0060000000000000     /* UXN, PXN */
        orr     x6, x6, x8
        tst     x5, #1
        csel    x6, x6, xzr, ne
        str     x6, [x21, x1, lsl #3]
        add     x1, x1, #1
        cmp     x1, #2, lsl #12
        b.ne    1b

        mov     x0, #0x04ff
        msr     mair_el1, x0
        movz    x0, #5, lsl #32                 /* 48-bit outputs; T1SZ 22, T0SZ 16; 64 KiB */
        movk    x0, #0xf516, lsl #16
        movk    x0, #0x7510
        msr     tcr_el1, x0
        msr     ttbr0_el1, x19
        msr     ttbr1_el1, x22
        dsb     sy
        tlbi    vmalle1
        dsb     sy
        isb
        mrs     x0, sctlr_el1
        orr     x0, x0, #1
        msr     sctlr_el1, x0
        isb

        movz    x0, #0x0900, lsl #16
        adr     x1, ready
2:      ldrb    w2, [x1], #1
        cbz     w2, 3f
        str     w2, [x0]
        b       2b
3:      b       3b

ready:  .asciz  "ptdump-proof: ready\n"
