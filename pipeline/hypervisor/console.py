"""What a guest's serial console shows, by its own words: it is lost, or waits for a login. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence

#: A pattern, the failure's name, and what a message says of it before the console's own words.
Disaster = tuple[re.Pattern[bytes], str, str]
#: Where UEFI firmware ends that finds nothing to start. An installation's medium may end there: nobody pressed a key.
FIRMWARE = re.compile(rb"(UEFI Interactive Shell|No bootable option or device was found)")
#: What a BIOS and a boot loader show that find nothing to start.
NOTHING_BOOTABLE: Disaster = (
    re.compile(
        rb"(No bootable device|error: no such device|grub rescue>|"
        rb"error: file `[^']*/(?:vmlinuz|initrd)[^']*' not found)"
    ),
    "guest-no-boot",
    "nothing bootable",
)
#: What is shown when a guest is lost, and the failure's name. GRUB also misses modules that it can do
#: without (trixie's bli.mod); without its kernel it can do nothing.
DISASTERS: tuple[Disaster, ...] = (
    (re.compile(rb"Kernel panic - not syncing: ?([^\r\n]*)"), "guest-kernel-panic", "the guest's kernel panicked"),
    (re.compile(rb"(You are in emergency mode|Entering emergency mode)"), "guest-emergency", "emergency mode"),
    NOTHING_BOOTABLE,
    (
        re.compile(
            # edk2's BdsDxe. It may refuse one boot option and start the next; this is where it has tried all
            rb"(BdsDxe: failed to (?:load|start) Boot\w+ [^\r\n]*: (?:Access Denied|Security Violation))"
            rb"(?s:.*)(?:UEFI Interactive Shell|No bootable option or device was found)"
        ),
        "guest-boot-refused",
        "Secure Boot does not start the boot loader",
    ),
    (FIRMWARE, "guest-no-boot", "nothing bootable"),
    (re.compile(rb"(reboot: System halted)"), "guest-halted", "the guest halted"),
    (re.compile(rb"(ALERT!\s+[^\r\n]* does not exist)"), "guest-no-root", "the root file system was not found"),
)
#: What to do about each of these failures, and about what `progress` finds.
HINTS = {
    "guest-kernel-panic": "serial.log in the run's folder has the kernel's last messages; common causes are an "
    "initramfs without the disk's driver, and a step that broke the kernel or its modules",
    "guest-emergency": "serial.log in the run's folder names the unit that failed: most often a line of /etc/fstab "
    "for a disk that is not there (give it `nofail`)",
    "guest-no-boot": "does the disk boot in these `generations`? 1 needs a BIOS boot loader, 2 an EFI system "
    "partition with \\EFI\\BOOT\\BOOTX64.EFI; `goldsmith inspect DISK` says which (boot-bios, boot-efi)",
    "guest-boot-refused": "no key of this firmware has signed the boot loader, or a revocation list names it: "
    "`goldsmith inspect DISK` says who signed it (boot-efi-signed, boot-efi-keys); install the newest shim-signed",
    "guest-halted": "do not halt the guest: use `reboot` to restart it; goldsmith powers it off",
    "guest-no-root": "the kernel waits for a root file system that is not on this disk: compare root= in serial.log "
    "with the disk's UUIDs (`goldsmith inspect DISK --list volumes`), or an initramfs lacks the disk's driver",
    "guest-kernel-hung": "build again; all finished layers are kept. If it hangs each time, `machine: {cpus: 1}` "
    "avoids most hangs of emulated processors; its console's log is in the run's folder",
}
LOGIN = re.compile(rb"[\w.-]+ login: ")


def disaster(text: bytes, since: int, known: Sequence[Disaster] = DISASTERS) -> tuple[str, str] | None:
    """The failure's name and message, of what was shown from byte `since` on; None where nothing is lost."""
    for pattern, name, what in known:
        if found := pattern.search(text, since):
            return name, f"{what}: {found.group(found.lastindex or 0).decode(errors='replace').strip()}"
    return None
