"""Headless Chromium for tests of pages: pictures of a page, and what a page answers to a script of the tests."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.prove.page_picture import find_browser

#: Seconds for one page; an idle host of two processors takes one.
DEADLINE = 90
#: Pixels of the narrowest window that Chromium makes.
NARROWEST = 500
#: axe-core as npm installs it beside the virtual environment: tools/setup.sh tests.
AXE = Path(__file__).parents[1] / ".venv" / "node" / "node_modules" / "axe-core" / "axe.min.js"


def has_browser() -> bool:
    return find_browser() is not None


@contextlib.contextmanager
def _profile() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="goldsmith-browser-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _run(url: str, profile: Path, *options: str) -> str:
    """Chromium's output for a page. It has no network: names resolve to nothing, and no proxy answers."""
    browser = find_browser()
    assert browser is not None
    argv = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    argv += ["--hide-scrollbars", "--disable-extensions", "--disable-background-networking", "--disable-lcd-text"]
    argv += ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [*argv, *options, url],
        capture_output=True,
        timeout=DEADLINE,
        check=False,
        env={**os.environ, "HOME": str(profile)},
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def draw(page: Path, target: Path, *, width: int, height: int, dark: bool = False, scale: float = 1) -> None:
    """Write a picture of the top of a page, `width` by `height` in CSS pixels."""
    with _profile() as profile:
        shown = page
        if dark:
            # headless Chromium has no switch for the scheme alone: the page's own dark colours, made unconditional
            shown = profile / "dark.html"
            shown.write_text(dark_text(page.read_text(encoding="utf-8")), encoding="utf-8")
        # a window is at least 500 pixels wide: a narrow page is shown in a frame of its width
        if width < NARROWEST:
            outer = profile / "phone.html"
            outer.write_text(
                "<!doctype html><style>body{margin:0;background:#c8ced4;text-align:center}"
                f"iframe{{border:8px solid #23292f;border-radius:22px;width:{width}px;height:{height - 36}px;"
                "margin-top:10px}</style>"
                f'<iframe src="{shown.absolute().as_uri()}"></iframe>'
            )
            shown = outer
        shot = profile / "shot.png"
        _run(
            shown.absolute().as_uri(),
            profile,
            f"--screenshot={shot}",
            f"--window-size={max(width, NARROWEST)},{height}",
            f"--force-device-scale-factor={scale:g}",
            "--allow-file-access-from-files",
        )
        target.write_bytes(shot.read_bytes())


def dark_text(text: str) -> str:
    """A page whose dark colours hold always."""
    return text.replace("@media (prefers-color-scheme: dark)", "@media all").replace(
        "color-scheme: light dark", "color-scheme: dark"
    )


def dump(page: Path, *, scripts: str = "", virtual_time: bool = True) -> str:
    """The page's document as text, after `scripts` ran in a copy of it that allows them.

    With `virtual_time` the browser lets timers run ahead until nothing waits; without it its clock is the real one.
    """
    with _profile() as profile:
        shown = page
        if scripts:
            text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
            shown = profile / "page.html"
            shown.write_text(text.replace("</body>", f"{scripts}</body>"), encoding="utf-8")
        ahead = ["--virtual-time-budget=20000"] if virtual_time else []
        return _run(shown.absolute().as_uri(), profile, "--dump-dom", *ahead)
