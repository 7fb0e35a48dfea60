"""What the doctor says of the services that goldsmith runs on a host: the fabric of VMs, endpoints, the facade."""

from __future__ import annotations

import pwd
import re
from pathlib import Path

from pipeline.base import process
from pipeline.base.store import ANSIBLE_USER, FABRIC_USER, FACADE_USER
from pipeline.hypervisor.finding import Finding, component
from pipeline.hypervisor.host_packages import SETUP

UNFILTER = "sysctl net.bridge.bridge-nf-call-iptables=0, or let bridged frames pass the FORWARD chain"


def judge_fabric() -> list[Finding]:
    """What the local Azure fabric and a build's way out are made of."""
    tools = {
        "ip": "iproute2",
        "nsenter": "util-linux",
        "dnsmasq": "dnsmasq-base",
        "slirp4netns": "slirp4netns",
    }
    missing = sorted(name for name in tools if process.find(name) is None)
    if missing:
        return [component("fabric", False, ", ".join(missing), " ".join(tools[name] for name in missing), "fail")]
    if not Path("/proc/self/ns/net").exists():
        return [Finding("fabric", "fail", "this kernel has no network namespaces", "a kernel with CONFIG_NET_NS")]
    if not _user_exists(FABRIC_USER):
        text = f"the user {FABRIC_USER}, under which VMs' networks are served, does not exist"
        return [Finding("fabric", "warn", text, SETUP)]
    if bridges_are_filtered():
        return [
            Finding("fabric", "warn", "this host's firewall filters frames between a guest and its network", UNFILTER)
        ]
    return [Finding("fabric", "ok", ", ".join(tools))]


def judge_endpoints() -> list[Finding]:
    """What serves the endpoints of sets of VMs."""
    if process.find("haproxy") is None:
        return [component("endpoints", False, "HAProxy", "haproxy", "warn")]
    found = re.search(r"version (\S+)", process.run(["haproxy", "-v"], deadline=process.ANSWER).stdout)
    version = found[1] if found else "of unknown version"
    return [Finding("endpoints", "ok", f"HAProxy {version}", facts={"version": version})]


def judge_facade() -> list[Finding]:
    """The user under which `goldsmith serve azure` reads requests."""
    if not _user_exists(FACADE_USER):
        text = f"the user {FACADE_USER}, under which goldsmith serve azure reads requests, does not exist"
        return [Finding("facade", "warn", text, SETUP)]
    return [Finding("facade", "ok", f"user {FACADE_USER}")]


def judge_ansible_user() -> list[Finding]:
    """The user who runs Ansible for projects that root owns."""
    if not _user_exists(ANSIBLE_USER):
        text = f"the user {ANSIBLE_USER} does not exist: Ansible runs for projects of root as nobody, whom others use"
        return [Finding("ansible-user", "warn", text, SETUP)]
    return [Finding("ansible-user", "ok", f"user {ANSIBLE_USER}")]


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def bridges_are_filtered() -> bool:
    """Whether the host's firewall sees what passes a bridge. Docker turns that on, and drops what it knows not."""
    switch = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return switch.exists() and switch.read_text().strip() == "1"
