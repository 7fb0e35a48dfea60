"""No secret in output, errors, records or the process list; signatures of copy sources among them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.publish.credentials import Credential, Source
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.targets import Target
from tests.fakes.azurite import ACCOUNT, KEY

ROOT = Path(__file__).parents[3]
CANARY = "Q0FOQVJZY2FuYXJ5Q0FOQVJZY2FuYXJ5Q0FOQVJZY2FuYXJ5Q0FOQVJZY2FuYXJ5Q0FOQVJZY2FuYXJ5Q0FOQQ=="


def signature() -> str:
    from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas

    return generate_account_sas(
        ACCOUNT,
        KEY,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, write=True, delete=True, list=True, create=True, add=True, update=True),
        datetime.now(UTC) + timedelta(hours=1),
    )


def secrets_of(sas: str) -> list[str]:
    sig = next(part for part in sas.split("&") if part.startswith("sig=")).removeprefix("sig=")
    return [sig, unquote(sig)]


def test_a_signature_copies_on_the_server_too(store, capture, target, service, container, tmp_path) -> None:
    """The source of a copy carries the signature; it is nowhere afterwards."""
    from pipeline.publish.published import look

    sas = signature()
    place = tmp_path / "sas"
    place.write_text(f"?{sas}\n")
    signed = Target(url=target.url, credential=Credential("sas", Source("file", str(place))))
    first = {0: random.randbytes(1 << 20)}
    push(store, capture(first), signed, {}, options=Options())
    pushed = push(store, capture({**first, 9 << 20: b"x"}), signed, {}, options=Options())
    assert pushed.disks[0].base
    shown = f"{look('shop', signed, {})} {pushed.to_json()}"
    assert "sig=" not in shown or "sig=REDACTED" in shown
    assert not any(secret in shown for secret in secrets_of(sas))


@pytest.mark.parametrize("kind", ["key", "sas", "connection-string"])
def test_a_refused_secret_is_not_in_the_error(store, capture, target, kind) -> None:
    version = capture({0: b"x"})
    secret = {
        "key": CANARY,
        "sas": f"sv=2024-11-04&ss=b&srt=sco&sp=rwdlac&se=2030-01-01T00:00:00Z&sig={CANARY}",
        "connection-string": f"AccountName={ACCOUNT};AccountKey={CANARY};EndpointSuffix=core.windows.net",
    }[kind]
    refused = Target(url=target.url, credential=Credential(kind, Source("env", "CANARY")))
    with pytest.raises(GoldsmithError) as caught:
        push(store, version, refused, {"CANARY": secret}, options=Options())
    assert caught.value.name == "publish-refused"
    assert "CANARY" not in f"{caught.value.message} {caught.value.hint}"
    assert CANARY[:20] not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.slow
@pytest.mark.parametrize("source", ["file", "env", "command"])
def test_no_secret_in_output_records_and_processes(store, capture, target, tmp_path, source) -> None:
    version = capture({0: random.randbytes(1 << 20)})
    place = tmp_path / "key"
    place.write_text(KEY)
    words = {"file": f"file:{place}", "env": "env:THE_KEY", "command": f"command:cat {place}"}[source]
    argv = [sys.executable, "-m", "pipeline", "publish", "push", f"shop@{version.version}", str(target.url)]
    environment = {**os.environ, "GOLDSMITH_HOME": str(store.root), "GOLDSMITH_KEY": str(tmp_path / "no-key")}
    if source == "env":
        environment["THE_KEY"] = KEY
    child = subprocess.Popen(
        [*argv, "--key-from", words, "--bandwidth", "2M"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    seen: list[bytes] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.append(process.read_bytes())
                except OSError:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = child.communicate(timeout=600)[0]
    ended.set()
    watcher.join()
    assert child.returncode == 0, output
    assert any(b"--bandwidth" in line for line in seen)
    # the watcher itself, pytest, has no key in its command line either
    assert not any(KEY.encode() in line for line in seen)
    kept = b"".join(path.read_bytes() for path in store.root.rglob("*") if path.is_file())
    assert KEY not in output
    assert KEY.encode() not in kept


def test_a_url_with_a_signature_is_refused_and_not_repeated(tmp_path) -> None:
    argv = [sys.executable, "-m", "pipeline", "publish", "show", "shop"]
    argv += ["https://account.blob.core.windows.net/images?sv=1&sig=CANARYsignature"]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 2
    assert "CANARY" not in done.stdout + done.stderr
    assert "--sas-from" in done.stderr
