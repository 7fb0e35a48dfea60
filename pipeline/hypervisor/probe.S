# Counts, to tell a real /dev/kvm from one that only opens. See accelerator.py, which makes a 64 KiB ROM of it.
#
#   as --64 -o probe.o probe.S && ld -m elf_x86_64 -Ttext=0x8000 --oformat=binary -e start -o probe.bin probe.o
#
# Goes the way of a kernel: real mode in the ROM, a copy in RAM, protected mode, paging and long mode. Prints
# "go", then a letter after 2^12, 2^13 ... 2^25 rounds of a loop of two instructions, does one SSE instruction, prints
# "ok" and ends QEMU with code 33. A letter's time gives the rate, also where the end is never reached.

        .set    SERIAL, 0x3f8
        .set    EXIT, 0x501             # isa-debug-exit: QEMU ends with 2 * value + 1
        .set    TABLES, 0x1000          # three pages of page tables
        .set    FIRST, 1 << 12
        .set    LAST, 1 << 25

        .code16
        .globl  start
start:  cli
        cld
        mov     %cs, %ax
        mov     %ax, %ds
        xor     %ax, %ax
        mov     %ax, %es
        xor     %si, %si
        mov     $start, %di
        mov     $(end - start), %cx
        rep movsb
        ljmp    $0, $ram
ram:    xor     %ax, %ax
        mov     %ax, %ds
        lgdtl   gdtr
        mov     %cr0, %eax
        or      $1, %al
        mov     %eax, %cr0
        ljmpl   $8, $protected

        .code32
protected:
        mov     $16, %ax
        mov     %ax, %ds
        mov     %ax, %es
        mov     %ax, %ss
        mov     $TABLES, %edi           # the first 2 MiB, mapped to themselves
        xor     %eax, %eax
        mov     $(3 * 1024), %ecx
        rep stosl
        movl    $(TABLES + 0x1003), TABLES
        movl    $(TABLES + 0x2003), TABLES + 0x1000
        movl    $0x83, TABLES + 0x2000
        mov     %cr4, %eax
        or      $0x620, %eax            # PAE; OSFXSR and OSXMMEXCPT for SSE
        mov     %eax, %cr4
        mov     $TABLES, %eax
        mov     %eax, %cr3
        mov     $0xc0000080, %ecx       # EFER.LME
        rdmsr
        or      $0x100, %eax
        wrmsr
        mov     %cr0, %eax
        and     $~4, %eax               # no x87 emulation
        or      $0x80000002, %eax       # paging, monitor the coprocessor
        mov     %eax, %cr0
        ljmpl   $24, $long

        .code64
long:   mov     $SERIAL, %dx
        mov     $'g', %al
        out     %al, %dx
        mov     $'o', %al
        out     %al, %dx
        mov     $'\n', %al
        out     %al, %dx
        mov     $FIRST, %ebx
        mov     $'a', %ecx
round:  mov     %ebx, %eax
1:      dec     %eax
        jnz     1b
        mov     %ecx, %eax
        out     %al, %dx
        mov     $'\n', %al
        out     %al, %dx
        inc     %ecx
        shl     $1, %ebx
        cmp     $LAST, %ebx
        jbe     round
        xorps   %xmm0, %xmm0
        addps   %xmm0, %xmm0
        mov     $'o', %al
        out     %al, %dx
        mov     $'k', %al
        out     %al, %dx
        mov     $'\n', %al
        out     %al, %dx
        mov     $EXIT, %dx
        mov     $16, %al
        out     %al, %dx
1:      hlt
        jmp     1b

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9a000000ffff      # 8: 32-bit code
        .quad   0x00cf92000000ffff      # 16: data
        .quad   0x00af9a000000ffff      # 24: 64-bit code
gdtr:   .word   gdtr - gdt - 1
        .long   gdt
end:
