"""The search for packages over golden versions and VMs: by Debian's order, from bills or from the index."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from pipeline.base.errors import HostError, UsageError
from pipeline.base.store import Store
from pipeline.evidence import package_index as module
from pipeline.evidence.package_index import INDEX, Answer, Query, find_packages
from pipeline.gallery import listing
from tests.demo_gallery import add_vm


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """What was written just now counts as settled."""
    monkeypatch.setattr(listing, "UNSETTLED", -1.0)
    return Store(tmp_path / "store").ensure()


def add(store: Store, name: str, version: str, packages: dict[str, str], kind: str = "deb") -> Path:
    """A version with nothing but a bill; it is golden."""
    folder = store.gallery / name / version
    folder.mkdir(parents=True)
    components = [
        {"name": each, "version": number, "purl": f"pkg:{kind}/debian/{each}@{number}?arch=amd64&distro=debian-12"}
        for each, number in packages.items()
    ]
    (folder / "sbom.cdx.json").write_text(json.dumps({"components": components}))
    golden = folder.parent / "golden"
    golden.unlink(missing_ok=True)
    golden.symlink_to(version)
    return folder


def search(store: Store, *texts: str) -> Answer:
    return find_packages(store, [Query.of(text) for text in texts])


def shown(answer: Answer) -> list[tuple[str, str, bool, str]]:
    return [(each.image, each.version, each.golden, each.installed) for each in answer.found]


@pytest.mark.parametrize(
    ("installed", "query", "matches"),
    [
        ("3.0.14-1~deb12u2", "openssl<3.0.15", True),
        ("3.0.15-1~deb12u1", "openssl<3.0.15", False),
        ("3.0.15~rc1-1", "openssl<3.0.15", True),
        ("3.0.9-1", "openssl<3.0.15", True),
        ("1:1.0-1", "openssl<3.0.15", False),
        ("3.0.15-1", "openssl >= 3.0.15-1", True),
        ("3.0.15-1", "openssl=3.0.15-1", True),
        ("3.0.15-1", "openssl!=3.0.15-1", False),
        ("3.0.15-1", "openssl", True),
        ("3.0.15-1", "ssl", False),
    ],
)
def test_versions_are_in_debians_order(store: Store, installed: str, query: str, matches: bool) -> None:
    add(store, "web", "2026.1.0", {"openssl": installed, "openssl-extra": "1"})
    assert bool(search(store, query).found) == matches


def test_golden_versions_and_those_of_vms_are_searched(store: Store) -> None:
    add(store, "web", "2026.1.0", {"openssl": "3.0.13-1"})
    add_vm(store, "old", "web", {})
    add(store, "web", "2026.2.0", {"openssl": "3.0.14-1"})
    add(store, "web", "2026.3.0", {"openssl": "3.0.15-1"})
    add(store, "db", "2026.1.0", {"openssl": "3.0.14-1"})
    answer = search(store, "openssl<3.0.15")
    assert shown(answer) == [("db", "2026.1.0", True, "3.0.14-1"), ("web", "2026.1.0", False, "3.0.13-1")]
    assert (answer.found[1].vms, answer.found[1].architecture, answer.searched) == (("old",), "amd64", 3)


def test_the_index_is_used_and_a_bill_that_changed_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = add(store, "web", "2026.1.0", {"openssl": "3.0.14-1"})
    first = search(store, "openssl<3.0.15")
    assert (store.gallery / INDEX).exists()
    reads: list[Path] = []
    read = module.read_usable
    monkeypatch.setattr(module, "read_usable", lambda path, *a, **k: reads.append(path) or read(path, *a, **k))
    assert search(store, "openssl<3.0.15") == first and reads == []
    bill = folder / "sbom.cdx.json"
    bill.write_text(bill.read_text().replace("3.0.14-1", "3.0.15-1"))
    assert not search(store, "openssl<3.0.15").found and reads == [bill]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"format": 1, "versions": {"web/2026.1.0": {"file": "x", "rows": "a"}}}', '{"format": 9}']
)
def test_a_damaged_index_costs_nothing_but_time(store: Store, text: str) -> None:
    add(store, "web", "2026.1.0", {"openssl": "3.0.14-1"})
    (store.gallery / INDEX).write_text(text)
    assert len(search(store, "openssl<3.0.15").found) == 1


def test_rows_that_were_edited_are_not_believed(store: Store) -> None:
    add(store, "web", "2026.1.0", {"openssl": "3.0.14-1"})
    search(store, "openssl")
    path = store.gallery / INDEX
    path.write_text(path.read_text().replace("deb\\t", ""))
    assert len(search(store, "openssl<3.0.15").found) == 1


def test_what_cannot_be_compared_is_shown_and_says_so(store: Store) -> None:
    add(store, "alma", "2026.1.0", {"openssl": "3.0.7-1.el9"}, kind="rpm")
    assert search(store, "openssl<3.0.15").found[0].matches is None
    assert search(store, "openssl=3.0.7-1.el9").found[0].matches is True
    assert not search(store, "openssl=3.0.8").found


def test_without_dpkg_versions_cannot_be_compared(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    add(store, "web", "2026.1.0", {"openssl": "7.7.7-1"})
    monkeypatch.setattr(module.process, "find", lambda _name: None)
    assert len(search(store, "openssl").found) == 1
    with pytest.raises(HostError) as caught:
        search(store, "openssl<7.7.8")
    assert caught.value.name == "dpkg-missing"


def test_a_version_without_a_bill_is_named(store: Store) -> None:
    (add(store, "web", "2026.1.0", {}) / "sbom.cdx.json").unlink()
    assert search(store, "openssl").without_bill == ("web 2026.1.0",)


def test_hostile_names_stay_one_line_each(store: Store) -> None:
    add(store, "web", "2026.1.0", {"a\n\nopenssl\tdeb\t1\tamd64": "1", "openssl": "3.0.14\n-1; rm"})
    answer = search(store, "openssl")
    assert [each.installed for each in answer.found] == ["3.0.14\\n-1; rm"]
    assert not search(store, "openssl<9").found


@pytest.mark.parametrize("text", ["", "<3", "openssl<", "openssl<3 4", "openssl<$(id)", "a<b<c"])
def test_a_bad_query_is_a_named_error(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Query.of(text)
    assert caught.value.name == "package-query"


def test_a_hundred_versions_are_searched_in_a_second(store: Store) -> None:
    packages = {f"package-{number}": f"1.{number}-1" for number in range(1000)}
    for number in range(100):
        add(store, f"image-{number}", "2026.1.0", {**packages, "openssl": f"3.0.{number % 20}-1"})
    search(store, "openssl")
    began = time.process_time()
    spent = os.times()
    assert len(search(store, "openssl<3.0.15").found) == 75
    after = os.times()
    children = after.children_user + after.children_system - spent.children_user - spent.children_system
    assert time.process_time() - began + children < 1
