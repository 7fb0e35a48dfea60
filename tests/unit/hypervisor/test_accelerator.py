"""The accelerator probe: its verdicts, its rates, its payload. The one test that starts QEMU takes a second."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest

from pipeline.base.errors import HostError
from pipeline.base.store import Host, Store
from pipeline.guest.timeouts import Timeouts
from pipeline.hypervisor import accelerator
from pipeline.hypervisor.accelerator import Count, Verdict, judge, payload, rate_of, rom, spoken
from tests.tools import needs_tool

TCG = Count(700e6, True)


@pytest.mark.parametrize(
    ("kvm", "kind", "reason"),
    [
        (Count(3.1e9, True), "kvm", "/dev/kvm runs 3.1 G instructions/s, TCG 700 M"),
        (Count(1.4e6, False), "tcg", "/dev/kvm runs 1.4 M instructions/s, TCG 700 M"),
        # slow, but it came to its end
        (Count(45e6, True), "tcg", "/dev/kvm runs 45 M instructions/s, TCG 700 M"),
        # fast, and then it hung at the SSE instruction
        (Count(3e9, False), "tcg", "/dev/kvm runs 3.0 G instructions/s, TCG 700 M"),
        (Count(None, False), "tcg", "/dev/kvm: no progress in 3 s; TCG runs 700 M instructions/s"),
        (Count(None, False, "no KVM"), "tcg", "/dev/kvm: no KVM; TCG runs 700 M instructions/s"),
        ("/dev/kvm is missing", "tcg", "/dev/kvm is missing; TCG runs 700 M instructions/s"),
        # a nested host, where each letter is dear, still beats TCG in all the rest
        (Count(500e6, True), "kvm", "/dev/kvm runs 500 M instructions/s, TCG 700 M"),
    ],
)
def test_verdict(kvm: Count | str, kind: str, reason: str) -> None:
    verdict = judge(kvm, TCG)
    assert (verdict.kind, verdict.reason) == (kind, reason)


@pytest.mark.parametrize(
    ("verdict", "slowness"),
    [
        (Verdict("kvm", 3e9, 20e6, ""), 1.0),
        (Verdict("tcg", None, 555e6, ""), 1.0),
        (Verdict("tcg", None, 150e6, ""), 1.0),
        # a host that is itself emulated
        (Verdict("tcg", None, 30e6, ""), 5.0),
        (Verdict("tcg", None, 1e3, ""), 10.0),
        (Verdict("tcg", None, None, "the definition requires it"), 1.0),
    ],
)
def test_guests_of_a_slow_host_get_more_time(verdict: Verdict, slowness: float) -> None:
    assert verdict.slowness == pytest.approx(slowness)
    usual, here = Timeouts.for_kind(False), Timeouts.for_kind(False, verdict.slowness)
    assert (here.silent, here.boot) == (usual.silent * slowness, usual.boot * slowness)
    assert Timeouts.for_kind(True).boot < usual.boot


def test_rate_counts_to_the_last_letter() -> None:
    # a, b, c: 2^12 + 2^13 + 2^14 rounds of two instructions
    assert rate_of({"go": 10.0, "a": 10.1, "b": 10.3, "c": 12.0}) == pytest.approx(2 * 7 * 4096 / 2)
    assert rate_of({"go": 1.0}) is None
    assert rate_of({}) is None
    # all in one read: a bound, no division by zero
    assert rate_of({"go": 1.0, "a": 1.0}) == 2 * 4096 / 0.001


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (None, "nothing"),
        (12.0, "12"),
        (1.44e6, "1.4 M"),
        (9.97e6, "10 M"),
        (7e8, "700 M"),
        (3.06e9, "3.1 G"),
        (2e3, "2.0 k"),
    ],
)
def test_spoken(rate: float | None, text: str) -> None:
    assert spoken(rate) == text


def test_rom_is_64_kib_with_a_jump_at_the_reset_vector() -> None:
    made = rom(payload())
    assert len(made) == 65536
    assert made[0xFFF0:0xFFF5] == bytes.fromhex("ea000000f0")
    assert made.startswith(payload())


@needs_tool("as", "ld")
def test_payload_is_what_its_source_assembles_to(tmp_path: Path) -> None:
    source = resources.files("pipeline.hypervisor").joinpath("probe.S").read_text()
    (tmp_path / "probe.S").write_text(source)
    command = next(line for line in source.splitlines() if "as --64" in line).strip("# ")
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True)
    assert (tmp_path / "probe.bin").read_bytes() == payload()


@needs_tool("qemu-system-x86_64")
def test_tcg_reaches_the_end_at_a_credible_rate(tmp_path: Path) -> None:
    image = tmp_path / "probe.rom"
    image.write_bytes(rom(payload()))
    count = accelerator._count("tcg", image, 30)
    assert count.ended
    assert count.rate is not None
    assert 20e6 < count.rate < 20e9


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(accelerator, "_key", lambda: {"boot": "b1", "qemu": ["q", 1, 2], "kvm": True, "probe": 270})
    return Store(tmp_path / "store", Host(facts=tmp_path / "facts"))


def _measures(monkeypatch: pytest.MonkeyPatch, verdict: Verdict) -> list[int]:
    calls: list[int] = []

    def measure() -> Verdict:
        calls.append(1)
        return verdict

    monkeypatch.setattr(accelerator, "_measure", measure)
    return calls


def test_verdict_is_kept_for_this_boot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measures(monkeypatch, Verdict("kvm", 3e9, 7e8, "fast"))
    assert accelerator.probe(store) == Verdict("kvm", 3e9, 7e8, "fast")
    assert accelerator.probe(store) == Verdict("kvm", 3e9, 7e8, "fast", cached=True)
    assert len(calls) == 1
    accelerator.probe(store, refresh=True)
    assert len(calls) == 2
    monkeypatch.setattr(accelerator, "_key", lambda: {"boot": "b2"})
    assert not accelerator.probe(store).cached


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 1}', '{"key": {"boot": "b1"}, "verdict": {"kind": "kvm"}}'])
def test_a_broken_cache_is_measured_again(store: Store, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    calls = _measures(monkeypatch, Verdict("tcg", None, 7e8, "none"))
    store.host.facts.mkdir()
    (store.host.facts / "accelerator.json").write_text(text)
    assert not accelerator.probe(store).cached
    assert calls
    assert json.loads((store.host.facts / "accelerator.json").read_text())["verdict"]["kind"] == "tcg"


def test_two_stores_share_what_is_known_of_their_host(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measures(monkeypatch, Verdict("tcg", None, 7e8, "none"))
    accelerator.probe(store)
    assert accelerator.probe(replace(store, root=store.root / "other")).cached
    assert len(calls) == 1
    assert not store.root.exists()


def test_what_an_older_version_kept_in_the_store_is_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measures(monkeypatch, Verdict("kvm", 3e9, 7e8, "fast"))
    accelerator.probe(store)
    store.root.mkdir()
    (store.host.facts / "accelerator.json").rename(store.root / "accelerator.json")
    assert accelerator.probe(store).cached
    assert len(calls) == 1


def test_where_nothing_can_be_kept_it_is_measured_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.host.facts.write_text("a file in the folder's place")
    calls = _measures(monkeypatch, Verdict("tcg", None, 7e8, "none"))
    accelerator.probe(store)
    accelerator.probe(store)
    assert len(calls) == 2


def test_kvm_demanded_and_not_real_is_refused_with_the_rate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _measures(monkeypatch, Verdict("tcg", 1.4e6, 7e8, "/dev/kvm runs 1.4 M instructions/s, TCG 700 M"))
    with pytest.raises(HostError, match=r"1\.4 M instructions/s") as caught:
        accelerator.choose("kvm", store)
    assert caught.value.name == "kvm-unusable"
    assert accelerator.choose("auto", store).kind == "tcg"


def test_tcg_demanded_measures_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _measures(monkeypatch, Verdict("kvm", 3e9, 7e8, "fast"))
    assert accelerator.choose("tcg", store).kind == "tcg"
    assert not calls


@needs_tool("qemu-system-x86_64")
def test_a_slow_host_is_not_taken_for_one_without_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real probe by a QEMU that needs longer than three seconds to begin."""
    slow = tmp_path / accelerator.QEMU
    slow.write_text(f'#!/bin/sh\nsleep 3.4\nexec {shutil.which(accelerator.QEMU)} "$@"\n')
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(accelerator, "KVM", tmp_path / "kvm")
    verdict = accelerator._measure()
    assert (verdict.kind, verdict.tcg_rate is not None) == ("tcg", True)


def test_kvm_gets_time_by_what_tcg_took(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    limits = {}

    def count(kind: str, _image: Path, limit: int) -> Count:
        limits[kind] = limit
        return Count(700e6, True, seconds=9.0)

    device = tmp_path / "kvm"
    device.touch()
    monkeypatch.setattr(accelerator, "KVM", device)
    monkeypatch.setattr(accelerator, "_count", count)
    accelerator._measure()
    assert limits == {"tcg": accelerator.TCG_LIMIT, "kvm": 36}


@pytest.mark.parametrize(
    ("tcg", "name", "words"),
    [
        (Count(5e3, False, limit=90, cut=True), "host-too-slow", "did not finish within 90 s (5.0 k instructions/s)"),
        (Count(None, False, limit=90, cut=True), "host-too-slow", "it printed nothing"),
        (Count(None, False, "qemu: cannot allocate memory"), "qemu-unusable", "cannot allocate memory"),
    ],
)
def test_slow_and_unusable_have_names_of_their_own(tcg: Count, name: str, words: str) -> None:
    with pytest.raises(HostError, match=re.escape(words)) as caught:
        accelerator.judge_tcg(tcg)
    assert caught.value.name == name
    assert caught.value.hint
