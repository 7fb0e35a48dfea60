"""Which packages a Linux root has, by its package manager's own record: dpkg, rpm, apk, pacman, opkg."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from pipeline.base.errors import DiskError
from pipeline.disk.root import Root
from pipeline.disk.rpm_database import damaged, read_sqlite, rpm_headers

STATUS = "/var/lib/dpkg/status"
#: dpkg's record of a large desktop has about 6 MiB.
STATUS_LIMIT = 64 << 20
_MAX_PACKAGES = 100_000
#: OpenWrt's record, which has dpkg's form.
OPKG = ("/usr/lib/opkg/status", "/var/lib/opkg/status")
#: apk's record: Alpine's, and since apk 3 the one of systems with everything below /usr.
APK = ("/lib/apk/db/installed", "/usr/lib/apk/db/installed")
#: pacman's record: a folder for each package, with a file `desc`.
PACMAN = "/var/lib/pacman/local"
_DESC_LIMIT = 256 << 10
#: Records that are named and not read, and what reads them there.
_NOT_READ = {
    "/var/db/pkg": ("portage", "qlist -Iv"),
    "/var/db/xbps": ("xbps", "xbps-query -l"),
    "/nix/var/nix/db": ("nix", "nix-store -q --requisites /run/current-system"),
    "/var/guix/db": ("guix", "guix package --list-installed"),
    "/var/lib/pkgtools/packages": ("pkgtools", "ls /var/lib/pkgtools/packages"),
    "/var/log/packages": ("pkgtools", "ls /var/log/packages"),
    "/var/lib/eopkg/package": ("eopkg", "eopkg list-installed"),
    "/var/lib/swupd": ("swupd", "swupd bundle-list"),
    "/var/lib/snapd/snaps": ("snap", "snap list"),
    "/var/lib/flatpak/app": ("flatpak", "flatpak list"),
}
#: rpm's header tags, and the two types that are read: a string, and 32-bit numbers.
_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE = 1000, 1001, 1002, 1003, 1022
_STRING, _NUMBER = 6, 4


#: The last of dpkg's three words of a package that nothing is left to do for; a record that is half written is here.
_SETTLED, _UPDATES = ("installed", "config-files", "not-installed"), "/var/lib/dpkg/updates"
#: dpkg's three words for a package that is wholly there.
_WHOLE = "install ok installed"


@dataclass(frozen=True, slots=True)
class Package:
    """`state` is dpkg's three words, 'install ok installed' for a whole one; rpm knows no other.

    `source` and `source_version` are of the source package that it was built from, where dpkg's record has them;
    empty where they are the package's own, and of other records.
    """

    name: str
    version: str
    architecture: str
    state: str
    source: str = ""
    source_version: str = ""

    @property
    def installed(self) -> bool:
        return self.state.endswith(" installed")


def read_packages(root: Root) -> tuple[Package, ...]:
    """The packages of the first record that has any; none on a root without a record that is known.

    Raises DiskError: packages-not-read where only a record is there that goldsmith names and does not read; errors
    as `read_rpm`.
    """
    for read in (read_dpkg, read_rpm, read_apk, read_pacman, read_opkg):
        found = read(root)
        if found:
            return found
    for folder, (manager, command) in _NOT_READ.items():
        if root.listdir(folder):
            raise DiskError(
                f"the packages are managed by {manager} ({folder}), whose database goldsmith cannot read",
                name="packages-not-read",
                hint=f"run this inside the system: {command}",
            )
    return ()


def read_dpkg(root: Root) -> tuple[Package, ...]:
    """Every package that dpkg knows, sorted by name; none on a root without dpkg."""
    return parse_status(root.text(STATUS, STATUS_LIMIT))


def find_unfinished(root: Root) -> Iterator[str]:
    """Packages that dpkg has not finished, and what it has not written down; nothing on a root without dpkg.

    Raises DiskError (dpkg-record-missing).
    """
    known = read_dpkg(root)
    if not known and (root.exists("/var/lib/dpkg") or root.exists("/usr/bin/dpkg")):
        raise DiskError(
            f"dpkg is there, and its record {STATUS} is missing or empty",
            name="dpkg-record-missing",
            hint=f"copy {STATUS}-old to {STATUS} on the disk, or build again",
        )
    for package in known:
        words = package.state.split()
        if not words or words[-1] not in _SETTLED or "reinstreq" in words:
            yield f"{package.name} {package.version}: {package.state or 'no state'}"
    for name in root.listdir(_UPDATES):
        yield f"{_UPDATES}/{name}: dpkg was cut off"


def parse_status(text: str) -> tuple[Package, ...]:
    found = []
    for stanza in text.split("\n\n"):
        fields = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and key and not line[0].isspace():
                fields[key] = value.strip()
        if "Package" in fields:
            # "Source: NAME" or "Source: NAME (VERSION)": deb-control(5)
            source, _, version = fields.get("Source", "").partition(" (")
            found.append(
                Package(
                    fields["Package"],
                    fields.get("Version", ""),
                    fields.get("Architecture", ""),
                    fields.get("Status", ""),
                    source,
                    version.removesuffix(")"),
                )
            )
    return _sorted(found)


def read_opkg(root: Root) -> tuple[Package, ...]:
    """Every package that opkg knows, sorted by name; none on a root without opkg."""
    return _sorted([each for path in OPKG for each in parse_status(root.text(path, STATUS_LIMIT))])


def read_apk(root: Root) -> tuple[Package, ...]:
    """Every package that apk knows, sorted by name; none on a root without apk."""
    return _sorted([each for path in APK for each in parse_apk(root.text(path, STATUS_LIMIT))])


def parse_apk(text: str) -> list[Package]:
    """apk's `installed`: stanzas of lines with one letter, P the name, V the version, A the architecture."""
    found = []
    for stanza in text.split("\n\n"):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            # F and R are files, and may be thousands
            if line[1:2] == ":" and line[0] in "PVA":
                fields.setdefault(line[0], line[2:].strip())
        if fields.get("P"):
            found.append(Package(fields["P"], fields.get("V", ""), fields.get("A", ""), _WHOLE))
    return found


def read_pacman(root: Root) -> tuple[Package, ...]:
    """Every package that pacman knows, sorted by name; none on a root without pacman."""
    found = []
    for folder in root.listdir(PACMAN)[:_MAX_PACKAGES]:
        lines = root.text(f"{PACMAN}/{folder}/desc", _DESC_LIMIT).splitlines()
        fields = {line: after for line, after in pairwise(lines) if line.startswith("%")}
        if fields.get("%NAME%"):
            found.append(Package(fields["%NAME%"], fields.get("%VERSION%", ""), fields.get("%ARCH%", ""), _WHOLE))
    return _sorted(found)


def read_rpm(root: Root) -> tuple[Package, ...]:
    """Every package that rpm knows, sorted by name; none on a root without rpm. Errors as `rpm_headers`."""
    return _sorted([parse_header(header) for header in rpm_headers(root)])


def parse_rpmdb(data: bytes) -> tuple[Package, ...]:
    """The packages in rpmdb.sqlite. Raises DiskError (rpm-database-damaged)."""
    return _sorted([parse_header(header) for header in read_sqlite(data)])


def parse_header(blob: bytes) -> Package:
    """A package by its header: two counts, the index, the data. By rpm's docs/manual/hregions and lib/header.c."""
    fields = dict(_tags(blob))
    text = {tag: value for tag, value in fields.items() if isinstance(value, str)}
    epoch = fields.get(_EPOCH)
    version = f"{text.get(_VERSION, '')}-{text.get(_RELEASE, '')}"
    return Package(
        text.get(_NAME, ""),
        f"{epoch}:{version}" if isinstance(epoch, int) else version,
        text.get(_ARCHITECTURE, ""),
        _WHOLE,
    )


def _tags(blob: bytes) -> Iterator[tuple[int, str | int]]:
    if len(blob) < 8:
        raise damaged("a header is cut off")
    count, size = struct.unpack_from(">II", blob)
    store = 8 + 16 * count
    if store + size > len(blob):
        raise damaged("a header is cut off")
    for number in range(count):
        tag, kind, offset, _ = struct.unpack_from(">IIiI", blob, 8 + 16 * number)
        at = store + offset
        if tag not in (_NAME, _VERSION, _RELEASE, _EPOCH, _ARCHITECTURE) or not store <= at < store + size:
            continue
        if kind == _STRING:
            end = blob.find(b"\0", at, store + size)
            yield tag, blob[at : end if end >= 0 else at].decode("utf-8", "replace")
        elif kind == _NUMBER and at + 4 <= store + size:
            yield tag, struct.unpack_from(">I", blob, at)[0]


def _sorted(found: list[Package]) -> tuple[Package, ...]:
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture, package.version)))
