"""The site of a gallery: what it shows, that it is quick, and that it touches no file but its own."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lxml import html

from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.evidence.metrics import metrics
from pipeline.evidence.site import write_site
from pipeline.evidence.site_data import SiteVm, collect
from tests.demo_gallery import NAMES, NOW, make_gallery

#: A sample of Prometheus' text format.
SAMPLE = re.compile(r'goldsmith_[a-z_]+(\{[a-z]+="([^"\\\n]|\\.)*"(,[a-z]+="([^"\\\n]|\\.)*")*\})? -?[0-9.e+]+')


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return make_gallery(tmp_path / "store", versions=3)


def text_of(page: Path) -> str:
    return " ".join(" ".join(html.fromstring(page.read_text()).xpath("//body//text()")).split())


def test_it_shows_images_times_refusals_and_vms(store: Store, tmp_path: Path) -> None:
    site = tmp_path / "site"
    made = write_site(collect(store, NOW), site)
    assert (made.images, made.versions, made.pages) == (len(NAMES), 3 * len(NAMES), 3 * len(NAMES))
    front = text_of(site / "index.html")
    for words in (
        "debian-12-web",
        "newest candidate refused",
        "ssh-host-keys",
        "Last refresh 1 failed",
        "5 h",
        "VMs 3",
    ):
        assert words in front, words
    image = text_of(site / "debian-12-web/index.html")
    for words in ("golden: 2026.1126.0", "2026.1124.0", "Time to Ready", "Build time", "web-2", "2 days ago"):
        assert words in image, words
    # each link leads to a file of the site or to a place on its page
    for page in site.rglob("*.html"):
        tree = html.fromstring(page.read_text())
        for link in tree.xpath("//@href"):
            path, _, anchor = link.partition("#")
            assert (page.parent / path).is_file() if path else tree.xpath(f"//*[@id='{anchor}']"), f"{page}: {link}"
        assert not tree.xpath("//script|//link")


def test_its_json_and_its_metrics(store: Store, tmp_path: Path) -> None:
    site, collector = tmp_path / "site", tmp_path / "goldsmith.prom"
    write_site(collect(store, NOW), site, collector)
    record = json.loads((site / "site.json").read_text())
    (web,) = (image for image in record["images"] if image["name"] == "debian-12-web")
    assert web["golden"] == "2026.1126.0" and len(web["versions"]) == 3
    assert web["versions"][-1]["page"] == "debian-12-web/2026.1126.0.html"
    assert web["versions"][-1]["vms"] == ["web-2"] and web["versions"][-1]["ready_seconds"] > 50
    samples = [line for line in collector.read_text().splitlines() if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples), samples
    assert 'goldsmith_vms{image="debian-12",version="2026.1126.0",state="allocated"} 1' in samples
    assert f'goldsmith_refused{{image="{NAMES[-1]}"}} 1' in samples and "goldsmith_refresh_failed_images 1" in samples
    assert collector.read_text() == (site / "goldsmith.prom").read_text()


def test_a_label_is_escaped(store: Store) -> None:
    data = collect(store, NOW)
    vm = SiteVm('a"b\\c\nd', 'a"b\\c\nd', "1.1.1", "failed", "x")
    assert 'image="a\\"b\\\\c\\nd"' in metrics(replace(data, vms=[vm]))


def test_written_again_it_removes_what_is_gone_and_nothing_else(store: Store, tmp_path: Path) -> None:
    site = tmp_path / "site"
    write_site(collect(store, NOW), site)
    (site / "debian-13/notes.txt").write_text("mine")
    gone = store.gallery / "debian-13" / "2026.1124.0"
    gone.rename(tmp_path / "elsewhere")
    record = json.loads((site / "site.json").read_text())
    outside = tmp_path / "index.html"
    outside.write_text("mine")
    (site / "site.json").write_text(
        json.dumps({**record, "files": [*record["files"], "../index.html", "/etc/hosts"]})
    )
    made = write_site(collect(store, NOW), site)
    assert (made.pages, made.removed) == (0, 1)
    assert not (site / "debian-13/2026.1124.0.html").exists() and (site / "debian-13/notes.txt").exists()
    assert outside.exists()


def test_a_folder_with_other_files_is_refused(store: Store, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home/letter.txt").write_text("mine")
    for folder in (tmp_path / "home", tmp_path / "home/letter.txt"):
        with pytest.raises(UsageError) as caught:
            write_site(collect(store, NOW), folder)
        assert caught.value.name == "site-folder"
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_pages_are_copies_or_links(tmp_path: Path) -> None:
    """The other way than before is a new page; the same way leaves it."""
    store = make_gallery(tmp_path / "store", ["web"], 1, page=True)
    (page,) = store.gallery.glob("web/2*/report.html")
    site = tmp_path / "site"
    for link, pages in ((False, 1), (False, 0), (True, 1), (True, 0), (False, 1)):
        assert write_site(collect(store, NOW), site, link=link).pages == pages
        (shown,) = site.glob("web/2*.html")
        assert shown.samefile(page) == link and shown.read_bytes() == page.read_bytes()


def test_pages_are_copied_to_another_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    store = make_gallery(tmp_path / "store", ["web"], 1, page=True)
    assert write_site(collect(store, NOW), tmp_path / "site", link=True).pages == 1
    assert len(list((tmp_path / "site").glob("web/2*.html"))) == 1


def test_an_empty_gallery_has_a_site(tmp_path: Path) -> None:
    write_site(collect(Store(tmp_path / "store").ensure(), NOW), tmp_path / "site")
    assert "There are no versions yet" in text_of(tmp_path / "site/index.html")


def test_the_work_grows_with_the_versions_alone(tmp_path: Path) -> None:
    """In processor seconds, which other loads of the host do not change. 5,000 versions must take less than 10 s."""
    store = make_gallery(tmp_path / "store", [f"image-{n}" for n in range(20)], 10, page=False)
    began = time.process_time()
    made = write_site(collect(store, NOW), tmp_path / "site")
    assert made.versions == 200 and time.process_time() - began < 4


def test_a_page_that_others_may_not_read_is_copied(tmp_path: Path) -> None:
    """A web server reads the site as anybody. The next writing leaves the copy."""
    store = make_gallery(tmp_path / "store", ["web"], 1, page=True)
    (page,) = store.gallery.glob("web/2*/report.html")
    page.chmod(0o400)
    assert [write_site(collect(store, NOW), tmp_path / "site").pages for _ in range(2)] == [1, 0]
    (shown,) = (tmp_path / "site").glob("web/2*.html")
    assert not shown.samefile(page) and shown.stat().st_mode & 0o777 == 0o644
