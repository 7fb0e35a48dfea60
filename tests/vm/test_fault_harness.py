"""A part of `make campaign-faults`: real builds' masters, on a file system of their own, and no guest."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.harness import ROOT, new_home, remove
from tests.tools import skip_without

CASES = (
    "promote: power cut at rename 1 of 2, ext4",
    "import: power cut at rename 1 of 2, ext4",
    "export: read-only, ext4",
    "remove: kill at unlink 1 of 1, ext4",
)


def test_masters_stay_whole_and_nothing_is_left() -> None:
    skip_without("strace", "mkfs.ext4", "unshare")
    if subprocess.run(["losetup", "--find"], capture_output=True, check=False).returncode:
        pytest.skip("this host has no loop devices")
    home = new_home("faults")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.campaigns.faults", *CASES],
            env={**os.environ, "GOLDSMITH_TEST_BASE": str(home)},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        remove(home)
