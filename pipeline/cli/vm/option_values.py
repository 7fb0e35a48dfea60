"""Values of the options of `goldsmith vm create`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.base.errors import UsageError
from pipeline.cli import context
from pipeline.cli.vm.options import caller_keys

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.instances.sizes import Size


def read_public_key(path: Path | None) -> str:
    """The text of a public key: the named one, or the caller's own; '' if there is none."""
    if path is None:
        found = caller_keys()
        return found[0].read_text().strip() if found else ""
    from pipeline.operations.create import is_public_key

    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not is_public_key(text):
        raise UsageError(
            f"{path} is not an SSH public key", name="ssh-key-invalid", hint="name a file that ends in .pub"
        )
    return text


def choose_size(name: str, cpus: int | None, memory: str | None) -> Size | None:
    from pipeline.instances.sizes import Size, find_size

    if not name and cpus is None and memory is None:
        return None
    if name and (cpus is not None or memory is not None):
        raise UsageError(
            "--size cannot be combined with --cpus and --memory",
            name="usage",
            hint="use --size, or --cpus and --memory",
        )
    if name:
        return find_size(name)
    if cpus is None or memory is None:
        raise UsageError(
            "--cpus and --memory must be used together",
            name="usage",
            hint="--cpus 1 --memory 1G; or --size Standard_B1s",
        )
    return Size(None, cpus, context.to_bytes(memory))


def read_resource_size(text: str | None) -> int | None:
    """Bytes of `--resource-disk`, 0 for none; None if it is not given. Raises UsageError (bad-size)."""
    if text is None or text.lower() == "none":
        return None if text is None else 0
    from pipeline.instances.sizes import SMALLEST_RESOURCE_DISK

    size = context.to_bytes(text)
    if size % (1 << 20) or size < SMALLEST_RESOURCE_DISK:
        raise UsageError(
            f"a resource disk cannot have {size} bytes",
            name="bad-size",
            hint=f"use a whole number of MiB, at least {SMALLEST_RESOURCE_DISK >> 20} MiB, or none",
        )
    return size


def read_os_disk_size(text: str | None) -> int | None:
    """Bytes of `--os-disk-size`; None if it is not given. Raises UsageError (bad-size)."""
    if text is None:
        return None
    from pipeline.definition.units import LARGEST_DISK

    size = context.to_bytes(text)
    if size % (1 << 20) or not 0 < size <= LARGEST_DISK:
        raise UsageError(
            f"an OS disk cannot have {size} bytes",
            name="bad-size",
            hint=f"use a whole number of MiB, at most {LARGEST_DISK >> 30} GiB",
        )
    return size


def read_certificate(path: Path | None) -> bytes:
    """The certificate of `--certificate` with its private key, as PEM; empty if it is not given.

    Raises UsageError (certificate-invalid).
    """
    if path is None:
        return b""
    from pipeline.operations.certificates import read_certificate_file

    return read_certificate_file(path)


def read_data(path: Path | None) -> bytes:
    if path is None:
        return b""
    from pipeline.operations.create import LARGEST_DATA

    data = path.read_bytes()
    if len(data) > LARGEST_DATA:
        raise UsageError(
            f"{path} has {len(data)} bytes, and Azure takes {LARGEST_DATA}",
            name="data-too-large",
            hint="store the rest on a server, and let the guest download it",
        )
    return data
