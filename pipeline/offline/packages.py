"""Which packages a Debian root has, by dpkg's own record."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.offline.root import Root

STATUS = "/var/lib/dpkg/status"
#: dpkg's record of a large desktop has about 6 MiB.
STATUS_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Package:
    """`state` is dpkg's three words, 'install ok installed' for a whole one."""

    name: str
    version: str
    architecture: str
    state: str

    @property
    def installed(self) -> bool:
        return self.state.endswith(" installed")


def dpkg_packages(root: Root) -> tuple[Package, ...]:
    """Every package that dpkg knows, sorted by name; none on a root without dpkg."""
    return parse_status(root.text(STATUS, STATUS_LIMIT))


def parse_status(text: str) -> tuple[Package, ...]:
    found = []
    for stanza in text.split("\n\n"):
        fields = {}
        for line in stanza.splitlines():
            key, colon, value = line.partition(":")
            if colon and key and not line[0].isspace():
                fields[key] = value.strip()
        if "Package" in fields:
            found.append(
                Package(
                    fields["Package"],
                    fields.get("Version", ""),
                    fields.get("Architecture", ""),
                    fields.get("Status", ""),
                )
            )
    return tuple(sorted(found, key=lambda package: (package.name, package.architecture)))
