"""What an archive has that a disk has not, asked of a real server by apt's own helper."""

from __future__ import annotations

import http.server
import lzma
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.base import process
from pipeline.base.errors import BuildError
from pipeline.network.host_apt import Mirrors
from pipeline.systems.debian import apt
from pipeline.systems.debian.apt import candidates, newer

pytestmark = pytest.mark.skipif(
    not Path(apt.APT_HELPER).exists() or process.find("dpkg") is None, reason="apt and dpkg are not installed"
)


def release(*lists: str) -> str:
    return "\n".join(["Codename: x", "SHA256:", *(f" {'0' * 64} 1 {name}" for name in lists)]) + "\n"


def packages(**versions: str) -> str:
    return "\n".join(f"Package: {name}\nArchitecture: amd64\nVersion: {v}\n" for name, v in versions.items())


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an archive with a suite and its updates, and no security."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *words: object) -> None:
            super().__init__(*words, directory=str(tmp_path))  # type: ignore[arg-type]

        def log_message(self, *_words: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(apt, "mirrors", lambda: Mirrors(f"http://127.0.0.1:{server.server_port}/debian", None))
    for suite, text in {
        "bookworm": packages(bash="5.2-1", openssl="3.0.15-1~deb12u1", tree="2.1"),
        "bookworm-updates": packages(openssl="3.0.16-1~deb12u1"),
    }.items():
        lists = tmp_path / "debian/dists" / suite / apt.LIST
        lists.parent.mkdir(parents=True)
        lists.write_bytes(lzma.compress(text.encode()))
        (tmp_path / "debian/dists" / suite / "InRelease").write_text(release("main/binary-amd64/Packages"))
    yield tmp_path
    server.shutdown()
    server.server_close()


def test_nothing_newer_than_what_is_installed(served: Path) -> None:
    assert newer("bookworm", {"bash": "5.2-1", "openssl": "3.0.16-1~deb12u1", "mine": "1"}) == []


def test_what_is_newer_is_named_with_both_versions(served: Path) -> None:
    installed = {"bash": "5.2-1", "openssl": "3.0.15-1~deb12u1", "tree": "2.0"}
    assert newer("bookworm", installed) == [
        "openssl 3.0.15-1~deb12u1 -> 3.0.16-1~deb12u1",
        "tree 2.0 -> 2.1",
    ]


def test_a_later_version_on_the_disk_is_no_news(served: Path) -> None:
    assert newer("bookworm", {"bash": "1:1.0"}) == []


def test_a_list_that_cannot_be_had_gives_no_answer(served: Path) -> None:
    (served / "debian/dists/bookworm-updates" / apt.LIST).unlink()
    assert newer("bookworm", {"bash": "5.2-1"}) is None


def test_an_archive_that_is_down_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", lambda: Mirrors("http://127.0.0.1:9/debian", None))
    assert newer("bookworm", {"bash": "5.2-1"}) is None


def test_candidates_are_read_from_whole_stanzas() -> None:
    text = packages(bash="5.2-1", tree="2.1") + "\nPackage: late\nDescription: Version: 9\nVersion: 1.0\n"
    assert list(candidates(text, {"tree", "late"})) == [("tree", "2.1"), ("late", "1.0")]


def test_stable_is_the_release_that_the_archive_says(served: Path) -> None:
    """The archive's own word, asked again in each process; a code name needs no archive."""
    folder = served / "debian/dists/stable"
    folder.mkdir(parents=True)
    (folder / "InRelease").write_text("Origin: Debian\nSuite: stable\nCodename: trixie\nSHA256:\n")
    apt.code_name.cache_clear()
    assert apt.code_name("stable") == "trixie"
    assert apt.code_name("bookworm") == "bookworm"
    (folder / "InRelease").write_text("Origin: Debian\nSuite: stable\n")
    apt.code_name.cache_clear()
    with pytest.raises(BuildError) as caught:
        apt.code_name("stable")
    assert caught.value.name == "suite-unknown"
    assert "names no code name" in caught.value.message


def test_without_an_archive_stable_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", lambda: Mirrors(None, None))
    apt.code_name.cache_clear()
    with pytest.raises(BuildError) as caught:
        apt.code_name("stable")
    assert caught.value.name == "suite-unknown"
    apt.code_name.cache_clear()
