"""UEFI variable stores with chosen keys for Secure Boot, so that a guest boots as on firmware of another year.

The program virt-fw-vars of the package virt-firmware writes them. It is GPL-2: it is started as a program, and its
certificates are read as files; nothing of it is imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import BuildError, HostError
from pipeline.hypervisor.variable_store import enrolled_stores

#: The owner under which Microsoft's certificates and hashes stand in db and dbx (Microsoft, "Windows Secure Boot Key
#: Creation and Management Guidance", SignatureOwner).
MICROSOFT = "77fa9abd-0359-4d32-bd60-28f4e78f784b"
#: The certificates of each year: for loaders of other systems, and for Windows' own.
_CERTIFICATES = {2011: ("ms-uefi-2011.pem", "windows-2011.pem"), 2023: ("ms-uefi-2023.pem", "windows-2023.pem")}
YEARS = tuple(_CERTIFICATES)
_FOLDER = "virt/firmware/certs/microsoft.com"
#: Seconds: it takes a third of one on a quiet host.
_DEADLINE = 60.0


@dataclass(frozen=True)
class EnrolledKeys:
    """What db and dbx hold: Microsoft's certificates of `years`, and what is `revoked`.

    `revocation_list` is a file as UEFI Forum publishes it (DBXUpdate.bin); `revoked` are Authenticode SHA-256 digests
    in hexadecimal digits.
    """

    years: tuple[int, ...]
    revocation_list: Path | None = None
    revoked: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """Such as "keys of 2011 and 2023, with a revocation list"."""
        keys = f"keys of {' and '.join(map(str, self.years))}"
        return f"{keys}, with a revocation list" if self.revocation_list or self.revoked else keys


def write_variable_store(keys: EnrolledKeys, path: Path) -> None:
    """Write a variable store with these keys to `path`, for the firmware that libvirt takes for Secure Boot.

    Raises HostError (`uefi-keys-missing`) where the host has no such firmware or no virt-fw-vars, BuildError
    (`revocation-list-invalid`) where the revocation list cannot be read.
    """
    argv: list[str | Path] = [_program(), "--input", _template(), "--output", path, "--delete", "db"]
    for year in keys.years:
        for name in _CERTIFICATES[year]:
            argv += ["--add-db", MICROSOFT, _certificate(name)]
    if keys.revocation_list is not None:
        argv += ["--set-dbx", keys.revocation_list]
    for digest in keys.revoked:
        argv += ["--add-dbx-hash", MICROSOFT, digest]
    try:
        process.run(argv, deadline=_DEADLINE)
    except process.CommandFailed as error:
        path.unlink(missing_ok=True)
        if keys.revocation_list is None:
            raise
        raise BuildError(
            f"{keys.revocation_list} cannot be enrolled as a revocation list: {error.stderr.strip()[-300:]}",
            name="revocation-list-invalid",
            hint="download DBXUpdate.bin for x64 from https://uefi.org/revocationlistfile",
        ) from error


def _template() -> Path:
    """The store that libvirt copies by itself: the first of the host's with enrolled keys."""
    for path, known in enrolled_stores().items():
        if known is not None:
            return path
    raise HostError(
        "this host has no UEFI firmware for Secure Boot with enrolled keys",
        name="uefi-keys-missing",
        hint="make setup, or apt-get install ovmf; goldsmith doctor lists what the host has",
    )


@functools.cache
def _program() -> Path:
    program = Path(sysconfig.get_path("scripts")) / "virt-fw-vars"
    if not program.is_file():
        raise _not_installed(f"{program} does not exist")
    return program


def _certificate(name: str) -> Path:
    try:
        path = Path(str(importlib.metadata.distribution("virt-firmware").locate_file(f"{_FOLDER}/{name}")))
    except importlib.metadata.PackageNotFoundError as error:
        raise _not_installed("the Python package virt-firmware is not installed") from error
    if not path.is_file():
        raise _not_installed(f"{path} does not exist")
    return path


def _not_installed(what: str) -> HostError:
    return HostError(
        f"variable stores with chosen keys cannot be made: {what}",
        name="uefi-keys-missing",
        hint="make setup installs it",
    )
