"""Proxies, mirrors and credentials of the build."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from pipeline.checks.linux.system import apt_source_files
from pipeline.checks.model import HOUSE, Subject, check

_URL = re.compile(
    r"\b(?P<scheme>[a-z][a-z0-9+.-]*)://(?:(?P<user>[^\s/@:]+)(?::(?P<word>[^\s/@]*))?@)?(?P<host>\[[^\]]+\]|[^\s/:\]]+)"
)
_PRIVATE_NAMES = (".local", ".lan", ".internal", ".intranet", ".corp", ".home.arpa", ".localdomain", ".test")
_PROXY_VARIABLE = re.compile(r"\b(?:https?|ftp|all|no)_proxy\b\s*[=:]\s*(?P<value>\S*)", re.IGNORECASE)


def _is_private(host: str) -> bool:
    name = host.strip("[]").lower()
    try:
        return not ipaddress.ip_address(name).is_global
    except ValueError:
        return name == "localhost" or "." not in name or name.endswith(_PRIVATE_NAMES)


def _hidden(line: str) -> str:
    """The line without its password: a report must not ship what it found."""
    return re.sub(r"(://[^\s/@:]+):[^\s/@]*@", r"\1:***@", line)


@check(
    "apt-proxy",
    "apt uses no proxy",
    why="Every update on a clone would wait for a proxy that only the build could reach.",
    remedy="Remove the Acquire::*::Proxy lines from /etc/apt/apt.conf and apt.conf.d.",
    source=HOUSE,
)
def apt_proxy(subject: Subject) -> Iterator[str]:
    for path in ["/etc/apt/apt.conf", *subject.files_in("/etc/apt/apt.conf.d")]:
        for line in subject.lines(path, "#/"):
            found = re.search(r"\bProxy(?:-Auto-Detect|AutoDetect)?\b[^\"']*[\"']([^\"']*)[\"']", line, re.IGNORECASE)
            if found and found[1].lower() not in ("", "direct", "false"):
                yield f"{path}: {_hidden(line)}"


@check(
    "apt-mirror",
    "apt's sources are public and carry no password",
    why="A clone cannot reach the build's private mirror, and everybody can read a password in the address.",
    remedy="Write the distribution's public addresses into /etc/apt/sources.list*.",
    source=HOUSE,
)
def apt_mirror(subject: Subject) -> Iterator[str]:
    for path in apt_source_files(subject):
        for line in subject.lines(path):
            for found in _URL.finditer(line):
                if found["word"] or (found["user"] and found["scheme"].startswith("http")):
                    yield f"{path}: {_hidden(line)} (a password)"
                elif found["scheme"] in ("http", "https", "ftp") and _is_private(found["host"]):
                    yield f"{path}: {line} (a private address)"


@check(
    "apt-trust",
    "apt verifies signatures",
    why="Otherwise an attacker between a clone and its mirror can install any package.",
    remedy="Remove [trusted=yes], Trusted: yes and AllowUnauthenticated; use signed-by with the mirror's key.",
    source="apt-secure(8)",
)
def apt_trust(subject: Subject) -> Iterator[str]:
    for path in apt_source_files(subject):
        for line in subject.lines(path):
            if re.search(r"(\btrusted\s*=\s*yes\b|^Trusted:\s*yes|allow-insecure\s*=\s*yes)", line, re.IGNORECASE):
                yield f"{path}: {_hidden(line)}"
    for path in ["/etc/apt/apt.conf", *subject.files_in("/etc/apt/apt.conf.d")]:
        for line in subject.lines(path, "#/"):
            if (
                re.search(
                    r"(AllowUnauthenticated|AllowInsecureRepositories|AllowWeakRepositories|Verify-Peer)\b.*?[\"']?(1|true|yes)",
                    line,
                    re.IGNORECASE,
                )
                and "Verify-Peer" not in line
            ):
                yield f"{path}: {line}"
            if re.search(r"Verify-(Peer|Host)\b[^\w]*[\"']?(0|false|no)\b", line, re.IGNORECASE):
                yield f"{path}: {line}"


@check(
    "pip-config",
    "pip uses no proxy and no index of the build",
    why="Installations on a clone would fail, or reveal the password in the index's address.",
    remedy="Remove the named lines, or the whole file: /etc/pip.conf, ~/.config/pip/pip.conf or ~/.pip/pip.conf.",
    source=HOUSE,
)
def pip_config(subject: Subject) -> Iterator[str]:
    paths = ["/etc/pip.conf", "/etc/xdg/pip/pip.conf"]
    paths += [f"{home}/{name}" for home in subject.homes for name in (".config/pip/pip.conf", ".pip/pip.conf")]
    for path in paths:
        for line in subject.lines(path, "#;"):
            key, _, value = line.partition("=")
            found = _URL.search(value)
            if key.strip() in ("proxy", "trusted-host") or (found and (found["user"] or _is_private(found["host"]))):
                yield f"{path}: {_hidden(line)}"


@check(
    "shell-proxy",
    "No proxy is in the environment of shells and services",
    why="Programs on a clone, including the Azure agent, would use a proxy that they cannot reach.",
    remedy="Remove http_proxy and similar variables from /etc/environment, profiles, systemd, wget and curl.",
    source=HOUSE,
)
def shell_proxy(subject: Subject) -> Iterator[str]:
    paths = ["/etc/environment", "/etc/profile", "/etc/bash.bashrc", "/etc/zsh/zshenv", "/etc/wgetrc",
             "/etc/systemd/system.conf", "/etc/default/locale", "/etc/docker/daemon.json"]  # fmt: skip
    for folder in ("/etc/profile.d", "/etc/environment.d", "/etc/systemd/system.conf.d", "/etc/default"):
        paths += subject.files_in(folder)
    for home in subject.homes:
        paths += [
            f"{home}/{name}" for name in (".profile", ".bashrc", ".bash_profile", ".zshrc", ".wgetrc", ".curlrc")
        ]
    for folder in subject.files_in("/etc/systemd/system", ".d"):
        paths += subject.files_in(folder, ".conf")
    for path in dict.fromkeys(paths):
        for line in subject.lines(path):
            found = _PROXY_VARIABLE.search(line)
            if found and found["value"].strip("\"',;") and not line.lower().startswith("unset"):
                yield f"{path}: {_hidden(line)}"
    for path in (f"{home}/.curlrc" for home in subject.homes):
        yield from (
            f"{path}: {_hidden(line)}" for line in subject.lines(path) if re.match(r"(-x|--?proxy\b|proxy)", line)
        )
