# A boot sector that does nothing but power: it starts within a second of the machine, and ends as it is told to.
#
#   as --32 -o power.o power.S && ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -e start -o power.bin power.o
#
# See power.py. It stays in real mode, sleeps between the ticks of the firmware's clock, and says on the serial port
# what it does. What it does stands in its last bytes: a letter, and after how many ticks (18.2 a second).
# The power button is the machine's own (ACPI specification 6.5, 4.8.3.1): PM1 status and enable, bit 8; SLP_EN, bit 13.

        .set    SERIAL, 0x3f8
        .set    TICKS, 0x46c            # the BIOS counts here, once in 55 ms
        .set    PIIX4, 0x80000b00       # PCI 0:1.3 of the machine "pc"
        .set    ICH9, 0x8000f800        # PCI 0:31.0 of the machine "q35"

        .code16
        .globl  start
start:  cli
        cld
        xor     %ax, %ax
        mov     %ax, %ds
        mov     %ax, %ss
        mov     $0x7c00, %sp
        sti

        mov     $PIIX4, %ebx            # where the power management's ports are
        mov     %ebx, %eax
        call    pci
        cmp     $0x71138086, %eax
        je      1f
        mov     $ICH9, %ebx
1:      lea     0x40(%ebx), %eax
        call    pci
        and     $0xff80, %ax
        mov     %ax, %di
        lea     2(%di), %dx             # enable the button
        mov     $0x100, %ax
        out     %ax, %dx

        mov     $ready, %si
        call    say
        mov     TICKS, %bx
wait:   sti
        hlt
        mov     TICKS, %ax
        sub     %bx, %ax
        cmp     after, %ax
        jb      wait
        cmpb    $'o', mode
        je      off
        cmpb    $'r', mode
        je      restart
        cmpb    $'b', mode
        jne     wait                    # deaf, for ever
        mov     %di, %dx
        in      %dx, %ax
        test    $0x100, %ax
        jz      wait
        mov     $pressed, %si
        call    say

off:    mov     $goes, %si
        call    say
        lea     4(%di), %dx             # S5
        mov     $0x2000, %ax
        out     %ax, %dx
        jmp     halt

restart: mov    $again, %si
        call    say
        mov     $0xfe, %al              # the keyboard controller pulls the processor's reset
        out     %al, $0x64
halt:   hlt
        jmp     halt

pci:    mov     $0xcf8, %dx             # eax: the register; its value
        out     %eax, %dx
        mov     $0xcfc, %dx
        in      %dx, %eax
        ret

say:    mov     $SERIAL, %dx
1:      lodsb
        test    %al, %al
        jz      2f
        out     %al, %dx
        jmp     1b
2:      ret

ready:  .asciz  "power: ready\r\n"
pressed: .asciz "power: button\r\n"
goes:   .asciz  "power: off\r\n"
again:  .asciz  "power: restart\r\n"

        .org    507
after:  .word   0
mode:   .byte   'b'
        .byte   0x55, 0xaa
