"""What happens to VMs when libvirtd ends, and when the whole host starts anew: it runs on a host of its own."""

from __future__ import annotations

import json
from pathlib import Path

from tests import own_host
from tests.fakes.small_linux import PAGE
from tests.harness import wait_for
from tests.vms import SOON, Vms, virsh

#: Two that report Ready and serve a page, and one that does nothing by itself.
NAMES = {"web-0": "small", "web-1": "small", "bare": "power"}


def restart_all(home: str) -> None:
    lab = Vms(Path(home, "project"), Path(home))
    for name, image in NAMES.items():
        more = ("--no-wait",) if image == "power" else ()
        lab.vm("create", name, "--image", image, "--ssh-key", str(lab.key), *more)
    before = look(lab)
    assert {each["powerState"] for each in before.values()} == {"running", "starting"}

    own_host.kill_libvirtd()
    assert {each["powerState"] for each in look(lab).values()} == {"unknown"}
    assert "libvirt does not answer" in lab.refused("stop", "web-0")
    own_host.start_libvirtd()
    assert look(lab) == before
    assert len(virsh("list", "--name").split()) == len(NAMES)
    see_pages(lab)
    lab.vm("restart", "web-0")
    wait_for(
        "its agent", lambda: lab.seen("web-0")["instanceView"]["vmAgent"]["statuses"][0]["level"] == "Info", SOON
    )

    own_host.restart_host()
    after = look(lab)
    for name in NAMES:
        assert after[name]["powerState"] == "stopped", after[name]
        assert {**after[name], "powerState": "", "status": ""} == {**before[name], "powerState": "", "status": ""}
    for name in NAMES:
        lab.vm("start", name)
    see_pages(lab)
    assert {name: (each["vmId"], each["address"]) for name, each in look(lab).items()} == {
        name: (each["vmId"], each["address"]) for name, each in before.items()
    }
    lab.vm("stop", "web-1")
    for name in NAMES:
        lab.vm("delete", name, "--yes")
    assert lab.left() == []


def look(lab: Vms) -> dict[str, dict[str, str]]:
    """What `vm list` says of each VM, as far as a restart must not change it."""
    listed = json.loads(lab.vm("list", "--json"))
    kept = ("vmId", "address", "image", "version", "powerState", "status", "provisioned")
    return {each["name"]: {key: each[key] for key in kept} for each in listed}


def see_pages(lab: Vms) -> None:
    for name in (name for name, image in NAMES.items() if image == "small"):
        wait_for(f"the page of {name}", lambda name=name: PAGE in lab.page(name), SOON)
