"""Publishing through a proxy that fails and lies, and publishers that are killed: each ends whole, or with a name.

    python -m tests.campaigns publish-faults

A case is KIND@OPERATION#N of `tests/fakes/blob_proxy.py`, behind `whole` or `night`: what is published, a first
version or a second one. Afterwards either the new version is whole on the server, or the error has a name and
the index names the old version, which is whole; and the next push, without faults, ends whole.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.gallery import Version
from pipeline.publish.credentials import Credential, Source
from pipeline.publish.page_blob import Options
from pipeline.publish.push import push
from pipeline.publish.ranges import PAGE_LIMIT
from pipeline.publish.retries import Retries
from pipeline.publish.targets import Target
from tests.fakes.azurite import KEY, MISSING, find_azurite, open_service, running
from tests.fakes.blob_proxy import BlobProxy
from tests.fakes.small_master import make_version
from tests.harness import new_home, remove, wanted

MIB = 1 << 20
PARALLEL = 2
#: Bytes of a disk: data of nine pages in the first version, of four changed ones in the second.
SIZE = 48 * MIB
_PASSING = ("throttle", "many", "error", "cut-before", "cut-after")


def all_cases() -> list[str]:
    cases = []
    for kind in _PASSING:
        cases += [f"whole {kind}@write#{n}" for n in (1, 2, 5, 9)]
        cases += [f"night {kind}@write#{n}" for n in (1, 3)]
        cases += [f"whole {kind}@{what}#1" for what in ("create", "read", "file", "index", "lease", "look", "fetch")]
        cases += [f"night {kind}@{what}#1" for what in ("copy", "clear", "read", "facts", "index", "label", "look")]
        cases += [f"{which} {kind}@{what}+" for which, what in (("whole", "write#3"), ("night", "write#2"))]
        cases += [f"night {kind}@{what}+" for what in ("read#1", "index#1", "copy#1", "any#4")]
    cases += [f"{which} false-success@write#{n}" for which in ("whole", "night") for n in (1, 2, 4)]
    cases += [f"whole false-success@{what}#1" for what in ("create", "file", "index")]
    cases += [f"night false-success@{what}#1" for what in ("clear", "file", "index", "copy")]
    cases += [f"{which} false-success@write#2+" for which in ("whole", "night")]
    cases += [f"{which} garbage@{what}#1" for which in ("whole", "night") for what in ("write", "file", "index")]
    cases += [f"{which} garbage@write#1+" for which in ("whole", "night")]
    for kind in ("cut-body", "wrong-length", "wrong-data"):
        cases += [f"{which} {kind}@read#{n}" for which in ("whole", "night") for n in (1, 2)]
        cases += [f"night {kind}@{what}#1" for what in ("fetch", "look")]
        cases += [f"night {kind}@read#1+"]
    cases += [f"{which} lease@write#{n}" for which in ("whole", "night") for n in (1, 2, 3)]
    cases += [f"whole kill@write#{n}" for n in range(1, 10)]
    cases += [f"night kill@write#{n}" for n in range(1, 5)]
    cases += [f"{which} kill@{what}#1" for which in ("whole", "night") for what in ("read", "file", "index", "label")]
    cases += ["night kill@copy#1", "night kill@clear#1", "whole kill@create#1", "whole kill@lease#1"]
    cases += [f"{which} full@write#{n}" for which in ("whole", "night") for n in (1, 2, 4)]
    return cases


@dataclass
class Bench:
    """A server, a proxy before it, and a store with two versions; each case has a container of its own."""

    url: str
    folder: Path
    first: Version
    second: Version
    key: Path

    def __post_init__(self) -> None:
        port = int(self.url.split(":")[2].split("/")[0])
        self.proxy = BlobProxy(("127.0.0.1", port))
        self.service = open_service(self.url)
        self.numbers = 0

    @property
    def store(self) -> Store:
        return Store(self.folder / "store")

    def new_target(self) -> Target:
        self.numbers += 1
        self.container = f"case-{self.numbers}"
        self.service.create_container(self.container)
        url = f"http://127.0.0.1:{self.proxy.port}/devstoreaccount1/{self.container}"
        return Target(url=url, credential=Credential("key", Source("file", str(self.key))), parallel=PARALLEL)

    def index(self) -> dict | None:
        from azure.core.exceptions import ResourceNotFoundError

        try:
            text = self.blob("shop/index.json").download_blob().readall()
            return json.loads(text)
        except ValueError:
            return {"newest": None, "versions": [], "damaged": True}
        except ResourceNotFoundError:
            return None

    def blob(self, name: str):
        return self.service.get_blob_client(self.container, name)

    def is_whole(self, version: Version) -> bool:
        """Whether the index's newest version is this one, and its blob the same, byte for byte."""
        index = self.index()
        if index is None or index["newest"] != version.version:
            return False
        entry = next(each for each in index["versions"] if each["version"] == version.version)
        return self.blob(f"{entry['folder']}/disk.vhd").download_blob().readall() == version.disk.read_bytes()


def open_bench(url: str, folder: Path) -> Bench:
    store = Store(folder / "store").ensure()
    rng = random.Random(24)
    first = {4 * MIB * n: rng.randbytes(3 * MIB) for n in range(9)}
    second = {**first, 0: b"\1" + first[0][1:], 12 * MIB: rng.randbytes(3 * MIB), 40 * MIB: rng.randbytes(MIB)}
    second[16 * MIB] = b""
    second[20 * MIB] = second[20 * MIB][: 2 * MIB] + rng.randbytes(MIB)
    key = folder / "account.key"
    key.write_text(KEY)
    made = [make_version(store, folder, pieces, SIZE) for pieces in (first, second)]
    return Bench(url, folder, made[0], made[1], key)


def run_case(bench: Bench, case: str) -> dict[str, object]:
    """One case; its row has `ok`, and why it is not."""
    which, fault = case.split(" ")
    kind = fault.split("@")[0]
    target = bench.new_target()
    version = bench.first
    if which == "night":
        bench.proxy.reset()
        push(bench.store, bench.first, target, {}, options=Options(PARALLEL))
        version = bench.second
    bench.proxy.reset(fault if kind != "full" else f"kill@{fault.split('@')[1]}")
    ended = _push_killed(bench, version, target) if kind == "kill" else _push(bench, version, target, kind)
    happened, sent = bench.proxy.happened, list(bench.proxy.pages)
    bench.proxy.reset()
    bench.proxy.hook = lambda _kind, _path: None
    wrong = [] if happened else ["the fault did not happen"]
    if kind == "full" and ended != "publish-journal":
        wrong.append("the full disk was not noticed")
    if ended == "published" and not bench.is_whole(version):
        wrong.append("it ended well, but is not whole")
    if ended != "published" and kind != "kill" and which == "night" and not bench.is_whole(bench.first):
        wrong.append("the old version is no longer whole")
    if ended != "published" and kind != "kill" and which == "whole" and bench.index() is not None:
        wrong.append("the index names a version that was not published")
    _break_leases(bench)
    again = _push(bench, version, target, "")
    if again != "published" or not bench.is_whole(version):
        wrong.append(f"the next push: {again}")
    if kind == "kill":
        unique = {page[:2]: page[2] for page in (*sent, *bench.proxy.pages)}
        twice = sum(page[2] for page in (*sent, *bench.proxy.pages)) - sum(unique.values())
        if twice > PARALLEL * PAGE_LIMIT and "copy" not in fault:
            wrong.append(f"{twice} bytes were sent twice")
    bench.service.delete_container(bench.container)
    return {"case": case, "ended": ended, "ok": not wrong, "why": "; ".join(wrong)}


def _push(bench: Bench, version: Version, target: Target, kind: str) -> str:
    """Push in this process; how it ended."""
    journal = []

    def hook(_kind: str, path: str) -> None:
        if kind == "lease":
            blob = bench.blob(path.split(f"{bench.container}/")[1])
            from azure.storage.blob import BlobLeaseClient

            BlobLeaseClient(blob).break_lease(0)
            blob.acquire_lease(lease_duration=-1)
        elif kind == "full":
            # from now on the journal's file takes nothing more, as on a full disk; earlier cases left theirs, closed
            journal.extend(_fill(path_of) for path_of in (bench.store.root / "publish").glob("*.journal"))

    bench.proxy.hook = hook
    try:
        push(
            bench.store,
            version,
            target,
            {},
            options=Options(PARALLEL),
            retries=Retries(attempts=4, first=0.02, longest=0.1),
        )
        return "published"
    except GoldsmithError as error:
        return error.name if error.hint else f"{error.name}, without a hint"
    finally:
        for fd in journal:
            os.close(fd)


def _fill(path: Path) -> int:
    """Make every write to the journal's open file fail with ENOSPC: its descriptors become /dev/full."""
    full = os.open("/dev/full", os.O_WRONLY)
    for entry in Path("/proc/self/fd").iterdir():
        try:
            if entry.readlink() == path:
                os.dup2(full, int(entry.name))
        except OSError:
            continue
    return full


def _push_killed(bench: Bench, version: Version, target: Target) -> str:
    """Push in a child, which the proxy kills at the fault."""
    words = [sys.executable, "-m", "pipeline", "publish", "push", f"shop@{version.version}", str(target.url)]
    words += ["--key-from", f"file:{bench.key}", "--parallel", str(PARALLEL)]
    environment = {**os.environ, "GOLDSMITH_HOME": str(bench.store.root), "GOLDSMITH_KEY": str(bench.folder / "none")}
    started = threading.Event()
    child: list[subprocess.Popen[str]] = []

    def hook(_kind: str, _path: str) -> None:
        started.wait(30)
        child[0].kill()
        child[0].wait()

    bench.proxy.hook = hook
    child.append(
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    )
    started.set()
    output = child[0].communicate(timeout=120)[0]
    return "killed" if child[0].returncode == -9 else f"ended with {child[0].returncode}: {output[-200:]}"


def _break_leases(bench: Bench) -> None:
    """As if a minute had passed, or the holder of the lease had ended. A killed publisher's own lease is kept."""
    from azure.storage.blob import BlobLeaseClient

    for blob in bench.service.get_container_client(bench.container).list_blobs():
        if blob.lease.state == "leased" and blob.lease.duration == "infinite":
            BlobLeaseClient(bench.blob(blob.name)).break_lease(0)


def main() -> int:
    from tests.campaigns.__main__ import Page

    if find_azurite() is None:
        print(MISSING, file=sys.stderr)
        return 2
    began, home = time.monotonic(), new_home("publish-faults")
    page = Page("publish_faults")
    rows = []
    try:
        (home / "server").mkdir()
        with running(home / "server") as url:
            bench = open_bench(url, home)
            for case in wanted(all_cases()):
                rows.append(run_case(bench, case))
                page.say(rows[-1])
    finally:
        remove(home)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
