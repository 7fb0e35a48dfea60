"""What can be known to go wrong before anything boots, from the media alone."""

from __future__ import annotations

from pathlib import Path

from pipeline.base.errors import UsageError
from pipeline.disk import media
from pipeline.disk.media import DRIVERS, DriverMedium, Edition, Installation

#: The first build that starts by UEFI alone. Microsoft: Windows 11 system requirements.
UEFI_ONLY = 22000


def preflight(medium: Path, wanted: str, generation: int, drivers: Path | None, locale: str | None = None) -> Edition:
    """The edition that is to be installed.

    Raises UsageError: as `media.installation`, `media.drivers` and `media.choose`; edition-architecture,
    edition-unsupported, edition-language, generation-impossible, drivers-missing, agent-missing.
    """
    found = media.installation(medium)
    edition = media.choose(found, wanted)
    if edition.architecture != "amd64":
        raise UsageError(
            f"{edition.name} is for {edition.architecture or 'an unknown processor'}",
            name="edition-architecture",
            hint="choose an edition for amd64",
        )
    if edition.drivers is None:
        raise UsageError(
            f"{edition.name} (build {edition.build}) is older than Windows Server 2016 and Windows 10",
            name="edition-unsupported",
        )
    if locale and edition.languages and locale.lower() not in map(str.lower, edition.languages):
        # Setup would stop, and ask which
        raise UsageError(
            f"{edition.name} is not in {locale}; its medium has {', '.join(edition.languages)}",
            name="edition-language",
            hint=f"write locale: {edition.languages[0]}, or use the medium in {locale}",
        )
    _starts(found, edition, generation)
    if drivers is not None:
        _brings(media.drivers(drivers), edition.drivers)
    return edition


def _starts(medium: Installation, edition: Edition, generation: int) -> None:
    if generation != 1:
        return
    client = not edition.kind.lower().startswith("server")
    if client and edition.build >= UEFI_ONLY:
        raise UsageError(f"{edition.name} is generation 2 only", name="generation-impossible", hint="--generation 2")
    if not medium.bios:
        raise UsageError(
            f"{medium.path.name} does not boot with BIOS, because it has no boot/etfsboot.com",
            name="generation-impossible",
            hint="--generation 2",
        )


def _brings(medium: DriverMedium, release: str) -> None:
    missing = [name for name in DRIVERS if release not in medium.drivers.get(name, ())]
    if missing:
        raise UsageError(
            f"{medium.path.name} ({medium.label}) has no {', '.join(missing)} for {release}",
            name="drivers-missing",
            hint="use a newer virtio-win.iso; goldsmith iso lists the drivers of this one",
        )
    if not medium.agent:
        raise UsageError(
            f"{medium.path.name} ({medium.label}) has no guest-agent/qemu-ga-x86_64.msi",
            name="agent-missing",
            hint="use virtio-win.iso as the virtio-win project publishes it",
        )
