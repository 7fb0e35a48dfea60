"""`sh` forks in Python, beside libvirt's loop and the fabric's threads: no call hangs, none is orphaned."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.base import qemu_img
from pipeline.fabric import Fabric
from pipeline.hypervisor.connection import connect
from tests.processes import other_processes
from tests.vm.test_wires import LABEL, ask, puppet

pytestmark = [pytest.mark.vm, pytest.mark.skipif(os.geteuid() != 0, reason="namespaces need root")]
CALLS, THREADS = 1000, 6
#: Seconds after which a call hangs: it takes some 30 ms here.
HUNG = 60.0


def test_a_thousand_calls_beside_libvirt_and_the_fabric(tmp_path: Path) -> None:
    stop = threading.Event()
    asked = {"libvirt": 0, "fabric": 0}

    def call(number: int) -> float:
        disk, began = tmp_path / f"{number}.qcow2", time.monotonic()
        if number % 2:
            qemu_img.create(disk, "qcow2", (number + 1) << 20)
            assert disk.stat().st_size > 0
        else:
            assert "qemu-img" in qemu_img.version()
        disk.unlink(missing_ok=True)
        return time.monotonic() - began

    def keep_asking(what: str, question: object) -> None:
        assert callable(question)
        while not stop.is_set():
            question()
            asked[what] += 1

    connection = connect()
    with Fabric(LABEL) as fabric:
        guest = fabric.attach("calls", "azureuser", "ssh-ed25519 AAAA", tmp_path / "logs")
        with puppet(guest, "gsp1"), ThreadPoolExecutor(THREADS) as pool, ThreadPoolExecutor(2) as beside:
            questions = [
                beside.submit(keep_asking, "libvirt", connection.raw.listAllDomains),
                beside.submit(
                    keep_asking, "fabric", lambda: ask("gsp1", "GET", "168.63.129.16:80", "/?comp=versions")
                ),
            ]
            try:
                seconds = list(pool.map(call, range(CALLS), timeout=CALLS * HUNG / THREADS))
            finally:
                stop.set()
            for question in questions:
                question.result(timeout=HUNG)
    connection.close()
    assert max(seconds) < HUNG and len(seconds) == CALLS
    assert min(asked.values()) > 10


CROWD = """
import sys, threading
from pathlib import Path
from pipeline.base import qemu_img
def work(number):
    while True:
        # the child is at work whenever the parent is killed
        qemu_img._run(["qemu-io", "-f", "raw", "-c", "sleep 30000", Path(sys.argv[1]) / f"{number}.raw"])
for number in range(6):
    threading.Thread(target=work, args=(number,)).start()
"""


def _alive(token: str) -> list[int]:
    return [each.pid for each in other_processes() if token in each.line]


def _wait_for(count: int, token: str) -> None:
    until = time.monotonic() + HUNG
    while len(_alive(token)) != count:
        assert time.monotonic() < until, f"{_alive(token)} in place of {count} processes"
        time.sleep(0.05)


def test_a_killed_parent_leaves_no_qemu_io(tmp_path: Path) -> None:
    for number in range(THREADS):
        (tmp_path / f"{number}.raw").write_bytes(bytes(4096))
    for _ in range(3):
        parent = subprocess.Popen([sys.executable, "-c", CROWD, str(tmp_path)])
        _wait_for(THREADS + 1, str(tmp_path))
        time.sleep(random.uniform(0, 0.3))  # the moment is any
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        _wait_for(0, str(tmp_path))
