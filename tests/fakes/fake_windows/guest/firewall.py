"""NOT WINDOWS: two commands of PowerShell's NetSecurity module, as its reference describes them, on the registry.

A rule is a value below FirewallRules, whose text has the fields that MS-GPFAS names. What is Any is not written.
"""

import fnmatch
import re

import registry

RULES = r"HKLM\SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy\FirewallRules"
PROTOCOLS = {"TCP": "6", "UDP": "17"}
_PARAMETER = r"-(\w+) (?:'([^']*)'|(\S+))"


def new_rule(line):
    """New-NetFirewallRule: what went wrong, None where nothing did."""
    rest = line.removeprefix("New-NetFirewallRule ").removesuffix(" | Out-Null")
    given = {name: quoted or plain for name, quoted, plain in re.findall(_PARAMETER, rest)}
    if re.sub(_PARAMETER, "", rest).strip():
        return f"A positional parameter cannot be found: {rest}"
    known = {"Name", "DisplayName", "Direction", "Action", "Protocol", "LocalPort", "Profile", "Enabled"}
    if unknown := set(given) - known:
        return f"A parameter cannot be found that matches parameter name '{min(unknown)}'."
    if "DisplayName" not in given:
        return "DisplayName is missing"
    hive, path = registry.place(RULES)
    if registry.value(hive, path, given["Name"]) is not None:
        return "Cannot create a file when that file already exists."
    fields = [
        f"Action={given.get('Action', 'Allow')}",
        f"Active={given.get('Enabled', 'True').upper()}",
        f"Dir={ {'Inbound': 'In', 'Outbound': 'Out'}[given.get('Direction', 'Inbound')] }",
        f"Protocol={PROTOCOLS[given['Protocol']]}",
        *([f"Profile={given['Profile']}"] if given.get("Profile", "Any") != "Any" else []),
        f"LPort={given['LocalPort']}",
        f"Name={given['DisplayName']}",
    ]
    registry.set_value(hive, path, given["Name"], "|".join(["v2.31", *fields, ""]))
    return None


def remove(pattern):
    """Remove-NetFirewallRule, of what Get-NetFirewallRule -Name finds."""
    hive, path = registry.place(RULES)
    for name in list(registry.find(registry.load()[hive], path) or {}):
        if fnmatch.fnmatch(name.lower(), pattern.lower()):
            registry.delete_value(hive, path, name)
