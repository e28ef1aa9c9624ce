/*
 * int kvm_ppc_ioctl_keeping_vectors(int fd, unsigned long request, unsigned long argument)
 *
 * ioctl(2) that keeps the registers of VMX and floating point which a function must preserve:
 * v20 to v31 and f14 to f31 (64-Bit ELF V2 ABI 2.2.2.1). They are kept on the stack.
 *
 * Frame: back chain, CR, LR, TOC (32 bytes), the parameter save area that a function with variable
 * arguments needs (64), 12 vectors (192), 18 doublewords (144).
 */
        .abiversion 2
        .machine power8

        .set    VECTORS, 96
        .set    FLOATS, VECTORS + 12 * 16
        .set    FRAME, FLOATS + 18 * 8

        .text
        .globl  kvm_ppc_ioctl_keeping_vectors
        .type   kvm_ppc_ioctl_keeping_vectors, @function
        .p2align 4
kvm_ppc_ioctl_keeping_vectors:
0:      addis   2, 12, (.TOC. - 0b)@ha
        addi    2, 2, (.TOC. - 0b)@l
        .localentry kvm_ppc_ioctl_keeping_vectors, . - kvm_ppc_ioctl_keeping_vectors
        mflr    0
        std     0, 16(1)
        stdu    1, -FRAME(1)
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
        li      11, VECTORS + \n * 16
        stvx    20 + \n, 11, 1
        .endr
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
        stfd    14 + \n, FLOATS + \n * 8(1)
        .endr
        bl      ioctl
        nop
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11
        li      11, VECTORS + \n * 16
        lvx     20 + \n, 11, 1
        .endr
        .irp    n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17
        lfd     14 + \n, FLOATS + \n * 8(1)
        .endr
        addi    1, 1, FRAME
        ld      0, 16(1)
        mtlr    0
        blr
        .size   kvm_ppc_ioctl_keeping_vectors, . - kvm_ppc_ioctl_keeping_vectors

        .section .note.GNU-stack, "", @progbits
