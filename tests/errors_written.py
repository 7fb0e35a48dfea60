"""Causes and remedies of errors whose message or hint only a run knows: docs/errors.md has them in these words."""

from __future__ import annotations

_LOCKED = "wait until that process ends, or end it; then try again"
_LOGS = "the error names the guest's log and screenshot; read them, correct the image, then build again"
_OPEN = "use the named user or sudo, or change owner and mode of the path as the error says"

#: The cause and the remedy of each name.
WRITTEN = {
    "agent-not-ready": ("an agent sent requests to the fabric but did not report Ready", _LOGS),
    "agent-silent": (
        "no agent sent a request to the fabric",
        "install and enable cloud-init or waagent in the image",
    ),
    "agent-unsettled": ("Azure's agent did not process its goal state, or polls too fast", _LOGS),
    "archive-expired": (
        "the lists of packages of the archive are older than they say they may be",
        "check this host's clock; for an archive whose state is frozen, write check_valid_until: false beside suite",
    ),
    "archive-key": (
        "the archive is signed with a key that this host does not have",
        "apt-get install --only-upgrade debian-archive-keyring",
    ),
    "cannot-read": ("a file of the target cannot be read", _OPEN),
    "certificate-invalid": (
        "the file has no private key with its certificate that an agent could use",
        "name a PEM file with both, or PKCS#12 without a password: openssl pkcs12 -in FILE -nodes -out FILE.pem",
    ),
    "certificate-not-taken": (
        "the guest's agent did not take the VM's certificate",
        "only waagent takes certificates: install and enable it in the image; goldsmith vm logs shows its requests",
    ),
    "clone-timeout": ("a clone did not become reachable in time", _LOGS),
    "console-silent": (
        "the serial console shows nothing: the guest did not boot, or does not use this console",
        "add console=ttyS0 to the kernel's command line, and check that the disk boots in this generation",
    ),
    "deploy-locked": ("another command changes the deployment", _LOCKED),
    "deploy-unconfirmed": (
        "goldsmith deploy would delete VMs, and nobody confirmed it",
        "answer the question, or run the command that the error names, with --yes",
    ),
    "endpoint-locked": ("another command changes endpoints", _LOCKED),
    "exists": ("goldsmith init would replace an existing file", "remove it, or choose another name"),
    "extension-silent": ("the agent did not report the result of the test's extension", _LOGS),
    "fabric-locked": ("another command changes the fabric", _LOCKED),
    "fabric-refused": (
        "the fabric's server refused a request of the command",
        "read the server's log, which the error names; then run the command again",
    ),
    "file-exists": ("the file exists already", "name a new file, or remove the existing one"),
    "file-missing": ("the file or a folder of its path does not exist", "check the path, or create the folder"),
    "first-boot-silent": ("the first-boot service did not report success", _LOGS),
    "fs-journal": (
        "a file system has a journal to replay, so its files are stale",
        "start the system and shut it down, or run e2fsck -fy on a copy of the disk",
    ),
    "gallery-locked": ("another command changes the image's folder, or the folder cannot be locked", _LOCKED),
    "generalize-refused": ("the generalize script refused to continue", "read its whole output in generalize.log"),
    "guest-boot-refused": (
        "Secure Boot does not start the boot loader: no enrolled key has signed it, or it is revoked",
        "goldsmith inspect DISK shows who signed it; install a signed boot loader",
    ),
    "guest-emergency": (
        "the guest started its emergency shell",
        "serial.log names the unit that failed, often a line of /etc/fstab: give it `nofail` or correct it",
    ),
    "guest-entry-failed": (
        "the session of a build could not be set up in the guest",
        "read the guest's journal in the run's folder; check whether a step removed sudo, useradd or sshd",
    ),
    "guest-halted": ("a step halted the guest", "do not halt the guest: use `reboot` to restart it"),
    "guest-kernel-hung": (
        "all processors are busy, console and disk are silent",
        "build again; if it hangs each time, write `machine: {cpus: 1}`",
    ),
    "guest-kernel-panic": (
        "the guest's kernel stopped with a panic",
        "serial.log has its last messages; check the initramfs and the kernel's modules",
    ),
    "guest-no-boot": (
        "the firmware found nothing bootable",
        "check that the disk has a boot loader for its `generations`; goldsmith inspect DISK shows it",
    ),
    "guest-no-dhcp": ("the guest did not request an address", "configure DHCP for every card; see network-pinned"),
    "guest-no-lease": ("the guest requested an address but did not accept it", _LOGS),
    "guest-no-restart": ("the guest did not restart when it was asked to", _LOGS),
    "guest-no-root": (
        "the kernel waits for a root file system that is not on this disk",
        "compare root= in serial.log with goldsmith inspect DISK --list volumes",
    ),
    "guest-not-set-up": (
        "Windows' own setup has not ended",
        "it may wait for input: see the last screenshot in screens/",
    ),
    "hive-dirty": (
        "a registry hive is dirty, and its logs are missing",
        "copy the logs (.LOG1, .LOG2) too, or start that Windows and shut it down without fast startup",
    ),
    "host-file-error": (
        "an unforeseen error of the host's file system",
        "check the free space of the store and of TMPDIR (df), and the kernel's messages (dmesg)",
    ),
    "http-silent": ("the clone's web server did not answer", "check that its service is enabled, and its port"),
    "image-is-matrix": ("the name of a file that makes several images", "name one of its images"),
    "input-output": ("the disk or its connection has an error", "read dmesg, and check the disk"),
    "internal": ("a bug in goldsmith", "please report it, with the run's folder"),
    "is-a-folder": ("the path names a folder", "name a file instead"),
    "layers-locked": ("another command deletes or makes layers", _LOCKED),
    "libvirt-failed": (
        "libvirt refused a request; the message has its words",
        "check libvirt with goldsmith doctor, and read journalctl -u libvirtd and /var/log/libvirt/qemu",
    ),
    "link-loop": ("symbolic links form a circle", "correct the links"),
    "mirror-certificate": (
        "the mirror's certificate is not trusted",
        "for a company's own authority, put its certificate into /usr/local/share/ca-certificates and run "
        "update-ca-certificates",
    ),
    "mirror-refused": (
        "the mirror refuses the request",
        "check the mirror's address in apt's sources, and the proxy in Acquire::http::Proxy",
    ),
    "name-too-long": ("the file's name is too long", "choose a shorter name"),
    "no-such-image": ("the project has no such definition", "correct the name; goldsmith validate lists all images"),
    "not-a-folder": ("a part of the path is not a folder", "correct the path"),
    "not-generalized": (
        "the disk of a VM has the identity of a machine: each check that failed is a line of the message",
        "goldsmith vm start NAME, then goldsmith vm generalize NAME --run; docs/checks.md explains each check",
    ),
    "out-of-memory": ("the host has no memory left", "stop other programs, or use a host with more memory"),
    "package-missing": ("the archive has no such package", "correct source.debian.packages in the definition"),
    "packed-too-large": (
        "the packed file unpacks to more than is allowed",
        "check that it is a disk; unpack it yourself, then use the unpacked file",
    ),
    "parameter-unknown": (
        "--set names a parameter that no definition uses",
        "correct the name, or declare the parameter",
    ),
    "permission-denied": ("this user may not read or write the path", _OPEN),
    "publish-failed": ("the target refused the request; the message has its answer", "check the target's limits"),
    "publish-journal": ("the journal of an upload cannot be written", "free space in the store, and check its mode"),
    "publish-refused": (
        "the target refused the credential",
        "check the credential and its rights: reading, writing, deleting and listing blobs",
    ),
    "publish-unreachable": (
        "the target does not answer",
        "check the network; then run goldsmith publish push again, which continues the upload",
    ),
    "qemu-access-denied": (
        "libvirt's QEMU may not reach a folder or a file",
        "run the commands that the error shows; they open the path for QEMU's user",
    ),
    "reader-crashed": (
        "the process that reads a disk ended early",
        "the disk is damaged or malicious: do not use it; or the host killed the reader, as the error says then",
    ),
    "read-only": ("the file system is read-only", "mount it writable, or use another folder"),
    "refusal-unknown": ("no candidate of the image was refused", "goldsmith gallery list --all shows the refusals"),
    "requirement-failed": (
        "ansible-galaxy cannot install a requirement",
        "correct the name, version or source in the list of requirements",
    ),
    "save-damaged": (
        "a snapshot of a guest was changed",
        "no action is needed: the snapshot is made again; goldsmith clean removes old snapshots",
    ),
    "set-delete-unconfirmed": (
        "VMs of a set would be deleted, and nobody confirmed it",
        "run the command again with --yes",
    ),
    "sets-not-upgraded": (
        "VMs of sets do not have the golden version after a refresh; the message names them",
        "start those that are off; goldsmith set upgrade SET tries again, and names what fails",
    ),
    "source-no-boot": (
        "the source's disk has no boot loader for the image's generations",
        "correct `generations`, or install a boot loader on the disk",
    ),
    "source-no-root": ("the source's disk has no root file system that can be used", "use the image of a whole disk"),
    "stage-unknown": ("there is no such stage or step", "use one of the names that the error lists"),
    "sysprep-refused": ("sysprep refused to start or failed", "read setuperr.log in the run's folder"),
    "template-image": (
        "a template names no image of this store's gallery",
        "name an image version by imageReference.id, or deploy the template-vhd.json of a version",
    ),
    "template-value": (
        "a template has a value that a VM of this host cannot have",
        "correct the template, or the parameters file, as the message says",
    ),
    "too-many-files": ("the process has too many open files", "raise the limit with ulimit -n"),
    "upgrade-failed": (
        "the packages of a clone could not be upgraded, or not in time; the message has apt's or dpkg's words",
        "correct the archive or the package that the message names; full-upgrade.log in the clone's folder has all",
    ),
    "version-protected": (
        "the version is leased, in a channel or a parent",
        "end the lease or move the channel; --force deletes it all the same",
    ),
    "vm-delete-unconfirmed": ("the deletion was not confirmed", "goldsmith vm delete NAME --yes"),
    "disk-in-use": (
        "another machine or program has a disk of the machine that starts; the message has libvirt's words",
        "end the machine or program that has it (lslocks and virsh list show which), then try again",
    ),
    "disk-locked": ("another command changes or exports the disk", _LOCKED),
    "vm-locked": ("another command changes the VM", _LOCKED),
    "vmdk-damaged": (
        "the VMDK's header or tables are damaged",
        "copy it again from its source, and compare the sizes",
    ),
    "wim-damaged": (
        "the description of the WIM on the medium is damaged",
        "compare the medium's checksum with the publisher's, and download it again",
    ),
}
