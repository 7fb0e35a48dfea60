"""os-release: what a Linux root says that it is (os-release(5))."""

from __future__ import annotations

from pipeline.disk.root import Root

#: By precedence.
PATHS = ("/etc/os-release", "/usr/lib/os-release")


def read_release(root: Root) -> dict[str, str]:
    """The fields of the first of the two files that says something, without quotes; none where neither does."""
    text = root.text(PATHS[0]) or root.text(PATHS[1])
    fields = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {name.strip(): value.strip().strip("\"'") for name, _, value in fields}
