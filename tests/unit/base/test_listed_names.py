"""Lists of names in messages stay short, however many there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.base.errors import NotFound, UsageError
from pipeline.base.printable import listed
from pipeline.definition import find_definition
from pipeline.gallery import Gallery
from tests.unit.gallery.test_gallery import capture


def test_the_first_or_the_newest_names_and_how_many_more() -> None:
    assert listed([]) == ""
    assert listed(["a", "b"], 2) == "a, b"
    assert listed(iter("abc"), 2) == "a, b and 1 more"
    assert listed(iter("abc"), 2, newest=True) == "b, c and 1 older"


def test_a_project_of_many_images_and_an_image_of_many_versions(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/shop.yaml").write_text(
        "goldsmith: 1\nsource: {debian: {suite: bookworm}}\n"
        f"matrix: {{number: [{', '.join(map(str, range(100, 400)))}]}}\nsummary: ${{number}}\n"
    )
    with pytest.raises(UsageError) as caught:
        find_definition(tmp_path, "web")
    assert caught.value.hint is not None and caught.value.hint.endswith("shop-108, shop-109 and 290 more")
    with pytest.raises(UsageError) as caught:
        find_definition(tmp_path, "shop")
    assert caught.value.hint is not None and caught.value.hint.endswith("shop-108, shop-109 and 290 more")
    gallery = Gallery(tmp_path / "gallery")
    made = [capture(gallery, tmp_path, "shop").version for _ in range(12)]
    with pytest.raises(NotFound) as missing:
        gallery.get("shop@1.2.3")
    assert missing.value.hint is not None and f"{made[-1]} and 2 older" in missing.value.hint
