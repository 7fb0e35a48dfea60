"""What a single value of a definition must be: validators, each raising `Wrong` with a hint."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Discriminator, ValidationInfo

from pipeline.base import surroundings
from pipeline.base.disk_format import QCOW2, RAW, VHD, VHDX, VMDK, find_format, output_formats
from pipeline.base.store import IMAGE_NAME
from pipeline.definition.destinations import destination
from pipeline.definition.diagnostics import Wrong, closest, shown
from pipeline.definition.model import USER_DATA

FORMAT = 1
IMAGE_NAME_RULE = "use at most 62 lower case letters, digits, dots and hyphens, with a letter or digit at both ends"
_MASTER = re.compile(r"(?P<image>[^@]*)(?:@(?P<ref>.*))?", re.DOTALL)
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)
CHANNELS = ("golden", "candidate")
#: Any other channel has been made by `goldsmith gallery promote`; whether it is there, `preconditions` looks.
CHANNEL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,60}")
#: Checks that others stand on: without them those would be waived unlooked at. The checks say the same (`waivable`).
NOT_WAIVABLE = frozenset({"fs-clean", "linux-root", "windows-root", "win-control-set", "win-hives", "win-ntfs-clean"})

#: What a disk's name says of its format, where it does. `.img` does not: it is raw to some and qcow2 to others.
FORMATS = {row.suffix: row.name for row in (QCOW2, RAW, VHD, VHDX, VMDK)}


@dataclass
class Context:
    """What validators need beside the value; `keys` remembers what each mapping may hold."""

    project: Path
    keys: dict[int, list[str]] = field(default_factory=dict)


def _context(info: ValidationInfo) -> Context:
    assert isinstance(info.context, Context)
    return info.context


def project_of(info: ValidationInfo) -> Path:
    """The project that a relative path of the definition belongs to."""
    return _context(info).project


def output_format(value: str) -> str:
    """The name of a format that masters can be shipped in."""
    row = find_format(value)
    if row is None or not row.is_output or value != row.name:
        known = ", ".join(each.name for each in output_formats())
        raise Wrong(f"{shown(value)} is not a format that masters are shipped in", f"one of {known}")
    return value


def single_line(value: str) -> str:
    if "\n" in value:
        raise Wrong("must be one line", "write a script of several lines into a file: powershell")
    return value


def package(value: str) -> str:
    name = Path(value).name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 ._()+-]*\.msi", name, re.ASCII | re.IGNORECASE):
        raise Wrong(
            f"{shown(name)} is not a valid package file name", "use letters, digits, dots and hyphens, then .msi"
        )
    return value


def installer_property(value: str) -> str:
    """What msiexec takes behind its own options: a public property, whose name is in capitals."""
    if not re.fullmatch(r"[A-Z_][A-Z0-9_.]*=[ !#-~]*", value, re.ASCII):
        raise Wrong(f"{shown(value)} is not a Windows Installer property", "write NAME=value, without quotes")
    return value


def not_blank(value: str) -> str:
    if not value.strip():
        raise Wrong("must not be empty")
    return value


def matches(pattern: str, rule: str) -> Callable[[str], str]:
    compiled = re.compile(pattern, re.ASCII)

    def check(value: str) -> str:
        if not compiled.fullmatch(value):
            raise Wrong(f"{shown(value)} is not {rule}")
        return value

    return check


def unique(values: list[Any]) -> list[Any]:
    for index, value in enumerate(values):
        if value in values[:index]:
            raise Wrong(f"{shown(value)} is duplicated", at=(index,))
    return values


def format_version(value: int) -> int:
    if value != FORMAT:
        raise Wrong(f"format version {shown(value)} is not known; supported: {FORMAT}")
    return value


def waivable(value: str) -> str:
    if value in NOT_WAIVABLE:
        raise Wrong(
            "cannot be waived (waive-not-possible), because other checks depend on it",
            "correct the disk, or use a file system that goldsmith can read",
        )
    return value


def generation(value: int) -> int:
    if value not in (1, 2):
        raise Wrong(f"must be 1 or 2, not {shown(value)}")
    return value


def key_year(value: int) -> int:
    if value not in (2011, 2023):
        raise Wrong(f"must be 2011 or 2023, not {shown(value)}")
    return value


def sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        hint = {128: "that is the length of a SHA-512", 40: "that is the length of a SHA-1"}.get(len(value), "")
        raise Wrong("must be 64 hexadecimal digits", hint or f"it has {len(value)} characters")
    return value.lower()


def allowed(value: str) -> str:
    destination(value)
    return value


def web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/]+/\S+", value):
        raise Wrong(f"{shown(value)} is not an https:// or http:// address of a file")
    return value


def configuration(value: str) -> str:
    if value == USER_DATA or re.fullmatch(r"http://[A-Za-z0-9.-]+(:[0-9]{1,5})?/\S*", value):
        return value
    if value.startswith("https://"):
        raise Wrong(
            "https:// is not built yet, because the fabric cannot act as its server", "use http:// or userdata"
        )
    hint = closest(value, [USER_DATA]) or "write userdata, or http://config.example/first-boot"
    raise Wrong(f"{shown(value)} is neither userdata nor an address", hint)


def master(value: str) -> str:
    match = _MASTER.fullmatch(value)
    assert match is not None
    image, ref = match["image"], match["ref"]
    if not IMAGE_NAME.fullmatch(image):
        raise Wrong(f"{shown(image)} is not a valid image name", "write a name such as debian-13@golden")
    if ref is not None and not CHANNEL_NAME.fullmatch(ref) and not _VERSION.fullmatch(ref):
        hint = "use a channel such as golden, or a version such as 2026.1121.0"
        raise Wrong(f"{shown(ref)} is neither a channel nor a version", hint)
    return value


def product_key(value: str) -> str:
    if re.fullmatch(r"[A-Za-z0-9]{5}(-[A-Za-z0-9]{5}){4}", value.strip()):
        raise Wrong(
            "is a product key, but a definition ships with its masters",
            "write the key into a file outside the repository and the file's path here, or write kms",
        )
    return value


def variables(value: dict[str, Any]) -> dict[str, Any]:
    for key in value:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key):
            raise Wrong(f"{shown(key)} is not a valid Ansible variable name", "use letters, digits and _")
    return value


def environment_variable(value: str) -> str:
    """A variable that is set where goldsmith runs, and that is not goldsmith's own to set."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value, re.ASCII):
        raise Wrong(f"{shown(value)} is not a valid name of an environment variable", "use letters, digits and _")
    if re.match(r"ANSIBLE_|PYTHON|LD_|LC_|GIT_|SSH_", value) or value in ("HOME", "LANG", "PATH", "TMPDIR", "TZ"):
        raise Wrong(f"{value} cannot be used, because goldsmith sets it", "remove it")
    if value not in surroundings.variables():
        raise Wrong(f"{value} is not set in the environment", f"export {value}=..., or write the value in vars:")
    return value


def target(value: str) -> str:
    if re.match(r"[A-Za-z]:\\", value):
        if value.endswith("\\") or ".." in value.split("\\"):
            raise Wrong(
                f"{shown(value)} is not the path of the copy itself",
                "write the full path of the file, without .. or a trailing \\",
            )
        return value
    if not value.startswith("/"):
        raise Wrong(f"{shown(value)} is not an absolute path", f"/{value}?")
    if (value.endswith("/") and value != "/") or ".." in value.split("/"):
        raise Wrong(
            f"{shown(value)} is not the path of the copy itself",
            "write the full path of the file, without .. or a trailing /",
        )
    return value


def web_path(value: str) -> str:
    if not value.startswith("/") or re.search(r"\s", value):
        raise Wrong(f"{shown(value)} is not a valid path of a page", "it must begin with / and contain no space")
    return value


def existing(folder: str, what: str, *, folders: bool = False) -> Callable[[str, ValidationInfo], str]:
    """A path that exists below the project's `folder`; a near name is the hint."""

    def check(value: str, info: ValidationInfo) -> str:
        base = _context(info).project / folder
        try:
            path = (base / value).resolve()
            there, is_file = path.exists(), path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise Wrong(f"{shown(value)} cannot be a path: {reason}") from error
        if is_file or (there and folders and path.is_dir()):
            return value
        if there:
            raise Wrong(f"{shown(value)} is not a {what}", "it is a folder" if path.is_dir() else "")
        raise Wrong(f"{shown(value)} not found", _near(base, value, folders=folders) or f"looked in {folder or '.'}/")

    return check


def _near(base: Path, value: str, *, folders: bool) -> str:
    def names(folder: Path) -> Iterator[str]:
        try:
            entries = sorted(folder.iterdir())
        except OSError:
            return
        for entry in entries:
            if entry.is_file() or (folders and entry.is_dir()):
                yield entry.name

    written = Path(value)
    if (base / written.name).is_file():
        return f"{written.name}?"
    found = closest(written.name, names(base / written.parent))
    return str(written.parent / found) if found else ""


def discriminator(prefix: str, kinds: tuple[str, ...]) -> Discriminator:
    """Tell the members of a union apart by the key that only they have."""

    def pick(value: Any) -> str | None:
        return next((f"{prefix}:{kind}" for kind in kinds if isinstance(value, dict) and kind in value), None)

    return Discriminator(pick)
