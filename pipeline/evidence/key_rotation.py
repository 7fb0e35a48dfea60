"""A new signing key in the place of the old one, whose signatures stay good until its public half is withdrawn.

Beside the key lie the public halves of all keys that this host trusts (`signing.trusted`). A rotation keeps the old
public half there under its id, and destroys the old private half: nothing needs it any more. At whatever point a
rotation ends, the host has one whole key, and another rotation, or `key make`, goes on from there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import Key

from pipeline.base.errors import NotFound, UsageError
from pipeline.base.files import sync_folder
from pipeline.evidence.agent_key import AgentKey
from pipeline.evidence.signing import SigningKey, load, load_public, make, public_path

#: Characters of a key's id in the name of the file of its public half.
_SHORT = 12
#: What the file of a withdrawn public half ends with: it is kept for people, and trusted no more.
WITHDRAWN = ".withdrawn"
#: What a new key is called until it takes the place of the old one.
_NEXT = "next"


@dataclass(frozen=True)
class TrustedKey:
    """A public half beside the host's key. `is_own`: that of the key that signs now."""

    id: str
    path: Path
    is_own: bool


def list_keys(path: Path) -> list[TrustedKey]:
    """The keys that this host trusts, its own first. Raises UsageError (key-unreadable)."""
    own = public_path(path)
    found: dict[str, TrustedKey] = {}
    for each in sorted(path.parent.glob("*.pub"), key=lambda pub: (pub != own, pub.name)):
        key = load_public(each)
        found.setdefault(str(key.keyid), TrustedKey(str(key.keyid), each, each == own))
    return list(found.values())


def rotate(path: Path, store: Path, agent: AgentKey | None = None) -> tuple[Key, SigningKey]:
    """Replace the key in `path` by a new one, or by that of an `agent`; the old public half, and the new key.

    Raises UsageError (no-key), and as `signing.load`.
    """
    old = load(path, store)
    if old is None:
        raise UsageError(f"there is no key at {path}", name="no-key", hint="goldsmith key make creates it")
    next_key = path.with_name(f".{path.name}.{_NEXT}")
    next_key.unlink(missing_ok=True)
    public_path(next_key).unlink(missing_ok=True)
    made = make(next_key, agent)
    # its public half is trusted before it signs anything, and the old one for what it has signed
    _keep_public(path, old)
    _keep_public(path, made)
    next_key.replace(path)
    sync_folder(path.parent)
    public_path(next_key).replace(public_path(path))
    _public_of(path, made).unlink(missing_ok=True)
    sync_folder(path.parent)
    return old.public, SigningKey(path, made.private)


def withdraw(path: Path, key_id: str) -> Path:
    """Trust a key no more: masters that it signed are damaged from now on. `key_id` is the begin of its id.

    Returns the file that its public half now has. Raises NotFound (key-unknown), UsageError (key-in-use).
    """
    found = [each for each in list_keys(path) if each.id.startswith(key_id)] if key_id else []
    if len(found) != 1:
        known = ", ".join(each.id[:_SHORT] for each in list_keys(path)) or "none"
        raise NotFound(f"no single key has the id {key_id!r}", name="key-unknown", hint=f"trusted keys: {known}")
    if found[0].is_own:
        raise UsageError(
            f"the key {found[0].id[:_SHORT]} signs the masters of this host",
            name="key-in-use",
            hint="goldsmith key rotate first puts a new key in its place",
        )
    target = found[0].path.with_name(f"{found[0].path.name}{WITHDRAWN}")
    found[0].path.replace(target)
    sync_folder(path.parent)
    return target


def _public_of(path: Path, key: SigningKey) -> Path:
    """The file of a key's public half under its id, beside the host's key."""
    return path.with_name(f"{path.stem}-{key.id[:_SHORT]}.pub")


def _keep_public(path: Path, key: SigningKey) -> None:
    target = _public_of(path, key)
    data = key.public_pem()
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
