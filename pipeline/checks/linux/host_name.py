"""The name of a clone is its owner's to give, not the template's."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.model import HOUSE, Subject, check

#: Names that say nothing: what distributions and installers write where nobody has named the machine.
_NOBODY = frozenset({
    "localhost", "localhost4", "localhost6", "localhost-live", "unassigned", "unassigned-hostname",
    "unassigned-domain",
    "none", "(none)", "linux", "cloudimg", "cloud", "ip6-localhost", "ip6-loopback", "archlinux", "archiso", "alpine",
    "debian", "ubuntu", "fedora", "centos", "rocky", "almalinux", "rhel", "ol", "amazonlinux", "opensuse", "sles",
    "suse", "kali", "gentoo", "void", "nixos", "flatcar", "mariner", "azurelinux", "photon", "host",
})  # fmt: skip
#: Words of a cloud-init configuration that keep or fix a name, at its top level.
_KEPT = re.compile(
    r"^(?:preserve_hostname:[ \t]*(?:true|yes|on|1)\b|(?:hostname|fqdn):[ \t]*[^\s#].*)", re.MULTILINE | re.IGNORECASE
)


def _is_nobodys(name: str, subject: Subject) -> bool:
    short = name.lower().split(".")[0]
    return short in _NOBODY or short == _os_id(subject)


def _os_id(subject: Subject) -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        for line in subject.lines(path):
            if line.startswith("ID="):
                return line[3:].strip("\"'").lower()
    return ""


@check(
    "host-name",
    "The build's host name is not shipped",
    why="Clones send it to DHCP before they get their own name. Some clones keep it.",
    remedy="echo localhost > /etc/hostname; remove the name from /etc/hosts (the 127.0.1.1 line), PRETTY_HOSTNAME "
    "from /etc/machine-info, and preserve_hostname, hostname and fqdn from cloud-init's configuration.",
    source=HOUSE + "; cloud-init: Update Hostname",
)
def host_name(subject: Subject) -> Iterator[str]:
    names = set()
    for path, pattern in (("/etc/hostname", r"(\S+)"), ("/etc/HOSTNAME", r"(\S+)"),
                          ("/etc/sysconfig/network", r"HOSTNAME\s*=\s*[\"']?([^\s\"']+)"),
                          ("/etc/conf.d/hostname", r"hostname\s*=\s*[\"']?([^\s\"']+)")):  # fmt: skip
        for line in subject.lines(path):
            found = re.match(pattern, line, re.IGNORECASE)
            if found and not _is_nobodys(found[1], subject):
                names |= {found[1].lower(), found[1].lower().split(".")[0]}
                yield f"{path}: {line}"
    yield from _hosts(subject, names)
    for line in subject.lines("/etc/machine-info"):
        if re.match(r"PRETTY_HOSTNAME=[\"']?[^\s\"']", line):
            yield f"/etc/machine-info: {line}"
    yield from _cloud_init(subject)


def _hosts(subject: Subject, names: set[str]) -> Iterator[str]:
    """Lines of /etc/hosts with the machine's own name: Debian's 127.0.1.1, and /etc/hostname's at any address."""
    for line in subject.lines("/etc/hosts"):
        words = line.split("#", 1)[0].split()
        if not words or words[0].startswith(("ff0", "fe00")):
            continue
        own = [word for word in words[1:] if not _is_nobodys(word, subject)]
        if (words[0] == "127.0.1.1" and own) or names & {word.lower() for word in own}:
            yield f"/etc/hosts: {line}"


def _cloud_init(subject: Subject) -> Iterator[str]:
    for path in ["/etc/cloud/cloud.cfg", *subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg")]:
        for found in _KEPT.finditer(subject.root.text(path)):
            yield f"{path}: {found[0].strip()}"
