"""A real server (Azurite) on loopback, and small masters to publish to it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import pytest

from pipeline.base.store import Store
from pipeline.cache.digests import CHUNK, chunk_digests, flat_digest
from pipeline.gallery import DISK, Gallery, Version
from pipeline.publish.credentials import Credential, Source
from pipeline.publish.targets import Target

#: The account and the key that Azurite publishes for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: Where tools/setup.sh tests installs Azurite.
INSTALLED = Path(__file__).parents[3] / ".venv" / "node" / "node_modules" / ".bin" / "azurite-blob"
SIZE = 24 << 20


def find_azurite() -> str | None:
    return os.environ.get("GOLDSMITH_AZURITE") or (
        str(INSTALLED) if INSTALLED.exists() else shutil.which("azurite-blob")
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an account on a server of our own."""
    program = find_azurite()
    if program is None:
        pytest.skip("azurite-blob not installed (make test installs what tests need)")
    folder, port = tmp_path_factory.mktemp("azurite"), free_port()
    words = [program, "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    words += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        wait_until_it_answers(f"http://127.0.0.1:{port}/")
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def wait_until_it_answers(url: str) -> None:
    until = time.monotonic() + 60
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except HTTPError:
            return
        except (URLError, OSError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "account.key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def service(azurite: str):
    """Azure's own client of that account, to look at the server behind goldsmith's back."""
    from azure.core.credentials import AzureNamedKeyCredential
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(azurite, credential=AzureNamedKeyCredential(ACCOUNT, KEY))


@pytest.fixture
def container(service, tmp_path: Path) -> str:
    """A new container's name."""
    name = f"t{tmp_path.name.lower().replace('_', '-')[-30:].strip('-')}-{os.urandom(4).hex()}".replace("--", "-")
    service.create_container(name)
    return name


@pytest.fixture
def target(azurite: str, container: str, key_file: Path) -> Target:
    return Target(url=f"{azurite}/{container}", credential=Credential("key", Source("file", str(key_file))))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").ensure()


Capture = Callable[..., Version]


@pytest.fixture
def capture(store: Store, tmp_path: Path) -> Capture:
    """Makes a version of image `shop` whose disk has these pieces, by their offsets."""

    def make(pieces: dict[int, bytes], *, size: int = SIZE, into: Store = store) -> Version:
        disk = tmp_path / f"d-{os.urandom(4).hex()}.vhd"
        with disk.open("wb") as file:
            file.truncate(size + 512)
            for offset, data in {**pieces, size: b"conectix".ljust(512, b"\1")}.items():
                file.seek(offset)
                file.write(data)

        def manifest(version: str) -> dict[str, object]:
            digests = chunk_digests(disk)
            record = {"size": digests.size, "virtual_size": size, "sha256": flat_digest(disk)}
            record |= {"chunk_size": CHUNK, "chunks_sha256": list(digests.chunks)}
            fields = {"created": "2026-11-21T10:00:00Z", "generations": [1], "checks": [], "disk": record}
            return {"name": "shop", "version": version, **fields}

        gallery = Gallery(into.gallery)
        version = gallery.capture("shop", {DISK: disk}, [], manifest)
        gallery.promote(version)
        disk.unlink(missing_ok=True)
        return gallery.get(f"shop@{version.version}")

    return make
