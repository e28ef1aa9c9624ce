/*
 * A program for one purpose: the firmware of a bare 32-bit x86 machine. It makes accesses behind
 * tables of 32-bit and PAE paging, in supervisor and in user mode, and notes what came of each.
 *
 * What it works on stands at IMAGE; offsets as in `records.rs`:
 *
 *      0     1 when all is done
 *      8     how many records there are
 *      16    first address and end of the memory that is filled with blocks
 *      24    the end of the image
 *      0x1000 the records, 64 bytes each
 *
 * A block is 16 bytes: code that loads its own number (its address / 16) into EAX and says so. So a
 * fetch tells where it went, and a load too; a store goes to the second half, which is no code.
 *
 * The tables of each record map the program's own pages where they are; paging is off between the
 * records.
 */

#define IMAGE           0x2000000
#define COUNT           8
#define DATA            16
#define END             24
#define RECORDS         0x1000
#define RECORD_SIZE     64

/* A record: what to do, */
#define CR3             0
#define CR4             4
#define CR0             8
#define EFER            12
#define ADDRESS         16
#define WHAT            20      /* 0 load, 1 store, 2 fetch; | USER | AC */
#define VALUE           24
/* and what came of it. */
#define VECTOR          28
#define ERROR           32
#define FAULT_ADDRESS   36
#define RESULT          40
#define PLACE           44

#define USER            0x100
#define AC              0x200

/* Memory of its own, which the tables map: see `scene.rs`. */
#define RAM             0x100000        /* the code */
#define USER_CODE       0x101000        /* that for user mode */
#define STACK           0x103000        /* its end */
#define IDT             0x103000
#define TABLES          0x104000        /* GDT, TSS, and what follows: */
#define TASK            (TABLES + 0x100)
#define CURRENT         (TABLES + 0x200)
#define LEFT            (TABLES + 0x204)

#define CODE0           8
#define START_CODE      CODE0
#define DATA0           16
#define CODE3           (24 | 3)
#define DATA3           (32 | 3)
#define TSS             40

#define SAY             0x80
#define MSR_EFER        0xc0000080

/* The ROM ends at 4 GiB; the reset vector lies 16 bytes before. */
#define ROM             0xffff0000
#define IN_RAM(label)   (RAM + label - rom)

        .text
        .code32
rom:
start32:
        mov     $DATA0, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $STACK, %esp
        cld

        /* Bochs gives an image memory in the order in which it is used. */
        mov     $IMAGE, %esi
        mov     END(%esi), %edi
1:      mov     (%esi), %eax
        add     $0x1000, %esi
        cmp     %edi, %esi
        jb      1b

        /* The code, and that for user mode, which stands in a page of its own. */
        mov     $ROM, %esi
        mov     $RAM, %edi
        mov     $0x400, %ecx
        rep movsl
        mov     $(ROM + user_load - rom), %esi
        mov     $USER_CODE, %edi
        mov     $16, %ecx
        rep movsl

        /* Gates: all exceptions, and what user mode may call. */
        mov     $IDT, %edi
        mov     $IN_RAM(vectors), %eax
        mov     $32, %ecx
1:      call    gate
        add     $8, %edi
        add     $16, %eax
        loop    1b
        mov     $(IDT + SAY * 8), %edi
        mov     $IN_RAM(said), %eax
        call    gate
        movb    $0xee, 5(%edi)          /* DPL 3 */

        mov     $(ROM + gdt - rom), %esi
        mov     $TABLES, %edi
        mov     $12, %ecx
        rep movsl
        mov     $TASK, %edi
        xor     %eax, %eax
        mov     $26, %ecx
        rep stosl
        movl    $STACK, TASK + 4
        movl    $DATA0, TASK + 8
        movl    $(104 << 16), TASK + 100        /* no permission map */
        lgdt    ROM + gdtr_ram - rom
        lidt    ROM + idtr - rom
        mov     $TSS, %eax
        ltr     %ax
        /* User mode keeps them. */
        mov     $DATA3, %eax
        mov     %eax, %ds
        mov     %eax, %es

        /* Blocks. */
        mov     IMAGE + DATA, %edi
        mov     IMAGE + DATA + 4, %esi
1:      mov     %edi, %eax
        shr     $4, %eax
        movb    $0xb8, (%edi)           /* mov $number, %eax */
        mov     %eax, 1(%edi)
        movl    $(0xcd | SAY << 8), 5(%edi)     /* int $SAY; the rest is 0 */
        movl    $0, 9(%edi)
        add     $16, %edi
        cmp     %esi, %edi
        jb      1b

        movl    $(IMAGE + RECORDS), CURRENT
        mov     IMAGE + COUNT, %eax
        mov     %eax, LEFT
        mov     $IN_RAM(next), %eax
        jmp     *%eax

        /* An interrupt gate at EDI, to EAX. */
gate:   movw    %ax, (%edi)
        movw    $CODE0, 2(%edi)
        movw    $0x8e00, 4(%edi)
        mov     %eax, %edx
        shr     $16, %edx
        movw    %dx, 6(%edi)
        ret

next:
        cmpl    $0, LEFT
        je      done
        pushl   $2
        popfl
        mov     CURRENT, %esi
        mov     CR4(%esi), %eax
        mov     %eax, %cr4
        mov     $MSR_EFER, %ecx
        xor     %edx, %edx
        mov     EFER(%esi), %eax
        wrmsr
        mov     CR3(%esi), %eax
        mov     %eax, %cr3
        mov     ADDRESS(%esi), %ebx
        mov     WHAT(%esi), %edx
        mov     VALUE(%esi), %eax
        mov     CR0(%esi), %ecx
        mov     %ecx, %cr0              /* which also loads PDPTEs */
        jmp     1f
1:      test    $USER, %edx
        jnz     user
        test    $AC, %edx
        jz      1f
        pushl   $0x40002
        popfl
1:      cmpb    $1, %dl
        je      store
        ja      fetch
load:   mov     (%ebx), %eax
        int     $SAY
store:  mov     %eax, (%ebx)
        int     $SAY
fetch:  jmp     *%ebx

user:   pushl   $DATA3
        pushl   $0
        pushl   $2
        pushl   $CODE3
        movzbl  %dl, %edx
        shl     $4, %edx
        add     $USER_CODE, %edx
        pushl   %edx
        iretl

        /* Copied to USER_CODE: one for each kind, 16 bytes apart. */
        .balign 16
user_load:
        mov     (%ebx), %eax
        int     $SAY
        .balign 16
        mov     %eax, (%ebx)
        int     $SAY
        .balign 16
        jmp     *%ebx
        .balign 16

        /* Every exception: an error code if it has none of its own, and its number. */
        .balign 16
vectors:
        .irp vector, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
        .balign 16
        .if !((0x60227d00 >> \vector) & 1)
        push    $0
        .endif
        push    $\vector
        jmp     trapped
        .endr
        .balign 16
said:   push    $0
        push    $SAY
trapped:
        mov     %eax, %edi
        mov     %cr2, %ebx
        mov     %cr0, %eax
        and     $0x7fffffff, %eax
        mov     %eax, %cr0
        jmp     1f
1:      mov     CURRENT, %esi
        mov     %edi, RESULT(%esi)
        mov     %ebx, FAULT_ADDRESS(%esi)
        popl    VECTOR(%esi)
        popl    ERROR(%esi)
        popl    PLACE(%esi)
        mov     $STACK, %esp
        addl    $RECORD_SIZE, CURRENT
        decl    LEFT
        jmp     next

done:   movl    $1, IMAGE
        xchg    %bx, %bx                /* Bochs' magic breakpoint */
1:      hlt
        jmp     1b

        .balign 16
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* CODE0 */
        .quad   0x00cf93000000ffff      /* DATA0 */
        .quad   0x00cffb000000ffff      /* CODE3 */
        .quad   0x00cff3000000ffff      /* DATA3 */
        .quad   0x0000891041000067      /* TSS: at TASK */
gdt_end:
        .balign 8
gdtr:
        .word   gdt_end - gdt - 1
        .long   ROM + gdt - rom
        .balign 8
gdtr_ram:
        .word   gdt_end - gdt - 1
        .long   TABLES
        .balign 8
idtr:
        .word   0x7ff
        .long   IDT

#include "../x86_reset.S"
