"""The firewall's rules for a definition's ports: how they are called, and the script that makes them. Pure.

A rule's name is the name of its registry value, so that a disk at rest can be asked for exactly that rule.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.definition import Port

#: What the names of our rules begin with.
PREFIX = "goldsmith-"
#: Protocols by the numbers that the rules have in the registry. IANA: Protocol Numbers.
PROTOCOLS = {"tcp": 6, "udp": 17}
#: Where the rules are, below a control set.
RULES = r"Services\SharedAccess\Parameters\FirewallPolicy\FirewallRules"


def rule_name(protocol: str, port: int) -> str:
    return f"{PREFIX}{protocol}-{port}"


def script(ports: Iterable[Port]) -> bytes:
    """PowerShell that leaves the rules of these ports, and of ours no other; it can be run again."""
    lines = [
        "$ErrorActionPreference = 'Stop'",
        f"Get-NetFirewallRule -Name '{PREFIX}*' -ErrorAction SilentlyContinue | Remove-NetFirewallRule",
    ]
    lines += [
        f"New-NetFirewallRule -Name '{rule_name(port.protocol, port.port)}' -DisplayName '{port.name}' "
        f"-Direction Inbound -Action Allow -Protocol {port.protocol.upper()} -LocalPort {port.port} "
        "-Profile Any -Enabled True | Out-Null"
        for port in ports
    ]
    return "\n".join([*lines, "exit 0", ""]).encode()
