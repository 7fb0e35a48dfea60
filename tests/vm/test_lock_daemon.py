"""libvirt's lock daemon, where a host's owner has configured it: what it refuses, goldsmith reports by name."""

from __future__ import annotations

import sys

from tests import own_host
from tests.harness import remove
from tests.tools import skip_without
from tests.vms import make_lab


def test_a_disk_that_virtlockd_has_locked_is_neither_attached_nor_started() -> None:
    skip_without("tini", "unshare", "virtlockd")
    lab = make_lab("locks")
    try:
        code = f"from tests.vm.lock_steps import try_locks; try_locks({str(lab.home)!r})"
        done = own_host.run([sys.executable, "-c", code], deadline=600)
    finally:
        remove(lab.home)
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-3000:]
