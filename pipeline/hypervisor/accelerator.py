"""Is /dev/kvm real? A functional test by rate, because some hosts' KVM opens, makes a VM and then hardly runs it.

A boot sector that prints a line passes on such a host, and a stock kernel seems to hang. So a small program
(probe.S) goes the way of a kernel into long mode and counts; how fast it counts is the verdict.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pipeline.base import process, scratch
from pipeline.base.errors import HostError
from pipeline.base.files import Shape, read_usable, write_json
from pipeline.base.store import Store

Kind = Literal["kvm", "tcg"]

QEMU = "qemu-system-x86_64"
KVM = Path("/dev/kvm")
#: Seconds that a run may take. TCG needs 0.3 s, a real KVM 0.1 s; where TCG takes longer, the host is slow or busy,
#: and KVM gets TIMES as long as TCG took. (Seen: more than 3 s on a host that is emulated itself.)
LIMIT, TIMES, TCG_LIMIT = 3, 4, 90
#: QEMU's code when the program reached its end (isa-debug-exit, 2 * 16 + 1).
REACHED_END = 33
#: The first letter comes after this many rounds, each next one after twice as many; a round is two instructions.
FIRST_ROUNDS, LETTERS, PER_ROUND = 1 << 12, 14, 2
#: KVM must count at least at this share of TCG's rate. A real one is several times faster; the share leaves room for
#: a nested host, where each printed letter is dear.
LEAST_SHARE = 0.5
#: Instructions per second by TCG on the slowest host for which the deadlines of emulated guests were measured (usual
#: hosts run 500 M, a host that is itself emulated 35 M), and the most by which deadlines grow.
USUAL_TCG_RATE, MOST_SLOWNESS = 150e6, 10.0


@dataclass(frozen=True)
class Count:
    """One run of the probe: instructions per second (None: not one letter came), and whether it came to its end."""

    rate: float | None
    ended: bool
    message: str = ""
    seconds: float = 0.0
    limit: int = LIMIT
    cut: bool = False  # it was still running at its limit


@dataclass(frozen=True)
class Verdict:
    """Which accelerator to use, and why. Rates are in instructions per second, None where not measured."""

    kind: Kind
    kvm_rate: float | None
    tcg_rate: float | None
    reason: str
    cached: bool = False

    @property
    def slowness(self) -> float:
        """By how much guests here are slower than those whose deadlines were measured; 1 with KVM, and if unknown."""
        if self.kind == "kvm" or not self.tcg_rate:
            return 1.0
        return min(max(USUAL_TCG_RATE / self.tcg_rate, 1.0), MOST_SLOWNESS)


def rom(code: bytes) -> bytes:
    """A 64 KiB ROM: the code at its start, at its end the jump there that the processor begins with."""
    return code.ljust(0xFFF0, b"\0") + bytes.fromhex("ea000000f0").ljust(16, b"\0")


def payload() -> bytes:
    """The assembled probe.S."""
    return resources.files(__package__).joinpath("probe.bin").read_bytes()


def rate_of(times: dict[str, float]) -> float | None:
    """Instructions per second by the time of each line ("go", then "a", "b"...), counted to the last letter."""
    letters = sorted(name for name in times if len(name) == 1)
    if "go" not in times or not letters:
        return None
    rounds = FIRST_ROUNDS * ((1 << (ord(letters[-1]) - ord("a") + 1)) - 1)
    # one read may bring all letters of a fast run
    seconds = max(times[letters[-1]] - times["go"], 0.001)
    return rounds * PER_ROUND / seconds


def spoken(rate: float | None) -> str:
    """1.4 M, 700 M, 3.1 G."""
    if rate is None:
        return "nothing"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if rate >= size:
            value = rate / size
            return f"{value:.0f} {unit}" if value >= 9.95 else f"{value:.1f} {unit}"
    return f"{rate:.0f}"


def judge(kvm: Count | str, tcg: Count) -> Verdict:
    """The verdict on two counts; a string says why KVM was not run."""
    if isinstance(kvm, str):
        return Verdict("tcg", None, tcg.rate, f"{kvm}; TCG runs {spoken(tcg.rate)} instructions/s")
    rates = f"/dev/kvm runs {spoken(kvm.rate)} instructions/s, TCG {spoken(tcg.rate)}"
    if kvm.rate is None:
        rates = (
            f"/dev/kvm: {kvm.message or f'no progress in {kvm.limit} s'}; TCG runs {spoken(tcg.rate)} instructions/s"
        )
    real = kvm.ended and kvm.rate is not None and kvm.rate >= LEAST_SHARE * (tcg.rate or 0.0)
    return Verdict("kvm" if real else "tcg", kvm.rate, tcg.rate, rates)


def _count(kind: Kind, image: Path, limit: int) -> Count:
    times: dict[str, float] = {}

    def on_line(line: str) -> None:
        times.setdefault(line.strip(), time.monotonic())

    machine = f"-accel {kind} -machine microvm -cpu qemu64 -m 16 -nodefaults -no-user-config -no-reboot"
    ends = "-display none -monitor none -serial stdio -device isa-debug-exit,iobase=0x501,iosize=1"
    result = process.run(
        # SIGKILL at once: a QEMU whose processor is stuck in KVM does not heed SIGTERM
        ["timeout", "--signal=KILL", str(limit), QEMU, *machine.split(), *ends.split(), "-bios", image],
        deadline=limit + 30.0,
        on_line=on_line,
        # also a QEMU that ends by an assertion is an answer
        ok_codes=range(-64, 256),
    )
    output = [line.strip() for line in result.stderr.splitlines() if line.strip()]
    ended = result.code == REACHED_END and "ok" in times
    cut = not ended and result.seconds >= limit
    return Count(rate_of(times), ended, output[-1] if output else "", result.seconds, limit, cut)


def judge_tcg(tcg: Count) -> None:
    """Whether QEMU can emulate here. Raises HostError: qemu-unusable; host-too-slow where it only takes too long."""
    if tcg.ended:
        return
    if tcg.cut:
        rate = f"{spoken(tcg.rate)} instructions/s" if tcg.rate else "it printed nothing"
        raise HostError(
            f"QEMU is too slow for any guest: the probe did not finish within {tcg.limit} s ({rate})",
            name="host-too-slow",
            hint="stop other programs on this host, or use a host with hardware virtualization; then run goldsmith "
            "doctor --refresh",
        )
    raise HostError(
        f"QEMU does not work: {tcg.message or 'it ended before the probe finished'}",
        name="qemu-unusable",
        hint=f"make setup installs qemu-system-x86; `{QEMU} -accel tcg -machine microvm` shows its message",
    )


def _measure() -> Verdict:
    with scratch.folder(name="probe") as folder:
        image = folder / "probe.rom"
        image.write_bytes(rom(payload()))
        tcg = _count("tcg", image, TCG_LIMIT)
        judge_tcg(tcg)
        if not KVM.exists():
            return judge("/dev/kvm is missing", tcg)
        if not os.access(KVM, os.R_OK | os.W_OK):
            return judge("this user may not open /dev/kvm", tcg)
        return judge(_count("kvm", image, max(LIMIT, round(TIMES * tcg.seconds))), tcg)


def _key() -> dict[str, Any]:
    """What a verdict holds for: this boot of the host, this QEMU, this right to open /dev/kvm."""
    program = process.find(QEMU)
    if program is None:
        raise HostError(f"{QEMU} is not installed", name="tool-missing", hint="make setup installs it")
    stat = Path(program).stat()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    # size and time instead of --version: asking costs a start of QEMU each time
    return {
        "boot": boot,
        "qemu": [program, stat.st_size, stat.st_mtime_ns],
        "kvm": os.access(KVM, os.R_OK | os.W_OK),
        "probe": len(payload()),
    }


#: The measurement's file among a host's facts. Older versions kept it in the store, where it may still be.
FILE = "accelerator.json"


class _MeasuredVerdict(Shape):
    kind: Kind
    kvm_rate: float | None
    tcg_rate: float | None
    reason: str


class _Measured(Shape):
    """A measurement, and what it is valid for."""

    key: dict[str, Any]
    verdict: _MeasuredVerdict

    @classmethod
    def advice(cls) -> str:
        return "delete the file; the accelerator is then measured again"


def _remembered(key: dict[str, Any], store: Store) -> Verdict | None:
    for folder in (store.host.facts, store.root):
        kept = read_usable(folder / FILE, _Measured, limit=1 << 16)
        if kept is not None and kept["key"] == key:
            return Verdict(**{name: kept["verdict"][name] for name in _MeasuredVerdict.model_fields}, cached=True)
    return None


def _remember(key: dict[str, Any], verdict: Verdict, facts: Path) -> None:
    # not ours to write: the next run measures again
    with contextlib.suppress(OSError):
        facts.mkdir(mode=0o755, parents=True, exist_ok=True)
        write_json(facts / FILE, {"key": key, "verdict": asdict(verdict)})


def probe(store: Store, *, refresh: bool = False) -> Verdict:
    """Measure, or take this boot's measurement from the facts of the store's host; `refresh` measures anyway.

    Takes about 3.5 s where KVM is not real, 0.5 s where it is or is missing; longer on a slow host. Raises HostError
    (qemu-unusable, host-too-slow, tool-missing).
    """
    key = _key()
    if not refresh and (kept := _remembered(key, store)):
        return kept
    verdict = _measure()
    _remember(key, verdict, store.host.facts)
    return verdict


def choose(wanted: str, store: Store) -> Verdict:
    """The accelerator for `auto`, `kvm` or `tcg`. Raises HostError where kvm is demanded and not real."""
    if wanted == "tcg":
        return Verdict("tcg", None, None, "the definition requires it")
    verdict = probe(store)
    if wanted == "kvm" and verdict.kind != "kvm":
        raise HostError(
            f"the definition requires kvm: {verdict.reason}",
            name="kvm-unusable",
            hint="write accelerator: auto to use TCG here, or measure again with goldsmith doctor --refresh",
        )
    return verdict
