"""What can be tried of Windows without a guest: an installation's phases, sysprep's causes, scripts' syntax."""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tree_sitter
import tree_sitter_powershell

from pipeline.base.disk_format import QCOW2, RAW
from pipeline.base.errors import DiskError, GuestError
from pipeline.cache.layers import Image
from pipeline.definition import load_all
from pipeline.disk import sandbox
from pipeline.hypervisor.agent import Executed
from pipeline.systems.windows import boot_media, generalize, oobe, sysprep, updates
from pipeline.systems.windows import install as setup
from pipeline.systems.windows.install import MIB
from pipeline.systems.windows.session import Deadlines
from tests.fakes import fake_windows_disk
from tests.fakes.seeded_windows_defects import DEFECTS
from tests.tools import skip_without

ROOT = Path(__file__).parents[4]
EXAMPLES = ROOT / "examples" / "windows"


# ---- an installation, seen from outside --------------------------------------------------------------------------


class Guest:
    """A machine that shows what it is told to, second by second; then nothing changes any more. NOT WINDOWS."""

    def __init__(self, *seconds: dict[str, Any]) -> None:
        self.seconds = list(seconds)
        self.now = 0.0
        self.reboots = 0
        self.presses = 0
        self.up = False
        self.read = self.written = 0
        self.lost: GuestError | None = None
        self.settled = True
        self.machine = self.agent = self
        self.deadlines = Deadlines(
            medium=10, disk=20, still=30, agent=40, whole=300, boot=10, shutdown=10, sysprep=10, command=5
        )
        self.answer: list[str] = []
        self.logs = Path("/nonexistent")

    def tick(self, seconds: float) -> None:
        self.now += seconds
        if self.seconds:
            for name, value in self.seconds.pop(0).items():
                setattr(self, name, value)

    def start(self) -> None:
        pass

    def picture(self, *, now: bool = False) -> None:
        if now:
            self.answer.append("a picture")

    def progress(self, text: str) -> None:
        if not self.answer or self.answer[-1] != text:
            self.answer.append(text)

    def check(self) -> None:
        if self.lost:
            raise self.lost

    def agent_up(self) -> bool:
        return self.up

    def traffic(self) -> tuple[int, int]:
        return self.read, self.written

    def press_space(self) -> None:
        self.presses += 1

    def execute(self, _argv: list[str], *, deadline: float) -> Executed:
        _ = deadline
        return Executed(0 if self.settled else 77, "", "")


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def run(guest: Guest, *, press: bool = False) -> None:
        monkeypatch.setattr(setup.time, "sleep", guest.tick)
        monkeypatch.setattr(setup.time, "monotonic", lambda: guest.now)
        setup.install(guest, press=press)  # type: ignore[arg-type]  # a likeness

    return run


GOOD = (
    {"read": 100 * MIB},
    {"written": 2 * MIB},
    {"written": 900 * MIB},
    {"reboots": 1},
    {"reboots": 2},
    {"up": True},
)
BLUE = GuestError("0x7b", name="guest-blue-screen")
#: What is seen, and the name that it gets.
ENDS: dict[str, tuple[tuple[dict[str, Any], ...], str]] = {
    "nothing is read": (({},), "no-key-pressed"),
    "only a boot loader is read": (({"read": 3 * MIB},), "no-key-pressed"),
    "read, and nothing written": (({"read": 400 * MIB},), "setup-stopped"),
    "a partition table, and nothing more": (({"read": 400 * MIB}, {"written": 4096}), "setup-stopped"),
    "written, and then nothing": (({"read": 400 * MIB}, {"written": 80 * MIB}), "setup-hangs"),
    "restarted, and no agent": (({"read": 400 * MIB}, {"written": 80 * MIB}, {"reboots": 2}), "guest-no-agent"),
    "one restart after another": (
        ({"read": 400 * MIB}, {"written": 80 * MIB}, *({"reboots": number} for number in range(1, 20))),
        "setup-loops",
    ),
    "a megabyte now and then, for ever": (
        ({"read": 400 * MIB}, *({"written": number * MIB} for number in range(1, 2000))),
        "setup-hangs",
    ),
    "a blue screen": (
        ({"read": 400 * MIB}, {"lost": GuestError("0x7b", name="guest-blue-screen")}),
        "guest-blue-screen",
    ),
    "a first logon that does not end": ((*GOOD[:-1], {"up": True, "settled": False}), "setup-unfinished"),
}


def test_a_good_installation(install: Any) -> None:
    guest = Guest(*GOOD)
    install(guest)
    assert (guest.presses, guest.now < 10) == (0, True)
    assert "Setup has started: 100 MiB read from the media, 0 MiB written to the disk" in guest.answer


def test_the_key_is_pressed_until_setup_reads_and_never_after_a_restart(install: Any) -> None:
    guest = Guest({}, {}, {}, *GOOD)
    install(guest, press=True)
    assert 3 <= guest.presses <= 6
    restarted = Guest({"reboots": 1, "read": 1}, *({} for _ in range(4)), {"up": True})
    install(restarted, press=True)
    assert restarted.presses <= 1


@pytest.mark.parametrize("what", ENDS)
def test_each_end_has_its_name(install: Any, what: str) -> None:
    seconds, name = ENDS[what]
    guest = Guest(*seconds)
    with pytest.raises(GuestError) as caught:
        install(guest)
    assert caught.value.name == name
    assert guest.now < 320
    assert name == "guest-blue-screen" or guest.answer[-1] == "a picture"


# ---- sysprep ------------------------------------------------------------------------------------------------------

#: Lines of setuperr.log, as people quote them in their reports.
LOGS = {
    "sysprep-appx": "SYSPRP Package Microsoft.Foo_1.0_x64__8wekyb3d8bbwe was installed for a user, but not "
    "provisioned for all users. This package will not function properly in the sysprep image.",
    "sysprep-bitlocker": "SYSPRP BitLocker-Sysprep: BitLocker is on for the OS volume (0x80310039)",
    "sysprep-reserved-storage": "SYSPRP Sysprep_Clean_Validate_Opk: Audit mode can't be turned on if reserved "
    "storage is in use. An update or servicing operation may be using reserved storage.; hr = 0x800F0975",
    "sysprep-rearm": "SYSPRP Failed to execute 'SLReArmWindows'; dwRet = 0xc004d307",
    "sysprep-domain": "it is a member of the domain corp.example",
    "sysprep-unfinished": "an earlier sysprep has not ended: GeneralizationState is 3",
    "sysprep-pending": r"a reboot is pending: C:\Windows\WinSxS\pending.xml",
    "sysprep-refused": "SYSPRP something that nobody has seen before",
}


@pytest.mark.parametrize("name", LOGS)
def test_sysprep_s_log_names_the_cause(name: str) -> None:
    log = f"2026-11-22, Error {LOGS[name]}\n"
    error = sysprep._refused(Guest(), log, "sysprep has ended")  # type: ignore[arg-type]  # a likeness
    assert error.name == name
    assert "Microsoft.Foo_1.0_x64__8wekyb3d8bbwe" in error.message or name != "sysprep-appx"


@pytest.mark.parametrize(
    ("name", "log", "now"),
    [
        ("sysprep-not-generalized", LOGS["sysprep-appx"], "sysprep-appx"),
        ("sysprep-hangs", LOGS["sysprep-bitlocker"], "sysprep-bitlocker"),
        ("sysprep-hangs", LOGS["sysprep-refused"], "sysprep-hangs"),
        ("sysprep-not-generalized", "", "sysprep-not-generalized"),
        ("guest-blue-screen", LOGS["sysprep-appx"], "guest-blue-screen"),
    ],
)
def test_the_cause_is_read_off_the_disk_where_the_agent_is_gone(
    name: str, log: str, now: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "ask", lambda *_, **__: SimpleNamespace(value=[log] if log else []))
    did: list[str] = []
    machine = SimpleNamespace(destroy=lambda: did.append("ended"))
    session = SimpleNamespace(black_box=lambda: did.append("black box"), machine=machine)
    job = SimpleNamespace(session=session, keep_failed=False, store=SimpleNamespace(root=tmp_path))
    error = generalize.named_by_disk(job, Image(tmp_path, QCOW2), GuestError("it did", name=name))  # type: ignore[arg-type]  # a likeness
    assert error.name == now
    assert error.message.startswith("it did")
    assert now != name or name == "guest-blue-screen" or error.message.endswith(log or "it did")

    assert did == ([] if name == "guest-blue-screen" else ["black box", "ended"])

    def unreadable(*_: object, **__: object) -> Any:
        raise DiskError("torn", name="fs-damaged")

    monkeypatch.setattr(sandbox, "ask", unreadable)
    again = GuestError("it did", name=name)
    assert generalize.named_by_disk(job, Image(tmp_path, QCOW2), again) is again  # type: ignore[arg-type]  # a likeness
    # a guest that somebody wants to look at is left alone
    job.keep_failed = True
    did.clear()
    assert generalize.named_by_disk(job, Image(tmp_path, QCOW2), again) is again  # type: ignore[arg-type]  # a likeness
    assert did == []


def test_syspreps_log_is_read_off_a_disk_in_the_sandbox(tmp_path: Path) -> None:
    fake_windows_disk.need_tools()
    job = SimpleNamespace(session=None, keep_failed=False, store=SimpleNamespace(root=tmp_path))
    error = GuestError("it did", name="sysprep-not-generalized")
    for folder, defects, name in (
        ("good", (), "sysprep-not-generalized"),
        ("bad", ("a provider of sysprep failed",), "sysprep-not-generalized"),
    ):
        model = fake_windows_disk.Model()
        for defect in defects:
            DEFECTS[defect][1](model)
        disk = Image(fake_windows_disk.build(model, tmp_path / folder), RAW)
        found = generalize.named_by_disk(job, disk, error)  # type: ignore[arg-type]  # a likeness
        assert found.name == name
        assert ("Package x was installed for a user" in found.message) is bool(defects)


def test_what_the_preflight_finds_has_the_name_of_its_cause() -> None:
    """Each line that the script may say, with what it would put into it."""
    answer = re.findall(rb'\$found \+= "([^"]+)"', sysprep.PREFLIGHT)
    assert len(answer) == 7
    names = set()
    for line in answer:
        text = re.sub(r"\$\([^)]*\)|\$\w+", "3", line.decode())
        names.add(sysprep._refused(Guest(), text, "sysprep would fail").name)  # type: ignore[arg-type]  # a likeness
    assert names == {name for _, name, _, _ in sysprep.CAUSES}


def test_the_preflight_says_how_many_rearms_will_be_left() -> None:
    (line,) = re.findall(rb'Write-Output "(rearms[^"]+)"', sysprep.PREFLIGHT)
    answer = line.decode().replace("$($left - $used)", "3")
    assert [found[1] for found in [sysprep._REARMS.fullmatch(answer)] if found] == ["3"]


@pytest.mark.parametrize(("codes", "runs"), [([0], 1), ([3010, 0], 2), ([3010, 3010], 2)])
def test_what_waits_for_a_restart_gets_one_before_sysprep(
    codes: list[int], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The preparation asks for it by its code; what would wait for ever does not stop sysprep."""
    scripts: list[bytes] = []

    def powershell(_shell: object, script: bytes, *, reboots: bool, **_words: object) -> int:
        assert reboots is (script == sysprep.PREPARATION)
        scripts.append(script)
        return codes[len(scripts) - 1] if reboots else 0

    guest = Guest()
    guest.agent = SimpleNamespace(call=lambda *_words, **_options: {"pid": 7})  # type: ignore[attr-defined]  # a likeness
    monkeypatch.setattr(sysprep.Shell, "powershell", powershell)
    monkeypatch.setattr(sysprep, "_wait", lambda *_words: None)
    sysprep.generalize(guest, None, mode_vm=False, on_line=lambda _line: None)  # type: ignore[arg-type]  # a likeness
    assert scripts == [sysprep.PREPARATION] * runs + [sysprep.PREFLIGHT]


def test_the_preparation_takes_away_what_checks_look_for() -> None:
    text = sysprep.PREPARATION.decode()
    for word in ("PendingFileRenameOperations", "PendingFileRenameOperations2", "HiberbootEnabled", "exit 3010",
                 r"SECURITY\Policy\Secrets\DefaultPassword", "Set-LocalUser"):  # fmt: skip
        assert word in text
    # all else is done behind the restart
    assert text.index("exit 3010") < text.index("powercfg /hibernate off")
    assert "HiberbootEnabled' 0" in (EXAMPLES / "scripts/azure-preparation.ps1").read_text()


@pytest.mark.parametrize(
    ("states", "ends"),
    [
        ([oobe.COMPLETE], "there"),
        (["not set", None, "IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE", None, oobe.COMPLETE], "there"),
        (["IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE"], "IMAGE_STATE_SPECIALIZE_RESEAL_TO_OOBE"),
        ([None], "its state is unknown"),
    ],
)
def test_a_generalized_windows_is_left_alone_until_it_has_set_itself_up(
    states: list[str | None], ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`states` are what its agent answers, None where it does not; the last for ever."""
    guest, looks = Guest(), 0

    def value(_shell: object, _key: str, _name: str) -> str:
        nonlocal looks
        state = states[min(looks, len(states) - 1)]
        looks += 1
        if state is None:
            raise GuestError("gone", name="guest-agent-silent")
        return state

    def wait(what: str, probe: Any, *, deadline: float, name: str) -> object:
        for _ in range(int(deadline)):
            if (found := probe()) is not None:
                return found
        raise GuestError(what, name=name)

    monkeypatch.setattr(oobe.Shell, "value", value)
    guest.open, guest.wait = (lambda: None), wait  # type: ignore[attr-defined]  # a likeness
    if ends == "there":
        oobe.begin(guest)  # type: ignore[arg-type]  # a likeness
        assert looks == len(states)
        return
    with pytest.raises(GuestError) as raised:
        oobe.begin(guest)  # type: ignore[arg-type]  # a likeness
    assert (raised.value.name, guest.answer[-1]) == ("guest-not-set-up", "a picture")
    assert ends in raised.value.message


# ---- scripts, definitions, media ----------------------------------------------------------------------------------


def faults(source: bytes) -> list[str]:
    parser = tree_sitter.Parser(tree_sitter.Language(tree_sitter_powershell.language()))

    def below(node: tree_sitter.Node) -> Iterator[str]:
        if node.type == "ERROR" or node.is_missing:
            yield f"line {node.start_point.row + 1}: {(node.text or b'')[:60]!r}"
        for child in node.children:
            yield from below(child)

    return list(below(parser.parse(source).root_node))


def test_powershell_is_powershell() -> None:
    """By its grammar; no PowerShell has run it."""
    assert faults(sysprep.PREFLIGHT) == [] and faults(sysprep.PREPARATION) == []
    assert faults(updates.script("all")) == []
    inside = list((ROOT / "pipeline/systems/windows/inside").glob("*.ps1"))
    assert inside
    for path in inside:
        assert faults(path.read_bytes()) == [], path
    for path in (EXAMPLES / "scripts").glob("*.ps1"):
        assert faults(path.read_bytes()) == [], path
    assert faults(b"if (x { y }")


def test_the_examples_are_definitions(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "project")
    (tmp_path / "project/media").mkdir()
    for name in ("windows-server-2022", "windows-server-2025", "windows-11", "virtio-win"):
        (tmp_path / f"project/media/{name}.iso").touch()
    found = load_all(tmp_path / "project")
    assert [each.name for each in found] == ["windows-11", "windows-server-2022", "windows-server-2025"]
    assert all((each.os, each.secure_boot, each.tpm) == ("windows", True, True) for each in found)


def test_what_the_examples_checks_are_called() -> None:
    """The preparation names, for each part, the check that proves it."""
    from pipeline.checks import all_checks

    known = {check.id for check in all_checks("azure-windows")}
    words = itertools.chain.from_iterable(
        line[1:].replace(",", " ").replace(":", " ").split()
        for line in (EXAMPLES / "scripts/azure-preparation.ps1").read_text().splitlines()
        if line.startswith("# win-")
    )
    named = {word for word in words if word.startswith("win-")}
    assert len(named) >= 15 and named <= known


def iso(folder: Path, *, silent: bool) -> Path:
    """A medium whose boot catalog points at a loader that asks for a key; `silent`: it brings one that does not."""
    boot = folder / "tree/EFI/microsoft/boot"
    boot.mkdir(parents=True)
    (boot / "efisys.bin").write_bytes(b"asks".ljust(4096, b"\0"))
    if silent:
        (boot / "efisys_noprompt.bin").write_bytes(b"does not".ljust(4096, b"\0"))
    made = folder / "x.iso"
    words = ["-udf", "-V", "X", "-e", "EFI/microsoft/boot/efisys.bin", "-no-emul-boot", "-o", made, folder / "tree"]
    skip_without("genisoimage")
    subprocess.run(["genisoimage", "-quiet", *words], check=True, capture_output=True)
    return made


def test_a_medium_without_its_prompt(tmp_path: Path) -> None:
    """Four bytes of the catalog are other ones, on an overlay; the medium itself stays as it is."""
    made = iso(tmp_path, silent=True)
    before = made.read_bytes()
    overlay = boot_media.without_prompt(made, tmp_path / "x.qcow2")
    assert overlay is not None and overlay.backing is not None and overlay.backing.path == made
    raw = tmp_path / "x.raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", overlay.path, raw], check=True)
    after = raw.read_bytes()[: len(before)]
    assert made.read_bytes() == before
    changed = [index for index, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
    sectors = {word: before.index(word.ljust(4096, b"\0")) // 2048 for word in (b"asks", b"does not")}
    entry = next(
        at for at in range(changed[0] - 3, changed[0] + 1) if before[at : at + 4] == number(sectors[b"asks"])
    )
    assert after[entry : entry + 4] == number(sectors[b"does not"])
    assert set(changed) <= set(range(entry, entry + 4))


def number(sector: int) -> bytes:
    return sector.to_bytes(4, "little")


def test_a_medium_that_always_asks(tmp_path: Path) -> None:
    assert boot_media.without_prompt(iso(tmp_path, silent=False), tmp_path / "x.qcow2") is None


def test_a_small_factor_does_not_take_a_busy_host_for_a_failure() -> None:
    quick, usual = Deadlines.for_kind(False, 0.01), Deadlines.for_kind(False, 1.0)
    assert (quick.boot, quick.command) == (90.0, 30.0)
    assert (quick.still, usual.boot) == (0.01 * usual.still, 3600.0)
