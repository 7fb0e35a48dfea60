"""A deployment by the real command line, on small guests: killed while it makes its VMs, then as its file says."""

from __future__ import annotations

import json
import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.guest.access import free_port
from tests.fakes import small_linux
from tests.harness import remove, wait_for
from tests.open_loop import OpenLoop
from tests.tools import skip_without
from tests.vms import SOON, Vms, make_lab

#: Requests a second at the VM that is left when its neighbour has failed.
RATE = 5
_FILE = """\
goldsmith: 1
sets:
  shop:
    image: small@golden
    count: 2
    ssh_key: key.pub
    update_domains: 2
endpoints:
  web: {{set: shop, protocol: http, public: {port}, private: 80, probe: "http:/index.html"}}
"""


@pytest.fixture
def lab(packages: Path) -> Iterator[Vms]:
    skip_without("cpio", "depmod", "dpkg-deb", "grub-mkimage", "haproxy", "mke2fs")
    made = make_lab("deployments")
    made.add_small(packages)
    yield made
    made.run("deploy", "delete", "shop", "--yes")
    left = made.left()
    remove(made.home)
    assert left == []


def show(lab: Vms) -> dict[str, Any]:
    done = lab.run("deploy", "show", "shop", "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=SOON) as reply:
            return str(reply.read().decode())
    except urllib.error.HTTPError as error:
        return str(error.code)


def check_failed_domain(lab: Vms, port: int) -> None:
    """One of two VMs loses its power under load; once the probe has seen it, the other one answers every request."""
    done = lab.run("set", "fail-domain", "shop", "1")
    assert done.returncode == 0 and done.stdout.startswith("shop-1: Stopped"), done.stdout + done.stderr

    def backends() -> dict[str, str]:
        return {vm["vm"]: vm["state"] for vm in show(lab)["endpoints"][0]["backends"]}

    wait_for("the probe", lambda: backends()["shop-1"] in ("down", "out") and backends()["shop-0"] == "up", SOON)
    with OpenLoop(f"http://127.0.0.1:{port}/index.html", RATE) as client:
        wait_for("requests", lambda: client.pages.total() + len(client.failed) >= 10 * RATE, SOON)
    assert client.failed == [] and set(client.pages) == {small_linux.PAGE.strip()}


def test_a_deployment_that_was_killed_is_finished_by_the_next_and_the_third_changes_nothing(lab: Vms) -> None:
    port = free_port()
    file = lab.key.with_name("shop.yaml")
    file.write_text(_FILE.format(port=port))
    first = lab.start("deploy", str(file))
    wait_for("its first VM", lambda: any("shop-0" in name for name in lab.domains_on()), SOON)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate(timeout=SOON)
    assert show(lab)["status"] == "unfinished"
    second = lab.run("deploy", str(file))
    assert second.returncode == 0, second.stderr
    print(second.stdout)
    found = show(lab)
    assert found["status"] == "deployed"
    assert [(vm["name"], vm["status"], vm["agent"]) for vm in found["sets"][0]["vms"]] == [
        ("shop-0", "Running", "ready"),
        ("shop-1", "Running", "ready"),
    ]
    wait_for("both VMs", lambda: {vm["state"] for vm in show(lab)["endpoints"][0]["backends"]} == {"up"}, SOON)
    assert page(port) == small_linux.PAGE
    ids = [vm["vmId"] for vm in found["sets"][0]["vms"]]
    third = lab.run("deploy", str(file))
    assert third.stdout == f"shop: everything is as {file} says\n", third.stdout + third.stderr
    assert [vm["vmId"] for vm in show(lab)["sets"][0]["vms"]] == ids
    check_failed_domain(lab, port)
    # fewer VMs are only made when the user says so
    file.write_text(_FILE.format(port=port).replace("count: 2", "count: 1"))
    refused = lab.run("deploy", str(file))
    assert refused.returncode == 2 and "the VMs shop-1 with their disks would be deleted" in refused.stderr
    assert lab.run("deploy", str(file), "--yes").returncode == 0
    assert page(port) == small_linux.PAGE and lab.run("deploy", "delete", "shop", "--yes").returncode == 0
