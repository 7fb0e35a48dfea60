"""Pages in headless Chromium: axe-core finds nothing serious in them, light and dark, and they need no network."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.browser import AXE, dark_text, dump, has_browser
from tests.demo_gallery import FIXTURES
from tests.pictures import make_pages

pytestmark = [
    pytest.mark.skipif(not has_browser(), reason="chromium is not installed"),
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: tools/setup.sh tests"),
]
#: The impacts that a page must not have, as axe-core grades them.
BAD = ("serious", "critical")
#: Opens what is folded, runs the rules, and puts their findings into the document.
_RUN = """
<script>{axe}</script>
<script>
for (const each of document.querySelectorAll("details")) each.open = true;
axe.run(document, {{resultTypes: ["violations"]}}).then((found) => {{
  const parts = (v) => v.nodes.map((node) => node.html).slice(0, 3);
  const rows = found.violations.map((v) => ({{id: v.id, impact: v.impact, nodes: parts(v)}}));
  const out = document.createElement("pre");
  out.id = "findings";
  out.textContent = JSON.stringify({{rules: found.toolOptions !== undefined, rows}});
  document.body.replaceChildren(out);
}});
</script>
"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make_pages(tmp_path_factory.mktemp("pages"))


def findings(page: Path) -> list[dict[str, Any]]:
    """What axe-core finds wrong with a page."""
    out = dump(page, scripts=_RUN.format(axe=AXE.read_text(encoding="utf-8")))
    found = re.search(r'<pre id="findings">(.*?)</pre>', out, re.DOTALL)
    assert found, out[-2000:]
    answer = json.loads(html.unescape(found[1]))
    assert answer["rules"]
    return list(answer["rows"])


@pytest.mark.parametrize("name", ["version", "failed", "gallery", "image"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(pages: dict[str, Path], tmp_path: Path, name: str, scheme: str) -> None:
    page = pages[name]
    if scheme == "dark":
        page = tmp_path / "dark.html"
        page.write_text(dark_text(pages[name].read_text(encoding="utf-8")), encoding="utf-8")
    assert [each for each in findings(page) if each["impact"] in BAD] == []


def test_axe_sees_a_defect(pages: dict[str, Path], tmp_path: Path) -> None:
    """The measure itself: grey on grey, and a picture without words."""
    text = pages["gallery"].read_text(encoding="utf-8")
    picture = (FIXTURES / "gen1.png").as_uri()
    broken = tmp_path / "broken.html"
    grey = text.replace("--text: #17202a", "--text: #ddd")
    broken.write_text(grey.replace("</main>", f'<img src="{picture}"></main>'))
    assert {"color-contrast", "image-alt"} <= {each["id"] for each in findings(broken) if each["impact"] in BAD}


def test_a_page_opens_without_a_network_and_without_scripts(pages: dict[str, Path]) -> None:
    shown = dump(pages["version"])
    assert "passed all checks and clone tests" in shown and "</html>" in shown
