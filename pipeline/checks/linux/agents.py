"""The agents that make a clone its owner's: waagent, cloud-init, sshd."""

from __future__ import annotations

import fnmatch
import posixpath
import re
from collections.abc import Iterator

from pipeline.checks.disk.boot import grub_entries
from pipeline.checks.model import AZURE, AZURE_DOC, CLOUD_INIT, LISA, CannotLook, Skip, Subject, check

_UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
#: OpenRC's runlevels: folders with links to the services that they start.
_RUNLEVELS = "/etc/runlevels"
#: The program of azure-init, as its own unit names it, and as distributions place programs.
AZURE_INIT = (
    "/var/lib/azure-init/azure-init",
    "/usr/bin/azure-init",
    "/usr/sbin/azure-init",
    "/usr/libexec/azure-init",
    "/usr/libexec/azure-init/azure-init",
)
#: LISA's oldest accepted agent.
_OLDEST_WAAGENT = (2, 2, 53, 1)


def read_settings(subject: Subject, path: str) -> dict[str, str]:
    """The KEY=VALUE lines of a file, without the comments behind them."""
    found = {}
    for line in subject.lines(path):
        key, equals, value = line.partition("=")
        if equals:
            found[key.strip()] = value.split("#", 1)[0].strip()
    return found


def has_waagent(subject: Subject) -> bool:
    return any(subject.root.exists(path) for path in ("/usr/sbin/waagent", "/usr/bin/waagent", "/sbin/waagent"))


def has_cloud_init(subject: Subject) -> bool:
    return subject.root.exists("/usr/bin/cloud-init") or subject.root.exists("/usr/local/bin/cloud-init")


def has_azure_init(subject: Subject) -> bool:
    """Whether azure-init is there: by its program, wherever distributions put it, or by its unit."""
    units = [
        f"{folder}/{unit}" for folder in _UNIT_FOLDERS for unit in subject.system.agent_units.get("azure-init", ())
    ]
    return any(subject.root.exists(path) for path in (*AZURE_INIT, *units))


def enabled(subject: Subject, units: tuple[str, ...]) -> bool:
    """Is one of these units linked into some target, or one of these services into a runlevel of OpenRC?"""
    for level in subject.root.listdir(_RUNLEVELS):
        if set(units) & set(subject.root.listdir(f"{_RUNLEVELS}/{level}")):
            return True
    for folder in _UNIT_FOLDERS:
        for name in subject.root.listdir(folder):
            if name.endswith((".wants", ".requires")):
                there = subject.root.listdir(f"{folder}/{name}")
                if any(unit in there for unit in units):
                    return True
    return False


@check(
    "waagent-installed",
    "The Azure agent is installed, and new enough",
    why="Without the agent no extension runs, and Azure reports the machine as not ready.",
    remedy="apt-get install waagent",
    source=LISA,
    profiles=AZURE,
)
def waagent_installed(subject: Subject) -> Iterator[str]:
    if not has_waagent(subject):
        yield "no waagent"
        return
    version = _waagent_version(subject)
    subject.note(f"waagent {version}")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version.split(":")[-1].split("-")[0]))
    if (
        numbers < _OLDEST_WAAGENT
        and read_settings(subject, "/etc/waagent.conf").get("AutoUpdate.Enabled", "y") == "n"
    ):
        yield f"waagent {version} is older than 2.2.53.1 and does not update itself"


def _waagent_version(subject: Subject) -> str:
    """By the record of packages, else as the agent's own source says. Raises CannotLook where neither does."""
    for name in subject.system.azure_agent_packages:
        if name in subject.packages:
            return subject.packages[name].version
    for above in ("/usr/lib", "/usr/local/lib"):
        for python in subject.root.listdir(above):
            for inner in ("dist-packages", "site-packages"):
                path = f"{above}/{python}/{inner}/azurelinuxagent/common/version.py"
                if found := re.search(r"^AGENT_VERSION = ['\"]([\d.]+)", subject.root.text(path), re.MULTILINE):
                    return found[1]
    raise CannotLook("waagent does not belong to a package, and its version is unknown")


@check(
    "waagent-config",
    "The Azure agent provisions the machine, and leaves the resource disk to cloud-init",
    why="Without an agent, provisioning never ends. Two agents that format the resource disk undo each "
    "other's work, and swap on it is lost when Azure empties it.",
    remedy="/etc/waagent.conf: Provisioning.Agent=auto (or waagent, without cloud-init; disabled beside azure-init), "
    "ResourceDisk.Format=n beside cloud-init, ResourceDisk.EnableSwap=n.",
    source=AZURE_DOC,
    profiles=AZURE,
)
def waagent_config(subject: Subject) -> Iterator[str]:
    if not has_waagent(subject):
        raise Skip("no waagent")
    config = read_settings(subject, "/etc/waagent.conf")
    if not config:
        yield "no /etc/waagent.conf"
        return
    agent = config.get("Provisioning.Agent", "auto")
    # by itself where there is no cloud-init; beside an enabled one it would wait for the other to be gone
    cloud_init, azure_init = has_cloud_init(subject), has_azure_init(subject)
    willing = ("auto", "cloud-init") if cloud_init else ("disabled",) if azure_init else ("auto", "waagent")
    if agent not in willing:
        yield f"/etc/waagent.conf: Provisioning.Agent={agent}"
    # the agent's own default for both is n
    for key in ("ResourceDisk.Format", "ResourceDisk.EnableSwap") if cloud_init else ("ResourceDisk.EnableSwap",):
        if config.get(key, "n") != "n":
            yield f"/etc/waagent.conf: {key}={config[key]}"
    if config.get("Provisioning.Enabled", "y") == "n" and "Provisioning.Agent" not in config and not azure_init:
        yield "/etc/waagent.conf: Provisioning.Enabled=n and no Provisioning.Agent"


@check(
    "waagent-enabled",
    "The Azure agent starts at boot",
    why="If the agent does not start, the machine stays 'creating' until Azure's time limit.",
    remedy="systemctl unmask walinuxagent; systemctl enable walinuxagent (the unit may also be called waagent).",
    source=AZURE_DOC,
    profiles=AZURE,
)
def waagent_enabled(subject: Subject) -> Iterator[str]:
    if not has_waagent(subject):
        raise Skip("no waagent")
    units = subject.system.agent_units["azure"]
    for unit in units:
        if subject.root.read_link(f"/etc/systemd/system/{unit}") == "/dev/null":
            yield f"{unit} is masked"
    if not enabled(subject, units):
        yield f"{'neither ' if len(units) > 1 else ''}{' nor '.join(units)} is enabled"


#: Units of cloud-init without which it does not provision; a version has some of them.
_CLOUD_INIT_UNITS = (
    "cloud-init.target",
    "cloud-init.service",
    "cloud-init-main.service",
    "cloud-init-local.service",
    "cloud-init-network.service",
    "cloud-config.service",
    "cloud-final.service",
)


@check(
    "cloud-init-installed",
    "cloud-init is installed and enabled",
    why="It creates the user, the keys and the host name. Without it waagent must do so; otherwise nobody can log "
    "in.",
    remedy="apt-get install cloud-init; rm -f /etc/cloud/cloud-init.disabled; systemctl unmask and enable its units; "
    "remove cloud-init=disabled from GRUB_CMDLINE_LINUX (update-grub) and `policy: disabled` from ds-identify.cfg.",
    source=CLOUD_INIT,
    profiles=AZURE,
)
def cloud_init_installed(subject: Subject) -> Iterator[str]:
    if not has_cloud_init(subject):
        if read_settings(subject, "/etc/waagent.conf").get("Provisioning.Agent") == "waagent":
            raise Skip("waagent provisions")
        if has_azure_init(subject):
            raise Skip("azure-init provisions")
        yield "no cloud-init"
        return
    if subject.root.exists("/etc/cloud/cloud-init.disabled"):
        yield "/etc/cloud/cloud-init.disabled is there"
    for unit in _CLOUD_INIT_UNITS:
        if subject.root.read_link(f"/etc/systemd/system/{unit}") == "/dev/null":
            yield f"{unit} is masked"
    for path in dict.fromkeys(entry.path for entry in grub_entries(subject) if "cloud-init=disabled" in entry.words):
        yield f"{path}: cloud-init=disabled"
    for line in subject.lines("/etc/cloud/ds-identify.cfg"):
        if re.match(r"policy:\s*disabled\b", line):
            yield f"/etc/cloud/ds-identify.cfg: {line}"
    if not enabled(subject, subject.system.agent_units["cloud-init"]) and not subject.root.exists(
        "/usr/lib/systemd/system-generators/cloud-init-generator"
    ):
        yield "cloud-init is not enabled"


@check(
    "cloud-init-datasource",
    "cloud-init searches for Azure's data source",
    why="If the list of data sources lacks Azure, the clone gets no user, key or name.",
    remedy="datasource_list: [ Azure ] in /etc/cloud/cloud.cfg.d/, written last, or no list at all.",
    source=CLOUD_INIT,
    profiles=AZURE,
)
def cloud_init_datasource(subject: Subject) -> Iterator[str]:
    if not has_cloud_init(subject):
        raise Skip("no cloud-init")
    last: tuple[str, str] | None = None
    for path in ["/etc/cloud/cloud.cfg", *subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg")]:
        for match in re.finditer(
            r"^datasource_list:\s*(\[[^\]]*\]|(?:\n\s*-\s*\S+)+)", subject.root.text(path), re.MULTILINE
        ):
            last = (path, match[1])
    if last is not None:
        names = re.findall(r"\w+", last[1])
        subject.note(f"{last[0]}: {', '.join(names)}")
        if "Azure" not in names:
            yield f"{last[0]}: {', '.join(names)}"


@check(
    "cloud-init-seed",
    "No data source of the build is left",
    why="A seed on the disk has priority over Azure, so every clone becomes the build machine again.",
    remedy="cloud-init clean --seed; remove the named file of /etc/cloud/cloud.cfg.d, not the folder; remove ds= "
    "from GRUB_CMDLINE_LINUX and run update-grub; remove the seed's partition.",
    source=CLOUD_INIT,
)
def cloud_init_seed(subject: Subject) -> Iterator[str]:
    for name in subject.root.listdir("/var/lib/cloud/seed"):
        for inner in subject.root.listdir(f"/var/lib/cloud/seed/{name}"):
            yield f"/var/lib/cloud/seed/{name}/{inner}"
    for path in subject.files_in("/etc/cloud/cloud.cfg.d", ".cfg"):
        if re.search(r"^\s*(seedfrom|user-data|userdata_raw)\s*:", subject.root.text(path), re.MULTILINE):
            yield f"{path} contains a seed"
    for volume in subject.disk.filesystems:
        if volume.label.lower() in ("cidata", "config-2"):
            yield f"{volume.title} is labelled {volume.label}"
    named = [
        path for path in subject.system.boot_menus if re.search(_NAMES_SOURCE, subject.root.text(path), re.IGNORECASE)
    ]
    # entries of the boot loader that have files of their own
    named += [
        entry.path
        for entry in grub_entries(subject)
        if any(re.match(_NAMES_SOURCE, word, re.IGNORECASE) for word in entry.words)
    ]
    for path in dict.fromkeys(named):
        yield f"{path} names a data source"


#: On a kernel's command line: cloud-init's own words.
_NAMES_SOURCE = r"\bds=(nocloud|none)"


#: Where sshd's configuration stands (openSUSE ships its own below /usr), and how deep files include each other.
_SSHD_CONFIG, _SSHD_DEPTH = ("/etc/ssh/sshd_config", "/usr/etc/ssh/sshd_config"), 16


def _sshd(subject: Subject) -> dict[str, str]:
    """sshd's settings: the first value wins, and what an Include line names stands in its place (sshd_config(5)).

    Raises CannotLook where there is no configuration: sshd does not start without one.
    """
    path = next((path for path in _SSHD_CONFIG if subject.root.is_file(path)), None)
    if path is None:
        raise CannotLook("/etc/ssh/sshd_config is missing")
    found: dict[str, str] = {}
    _read_sshd(subject, path, found, 0)
    return found


def _read_sshd(subject: Subject, path: str, found: dict[str, str], depth: int) -> None:
    if depth > _SSHD_DEPTH:
        raise CannotLook(f"{path} includes itself")
    for line in subject.lines(path):
        words = re.split(r"[\s=]+", line, maxsplit=1)
        if words[0].lower() == "match":
            break
        if len(words) < 2:
            continue
        if words[0].lower() == "include":
            for pattern in words[1].replace('"', "").split():
                for inner in _matching(subject, posixpath.join("/etc/ssh", pattern)):
                    _read_sshd(subject, inner, found, depth + 1)
        else:
            found.setdefault(words[0].lower(), words[1].strip())


def _matching(subject: Subject, pattern: str) -> list[str]:
    """The files of a pattern, in order; * and the like in its last part, as everybody writes it."""
    folder, name = posixpath.split(pattern)
    if re.search(r"[*?\[]", folder):
        raise CannotLook(f"Include {pattern}: which folders that means is not looked up")
    return [f"{folder}/{each}" for each in subject.root.listdir(folder) if fnmatch.fnmatchcase(each, name)]


def _need_sshd(subject: Subject) -> dict[str, str]:
    if not subject.root.exists("/usr/sbin/sshd"):
        raise Skip("no sshd")
    return _sshd(subject)


@check(
    "ssh-enabled",
    "sshd is installed and starts at boot",
    why="Otherwise nobody can log in to a clone.",
    remedy="apt-get install openssh-server; systemctl enable ssh.",
    source=AZURE_DOC,
    profiles=AZURE,
)
def ssh_enabled(subject: Subject) -> Iterator[str]:
    if not subject.root.exists("/usr/sbin/sshd"):
        yield "no sshd"
    elif not enabled(subject, subject.system.agent_units["ssh"]) and not subject.root.exists(
        "/etc/systemd/system/sshd.service"
    ):
        yield f"{subject.system.agent_units['ssh'][0]} is not enabled"
    if subject.root.exists("/etc/ssh/sshd_not_to_be_run"):
        yield "/etc/ssh/sshd_not_to_be_run is there"


@check(
    "ssh-client-alive",
    "sshd keeps idle connections alive",
    why="Azure's load balancers close an idle connection after four minutes.",
    remedy="ClientAliveInterval 180 in /etc/ssh/sshd_config.d/.",
    source=LISA,
    profiles=AZURE,
)
def ssh_client_alive(subject: Subject) -> Iterator[str]:
    value = _need_sshd(subject).get("clientaliveinterval", "0")
    subject.note(f"ClientAliveInterval {value}")
    seconds = int(value) if value.isdigit() else 180 if re.fullmatch(r"\d+[smh]", value) else 0
    if not 0 < seconds < 236:
        yield f"ClientAliveInterval {value} is not between 1 and 235 s"


@check(
    "ssh-root-login",
    "sshd does not let root log in with a password",
    why="If a clone's owner sets a password for root, everybody on the internet can try it.",
    remedy="PermitRootLogin prohibit-password or no; PermitEmptyPasswords no.",
    source="sshd_config(5)",
)
def ssh_root_login(subject: Subject) -> Iterator[str]:
    config = _need_sshd(subject)
    if config.get("permitrootlogin", "prohibit-password").lower() == "yes":
        yield "PermitRootLogin yes"
    if config.get("permitemptypasswords", "no").lower() == "yes":
        yield "PermitEmptyPasswords yes"
