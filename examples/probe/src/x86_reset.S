/*
 * The end of a ROM of 64 KiB that begins at `rom`: the reset vector, and the way from there to
 * `start32` in 32-bit protected mode. To be included last. ROM is the ROM's address, START_CODE the
 * selector of a flat 32-bit code segment in the table that `gdtr` describes.
 */

        .code16
start16:
        cli
        lgdtl   %cs:(gdtr - rom)
        mov     %cr0, %eax
        or      $1, %eax
        mov     %eax, %cr0
        ljmpl   $START_CODE, $(ROM + start32 - rom)

        .org    rom + 0xfff0
reset:
        .byte   0xe9                    /* jmp start16: clang knows no IP that wraps */
        .word   start16 - reset - 3
        .org    rom + 0x10000

        .section .note.GNU-stack, "", @progbits
