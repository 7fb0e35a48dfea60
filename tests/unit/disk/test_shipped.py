"""Whose a file is: by dpkg, apk, pip and npm, unchanged; what was changed or added is nobody's but the build's."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from pathlib import Path

import pytest

from tests.fakes.secret_forms import github, pem
from tests.unit.disk.test_secret_search import findings, write

NOW = 1_700_000_000


def shipped_files() -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Files that packages brought, and the records that say so."""
    files = {
        "usr/share/golang/testdata/server.pem": pem(),
        "etc/app/example.pem": pem(),
        "usr/lib/python3/dist-packages/x/keys.py": b'KEY = """' + pem() + b'"""\n',
        "usr/local/lib/python3.11/dist-packages/y/keys.py": b'KEY = """' + pem() + b'"""\n',
        "opt/app/node_modules/ssh/test/id_rsa.pem": pem(),
        "opt/apk/tests/key.pem": pem(),
    }
    debian = ["usr/share/golang/testdata/server.pem", "usr/lib/python3/dist-packages/x/keys.py"]
    md5 = {name: hashlib.md5(files[name]).hexdigest() for name in [*debian, "etc/app/example.pem"]}
    wheel = "usr/local/lib/python3.11/dist-packages"
    sha256 = base64.urlsafe_b64encode(hashlib.sha256(files[f"{wheel}/y/keys.py"]).digest()).decode().rstrip("=")
    sha1 = base64.b64encode(hashlib.sha1(files["opt/apk/tests/key.pem"]).digest()).decode()
    lock = {"packages": {"node_modules/ssh": {"version": "1.0.0", "integrity": "sha512-x"}}}
    records = {
        "var/lib/dpkg/info/golang.list": "".join(f"/{name}\n" for name in [*debian, "etc/app/example.pem"]).encode(),
        "var/lib/dpkg/info/golang.md5sums": "".join(f"{md5[name]}  {name}\n" for name in debian).encode(),
        "var/lib/dpkg/status": b"Package: golang\nStatus: install ok installed\nVersion: 1\n"
        + b"Conffiles:\n /etc/app/example.pem "
        + md5["etc/app/example.pem"].encode()
        + b"\nDescription: x\n",
        f"{wheel}/y-1.dist-info/RECORD": f"y/keys.py,sha256={sha256},1\ny-1.dist-info/RECORD,,\n".encode(),
        "opt/app/node_modules/.package-lock.json": json.dumps(lock).encode(),
        "lib/apk/db/installed": f"P:x\nF:opt/apk/tests\nR:key.pem\nZ:Q1{sha1}\n\n".encode(),
    }
    # Python's compiled copy, which no record names
    cached = {"usr/lib/python3/dist-packages/x/__pycache__/keys.cpython-311.pyc": b"\xa7\r\r\n" + files[debian[1]]}
    return {**files, **cached}, records


def built(folder: Path, changes: dict[str, bytes]) -> list[str]:
    files, records = shipped_files()
    first = folder / "tree"
    for name, data in {**files, **records, **changes}.items():
        path = first / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (NOW, NOW + (100 if name in changes else 0)))
    found = findings(write(folder, {}))
    return [line for name in ("private-keys", "access-tokens") for line in found[name]]


def test_what_packages_brought_is_everybodys(tmp_path: Path) -> None:
    assert built(tmp_path, {}) == []


@pytest.mark.parametrize("name", shipped_files()[0])
def test_a_file_that_was_changed_is_not(tmp_path: Path, name: str) -> None:
    found = built(tmp_path, {name: b"# mine\n" + pem()})
    if name.endswith(".pyc"):
        # its source is the package's, unchanged: that it was compiled from it is believed
        assert found == []
    else:
        assert [line for line in found if line.endswith(f"/{name}")], found


def test_a_file_among_a_package_is_not(tmp_path: Path) -> None:
    names = ["opt/app/node_modules/ssh/lib/own.js", "usr/local/lib/python3.11/dist-packages/y/own.py",
             "usr/share/golang/testdata/own.txt"]  # fmt: skip
    found = built(tmp_path, {name: f"t = '{github()}'\n".encode() for name in names})
    assert sorted(line.split(" in ")[1] for line in found) == sorted(f"/{name}" for name in names)


def test_a_copy_of_a_public_key_is_public(tmp_path: Path) -> None:
    files, records = shipped_files()
    key = files["usr/share/golang/testdata/server.pem"]
    found = findings(write(tmp_path, {**files, **records, "srv/copy.pem": key, "srv/own.pem": pem()}))
    assert found["private-keys"] == ["a private key in /srv/own.pem"]
