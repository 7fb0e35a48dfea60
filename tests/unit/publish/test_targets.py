"""Folders, what is found damaged, what is cleaned, and what the command line refuses."""

from __future__ import annotations

import random
from datetime import timedelta

import pytest

from pipeline.base.errors import UsageError
from pipeline.publish.credentials import parse_source
from pipeline.publish.errors import PublishError
from pipeline.publish.page_blob import Options
from pipeline.publish.published import clean, look, verify
from pipeline.publish.push import push
from pipeline.publish.ranges import Range, cut, intersect, merge
from pipeline.publish.redaction import redact, remember
from pipeline.publish.targets import Target, container_url, find_target
from pipeline.publish.uploader import folder_of

MIB = 1 << 20
NOW = timedelta(0)


def test_a_folder(store, capture, tmp_path) -> None:
    target = Target(folder=tmp_path / "shelf")
    first, second = capture({0: random.randbytes(MIB)}), capture({0: random.randbytes(MIB)})
    for version in (first, second, second):
        push(store, version, target, {}, options=Options())
    found = look("shop", target, {})
    assert [each["version"] for each in found["versions"]] == [first.version, second.version]
    assert found["newest"] == second.version
    copy = tmp_path / "shelf" / folder_of(second) / "disk.vhd"
    assert copy.read_bytes() == second.disk.read_bytes()
    assert copy.stat().st_nlink == 1
    assert not any(each.wrong for each in verify("shop", None, target, {}, store.tmp))
    copy.chmod(0o644)
    with copy.open("r+b") as file:
        file.write(b"x")
    wrong = {each.version: each.wrong for each in verify("shop", None, target, {}, store.tmp)}
    assert not wrong[first.version]
    assert "changed" in wrong[second.version]


def test_what_a_crash_left_in_a_folder(store, capture, tmp_path) -> None:
    target = Target(folder=tmp_path / "shelf")
    version = capture({0: b"x"})
    left = tmp_path / "shelf" / folder_of(version)
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    (tmp_path / "shelf" / "shop" / "notes").mkdir()
    assert [each.folder for each in clean(None, target, {}, dry_run=True)] == [folder_of(version)]
    push(store, version, target, {}, options=Options())
    assert clean(None, target, {}) == []
    assert (left / "disk.vhd").exists()


def test_verify_reads_the_whole_blob(store, capture, target, service, container) -> None:
    version = capture({0: random.randbytes(MIB)})
    push(store, version, target, {}, options=Options())
    assert [each.wrong for each in verify("shop", version.version, target, {}, store.tmp)] == [""]
    blob = service.get_blob_client(container, f"{folder_of(version)}/disk.vhd")
    blob.upload_page(b"\7" * 512, offset=8 * MIB, length=512)
    (found,) = verify("shop", None, target, {}, store.tmp)
    assert f"1 blocks of 64 KiB, the first at byte {8 * MIB}" in found.wrong
    service.get_blob_client(container, f"{folder_of(version)}/manifest.json").upload_blob(b"{}", overwrite=True)
    (found,) = verify("shop", None, target, {}, store.tmp)
    assert "is not what the index says" in found.wrong


def test_clean_takes_only_what_nobody_needs(store, capture, target, service, container) -> None:
    version = capture({0: b"x"})
    push(store, version, target, {}, options=Options())
    there = service.get_container_client(container)
    for name in ("shop/2026.101.0-0123456789abcdef/disk.vhd", "shop/2026.101.1-0123456789abcdef/disk.vhd"):
        there.get_blob_client(name).create_page_blob(MIB)
    there.get_blob_client("shop/readme.txt").upload_blob(b"not ours")
    there.get_blob_client("elsewhere/a/b").upload_blob(b"not ours")
    before = {blob.name for blob in there.list_blobs()}
    assert all(each.kept for each in clean(None, target, {}))
    lease = there.get_blob_client("shop/2026.101.1-0123456789abcdef/disk.vhd").acquire_lease(lease_duration=-1)
    assert len(clean(None, target, {}, dry_run=True, grace=NOW)) == 2
    assert {blob.name for blob in there.list_blobs()} == before
    kept = {each.folder: bool(each.kept) for each in clean(None, target, {}, grace=NOW)}
    assert kept == {"shop/2026.101.0-0123456789abcdef": False, "shop/2026.101.1-0123456789abcdef": True}
    assert before - {blob.name for blob in there.list_blobs()} == {"shop/2026.101.0-0123456789abcdef/disk.vhd"}
    lease.break_lease(0)


def test_an_index_that_was_damaged(store, capture, target, service, container) -> None:
    version = capture({0: b"x"})
    push(store, version, target, {}, options=Options())
    blob = service.get_blob_client(container, "shop/index.json")
    good = blob.download_blob().readall()
    for bad in (b"", b"[]", b"\xff", good.replace(b'"shop"', b'"other"'), good.replace(b"disk.vhd", b"../../x")):
        blob.upload_blob(bad, overwrite=True)
        with pytest.raises(PublishError) as caught:
            look("shop", target, {})
        assert caught.value.name == "publish-damaged"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://account.blob.core.windows.net/images?sv=1&sig=CANARYSIG", "secret-in-url"),
        ("https://user:CANARYSIG@account.blob.core.windows.net/images", "secret-in-url"),
        ("http://account.blob.core.windows.net/images", "target-url"),
        ("https://account.blob.core.windows.net/", "target-url"),
        ("https://account.blob.core.windows.net/images/more", "target-url"),
        ("https://account.blob.core.windows.net/Images", "target-url"),
    ],
)
def test_urls_that_are_refused(text: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        container_url(text)
    assert caught.value.name == name
    assert "CANARYSIG" not in f"{caught.value.message} {caught.value.hint}"


def test_targets() -> None:
    assert find_target("https://account.blob.core.windows.net/images/", {}).account == "account"
    assert find_target("http://127.0.0.1:10000/devstoreaccount1/images", {}).account == "devstoreaccount1"
    assert find_target("./shelf", {}).folder is not None
    with pytest.raises(UsageError, match="there is no target nowhere"):
        find_target("nowhere", {})


def test_a_secret_is_no_source() -> None:
    with pytest.raises(UsageError) as caught:
        parse_source("CANARYSIG==")
    assert "CANARYSIG" not in f"{caught.value.message} {caught.value.hint}"


def test_redaction() -> None:
    remember("canary-key-1234")
    text = redact(
        "https://a/b?sv=1&sig=abc%2Fdef&se=2 x-ms-copy-source: https%3A%2F%2Fa%3Fsig%3Dxyz AccountKey=q1w2==;x "
        "Authorization: SharedKey acc:zzz and canary-key-1234"
    )
    for secret in ("abc", "xyz", "q1w2", "zzz", "canary"):
        assert secret not in text


def test_ranges() -> None:
    assert merge([Range(0, 4), Range(4, 6), Range(8, 9)]) == [Range(0, 6), Range(8, 9)]
    assert intersect([Range(0, 6), Range(8, 20)], [Range(2, 9), Range(12, 13)]) == [
        Range(2, 6),
        Range(8, 9),
        Range(12, 13),
    ]
    assert list(cut([Range(3, 9)], 4)) == [Range(3, 4), Range(4, 8), Range(8, 9)]
