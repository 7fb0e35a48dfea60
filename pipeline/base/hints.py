"""The remedy for an error whose place of raise gives no hint of its own, by the error's name.

A hint is an instruction, or names the place of the answer; it never only repeats that something is wrong.
"""

from __future__ import annotations

HINTS = {
    "answer-file-invalid": "correct the locale, timezone or edition in the definition, as the lines above say",
    "archive-damaged": "restore the version from another copy of the archive, or build it again",
    "bootstrap-failed": "read bootstrap.log in the run's folder; check that `apt-get update` works on this host, "
    "and that the archive has the suite and the packages",
    "cancelled": "run the command again; it was interrupted, or another image failed first",
    "cannot-write": "make the folder writable for this user, or use another folder",
    "capture-failed": "check the store's file system (df, dmesg), then build again",
    "command-failed": "read the run's logs; the message has the command's last output",
    "command-timeout": "run it again when the host is less busy; check that its disk is not full",
    "disk-name": "rename the file without a question mark",
    "edition-unsupported": "use installation media of Windows Server 2016, Windows 10 or newer",
    "fabric-busy": "wait; the guest's agent repeats its request",
    "file-cut-short": "run fsck on a copy of the disk, or build again; the file system is damaged or the disk was "
    "cut",
    "file-too-large": "remove or shorten the file in the image; goldsmith reads it only up to that size",
    "fs-damaged": "run fsck on a copy of the disk, or build again",
    "fs-too-many-names": "name a folder with fewer files",
    "fs-unsupported": "create the file system without bigalloc (mke2fs -O ^bigalloc)",
    "gallery-damaged": "return to a good version with goldsmith gallery rollback NAME, then build again",
    "gallery-unknown": "goldsmith gallery list shows all images",
    "gate-shut": "test it (goldsmith build, goldsmith prove), or name it by its version",
    "guest-agent-silent": "see serial.log and screen.png in the run's folder; the guest may be busy, hung or "
    "shutting down, or a step may have stopped its agent",
    "guest-command-timeout": "run it again when the host is less busy; the journal in the run's folder shows the "
    "guest's activity",
    "guest-entry-failed": "read the guest's journal in the run's folder; check whether a step removed sudo, "
    "useradd or sshd",
    "guest-freeze-failed": "check that qemu-guest-agent runs and that the guest's file systems are writable; the "
    "journal is in the run's folder",
    "guest-not-reseeded": "build without --warm; the guest's kernel does not support generation ids",
    "guest-rebooted": "split the step at the restart of the guest",
    "guest-shutdown-timeout": "find in journal.log in the run's folder the unit that does not stop; often a stop "
    "job has no TimeoutStopSec",
    "guest-unclean-shutdown": "read serial.log in the run's folder, and QEMU's log in /var/log/libvirt/qemu",
    "guest-unfit": "build without --warm",
    "host-file-error": "check the free space of the store and of TMPDIR (df), and that the project has not changed "
    "during the build",
    "host-unfit": "follow the remedy of each failed line above",
    "image-failed": "read the errors above; goldsmith runs list shows the run",
    "image-locked": "wait for the other build; goldsmith runs list shows it",
    "image-name": "give the source another name than the image",
    "images-failed": "read the errors above; goldsmith runs list shows all runs",
    "initramfs-compression": "rebuild it with gzip, xz, zstd, lz4 or lzma (COMPRESS= in initramfs.conf)",
    "initramfs-damaged": "rebuild it in the image (update-initramfs -u, dracut -f)",
    "initramfs-too-large": "rebuild it with fewer modules (MODULES=dep, dracut --hostonly)",
    "internal": "this is a bug in goldsmith: please report it, with the run's folder",
    "key-unreadable": "use a key that `goldsmith key make` created, or an OpenSSL ed25519 key in PEM format",
    "layer-locked": "wait for the other build; goldsmith runs list shows it",
    "libvirt-failed": "check libvirt with goldsmith doctor, and read journalctl -u libvirtd and "
    "/var/log/libvirt/qemu",
    "list-too-long": "list less: name a key or a folder further below",
    "login-refused": "check sshd_config, PAM and the account; they must allow a clone's user to log in",
    "master-changed": "find the program that writes to this file, then build again; a master must not be changed",
    "master-missing": "build the parent again; goldsmith gallery list shows all masters",
    "no-esp": "create an EFI system partition (EF00, FAT), which generation 2 needs",
    "no-such-file": "check the path; a relative path starts in the current folder",
    "no-such-key": "goldsmith inspect DISK --list registry without a key shows the first keys",
    "nothing-to-roll-back-to": "goldsmith gallery list NAME shows all versions; promote one with goldsmith gallery "
    "promote",
    "parent-failed": "correct the error of the parent image first",
    "save-damaged": "no action is needed: the snapshot is made again; goldsmith clean removes old snapshots",
    "signature-bad": "check the origin of the version, and name its key with goldsmith gallery verify NAME --key "
    "FILE",
    "step-failed": "read the step's log in the run's folder",
    "step-restarts": "let the step end with 0 when nothing is left to do; it requests a restart each time",
    "sysprep-not-generalized": "read the logs of sysprep in the run's folder",
    "tmpfs-missing": "mount -t tmpfs tmpfs /run; in a container: --tmpfs /run",
    "two-outputs": "leave one of them out",
    "unknown-generation": "use 1 for BIOS, 2 for UEFI",
    "unknown-list": "use one of the lists in the parentheses",
    "unknown-profile": "use one of the profiles in the parentheses",
    "updates-broken": "build again, which resumes there; updates.log in the run's folder shows the rounds",
    "updates-garbled": "build again, which resumes there; updates.log in the run's folder shows the rounds",
    "usage": "goldsmith COMMAND --help shows the valid options",
    "version-in-use": "wait until it is no longer in use; goldsmith gallery show lists its leases",
}
