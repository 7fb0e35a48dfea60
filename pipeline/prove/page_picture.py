"""A picture of the page that a clone answered with, drawn by headless Chromium where that is installed.

The page is a stranger's: what is drawn is the text that was fetched, in a sandboxed frame without scripts that may
load nothing, by a browser that has no network, no rights, a process space of its own, and a deadline.
"""

from __future__ import annotations

import html
import os
import pwd
import shutil
from pathlib import Path

from pipeline.base import process, scratch
from pipeline.base.errors import GoldsmithError

#: The names that Chromium has in distributions, the likeliest first.
BROWSERS = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome-stable", "google-chrome")
#: Seconds for a picture; an idle host of two processors takes two.
DEADLINE = 60.0
#: Pixels of a picture, and the bytes that it may have at most.
WIDTH, HEIGHT, LARGEST = 1024, 768, 8 << 20
_PNG = b"\x89PNG\r\n\x1a\n"
#: Nothing but what the page itself has: no other file, address or frame, and no script.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:"


def find_browser() -> str | None:
    """The path of an installed browser that can draw a page, or None."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def draw_page(page: str, target: Path) -> str:
    """Write a picture of `page` to `target`; '' where that worked, else why there is none. Never raises.

    Needs root, to give the browser fewer rights than its caller has.
    """
    browser = find_browser()
    if browser is None:
        return "chromium is not installed"
    nobody = pwd.getpwnam("nobody")
    try:
        with scratch.folder(name="page") as folder:
            (folder / "page.html").write_text(_wrap(page), encoding="utf-8")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            process.run(_argv(browser, folder, nobody), deadline=DEADLINE, env={"HOME": str(folder)})
            picture = _read_picture(folder / "page.png")
        if picture is None:
            return "the browser made no screenshot"
        target.write_bytes(picture)
    except (GoldsmithError, OSError) as error:
        # a proof does not fail because a browser does
        return f"the browser failed: {str(error).splitlines()[0][:200]}"
    return ""


def _wrap(page: str) -> str:
    """The page in a frame that is allowed nothing; text that has no element is shown as text."""
    shown = page if "<" in page else f"<pre>{html.escape(page)}</pre>"
    style = "html,body{margin:0;height:100%}iframe{border:0;width:100%;height:100%}"
    return (
        f'<!doctype html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<style>{style}</style><iframe sandbox="" srcdoc="{html.escape(shown)}"></iframe>'
    )


def _argv(browser: str, folder: Path, user: pwd.struct_passwd) -> list[str]:
    spaces = ["unshare", "--net", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc"]
    rights = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--no-new-privs"]
    rights += ["--inh-caps=-all", "--bounding-set=-all"]
    # its own sandbox needs rights that it is not given here
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    options += [
        "--no-first-run",
        "--disable-extensions",
        "--disable-background-networking",
        "--disable-crash-reporter",
    ]
    options += [f"--window-size={WIDTH},{HEIGHT}", f"--user-data-dir={folder}/profile"]
    options += [f"--screenshot={folder}/page.png", f"file://{folder}/page.html"]
    return [*spaces, *rights, browser, *options]


def _read_picture(path: Path) -> bytes | None:
    """The PNG at `path`, written by a process that is not trusted: a file of bounded size, no link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        data = file.read(LARGEST + 1)
    return data if data.startswith(_PNG) and len(data) <= LARGEST else None
