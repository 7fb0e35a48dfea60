"""Azurite, Microsoft's storage emulator, on loopback; its data goes when it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from pipeline.guest.access import free_port

#: The account and the key that Azurite publishes for everybody.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
#: Where tools/setup.sh tests installs it.
INSTALLED = Path(__file__).parents[2] / ".venv" / "node" / "node_modules" / ".bin" / "azurite-blob"
MISSING = "azurite-blob not installed (make test installs what tests need)"


def find_azurite() -> str | None:
    return str(INSTALLED) if INSTALLED.exists() else shutil.which("azurite-blob")


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """A server that keeps its data in `folder`: the URL of its account."""
    port = free_port()
    words = [str(find_azurite()), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder)]
    words += ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    server = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait_until_it_answers(f"http://127.0.0.1:{port}/", server)
        yield f"http://127.0.0.1:{port}/{ACCOUNT}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _wait_until_it_answers(url: str, server: subprocess.Popen[bytes]) -> None:
    """Node reads hundreds of modules at its start, which takes minutes on a busy host."""
    until = time.monotonic() + 600
    while True:
        try:
            urlopen(url, timeout=5).close()
            return
        except HTTPError:
            return
        except (URLError, OSError):
            if time.monotonic() > until or server.poll() is not None:
                raise
            time.sleep(0.1)


def open_service(url: str):
    """Azure's own client of the account, to look at the server behind goldsmith's back."""
    from azure.core.credentials import AzureNamedKeyCredential
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(url, credential=AzureNamedKeyCredential(ACCOUNT, KEY))
