"""The Debian mirrors that this host's own apt is configured with."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from pipeline.base import process
from pipeline.base.errors import GoldsmithError

#: Seconds for each request of the archive's state; without an answer a build goes by what it has.
INDEX_DEADLINE = 10.0
APT_HELPER = "/usr/lib/apt/apt-helper"
_TARGET = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)|$(LABEL)|$(CODENAME)"


@dataclass(frozen=True)
class Mirrors:
    """Where the packages come from; both None means mmdebstrap's own default."""

    archive: str | None
    security: str | None

    def sources(self, suite: str, present: Sequence[str]) -> list[tuple[str, str]]:
        """(URI, suite) of each source; `present` names the suites that the archive has."""
        found = []
        for uri, name in self.candidates(suite):
            if name in present:
                found.append((uri, name))
        return found

    def candidates(self, suite: str) -> list[tuple[str, str]]:
        """(URI, suite) of the suite itself, its updates and its security updates."""
        if self.archive is None:
            return []
        wanted = [(self.archive, suite), (self.archive, f"{suite}-updates")]
        if self.security is not None:
            wanted.append((self.security, f"{suite}-security"))
        return wanted


def parse_targets(text: str) -> Mirrors:
    """The mirrors in the output of ``apt-get indextargets``.

    Only http and https without a password: the guest gets these addresses too. An archive whose Release file apt
    has not read yet has no label and is passed over.
    """
    archive = security = None
    for line in text.splitlines():
        uri, _, rest = line.partition("|")
        fields = rest.split("|")
        if len(fields) < 5 or fields[1] != "main" or fields[2] != "Debian":
            continue
        if not re.fullmatch(r"https?://[^@\s]+", uri):
            continue
        label = fields[3]
        if label == "Debian":
            archive = archive or uri.rstrip("/")
        elif label == "Debian-Security":
            security = security or uri.rstrip("/")
    return Mirrors(archive, security if archive else None)


@cache
def mirrors() -> Mirrors:
    """The host's own mirrors, as apt knows them."""
    if process.find("apt-get") is None:
        return Mirrors(None, None)
    try:
        result = process.run(
            ["apt-get", "indextargets", "--format", _TARGET, "Created-By: Packages"], deadline=INDEX_DEADLINE
        )
    except GoldsmithError:
        return Mirrors(None, None)
    return parse_targets(result.stdout)
