"""reading_once: what is read once, and for how long."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pipeline.base.reading import read_once, reading_once


@read_once
def text_of(path: Path) -> str:
    return path.read_text()


def test_a_file_is_read_again_outside_and_once_inside(tmp_path: Path) -> None:
    file = tmp_path / "file"

    def changed(text: str) -> str:
        file.write_text(text)
        return text_of(file)

    assert [changed("a"), changed("b")] == ["a", "b"]
    with reading_once():
        assert [changed("c"), changed("d")] == ["c", "c"]
        with reading_once():
            assert changed("e") == "c", "the outer block's"
        assert changed("f") == "c"
        other = []
        thread = threading.Thread(target=lambda: other.append(text_of(file)))
        thread.start()
        thread.join()
        assert other == ["f"]
    assert changed("g") == "g"
    with reading_once():
        assert text_of(file) == "g"


def test_an_error_is_not_remembered(tmp_path: Path) -> None:
    with reading_once():
        with pytest.raises(FileNotFoundError):
            text_of(tmp_path / "file")
        (tmp_path / "file").write_text("there")
        assert text_of(tmp_path / "file") == "there"
