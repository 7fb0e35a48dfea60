"""Who configures the virtual function of accelerated networking: the managers' own rules of precedence."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.checks.linux.virtual_function import network_sriov
from pipeline.checks.model import CannotLook, Subject
from pipeline.disk.network_files import Card, first_fitting, network_files
from pipeline.disk.udev_rules import Device, RuleSet, rule_files
from pipeline.systems.debian import tree
from pipeline.systems.linux.installed import InstalledLinux
from tests.fakes.memory_files import memory_root

ALL = "[Match]\nName=en* eth*\n[Network]\nDHCP=yes\n"
NAMED = "[Match]\nName=enP*\n[Link]\nUnmanaged=yes\n"
LEAVE = "[Match]\nDriver=mana mlx4_core mlx4_en mlx5_core\n[Link]\nUnmanaged=yes\n"
ETC, USR = "etc/systemd/network", "usr/lib/systemd/network"
RULE = 'SUBSYSTEM=="net", DRIVERS=="hv_pci", ACTION=="add", ENV{NM_UNMANAGED}="1"\n'
CONF = "etc/NetworkManager/conf.d"
UNMANAGED = "[keyfile]\nunmanaged-devices="
KEYFILE = "[connection]\ntype=ethernet\n"
MADE_UNMANAGED = 'SUBSYSTEM=="net", DRIVERS=="hv_pci", ENV{ID_NET_MANAGED_BY}="unmanaged"\n'
ALL_IN_NETPLAN = "network: {ethernets: {all: {match: {name: 'en*'}}}}"
EVERY = "mana, mlx4_core, mlx5_core"


def subject(files: dict[str, str], *services: str) -> Subject:
    root = memory_root(
        {
            **{
                f"usr/lib/systemd/system/{name}.service": "[Install]\nWantedBy=multi-user.target\n"
                for name in services
            },
            **{f"etc/systemd/system/multi-user.target.wants/{name}.service": "x" for name in services},
            **files,
        }
    )
    disk: Any = SimpleNamespace(root=root)
    return Subject(disk, InstalledLinux(disk), "azure-linux", frozenset(), frozenset({1, 2}))


def found(files: dict[str, str], *services: str) -> list[str]:
    return list(network_sriov(subject(files, *services)))


def taken_by(path: str, modules: str = EVERY) -> list[str]:
    return [f"{path} configures the virtual function of {modules} too"]


NETWORKD: list[tuple[str, dict[str, str], list[str]]] = [
    ("nothing is configured", {}, []),
    ("every card", {f"{ETC}/90-dhcp.network": ALL}, taken_by(f"/{ETC}/90-dhcp.network")),
    ("a file before it", {f"{ETC}/90-dhcp.network": ALL, f"{ETC}/10-vf.network": LEAVE}, []),
    ("a file behind it", {f"{ETC}/90-dhcp.network": ALL, f"{ETC}/95-vf.network": LEAVE},
     taken_by(f"/{ETC}/90-dhcp.network")),
    ("names are sorted over all folders", {f"{ETC}/90-dhcp.network": ALL, f"{USR}/10-vf.network": LEAVE}, []),
    ("/etc hides the file of the same name", {f"{ETC}/10-vf.network": ALL, f"{USR}/10-vf.network": LEAVE},
     taken_by(f"/{ETC}/10-vf.network")),
    ("a link to /dev/null hides it", {f"{ETC}/90-dhcp.network": ALL, f"{USR}/10-vf.network": LEAVE,
                                     f"{ETC}/10-vf.network": "-> /dev/null"}, taken_by(f"/{ETC}/90-dhcp.network")),
    ("an empty file hides it", {f"{ETC}/90-dhcp.network": "", f"{USR}/90-dhcp.network": ALL}, []),
    ("a drop-in below /usr", {f"{ETC}/90-dhcp.network": ALL,
                              f"{USR}/90-dhcp.network.d/vf.conf": "[Link]\nUnmanaged=yes\n"}, []),
    ("a drop-in takes the match back", {f"{ETC}/90-dhcp.network": ALL, f"{ETC}/10-vf.network": LEAVE,
                                       f"{ETC}/10-vf.network.d/a.conf": "[Match]\nDriver=\nDriver=mana\n"},
     taken_by(f"/{ETC}/90-dhcp.network", "mlx4_core, mlx5_core")),
    ("mlx4's card has another driver than its module", {
        f"{ETC}/90-dhcp.network": ALL, f"{ETC}/10-vf.network": LEAVE.replace(" mlx4_en", "")},
     taken_by(f"/{ETC}/90-dhcp.network", "mlx4_core")),
    ("by name", {f"{ETC}/90-dhcp.network": ALL, f"{ETC}/10-vf.network": NAMED},
     []),
    ("a name that only some have", {
        f"{ETC}/90-dhcp.network": ALL, f"{ETC}/10-vf.network": "[Match]\nName=enP*s1\n[Link]\nUnmanaged=yes\n"},
     taken_by(f"/{ETC}/90-dhcp.network")),
    ("every card but these", {f"{ETC}/90-dhcp.network": "[Match]\nName=!enP* lo\n[Network]\nDHCP=yes\n"}, []),
    ("Hyper-V's driver alone", {f"{ETC}/90-dhcp.network": "[Match]\nDriver=hv_netvsc\n[Network]\nDHCP=yes\n"}, []),
    ("no [Match] is every card", {f"{ETC}/90-dhcp.network": "[Network]\nDHCP=yes\n"},
     taken_by(f"/{ETC}/90-dhcp.network")),
    ("containers alone", {f"{ETC}/80-c.network": "[Match]\nVirtualization=container\nName=e*\n[Network]\nDHCP=yes\n"},
     []),
    ("every virtual machine", {f"{ETC}/80-c.network": "[Match]\nVirtualization=vm\nName=e*\n[Network]\nDHCP=yes\n"},
     taken_by(f"/{ETC}/80-c.network")),
    ("bridges alone", {f"{ETC}/80-b.network": "[Match]\nKind=bridge\n[Network]\nDHCP=yes\n"}, []),
    ("an unknown kind of device", {f"{ETC}/80-b.network": "[Match]\nKind=!*\nName=e*\n[Network]\nDHCP=yes\n"},
     taken_by(f"/{ETC}/80-b.network")),
    ("a property without its rule", {
        f"{ETC}/90-dhcp.network": ALL,
        f"{USR}/10-vf.network": "[Match]\nProperty=AZURE_UNMANAGED_SRIOV=1\n[Link]\nUnmanaged=yes\n"},
     taken_by(f"/{ETC}/90-dhcp.network")),
    ("a property with its rule", {
        f"{ETC}/90-dhcp.network": ALL,
        f"{USR}/10-vf.network": "[Match]\nProperty=AZURE_UNMANAGED_SRIOV=1\n[Link]\nUnmanaged=yes\n",
        "usr/lib/udev/rules.d/10-vf.rules": 'SUBSYSTEM=="net", DRIVERS=="mana|mlx4_core|mlx5_core", '
                                            'ATTR{flags}=="0x?[89ABCDEF]??", ENV{AZURE_UNMANAGED_SRIOV}="1"\n'}, []),
    ("eth1 where names by place are off", {
        f"{ETC}/90-dhcp.network": "[Match]\nName=eth*\n[Network]\nDHCP=yes\n",
        "boot/grub/grub.cfg": "linux /vmlinuz root=UUID=1 net.ifnames=0\n"}, taken_by(f"/{ETC}/90-dhcp.network")),
    ("eth* where they are on", {f"{ETC}/90-dhcp.network": "[Match]\nName=eth*\n[Network]\nDHCP=yes\n"}, []),
    ("another manager's, for a networkd that knows the property", {
        f"{ETC}/90-dhcp.network": ALL, "usr/lib/systemd/systemd-networkd": "ELF ID_NET_MANAGED_BY",
        "etc/udev/rules.d/10.rules": MADE_UNMANAGED}, []),
    ("another manager's, for a networkd that does not", {
        f"{ETC}/90-dhcp.network": ALL, "usr/lib/systemd/systemd-networkd": "ELF",
        "etc/udev/rules.d/10.rules": MADE_UNMANAGED},
     taken_by(f"/{ETC}/90-dhcp.network")),
    ("netplan for every card", {"etc/netplan/90-a.yaml": ALL_IN_NETPLAN},
     taken_by("/etc/netplan/90-a.yaml")),
    ("netplan's files are called 10-netplan", {
        "etc/netplan/90-a.yaml": ALL_IN_NETPLAN, f"{ETC}/10-azure.network": LEAVE},
     []),
    ("netplan by drivers", {
        "etc/netplan/90-a.yaml": "network: {ethernets: {all: {match: {driver: [hv_netvsc, virtio_net]}}}}"}, []),
    ("netplan in /etc hides netplan below /usr", {
        "usr/lib/netplan/90-a.yaml": ALL_IN_NETPLAN, "etc/netplan/90-a.yaml": "{}"},
     []),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), [row[1:] for row in NETWORKD], ids=[row[0] for row in NETWORKD])
def test_networkd(files: dict[str, str], expected: list[str]) -> None:
    assert found(files, "systemd-networkd") == expected


OWN = "NetworkManager's own connection for each card"
MANAGER: list[tuple[str, dict[str, str], list[str]]] = [
    ("it makes a connection for each card", {}, taken_by(OWN)),
    ("a rule of udev", {"etc/udev/rules.d/68.rules": RULE}, []),
    ("a rule that a file in /etc switches off", {
        "usr/lib/udev/rules.d/68.rules": RULE, "etc/udev/rules.d/68.rules": "-> /dev/null"}, taken_by(OWN)),
    ("a rule for another driver", {"etc/udev/rules.d/68.rules": RULE.replace("hv_pci", "hv_netvsc")}, taken_by(OWN)),
    ("a rule behind a GOTO", {
        "etc/udev/rules.d/68.rules": 'SUBSYSTEM=="net", GOTO="end"\n' + RULE + 'LABEL="end"\n'}, taken_by(OWN)),
    ("unmanaged-devices", {f"{CONF}/vf.conf": UNMANAGED + "driver:mana;driver:mlx4_en;driver:mlx5*\n"},
     []),
    ("unmanaged-devices without mana", {f"{CONF}/vf.conf": UNMANAGED + "driver:mlx4_en,driver:mlx5*\n"},
     taken_by(OWN, "mana")),
    ("a later file replaces", {f"{CONF}/10.conf": UNMANAGED + "interface-name:enP*\n",
                               f"{CONF}/20.conf": UNMANAGED + "interface-name:docker0\n"},
     taken_by(OWN)),
    ("a later file adds", {f"{CONF}/10.conf": UNMANAGED + "interface-name:enP*\n",
                           f"{CONF}/20.conf": "[keyfile]\nunmanaged-devices+=interface-name:docker0\n"}, []),
    ("/etc hides the file below /usr", {
        "usr/lib/NetworkManager/conf.d/10.conf": UNMANAGED + "interface-name:enP*\n",
        f"{CONF}/10.conf": "[main]\nplugins=keyfile\n"}, taken_by(OWN)),
    ("except", {f"{CONF}/10.conf": UNMANAGED + "*,except:driver:hv_netvsc\n"}, []),
    ("except that lets it in", {f"{CONF}/10.conf": UNMANAGED + "*,except:type:ethernet\n"},
     taken_by(OWN)),
    ("a section of devices", {f"{CONF}/10.conf": "[device-vf]\nmatch-device=driver:m*\nmanaged=0\n"}, []),
    ("no connection by itself, and none for this card", {
        f"{CONF}/10.conf": "[main]\nno-auto-default=*\n",
        "etc/NetworkManager/system-connections/a": KEYFILE + "interface-name=eth0\n"}, []),
    ("a connection for every card", {
        f"{CONF}/10.conf": "[main]\nno-auto-default=*\n", "etc/NetworkManager/system-connections/a": KEYFILE},
     taken_by("/etc/NetworkManager/system-connections/a")),
    ("a connection that is not brought up by itself", {
        f"{CONF}/10.conf": "[main]\nno-auto-default=*\n",
        "etc/NetworkManager/system-connections/a": KEYFILE + "autoconnect=false\n"}, []),
    ("a connection by driver", {
        f"{CONF}/10.conf": "[main]\nno-auto-default=*\n",
        "etc/NetworkManager/system-connections/a": KEYFILE + "[match]\ndriver=hv_netvsc\n"}, []),
    ("an ifcfg for every card", {
        f"{CONF}/10.conf": "[main]\nno-auto-default=*\n",
        "etc/sysconfig/network-scripts/ifcfg-default": "BOOTPROTO=dhcp\nONBOOT=yes\n"},
     taken_by("/etc/sysconfig/network-scripts/ifcfg-default")),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected"), [row[1:] for row in MANAGER], ids=[row[0] for row in MANAGER])
def test_network_manager(files: dict[str, str], expected: list[str]) -> None:
    assert found(files, "NetworkManager") == expected


@pytest.mark.parametrize(
    ("line", "takes"),
    [("auto eth0", False), ("allow-hotplug /eth*", False), ("allow-hotplug /en*=dhcp", True), ("auto /e*", True),
     ("auto enP30832s1", True)],
)  # fmt: skip
def test_ifupdown(line: str, takes: bool) -> None:
    lines = found({"etc/network/interfaces": f"auto lo\n{line}\n"}, "networking")
    assert lines == (taken_by("/etc/network/interfaces") if takes else [])


def test_services_that_take_every_card() -> None:
    assert found({}, "dhcpcd") == taken_by("dhcpcd")
    assert found({"etc/dhcpcd.conf": "denyinterfaces enP* docker0\n"}, "dhcpcd") == []
    assert found({"etc/connman/main.conf": "NetworkInterfaceBlacklist = vmnet,enP\n"}, "connman") == []


def test_two_managers_are_two_findings_and_none_is_unchecked() -> None:
    both = found({f"{ETC}/90-dhcp.network": ALL}, "systemd-networkd", "NetworkManager")
    assert both == [*taken_by(f"/{ETC}/90-dhcp.network"), *taken_by(OWN)]
    with pytest.raises(CannotLook, match="no service"):
        found({}, "chrony")


def test_a_netplan_that_is_not_yaml_is_unchecked() -> None:
    with pytest.raises(CannotLook, match="not YAML"):
        found({"etc/netplan/a.yaml": "a: [b"}, "systemd-networkd")


def test_rules_are_read_in_udevs_order() -> None:
    root = memory_root(
        {
            "etc/udev/rules.d/90.rules": 'ENV{X}=="1", ENV{Y}="2"\nENV{Y}=="2", ENV{X}+="more"\n',
            "usr/lib/udev/rules.d/10.rules": 'SUBSYSTEM!="net", GOTO="end"\nENV{X}="1"\nLABEL="end"\n'
            'KERNEL=="x*", \\\n'
            '  PROGRAM="/bin/true", ENV{X}="program"\n# ENV{X}="comment"\n',
        }
    )
    assert rule_files(root) == ["/usr/lib/udev/rules.d/10.rules", "/etc/udev/rules.d/90.rules"]
    assert RuleSet(root, ["X"]).properties(Device("net", "x1")) == {"X": "1 more", "Y": "2"}
    assert RuleSet(root, ["X"]).properties(Device("block", "x1")) == {}


def test_the_first_file_by_name_is_the_cards() -> None:
    root = memory_root({f"{ETC}/b.network": ALL, f"{USR}/a.network": LEAVE, f"{USR}/c.network.example": ALL})
    card = Card("enP1s1", "mana", "")
    first = first_fitting(network_files(root), card)
    assert first is not None and (first.path, first.unmanaged) == (f"/{USR}/a.network", True)
    assert first_fitting(network_files(root), Card("wlan0", "x", "")) is None


def test_a_base_made_now_passes_and_one_of_before_fails() -> None:
    numbers = defaultdict(lambda: "11111111-2222-3333-4444-555555555555")
    files = {path: text for path, text in tree.files(numbers, []).items() if path.startswith(ETC)}
    assert found(files, "systemd-networkd") == []
    del files[f"{ETC}/10-azure-vf.network"]
    assert found(files, "systemd-networkd") == taken_by(f"/{ETC}/90-dhcp.network")
