"""CVEs of golden versions by the data of Debian's security tracker."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from debian_inspector.version import compare_versions
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.cli.app import app
from pipeline.evidence import security_tracker as module
from pipeline.evidence.security_tracker import INDEX, TRACKER, CveCount, Judgement, count_cves, find_cves
from pipeline.evidence.site import write_site
from pipeline.evidence.site_data import collect
from pipeline.gallery import listing
from tests.demo_gallery import add_vm

FIXED, OPEN, NEVER, UNDECIDED = "CVE-2024-5535", "CVE-2025-0001", "CVE-2024-9999", "CVE-2025-7777"
PURL = "pkg:deb/debian/libssl3@3.0.14-1?arch=amd64&distro=debian-12&upstream=openssl%403.0.14-1"


def release(status: str, fixed: str | None = None) -> dict[str, Any]:
    return {"status": status, "repositories": {}, **({"fixed_version": fixed} if fixed is not None else {})}


DATA = {
    "openssl": {
        FIXED: {"releases": {"bookworm": release("resolved", "3.0.15-1"), "trixie": release("resolved", "0")}},
        OPEN: {"releases": {"bookworm": release("open")}},
        NEVER: {"releases": {"bookworm": release("resolved", "0")}},
        UNDECIDED: {"releases": {"bookworm": release("undetermined")}},
        "TEMP-0000000-ABCDEF": {"releases": {"bookworm": release("open")}},
    },
    "libssl3": {FIXED: {"releases": {"bookworm": release("open")}}},
    "bash": {"CVE-2014-6271": {"releases": {"bookworm": release("resolved", "4.3-9.1")}}},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """What was written just now counts as settled."""
    monkeypatch.setattr(listing, "UNSETTLED", -1.0)
    made = Store(tmp_path / "store").ensure()
    (made.root / TRACKER).write_text(json.dumps(DATA))
    return made


def add(store: Store, name: str, *purls: str, version: str = "2026.1126.0", codename: str = "") -> None:
    """A golden version with nothing but a bill."""
    folder = store.gallery / name / version
    folder.mkdir(parents=True)
    rows = [purl.partition("?")[0].rpartition("/")[2].split("@") for purl in purls]
    bill: dict[str, Any] = {
        "components": [{"name": n, "version": v, "purl": p} for (n, v), p in zip(rows, purls, strict=True)]
    }
    if codename:
        properties = [{"name": "goldsmith:codename", "value": codename}]
        bill["metadata"] = {"component": {"name": name, "properties": properties}}
    (folder / "sbom.cdx.json").write_text(json.dumps(bill))
    (folder.parent / "golden").symlink_to(version)


def seen(store: Store, *cves: str) -> list[tuple[str, str, Judgement, str]]:
    return [(each.image, each.source, each.judgement, each.fixed) for each in find_cves(store, list(cves)).found]


def test_a_package_is_judged_by_its_source_package(store: Store) -> None:
    add(store, "old", PURL)
    add(store, "new", PURL.replace("3.0.14-1", "3.0.15-1"))
    assert seen(store, FIXED) == [("old", "openssl", Judgement.FIXABLE, "3.0.15-1")]
    assert [row[0] for row in seen(store, OPEN)] == ["new", "old"]
    assert seen(store, NEVER) == []
    assert {row[2] for row in seen(store, UNDECIDED)} == {Judgement.UNKNOWN}


def test_a_bill_without_sources_is_not_judged(store: Store) -> None:
    """libssl3 has no row of its own for a fault of openssl: nothing found would not be a pass."""
    add(store, "older", PURL.partition("&upstream")[0])
    answer = find_cves(store, [FIXED])
    assert answer.found == () and "names no source packages" in answer.not_judged[0]
    assert count_cves(store) == {}


def test_a_package_without_a_source_is_its_own(store: Store) -> None:
    add(store, "web", PURL, "pkg:deb/debian/bash@4.2-1?arch=amd64&distro=debian-12")
    assert seen(store, "CVE-2014-6271") == [("web", "bash", Judgement.FIXABLE, "4.3-9.1")]


def test_the_release_is_the_bills_own(store: Store) -> None:
    add(store, "next", PURL.replace("debian-12", "debian-13"))
    add(store, "named", PURL.replace("debian-12", "debian"), codename="trixie")
    answer = find_cves(store, [FIXED])
    assert answer.found == () and answer.not_judged == ()


def test_what_cannot_be_judged_is_named_and_is_no_pass(store: Store) -> None:
    add(store, "sid", PURL.replace("debian-12", "debian"))
    add(store, "rocky", "pkg:rpm/rocky/openssl-libs@3.0?arch=x86_64&distro=rocky-9")
    add(store, "forky", PURL.replace("debian-12", "debian-14"))
    (store.gallery / "bare" / "2026.1126.0").mkdir(parents=True)
    (store.gallery / "bare" / "golden").symlink_to("2026.1126.0")
    answer = find_cves(store, [FIXED])
    assert answer.found == () and answer.searched == 4
    assert [each.split(" (")[1].rstrip(")") for each in answer.not_judged] == [
        "no bill of materials",
        "the data have no release forky",
        "no packages of Debian",
        "its release is not known",
    ]
    assert count_cves(store) == {}


def test_vms_count_and_golden_versions_are_counted(store: Store) -> None:
    add(store, "web", PURL)
    add_vm(store, "web-0", "web", {})
    assert find_cves(store, [FIXED]).found[0].vms == ("web-0",)
    assert count_cves(store) == {("web", "2026.1126.0"): CveCount(fixable=1, open=1)}


def test_the_second_search_reads_the_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "web", PURL)
    first = seen(store, FIXED)
    assert (store.gallery / INDEX).is_file()

    def read_whole(*_: object) -> object:
        raise AssertionError("the whole file was read again")

    monkeypatch.setattr(module, "_read_whole", read_whole)
    assert seen(store, FIXED) == first
    monkeypatch.undo()
    (store.root / TRACKER).write_text(json.dumps({"openssl": {FIXED: {"releases": {"bookworm": release("open")}}}}))
    assert [row[2] for row in seen(store, FIXED)] == [Judgement.OPEN]
    (store.gallery / INDEX).write_text('{"format": 1, "file": 3}')
    assert [row[2] for row in seen(store, FIXED)] == [Judgement.OPEN]


def test_a_cve_of_another_release_is_known(store: Store) -> None:
    """Nobody is told that a CVE does not exist because it is not of the releases in the gallery."""
    add(store, "next", PURL.replace("debian-12", "debian-13"))
    for _ in range(2):
        assert seen(store, OPEN) == []


@pytest.mark.parametrize(
    ("name", "cves", "text"),
    [
        ("cve-name", ["openssl"], None),
        ("cve-unknown", ["CVE-2031-1234"], None),
        ("tracker-missing", [FIXED], ""),
        ("tracker-damaged", [FIXED], json.dumps(DATA)[:200]),
        ("tracker-damaged", [FIXED], "[]"),
        ("tracker-damaged", [FIXED], "{}"),
        ("tracker-damaged", [FIXED], '{"openssl": [1]}'),
        ("tracker-damaged", [FIXED], '{"openssl": {"CVE-2024-5535": {"releases": {"bookworm": "open"}}}}'),
        ("tracker-damaged", [FIXED], "<html>Bad gateway</html>"),
    ],
)
def test_what_is_wrong_has_a_name(name: str, cves: list[str], text: str | None, store: Store) -> None:
    add(store, "web", PURL)
    if text is not None:
        (store.root / TRACKER).write_text(text)
    if text == "":
        (store.root / TRACKER).unlink()
    with pytest.raises(GoldsmithError) as error:
        find_cves(store, cves)
    assert error.value.name == name and error.value.hint


def test_the_site_shows_the_numbers_or_why_there_are_none(store: Store, tmp_path: Path) -> None:
    write_site(collect(store), tmp_path / "none")
    (store.root / TRACKER).write_text("<html>")
    add(store, "web", PURL)
    data = collect(store)
    assert "is not a whole copy" in data.cves_unknown
    write_site(data, tmp_path / "site")
    assert "CVEs are not known" in (tmp_path / "site/index.html").read_text()


def test_the_command(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOLDSMITH_HOME", str(store.root))
    monkeypatch.setenv("COLUMNS", "200")
    add(store, "web", PURL)

    def find(*words: str) -> str:
        result = CliRunner().invoke(app, ["gallery", "find", *words], catch_exceptions=False)
        assert result.exit_code == 0
        return result.output

    assert "affected, a fixed version exists: 3.0.15-1" in find("--cve", FIXED)
    assert "none of 1 golden versions and versions of VMs has" in find("--cve", NEVER)
    found = json.loads(find("--cve", FIXED, "--json"))
    assert found["found"][0]["judgement"] == "fixable" and found["searched"] == 1


@pytest.mark.parametrize("words", [(), ("--cve", FIXED, "--package", "bash")])
def test_a_search_is_for_packages_or_for_cves(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, ["gallery", "find", *words])
    assert isinstance(result.exception, GoldsmithError) and result.exception.name == "find-what"


PARTS = st.text(st.sampled_from("0123456789abz.+~-"), min_size=1, max_size=6)


@settings(max_examples=60, deadline=None)
@given(PARTS, PARTS)
def test_versions_are_ordered_as_dpkg_orders_them(left: str, other: str) -> None:
    first, second = f"1{left}0", f"1{other}0"
    seen = compare_versions(first, second)
    for sign, expected in (("lt", seen < 0), ("eq", seen == 0)):
        code = subprocess.run(["dpkg", "--compare-versions", first, sign, second], check=False).returncode
        assert (code == 0) == expected, (first, second, seen)
