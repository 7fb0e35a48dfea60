"""The proxies that the host itself uses: those of the environment, for everything, and apt's own, for apt alone.

A cache of packages such as apt-cacher-ng serves archives and nothing else: a proxy for apt is not a proxy for curl.
The guest never hears of a proxy's address or password: it gets those of a relay in its way out, which adds them.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.base import process
from pipeline.base.errors import GoldsmithError
from pipeline.network import host_apt

#: The variables of the environment that name a proxy; lower case counts as upper case.
VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
#: What a login shell sets for everybody: `sudo` does not hand on the caller's variables.
SYSTEM_ENVIRONMENT = Path("/etc/environment")
#: Where a guest's apt finds its proxies: in memory, so that it never ships.
APT_CONFIGURATION = "/run/goldsmith-apt.conf"
#: Seconds for apt to answer.
DEADLINE = 10.0
_APT = re.compile(r'^Acquire::(https?|ftp)::Proxy(?:::(\S+))? "([^"]+)";$', re.MULTILINE | re.IGNORECASE)
_AUTO_DETECT = re.compile(r'^Acquire::https?::Proxy-?Auto-?Detect "[^"]+";$', re.MULTILINE | re.IGNORECASE)
_DETECTED = re.compile(r"Using proxy '([^']+)'")
_ASSIGNMENT = re.compile(r"^\s*(?:export\s+)?(\w+)=(.*?)\s*$", re.MULTILINE)
_NONE = frozenset({"direct", "false", "none", ""})


@dataclass(frozen=True)
class Proxy:
    """A proxy that speaks HTTP, itself reached by TLS or not. `authorization` is a header's value, in no text."""

    host: str
    port: int
    tls: bool = False
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class HostProxies:
    """`variables`: by the environment's names, in lower case. `apt`: (scheme, site or "", proxy or None: direct)."""

    variables: Mapping[str, Proxy] = field(default_factory=dict)
    no_proxy: str = ""
    apt: tuple[tuple[str, str, Proxy | None], ...] = ()

    @property
    def all(self) -> list[Proxy]:
        """Each proxy once, in a fixed order."""
        found = [*self.variables.values(), *(proxy for _, _, proxy in self.apt if proxy is not None)]
        return list(dict.fromkeys(found))

    def guest_environment(self, address: Callable[[Proxy], str]) -> dict[str, str]:
        """The variables of a step; `address` gives the URL at which the guest reaches a proxy. Pure."""
        found = {name: address(proxy) for name, proxy in self.variables.items()}
        if found:
            # the guest itself, and what the host reaches without its proxy
            direct = [host for host in self.no_proxy.split(",") if host.strip()]
            found["no_proxy"] = ",".join(dict.fromkeys(["localhost", "127.0.0.1", "::1", *direct]))
        found |= {name.upper(): value for name, value in found.items()}
        if self.apt:
            found["APT_CONFIG"] = APT_CONFIGURATION
        return found

    def guest_apt(self, address: Callable[[Proxy], str]) -> str:
        """The text of APT_CONFIGURATION; empty where apt has no proxy of its own. Pure."""
        lines = [
            f'Acquire::{scheme}::Proxy{f"::{site}" if site else ""} "{address(proxy) if proxy else "DIRECT"}";'
            for scheme, site, proxy in self.apt
        ]
        # a relayed connection carries one request
        return "\n".join([*lines, 'Acquire::http::Pipeline-Depth "0";', ""]) if lines else ""


def read_proxy(text: str) -> Proxy | None:
    """From a URL, or `host:port`. None where it names no proxy that speaks HTTP. Pure."""
    if text.strip().lower() in _NONE:
        return None
    try:
        parts = urlsplit(text.strip() if "://" in text else f"http://{text.strip()}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    if parts.scheme not in ("http", "https") or not parts.hostname or port is None:
        return None
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(parts.hostname, port, parts.scheme == "https", authorization)


def read_proxies(environment: Mapping[str, str], apt_configuration: str, detected: str = "") -> HostProxies:
    """The proxies in an environment and in `apt-config dump`; `detected` is what apt's own detection found. Pure."""
    lower = {name.lower(): value for name, value in environment.items()}
    # where both are set, programs take the lower case
    lower |= {name: value for name, value in environment.items() if name == name.lower()}
    variables = {name: found for name in VARIABLES if (found := read_proxy(lower.get(name, "")))}
    apt = {}
    for scheme, site, value in _APT.findall(apt_configuration):
        proxy = read_proxy(value)
        if proxy is not None or value.lower() in _NONE:
            apt[scheme.lower(), site] = proxy
    if (proxy := read_proxy(detected)) is not None:
        apt.setdefault(("http", ""), proxy)
    ordered = tuple((scheme, site, found) for (scheme, site), found in sorted(apt.items()))
    if all(found is None for *_, found in ordered) and not variables:
        ordered = ()
    return HostProxies(variables, lower.get("no_proxy", ""), ordered)


def host_proxies(environment: Mapping[str, str]) -> HostProxies:
    """What this host uses. The caller's variables go before those of SYSTEM_ENVIRONMENT."""
    named = {name.lower() for name in environment}
    both = {name: value for name, value in _system_variables().items() if name.lower() not in named}
    return read_proxies({**both, **environment}, *_apt())


def bootstrap_variables(proxies: HostProxies) -> dict[str, str]:
    """Variables for mmdebstrap, whose apt does not read the host's configuration; apt's own go first. Pure."""
    found, direct = {name: _url(proxy) for name, proxy in proxies.variables.items()}, []
    for scheme, site, proxy in proxies.apt:
        if site and proxy is None:
            direct.append(site)
        elif not site and proxy is not None:
            found[f"{scheme}_proxy"] = _url(proxy)
    if found and (names := [*filter(None, [proxies.no_proxy]), *direct]):
        found["no_proxy"] = ",".join(names)
    return found


def _url(proxy: Proxy) -> str:
    login = ""
    if proxy.authorization is not None:
        user, _, password = base64.b64decode(proxy.authorization.split()[1]).decode().partition(":")
        login = f"{_quote(user)}:{_quote(password)}@"
    return f"{'https' if proxy.tls else 'http'}://{login}{proxy.host}:{proxy.port}"


def _quote(text: str) -> str:
    return "".join(char if char.isalnum() and char.isascii() else f"%{ord(char):02X}" for char in text)


def _system_variables() -> dict[str, str]:
    try:
        text = SYSTEM_ENVIRONMENT.read_text("utf-8", "replace")
    except OSError:
        return {}
    wanted: Iterable[str] = (*VARIABLES, "no_proxy")
    return {name: value.strip("\"'") for name, value in _ASSIGNMENT.findall(text) if name.lower() in wanted}


@cache
def _apt() -> tuple[str, str]:
    """apt's configuration, and the proxy that its own detection finds; empty where there is none."""
    if process.find("apt-config") is None:
        return "", ""
    try:
        dump = process.run(["apt-config", "dump", "Acquire"], deadline=DEADLINE).stdout
        mirror = host_apt.mirrors().archive
        if not _AUTO_DETECT.search(dump) or mirror is None:
            return dump, ""
        result = process.run([host_apt.APT_HELPER, "auto-detect-proxy", mirror], deadline=DEADLINE)
    except GoldsmithError:
        return "", ""
    found = _DETECTED.search(result.stdout + result.stderr)
    return dump, found[1] if found else ""
