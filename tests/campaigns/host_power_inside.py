"""What `make campaign-host-power` runs in its virtual machine, as root, until the machine loses its power.

    /opt/goldsmith/bin/python host_power_inside.py prepare | work | judge

`work` captures versions, promotes, exports, removes, and creates and deletes VMs, over and over; each line that it
prints says what a command has done. `judge` reads those lines, looks at what the power cut has left, and prints JSON.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pipeline.base.errors import GoldsmithError
from pipeline.cache.digests import flat_digest
from pipeline.evidence.signing import load
from pipeline.gallery import Gallery

STORE = Path("/var/lib/goldsmith")
TRIAL = Path("/root/trial")
PARCEL = TRIAL / "parcel"
KEY = Path("/etc/goldsmith/signing.key")
WORDS = ("goldsmith",)
#: Seconds for a command in an emulated machine.
SOON = 900.0


def note(text: str) -> None:
    print(text, flush=True)


def goldsmith(*words: str, code: int | None = 0) -> str:
    argv = [*WORDS, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=SOON, cwd="/")
    assert code is None or done.returncode == code, (
        f"{' '.join(words)}: exit {done.returncode}: {(done.stdout + done.stderr)[-600:]}"
    )
    return done.stdout


def add_version() -> str:
    """A new golden version of the image `drum`, signed by this host; its number. Its disk says which one it is."""
    from signed_master import make_signed_version  # type: ignore[import-not-found]  # brought beside this file

    key = load(KEY, STORE)
    assert key is not None, f"{KEY} is missing"
    return str(make_signed_version(Gallery(STORE / "gallery"), "drum", key, f"drum {time.time()}").version)


def work() -> None:
    key = str(TRIAL / "key.pub")
    note(f"golden {Gallery(STORE / 'gallery').get('drum').version}")
    while True:
        version = add_version()
        note(f"golden {version}")
        goldsmith("vm", "create", "short", "--image", "small", "--ssh-key", key, "--no-wait")
        note("created short")
        shutil.rmtree(PARCEL, ignore_errors=True)
        goldsmith("gallery", "export", f"drum@{version}", str(PARCEL))
        note("exported")
        goldsmith("vm", "delete", "short", "--yes")
        note("deleted short")
        for older in [each.version for each in Gallery(STORE / "gallery").versions("drum")][:-3]:
            goldsmith("gallery", "remove", f"drum@{older}", "--why", "the trial")
            note(f"removed {older}")


def base_faults() -> list[str]:
    """What is wrong with the master of the VMs. `gallery verify` refuses it: the trial made it on another host, and
    this one has no key for it. So its disk is compared with its manifest here."""
    version = Gallery(STORE / "gallery").get("small")
    wanted, found = version.manifest["disk"]["sha256"], flat_digest(version.disk)
    return [] if found == wanted else [f"the disk of {version.version} of small is not what it was"]


def judge() -> dict[str, object]:
    """What the work has written against what is there. `wrong` is empty where nothing was lost."""
    lines = sys.stdin.read().splitlines()
    wrong: list[str] = []
    before = goldsmith("gallery", "list", "--all", "--json", code=None)
    for words in (("gallery", "verify", "drum"), ("clean",), ("vm", "list")):
        try:
            goldsmith(*words)
        except AssertionError as error:
            wrong.append(str(error))
    wrong += base_faults()
    noted = [line.split()[1] for line in lines if line.startswith("golden")]
    versions = [each.version for each in Gallery(STORE / "gallery").versions("drum")]
    try:
        golden = str(Gallery(STORE / "gallery").get("drum").version)
    except GoldsmithError as error:
        return {"seen": before[-300:], "wrong": [*wrong, f"golden is lost: {error.message}"]}
    # the cut may have come behind a promotion and before its line
    if golden not in versions[versions.index(noted[-1]) :]:
        wrong.append(f"golden is {golden}, and was {noted[-1]}")
    removed = [line.split()[1] for line in lines if line.startswith("removed")]
    wrong += [f"{each} was removed, and is there" for each in removed if each in versions]
    wrong += [f"{each} is lost" for each in noted[-2:] if each not in versions]
    kernel = subprocess.run(
        ["journalctl", "-k", "-b", "-o", "cat"], capture_output=True, text=True, check=False
    ).stdout
    wrong += [line for line in kernel.splitlines() if "EXT4-fs error" in line]
    names = [vm["name"] for vm in json.loads(goldsmith("vm", "list", "--json"))]
    last = lines[-1].split()[0]
    if last == "created" and "short" not in names:
        wrong.append("the VM was created, and is lost")
    if last in ("deleted", "removed") and "short" in names:
        wrong.append("the VM was deleted, and is there")
    if last in ("exported", "deleted", "removed"):
        sums = subprocess.run(
            ["sha256sum", "-c", "SHA256SUMS"], cwd=PARCEL, capture_output=True, text=True, check=False
        )
        wrong += [f"the export: {sums.stdout}{sums.stderr}"] if sums.returncode else []
    if "short" in names:
        goldsmith("vm", "delete", "short", "--yes")
    left = [str(path) for folder in ("instances", "scratch") for path in (STORE / folder).glob("[!.]*")]
    wrong += [f"left: {each}" for each in left]
    return {
        "seen": f"{len(lines)} lines, the last: {lines[-1]}; golden {golden}",
        "wrong": wrong,
    }


if __name__ == "__main__":
    if sys.argv[1] == "prepare":
        add_version()
        assert not base_faults(), base_faults()
        goldsmith("gallery", "verify", "drum")
        sys.exit()
    if sys.argv[1] == "work":
        work()
    print(json.dumps(judge()), flush=True)
