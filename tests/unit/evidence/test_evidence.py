"""What a master carries: bill of materials, signed statements, sums, template; no flipped bit stays unseen."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
from in_toto_attestation.predicates.test_result.v0 import test_result_pb2
from in_toto_attestation.v1.statement import Statement
from jsonschema import Draft7Validator
from lxml import etree
from packageurl import PackageURL
from referencing import Registry, Resource

from pipeline.base.errors import CheckFailed, UsageError
from pipeline.base.process import CommandFailed
from pipeline.cache.digests import flat_digest, write_block_digests
from pipeline.evidence import signing
from pipeline.evidence.arm_template import managed_template
from pipeline.evidence.checksum import (
    ATTESTATIONS,
    SBOM,
    SUMS,
    Contents,
    judge,
    write_evidence,
    write_local_evidence,
    write_sums,
)
from pipeline.gallery import DISK, MANIFEST, Gallery, Version, archive, data_file, digests_file
from pipeline.gallery.export_import import export, import_version
from pipeline.gallery.integrity import Judge, verify

SYSTEM = {"ID": "debian", "VERSION_ID": "12", "PRETTY_NAME": "Debian GNU/Linux 12 (bookworm)"}
PACKAGES = [["bash", "5.2.15-2+b7", "amd64"], ["libc6", "2.36-9+deb12u10", "amd64"], ["tzdata", "1:2024a-0", "all"]]


@pytest.fixture
def key(tmp_path: Path) -> signing.SigningKey:
    return signing.make(tmp_path / "elsewhere" / "signing.key")


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    return Gallery(tmp_path / "gallery")


def noise(disk: Path, *, flat: bool) -> dict[str, Any]:
    """A small disk, and what a manifest says of it."""
    disk.unlink(missing_ok=True)  # the last version is a link to it
    with disk.open("wb") as file:
        file.truncate((6 << 20) + 512)
        file.seek(3 << 20)
        file.write(random.randbytes(1 << 16))
    blocks = disk.with_suffix(".digests")
    blocks.unlink(missing_ok=True)
    digests = write_block_digests(disk, blocks)
    return {
        "size": digests.size,
        "virtual_size": digests.size - 512,
        "sha256": flat_digest(disk) if flat else None,
        "tree_sha256": digests.tree,
        "chunk_size": 2 << 20,
        "digests": {"file": blocks.name.removeprefix("made-"), "block_size": 64 << 10},
    }


def captured(
    gallery: Gallery,
    key: signing.SigningKey | None,
    *,
    flat: bool = True,
    luns: Sequence[int] = (),
    extras: Sequence[tuple[str, Path]] = (),
) -> Version:
    """A version as the capture stage makes one, with small disks of noise."""
    disks = {name: gallery.root.parent / f"made-{name}" for name in (DISK, *map(data_file, luns))}
    content = {name: noise(path, flat=flat) for name, path in disks.items()}
    manifest: dict[str, Any] = {
        "name": "web",
        "summary": "a page",
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "started": "2026-11-21T20:00:00Z",
        "state": "proven",
        "start": "cold",
        "os": "linux",
        "suite": "bookworm",
        "accelerator": "tcg",
        "agent": "waagent",
        "first_boot": None,
        "machine": {"cpus": 2, "memory": 2 << 30},
        "generations": [1, 2],
        "disk": content[DISK],
        "data_disks": [
            {"lun": lun, "caching": "ReadOnly", "filesystem": "ext4", "label": "data", **content[data_file(lun)]}
            for lun in luns
        ],
        "inputs": [
            {
                "stage": "acquire",
                "title": "bootstrap",
                "key": "ab",
                "inputs": {"suite": "bookworm", "recipe": "0f" * 32},
            }
        ],
        "definition": "goldsmith: 1\n",
        "tools": {"goldsmith": "0.1.0"},
        "checks": [{"id": "fs-clean", "status": "pass"}, {"id": "proxy", "status": "waived"}],
        "prove": {"gen1": {"checks": {"login": "clone"}, "failures": []}},
        "run": "R1",
        "signed_by": key.id if key else None,
        "evidence": 2,
    }

    complete = partial(write_evidence, contents=Contents(SYSTEM, PACKAGES), key=key)
    disks |= {digests_file(name): path.with_suffix(".digests") for name, path in disks.items()}
    made = gallery.capture("web", disks, extras, lambda version: {**manifest, "version": version}, complete)
    gallery.promote(made)
    return made


def wrong(gallery: Gallery, *keys: signing.SigningKey, demanded: bool = False) -> list[str]:
    held = partial(judge, keys=[key.public for key in keys], demanded=demanded)
    return [item.wrong for item in verify(gallery, "web", judge=held) if item.wrong]


def read_statement(version: Version, name: str, key: signing.SigningKey) -> dict[str, Any]:
    return dict(json.loads(signing.opened((version.path / name).read_text(), [key.public])))


# ---- the bill of materials ---------------------------------------------------------------------------------------


def _validator(name: str) -> Draft7Validator:
    """CycloneDX' own schema, and jsonschema to judge by it: neither wrote the bill."""
    folder = resources.files("cyclonedx.schema") / "_res"

    def find(uri: str) -> Resource[Any]:
        file = uri.rsplit("/", 1)[-1].replace(".schema.json", ".SNAPSHOT.schema.json")
        return Resource.from_contents(json.loads((folder / file).read_text()))

    schema = json.loads((folder / name).read_text())
    return Draft7Validator(schema, registry=Registry(retrieve=find))


def test_the_bill_is_valid_and_names_every_package(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    content = json.loads((version.path / SBOM).read_text())
    validator = _validator("bom-1.6.SNAPSHOT.schema.json")
    assert list(validator.iter_errors(content)) == []
    assert list(validator.iter_errors({**content, "components": [{"name": "no type"}]})) != []  # it can say no
    found = {(c["name"], c["version"]) for c in content["components"]}
    assert found == {(name, number) for name, number, _ in PACKAGES}
    purl = PackageURL.from_string(next(c["purl"] for c in content["components"] if c["name"] == "tzdata"))
    assert (purl.type, purl.namespace, purl.version) == ("deb", "debian", "1:2024a-0")
    assert purl.qualifiers == {"arch": "all", "distro": "debian-12"}
    assert content["metadata"]["component"]["hashes"][0]["content"] == version.sha256


def test_the_same_disk_has_the_same_bill(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    before = (version.path / SBOM).read_bytes()
    seal_again(version, key)
    assert (version.path / SBOM).read_bytes() == before


def seal_again(version: Version, key: signing.SigningKey) -> None:
    for name in (SBOM, *ATTESTATIONS):
        (version.path / name).unlink()
    write_evidence(version.path, version.path, Contents(SYSTEM, PACKAGES), key)


# ---- statements and signatures -----------------------------------------------------------------------------------


def test_statements_are_in_totos(gallery: Gallery, key: signing.SigningKey) -> None:
    """Read by in-toto's own bindings, which take no field that they do not know."""
    version = captured(gallery, key)
    for name, message in zip(ATTESTATIONS, (provenance_pb2.Provenance(), test_result_pb2.TestResult()), strict=True):
        content = read_statement(version, name, key)
        statement = Statement([], content["predicateType"], content["predicate"])
        json_format.ParseDict(content, statement.pb)
        statement.validate()
        json_format.ParseDict(content["predicate"], message)
    assert {s["name"] for s in content["subject"]} == {
        DISK,
        "disk.digests",
        MANIFEST,
        SBOM,
        "template.json",
        "template-vhd.json",
    }
    assert content["predicate"]["result"] == "WARNED"
    assert content["predicate"]["warnedTests"] == ["check proxy"]
    assert content["predicate"]["passedTests"] == ["check fs-clean", "prove gen1: login"]


def test_openssl_verifies_the_signature(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    version = captured(gallery, key)
    envelope = json.loads((version.path / ATTESTATIONS[0]).read_text())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    # DSSE's pre-authentication encoding, from its specification
    (tmp_path / "pae").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    (tmp_path / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    argv = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", str(signing.public_path(key.path))]
    argv += ["-in", str(tmp_path / "pae"), "-sigfile", str(tmp_path / "sig")]
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 0
    (tmp_path / "pae").write_bytes((tmp_path / "pae").read_bytes() + b" ")
    assert subprocess.run(argv, capture_output=True, check=False).returncode == 1


def test_another_key_is_not_trusted(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    captured(gallery, key)
    other = signing.make(tmp_path / "other" / "signing.key")
    assert wrong(gallery, key) == []
    assert wrong(gallery) == []  # nobody to verify by: sums and manifest still hold
    assert any("no trusted key has signed it" in each for each in wrong(gallery, other))


def test_unsigned_is_found_where_a_signature_is_demanded(gallery: Gallery, key: signing.SigningKey) -> None:
    captured(gallery, None)
    assert wrong(gallery, key) == []
    assert wrong(gallery, key, demanded=True) == ["it has no signature"]


def test_statements_of_another_version_are_found(gallery: Gallery, key: signing.SigningKey) -> None:
    """All files rewritten in agreement, the old signatures kept: only the signature can tell."""
    version = captured(gallery, key)
    manifest = version.path / MANIFEST
    content = {**json.loads(manifest.read_text()), "summary": "another page"}
    rewrite(manifest, json.dumps(content).encode())
    write_sums(version.path, content)
    assert wrong(gallery) == []
    assert any("describes other files" in each for each in wrong(gallery, key))


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


#: Flipped bits of each file; each is a reading of the whole master.
FLIPS = 12 if os.environ.get("GOLDSMITH_WHOLE") else 4


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_is_found(gallery: Gallery, key: signing.SigningKey, seed: int) -> None:
    version = captured(gallery, key, flat=seed % 2 == 0, luns=(0, 7) if seed % 3 == 0 else ())
    dice = random.Random(seed)
    names = [p.relative_to(version.path) for p in sorted(version.path.rglob("*")) if p.is_file()]
    assert {str(name) for name in names} >= {DISK, MANIFEST, SBOM, SUMS, "template.json", "domain.xml", *ATTESTATIONS}
    for name in names:
        path = version.path / name
        good = path.read_bytes()
        for _ in range(FLIPS):
            at = dice.randrange(len(good))
            bad = bytearray(good)
            bad[at] ^= 1 << dice.randrange(8)
            rewrite(path, bytes(bad))
            assert wrong(gallery, key), f"{name}, byte {at}"
        rewrite(path, good)
    assert wrong(gallery, key) == []


def test_a_file_too_many_or_too_few_is_found(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    (version.path / "more.txt").write_text("x")
    assert wrong(gallery) == ["more.txt does not belong to the master"]
    (version.path / "more.txt").unlink()
    (version.path / ATTESTATIONS[0]).unlink()
    assert wrong(gallery) == [f"{ATTESTATIONS[0]} is missing"]


# ---- on its way --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flat", [True, False])
def test_an_import_keeps_the_signature_and_knows_its_place(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path, flat: bool
) -> None:
    version = captured(gallery, key, flat=flat)
    parcel = export(version, tmp_path / "parcel")
    assert subprocess.run(["sha256sum", "-c", "--quiet", SUMS], cwd=parcel, check=False).returncode == 0
    other = Gallery(tmp_path / "other" / "gallery")
    made = import_version(
        other, parcel, judge=partial(judge, keys=[key.public], demanded=True), complete=write_local_evidence
    )
    assert wrong(other, key, demanded=True) == []
    assert str(made.disk) in (made.path / "domain.xml").read_text()


def test_an_import_demands_the_signature(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    parcel = export(captured(gallery, None), tmp_path / "parcel")
    with pytest.raises(CheckFailed, match="it has no signature"):
        import_version(Gallery(tmp_path / "other"), parcel, judge=partial(judge, keys=[key.public], demanded=True))
    assert not list((tmp_path / "other").glob("web/2*"))


# ---- in the archive ----------------------------------------------------------------------------------------------


def archive_version(gallery: Gallery, version: Version, key: signing.SigningKey, tmp_path: Path) -> Path:
    repository = tmp_path / "archive"
    archive.archive_version(gallery, version, repository, tmp_path, judge=trusting(key), used=lambda _version: "")
    return repository


def trusting(key: signing.SigningKey) -> Judge:
    return partial(judge, keys=[key.public], demanded=True)


def test_an_archived_version_comes_back_as_it_was(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    old, new = captured(gallery, key), captured(gallery, key)
    before = {p.relative_to(old.path): p.read_bytes() for p in old.path.rglob("*") if p.is_file()}
    repository = archive_version(gallery, old, key, tmp_path)
    assert [version.version for version in gallery.versions("web")] == [new.version]
    assert not list(tmp_path.glob("unpacked-*"))
    back = archive.restore_version(
        gallery, "web", old.version, repository, tmp_path, judge=trusting(key), complete=write_local_evidence
    )
    assert {p.relative_to(back.path): p.read_bytes() for p in back.path.rglob("*") if p.is_file()} == before
    assert back.disk.stat().st_blocks * 512 < 1 << 20  # as sparse as it was
    assert wrong(gallery, key, demanded=True) == []
    # away once more, though the archive has it
    archive_version(gallery, back, key, tmp_path)


def restore_version(gallery: Gallery, number: str, key: signing.SigningKey, tmp_path: Path) -> Version:
    complete = write_local_evidence
    repository = tmp_path / "archive"
    return archive.restore_version(
        gallery, "web", number, repository, tmp_path, judge=trusting(key), complete=complete
    )


@pytest.fixture
def borg_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where borg remembers what it last saw of archives."""
    home = tmp_path / "borg"
    monkeypatch.setattr(archive, "variables", lambda: {"BORG_BASE_DIR": str(home)})
    return home


def test_an_archive_is_read_whatever_borg_remembers_of_it(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path, borg_home: Path
) -> None:
    """A backup of the archive was put back, or a power cut emptied borg's own files: borg refuses both."""
    first, second, _ = captured(gallery, key), captured(gallery, key), captured(gallery, key)
    repository = archive_version(gallery, first, key, tmp_path)
    shutil.copytree(repository, tmp_path / "backup")
    archive_version(gallery, second, key, tmp_path)
    shutil.rmtree(repository)
    (tmp_path / "backup").rename(repository)
    back = restore_version(gallery, first.version, key, tmp_path)
    for path in borg_home.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    archive_version(gallery, back, key, tmp_path)


def test_an_archive_that_cannot_be_read_names_the_cause(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path, borg_home: Path
) -> None:
    old, _ = captured(gallery, key), captured(gallery, key)
    repository = archive_version(gallery, old, key, tmp_path)
    for path in (repository / "data/0").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    shutil.rmtree(repository / "index.5", ignore_errors=True)
    with pytest.raises(CommandFailed) as caught:
        restore_version(gallery, old.version, key, tmp_path)
    assert "SSH_ORIGINAL_COMMAND" not in caught.value.message
    assert "borg check" in str(caught.value.hint)


def test_archive_restore_and_import_tell_their_progress(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    old, seen = captured(gallery, key), dict[str, tuple[int, int]]()
    captured(gallery, key)

    def progress(what: str, done: int, total: int) -> None:
        assert 0 <= done <= total, what
        seen[what] = done, total

    repository = tmp_path / "archive"
    archive.archive_version(
        gallery, old, repository, tmp_path, judge=trusting(key), used=lambda _version: "", progress=progress
    )
    title = f"web {old.version}"
    assert {f"archiving {title}", f"unpacking {title}", "verifying disk.vhd"} <= seen.keys()
    assert seen[f"archiving {title}"][0] > 0 and seen[f"unpacking {title}"][0] > 0
    seen.clear()
    back = archive.restore_version(
        gallery,
        "web",
        old.version,
        repository,
        tmp_path,
        judge=trusting(key),
        complete=write_local_evidence,
        progress=progress,
    )
    assert {f"unpacking {title}", "copying disk.vhd", "verifying disk.vhd"} <= seen.keys()
    seen.clear()
    import_version(Gallery(tmp_path / "other"), export(back, tmp_path / "parcel"), progress=progress)
    assert {what: done == total for what, (done, total) in seen.items()}["copying disk.vhd"]


def test_what_is_in_use_is_not_archived(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    golden = captured(gallery, key)
    with pytest.raises(UsageError, match="is in use: golden"):
        archive_version(gallery, golden, key, tmp_path)
    assert golden.disk.exists()


def test_an_archive_that_gives_back_something_else_takes_nothing_away(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    old, _ = captured(gallery, key), captured(gallery, key)
    good = old.disk.read_bytes()
    rewrite(old.disk, good[:-600] + b"rotten" + good[-594:])
    with pytest.raises(CheckFailed, match="its disk has changed"):
        archive_version(gallery, old, key, tmp_path)
    assert old.disk.exists()


def test_what_is_not_in_the_archive(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    old, _ = captured(gallery, key), captured(gallery, key)
    repository = archive_version(gallery, old, key, tmp_path)
    for where, version in ((repository, "2020.101.0"), (tmp_path / "nowhere", old.version)):
        with pytest.raises(UsageError) as caught:
            archive.restore_version(
                gallery, "web", version, where, tmp_path, judge=trusting(key), complete=write_local_evidence
            )
        assert caught.value.name == "not-archived"


# ---- keys --------------------------------------------------------------------------------------------------------


def test_a_key_is_its_owners_alone(key: signing.SigningKey, tmp_path: Path) -> None:
    assert key.path.stat().st_mode & 0o777 == 0o600
    loaded = signing.load(key.path, tmp_path / "store")
    assert loaded is not None
    assert loaded.id == key.id
    with pytest.raises(UsageError, match="exists already"):
        signing.make(key.path)
    key.path.chmod(0o640)
    with pytest.raises(UsageError, match="other users can read"):
        signing.load(key.path, tmp_path / "store")


def test_whose_public_key_lies_beside_the_hosts_own_is_trusted(
    gallery: Gallery, key: signing.SigningKey, tmp_path: Path
) -> None:
    """A master that was imported must not be called damaged ever after, because another host signed it."""
    captured(gallery, key)
    mine = signing.make(tmp_path / "mine" / "signing.key")
    trust = [signing.load_public(path) for path in signing.trusted(mine.path)]
    assert [f.wrong for f in verify(gallery, "web", judge=partial(judge, keys=trust, demanded=False)) if f.wrong]
    (mine.path.parent / "builder.pub").write_bytes(signing.public_path(key.path).read_bytes())
    trust = [signing.load_public(path) for path in signing.trusted(mine.path)]
    assert not [f.wrong for f in verify(gallery, "web", judge=partial(judge, keys=trust, demanded=False)) if f.wrong]


def test_a_key_in_the_store_is_refused(key: signing.SigningKey) -> None:
    with pytest.raises(UsageError, match="is in the store"):
        signing.load(key.path, key.path.parent.parent)


def test_no_key_and_bad_keys(tmp_path: Path) -> None:
    assert signing.load(tmp_path / "none", tmp_path / "store") is None
    (tmp_path / "bad").write_text("-----BEGIN nothing\n")
    (tmp_path / "bad").chmod(0o600)
    with pytest.raises(UsageError, match="is not a valid key"):
        signing.load(tmp_path / "bad", tmp_path / "store")
    with pytest.raises(UsageError, match="is not a valid public key"):
        signing.load_public(tmp_path / "bad")


# ---- the template ------------------------------------------------------------------------------------------------


def test_the_template_names_the_disk_and_its_state(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    content: Mapping[str, Any] = json.loads((version.path / "template.json").read_text())["metadata"]
    disk = content["storageProfile"]["osDisk"]
    assert (version.path / disk["image"]["uri"]).samefile(version.disk)
    assert (disk["osState"], disk["caching"], disk["sizeInBytes"]) == ("Generalized", "ReadWrite", 6 << 20)
    assert content["hyperVGenerations"] == ["V1", "V2"]


@pytest.mark.parametrize(
    ("cells", "features"),
    [
        ({"gen2-nvme": {"failures": []}}, [{"name": "DiskControllerTypes", "value": "SCSI,NVMe"}]),
        ({"gen2-nvme": {"failures": ["disk names: /dev/disk/azure/os is missing"]}}, None),
        ({"gen2": {"failures": []}}, None),
    ],
)
def test_a_template_offers_nvme_when_a_clone_has_shown_it(
    cells: Mapping[str, Any], features: object, gallery: Gallery, key: signing.SigningKey
) -> None:
    manifest = {**captured(gallery, key).manifest, "prove": cells}
    assert managed_template(manifest)["metadata"].get("features") == features


def test_the_domain_stands_on_the_master(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    root = etree.parse(version.path / "domain.xml").getroot()
    backing = root.find("devices/disk/backingStore")
    assert backing is not None
    assert backing.find("source").get("file") == str(version.disk)  # type: ignore[union-attr]
    assert root.find("os").get("firmware") == "efi"  # type: ignore[union-attr]
    assert "qemu-img create" in (root.findtext("description") or "")
    assert root.find("metadata") is None
    # the clone's own disk is libvirt's to give away, the master is not
    assert root.find("devices/disk/source/seclabel") is None
    assert root.find("devices/disk/backingStore/source/seclabel").get("relabel") == "no"  # type: ignore[union-attr]


# ---- data disks --------------------------------------------------------------------------------------------------


def test_data_disks_stand_in_the_template_and_the_domain(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key, luns=(0, 40))
    content = json.loads((version.path / "template.json").read_text())["metadata"]
    disks = content["storageProfile"]["dataDisks"]
    assert [(disk["lun"], disk["caching"], disk["sizeInBytes"]) for disk in disks] == [
        (0, "ReadOnly", 6 << 20),
        (40, "ReadOnly", 6 << 20),
    ]
    assert (version.path / disks[1]["image"]["uri"]).samefile(version.path / "data-40.vhd")
    root = etree.parse(version.path / "domain.xml").getroot()
    places = [(e.get("controller"), e.get("unit")) for e in root.iterfind("devices/disk/address")]
    assert places == [("1", "0"), ("1", "40")]
    assert (root.findtext("description") or "").count("qemu-img create") == 3
    assert [disk["lun"] for disk in version.summary()["disks"]] == [None, 0, 40]


def test_data_disks_travel_and_are_judged(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    version = captured(gallery, key, luns=(3,))
    parcel = export(version, tmp_path / "parcel")
    other = Gallery(tmp_path / "other")
    held = partial(judge, keys=[key.public], demanded=True)
    taken = import_version(other, parcel, judge=held, complete=write_local_evidence)
    assert taken.image.data[0][1].path.read_bytes() == version.image.data[0][1].path.read_bytes()
    assert [item.wrong for item in verify(other, "web", judge=held) if item.wrong] == []
    # a disk that is not there at all
    (taken.path / "data-3.vhd").unlink()
    assert wrong(other, key)


# ---- digests of blocks -------------------------------------------------------------------------------------------


def _overwrite(path: Path, offset: int, data: bytes) -> None:
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def test_verify_says_which_blocks_were_changed(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    _overwrite(version.path / DISK, (5 << 20) + 7, b"changed")
    assert wrong(gallery, key) == [f"its disk has changed: 1 blocks, the first at byte {5 << 20}"]


def test_digests_of_another_disk_are_damage(gallery: Gallery, key: signing.SigningKey) -> None:
    version = captured(gallery, key)
    _overwrite(version.path / "disk.digests", 0, b"lie")
    assert wrong(gallery, key) == ["disk.digests has changed: 1 digests do not match its disk"]
    (version.path / "disk.digests").unlink()
    assert wrong(gallery, key) == ["disk.digests is missing"]


def test_digests_go_with_an_export(gallery: Gallery, key: signing.SigningKey, tmp_path: Path) -> None:
    version = captured(gallery, key, luns=[3])
    parcel = export(version, tmp_path / "parcel")
    other = Gallery(tmp_path / "other")
    made = import_version(other, parcel)
    assert (made.path / "data-3.digests").read_bytes() == (version.path / "data-3.digests").read_bytes()
    os.truncate(parcel / "disk.digests", 64)
    with pytest.raises(CheckFailed, match=r"disk\.digests has 64 bytes"):
        import_version(Gallery(tmp_path / "third"), parcel)
