"""NOT WINDOWS: msiexec, as its command line is described, with packages that are none.

A package is a text: its first line says NOT AN MSI (or is the agent's), the others how its installation goes.
"""

import os
import re

import registry

_UNINSTALL = "Microsoft\\Windows\\CurrentVersion\\Uninstall"
_OPTIONS = ("/i", "/qn", "/norestart", "/l*v")


def msiexec(parts, unix):
    """An exit code. Microsoft: MsiExec.exe error messages."""
    options, properties, log = [], {}, None
    parts = iter(parts)
    path = ""
    for part in parts:
        low = part.lower()
        if low in ("/i", "/l*v"):
            value = next(parts)
            path, log = (value, log) if low == "/i" else (path, value)
        elif found := re.fullmatch(r'([A-Z_][A-Z0-9_.]*)="?([^"]*)"?', part):
            properties[found[1]] = found[2]
        elif low not in _OPTIONS:
            return 1639
        options.append(low)
    place = unix(path)
    if place is None:
        return 1619
    with open(place, errors="replace") as file:
        lines = file.read().splitlines()
    if not lines or not lines[0].startswith("NOT AN"):
        return 1620
    if lines[0].startswith("NOT AN AGENT"):
        open("/run/agent-installed", "w").close()
        return 0
    package = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
    if log:
        with open(unix(log, create=True), "w", encoding="utf-16", newline="\r\n") as file:
            file.write(f"=== Verbose logging started ===\nProperties: {properties}\n")
            if "error" in package:
                file.write(f"Product: {package['name']} -- Error 1920. {package['error']}\n")
                file.write("Action ended: InstallFinalize. Return value 3.\n=== Verbose logging stopped ===\n")
    once = "/run/another-installation"
    if package.get("busy") and not os.path.exists(once):
        open(once, "w").close()
        return 1618
    if "error" in package:
        return 1603
    key = f"{_UNINSTALL}\\{{{package['name']}}}"
    registry.change(
        "SOFTWARE",
        lambda tree: registry.find(tree, key, create=True).update(
            {"DisplayName": package["name"], "DisplayVersion": properties.get("EDITION", "1.0")}
        ),
    )
    return int(package.get("code", "0"))
