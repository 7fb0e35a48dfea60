"""`make test-kvm`, `make test-windows`, `make test-azure`: a field run and its archive; `replay FILE KEY` judges one.

A run that lacks what it needs is skipped, with the name of what is missing. One that fails leaves its archive too.
"""

from __future__ import annotations

import getpass
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.base.errors import GoldsmithError
from pipeline.cli.environment import signing_key
from pipeline.evidence import signing
from tests.field.archive import ArchiveError, collect, read_archive, write_archive
from tests.field.azure import FieldError
from tests.field.kinds import KINDS, Kind, accelerator
from tests.field.redaction import Redaction
from tests.field.replay import console_state, replay
from tests.harness import ROOT, Lab, commit_id, describe_load, new_home, remove

#: Where archives go, and the key of a host that has none.
OUT = ROOT / "build" / "field"


def main(words: list[str], environment: Mapping[str, str]) -> int:
    if len(words) == 3 and words[0] == "replay":
        return show_replay(Path(words[1]), Path(words[2]))
    if len(words) != 1 or words[0] not in KINDS:
        print(f"usage: python -m tests.field {'|'.join(KINDS)}, or: replay ARCHIVE PUBLIC-KEY", file=sys.stderr)
        return 2
    kind = KINDS[words[0]]
    if missing := kind.missing(environment):
        print(f"test-{kind.name}: skipped: {missing}")
        return 0
    home, project = new_home(f"field-{kind.name}"), new_home(f"field-{kind.name}-project")
    lab = Lab(project, home)
    try:
        path, error = run(kind, lab, environment, OUT)
    finally:
        remove(project)
        remove(home)
    print(f"{path}\nkey: {signing.public_path(field_key(home, OUT).path)}")
    if error:
        print(f"test-{kind.name}: {error}", file=sys.stderr)
    return 1 if error else 0


def run(kind: Kind, lab: Lab, environment: Mapping[str, str], out: Path) -> tuple[Path, str]:
    """Do a field run; the path of its archive, and its error, empty where there was none."""
    folder = lab.folder / "field"
    folder.mkdir()
    redaction = Redaction(known_values(lab, environment))
    began, error = time.monotonic(), ""
    try:
        kind.run(lab, folder, environment)
    except (FieldError, GoldsmithError) as failure:
        error = str(failure)
    for source, name in ((lab.home / "runs", "runs"), (lab.home / "gallery", "gallery")):
        if source.is_dir():
            shutil.copytree(source, folder / name, symlinks=True, ignore=shutil.ignore_patterns("*.vhd", "disk.*"))
    files, left_out = collect(folder, redaction)
    field = {
        "kind": kind.name,
        "commit": commit_id(),
        "error": error,
        "seconds": round(time.monotonic() - began),
        "load": describe_load(),
        "processors": os.cpu_count(),
        "kernel": platform.release(),
        "accelerator": accelerator(files.get("doctor.json", b"").decode())[0],
        "left out": left_out,
        "consoles": console_states(files),
    }
    path = out / f"field-{kind.name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.tar.gz"
    write_archive(path, field, files, field_key(lab.home, out), redaction)
    return path, str(redaction.text(error))


def console_states(files: Mapping[str, bytes]) -> dict[str, str]:
    """What each console of a run shows, as the replay must recognize it."""
    return {name: console_state(data) for name, data in files.items() if name.endswith("serial.log")}


def known_values(lab: Lab, environment: Mapping[str, str]) -> dict[str, str]:
    """What belongs to this host and its user, by the names that stand in its place."""
    found: dict[str, Any] = {
        "project": lab.folder,
        "store": lab.home,
        "checkout": ROOT,
        "home": Path.home() if Path.home() != Path("/root") else "",
        "full host": socket.gethostname(),
        "host": socket.gethostname().partition(".")[0],
        "user": environment.get("SUDO_USER") or getpass.getuser(),
        **{name.lower(): environment.get(name, "") for name in ("WINDOWS_ISO", "VIRTIO_ISO", "AZURE_SUBSCRIPTION")},
    }
    return {name: str(value) for name, value in found.items() if value}


def field_key(home: Path, out: Path) -> signing.SigningKey:
    """The host's key; where it has none, a key in the folder of archives."""
    own = signing.load(signing_key(), home)
    if own is not None:
        return own
    path = out / "field.key"
    return signing.load(path, home) or signing.make(path)


def show_replay(path: Path, key: Path) -> int:
    """Replay an archive and print what it is today. 1 where something differs."""
    try:
        archive = read_archive(path, [signing.load_public(key)])
    except (ArchiveError, GoldsmithError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 1
    rows = replay(archive)
    for row in rows:
        print(f"{'ok' if not row.differences else 'DIFFERS':8} {row.file}: {row.parts} replayed, {row.left_out} not")
        for difference in row.differences:
            print(f"         {difference}")
    return 1 if any(row.differences for row in rows) or not rows else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
