"""The second card with the MAC of the first: what the clone prints is judged, and its configuration is prepared."""

from __future__ import annotations

import collections
import re
import subprocess
from pathlib import Path

import pytest

from pipeline.prove.result import CloneResult
from pipeline.systems.debian.tree import files
from pipeline.systems.linux import second_card
from pipeline.systems.linux.second_card import CHECK, judge_second_card, prepare_script

MAC = "00:0d:3a:01:02:03"
GOOD = {"card": "ens5", "address": "", "first": "10.0.0.6/29 ", "mac": "00:0D:3A:01:02:03", "state": "unmanaged"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, ""),
        ({"address": "10.0.0.6/29 "}, "ens5 got an address of its own: 10.0.0.6/29"),
        ({"first": " "}, "no other card has an address since ens5 was plugged"),
        # nobody has looked at the card: that it has no address shows nothing
        ({"state": "pending"}, "systemd-networkd has not decided about ens5: it waits for udev"),
        # without networkd
        ({"state": ""}, ""),
        ({"card": ""}, "the clone's kernel does not see the card"),
        ({"mac": "52:54:00:00:00:01"}, "ens5 has the MAC 52:54:00:00:00:01, not 00:0d:3a:01:02:03"),
    ],
)
def test_the_second_card_must_have_no_address_while_the_first_keeps_its_own(
    change: dict[str, str], message: str
) -> None:
    result = CloneResult("gen1-two-cards")
    judge_second_card(result, "".join(f"{name}={value}\n" for name, value in {**GOOD, **change}.items()), MAC)
    assert result.failures == ([f"{CHECK}: {message}"] if message else [])
    assert result.checks[CHECK] == (message or "ens5 has no address; 10.0.0.6/29 stays")


def prepared(folder: Path) -> dict[str, str]:
    """The files of a clone below `folder`, after it was prepared."""
    script = prepare_script(5)
    script = re.sub(r"in /etc /run /usr/lib /lib;", f"in {folder}/etc;", script)
    script = script.replace(
        "in /etc/udev/rules.d/*.rules /run/", f"in {folder}/etc/udev/rules.d/*.rules {folder}/run/"
    )
    script = script[: script.index("udevadm")]
    subprocess.run(["sh", "-s"], input=script, text=True, check=True)
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_rules_for_a_virtual_function_hold_for_the_card_that_stands_in(tmp_path: Path) -> None:
    written = {
        "etc/systemd/network/10-vf.network": "[Match]\nDriver=mana mlx4_en mlx5_core\n\n[Link]\nUnmanaged=yes\n",
        "etc/systemd/network/90-dhcp.network": "[Match]\nName=en*\n",
        # as azure-vm-utils has it
        "etc/udev/rules.d/68-vf.rules": 'ACTION!="remove", DRIVERS=="mana|mlx5_core|mlx4_core", '
        'ATTR{flags}=="0x?[89ABCDEF]??", ENV{NM_UNMANAGED}="1"\n',
        "etc/systemd/network/10-netplan-eth0.link": f"[Match]\nPermanentMACAddress={MAC}\n[Link]\nName=eth0\n",
        "etc/systemd/network/73-usb.link": "[Match]\nName=usb*\n[Link]\nName=usb\n",
        "run/udev/rules.d/99-netplan-eth0.rules": 'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="?*", '
        f'ATTR{{address}}=="{MAC}", NAME="eth0"\n',
        "etc/udev/rules.d/70-own.rules": 'SUBSYSTEM=="net", DRIVERS=="?*", NAME="lan%n"\n',
        "etc/hosts": "127.0.0.1 mlx5_core\n",
    }
    for name, text in written.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    changed = prepared(tmp_path)
    assert changed["etc/systemd/network/10-vf.network"].startswith("[Match]\nDriver=mana mlx4_en e1000\n")
    assert changed["etc/udev/rules.d/68-vf.rules"] == (
        'ACTION!="remove", DRIVERS=="mana|e1000|mlx4_core", ENV{NM_UNMANAGED}="1"\n'
    )
    # as on Azure, where the first card has a driver that the second has not
    assert changed["etc/systemd/network/10-netplan-eth0.link"].startswith(
        "[Match]\nDriver=virtio_net\nPermanentMACAddress="
    )
    assert changed["run/udev/rules.d/99-netplan-eth0.rules"] == (
        f'SUBSYSTEM=="net", ACTION=="add", DRIVERS=="virtio_net", ATTR{{address}}=="{MAC}", NAME="eth0"\n'
    )
    same = ("systemd/network/90-dhcp.network", "systemd/network/73-usb.link", "udev/rules.d/70-own.rules", "hosts")
    for name in same:
        assert changed[f"etc/{name}"] == written[f"etc/{name}"]


def test_the_base_of_debian_names_the_driver_that_is_stood_in_for() -> None:
    text = files(collections.defaultdict(str), ())["etc/systemd/network/10-azure-vf.network"]
    assert second_card.VIRTUAL_FUNCTION in text.split()
