"""An attacker who can change an export, or a version's folder, tries to replace a signed master by another one."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.base.errors import CheckFailed, GoldsmithError
from pipeline.base.runs import Run
from pipeline.base.store import Store
from pipeline.cache.digests import file_digest
from pipeline.cli.app import app
from pipeline.cli.environment import signing_key
from pipeline.evidence import signing, unsigned
from pipeline.evidence.checksum import write_local_evidence, write_sums
from pipeline.evidence.verification import ATTESTATIONS, PROVENANCE, RESULTS, SBOM, SUMS, judge
from pipeline.gallery import DISK, MANIFEST, Gallery, Version
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.integrity import verify
from tests.unit.evidence.test_evidence import captured, gallery, key, rewrite

__all__ = ["gallery", "key"]  # fixtures

#: All that evidence is, but for the manifest's word.
FILES = (*ATTESTATIONS, SBOM, SUMS, "template.json", "template-vhd.json", "domain.xml")


def edit(folder: Path, **words: Any) -> None:
    """Change the manifest; None takes a word away."""
    content = json.loads((folder / MANIFEST).read_text())
    content = {name: value for name, value in {**content, **words}.items() if value is not None or name not in words}
    rewrite(folder / MANIFEST, json.dumps(content).encode())


def sums(folder: Path) -> None:
    """As an attacker leaves them: right."""
    write_sums(folder, json.loads((folder / MANIFEST).read_text()))


def strip(folder: Path) -> None:
    edit(folder, signed_by=None)


def strip_all(folder: Path) -> None:
    """As if it were older than evidence."""
    strip(folder)
    for name in FILES:
        (folder / name).unlink(missing_ok=True)


def say_unsigned(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    rewrite(folder / MANIFEST, json.dumps({**content, "signed_by": None}).encode())
    for name in ATTESTATIONS:
        (folder / name).unlink()
    sums(folder)


def downgrade(folder: Path) -> None:
    """The form of evidence in which a signature binds less."""
    edit(folder, evidence=None)
    sums(folder)


def change_log(folder: Path) -> None:
    rewrite(folder / "logs/serial.log", b"all is well\n")
    sums(folder)


def drop_log(folder: Path) -> None:
    (folder / "logs/serial.log").unlink()
    sums(folder)


def add_log(folder: Path) -> None:
    (folder / "logs/more.log").write_text("it was me\n")
    sums(folder)


def change_bill(folder: Path) -> None:
    rewrite(folder / SBOM, (folder / SBOM).read_bytes().replace(b"bash", b"dash"))
    sums(folder)


def drop_bill(folder: Path) -> None:
    (folder / SBOM).unlink()
    sums(folder)


def change_template(folder: Path) -> None:
    rewrite(folder / "template.json", b"{}\n")
    sums(folder)


def change_disk(folder: Path) -> None:
    """Another disk, and a manifest that agrees with it."""
    from tests.unit.evidence.test_evidence import noise

    content = noise(folder / DISK, flat=True)
    edit(folder, disk=content)
    sums(folder)


def same_statement_twice(folder: Path) -> None:
    shutil.copyfile(folder / PROVENANCE, folder / "copy")
    (folder / RESULTS).unlink()
    (folder / "copy").rename(folder / RESULTS)
    sums(folder)


def drop_sums(folder: Path) -> None:
    (folder / SUMS).unlink()


def sums_lack_a_file(folder: Path) -> None:
    lines = (folder / SUMS).read_text().splitlines(keepends=True)
    rewrite(folder / SUMS, "".join(line for line in lines if SBOM not in line).encode())


def sums_lead_outside(folder: Path) -> None:
    rewrite(folder / SUMS, (folder / SUMS).read_bytes() + b"0" * 64 + b"  ../../../etc/passwd\n")


def extra_file(folder: Path) -> None:
    (folder / "run-me.sh").write_text("#!/bin/sh\n")
    sums(folder)


def extra_link(folder: Path) -> None:
    (folder / "logs/passwd.log").symlink_to("/etc/passwd")


def dangling_link(folder: Path) -> None:
    (folder / "logs/none.log").symlink_to("/nonexistent")


def folder_link(folder: Path) -> None:
    (folder / "screenshots").symlink_to("/etc")


def pipe(folder: Path) -> None:
    os.mkfifo(folder / "logs/pipe.log")


def sock(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "s"))


def manifest_link(folder: Path) -> None:
    (folder / MANIFEST).rename(folder.parent / "m.json")
    (folder / MANIFEST).symlink_to(folder.parent / "m.json")


def manifest_pipe(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    os.mkfifo(folder / MANIFEST)


def huge_log(folder: Path) -> None:
    with (folder / "logs/serial.log").open("r+b") as file:
        file.truncate(1 << 40)


def huge_manifest(folder: Path) -> None:
    (folder / MANIFEST).chmod(0o644)
    os.truncate(folder / MANIFEST, 1 << 40)


def huge_disk(folder: Path) -> None:
    (folder / DISK).chmod(0o644)
    os.truncate(folder / DISK, 1 << 42)


def many_values(folder: Path) -> None:
    rewrite(folder / MANIFEST, b"[" + b"[]," * (8 << 20) + b"[]]")


ATTACKS: dict[str, Callable[[Path], None]] = {
    each.__name__: each
    for each in (
        *(strip, strip_all, say_unsigned, downgrade, change_log, drop_log, add_log, change_bill, drop_bill),
        *(change_template, change_disk, same_statement_twice, drop_sums, sums_lack_a_file, sums_lead_outside),
        *(extra_file, extra_link, dangling_link, folder_link, pipe, sock, manifest_link, manifest_pipe),
        *(huge_log, huge_manifest, huge_disk, many_values),
    )
}
ATTACKS |= {
    "renamed": lambda folder: (edit(folder, name="other"), sums(folder), None)[2],
    "renumbered": lambda folder: (edit(folder, version="2099.101.0"), sums(folder), None)[2],
    "other key": lambda folder: (edit(folder, signed_by="0" * 64), sums(folder), None)[2],
    "no key": lambda folder: (edit(folder, signed_by=""), sums(folder), None)[2],
    **{f"without {name}": lambda folder, name=name: (folder / name).unlink() for name in (*ATTESTATIONS, SUMS)},
    **{
        f"{name} empty": lambda folder, name=name: (rewrite(folder / name, b""), sums(folder), None)[2]
        for name in ATTESTATIONS
    },
    **{
        f"{name} deep": lambda folder, name=name: (rewrite(folder / name, b"[" * 200_000), sums(folder), None)[2]
        for name in ATTESTATIONS
    },
}


@pytest.fixture
def signed(gallery: Gallery, key: signing.SigningKey) -> Version:
    log = gallery.root.parent / "serial.log"
    log.write_text("Linux version 6\n")
    return captured(gallery, key, extras=[("logs/serial.log", log)])


def held(key: signing.SigningKey, **more: Any) -> Any:
    return partial(judge, keys=[key.public], demanded=True, **more)


def test_what_was_not_changed_is_good(
    signed: Version, gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    parcel = export(signed, tmp_path / "parcel", judge=held(key))
    made = import_version(Gallery(tmp_path / "other"), parcel, judge=held(key), complete=write_local_evidence)
    assert not [entry for entry in verify(Gallery(tmp_path / "other"), "web", judge=held(key)) if entry.wrong]
    assert made.manifest == signed.manifest


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_parcel_is_refused_and_nothing_of_it_stays(
    signed: Version, key: signing.SigningKey, tmp_path: Path, attack: str
) -> None:
    parcel = export(signed, tmp_path / "parcel")
    ATTACKS[attack](parcel)
    other = Gallery(tmp_path / "other")
    with pytest.raises(GoldsmithError) as caught:
        import_version(other, parcel, judge=held(key), complete=write_local_evidence)
    assert caught.value.name in ("master-damaged", "no-parcel", "disk-full") and caught.value.hint
    left = [path for path in other.root.rglob("*") if path.name not in ("web", "other", ".lock")]
    assert left == []


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_changed_version_is_found(signed: Version, gallery: Gallery, key: signing.SigningKey, attack: str) -> None:
    ATTACKS[attack](signed.path)
    bad = [item for item in verify(gallery, "web", judge=held(key)) if item.wrong and not item.scratch]
    assert bad, attack


def test_files_of_two_versions_do_not_make_a_third(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    """Each file of one, in turn, in place of the other's; the sums made right."""
    old, new = captured(gallery, key), captured(gallery, key)
    first, two = export(old, tmp_path / "one"), export(new, tmp_path / "two")
    for path in sorted(two.iterdir()):
        if path.name in (SUMS, "domain.xml"):
            continue
        mixed = tmp_path / f"mixed-{path.name}"
        shutil.copytree(two, mixed)
        (mixed / path.name).unlink()
        shutil.copyfile(first / path.name, mixed / path.name)
        sums(mixed)
        with pytest.raises(GoldsmithError):
            import_version(
                Gallery(tmp_path / f"into-{path.name}"), mixed, judge=held(key), complete=write_local_evidence
            )
    # all but the disk: an older version under a newer number
    mixed = tmp_path / "replayed"
    shutil.copytree(first, mixed)
    edit(mixed, version=new.version)
    sums(mixed)
    with pytest.raises(CheckFailed, match="describes other files"):
        import_version(Gallery(tmp_path / "replay"), mixed, judge=held(key), complete=write_local_evidence)


def test_an_older_version_in_a_newer_ones_folder_is_found(gallery: Gallery, key: signing.SigningKey) -> None:
    old, new = captured(gallery, key), captured(gallery, key)
    shutil.rmtree(new.path)
    shutil.copytree(old.path, new.path)
    wrong = {entry.what: entry.wrong for entry in verify(gallery, "web", judge=held(key)) if entry.wrong}
    assert f"it belongs to web {old.version}" in wrong["web@golden"]
    assert wrong[f"web {new.version}"] == f"its manifest belongs to web {old.version}"


def test_a_damaged_version_is_not_written_over(signed: Version, key: signing.SigningKey, tmp_path: Path) -> None:
    parcel = export(signed, tmp_path / "parcel")
    (signed.path / MANIFEST).unlink()
    with pytest.raises(GoldsmithError) as caught:
        import_version(Gallery(signed.path.parents[1]), parcel, judge=held(key), complete=write_local_evidence)
    assert caught.value.name == "version-exists"
    assert signed.disk.exists()


def test_a_hard_link_is_copied_and_no_link_any_more(signed: Version, key: signing.SigningKey, tmp_path: Path) -> None:
    parcel = export(signed, tmp_path / "parcel")
    (tmp_path / "mine").write_bytes((parcel / "logs/serial.log").read_bytes())
    (parcel / "logs/serial.log").unlink()
    os.link(tmp_path / "mine", parcel / "logs/serial.log")
    made = import_version(Gallery(tmp_path / "other"), parcel, judge=held(key), complete=write_local_evidence)
    (tmp_path / "mine").write_text("changed afterwards")
    assert (made.path / "logs/serial.log").read_text() == "Linux version 6\n"


def test_logs_have_the_modes_of_the_run_wherever_they_go(
    signed: Version, key: signing.SigningKey, tmp_path: Path
) -> None:
    run = Run.start(tmp_path / "runs", "web", "goldsmith build web")
    for name in ("serial.log", "steps/01.log"):
        run.log(name).write_text("password: x\n")
    run.log("serial.log").chmod(0o600)
    run.finish("done")
    modes = {path.stat().st_mode & 0o777 for path in run.folder.rglob("*.log")}
    parcel = export(signed, tmp_path / "parcel")
    made = import_version(Gallery(tmp_path / "other"), parcel, judge=held(key), complete=write_local_evidence)
    for folder in (signed.path, parcel, made.path):
        modes.add((folder / "logs/serial.log").stat().st_mode & 0o777)
    assert modes == {0o440}


# ---- the register of masters without a signature -----------------------------------------------------------------


def legacy(version: Version) -> None:
    strip_all(version.path)
    edit(version.path, evidence=None)


def test_masters_older_than_the_key_are_registered_once(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    old, young = captured(gallery, None), captured(gallery, key)
    legacy(old)
    old = gallery.get(f"web@{old.version}")
    register = unsigned.register_beside(key.path)
    admitted = unsigned.admitted(register, gallery)
    assert admitted == {file_digest(old.path / MANIFEST)}
    findings = {item.what: item for item in verify(gallery, "web", judge=held(key, admitted=admitted))}
    assert not [item for item in findings.values() if item.wrong]
    assert findings[f"web {old.version}"].unsigned and not findings[f"web {young.version}"].unsigned
    # what is stripped afterwards is not one of them, and neither is the old one once it was changed
    legacy(young)
    edit(old.path, summary="another page")
    admitted = unsigned.admitted(register, gallery)
    wrong = {
        entry.what: entry.wrong for entry in verify(gallery, "web", judge=held(key, admitted=admitted)) if entry.wrong
    }
    assert wrong == {f"web {v.version}": "it has no signature" for v in (old, young)}


def test_what_was_robbed_of_its_signature_is_not_registered(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    strip(version.path)
    assert unsigned.admitted(unsigned.register_beside(key.path), gallery) == frozenset()


def test_a_damaged_register_admits_nobody(gallery: Gallery, key: signing.SigningKey) -> None:
    register = unsigned.register_beside(key.path)
    register.write_text('{"stores": [], "masters": 5}')
    with pytest.raises(GoldsmithError) as caught:
        unsigned.admitted(register, gallery)
    assert caught.value.name == "record-damaged"


# ---- through the command line ------------------------------------------------------------------------------------


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: signing.SigningKey) -> Store:
    """A host with a store and a key."""
    monkeypatch.setenv("GOLDSMITH_HOME", str(tmp_path / "host"))
    monkeypatch.setenv("GOLDSMITH_KEY", str(key.path))
    return Store(tmp_path / "host").ensure()


def run(*words: object) -> tuple[int, str, str]:
    """Exit code, output and error's name of a command."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if error is not None and not isinstance(error, GoldsmithError | SystemExit):
        raise error
    name = error.name if isinstance(error, GoldsmithError) else ""
    return (error.exit_code if isinstance(error, GoldsmithError) else result.exit_code), result.output, name


def test_a_stripped_and_renamed_parcel_never_becomes_golden(host: Store, signed: Version, tmp_path: Path) -> None:
    """The attack as it was reported."""
    parcel = export(signed, tmp_path / "parcel")
    strip_all(parcel)
    edit(parcel, name="trusted", summary="mine")
    assert run("gallery", "import", parcel)[::2] == (1, "master-damaged")
    # somebody puts it there by hand
    Gallery(host.gallery)
    shutil.copytree(parcel, host.gallery / "trusted" / signed.version)
    unsigned.admitted(unsigned.register_beside(signing_key()), Gallery(tmp_path / "nowhere"))
    register = json.loads(unsigned.register_beside(signing_key()).read_text())
    register["stores"].append(str(host.gallery))
    unsigned.register_beside(signing_key()).write_text(json.dumps(register))
    assert run("gallery", "promote", f"trusted@{signed.version}")[::2] == (1, "evidence-damaged")
    code, output, name = run("gallery", "verify")
    assert (code, name) == (1, "gallery-damaged") and "it has no signature" in output


def test_an_unsigned_parcel_needs_a_word_and_is_shown(host: Store, gallery: Gallery, tmp_path: Path) -> None:
    made = captured(gallery, None)
    parcel = export(made, tmp_path / "parcel")
    assert run("gallery", "import", parcel)[::2] == (1, "master-damaged")
    code, output, _ = run("gallery", "import", parcel, "--allow-unsigned")
    assert code == 0 and "has no trusted signature" in output
    assert run("gallery", "promote", f"web@{made.version}")[0] == 0
    assert "unsigned" in run("gallery", "list")[1]
    code, output, _ = run("gallery", "verify")
    assert (code == 0 and output.startswith("unsigned web")) or "unsigned" in output
    assert "signed   no signature" in run("gallery", "show", "web")[1]
    # not a bit of it may change all the same
    edit(host.gallery / "web" / made.version, summary="another page")
    assert run("gallery", "verify")[0] == 1


def test_what_another_host_signed_needs_its_key(
    host: Store, gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    other = signing.make(tmp_path / "their" / "build-host.key")
    parcel = export(captured(gallery, other), tmp_path / "parcel")
    assert run("gallery", "import", parcel)[::2] == (1, "master-damaged")
    assert run("gallery", "import", parcel, "--key", signing.public_path(other.path))[0] == 0


def test_a_public_half_that_was_changed_is_noticed(
    host: Store, signed: Version, key: signing.SigningKey, tmp_path: Path
) -> None:
    other = signing.make(tmp_path / "their" / "build-host.key")
    shutil.copyfile(signing.public_path(other.path), signing.public_path(key.path))
    assert run("gallery", "verify")[::2] == (2, "key-mismatch")


def test_a_host_without_a_key_takes_nothing_that_it_cannot_verify(
    host: Store, signed: Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOLDSMITH_KEY", str(tmp_path / "none" / "signing.key"))
    parcel = export(signed, tmp_path / "parcel")
    code, _, name = run("gallery", "import", parcel)
    assert (code, name) == (1, "master-damaged")
    assert run("gallery", "import", parcel, "--allow-unsigned")[0] == 0


@pytest.mark.parametrize(
    "version", ["2026.1121.0\n", "２０２６.1121.0", "2026.1121", "2026.01.0", "../x", "2026.1.0\0"]
)
def test_only_versions_that_are_such_are_imported(
    signed: Version, key: signing.SigningKey, tmp_path: Path, version: str
) -> None:
    parcel = export(signed, tmp_path / "parcel")
    edit(parcel, version=version)
    sums(parcel)
    with pytest.raises(GoldsmithError) as caught:
        import_version(Gallery(tmp_path / "other"), parcel)
    assert caught.value.name == "no-parcel"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", ["web\n", "ｗｅｂ", "..", ".new-x", "a/b", "", "Web", "web\x1b[31m", "w" * 80])
def test_only_names_that_are_such_are_imported(signed: Version, tmp_path: Path, name: str) -> None:
    parcel = export(signed, tmp_path / "parcel")
    edit(parcel, name=name)
    sums(parcel)
    with pytest.raises(GoldsmithError) as caught:
        import_version(Gallery(tmp_path / "other"), parcel)
    assert caught.value.name == "no-parcel"


@pytest.mark.parametrize(
    "reference", ["web@2026.1121.0\n", "web\n", "ｗｅｂ", "web@２０２６.1121.0", "web@..", "web@a/b"]
)
def test_only_such_references_are_looked_up(host: Store, reference: str) -> None:
    assert run("gallery", "show", reference)[::2] == (2, "gallery-name")
