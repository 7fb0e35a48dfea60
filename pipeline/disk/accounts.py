"""The local accounts of a Windows by its SAM: names, numbers, and whether a password's hash is kept.

The hashes themselves are encrypted, and nobody asks for them. The layout of a user's value V: ReactOS,
dll/win32/samsrv; its hashes: the first byte behind the number of the key is the revision.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.base.errors import DiskError
from pipeline.disk.registry import Hive

USERS = r"SAM\Domains\Account\Users"
#: Where V's data begin, and the places of the descriptions (offset, length, unknown) of name, LM hash and NT hash.
_DATA, _NAME, _LM, _NT = 0xCC, 0x0C, 0x9C, 0xA8
#: Bytes of a hash that is not there: its header alone (RC4 until Windows 10 1607, then AES with its salt).
_EMPTY = {1: 4, 2: 24}
#: The account that Setup makes. Microsoft: well-known SIDs.
ADMINISTRATOR = 500


@dataclass(frozen=True)
class Account:
    name: str
    rid: int
    has_password: bool


def read_accounts(sam: Hive) -> Iterator[Account]:
    """Every local account. Raises DiskError (sam-damaged) where one cannot be read."""
    keys = [key for key in sam.keys(USERS) or [] if key.lower() != "names"]
    # the type of the default value of each name is its number
    for name in sam.keys(f"{USERS}\\Names") or []:
        numbers = [value.kind for value in sam.raw_values(f"{USERS}\\Names\\{name}") or [] if not value.name]
        if not numbers or f"{numbers[0]:08X}" not in (key.upper() for key in keys):
            raise _damaged(name)
    for key in keys:
        raw = sam.value(f"{USERS}\\{key}", "V")
        try:
            rid = int(key, 16)
        except ValueError:
            raise _damaged(key) from None
        if not isinstance(raw, bytes) or len(raw) < _DATA:
            raise _damaged(key)
        name = _part(raw, _NAME, key).decode("utf-16-le", "replace")
        yield Account(name, rid, any(_is_set(_part(raw, at, key)) for at in (_LM, _NT)))


def _part(raw: bytes, at: int, key: str) -> bytes:
    offset, length = struct.unpack_from("<II", raw, at)
    if _DATA + offset + length > len(raw):
        raise _damaged(key)
    return raw[_DATA + offset : _DATA + offset + length]


def _is_set(found: bytes) -> bool:
    if len(found) < 4:
        return False
    return len(found) > _EMPTY.get(found[2], 4)


def _damaged(key: str) -> DiskError:
    return DiskError(
        f"the account {key} in the SAM cannot be read",
        name="sam-damaged",
        hint="start that Windows and check its accounts with net user",
    )
