"""Removes from texts what belongs to the person who runs the kit: names, addresses, keys, passwords, tokens.

Known values go in every form in which programs write them; unknown secrets by the rules that search disks; addresses
and ids by their form. A last look at each file refuses an archive in which a known value is left.
"""

from __future__ import annotations

import ipaddress
import json
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.base.secret_forms import SHORTEST, Mask
from pipeline.base.secret_rules import rule_set
from pipeline.fabric.instance import IMDS, WIRESERVER
from pipeline.publish.redaction import redact

#: Names that are the same on most hosts, and words of every log: they say nothing about a person.
COMMON_NAMES = frozenset(
    {
        "root",
        "localhost",
        "debian",
        "ubuntu",
        "azureuser",
        "clone",
        "goldsmith",
        "admin",
        "user",
        "vm",
        "host",
        "build",
    }
)
#: Chunks of a PNG that hold the picture; others hold texts and places.
_PICTURE = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG = b"\x89PNG\r\n\x1a\n"

_PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
)
_PUBLIC_KEY = re.compile(r"\b((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w.@-]+) AAAA[\w+/=]{20,}(?: [\w.@-]+)?")
_GUID = re.compile(
    r"(?i)(/(?:subscriptions|tenants)/|\b(?:tenant|subscription)_?-?Id[\"'\s:=]+)([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})"
)
#: An address of mail; `getty@tty1.service` is a unit of systemd.
_UNITS = "service|socket|timer|target|mount|automount|slice|scope|device|path|swap"
_MAIL = re.compile(rf"\b[\w.+-]+@(?![\w.\\-]+\.(?:{_UNITS})\b)[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{{2,}}\b")
_PRODUCT_KEY = re.compile(r"\b(?:[A-Z0-9]{5}-){4}[A-Z0-9]{5}\b")
_PASSWORD = re.compile(
    r"(?is)(<(\w*Password)>(?:\s*<Value>)?|\b\w*(?:password|passwd|passphrase)[\"']?\s*[:=]\s*[\"']?)([^\s\"'<>,;&\[]{3,})"
)
_ADDRESS = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")


@dataclass
class Redaction:
    """`values`: what is known to belong to the user, by the name that stands in its place. Addresses get numbers."""

    values: Mapping[str, str]
    _mask: Mask = field(default_factory=Mask, init=False)
    _numbers: dict[tuple[str, str], int] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        for name, value in self.values.items():
            if len(value) >= SHORTEST:
                self._mask.add(name, value.encode())

    def text(self, text: str) -> str:
        """The text without secrets."""
        text = self._mask.text(redact(text))
        for name, value in self.values.items():
            if value and value not in COMMON_NAMES:
                text = re.sub(rf"(?<![\w-]){re.escape(value)}(?![\w-])", f"[secret {name}]", text)
        text = _PRIVATE_KEY.sub("[private key]", text)
        text = _PUBLIC_KEY.sub(r"\1 [public key]", text)
        text = _PASSWORD.sub(r"\1[password]", text)
        text = _GUID.sub(lambda found: f"{found[1]}{self._numbered('id', found[2].lower())}", text)
        text = _PRODUCT_KEY.sub("[product key]", text)
        text = _MAIL.sub(lambda found: self._numbered("mail", found[0].lower()), text)
        text = _ADDRESS.sub(lambda found: self._address(found[0]), text)
        return self._by_rules(text)

    def data(self, data: bytes, suffix: str) -> bytes | None:
        """A file without secrets; None where its kind is not known, so that it stays at home."""
        if suffix == ".png":
            return picture_only(data)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            # a console's log may have broken characters; what is UTF-16 or packed has zero bytes
            if b"\0" in data:
                return None
            text = data.decode(errors="replace")
        if suffix == ".json":
            return _dump(self._walk(json.loads(text)), indent=1)
        if suffix == ".jsonl":
            lines = [line for line in text.split("\n") if line.strip()]
            return b"".join(_dump(self._walk(json.loads(line))) for line in lines)
        return self.text(text).encode()

    def find(self, data: bytes) -> str | None:
        """The name of a known value that is still in `data`, in any form; None where there is none."""
        return self._mask.find(data)

    def _walk(self, value: Any) -> Any:
        """JSON with each of its texts redacted, so that it stays JSON. A key's name says what its value is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self._walk(each) for each in value]
        if isinstance(value, dict):
            return {self.text(str(key)): self._walk_value(str(key), each) for key, each in value.items()}
        return value

    def _walk_value(self, key: str, value: Any) -> Any:
        if isinstance(value, str) and value and re.search(r"(?i)password|passwd|secret$|passphrase", key):
            return "[password]"
        if isinstance(value, str) and re.search(r"(?i)(?:tenant|subscription)_?id$", key):
            return self._numbered("id", value.lower()) if value else value
        return self._walk(value)

    def _by_rules(self, text: str) -> str:
        data = text.encode()
        for finding in reversed(rule_set().judge_file(data, "")):
            data = data[: finding.start] + f"[{finding.rule.id}]".encode() + data[finding.end :]
        return data.decode(errors="replace")

    def _address(self, text: str) -> str:
        """A public address by a number. Azure's own, private ones and those of documentation stay."""
        try:
            address = ipaddress.IPv4Address(text)
        except ValueError:
            return text
        keep = text in (WIRESERVER, IMDS) or not address.is_global
        return text if keep else self._numbered("address", text)

    def _numbered(self, kind: str, value: str) -> str:
        """The same name for the same value, wherever it stands."""
        same_kind = sum(each == kind for each, _ in self._numbers)
        return f"[{kind} {self._numbers.setdefault((kind, value), same_kind + 1)}]"


def picture_only(data: bytes) -> bytes | None:
    """A PNG without the chunks that are no part of the picture; None where it is no PNG."""
    if not data.startswith(_PNG):
        return None
    found, at = [_PNG], len(_PNG)
    while at + 12 <= len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        end = at + 12 + length
        if end > len(data):
            return None
        if data[at + 4 : at + 8] in _PICTURE:
            found.append(data[at:end])
        at = end
    return b"".join(found)


def _dump(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(value, indent=indent) + "\n").encode()
