"""Scripts that a guest could not read are faults of the definition, with the script's line and the way to mend it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from pipeline.definition import DefinitionError, load_named
from pipeline.definition.script_text import script_fault, windows_script_fault
from tests.cases import case

TEXT = "#!/bin/bash\nset -e\nmkdir -p /srv/app\n"
#: What editors of Windows and others leave: the bytes, the line, and a word of the message.
BROKEN = {
    "crlf": (TEXT.replace("\n", "\r\n").encode(), 1, r"/bin/bash\r"),
    "crlf with env": (b"#!/usr/bin/env python3\r\nprint(1)\r\n", 1, r"/usr/bin/env\r"),
    "crlf behind an argument": (b"#!/bin/sh -e\r\nexit\r\n", 1, "carriage return"),
    "crlf without an interpreter": (b"set -e\r\nmkdir /srv/app\r\n", 1, "carriage return"),
    "crlf in one line": (b"#!/bin/sh\nset -e\nmkdir /srv/app\r\ntrue\n", 3, "carriage return"),
    "crlf in awk": (b"#!/usr/bin/awk -f\nBEGIN { exit }\r\n", 2, "carriage return"),
    "old Mac": (b"#!/bin/sh\rset -e\rtrue\r", 1, "carriage return"),
    "old Mac without an interpreter": (b"set -e\rtrue", 1, "carriage return"),
    "mark": (b"\xef\xbb\xbf" + TEXT.encode(), 1, "byte order mark"),
    "mark and crlf": (b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode(), 1, "byte order mark"),
    "UTF-16": (TEXT.encode("utf-16"), 1, "UTF-16"),
    "UTF-16 without a mark": (TEXT.encode("utf-16-le"), 1, "UTF-16LE"),
    "UTF-16, other end": (TEXT.encode("utf-16-be"), 1, "UTF-16BE"),
    "UTF-32": (TEXT.encode("utf-32"), 1, "UTF-32"),
    "a blank line first": (b"\n" + TEXT.encode(), 2, "not at the start of the file"),
    "beyond the first MiB": (TEXT.encode() + b"# words\n" * 200_000 + b"cd /srv\r\n", 200_004, "carriage return"),
}
GOOD = {
    "plain": TEXT.encode(),
    "latin 1": b"#!/bin/sh\n# caf\xe9\ntrue\n",
    "python with crlf below": b"#!/usr/bin/env python3\nprint(1)\r\n",
    "a carriage return within a line": b"#!/bin/sh\nprintf 'a\rb'\n",
    "ELF": b"\x7fELF\x02\x01\r\n\r\n",
    "self-extracting": b"#!/bin/sh\ntail -n +3 $0 | tar x\nexit\n\x1f\x8b\x08\x00\r\n\r\n",
    "long lines": b"#!/bin/sh\necho " + b"x" * 300_000 + b"\n",
    "empty": b"",
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_script_that_no_guest_reads(name: str, tmp_path: Path) -> None:
    data, line, words = BROKEN[name]
    path = tmp_path / "s.sh"
    path.write_bytes(data)
    fault = script_fault(path, "s.sh")
    assert fault is not None and fault.hint
    assert fault.line == line and words in fault.message
    # the remedy works: it is the command behind the colon, up to the semicolon
    remedy = re.sub(r"^save [^:]*: ", "", fault.hint).removeprefix("remove what is before it: ").split(";")[0]
    subprocess.run(["sh", "-euc", remedy], cwd=tmp_path, check=True)
    again = script_fault(path, "s.sh")
    assert again is None or name == "mark and crlf", again


@pytest.mark.parametrize("name", GOOD)
def test_a_script_that_is_good(name: str, tmp_path: Path) -> None:
    path = tmp_path / "s.sh"
    path.write_bytes(GOOD[name])
    assert script_fault(path, "s.sh") is None


def test_powershell_has_its_own_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "s.ps1"
    for data in (b"Get-Date\r\n", b"\xef\xbb\xbfGet-Date\r\n", b"Get-Date\n"):
        path.write_bytes(data)
        assert windows_script_fault(path, "s.ps1") is None
    path.write_bytes("Get-Date\r\n".encode("utf-16"))
    fault = windows_script_fault(path, "s.ps1")
    assert fault is not None and "UTF-16" in fault.message and "iconv" in fault.hint


def test_the_case_is_a_fault_with_line_and_remedy() -> None:
    with pytest.raises(DefinitionError) as caught:
        load_named(case("projects"), "crlf")
    text = str(caught.value)
    assert "images/crlf.yaml:" in text and "scripts/crlf.sh:1: " in text and "sed -i" in text
