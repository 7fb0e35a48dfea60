"""Forms of secrets on a real ext4: each is found by the one check that fits, in its place, and none is printed."""

from __future__ import annotations

from pathlib import Path

import phony
import pytest
from secret_forms import FORMS, FREED, Form

from pipeline.checks.model import REGISTRY, Subject
from pipeline.checks.run import all_checks
from pipeline.offline import open_disk

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
    phony.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, disk, size)
    return disk


def findings(disk: Path, profile: str = "azure-linux") -> dict[str, list[str]]:
    with open_disk(disk, "raw") as opened:
        subject = Subject(opened, profile, frozenset(), frozenset({1, 2}))
        return {name: list(REGISTRY[name].run(subject)) for name in CHECKS}


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    return findings(write(tmp_path_factory.mktemp("seeded"), {form.path: form.data for form in FORMS}))


@pytest.fixture(scope="module")
def freed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[str]]]:
    disk = write(tmp_path_factory.mktemp("freed"), {form.path: form.data for form in FREED})
    with open_disk(disk, "raw") as opened:
        places = {path.lstrip("/"): runs for path, runs in opened.root.places()}
    commands = "\n".join(f"rm /{form.path}" for form in FREED) + "\n"
    phony.tool("debugfs", "-w", "-f", "-", disk, stdin=commands.encode())
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
    said = "\n".join(line for lines in seeded.values() for line in lines).encode()
    assert [form.path for form in FORMS if form.secret in said] == []


def test_nothing_else_is_found(seeded: dict[str, list[str]]) -> None:
    known = {f"/{form.path}" for form in FORMS}
    lines = [line for lines in seeded.values() for line in lines]
    assert [line for line in lines if not known & set(line.replace(",", " ").replace(")", " ").split())] == []
    assert {check.id for check in all_checks("azure-linux")} >= set(CHECKS)
