"""A guest whose kernel hangs is booted once more, and once only; the record says so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base.errors import BuildError, GuestError
from pipeline.base.runs import Run
from pipeline.context import BuildContext
from pipeline.engine import runner
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.boot_again import HUNG, keep_console
from pipeline.systems.linux.build_guest import GuestStart
from pipeline.systems.linux.clone_test import CloneTest

HANGS = GuestError("the guest's kernel hangs", name=HUNG, hint="build again")


class Started(BuildContext):
    """A build whose guests hang as often as `hangs` says; all else is real."""

    def __init__(self, tmp_path: Path, hangs: int) -> None:
        run = Run.start(tmp_path / "runs", "web", "goldsmith build web")
        super().__init__(SimpleNamespace(steps=()), SimpleNamespace(root=tmp_path), run, None, None)  # type: ignore[arg-type]
        self.stage = "provision"
        self.hangs = hangs
        self.notes: list[str] = []
        run.listen(lambda event: self.notes.append(event.text))


class Start(GuestStart):
    """Starts the guest of a `Started`."""

    build: Started

    def _spec(self) -> Any:
        return "spec", "access"

    def _boot(self, _spec: Any, _access: Any, _entry: Any) -> None:
        overlay = self.draft.path / "disk.qcow2"
        overlay.touch(exist_ok=False)
        self.build.run.log("serial.log").write_text("BUG: soft lockup\n")
        self.build.session = SimpleNamespace(
            machine=SimpleNamespace(screenshot=lambda path: path.write_bytes(b"PNG")), close=lambda: None
        )  # type: ignore[assignment]
        if self.build.hangs:
            self.build.hangs -= 1
            raise HANGS


def start(job: Started, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.systems.linux.set_up_session.find", lambda *_: None)
    draft = SimpleNamespace(path=tmp_path / "draft")
    draft.path.mkdir()
    Start(job, SimpleNamespace(image=None), draft)._start_cold("spec", "access")  # type: ignore[arg-type]


def test_a_boot_that_hangs_is_tried_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Started(tmp_path, 1)
    start(job, tmp_path, monkeypatch)
    (again,) = job.run.record["boots_again"]
    assert (again["name"], again["stage"], again["kept"]) == (HUNG, "provision", "hung-serial.log")
    assert (job.run.folder / "hung-serial.log").read_text() == "BUG: soft lockup\n"
    assert (job.run.folder / "hung-screen.png").exists()
    assert any("booting once more" in note for note in job.notes)


def test_one_that_hangs_twice_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Started(tmp_path, 2)
    with pytest.raises(GuestError, match="kernel hangs"):
        start(job, tmp_path, monkeypatch)
    assert len(job.run.record["boots_again"]) == 1


def test_no_other_failure_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Started(tmp_path, 0)
    monkeypatch.setattr(Start, "_boot", lambda *_: (_ for _ in ()).throw(GuestError("x", name="guest-no-agent")))
    with pytest.raises(GuestError, match="x"):
        start(job, tmp_path, monkeypatch)
    assert "boots_again" not in job.run.record


@pytest.mark.parametrize("hangs", [1, 2])
def test_a_clone_that_hangs_is_made_once_more(hangs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Started(tmp_path, 0)
    left = [hangs]

    def begin(course: CloneTest, *_: object) -> None:
        course.context, course.result, course._again_already = job, CloneResult("gen1"), False
        course.test_run = SimpleNamespace(name="gen1", target=SimpleNamespace(description="generation 1"))  # type: ignore[assignment]
        course.master, course._beside, course._own_disks = None, 1, ()  # type: ignore[assignment]
        course.logs = job.run.folder / "prove" / "gen1"

    class Made:
        def __init__(self, logs: Path) -> None:
            self.logs = logs

        def __enter__(self) -> tuple[None, None]:
            self.logs.mkdir(parents=True)
            return None, None

        def __exit__(self, *_: object) -> None:
            return None

    def boots(_course: CloneTest, *_: object) -> None:
        if left[0]:
            left[0] -= 1
            raise GuestError("the guest's kernel hangs", name=HUNG, hint="build again")

    monkeypatch.setattr(CloneTest, "__init__", begin)
    monkeypatch.setattr(CloneTest, "made", lambda course, _fabric: Made(course.logs))
    monkeypatch.setattr(CloneTest, "_start", boots)
    course = CloneTest(*(None,) * 4)  # type: ignore[arg-type]
    if hangs == 1:
        assert course.run(None, tmp_path).target == "gen1"
    else:
        with pytest.raises(GuestError, match="generation 1: the guest's kernel hangs"):
            course.run(None, tmp_path)
    (again,) = job.run.record["boots_again"]
    assert again["kept"] == "prove/gen1-hung" and (job.run.folder / "prove/gen1-hung").is_dir()


def test_a_console_that_nobody_wrote_is_no_file(tmp_path: Path) -> None:
    assert keep_console(tmp_path / "serial.log", tmp_path / "kept.log") is None


def test_a_failed_stage_has_its_true_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was 0.0 s, however long the guest had been waited for."""
    job = Started(tmp_path, 0)
    job.watch = SimpleNamespace(seconds=99.7)  # type: ignore[assignment]
    runner._fail(job, BuildError("x", name="guest-no-agent"))
    (stage,) = job.run.record["stages"]
    assert (stage["state"], stage["seconds"], stage["detail"]) == ("failed", 99.7, "guest-no-agent")
