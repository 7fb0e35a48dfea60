"""Private keys and access tokens anywhere on the disk, freed blocks and packed files included."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice

from pipeline.checks.disk.config_files import credential_paths, shipped_of
from pipeline.checks.linux.service_identity import identity_paths
from pipeline.checks.model import ALL, HOUSE, Subject, check
from pipeline.disk.root import Root
from pipeline.disk.search import owners
from pipeline.disk.secret_search import Found, Hit, Search, search, search_packed
from pipeline.disk.shipped import Shipped

#: Bytes of a compressed file whose parts are not one behind the other, when it is read as a file.
FILE_LIMIT = 64 << 20
#: Such files that are read.
FILES = 200
#: Files whose places on the disk are kept: some 20 MiB.
PLACES = 60_000
#: How far behind a key's first line the same key is found once more, as the base64 that it is.
_BODY = 400
#: Host keys and keys of a person have checks of their own, which say more.
_ELSEWHERE = re.compile(r"^(?:/etc/ssh/ssh_host_|/\S*/\.ssh/id_)")


@dataclass(frozen=True)
class Secret:
    """`path` is empty where no file has the place."""

    kind: str
    path: str
    text: str


@dataclass(frozen=True)
class SecretScan:
    secrets: tuple[Secret, ...]
    gaps: tuple[str, ...]


def secret_scan(subject: Subject) -> SecretScan:
    """Every secret on the disk that no package brought, searched for once."""
    if subject.secrets is None:
        subject.secrets = _scan(subject)
    scan: SecretScan = subject.secrets
    return scan


def _scan(subject: Subject) -> SecretScan:
    root = subject.root
    found: Found = subject.found if subject.found is not None else search(subject.disk)
    places = subject.places if subject.places is not None else root.places()
    where = owners(places, [hit.offset for hit in found.hits] + [offset for offset, _ in found.broken])
    gaps = [*found.gaps, *_read_as_files(root, found, where), *_read_compressed(subject, found, where)]
    shipped = shipped_of(subject)
    hits = _without_bodies(found.hits)
    # what a package ships is everybody's already, and so is each copy of it: in an initramfs, in a freed block
    public = {hit.digest for hit in hits if _is_public(shipped, where.get(hit.offset))}
    secrets = tuple(
        Secret(hit.kind, where.get(hit.offset, ""), _text(hit, where.get(hit.offset)))
        for hit in hits
        if hit.digest not in public
    )
    return SecretScan(secrets, tuple(gaps))


def look_up_places(subject: Subject) -> None:
    """Read where the data of each file lies while others search the disk. Of very many files that would take too much
    memory: anyone who needs it then reads it file by file.
    """
    # whatever surprises here is met again, and named, by the check that asks for it
    with suppress(Exception):
        places = list(islice(subject.root.places(), PLACES + 1))
        subject.places = places if len(places) <= PLACES else None


def _is_public(shipped: Shipped, path: str | None) -> bool:
    return path is not None and shipped.brought(path)


def _read_as_files(root: Root, found: Found, where: dict[int, str]) -> Iterator[str]:
    """Compressed files that do not lie in one piece are read through their file system; what is not is a gap."""
    # one that lies in one piece ends early, wherever one reads it
    streams = [
        (offset, kind, path)
        for offset, kind in found.broken
        if (path := where.get(offset)) is not None and len(root.runs(path)) > 1
    ]
    if len(streams) > FILES:
        yield f"more than {FILES} compressed files in several places: {streams[FILES][2]} was not unpacked"
    for offset, kind, path in streams[:FILES]:
        runs = root.runs(path)
        whole = root.read(path, FILE_LIMIT + 1) or b""
        if len(whole) > FILE_LIMIT:
            yield f"{path} has more than {FILE_LIMIT >> 20} MiB of {kind} in several places: not unpacked whole"
            continue
        again = search_packed(whole[_place_in_file(runs, offset) :], kind, offset)
        known = {hit.digest for hit in found.hits if hit.offset == offset}
        found.hits += [hit for hit in again.hits if hit.digest not in known]
        yield from again.gaps


def _read_compressed(subject: Subject, found: Found, where: dict[int, str]) -> list[str]:
    """Add what files hold that their file system keeps compressed, but for what was found in their pieces already."""
    running = Search(subject.disk)
    paths = running.search_compressed(subject.root)
    known = {(where.get(hit.offset), hit.digest) for hit in found.hits}
    found.hits += [hit for hit in running.found.hits if (paths.get(hit.offset), hit.digest) not in known]
    where |= paths
    return running.found.gaps


def _place_in_file(runs: list[tuple[int, int]], offset: int) -> int:
    before = 0
    for start, length in runs:
        if start <= offset < start + length:
            return before + offset - start
        before += length
    return before


def _without_bodies(hits: list[Hit]) -> list[Hit]:
    """Without the second find of a key whose first line was found too."""
    keys: dict[tuple[str, ...], list[int]] = {}
    for hit in hits:
        if hit.kind == "key":
            keys.setdefault(hit.layers, []).append(hit.offset)

    def is_body(hit: Hit) -> bool:
        return hit.layers[-1:] == ("base64",) and any(
            0 <= hit.offset - offset < _BODY for offset in keys.get(hit.layers[:-1], ())
        )

    return [hit for hit in hits if not is_body(hit)]


def _text(hit: Hit, path: str | None) -> str:
    """What is said of a find: never the secret itself."""
    layers = f" (inside {' in '.join(reversed(hit.layers))})" if hit.layers else ""
    return f"{hit.title} in {path or f'no file, at byte {hit.offset} of the disk'}{layers}"


@check(
    "private-keys",
    "No private key is on the disk",
    why="Everybody who gets the image can read the key, also from freed blocks.",
    remedy="Remove the file before the disk is trimmed, and revoke the key, because others may have read the disk. "
    "If a service needs a key to start, create one at the first boot.",
    source=HOUSE,
    profiles=ALL,
)
def private_keys(subject: Subject) -> Iterator[str]:
    known = set(credential_paths(subject))
    if subject.system.unix_layout:
        # a key that a service made for this machine has a check that says what to do about that service
        known |= identity_paths(subject.root).keys()
    for secret in secret_scan(subject).secrets:
        if secret.kind == "key" and secret.path not in known and not _ELSEWHERE.match(secret.path):
            yield secret.text


@check(
    "access-tokens",
    "No access token of a known service is on the disk",
    why="Everybody who gets the image can use the token's account.",
    remedy="Remove the file before the disk is trimmed, and revoke the token.",
    source="gitleaks' rules, and goldsmith's own",
    profiles=ALL,
)
def access_tokens(subject: Subject) -> Iterator[str]:
    known = credential_paths(subject)
    for secret in secret_scan(subject).secrets:
        if secret.kind != "key" and secret.path not in known:
            yield secret.text


@check(
    "secrets-searched",
    "The whole disk was searched for secrets",
    why="The search stops at limits for candidates and for compressed data. The rest of the disk may contain a "
    "secret.",
    remedy="Look at the named place. Remove files with one repeated pattern, and archives inside archives.",
    source=HOUSE,
    profiles=ALL,
)
def secrets_searched(subject: Subject) -> Iterator[str]:
    yield from secret_scan(subject).gaps
