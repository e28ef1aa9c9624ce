/*
 * A hypervisor for one purpose: the firmware of a bare x86-64 machine with SVM or VMX. It makes
 * accesses as a guest in long mode, behind both stages of tables, and notes what came of each.
 *
 * It knows neither the VMCB nor the VMCS: the image says which fields to write and to read. A field
 * is an offset in the VMCB, or an encoding of the VMCS's.
 *
 * What it works on stands at IMAGE; offsets as in `records.rs`:
 *
 *      0     1 when all is done
 *      8     how many records there are
 *      16    whether it is VMX
 *      24    first address and end of the memory that is filled with blocks
 *      40    a block at address 0
 *      48    CPUID.80000008H:EAX
 *      56    IA32_VMX_EPT_VPID_CAP
 *      64    IA32_VMX_PROCBASED_CTLS2
 *      72    whether its own tables, and so the second stage's, have five levels (SVM)
 *      80    how many fields are written once, and these: field, value, 0 or an MSR that
 *            says which bits of the value may be 0 (low half) or 1 (high half)
 *      2048  how many fields are read after each case, and these
 *      0x10000 the tables
 *      0x800000 the records, 640 bytes each
 *
 * A block is 16 bytes, of which 8 are used: code that loads its own number (its address / 16) into
 * EAX and calls the hypervisor. So a fetch tells where it went, and a load too.
 */

#define IMAGE           0x2000000
#define VMX             16
#define DATA            24
#define BLOCK           40
#define CPUID           48
#define FIVE            72
#define SETUP           80
#define READ            2048
#define RECORDS         0x800000
#define RECORD_SIZE     640

/* A record: what to do, */
#define PATCHES         0       /* two words that are changed before: address, content */
#define WATCHES         32      /* how many words to look at and to restore, and their addresses, */
#define FIELDS          352     /* how many fields to write, and these: field, value */
#define RCX             552
#define RAX             560
#define EFER            568     /* the host's */
/* and what came of it: what the watched words held, in place of their addresses, and */
#define ANSWERS         576     /* the fields that are read; then RAX */
#define RAX_AFTER       632

/* Memory of its own. */
#define PML4            0x100000
#define PML5            0x106000
#define STACK           0x120000
#define VMCB            0x121000        /* or VMCS */
#define HSAVE           0x122000        /* or the VMXON region */
#define SAVED           0x123000
#define POINTERS        0x124000        /* to VMCS and VMXON region; the descriptor for INVEPT */

#define MSR_FEATURE_CONTROL     0x3a
#define MSR_VMX_BASIC           0x480
#define MSR_VMX_PROCBASED_CTLS2 0x48b
#define MSR_VMX_EPT_VPID_CAP    0x48c
#define MSR_EFER                0xc0000080
#define MSR_VM_HSAVE_PA         0xc0010117

#define VMCB_RAX                0x5f8
#define VM_INSTRUCTION_ERROR    0x4400

#define CODE32          8
#define START_CODE      CODE32
#define CODE64          16
#define FLAT            24
#define TSS             32

/* The ROM ends at 4 GiB; the reset vector lies 16 bytes before. */
#define ROM             0xffff0000

        .text
        .code32
rom:
start32:
        mov     $FLAT, %eax
        mov     %eax, %ds
        mov     %eax, %es
        mov     %eax, %ss
        mov     $STACK, %esp

        /*
         * Bochs loads an image into memory that it has given only the first addresses of; others
         * get theirs in the order in which they are used. So they are used in order, before all else.
         */
        mov     $IMAGE, %esi
        imul    $RECORD_SIZE, 8(%esi), %edi
        lea     RECORDS(%esi, %edi), %edi
1:      mov     (%esi), %eax
        add     $0x1000, %esi
        cmp     %edi, %esi
        jb      1b

        /* The first 4 GiB, each at its own address, in pages of 2 MiB. */
        cld
        mov     $PML4, %edi
        xor     %eax, %eax
        mov     $(7 * 1024), %ecx
        rep stosl
        movl    $(PML4 + 0x1007), PML4
        movl    $(PML4 + 7), PML5
        mov     $(PML4 + 0x2007), %eax
        mov     $(PML4 + 0x1000), %edi
1:      mov     %eax, (%edi)
        add     $0x1000, %eax
        add     $8, %edi
        cmp     $(PML4 + 0x1020), %edi
        jb      1b
        mov     $0x87, %eax
        mov     $(PML4 + 0x2000), %edi
1:      mov     %eax, (%edi)
        add     $0x200000, %eax
        add     $8, %edi
        cmp     $(PML4 + 0x6000), %edi
        jb      1b

        mov     $PML4, %ebx
        mov     $0x20, %eax             /* PAE */
        cmpl    $0, IMAGE + FIVE
        je      1f
        mov     $PML5, %ebx
        or      $0x1000, %eax           /* LA57 */
1:      mov     %ebx, %cr3
        mov     %eax, %cr4
        mov     $MSR_EFER, %ecx
        mov     $0x900, %eax            /* LME, NXE */
        xor     %edx, %edx
        wrmsr
        mov     $0x80010021, %eax       /* PG, WP, NE, PE */
        mov     %eax, %cr0
        ljmp    $CODE64, $(ROM + start64 - rom)

        .code64
start64:
        mov     $IMAGE, %ebp
        mov     VMX(%rbp), %r13

        mov     $0x80000008, %eax
        cpuid
        mov     %eax, CPUID(%rbp)

        /* Blocks. */
        mov     DATA(%rbp), %rdi
        mov     DATA + 8(%rbp), %rsi
        mov     BLOCK(%rbp), %r8
1:      mov     %rdi, %rax
        shl     $4, %rax                /* its number, above the opcode */
        or      %r8, %rax
        mov     %rax, (%rdi)
        add     $16, %rdi
        cmp     %rsi, %rdi
        jb      1b

        mov     $VMCB, %edi
        xor     %eax, %eax
        mov     $512, %ecx
        rep stosq
        test    %r13, %r13
        jnz     1f
        call    svm_on
        jmp     2f
1:      call    vmx_on
2:
        /* What all cases have in common. */
        lea     SETUP(%rbp), %rsi
        mov     (%rsi), %r8
        add     $8, %rsi
1:      test    %r8, %r8
        jz      next_case
        mov     (%rsi), %rdi
        mov     8(%rsi), %r9
        mov     16(%rsi), %rcx
        test    %rcx, %rcx
        jz      2f
        rdmsr
        or      %rax, %r9
        and     %rdx, %r9
2:      mov     %r9, %rax
        call    write_field
        add     $24, %rsi
        dec     %r8
        jmp     1b

next_case:
        lea     RECORDS(%rbp), %rbx
        mov     8(%rbp), %r12
case:
        test    %r12, %r12
        jz      done

        mov     $SAVED, %r15
        lea     PATCHES(%rbx), %rsi
        mov     $2, %ecx
1:      mov     (%rsi), %rdi
        mov     (%rdi), %rax
        mov     %rax, (%r15)
        mov     8(%rsi), %rax
        mov     %rax, (%rdi)
        add     $16, %rsi
        add     $8, %r15
        dec     %ecx
        jnz     1b

        lea     WATCHES(%rbx), %rsi
        mov     (%rsi), %rcx
        jmp     2f
1:      add     $8, %rsi
        mov     (%rsi), %rdi
        mov     (%rdi), %rax
        mov     %rax, (%r15)
        add     $8, %r15
        dec     %rcx
2:      test    %rcx, %rcx
        jnz     1b

        lea     FIELDS(%rbx), %rsi
        mov     (%rsi), %r8
        jmp     2f
1:      mov     8(%rsi), %rdi
        mov     16(%rsi), %rax
        call    write_field
        add     $16, %rsi
        dec     %r8
2:      test    %r8, %r8
        jnz     1b

        mov     $MSR_EFER, %ecx
        mov     EFER(%rbx), %eax
        xor     %edx, %edx
        wrmsr
        mov     RCX(%rbx), %rcx
        test    %r13, %r13
        jnz     vmx_enter

        mov     $VMCB, %edi
        mov     RAX(%rbx), %rax
        mov     %rax, VMCB_RAX(%rdi)
        mov     %rdi, %rax
        vmrun   %rax
        mov     VMCB_RAX(%rdi), %rax
        jmp     note

vmx_enter:
        mov     $POINTERS, %edi
        mov     $2, %edx
        invept  16(%rdi), %rdx          /* all contexts */
        vmclear 8(%rdi)                 /* so that VMLAUNCH is right each time */
        vmptrld 8(%rdi)
        mov     RAX(%rbx), %rax
        vmlaunch
        /* It did not begin: so much for the first answer. */
        mov     $VM_INSTRUCTION_ERROR, %edx
        vmread  %rdx, %rax
        bts     $63, %rax
        mov     %rax, ANSWERS(%rbx)
        jmp     restore

note:
        mov     %rax, RAX_AFTER(%rbx)
        lea     READ(%rbp), %rsi
        lea     ANSWERS(%rbx), %r9
        mov     (%rsi), %r8
        jmp     2f
1:      add     $8, %rsi
        mov     (%rsi), %rdi
        call    read_field
        mov     %rax, (%r9)
        add     $8, %r9
        dec     %r8
2:      test    %r8, %r8
        jnz     1b

restore:
        mov     $SAVED + 16, %r15
        lea     WATCHES(%rbx), %rsi
        mov     (%rsi), %rcx
        jmp     2f
1:      add     $8, %rsi
        mov     (%rsi), %rdi
        mov     (%rdi), %rax
        mov     %rax, (%rsi)
        mov     (%r15), %rax
        mov     %rax, (%rdi)
        add     $8, %r15
        dec     %rcx
2:      test    %rcx, %rcx
        jnz     1b

        mov     $SAVED + 16, %r15
        lea     PATCHES + 16(%rbx), %rsi
        mov     $2, %ecx
1:      sub     $8, %r15
        mov     (%r15), %rax
        mov     (%rsi), %rdi
        mov     %rax, (%rdi)
        sub     $16, %rsi
        dec     %ecx
        jnz     1b

        add     $RECORD_SIZE, %rbx
        dec     %r12
        jmp     case

done:
        movq    $1, (%rbp)
        /* Stops Bochs, if it was told to stop here. */
        xchg    %bx, %bx
1:      hlt
        jmp     1b

/* RDI: field; RAX: value. */
write_field:
        test    %r13, %r13
        jnz     1f
        mov     %rax, VMCB(%rdi)
        ret
1:      vmwrite %rax, %rdi
        ret

read_field:
        test    %r13, %r13
        jnz     1f
        mov     VMCB(%rdi), %rax
        ret
1:      vmread  %rdi, %rax
        ret

svm_on:
        mov     $MSR_EFER, %ecx
        rdmsr
        or      $0x1000, %eax           /* SVME */
        wrmsr
        mov     $MSR_VM_HSAVE_PA, %ecx
        mov     $HSAVE, %eax
        xor     %edx, %edx
        wrmsr
        clgi
        ret

vmx_on:
        mov     $MSR_FEATURE_CONTROL, %ecx
        rdmsr
        test    $1, %eax
        jnz     1f
        or      $5, %eax                /* locked; VMXON outside SMX */
        wrmsr
1:      mov     %cr4, %rax
        or      $0x2000, %rax           /* VMXE */
        mov     %rax, %cr4
        mov     $MSR_VMX_PROCBASED_CTLS2, %ecx
        lea     CPUID + 16(%rbp), %rdi
        call    read_msr
        mov     $MSR_VMX_EPT_VPID_CAP, %ecx
        lea     CPUID + 8(%rbp), %rdi
        call    read_msr
        mov     $MSR_VMX_BASIC, %ecx
        rdmsr
        and     $0x7fffffff, %eax
        mov     %eax, VMCB
        mov     %eax, HSAVE
        mov     $POINTERS, %edi
        xor     %eax, %eax
        movq    $HSAVE, (%rdi)
        movq    $VMCB, 8(%rdi)
        mov     %rax, 16(%rdi)
        mov     %rax, 24(%rdi)
        vmxon   (%rdi)
        vmclear 8(%rdi)
        vmptrld 8(%rdi)

        /* The host's state. */
        lea     host_state(%rip), %rsi
1:      movzwl  (%rsi), %edi
        mov     8(%rsi), %rax
        vmwrite %rax, %rdi
        add     $16, %rsi
        lea     host_state_end(%rip), %rax
        cmp     %rax, %rsi
        jb      1b
        mov     %cr0, %rax
        mov     $0x6c00, %edi
        vmwrite %rax, %rdi
        mov     %cr4, %rax
        mov     $0x6c04, %edi
        vmwrite %rax, %rdi
        ret

read_msr:
        rdmsr
        mov     %eax, (%rdi)
        mov     %edx, 4(%rdi)
        ret

        .balign 16
host_state:     /* field, value */
        .quad   0x0c00, FLAT            /* ES */
        .quad   0x0c02, CODE64          /* CS */
        .quad   0x0c04, FLAT            /* SS */
        .quad   0x0c06, FLAT            /* DS */
        .quad   0x0c08, FLAT            /* FS */
        .quad   0x0c0a, FLAT            /* GS */
        .quad   0x0c0c, TSS             /* TR */
        .quad   0x2c02, 0xd00           /* IA32_EFER: LMA, LME, NXE */
        .quad   0x6c02, PML4            /* CR3 */
        .quad   0x6c0c, ROM + gdt - rom /* GDTR's base */
        .quad   0x6c14, STACK           /* RSP */
        .quad   0x6c16, ROM + note - rom /* RIP */
host_state_end:

        .balign 16
gdt:
        .quad   0
        .quad   0x00cf9b000000ffff      /* CODE32 */
        .quad   0x00af9b000000ffff      /* CODE64 */
        .quad   0x00cf93000000ffff      /* FLAT */
        .quad   0x00008b0000000067      /* TSS: nobody uses it */
        .quad   0
gdt_end:
        .balign 8
gdtr:
        .word   gdt_end - gdt - 1
        .long   ROM + gdt - rom

#include "../x86_reset.S"
