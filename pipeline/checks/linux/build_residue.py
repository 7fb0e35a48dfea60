"""What the build left behind: histories, leases, agent state, logs."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator

from pipeline.checks.model import CLOUD_INIT, HOUSE, LISA, SYSTEMD, WAAGENT, Subject, check

#: What package tools write; kept apart, because it says nothing about a user.
_PACKAGE_LOGS = (
    "dpkg.log*",
    "apt/*",
    "alternatives.log*",
    "bootstrap.log",
    "fontconfig.log",
    "unattended-upgrades/*",
    *("dnf*.log*", "hawkey.log*", "yum.log*", "zypper.log*", "zypp/*", "zypp-refresh.log*", "apk.log*"),
)
_NO_LOGS = ("README", "*/README", "lastlog", "faillog", "journal/*", "private/*")


@check(
    "shell-history",
    "No shell history",
    why="The history contains names, addresses and often passwords.",
    remedy="rm -f .*_history .lesshst .viminfo .local/share/fish/fish_history in each home, with HISTFILE unset in "
    "the last session.",
    source=LISA,
)
def shell_history(subject: Subject) -> Iterator[str]:
    for home in subject.homes:
        for path in subject.files_in(home):
            name = path.rsplit("/", 1)[-1]
            if (name.startswith(".") and name.endswith("_history")) or name in (".lesshst", ".viminfo"):
                if subject.has_data(path):
                    yield f"{path} has {subject.root.stat(path).size} bytes"  # type: ignore[union-attr]
            elif name == ".local" and subject.has_data(f"{path}/share/fish/fish_history"):
                yield f"{path}/share/fish/fish_history is there"


@check(
    "dhcp-leases",
    "No DHCP leases",
    why="A clone would first request the build machine's address.",
    remedy="rm -f /var/lib/dhcp/* /var/lib/dhclient/*lease* /var/lib/dhcpcd*/*.lease* "
    "/var/lib/NetworkManager/*lease* /var/lib/systemd/network/*",
    source=WAAGENT,
)
def dhcp_leases(subject: Subject) -> Iterator[str]:
    for folder, pattern in (
        ("/var/lib/dhcp", "*lease*"),
        ("/var/lib/dhclient", "*lease*"),
        ("/var/lib/dhcpcd", "*.lease*"),
        ("/var/lib/dhcpcd5", "*.lease*"),
        ("/var/lib/NetworkManager", "*lease*"),
        ("/var/lib/systemd/network", "*"),
        ("/var/lib/wicked", "lease-*"),
    ):
        for path in subject.files_in(folder):
            if fnmatch.fnmatch(path.rsplit("/", 1)[-1], pattern) and subject.has_data(path):
                yield f"{path} is there"


@check(
    "cloud-instance",
    "cloud-init has no record of an instance",
    why="cloud-init would treat the clone as the build machine and would not set users, keys and name.",
    remedy="cloud-init clean --logs --seed",
    source=CLOUD_INIT,
)
def cloud_instance(subject: Subject) -> Iterator[str]:
    if subject.root.exists("/var/lib/cloud/instance", follow=False):
        yield "/var/lib/cloud/instance is there"
    yield from subject.files_in("/var/lib/cloud/instances")
    yield from subject.files_in("/var/lib/cloud/sem")
    for name in ("instance-id", "previous-instance-id", "result.json", "status.json", "previous-hostname"):
        if subject.root.exists(f"/var/lib/cloud/data/{name}", follow=False):
            yield f"/var/lib/cloud/data/{name} is there"


@check(
    "waagent-state",
    "The Azure agent has no state of another machine",
    why="ovf-env.xml contains the build's user and password. Certificates and goal states belong to one machine.",
    remedy="waagent -force -deprovision+user; rm -rf /var/lib/waagent/*. It deletes /etc/resolv.conf: if that was a "
    "link of systemd-resolved, restore it: ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf",
    source=WAAGENT,
)
def waagent_state(subject: Subject) -> Iterator[str]:
    for path in subject.files_in("/var/lib/waagent"):
        # a self-updated agent may be kept: it is a program, not a state
        if not fnmatch.fnmatch(path, "*/WALinuxAgent-*"):
            yield f"{path} is there"


def _logs(subject: Subject) -> Iterator[tuple[str, bool]]:
    """Every log with something in it, and whether a package tool wrote it."""
    for path, kind in subject.root.walk("/var/log"):
        name = path.removeprefix("/var/log/")
        if kind != "file" or any(fnmatch.fnmatch(name, pattern) for pattern in _NO_LOGS):
            continue
        if subject.has_data(path):
            yield path, any(fnmatch.fnmatch(name, pattern) for pattern in _PACKAGE_LOGS)


@check(
    "build-logs",
    "No logs of the build",
    why="They contain hosts, users and addresses of the build, and make the clone's own first boot hard to find.",
    remedy="Stop the services that write logs; cloud-init clean --logs; find /var/log -type f -exec truncate -s 0 "
    "{} + (the "
    "folders stay: services do not start without theirs).",
    source=HOUSE,
)
def build_logs(subject: Subject) -> Iterator[str]:
    yield from (path for path, of_packages in _logs(subject) if not of_packages)


@check(
    "package-logs",
    "No logs of the package tools",
    why="They show when and how the image was made. No clone needs them.",
    remedy="find /var/log/apt /var/log/unattended-upgrades /var/log/dpkg.log* /var/log/alternatives.log* "
    "/var/log/bootstrap.log* /var/log/fontconfig.log* -type f -exec truncate -s 0 {} +",
    source=HOUSE,
    severity="warn",
)
def package_logs(subject: Subject) -> Iterator[str]:
    yield from (path for path, of_packages in _logs(subject) if of_packages)


@check(
    "journal",
    "No journal of the build",
    why="It contains every message of the build machine, under that machine's id.",
    remedy="Let journald write to memory (Storage=volatile in a file of /run/systemd/journald.conf.d, systemctl "
    "restart systemd-journald), then rm -rf /var/log/journal/*",
    source=SYSTEMD,
)
def journal(subject: Subject) -> Iterator[str]:
    for path, kind in subject.root.walk("/var/log/journal"):
        if kind == "file" and subject.has_data(path):
            yield path


#: Where package managers keep what they have downloaded, and what its names end with.
_CACHES = {
    "/var/cache/apt/archives": (".deb",),
    "/var/cache/dnf": (".rpm", ".solv", ".solvx", ".xml", ".gz", ".zck", ".zst"),
    "/var/cache/libdnf5": (".rpm", ".solv", ".solvx", ".xml", ".gz", ".zck", ".zst"),
    "/var/cache/yum": (".rpm", ".sqlite", ".xml"),
    "/var/cache/zypp": (".rpm", ".solv", ".xml", ".gz", ".zst"),
    "/var/cache/apk": (".apk", ".tar.gz"),
}


@check(
    "package-cache",
    "No downloaded packages and lists",
    why="They enlarge every clone and every upload, and old lists are not usable.",
    remedy="apt-get clean; rm -rf /var/lib/apt/lists/* (dnf clean all; zypper clean --all; rm -rf /var/cache/apk/*)",
    source=HOUSE,
    severity="warn",
)
def package_cache(subject: Subject) -> Iterator[str]:
    for folder, suffixes in _CACHES.items():
        found = [path for path, kind in subject.root.walk(folder) if kind == "file" and path.endswith(suffixes)]
        if found:
            yield f"{len(found)} packages or lists in {folder}"
    lists = [path for path in subject.files_in("/var/lib/apt/lists") if subject.has_data(path)]
    if [path for path in lists if not path.endswith("/lock")]:
        yield f"{len(lists)} lists in /var/lib/apt/lists"


@check(
    "build-tools-left",
    "No file of goldsmith or Ansible is left",
    why="Temporary modules and facts contain variables of the build, including secrets.",
    remedy="rm -rf ~/.ansible ~/.ansible_async ~/.goldsmith, and the other named files; goldsmith's own steps do "
    "this.",
    source=HOUSE,
)
def build_tools_left(subject: Subject) -> Iterator[str]:
    for home in subject.homes:
        for name in (".ansible", ".ansible_async", ".goldsmith"):
            if subject.root.exists(f"{home}/{name}"):
                yield f"{home}/{name} is there"
    for path in ("/etc/goldsmith", "/var/lib/goldsmith", "/run/goldsmith"):
        if subject.root.listdir(path):
            yield f"{path} is there"
    for folder in ("/etc/systemd/system", "/etc/systemd/journald.conf.d", "/etc/apt/apt.conf.d", "/etc/sudoers.d"):
        yield from (path for path in subject.files_in(folder) if "goldsmith" in path or "packer" in path)
