"""A copy step, from the project's files to what GNU tar makes of the stream: modes, owners, links, holes, memory."""

from __future__ import annotations

import os
import random
import shutil
import stat
import tracemalloc
from pathlib import Path

import pytest

from pipeline.base.errors import UsageError
from pipeline.base.process import CommandFailed
from pipeline.definition import CopyStep, load_named, step_digest, step_inputs
from pipeline.guest.access import Access
from pipeline.guest.copy_stream import Modes, need_plain_files, unpack_script
from pipeline.systems.linux.steps import Steps

DEFINITION = "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="owners are given by root")


class Here(Access):
    """Access to a guest that is this host: what is run there is run here."""

    def ssh(self, remote: str) -> list[str | Path]:
        return ["sh", "-c", f"umask 077; {remote.removeprefix('sudo -n ')}"]


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(Here(tmp_path, "root", 1), lambda: None)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def make_tree(folder: Path, umask: int) -> Path:
    """What a checkout under this umask leaves: a file, a program, a folder, a link."""
    before = os.umask(umask)
    try:
        (folder / "app.d").mkdir(parents=True)
        (folder / "app.d" / "a.conf").write_text("a = 1\n")
        (folder / "run").write_text("#!/bin/sh\n")
        (folder / "run").chmod(0o777 & ~umask)
        (folder / "link").symlink_to("app.d/a.conf")
    finally:
        os.umask(before)
    return folder


def test_a_folder_that_exists_keeps_its_mode_and_owner(steps: Steps, tmp_path: Path) -> None:
    source = make_tree(tmp_path / "overlay", 0o077)
    target = tmp_path / "guest"
    (target / "app.d").mkdir(parents=True)
    target.chmod(0o1777)
    (target / "app.d").chmod(0o2775)
    os.chown(target / "app.d", 7, 8)
    steps.copy(source, str(target), None, deadline=30)
    assert mode(target) == 0o1777 and mode(target / "app.d") == 0o2775
    assert ((target / "app.d").stat().st_uid, (target / "app.d").stat().st_gid) == (7, 8)
    assert mode(target / "app.d" / "a.conf") == 0o644 and mode(target / "run") == 0o755
    assert (target / "app.d" / "a.conf").stat().st_uid == 0
    assert os.readlink(target / "link") == "app.d/a.conf"  # noqa: PTH115


@pytest.mark.parametrize(("given", "files", "folders"), [(None, 0o644, 0o755), ("0600", 0o600, 0o700)])
def test_new_folders_have_a_documented_mode(
    steps: Steps, tmp_path: Path, given: str | None, files: int, folders: int
) -> None:
    steps.copy(make_tree(tmp_path / "overlay", 0o077), str(tmp_path / "new/deep/target"), given, deadline=30)
    assert mode(tmp_path / "new") == mode(tmp_path / "new/deep") == 0o755
    assert mode(tmp_path / "new/deep/target") == mode(tmp_path / "new/deep/target/app.d") == folders
    assert mode(tmp_path / "new/deep/target/app.d/a.conf") == files


@pytest.mark.parametrize(("given", "wanted"), [(None, 0o644), ("0440", 0o440), ("4755", 0o4755)])
def test_a_file_of_its_own(steps: Steps, tmp_path: Path, given: str | None, wanted: int) -> None:
    source = tmp_path / "secret"
    source.write_text("x")
    source.chmod(0o600)
    os.chown(source, 7, 8)
    target = tmp_path / "etc/some dir/it's"
    steps.copy(source, str(target), given, deadline=30)
    assert target.read_text() == "x" and mode(target) == wanted and target.stat().st_uid == 0
    assert mode(target.parent) == 0o755


def test_links_to_folders_stay_links(steps: Steps, tmp_path: Path) -> None:
    """As /lib and /bin are: a copy to / must not put folders in their place."""
    source = tmp_path / "overlay"
    (source / "lib/systemd").mkdir(parents=True)
    (source / "lib/systemd/x.service").write_text("[Unit]\n")
    root = tmp_path / "root"
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    steps.copy(source, str(root), None, deadline=30)
    assert (root / "lib").is_symlink() and (root / "usr/lib/systemd/x.service").is_file()


def test_a_file_onto_a_folder_is_refused(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CommandFailed, match="is a folder"):
        steps.copy(tmp_path / "file", str(tmp_path / "empty"), None, deadline=30)
    assert (tmp_path / "empty").is_dir()


def test_a_large_file_costs_no_memory_and_its_holes_no_time(steps: Steps, tmp_path: Path) -> None:
    source, target = tmp_path / "big.bin", tmp_path / "srv/big.bin"
    size = 6 << 30
    with source.open("wb") as file:
        file.write(b"begin" + bytes(12 << 20).replace(b"\0", b"x"))
        file.seek(4 << 30)
        file.write(random.randbytes(24 << 20))
        file.truncate(size)
    seen: list[tuple[int, int]] = []
    tracemalloc.start()
    try:
        steps.copy(source, str(target), None, deadline=60, on_bytes=lambda done, total: seen.append((done, total)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20
    assert seen and all(done <= total < 48 << 20 for done, total in seen)
    assert target.stat().st_size == size and target.stat().st_blocks * 512 < 64 << 20
    with source.open("rb") as first, target.open("rb") as other:
        for at in (0, 8 << 20, 2 << 30, 4 << 30, (4 << 30) + (20 << 20), size - 4096):
            first.seek(at)
            other.seek(at)
            assert first.read(1 << 20) == other.read(1 << 20)


def test_holes_of_any_shape(steps: Steps, tmp_path: Path) -> None:
    """Data at the begin and at the end, an odd length, many pieces."""
    source, target = tmp_path / "odd", tmp_path / "out"
    with source.open("wb") as file:
        for number in range(40):
            file.seek(number * (1 << 20) + 4096)
            file.write(bytes([number + 1]) * 5000)
        file.seek((50 << 20) + 17)
        file.write(b"end")
    steps.copy(source, str(target), None, deadline=30)
    assert source.read_bytes() == target.read_bytes()
    source.write_bytes(b"")
    os.truncate(source, 5 << 20)
    steps.copy(source, str(target), None, deadline=30)
    assert target.read_bytes() == bytes(5 << 20)


def test_what_goes_before_a_script(steps: Steps, tmp_path: Path) -> None:
    (tmp_path / "s").write_text("true\n")
    steps.copy(tmp_path / "s", str(tmp_path / "t"), "0700", deadline=30, head=b"#!/bin/sh\nset -e\n")
    assert (tmp_path / "t").read_text() == "#!/bin/sh\nset -e\ntrue\n" and mode(tmp_path / "t") == 0o700


def test_a_source_that_goes_away_is_named(steps: Steps, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "log"
    source.write_bytes(bytes(8 << 20))
    whole = os.pread

    def shrink(fd: int, count: int, at: int) -> bytes:
        os.truncate(source, 1 << 20)
        return whole(fd, count, at)

    monkeypatch.setattr(os, "pread", shrink)
    with pytest.raises(UsageError) as caught:
        steps.copy(source, str(tmp_path / "t"), None, deadline=30)
    assert caught.value.name == "source-changed" and str(source) in caught.value.message and caught.value.hint


def test_a_pipe_in_a_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError) as caught:
        need_plain_files(tmp_path)
    assert caught.value.name == "copy-special-file" and caught.value.hint


def test_checkouts_under_any_umask_have_the_same_keys(tmp_path: Path) -> None:
    keys = []
    for umask in (0o022, 0o077, 0o002):
        project = tmp_path / f"{umask:o}"
        make_tree(project / "files/overlay", umask)
        before = os.umask(umask)
        try:
            (project / "playbooks/files").mkdir(parents=True)
            (project / "playbooks/files/motd").write_text("hello\n")
            (project / "playbooks/site.yml").write_text(
                "- hosts: all\n  tasks:\n    - ansible.builtin.copy: {src: motd, dest: /etc/motd, mode: '0644'}\n"
            )
            (project / "images").mkdir()
        finally:
            os.umask(before)
        text = "steps: [{copy: {from: files/overlay, to: /etc}}, {playbook: site.yml}]\n"
        (project / "images/x.yaml").write_text(DEFINITION + text)
        keys.append([step_inputs(step) for step in load_named(project, "x").steps])
    assert keys[0] == keys[1] == keys[2]
    program = tmp_path / "22/files/overlay/run"
    program.chmod(0o644)
    changed = step_inputs(load_named(tmp_path / "22", "x").steps[0])
    assert changed != keys[0][0]


def test_a_playbook_that_keeps_modes_has_them_in_its_key(tmp_path: Path) -> None:
    """mode: preserve takes the mode of the checkout into the guest: then another mode is another image."""
    (tmp_path / "playbooks/files").mkdir(parents=True)
    (tmp_path / "images").mkdir()
    motd = tmp_path / "playbooks/files/motd"
    motd.write_text("hello\n")
    (tmp_path / "playbooks/site.yml").write_text(
        "- hosts: all\n  tasks:\n    - ansible.builtin.copy: {src: motd, dest: /etc/motd, mode: preserve}\n"
    )
    (tmp_path / "images/x.yaml").write_text(DEFINITION + "steps: [{playbook: site.yml}]\n")
    found = []
    for bits in (0o644, 0o600):
        motd.chmod(bits)
        found.append(step_inputs(load_named(tmp_path, "x").steps[0]))
    assert found[0] != found[1]


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "images").mkdir()
    shutil.copy(__file__, tmp_path / "big")
    (tmp_path / "images/x.yaml").write_text(DEFINITION + "steps: [{copy: {from: big, to: /big}}]\n")
    monkeypatch.setattr(step_digest, "SETTLED", -1)
    step = load_named(tmp_path, "x").steps[0]
    first = step_inputs(step)
    opened: list[Path] = []
    whole = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *words, **more: (opened.append(path), whole(path, *words, **more))[1]
    )
    assert step_inputs(step) == first and not opened


def test_a_folder_may_go_to_the_root(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "overlay").mkdir()
    (tmp_path / "images/x.yaml").write_text(DEFINITION + "steps: [{copy: {from: overlay, to: /}}]\n")
    step = load_named(tmp_path, "x").steps[0]
    assert isinstance(step, CopyStep) and step.to == "/"
    assert " -C /" in unpack_script(True, "/", Modes())
