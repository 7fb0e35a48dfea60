"""A Debian base disk without an installer: packages from the archive, a bootable qcow2 at the end.

mmdebstrap, grub-mkimage and mke2fs run as root inside a mount and process namespace of their own: what they
mount nobody else sees, and a SIGKILL of the build takes the processes, the mounts and the tree with it. No loop
device, no mount of the disk: the file system is written by ``mke2fs -d`` straight into the partition.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.base import process
from pipeline.base.errors import BuildError, HostError
from pipeline.base.surroundings import variables
from pipeline.guest.tls_failures import HOST_HINT, NOT_TRUSTED
from pipeline.network.host_apt import mirrors
from pipeline.network.proxies import bootstrap_variables, host_proxies
from pipeline.systems.debian import apt, tree

MIB = 1 << 20

#: What the base has besides Priority: required and what the definition names. `kernel` for both generations:
#: the cloud kernel has no AHCI. grub-cloud brings GRUB for BIOS, the signed one for UEFI, and shim.
PACKAGES = (
    # boots
    *("linux-image-amd64", "initramfs-tools", "zstd", "grub-cloud-amd64", "shim-signed", "e2fsprogs", "dosfstools"),
    # runs
    *("systemd-sysv", "libpam-systemd", "dbus", "udev", "netplan.io", "chrony", "tzdata", "netbase"),
    # is reached and provisioned
    *("openssh-server", "sudo", "cloud-init", "cloud-guest-utils", "fdisk", "gdisk", "qemu-guest-agent"),
    *("python3", "python3-apt", "ca-certificates"),
    # Ansible's modules ask it of their target: become_user (acl), apt_key and deb822_repository, unarchive
    *("acl", "gpg", "python3-debian", "unzip", "xz-utils", "bzip2"),
    # is looked at by people
    *("iproute2", "iputils-ping", "procps", "less", "vim-tiny"),
    # a package of its own since bookworm; before, systemd has it
    "?exact-name(systemd-resolved)",
    # names of Azure's disks, from forky on; before, the base has rules of its own (tree.DISK_NAMES)
    "?exact-name(azure-vm-utils)",
)

#: Smallest disk. The build grows it by an overlay, the guest grows partition and file system.
MINIMUM_MIB = 3 * 1024
#: Memory that must stay free when the tree is built in memory, and the least worth trying there, in MiB. A tree
#: with the archives takes 1.2 GiB at its peak, the sparse disk 0.9 GiB; memory saves 15 s of 50 s (no fsync).
MEMORY_SPARE_MIB, MEMORY_LEAST_MIB = 2048, 3072

#: The processes die with unshare (--kill-child, and its own pdeathsig), the mounts with the last process.
_ALONE = ("unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc")


def recipe() -> str:
    """A digest of what makes the tree and the disk: calls, scripts and files, with names in place of a build's own.

    The mirrors are the host's own business, and the packages stand beside this in the key.
    """
    numbers, sources = identity("recipe"), [("MIRROR", "SUITE")]
    script = _script("SUITE", (), numbers, Path("TARGET"), Path("WORK"), 0, sources)
    made = [_ALONE, script, sorted(tree.texts(numbers, sources).items())]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


def identity(seed: str) -> dict[str, str]:
    """The disk's own numbers, derived from `seed`: the same bootstrap gives the same ones."""
    space = uuid.uuid5(uuid.NAMESPACE_OID, f"goldsmith debian {seed}")
    return {
        "root_uuid": str(uuid.uuid5(space, "root")),
        "disk_guid": str(uuid.uuid5(space, "disk")),
        "root_guid": str(uuid.uuid5(space, "root partition")),
        "esp_guid": str(uuid.uuid5(space, "esp partition")),
        "bios_guid": str(uuid.uuid5(space, "bios partition")),
        "hash_seed": str(uuid.uuid5(space, "directory hash")),
        "esp_serial": uuid.uuid5(space, "esp").hex[:8].upper(),
    }


def mmdebstrap_argv(
    suite: str,
    packages: Sequence[str],
    root: Path,
    hooks: Path,
    sources: Sequence[tuple[str, str]],
    expired: bool = False,
) -> list[str]:
    """The whole call. Without `sources` mmdebstrap takes its own default; `expired` lists of packages are taken."""
    chosen = list(dict.fromkeys([*PACKAGES, *packages]))
    argv = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--verbose"]
    # these two are for the bootstrap; customize.sh removes what they leave in the tree
    argv += ['--aptopt=Acquire::Languages "none"', "--dpkgopt=force-unsafe-io"]
    argv += [f"--include={','.join(name for name in chosen if not name.startswith('?'))}"]
    argv += [f"--include={name}" for name in chosen if name.startswith("?")]
    argv += ['--aptopt=Acquire::Check-Valid-Until "false"'] if expired else []
    argv += [f"--essential-hook={hooks / 'essential.sh'}", f"--customize-hook={hooks / 'customize.sh'}"]
    argv += [suite, str(root)]
    argv += [f"deb {uri} {name} main" for uri, name in sources]
    return argv


def memory_for_tree(available: int) -> int:
    """MiB of memory to build the tree in, or 0 for the disk; `available` is the host's, in MiB."""
    spare = available - MEMORY_SPARE_MIB
    return spare if spare >= MEMORY_LEAST_MIB else 0


def _available() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) // 1024
    return 0


class _Watcher:
    """Turns the script's output into progress and facts."""

    def __init__(self, progress: Callable[[str], None]) -> None:
        self._progress = progress
        self._phase = ""
        self._since = time.monotonic()
        self._count = 0
        self.seconds: dict[str, float] = {}
        self.facts: dict[str, str] = {}

    def phase(self, name: str) -> None:
        now = time.monotonic()
        if self._phase:
            self.seconds[self._phase] = round(self.seconds.get(self._phase, 0.0) + now - self._since, 2)
        self._phase, self._since = name, now
        if name:
            self._progress(name)

    def line(self, line: str) -> None:
        if line.startswith("goldsmith phase "):
            self.phase(line.removeprefix("goldsmith phase "))
        elif line.startswith("goldsmith fact "):
            name, _, value = line.removeprefix("goldsmith fact ").partition("=")
            self.facts[name] = value
        elif line == "I: downloading packages with apt...":
            self.phase("downloading")
        elif line == "I: installing essential packages...":
            self.phase("installing essential packages")
        elif line == "I: installing remaining packages inside the chroot...":
            self.phase("installing packages")
        elif line.startswith("Setting up "):
            self._count += 1
            if self._count % 20 == 0:
                self._progress(f"{self._phase}: {self._count} set up")


def bootstrap(
    suite: str,
    packages: Sequence[str],
    target: Path,
    *,
    work: Path,
    seed: str,
    progress: Callable[[str], None],
    deadline: float,
    check_valid_until: bool = True,
) -> dict[str, Any]:
    """Make a bootable qcow2 of Debian `suite` at `target`; it boots by BIOS and by UEFI, Secure Boot included.

    `work` is a folder for scratch, removed at the end; `seed` decides the disk's UUIDs; `deadline` is in
    seconds. Returns facts for the record. Raises HostError (not root), BuildError naming what apt or dpkg said.
    """
    if os.geteuid() != 0:
        raise HostError("a bootstrap needs root", name="root-needed", hint="sudo make golden")
    sources: list[tuple[str, str]] = []
    if mirrors().archive is not None:
        state = apt.ask_archive(suite)
        if state is None:
            raise BuildError(
                "the Debian mirror does not answer",
                name="mirror-unreachable",
                hint="check that apt-get update works on this host",
            )
        sources = mirrors().sources(suite, list(state.releases))
    memory, expired = memory_for_tree(_available()), not check_valid_until
    work.mkdir(parents=True, exist_ok=True)
    try:
        try:
            return _assemble(suite, packages, target, work, seed, sources, memory, expired, progress, deadline)
        except BuildError as error:
            if not (memory and error.name == "no-space"):
                raise
            progress("there is not enough memory, so the bootstrap runs on the disk")
            return _assemble(suite, packages, target, work, seed, sources, 0, expired, progress, deadline)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _assemble(
    suite: str,
    packages: Sequence[str],
    target: Path,
    work: Path,
    seed: str,
    sources: Sequence[tuple[str, str]],
    memory: int,
    expired: bool,
    progress: Callable[[str], None],
    deadline: float,
) -> dict[str, Any]:
    stage = work / "stage"
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir()
    numbers = identity(seed)
    tree.write(work, numbers, sources, expired)
    script = _script(suite, packages, numbers, target, work, memory, sources, expired)
    watcher = _Watcher(progress)
    watcher.phase("reading the archive's state")
    started = time.monotonic()
    try:
        process.run(
            [*_ALONE, "sh", "-eu", "-c", script],
            deadline=deadline,
            on_line=watcher.line,
            cwd=work,
            # apt downloads the packages through the host's proxy
            env={
                **process.download_variables(),
                **bootstrap_variables(host_proxies(variables())),
                "HOME": "/root",
                "TMPDIR": str(stage),
                "DEBIAN_FRONTEND": "noninteractive",
            },
        )
    except process.CommandFailed as failed:
        target.unlink(missing_ok=True)
        raise explain(suite, failed.stdout + "\n" + failed.stderr) from failed
    watcher.phase("")
    return {
        "suite": suite,
        "packages": int(watcher.facts["packages"]),
        "kernel": watcher.facts["kernel"],
        "tree_mib": int(watcher.facts["tree_mib"]),
        "disk_mib": int(watcher.facts["disk_mib"]),
        "root_uuid": numbers["root_uuid"],
        "in_memory": bool(memory),
        "seconds": {**watcher.seconds, "total": round(time.monotonic() - started, 2)},
    }


def _script(
    suite: str,
    packages: Sequence[str],
    numbers: Mapping[str, str],
    target: Path,
    work: Path,
    memory: int,
    sources: Sequence[tuple[str, str]],
    expired: bool = False,
) -> str:
    """What runs inside the namespaces: settings, mmdebstrap's call, and the making of the disk."""
    stage = work / "stage"
    settings = {
        **numbers,
        "work": str(work),
        "stage": str(stage),
        "target": str(target),
        "memory": str(memory),
        "minimum": str(MINIMUM_MIB),
    }
    argv = mmdebstrap_argv(suite, packages, stage / "root", work, sources, expired)
    lines = [f"{name}={shlex.quote(value)}" for name, value in settings.items()]
    return "\n".join([*lines, f"bootstrap() {{ {shlex.join(argv)}; }}", tree.INSIDE])


#: (pattern, name, hint) of what apt, dpkg and the tools say when a bootstrap fails; the first that fits is told.
_FAULTS = (
    (r"No space left on device", "no-space", "free some disk space; goldsmith clean removes old layers"),
    (r"E: Unable to locate package (\S+)", "package-missing", "correct source.debian.packages in the definition"),
    (r"E: Package '\S+' has no installation candidate", "package-missing", "see source.debian.packages"),
    (
        r"Release file for \S+ is expired.*",
        "archive-expired",
        "check this host's clock; for an archive whose state is frozen, such as a snapshot, write "
        "check_valid_until: false beside suite",
    ),
    (r"NO_PUBKEY|EXPKEYSIG|is not signed", "archive-key", "apt-get install --only-upgrade debian-archive-keyring"),
    (rf".*(?i:{NOT_TRUSTED.pattern}).*", "mirror-certificate", HOST_HINT),
    (
        r".*\b(?:401  Unauthorized|403  Forbidden|407  Proxy Authentication Required).*",
        "mirror-refused",
        "check the mirror's address in apt's sources, and the proxy in Acquire::http::Proxy",
    ),
    (r"(?:Temporary failure resolving|Could not connect|Failed to fetch) .*", "mirror-unreachable", "apt-get update"),
    (r"dpkg: error processing .*", "package-broken", None),
    (r"^E: (?!setup failed|mmdebstrap failed|Sub-process).*", "bootstrap-failed", None),
    (r"(?:mke2fs|mkfs\.fat|sgdisk|mcopy|qemu-img|grub-mkimage|chroot): .*", "bootstrap-failed", None),
)


def explain(suite: str, output: str) -> BuildError:
    """The error for what a failed bootstrap printed: the line that tells, not the last one."""
    for pattern, name, hint in _FAULTS:
        found = re.search(pattern, output, re.MULTILINE)
        if found:
            line = next(line for line in output.splitlines() if found.group(0) in line)
            return BuildError(f"bootstrap of {suite}: {line.strip()}", name=name, hint=hint)
    last = [line.strip() for line in output.splitlines() if line.strip()][-1:]
    return BuildError(f"bootstrap of {suite} failed: {' '.join(last)}", name="bootstrap-failed")
