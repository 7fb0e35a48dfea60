"""The pictures of the documents: pages of a demonstration gallery, drawn by headless Chromium.

python -m tests.pictures [FOLDER]      (default: docs/images)
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.evidence.run_page import RunPage
from pipeline.evidence.site import write_site
from pipeline.evidence.site_data import collect
from pipeline.gallery import Gallery
from tests.browser import draw, has_browser
from tests.demo_gallery import FIXTURES, NOW, a_disk, make_gallery, page_of, with_sizes

IMAGES = Path(__file__).parents[1] / "docs" / "images"
#: CSS pixels of a desktop's window, of a phone's, and pixels of a picture for each of them.
DESKTOP, PHONE, SCALE = (1200, 900), (390, 800), 0.75
#: A build that failed, as its run's record has it.
FAILED: dict[str, Any] = {
    "id": "R42",
    "image": "debian-12-web",
    "host": "build-1",
    "command": "goldsmith build debian-12-web",
    "started": "2026-11-26T09:12:40Z",
    "ended": "2026-11-26T09:14:02Z",
    "outcome": "failed",
    "accelerator": {"kind": "kvm", "reason": "/dev/kvm runs 2410 M instructions/s, TCG 463 M"},
    "stages": [
        {"stage": "acquire", "title": "debian-12 2026.1126.0", "state": "kept", "seconds": 0.0, "detail": ""},
        {
            "stage": "provision",
            "title": "web-server.yml",
            "state": "failed",
            "seconds": 41.3,
            "detail": "step-failed",
        },
    ],
    "plan": [
        {
            "stage": "provision",
            "title": "web-server.yml",
            "action": "run",
            "why": "changed: playbook web-server.yml",
            "key": "",
        }
    ],
    "error": {
        "name": "step-failed",
        "message": "web-server.yml: task 'Install nginx' failed, line 12\n  No package matching 'ngnix' is available",
        "hint": "correct the name of the package in playbooks/web-server.yml, line 12; did you mean nginx?",
        "evidence": None,
    },
}
_STEP = """\
TASK [Read the index of packages] **********************************************
ok: [build]
TASK [Install nginx] ***********************************************************
fatal: [build]: FAILED! => {"changed": false, "msg": "No package matching 'ngnix' is available"}
PLAY RECAP *********************************************************************
build : ok=2  changed=0  unreachable=0  failed=1  skipped=0
"""


def make_pages(folder: Path) -> dict[str, Path]:
    """Pages to look at: a good version, a failed run, and the site of a gallery, by name."""
    store = make_gallery(folder / "store")
    for name in Gallery(store.gallery).names():
        versions = Gallery(store.gallery).versions(name)
        for number, version in enumerate(versions):
            run = version.path / "run" / "prove"
            for target in version.manifest["prove"]:
                (run / target).mkdir(parents=True)
                shutil.copyfile(FIXTURES / f"{target}.fabric.jsonl", run / target / "fabric.jsonl")
            (version.path / "report.html").unlink()
            page_of(version, versions[number - 1] if number else None, a_disk()).write()
            shutil.rmtree(version.path / "run")
    site = folder / "site"
    write_site(with_sizes(collect(store, NOW)), site)
    failed = folder / "R42"
    (failed / "steps").mkdir(parents=True)
    (failed / "steps" / "01-web-server.yml.log").write_text(_STEP)
    shutil.copyfile(FIXTURES / "gen1.png", failed / "screen.png")
    record = json.loads(json.dumps(FAILED))
    return {
        "version": site / "debian-12-web" / "2026.1126.0.html",
        "failed": RunPage(failed, record).write(),
        "gallery": site / "index.html",
        "image": site / "debian-12-web" / "index.html",
    }


def make_pictures(target: Path) -> list[Path]:
    """Draw all pictures into `target`: each page light and dark, the gallery on a phone too."""
    target.mkdir(parents=True, exist_ok=True)
    made = []
    with tempfile.TemporaryDirectory(prefix="goldsmith-pictures-") as folder:
        for name, page in make_pages(Path(folder)).items():
            for dark in (False, True):
                path = target / f"page-{name}{'-dark' if dark else ''}.png"
                draw(page, path, width=DESKTOP[0], height=DESKTOP[1], dark=dark, scale=SCALE)
                made.append(path)
                if name in ("gallery", "version"):
                    path = target / f"page-{name}-phone{'-dark' if dark else ''}.png"
                    draw(page, path, width=PHONE[0], height=PHONE[1], dark=dark, scale=SCALE)
                    made.append(path)
    return made


if __name__ == "__main__":
    if not has_browser():
        sys.exit("chromium is not installed: apt install chromium")
    for path in make_pictures(Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES):
        print(f"{path}: {path.stat().st_size >> 10} KiB")
