"""What to do about an error whose raise site has nothing more telling to say, by the error's name.

A hint is an instruction, or says where the answer stands; it never only says that something has to be mended.
"""

from __future__ import annotations

HINTS = {
    "answer-file-invalid": "correct what the lines above name: locale, timezone or edition of the definition",
    "archive-damaged": "bring it back from another copy of the archive, or build the version anew",
    "bootstrap-failed": "bootstrap.log in the run's folder has all of it; does `apt-get update` work on this host, "
    "and does the archive have the suite and the packages?",
    "cancelled": "another image of this command failed first, or it was interrupted: run it again",
    "cannot-write": "make the folder writable for this user, or name another one",
    "capture-failed": "is the file system of the store full or failing (df, dmesg)? Then build again",
    "checksum-missing": "write `sha256:` beside the URL: sha256sum of the file, or what its publisher names",
    "command-failed": "its last words are in the message; the run's logs have the rest",
    "command-timeout": "is the host very busy, or its disk full? Run it again when it is quiet",
    "dhcp-server-failed": "does another dnsmasq or a firewall of this host hold port 67? `goldsmith doctor` looks at "
    "what the fabric needs",
    "disk-name": "rename the file without a question mark",
    "edition-unsupported": "take installation media of Windows Server 2016, Windows 10 or newer",
    "fabric-busy": "the guest asked twice at once; its agent asks again by itself",
    "file-cut-short": "its file system is damaged or the disk was cut: fsck a copy, or build again",
    "file-too-large": "remove or shorten the file in the image: goldsmith reads it only up to that size",
    "fs-damaged": "run fsck on a copy of the disk, or build again",
    "fs-too-many-names": "name a folder further below",
    "fs-unsupported": "make the file system without bigalloc (mke2fs -O ^bigalloc)",
    "gallery-damaged": "goldsmith gallery rollback NAME goes back to a version that is good; then build again",
    "gallery-unknown": "goldsmith gallery list shows the images",
    "gate-shut": "prove it (goldsmith build, goldsmith prove), or name it by its version",
    "guest-agent-silent": "the guest is busy, hangs or goes down, or a step stopped its agent; serial.log and "
    "screen.png in the run's folder show its last state",
    "guest-command-timeout": "is the host very busy? The journal in the run's folder shows what the guest was doing",
    "guest-entry-failed": "the guest's journal is in the run's folder; has a step removed sudo, useradd or sshd?",
    "guest-freeze-failed": "does qemu-guest-agent still run, and are the file systems of the guest writable? Its "
    "journal is in the run's folder",
    "guest-not-reseeded": "build without --warm: the guest's kernel does not know generation ids",
    "guest-rebooted": "the step restarts the guest in its middle: split it there",
    "guest-shutdown-timeout": "journal.log in the run's folder names the unit that does not end: often a stop job "
    "without a TimeoutStopSec",
    "guest-unclean-shutdown": "serial.log in the run's folder has its last words, /var/log/libvirt/qemu those of its "
    "QEMU",
    "guest-unfit": "build without --warm",
    "host-file-error": "is there space at the store and in TMPDIR (df), and is the project unchanged?",
    "host-unfit": "each failed line above says how to make it right",
    "image-failed": "its own lines above say why; goldsmith runs list shows its run",
    "image-locked": "goldsmith runs list shows which build has it; wait for its end",
    "image-name": "give the source another name than the image that is made",
    "images-failed": "each failed image's own lines above say why; goldsmith runs list shows the runs",
    "initramfs-compression": "use gzip, xz, zstd, lz4 or lzma (COMPRESS= in initramfs.conf), and make it anew",
    "initramfs-damaged": "make it anew in the image (update-initramfs -u, dracut -f)",
    "initramfs-too-large": "make it with fewer modules (MODULES=dep, dracut --hostonly)",
    "internal": "this is a fault of goldsmith: please report it, with the run's folder",
    "key-unreadable": "name a key that `goldsmith key` made, or an OpenSSL ed25519 key in PEM",
    "layer-locked": "goldsmith runs list shows which build has it; wait for its end",
    "libvirt-failed": "goldsmith doctor looks at libvirt; journalctl -u libvirtd and /var/log/libvirt/qemu have its "
    "own words",
    "list-too-long": "ask for less: name a key or a folder further below",
    "login-refused": "sshd_config, PAM and the account decide who logs in: a clone's user must be let in",
    "master-changed": "something else writes to that file: leave masters alone, then build again",
    "master-missing": "goldsmith gallery list shows what is there; build the parent again",
    "no-esp": "generation 2 needs an EFI system partition (EF00, FAT): goldsmith inspect DISK names what is missing",
    "no-such-file": "check the path, and whether it is relative to the folder that you are in",
    "no-such-key": "--list registry without a key shows where the keys begin",
    "not-built-yet": "use a script, playbook or copy step",
    "nothing-to-roll-back-to": "goldsmith gallery list NAME shows the versions; gallery promote names one by hand",
    "parent-failed": "build the image that it stands on first: its own lines say why it failed",
    "save-damaged": "nothing: the saved guest is made anew; goldsmith clean removes others",
    "signature-bad": "goldsmith gallery verify NAME --key FILE names the key; is the version from where you think?",
    "step-failed": "the step's log in the run's folder has all that it printed",
    "step-restarts": "the step asks for a restart each time: let it end with 0 once nothing is left to do",
    "sysprep-not-generalized": "the logs of sysprep in the run's folder say what stopped it",
    "tmpfs-missing": "mount -t tmpfs tmpfs /run; in a container: --tmpfs /run",
    "two-outputs": "leave one of them out",
    "unknown-generation": "1 is BIOS, 2 is UEFI",
    "unknown-list": "name one of those in the parentheses",
    "unknown-profile": "name one of those in the parentheses",
    "updates-broken": "updates.log in the run's folder has the rounds; build again goes on from there",
    "updates-garbled": "updates.log in the run's folder has the rounds; build again goes on from there",
    "usage": "goldsmith COMMAND --help shows what goes together",
    "version-in-use": "wait for what uses it, or goldsmith gallery leases shows who holds it",
}
