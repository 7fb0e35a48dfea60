"""Forms of secrets on a real ext4: each is found by the one check that fits, in its place, and none is printed."""

from __future__ import annotations

import random
import string
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.checks import inspect_disk, sandbox
from pipeline.checks.model import Subject
from pipeline.checks.run import all_checks
from pipeline.disk import open_disk
from pipeline.disk.secret_search import Found, search
from pipeline.systems.inspection import inspections
from pipeline.systems.installed import find_or_generic
from tests.fakes import fake_disk
from tests.fakes.secret_forms import FORMS, FREED, Form

CHECKS = ("private-keys", "access-tokens", "credential-files", "config-passwords", "mail-left", "secrets-searched")


def write(folder: Path, files: dict[str, bytes], size: str = "48M") -> Path:
    """An ext4 with these files and what makes it a system."""
    tree = folder / "tree"
    for name, data in {"etc/os-release": b"ID=debian\n", "etc/fstab": b"", **files}.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\n")
    disk = folder / "disk.raw"
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, size)
    return disk


def findings(disk: Path, profile: str = "azure-linux") -> dict[str, list[str]]:
    with open_disk(disk, "raw") as opened:
        _, _, system = find_or_generic(opened, inspections(), profile)
        subject = Subject(opened, system, profile, frozenset(), frozenset({1, 2}))
        return {check.id: list(check.run(subject)) for check in all_checks(profile) if check.id in CHECKS}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return findings(write(tmp_path_factory.mktemp("seeded"), {form.path: form.data for form in FORMS}))


@pytest.fixture(scope="module")
def freed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    disk = write(tmp_path_factory.mktemp("freed"), {form.path: form.data for form in FREED})
    with open_disk(disk, "raw") as opened:
        places = {path.lstrip("/"): runs for path, runs in opened.root.places()}
    commands = "\n".join(f"rm /{form.path}" for form in FREED) + "\n"
    fake_disk.tool("debugfs", "-w", "-f", "-", disk, stdin=commands.encode())
    found = findings(disk)
    named: dict[str, list[str]] = {name: [] for name in CHECKS}
    for name, lines in found.items():
        for line in lines:
            assert "no file, at byte" in line, line
            at = int(line.split("at byte ")[1].split()[0])
            owner = next(path for path, runs in places.items() if any(b <= at < b + n for b, n in runs))
            named[name].append(f"{line} (once /{owner})")
    return disk, named


def checks_that_name(found: dict[str, list[str]], path: str) -> set[str]:
    return {
        name
        for name, lines in found.items()
        if any(f"/{path}" in line.replace(",", " ").replace(")", " ").split() for line in lines)
    }


def test_there_are_many_forms() -> None:
    assert len(FORMS) >= 100 and len({form.path for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.path)
def test_a_form_is_found_by_the_check_that_fits(seeded: dict[str, list[str]], form: Form) -> None:
    assert checks_that_name(seeded, form.path) == {form.check}


@pytest.mark.parametrize("form", FREED, ids=lambda form: form.path)
def test_a_form_is_found_in_freed_blocks(freed: tuple[Path, dict[str, list[str]]], form: Form) -> None:
    assert checks_that_name(freed[1], form.path) == {form.check}


def test_no_secret_is_printed(seeded: dict[str, list[str]]) -> None:
    result = "\n".join(line for lines in seeded.values() for line in lines).encode()
    assert [form.path for form in FORMS if form.secret in result] == []


def test_nothing_else_is_found(seeded: dict[str, list[str]]) -> None:
    known = {f"/{form.path}" for form in FORMS}
    lines = [line for lines in seeded.values() for line in lines]
    assert [line for line in lines if not known & set(line.replace(",", " ").replace(")", " ").split())] == []
    assert {check.id for check in all_checks("azure-linux")} >= set(CHECKS)


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_a_search_in_parts_finds_what_one_search_finds(tmp_path: Path, parts: int) -> None:
    disk = write(tmp_path, {form.path: form.data for form in FORMS})
    with open_disk(disk, "raw") as opened:
        whole = search(opened)
        found = Found.of_parts(search(opened, number, parts).to_json() for number in range(parts))
    assert {(hit.offset, hit.rule, hit.digest) for hit in found.hits} == {
        (hit.offset, hit.rule, hit.digest) for hit in whole.hits
    }
    assert (sorted(found.broken), found.gaps) == (sorted(whole.broken), whole.gaps)


def test_a_secret_where_two_parts_meet_is_found(tmp_path: Path) -> None:
    """The cut is moved over the whole of a token, byte by byte."""
    token = b"ghp_" + bytes(random.Random(7).choices(string.ascii_letters.encode() + string.digits.encode(), k=36))
    data = bytearray(random.Random(1).randbytes(1 << 16).replace(b"ghp", b"...") * 2)
    middle = len(data) // 2
    for begin in range(middle - len(token) - 2, middle + 2):
        disk = tmp_path / "disk.raw"
        disk.write_bytes(bytes(data[: begin - 1]) + b" " + token + b" " + bytes(data[begin + len(token) + 1 :]))
        with open_disk(disk, "raw") as opened:
            found = Found.of_parts(search(opened, number, 2).to_json() for number in range(2))
        assert [hit.offset for hit in found.hits if hit.rule.startswith("github")] == [begin], begin


def test_an_inspection_by_several_workers_says_what_one_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = fake_disk.as_vhd(fake_disk.build(tmp_path), tmp_path / "disk.vhd")
    fake_disk.put(
        disk,
        "/root/notes",
        f"AWS_SECRET_ACCESS_KEY={'wJalrXUtnFEMI' * 3}+\n-----BEGIN RSA PRIVATE KEY-----\n",
        tmp_path,
    )
    alone = inspect_disk(disk, "vpc")
    monkeypatch.setattr(sandbox, "PARALLEL", 0)
    monkeypatch.setattr(sandbox, "PROCESSORS", 2)
    assert inspect_disk(disk, "vpc") == alone
    (tmp_path / "none.vhd").write_bytes(bytes(512 * 9))
    with pytest.raises(DiskError) as caught:
        inspect_disk(tmp_path / "none.vhd", "raw")
    assert caught.value.name == "nothing-to-inspect"
