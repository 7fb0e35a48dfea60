"""A command that waits names the holder: run, process, user, host, start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from filelock import FileLock

import pipeline
from pipeline.base import locks
from pipeline.base.errors import BuildError
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.gallery import Gallery
from pipeline.maintenance.gc import cache_lock

_HOLD = """
import sys
from filelock import FileLock
from pipeline.base.runs import Run
from pathlib import Path
lock = FileLock(sys.argv[1]); lock.acquire()
if sys.argv[2]:
    run = Run.start(Path(sys.argv[2]), "web", "goldsmith build web")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").ensure()


def holding(lock: Path, runs: str = "") -> subprocess.Popen[str]:
    """Another process that holds a lock, as a build does."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    words = [sys.executable, "-c", _HOLD, str(lock), runs, "goldsmith", "build", "web"]
    process = subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(pipeline.__file__).parents[1]
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def build(store: Store) -> Iterator[subprocess.Popen[str]]:
    with holding(store.tmp / "build-web.lock", str(store.runs)) as process:
        yield process
        process.kill()


def test_a_build_says_which_run_it_waits_for(store: Store, build: subprocess.Popen[str]) -> None:
    messages: list[str] = []
    lock = FileLock(store.tmp / "build-web.lock", thread_local=False)
    with pytest.raises(BuildError) as caught:
        locks.acquire(
            lock,
            "another build of web",
            deadline=0.1,
            name="image-locked",
            runs=store.runs,
            image="web",
            on_wait=messages.append,
        )
    host = re.escape(os.uname().nodename)
    wanted = rf"run R1 \(goldsmith build web\), process {build.pid} of \w+ on {host}, since 20\S+Z \(\d+ s\)"
    assert len(messages) == 1 and re.fullmatch(f"waiting for another build of web: {wanted}", messages[0]), messages
    assert caught.value.name == "image-locked" and re.search(wanted, caught.value.message) and caught.value.hint
    build.kill()
    build.wait()
    locks.acquire(lock, "x", deadline=1.0, name="x", on_wait=messages.append)
    lock.release()
    assert len(messages) == 1


def test_a_process_without_a_run_is_named_too(store: Store) -> None:
    lock = store.gallery / "web" / ".lock"
    with holding(lock) as process:
        seen = locks.describe_holder(lock, store.runs)
        assert re.match(rf"process {process.pid} of \w+ on \S+ \(goldsmith build web\), since 20\S+Z", seen), seen
        process.kill()
    assert locks.describe_holder(lock, store.runs) == "a process that is not visible here"


def test_every_wait_of_the_store_says_for_whom(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An image's folder, a layer in the making, the plan of a build: each names the holder, and has a deadline."""
    monkeypatch.setattr("pipeline.gallery.TIMEOUT", 0.1)
    monkeypatch.setattr("pipeline.cache.layers.TIMEOUT", 0.1)
    monkeypatch.setattr("pipeline.maintenance.gc.TIMEOUT", 0.1)
    monkeypatch.setattr(locks.log, "propagate", True)

    def hold_image() -> None:
        with Gallery(store.gallery).hold("web"):
            pass

    def plan() -> None:
        with cache_lock(store):
            pass

    waits = {
        "gallery-locked": (store.gallery / "web/.lock", hold_image),
        "layer-locked": (store.layers / "ab" / ".lock", lambda: Layers(store.layers).begin("ab")),
        "layers-locked": (store.tmp / "layers.lock", plan),
    }
    for name, (lock, wait) in waits.items():
        with holding(lock) as process:
            caplog.clear()
            with pytest.raises(BuildError) as caught:
                wait()
            assert caught.value.name == name and f"process {process.pid} " in caught.value.message
            assert f"process {process.pid} " in caplog.text and "waiting for" in caplog.text
            process.kill()
