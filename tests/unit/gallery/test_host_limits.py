"""A limit of the host is no damage: a master, a record or a disk that could not be opened may be whole."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from pipeline.base.errors import HostError
from pipeline.base.files import AnyObject, read_json
from pipeline.gallery import Gallery, integrity
from pipeline.gallery.integrity import verify
from pipeline.vhd.extents import file_extents
from tests.unit.gallery.test_retention import capture

LIMITS = {errno.EMFILE: "too-many-files", errno.ENFILE: "too-many-files", errno.ENOMEM: "out-of-memory"}


@pytest.mark.parametrize("number", LIMITS)
def test_a_master_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    gallery = Gallery(tmp_path / "gallery")
    capture(gallery)

    def refuse(_path: Path, *_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(integrity, "manifest_of", refuse)
    with pytest.raises(HostError) as error:
        list(verify(gallery, "web"))
    assert error.value.name == LIMITS[number]


def test_a_disk_that_cannot_be_read_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = Gallery(tmp_path / "gallery")
    made = capture(gallery)

    def refuse(_path: Path, *_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(integrity, "chunk_digests", refuse)
    monkeypatch.setattr(integrity, "flat_digest", refuse)
    monkeypatch.setattr(integrity, "compare_block_digests", refuse)
    (found,) = [item.wrong for item in verify(gallery, "web", made.version)]
    assert found == "cannot be read: Input/output error"


@pytest.mark.parametrize("number", LIMITS)
def test_a_record_and_a_disk_are_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    path = tmp_path / "run.json"
    path.write_text("{}")
    real = os.open

    def refuse(name: str | Path, *words: int, **more: int) -> int:
        if str(name) == str(path):
            raise OSError(number, os.strerror(number), str(name))
        return real(name, *words, **more)

    monkeypatch.setattr(os, "open", refuse)
    for read in (lambda: read_json(path, AnyObject), lambda: file_extents(path)):
        with pytest.raises(HostError) as error:
            read()
        assert error.value.name == LIMITS[number]
