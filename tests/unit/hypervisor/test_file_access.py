"""Whether QEMU's user reaches a disk: the whole chain of folders, as libvirt's own user sees it."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.base.disk_format import QCOW2, VHD
from pipeline.base.errors import HostError
from pipeline.cache.layers import Image
from pipeline.cli.environment import locate_store
from pipeline.hypervisor import host
from pipeline.hypervisor.domain import Disk, qemu_files
from pipeline.hypervisor.file_access import ANYBODY, closed_folders, need_access
from tests.unit.hypervisor.test_domain import SPEC

#: A user that every Linux has, and that owns nothing.
NOBODY = (pwd.getpwnam("nobody").pw_uid, pwd.getpwnam("nobody").pw_gid)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A folder whose own chain is open: pytest's is closed to others."""
    opened = [each for each in (tmp_path, *tmp_path.parents) if not each.stat().st_mode & 0o001]
    before = {each: each.stat().st_mode for each in opened}
    for each in opened:
        each.chmod(before[each] | 0o001)
    yield tmp_path
    for each, mode in before.items():
        each.chmod(mode & 0o7777)


def test_every_closed_folder_is_named_with_its_command(home: Path) -> None:
    disk = home / "anna" / "store" / "layers" / "disk.qcow2"
    disk.parent.mkdir(parents=True)
    disk.touch()
    disk.chmod(0o644)
    need_access([], [disk], NOBODY)
    (home / "anna").chmod(0o700)
    disk.parent.chmod(0o750)
    with pytest.raises(HostError) as caught:
        need_access([], [disk], NOBODY)
    error = caught.value
    assert error.name == "qemu-access-denied" and error.exit_code == 3
    assert f"runs as nobody and cannot search {home}/anna or search {disk.parent}" in error.message
    assert error.hint is not None and "setfacl -m u:nobody:x" in error.hint
    # the command is exact: after it the disk is reached
    subprocess.run(["sh", "-euc", error.hint.split(";")[0]], check=True)
    need_access([], [disk], NOBODY)


def test_a_disk_that_cannot_be_read(home: Path) -> None:
    disk = home / "disk.vhd"
    disk.touch()
    disk.chmod(0o600)
    need_access([disk], [], NOBODY)
    with pytest.raises(HostError, match=r"cannot read .*disk\.vhd"):
        need_access([], [disk], NOBODY)
    os.chown(disk, *NOBODY)
    need_access([], [disk], NOBODY)


def test_groups_and_owners_count(home: Path) -> None:
    folder = home / "team"
    folder.mkdir()
    folder.chmod(0o750)
    assert closed_folders([folder], NOBODY) == [folder] == closed_folders([folder], ANYBODY)
    assert not closed_folders([folder], (0, 0))
    os.chown(folder, 0, NOBODY[1])
    assert not closed_folders([folder], NOBODY)
    # a group that may not search goes before others who may
    folder.chmod(0o705)
    assert closed_folders([folder], NOBODY) == [folder]


def test_a_link_is_followed(home: Path) -> None:
    (home / "private" / "store").mkdir(parents=True)
    (home / "store").symlink_to(home / "private" / "store")
    (home / "private").chmod(0o700)
    assert closed_folders([home / "store"], NOBODY) == [home / "private"]


def test_the_whole_chain_of_a_guests_files_is_looked_at(tmp_path: Path) -> None:
    below = Image(tmp_path / "a" / "base.vhd", VHD)
    spec = replace(SPEC, disks=(Disk(Image(tmp_path / "b" / "top.qcow2", QCOW2, below)),), seed=tmp_path / "seed.iso")
    others, read = qemu_files(spec)
    assert read == [tmp_path / "b" / "top.qcow2", tmp_path / "a" / "base.vhd"] and tmp_path / "seed.iso" in others


def test_the_doctor_names_a_store_below_a_private_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = home / "anna" / "store"
    for name in ("gallery", "layers", "runs", "downloads", "tmp"):
        (store / name).mkdir(parents=True)
    monkeypatch.setenv("GOLDSMITH_HOME", str(store))
    monkeypatch.setattr(host, "_qemu_user", lambda: (NOBODY, "nobody"))
    (store / "layers").chmod(0o700)
    (finding,) = host._store(locate_store())
    assert finding.verdict == "fail" and f"cannot search {store}/layers" in finding.text
    assert f"chmod o+x {store}/layers" in str(finding.fix)
