"""Private keys and access tokens anywhere on the disk, freed blocks included."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.model import HOUSE, Subject, check
from pipeline.offline.search import find_all, owners

#: Hits of one kind that are followed up; a disk with more has other troubles.
LIMIT = 500
#: What may stand before a needle, and how much is looked at in all.
_BEFORE, _AFTER = 48, 400

_KEY = re.compile(
    rb"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?PRIVATE KEY(?: BLOCK)?-----(?:\\n|[\r\n])+"
    rb"(?:[A-Za-z-]+: [^\r\n]*[\r\n]+)*\s*[A-Za-z0-9+/=]{40}"
)
#: By what they begin with: GitHub, GitLab, AWS and Azure storage publish these forms for scanners like this one.
_TOKENS = {
    b"AKIA": ("an AWS access key", re.compile(rb"(?<![A-Z0-9])AKIA[A-Z0-9]{16}(?![A-Z0-9])")),
    b"ghp_": ("a GitHub token", re.compile(rb"ghp_[A-Za-z0-9]{36}(?![A-Za-z0-9])")),
    b"github_pat_": ("a GitHub token", re.compile(rb"github_pat_[A-Za-z0-9_]{60,}")),
    b"glpat-": ("a GitLab token", re.compile(rb"glpat-[A-Za-z0-9_-]{20}")),
    b"AccountKey=": ("a storage key", re.compile(rb"AccountKey=[A-Za-z0-9+/]{86}==")),
}
_KEY_NEEDLE = b"PRIVATE KEY"


def hits(subject: Subject) -> tuple[str, ...]:
    """Every key and token on the disk, searched for once."""
    if subject.secrets is None:
        found = []
        for offset, needle, data, at in find_all(subject.disk, (_KEY_NEEDLE, *_TOKENS), limit=LIMIT):
            around = data[max(0, at - _BEFORE) : at + _AFTER]
            kind, pattern = ("a private key", _KEY) if needle == _KEY_NEEDLE else _TOKENS[needle]
            match = pattern.search(around)
            if match and b"EXAMPLE" not in match[0]:
                found.append((offset, kind))
        where = owners(subject.disk, [offset for offset, _ in found])
        shipped = _shipped(subject) if where else frozenset()
        subject.secrets = tuple(
            f"{kind} in {where.get(offset) or f'no file, at byte {offset} of the disk'}"
            for offset, kind in found
            if not _is_public(where.get(offset), shipped)
        )
    return subject.secrets


def _shipped(subject: Subject) -> frozenset[str]:
    """Files that packages brought, without the /usr that merged systems put before them."""
    names: set[str] = set()
    for path in subject.files_in("/var/lib/dpkg/info", ".list"):
        names.update(line.removeprefix("/usr") for line in subject.root.text(path).splitlines())
    return frozenset(names)


def _is_public(path: str | None, shipped: frozenset[str]) -> bool:
    """What a package ships is everybody's already: test keys, examples, and Python's compiled copies of them."""
    if path is None or path.startswith("/etc/"):
        return False
    return path.removeprefix("/usr") in shipped or (path.startswith("/usr/") and "/__pycache__/" in path)


@check(
    "private-keys",
    "No private key anywhere on the disk",
    why="Whoever gets the image gets the key, from freed blocks too.",
    remedy="Remove the file before the disk is trimmed, and withdraw the key: others may have read the disk.",
    source=HOUSE,
)
def private_keys(subject: Subject) -> Iterator[str]:
    for hit in hits(subject):
        # host keys and keys of a person have checks of their own, which say more
        if hit.startswith("a private key") and not re.search(r" in (/etc/ssh/ssh_host_|/\S*/\.ssh/id_)", hit):
            yield hit


@check(
    "access-tokens",
    "No access token of a known service anywhere on the disk",
    why="Such a token opens an account to everybody who gets the image.",
    remedy="Remove the file before the disk is trimmed, and withdraw the token.",
    source=HOUSE,
)
def access_tokens(subject: Subject) -> Iterator[str]:
    for hit in hits(subject):
        if not hit.startswith("a private key"):
            yield hit
