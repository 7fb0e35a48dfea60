"""The functions that read files: only below the template's folder and the folder that the user has named."""

from __future__ import annotations

import hashlib
import ipaddress
import posixpath
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

from pipeline.packer.hcl import Evaluator
from pipeline.packer.limits import ITEMS, Folder, NotKnown
from pipeline.packer.text_template import to_text


def add_file_functions(table: dict[str, Callable[..., Any]], folder: Folder, evaluator: Evaluator) -> None:
    """Add file(), templatefile() and their kin to the functions of an evaluator."""

    def template_file(path: Any, values: Any) -> Any:
        if not isinstance(values, Mapping):
            raise TypeError("templatefile() needs a map")
        with evaluator.budget:
            return evaluator.text(folder.read(to_text(path)), values)

    def exists(path: Any) -> bool:
        try:
            return folder.find(to_text(path)).is_file()
        except NotKnown as error:
            if "outside" in error.reason:
                raise
            return False

    def file_set(path: Any, pattern: Any) -> list[str]:
        base, word = folder.find(to_text(path)), to_text(pattern)
        if ".." in word or word.startswith("/"):
            raise NotKnown(f"{word}, which is outside of {base}")
        found = islice(base.glob(word), ITEMS)
        return sorted(str(each.relative_to(base)) for each in found if each.is_file() and not each.is_symlink())

    table["file"] = lambda path: folder.read(to_text(path))
    table["templatefile"] = template_file
    table["fileexists"] = exists
    table["fileset"] = file_set
    table["filebase64"] = lambda path: table["base64encode"](folder.read(to_text(path)))
    for kind in ("md5", "sha1", "sha256", "sha512"):
        table[f"file{kind}"] = _file_digest(kind, folder)
    table["abspath"] = lambda path: posixpath.normpath(posixpath.join(str(folder.path), to_text(path)))
    table["basename"] = lambda path: posixpath.basename(to_text(path))
    table["dirname"] = lambda path: posixpath.dirname(to_text(path)) or "."
    table["pathexpand"] = to_text
    table["cidrhost"] = lambda network, number: str(ipaddress.ip_network(to_text(network), strict=False)[number])
    table["cidrnetmask"] = lambda network: str(ipaddress.ip_network(to_text(network), strict=False).netmask)


def _file_digest(kind: str, folder: Folder) -> Callable[[Any], str]:
    return lambda path: hashlib.new(kind, folder.read_bytes(to_text(path)), usedforsecurity=False).hexdigest()
