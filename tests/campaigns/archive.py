"""A small Debian archive that a test makes and changes: one package, signed, served at a private address of the host.

The host asks it by an apt configuration of its own, which apt-get and apt-config in PATH name meanwhile: goldsmith's
children get no other variable. Because apt's mirrors are open to guests, each at its port, a guest reaches it too.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import lzma
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

#: A private address that the host has while the archive is served.
ADDRESS = "10.77.8.1"
SUITE, PACKAGE = "bookworm", "goldsmith-night"
#: The package holds so many files of a MiB, of which each version changes some.
FILES, CHANGED = 8, 2


@dataclass(frozen=True)
class Archive:
    root: Path
    port: int

    @property
    def line(self) -> str:
        """The guest's line of sources."""
        return f"deb [trusted=yes] http://{ADDRESS}:{self.port} {SUITE} main"

    def release(self, number: int, after_unpacking: str = "") -> str:
        """Put version 1.NUMBER of the package in place of the last one; the version.

        `after_unpacking`: a shell script that the package runs when it is configured.
        """
        version = f"1.{number}"
        pool = self.root / "pool"
        shutil.rmtree(pool, ignore_errors=True)
        tree = self.root / "tree"
        _payload(tree / "opt/night", number)
        (tree / "DEBIAN").mkdir(parents=True, exist_ok=True)
        (tree / "DEBIAN/control").write_text(
            f"Package: {PACKAGE}\nVersion: {version}\nArchitecture: amd64\nMaintainer: nobody <nobody@example.org>\n"
            "Description: what changes at night\n"
        )
        script = tree / "DEBIAN/postinst"
        script.unlink(missing_ok=True)
        if after_unpacking:
            script.write_text(f"#!/bin/sh\n{after_unpacking}\n")
            script.chmod(0o755)
        pool.mkdir()
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "-b", tree, pool / f"{PACKAGE}_{version}_amd64.deb"],
            check=True,
            capture_output=True,
        )
        self._index()
        return version

    def _index(self) -> None:
        folder = self.root / "dists" / SUITE
        binary = folder / "main/binary-amd64"
        binary.mkdir(parents=True, exist_ok=True)
        listed = subprocess.run(
            ["dpkg-scanpackages", "-m", "pool"], cwd=self.root, check=True, capture_output=True
        ).stdout
        (binary / "Packages").write_bytes(listed)
        (binary / "Packages.xz").write_bytes(lzma.compress(listed))
        names = ("main/binary-amd64/Packages", "main/binary-amd64/Packages.xz")
        sums = "".join(
            f" {hashlib.sha256((folder / name).read_bytes()).hexdigest()} {(folder / name).stat().st_size} {name}\n"
            for name in names
        )
        release = self.root / "Release"
        release.write_text(
            f"Origin: Debian\nLabel: Debian\nSuite: stable\nCodename: {SUITE}\nArchitectures: amd64\n"
            f"Components: main\nDate: Sat, 21 Nov 2026 00:00:00 UTC\nSHA256:\n{sums}"
        )
        (folder / "InRelease").unlink(missing_ok=True)
        subprocess.run(
            [
                "gpg",
                "--homedir",
                self.root / "gpg",
                "--batch",
                "-q",
                "--clearsign",
                "-o",
                folder / "InRelease",
                release,
            ],
            check=True,
            capture_output=True,
        )


def _payload(folder: Path, number: int) -> None:
    """Files of noise; those that no later version changed are what they were in an earlier one."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(FILES):
        # the last version in which this file changed
        last = max(
            (n for n in range(number + 1) if index in {(n * CHANGED + k) % FILES for k in range(CHANGED)}), default=0
        )
        (folder / f"part-{index}").write_bytes(random.Random(f"{index} {last}").randbytes(1 << 20))


@contextlib.contextmanager
def serve(root: Path) -> Iterator[Archive]:
    """An archive with one version in it; meanwhile it is the host's own for this process and its children."""
    (root / "gpg").mkdir(parents=True, mode=0o700)
    subprocess.run(
        [
            "gpg",
            "--homedir",
            root / "gpg",
            "--batch",
            "-q",
            "--passphrase",
            "",
            "--quick-gen-key",
            "night@example.org",
        ],
        check=True,
        capture_output=True,
    )
    handler = functools.partial(_Quiet, directory=str(root))
    subprocess.run(["ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo"], check=True)
    server = http.server.ThreadingHTTPServer((ADDRESS, 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    archive = Archive(root, server.server_address[1])
    before = os.environ["PATH"]
    try:
        archive.release(0)
        os.environ["PATH"] = f"{_programs(archive)}:{before}"
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True)
        yield archive
    finally:
        os.environ["PATH"] = before
        server.shutdown()
        server.server_close()
        thread.join()
        subprocess.run(["ip", "address", "delete", f"{ADDRESS}/32", "dev", "lo"], check=False)


def _programs(archive: Archive) -> Path:
    """A folder with apt's programs, which read the configuration of the archive."""
    configuration = _configuration(archive)
    folder = archive.root / "programs"
    folder.mkdir()
    for name in ("apt-get", "apt-config"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nAPT_CONFIG={configuration} exec {shutil.which(name)} "$@"\n')
        program.chmod(0o755)
    return folder


def _configuration(archive: Archive) -> Path:
    apt = archive.root / "apt"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True)
    (apt / "sources.list").write_text(f"deb [trusted=yes] http://{ADDRESS}:{archive.port} {SUITE} main\n")
    path = apt / "apt.conf"
    path.write_text(
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\n'
        f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}/cache";\nAPT::Sandbox::User "root";\n'
        'Acquire::http::Proxy "DIRECT";\n'
    )
    return path


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass
