"""A set of real guests is upgraded under load: python -m tests.campaigns.rolling_upgrade

Three VMs in two update domains stand behind one endpoint; an open-loop client sends RATE requests a second. The set
is upgraded to a good version, then to one whose page is an error: that upgrade must stop and go back. Failed is a
request whose answer is not 200, or takes longer than ten seconds; none may fail.

GOLDSMITH_IMAGE names the golden master, debian-13 by default, of the store that GOLDSMITH_HOME names, where nothing
is changed. The versions are copies of it with a web server, in a store of the campaign. It needs a quiet host: the
guests that serve share its processors with those that boot. The page is docs/reports/campaign-rolling-upgrade.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pipeline.systems.registry  # noqa: F401  a VM's system is found by its name
from pipeline.base.errors import BuildError
from pipeline.base.store import Store
from pipeline.cache.digests import chunk_digests, flat_digest
from pipeline.cli.environment import locate_store
from pipeline.disk import open_disk
from pipeline.gallery import DISK, Gallery, Version
from pipeline.guest.access import free_port
from pipeline.instances.endpoints import read_states
from pipeline.instances.fleet import Fleet
from pipeline.operations.reimage import version_reference
from pipeline.operations.upgrade import upgrade_set
from tests.campaigns.__main__ import Page, Row
from tests.campaigns.boots import write
from tests.campaigns.clones import changed
from tests.harness import Lab, new_home, remove, wait_for
from tests.open_loop import OpenLoop
from tests.vms import SOON

IMAGE = os.environ.get("GOLDSMITH_IMAGE", "debian-13")
VMS, UPDATE_DOMAINS, RATE = 3, 2, 50
#: Seconds before the first and after the last change of a set under load.
CALM = 20.0
#: Seconds for a VM of the bad version to pass its probe, which it never does.
PROBE = 60.0
#: The part of the requests that the client must have sent: a host that is too busy for it proves nothing.
SENT = 0.9
MACHINE = {"cpus": 1, "memory": 768 << 20}

#: The page is the version's word and the name of the machine; of the version `bad` it is an error.
SERVER = """\
import asyncio, socket
word = open("/etc/page").read().strip()
status = "500 Internal Server Error" if word == "bad" else "200 OK"
class Page(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.data = transport, b""
    def data_received(self, data):
        self.data += data
        while b"\\r\\n\\r\\n" in self.data:
            head, _, self.data = self.data.partition(b"\\r\\n\\r\\n")
            page = f"{word} {socket.gethostname()}"
            self.transport.write(f"HTTP/1.1 {status}\\r\\nContent-Length: {len(page)}\\r\\n\\r\\n{page}".encode())
            if b"HTTP/1.0" in head:
                self.transport.close()
async def serve():
    server = await asyncio.get_running_loop().create_server(Page, port=80, backlog=1024)
    await server.serve_forever()
asyncio.run(serve())
"""
UNIT = "[Service]\nExecStart=/usr/bin/python3 /usr/local/lib/page.py\nRestart=always\n"
_UNITS = "/etc/systemd/system"
_ENABLE = f"symlink {_UNITS}/multi-user.target.wants/page.service {_UNITS}/page.service"


def make_version(master: Version, gallery: Gallery, word: str) -> str:
    """A version of `web` whose page has the word. Returns its reference. It is not golden."""
    with tempfile.TemporaryDirectory(dir=gallery.root.parent / "tmp") as folder:
        files = write(
            ("/etc/page", f"{word}\n"), ("/usr/local/lib/page.py", SERVER), (f"{_UNITS}/page.service", UNIT),
            also=(_ENABLE,),
        )  # fmt: skip
        with open_disk(master.disk, "vpc") as opened:
            commands = files(opened.root, Path(folder))
        disk = changed(master.disk, Path(folder) / DISK, commands)
        disk.chmod(0o444)
        digests = chunk_digests(disk)
        described = {
            **master.manifest["disk"],
            "size": digests.size,
            "sha256": flat_digest(disk),
            "chunks_sha256": list(digests.chunks),
        }

        def manifest(version: str) -> dict[str, object]:
            own = {"name": "web", "version": version, "machine": MACHINE, "disk": described, "checks": []}
            return {**master.manifest, **own}

        return version_reference(gallery.capture("web", {DISK: disk}, [], manifest))


class Site:
    """The set with its endpoint."""

    def __init__(self, lab: Lab, fleet: Fleet) -> None:
        self.lab, self.fleet = lab, fleet
        self.url = f"http://127.0.0.1:{free_port()}/"

    def run(self, *words: str) -> str:
        done = self.lab.run(*words)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set_up(self, image: str, key: Path) -> None:
        words = ["--image", image, "--ssh-key", str(key), "--set", "shop", "--update-domains", str(UPDATE_DOMAINS)]
        self.run("vm", "create", "web", *words, "--count", str(VMS), "--resource-disk", "none")
        port = self.url.rpartition(":")[2].strip("/")
        words = ["--protocol", "http", "--public", port, "--private", "80", "--set", "shop", "--probe", "http:/"]
        self.run("endpoint", "add", "web", *words)
        self.wait_up()

    def wait_up(self) -> None:
        """Wait until all VMs get requests. It asks HAProxy alone: a command at each look would be a load."""
        endpoint = self.fleet.endpoints.get("web")
        wait_for(
            "all VMs", lambda: sum(each.is_up for each in read_states(self.fleet, endpoint).values()) == VMS, SOON
        )

    def versions(self) -> Counter[str]:
        found = json.loads(self.run("set", "show", "shop", "--json"))["vms"]
        return Counter(f"{vm['image']}@{vm['version']}" for vm in found)

    def under_load(self, what: str, change: Callable[[], str], expected: str) -> Row:
        """The row of a change of the set under load; afterwards all VMs must have the version `expected`."""
        began = time.monotonic()
        with OpenLoop(self.url, RATE) as client:
            wait_for("some requests", lambda: client.sent >= CALM * RATE, SOON)
            outcome = change()
            self.wait_up()
            last = client.sent
            wait_for("the last requests", lambda: client.sent >= last + CALM * RATE, SOON)
            seconds = time.monotonic() - began
        enough = client.sent >= SENT * RATE * seconds
        return {
            "upgrade": what,
            "outcome": outcome,
            "s": round(seconds),
            "requests": client.sent,
            "a second": round(client.sent / seconds, 1),
            "failed": len(client.failed),
            "slowest, s": round(client.slowest, 2),
            "answered by": ", ".join(f"{page}: {count}" for page, count in sorted(client.pages.items())),
            "the first failures": "; ".join(client.failed[:3]),
            "ok": not client.failed and enough and self.versions() == {expected: VMS},
        }


def run_campaign(page: Page, home: Path, project: Path, master: Version) -> list[Row]:
    lab = Lab(project, home)
    fleet = Fleet(Store(home).ensure())
    old, new, bad = (make_version(master, fleet.gallery, word) for word in ("old", "new", "bad"))
    key = home / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    site = Site(lab, fleet)

    def good() -> str:
        return site.run("set", "upgrade", "shop", "--to", new).splitlines()[-1]

    def stopped() -> str:
        fleet.keep_fabric()
        try:
            upgrade_set(fleet, "shop", bad, page.say, probe_for=PROBE)
        except BuildError as error:
            assert error.name == "set-upgrade-stopped", error
            return error.message
        raise AssertionError("the bad version was not noticed")

    rows: list[Row] = []
    try:
        site.set_up(old, key.with_suffix(".pub"))
        for what, change in (("to a good version", good), ("to a bad version", stopped)):
            rows.append(site.under_load(what, change, new))
            page.say(rows[-1])
    finally:
        lab.run("endpoint", "remove", "web")
        lab.run("set", "delete", "shop", "--yes")
    return rows


def main() -> int:
    began = time.monotonic()
    master = Gallery(locate_store().gallery).get(IMAGE)
    page, home, project = Page("rolling_upgrade"), new_home("rolling-upgrade"), new_home("rolling-upgrade-project")
    try:
        rows = run_campaign(page, home, project, master)
    finally:
        remove(home)
        remove(project)
    page.write(rows, f"{time.monotonic() - began:.0f} s")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
