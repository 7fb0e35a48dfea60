"""A picture of the page that a clone answered with; a hostile page reaches nothing of the host."""

from __future__ import annotations

import os
import socket
import struct
import zlib
from pathlib import Path

import pytest

from pipeline.prove import page_picture
from pipeline.prove.page_picture import HEIGHT, WIDTH, draw_page, find_browser

drawn = pytest.mark.skipif(
    find_browser() is None or os.geteuid() != 0, reason="chromium is not installed, or this is not root"
)


def colours(png: bytes) -> set[tuple[int, ...]]:
    """Every colour of a picture of eight bits a channel; filters of PNG (RFC 2083, 6) undone."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    step, data, at = {2: 3, 6: 4}[kind], b"", 8
    assert depth == 8 and (width, height) == (WIDTH, HEIGHT)
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    rows, size, above, found = zlib.decompress(data), width * step, bytes(width * step), set()
    for start in range(0, len(rows), size + 1):
        how, row = rows[start], bytearray(rows[start + 1 : start + 1 + size])
        for i in range(size if how else 0):
            left, up, corner = (row[i - step], above[i], above[i - step]) if i >= step else (0, above[i], 0)
            near = min((left, up, corner), key=lambda each: abs(left + up - corner - each))
            row[i] = (row[i] + (0, left, up, (left + up) // 2, near)[how]) & 0xFF
        if bytes(row) != above or not found:
            found |= {tuple(row[i : i + 3]) for i in range(0, size, step)}
        above = bytes(row)
    return found


@drawn
def test_a_page_is_drawn_and_loads_nothing(tmp_path: Path) -> None:
    """It shows the page's own colour and none of what it may try to load; nobody at the host's port is asked."""
    secret = tmp_path / "secret.html"
    secret.write_text("<body style='background:#f00'></body>")
    for each in (secret, tmp_path, tmp_path.parent, tmp_path.parent.parent):
        each.chmod(0o755)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        there, file = f"http://127.0.0.1:{server.getsockname()[1]}/", f"file://{secret}"
        page = f"<meta http-equiv=refresh content='0;url={file}'><meta http-equiv=refresh content='0;url={there}'>"
        page += f"<body style='background:#08f'><h1>It works</h1><link rel=stylesheet href='{there}'>"
        page += f"<iframe style='position:fixed;top:0' src='{file}'></iframe><object data='{file}'></object>"
        page += f"<script>document.body.style.background='#f00';fetch('{there}');top.location='{there}'</script>"
        page += f"<iframe src='{there}'></iframe><img src='{there}'></body>"
        assert draw_page(page, tmp_path / "page.png") == ""
        with pytest.raises(TimeoutError):
            server.accept()
    seen = colours((tmp_path / "page.png").read_bytes())
    assert (0, 0x88, 0xFF) in seen and (0xFF, 0, 0) not in seen


def test_without_a_browser_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert draw_page("<p>", tmp_path / "x.png") == "chromium is not installed"
    assert not (tmp_path / "x.png").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="a browser is given fewer rights by root only")
@pytest.mark.parametrize(
    "does", ["exit 3", "ln -s /etc/passwd $F/page.png", "echo no picture > $F/page.png", "exit 0"]
)
def test_a_browser_that_fails_fails_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, does: str) -> None:
    browser = tmp_path / "chromium"
    browser.write_text(f'#!/bin/sh\nF="$HOME"\n{does}\n')
    for path in (browser, *tmp_path.parents, tmp_path):
        if path.stat().st_mode & 0o005 != 0o005:
            path.chmod(0o755)
    monkeypatch.setattr(page_picture, "find_browser", lambda: str(browser))
    assert draw_page("<p>", tmp_path / "x.png") in ("the browser made no screenshot",) or does == "exit 3"
    assert not (tmp_path / "x.png").exists()


def test_text_is_shown_as_text() -> None:
    shown = page_picture._wrap("a & b")
    assert "&lt;pre&gt;a &amp;amp; b&lt;/pre&gt;" in shown
