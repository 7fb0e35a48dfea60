"""What `make campaign-build-host` writes of AppArmor's refusals, and what it brings to its virtual machine."""

from __future__ import annotations

import pytest

from pipeline import __version__
from tests.campaigns.build_host import shorten, with_later_version
from tests.harness import ROOT

_DENIED = (
    'audit: type=1400 audit(1.2:{n}): apparmor="DENIED" operation="open" class="file" '
    'profile="libvirt-0b0c7a52-6f5c-4c0e-9d3c-1d2e3f405060" name="/var/lib/goldsmith/{name}" pid={n} '
    'comm="qemu-system-x86" requested_mask="r" denied_mask="r" fsuid=64055 ouid=0'
)


def test_refusals_are_shown_once_each() -> None:
    lines = [_DENIED.format(n=number, name=name) for number, name in enumerate(("a", "a", "b"))]
    assert shorten(lines) == (
        "libvirt-UUID: open /var/lib/goldsmith/a r (2); libvirt-UUID: open /var/lib/goldsmith/b r (1)"
    )
    assert shorten([]) == "nothing"
    assert "unknown" in shorten(["unknown"]), "a log that could not be read is reported"


def test_the_newer_wheel_has_a_later_version() -> None:
    text = (ROOT / "pipeline/__init__.py").read_text()
    assert f'__version__ = "{__version__}.post1"' in with_later_version(text)
    with pytest.raises(ValueError, match="no version"):
        with_later_version("")
