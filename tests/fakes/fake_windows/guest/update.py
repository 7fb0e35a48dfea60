"""NOT WINDOWS: what Windows Update would answer. No PowerShell is here: of the script only its settings are read.

Written from Microsoft's documents of the Windows Update Agent, and from what docs/windows.md says that a round says.
It offers two updates, behind the restart that one of them wants a third, and a month later, which is after a sysprep,
a fourth.
"""

import json
import os
import re
import time

import registry

DONE = "/mnt/c/NOT-WINDOWS/updates.json"
#: On a tmpfs: a restart is pending until there was one.
PENDING = "/run/restart-is-pending"
SECURITY, ORDINARY = "0FA1201D-4330-4FA8-8AE9-B877473B6441", "CD5FFD1E-E932-4E3A-BF74-18BF0B1BBD83"
#: Number to classification, whether it wants a restart, and the number that must be in before it is offered.
OFFERS = {5000001: (SECURITY, True, None), 5000002: (ORDINARY, False, None), 5000003: (SECURITY, False, 5000001)}
LATER = {5000004: (SECURITY, False, 5000003)}
_CRITERION = (
    r"(IsInstalled|IsHidden|IsPresent|IsAssigned|BrowseOnly|AutoSelectOnWebSites|RebootRequired)=[01]|"
    r"Type='(Software|Driver)'"
)
_PACKAGES = "Microsoft\\Windows\\CurrentVersion\\Component Based Servicing\\Packages"


def describe(number):
    return {
        "kb": [f"KB{number}"],
        "title": f"NOT WINDOWS: update f\u00fcr tests (KB{number})",
        "size": 1,
        "id": f"00000000-0000-0000-0000-{number:012}.200",
    }


def play(script, out, fault, later):
    """One round, `later` or not; its exit code."""

    def say(word, what):
        print(f"goldsmith {word} {json.dumps(what)}", file=out, end="\r\n", flush=True)

    settings = dict(re.findall(r"^\$(\w+) = (.+?)\s*$", script, re.MULTILINE))
    kinds = {kind.upper() for kind in re.findall(r"'([^']+)'", settings["security"])}
    say("phase", {"phase": "search"})
    if not all(re.fullmatch(_CRITERION, part) for part in settings["criteria"].strip('"').split(" and ")):
        say("error", {"code": "0x80240032", "message": "the criteria are not valid"})
        return 1
    if fault == "updates cannot be searched":
        say("error", {"code": "0x8024402c", "message": "the server's name cannot be resolved"})
        return 1
    done = []
    if os.path.exists(DONE):
        with open(DONE) as file:
            done = json.load(file)
    found = []
    for number, (kind, restarts, behind) in {**OFFERS, **(LATER if later else {})}.items():
        ready = behind is None or (behind in done and not os.path.exists(PENDING))
        if number not in done and ready and (settings["only"] == "'all'" or kind in kinds):
            found.append((number, restarts))
            say("found", describe(number))
    say("phase", {"phase": "download"})
    for number, _ in found:
        say("downloaded", describe(number))
    say("phase", {"phase": "install"})
    for number, restarts in found:
        if os.path.exists(PENDING):
            break
        say("installing", describe(number))
        if fault == "updates hang":
            time.sleep(36000)
        if fault == "an update fails" and restarts:
            say("failed", {**describe(number), "code": "0x800f0922"})
            continue
        say("installed", describe(number))
        if restarts:
            open(PENDING, "w").close()
        if not (fault == "updates are taken back" and restarts):
            done.append(number)
            put_down(number)
    with open(DONE, "w") as file:
        json.dump(done, file)
    say("end", {"restart": os.path.exists(PENDING)})
    return 0


def put_down(number):
    """As component based servicing does: the package, by the state in which it is."""

    def change(tree):
        name = f"Package_for_KB{number}~31bf3856ad364e35~amd64~~20348.1.1.0"
        registry.find(tree, f"{_PACKAGES}\\{name}", create=True)["CurrentState"] = 0x70

    registry.change("SOFTWARE", change)
