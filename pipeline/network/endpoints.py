"""What a build guest may reach although it is private: the services that the host itself is configured to use.

These are apt's mirrors and proxies and the proxies of the environment, each as one address and one port. The host's
resolver is not among them: the way out asks it on the guest's behalf.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from functools import cache
from urllib.parse import urlsplit

from pipeline.base import process
from pipeline.base.errors import GoldsmithError
from pipeline.base.surroundings import variables
from pipeline.definition import Destination, destination
from pipeline.definition.diagnostics import Wrong
from pipeline.network.egress import is_refused

#: Seconds for apt to tell its configuration, and for all names to be resolved.
APT_DEADLINE, NAMES_DEADLINE = 10.0, 5.0
_PORTS = {"http": 80, "https": 443, "ftp": 21, "socks": 1080, "socks5": 1080, "socks5h": 1080}
_VARIABLES = ("http_proxy", "https_proxy", "ftp_proxy", "all_proxy")
_BARE = re.compile(r"[A-Za-z0-9.-]+:\d+/?")
_PROXY = re.compile(r'^Acquire::\w+::Proxy(?:::\S+)? "([^"]+)";$', re.MULTILINE | re.IGNORECASE)


def endpoint(url: str) -> tuple[str, int] | None:
    """Host and port of a URL; a proxy may be written without its scheme. None where there is no server. Pure."""
    if "://" not in url:
        url = f"http://{url}" if _BARE.fullmatch(url) else ""
    try:
        parts = urlsplit(url)
        # "mirror+https" and the like are apt's
        port = parts.port or _PORTS.get(parts.scheme.rpartition("+")[2])
    except ValueError:
        return None
    return (parts.hostname, port) if parts.hostname and port else None


def endpoints(apt_sites: str, apt_configuration: str, environment: Mapping[str, str]) -> set[tuple[str, int]]:
    """The endpoints in apt's sites (one a line), in `apt-config dump`, and in an environment. Pure."""
    urls = [line for line in apt_sites.splitlines() if line.strip()]
    urls += [value for value in _PROXY.findall(apt_configuration) if value.upper() != "DIRECT"]
    urls += [value for name, value in environment.items() if name.lower() in _VARIABLES and value]
    return {found for url in urls if (found := endpoint(url.strip())) is not None}


@cache
def _apt() -> tuple[str, str]:
    """The sites of apt's sources, one a line, and its configuration; empty where there is no apt."""
    if process.find("apt-get") is None:
        return "", ""
    try:
        sites = process.run(["apt-get", "indextargets", "--format", "$(SITE)"], deadline=APT_DEADLINE).stdout
        return sites, process.run(["apt-config", "dump", "Acquire"], deadline=APT_DEADLINE).stdout
    except GoldsmithError:
        return "", ""


def host_destinations(own: Collection[str]) -> list[Destination]:
    """What the host's configuration opens of what is refused otherwise. `own`: the host's addresses.

    A name that does not resolve in time opens nothing: a guest could not resolve it either.
    """
    wanted = endpoints(*_apt(), variables())
    return sorted(
        {
            found
            for address, port in _resolve(wanted)
            if is_refused(address, own) and (found := _destination(address, port)) is not None
        },
        key=str,
    )


def _destination(address: str, port: int) -> Destination | None:
    try:
        return destination(f"{address}:{port}")
    except Wrong:
        return None  # loopback and the like: of no use to a guest, and never opened


def _resolve(wanted: Iterable[tuple[str, int]]) -> set[tuple[str, int]]:
    pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="resolve")
    found: set[tuple[str, int]] = set()
    try:
        for answer in pool.map(_addresses, sorted(wanted), timeout=NAMES_DEADLINE):
            found |= answer
    except FutureTimeout:
        pass  # what has been resolved is enough
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return found


def _addresses(endpoint: tuple[str, int]) -> set[tuple[str, int]]:
    host, port = endpoint
    try:
        return {
            (str(info[4][0]), port) for info in socket.getaddrinfo(host, port, socket.AF_INET, socket.SOCK_STREAM)
        }
    except OSError:
        return set()
