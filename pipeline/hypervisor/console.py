"""What a guest's serial console shows, by its own words: it is lost, or waits for a login. Pure."""

from __future__ import annotations

import re

#: What is shown when a guest is lost, and the failure's name. GRUB also misses modules that it can do
#: without (trixie's bli.mod); without its kernel it can do nothing.
DISASTERS = (
    (re.compile(rb"Kernel panic - not syncing: ?([^\r\n]*)"), "guest-kernel-panic", "the guest's kernel panicked"),
    (re.compile(rb"(You are in emergency mode|Entering emergency mode)"), "guest-emergency", "emergency mode"),
    (
        re.compile(
            rb"(No bootable device|error: no such device|grub rescue>|"
            rb"error: file `[^']*/(?:vmlinuz|initrd)[^']*' not found)"
        ),
        "guest-no-boot",
        "nothing bootable",
    ),
    (re.compile(rb"(ALERT!\s+[^\r\n]* does not exist)"), "guest-no-root", "the root file system was not found"),
)
LOGIN = re.compile(rb"[\w.-]+ login: ")


def disaster(text: bytes, since: int, *, windows: bool) -> tuple[str, str] | None:
    """The failure's name and message, of what was shown from byte `since` on; None where nothing is lost.

    Of these, Windows' console has its firmware's words only.
    """
    for pattern, name, what in DISASTERS:
        if windows and name != "guest-no-boot":
            continue
        if found := pattern.search(text, since):
            return name, f"{what}: {found.group(found.lastindex or 0).decode(errors='replace').strip()}"
    return None
