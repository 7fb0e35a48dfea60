"""The VM extension that the fabric offers a clone: its manifest, its package, its settings, and what a clone reports.

On Azure an image must run extensions: the agent finds one in the goal state, downloads its manifest and its package,
runs its commands and reports its status. This one is the smallest that shows all of that, the VM's certificate with
its private key included: part of its settings is encrypted to that certificate.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import secrets
import zipfile
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from lxml import etree

from pipeline.fabric.certificates import KeyPair, encrypt, make_key_pair
from pipeline.fabric.limits import KEPT_WORDS, LARGEST_DOCUMENT

#: As Azure names extensions: publisher, then type. No publisher of Azure's has this name.
NAME, VERSION = "Goldsmith.Proof.Echo", "1.0.0"
#: Where the fabric serves the manifest and the package.
MANIFEST_PATH, PACKAGE_PATH = "/extensions/goldsmith-proof-manifest.xml", "/extensions/goldsmith-proof.zip"
#: The states in which an extension's work is over.
OVER = ("success", "error")
#: What the extension runs; read once, since the fabric's server sees no files of the host.
_PROGRAM = resources.files("pipeline.fabric").joinpath("inside/echo_extension.sh").read_bytes()
#: Extensions of one status report that are read.
_MOST_HANDLERS = 16


@dataclass(frozen=True)
class Extension:
    """The settings of one clone's extension. It must report `public` and `secret`, which no other clone has."""

    pair: KeyPair
    protected: str  # base64 of the settings in a PKCS#7 envelope
    public: str
    secret: str = field(repr=False)

    @classmethod
    def make(cls, name: str) -> Extension:
        """An extension with random values and a certificate of `name`."""
        pair, public, secret = make_key_pair(name), secrets.token_hex(8), secrets.token_hex(8)
        protected = encrypt(json.dumps({"secret": secret}).encode(), pair.certificate)
        return cls(pair, base64.b64encode(protected).decode(), public, secret)

    @property
    def public_settings(self) -> dict[str, str]:
        return {"public": self.public}

    @property
    def runtime_settings(self) -> str:
        """The settings as an agent writes them into the extension's folder, and as extensionsConfig carries them."""
        settings = {
            "publicSettings": self.public_settings,
            "protectedSettings": self.protected,
            "protectedSettingsCertThumbprint": self.pair.thumbprint,
        }
        return json.dumps({"runtimeSettings": [{"handlerSettings": settings}]})


def manifest(package: str) -> bytes:
    """The manifest: which versions there are, and that the address `package` has this one."""
    root = etree.Element("PluginVersionManifest")
    plugin = etree.SubElement(etree.SubElement(root, "Plugins"), "Plugin")
    etree.SubElement(plugin, "Version").text = VERSION
    etree.SubElement(etree.SubElement(plugin, "Uris"), "Uri").text = package
    etree.SubElement(root, "InternalPlugins")
    return etree.tostring(root, encoding="utf-8", xml_declaration=True)


def package() -> bytes:
    """The extension as the agent unpacks it (zip). The same bytes each time."""
    commands = {
        f"{verb}Command": f"run.sh {verb}" for verb in ("install", "enable", "disable", "update", "uninstall")
    }
    handler = {**commands, "rebootAfterInstall": False, "reportHeartbeat": False, "updateMode": "UpdateWithInstall"}
    files = {
        "HandlerManifest.json": json.dumps([{"name": NAME, "version": 1.0, "handlerManifest": handler}]).encode(),
        "run.sh": _PROGRAM,
    }
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, content)
    return data.getvalue()


@dataclass(frozen=True)
class HandlerStatus:
    """An agent's report about one extension: `status` of its installation, `state` and `message` of its work."""

    name: str
    status: str  # Ready | NotReady | Installing | Unresponsive
    code: int  # of the installation; 0 where nothing failed
    state: str = ""  # success | error | transitioning | warning, empty before there is one
    message: str = ""

    @property
    def over(self) -> bool:
        """Whether this is the final status: it has finished, or could not be installed."""
        return self.state in OVER or (self.status == "NotReady" and self.code != 0)


def read_statuses(document: bytes) -> list[HandlerStatus]:
    """The extensions in a status that an agent sent through the HostGAPlugin; none where it cannot be read."""
    if len(document) > LARGEST_DOCUMENT:
        return []
    # anything else that a guest sends is not a status
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        content = base64.b64decode(json.loads(document)["content"])
        rows = json.loads(content)["aggregateStatus"]["handlerAggregateStatus"]
        return [_read_status(row) for row in rows[:_MOST_HANDLERS]]
    return []


def _read_status(row: dict[str, Any]) -> HandlerStatus:
    settings = (row.get("runtimeSettingsStatus") or {}).get("settingsStatus") or {}
    work = settings.get("status") or {}
    message = (work.get("formattedMessage") or row.get("formattedMessage") or {}).get("message", "")
    return HandlerStatus(
        str(row["handlerName"])[:KEPT_WORDS],
        str(row.get("status", ""))[:KEPT_WORDS],
        int(row.get("code") or 0),
        str(work.get("status", "")).lower()[:KEPT_WORDS],
        str(message)[:KEPT_WORDS],
    )
