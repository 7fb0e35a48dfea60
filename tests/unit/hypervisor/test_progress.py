"""Which boots hang, which do not boot at all, and which are only slow."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from pipeline.hypervisor import console
from pipeline.hypervisor.progress import EVERY, Progress, Sample, read_stats

LOCKUP = b"[  61.4] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [swapper/1:0]\r\n"
TRACE = (
    b"[  61.4] Modules linked in: virtio_blk\r\n[  61.4] CPU: 1 PID: 0 Comm: swapper/1 Not tainted 6.1.0\r\n"
    b"[  61.4] RIP: 0010:native_queued_spin_lock_slowpath+0x6c/0x2b0\r\n[  61.4] Call Trace:\r\n[  61.4]  <IRQ>\r\n"
    b"[  61.4]  _raw_spin_lock_irqsave+0x3d/0x50\r\n"
)


def boot(
    *, host: float, seconds: float, busy: tuple[float, ...], says: dict[float, bytes], reads: dict[float, int]
) -> Iterator[Sample]:
    """A guest on a host that gives each processor the share `host` of what it would burn (`busy`, of 1).

    `says` and `reads` map the guest's own second to what comes on its console, and to bytes read of its disk.
    """
    at = 0.0
    while at < seconds:
        guest = at * host
        text = b"".join(words for when, words in sorted(says.items()) if when <= guest)
        read = sum(count for when, count in reads.items() if when <= guest)
        yield Sample(at, tuple(share * guest for share in busy), sum(when <= guest for when in reads), read, text)
        at += EVERY


def first(moves: Progress, samples: Iterator[Sample]) -> tuple[float, str, str] | None:
    for sample in samples:
        if found := moves.judge(sample):
            return sample.at, *found
    return None


def test_a_kernel_that_spins_is_hung_long_before_the_deadline() -> None:
    """Packer's: all processors busy, the console silent. It was told after 420 s."""
    samples = boot(host=1.0, seconds=420, busy=(1.0, 0.98), says={4: b"Linux version 6.1\r\n"}, reads={3: 1 << 20})
    found = first(Progress(firmware=True), samples)
    assert found is not None
    at, name, message = found
    assert (name, at < 110) == ("guest-kernel-hung", True)
    assert "all its processors have been busy for 9" in message
    assert console.HINTS[name]


def test_the_kernels_own_words_make_it_sooner() -> None:
    says = {4.0: b"Linux version 6.1\r\n"} | {float(t): LOCKUP + TRACE for t in range(30, 400, 26)}
    found = first(Progress(firmware=True), boot(host=1.0, seconds=400, busy=(1, 1), says=says, reads={3: 1 << 20}))
    assert found is not None and found[1] == "guest-kernel-hung"
    assert found[0] < 62
    assert "soft lockup - CPU#1 stuck for 26s!" in found[2]


def test_an_idle_guest_whose_tasks_are_blocked_is_hung() -> None:
    words = b"[  242.1] INFO: task jbd2/vda1-8:210 blocked for more than 120 seconds.\r\n"
    says = {4.0: b"Linux version 6.1\r\n", 130.0: words}
    found = first(
        Progress(firmware=True), boot(host=1.0, seconds=419, busy=(0.02, 0.01), says=says, reads={3: 1 << 20})
    )
    assert found is not None and found[1] == "guest-kernel-hung" and "blocked for more than 120 seconds" in found[2]


@pytest.mark.parametrize("host", [1.0, 0.3, 0.1])
def test_a_slow_guest_is_not_hung(host: float) -> None:
    """An emulated boot takes 40 s of a processor; this one gets a tenth of it, unpacks long, and works in between."""
    says = {4.0: b"Linux version 6.1\r\n", 12.0: b"Run /init as init process\r\n", 39.0: b"web login: "}
    reads = {3.0: 1 << 20, 14.0: 4096, 20.0: 4096, 27.0: 4096, 33.0: 4096}
    samples = boot(host=host, seconds=42 / host, busy=(1.0, 0.9), says=says, reads=reads)
    assert first(Progress(firmware=True), samples) is None


def test_one_processor_at_work_is_no_hang() -> None:
    """A key is made for two minutes by one of two processors, without a word."""
    samples = boot(host=1.0, seconds=150, busy=(1.0, 0.02), says={4: b"Linux\r\n"}, reads={3: 1 << 20})
    assert first(Progress(firmware=True), samples) is None


def test_a_lockup_that_passes_is_no_hang() -> None:
    """The host was suspended, or very busy: the kernel complains, and gets on."""
    says = {4.0: b"Linux version 6.1\r\n", 20.0: LOCKUP + TRACE}
    reads = {float(t): 4096 for t in range(3, 120, 9)} | {2.0: 1 << 20}
    assert first(Progress(firmware=True), boot(host=1.0, seconds=120, busy=(1, 1), says=says, reads=reads)) is None


@pytest.mark.parametrize(
    ("read", "words"), [(512, "only 512 bytes of the disk were read"), (0, "nothing of the disk")]
)
def test_a_disk_that_is_not_read_past_its_first_sector_does_not_boot(read: int, words: str) -> None:
    """A UEFI-only disk under BIOS: zeros are run as boot code. It was told as guest-no-agent after seven minutes."""
    samples = boot(host=1.0, seconds=420, busy=(1.0, 0.0), says={}, reads={1.0: read} if read else {})
    found = first(Progress(firmware=True), samples)
    assert found is not None and found[1] == "guest-no-boot" and words in found[2]
    assert found[0] < 30


def test_a_slow_firmware_is_waited_for() -> None:
    """3 s of a processor to the boot sector, on a host that gives a tenth."""
    samples = boot(host=0.1, seconds=60, busy=(1.0, 0.0), says={}, reads={3.0: 512, 3.5: 1 << 20})
    assert first(Progress(firmware=True), samples) is None


def test_on_a_slow_host_the_same_silence_is_no_hang() -> None:
    """Inside an emulated host: a second of a processor does a fifth, and a disk that does not boot is still named."""
    says = {4.0: b"Linux version 6.1\r\n"}
    for slowness, hung in ((1.0, True), (5.0, False)):
        samples = boot(host=1.0, seconds=420, busy=(1.0, 1.0), says=says, reads={3: 1 << 20})
        assert (first(Progress(firmware=True, slowness=slowness), samples) is not None) == hung
    dead = first(Progress(firmware=True, slowness=5.0), boot(host=1.0, seconds=420, busy=(1,), says={}, reads={}))
    assert dead is not None and dead[1] == "guest-no-boot" and 90 < dead[0] < 110


def test_a_guest_that_restarts_begins_anew() -> None:
    moves = Progress(firmware=False)
    old = list(boot(host=1.0, seconds=80, busy=(1, 1), says={4: b"Linux\r\n"}, reads={3: 1 << 20}))
    again = [Sample(80 + s.at, s.processors, s.requests, s.read, old[-1].console) for s in old]
    assert first(moves, iter([*old, *again])) is None


def test_windows_may_be_silent_for_long() -> None:
    samples = boot(host=1.0, seconds=900, busy=(1.0, 1.0), says={}, reads={3: 1 << 20})
    assert first(Progress(firmware=True, kernel=False), samples) is None


def test_libvirts_statistics_are_read() -> None:
    stats = {
        "vcpu.maximum": 2, "vcpu.0.time": 10_310_000_000, "vcpu.1.time": 6_140_000_000, "block.count": 2,
        "block.0.rd.reqs": 1036, "block.0.rd.bytes": 36418560, "block.0.wr.reqs": 72, "block.0.fl.reqs": 17,
        "block.1.rd.reqs": 3, "block.1.rd.bytes": 99,
    }  # fmt: skip
    sample = read_stats(stats, 7.0, b"x")
    assert sample == Sample(7.0, (10.31, 6.14), 1036 + 72 + 17 + 3, 36418560, b"x")
