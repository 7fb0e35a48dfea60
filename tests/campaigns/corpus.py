"""Files of strangers: `GOLDSMITH_CORPUS=FOLDER make campaign-corpus`.

Every file below the folder, and what is in it where it is packed, goes to `vhd info`, `inspect`, `inspect --list
volumes` and `vhd convert`. Rules: every end is an exit code of ours with a named error, never a traceback; what could
not be read never ends with 0; nothing that qemu-img or file(1) know as something else is taken for a raw disk; the
bytes are qemu-img's wherever both read; no file takes more than SECONDS or MEMORY.
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import multiprocessing
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from pipeline.base.errors import GoldsmithError
from tests.harness import ROOT, commit_id

PAGE = ROOT / "docs/reports/campaign-corpus.md"
#: Bounds of all verbs of one file: seconds, MiB of this process, and of any child (qemu-img and the disk's readers).
SECONDS, MEMORY = 60.0, 300
#: file(1)'s names of files that are not disks: none of these may be read as a raw disk.
PACKED = {
    f"application/{kind}"
    for kind in (
        *("x-xz", "gzip", "x-bzip2", "zstd", "x-lz4", "x-lzma", "x-lzip", "zip", "x-tar", "x-7z-compressed", "x-rar"),
        *("vnd.ms-cab-compressed", "x-cpio", "x-rpm", "x-archive", "x-ms-wim", "vnd.debian.binary-package"),
    )
}
#: Formats that are read; the names of qemu-img.
READ = ("raw", "qcow2", "vpc", "vhdx", "vmdk")
_OPENERS: dict[str, Callable[..., Any]] = {".xz": lzma.open, ".gz": gzip.open, ".bz2": bz2.open}


@dataclass
class Verdict:
    """What each verb said of a file ("0", or an error's name), and which rule it broke."""

    answer: dict[str, str] = field(default_factory=dict)
    fmt: str = ""
    equal: bool | None = None
    seconds: float = 0.0
    memory: int = 0
    broken: list[str] = field(default_factory=list)


def run(words: list[str]) -> tuple[str, str]:
    """The end of a command line, in this process: ('0' or the error's name or what was raised), its stdout."""
    from pipeline.cli.app import app

    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        try:
            app(words, standalone_mode=False)
        except GoldsmithError as error:
            whole = error.hint and error.name != "failed" and error.message.isprintable()
            answer = error.name if whole and error.exit_code in (1, 2, 3) else f"BADLY NAMED {error!r}"
        except BaseException as error:
            answer = f"TRACEBACK {error!r}"
        else:
            answer = "0"
    return answer, out.getvalue()


def qemu(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["qemu-img", *words], capture_output=True, text=True, timeout=120, check=False)


def probed(path: Path) -> str:
    """What qemu-img takes a file for, '' where it reads it as nothing."""
    done = qemu("info", "--output=json", path)
    return str(json.loads(done.stdout)["format"]) if done.returncode == 0 else ""


def mime(path: Path) -> str:
    if shutil.which("file") is None:
        return ""
    return subprocess.run(
        ["file", "-b", "--mime-type", path], capture_output=True, text=True, check=False
    ).stdout.strip()


def judge(path: Path, folder: Path) -> Verdict:
    """All verbs on one file. `folder` is for what they write."""
    from pipeline.disk.disk_formats import detect

    verdict, target = Verdict(), folder / "out.raw"
    began = time.monotonic()
    verbs = {
        "info": ["vhd", "info", str(path), "--json"],
        "inspect": ["inspect", str(path), "--profile", "any"],
        "volumes": ["inspect", str(path), "--list", "volumes"],
        "convert": ["vhd", "convert", str(path), str(target), "--to", "raw"],
    }
    for verb, words in verbs.items():
        verdict.answer[verb] = run(words)[0]
    verdict.seconds = time.monotonic() - began
    usage = [resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    verdict.memory = max(usage)
    with contextlib.suppress(GoldsmithError):
        verdict.fmt = detect(path)
    verdict.broken = list(_broken(path, target, verdict, folder))
    return verdict


def _broken(path: Path, target: Path, verdict: Verdict, folder: Path) -> Iterator[str]:
    answer = verdict.answer
    yield from (f"{verb}: {end}" for verb, end in answer.items() if end[:1].isupper())
    if verdict.seconds > SECONDS:
        yield f"{verdict.seconds:.0f} s"
    if verdict.memory > MEMORY:
        yield f"{verdict.memory} MiB"
    known = probed(path)
    if verdict.fmt == "raw" and known not in ("", "raw"):
        yield f"taken for raw, qemu-img knows {known}"
    if verdict.fmt == "raw" and mime(path) in PACKED:
        yield f"taken for raw, file(1) knows {mime(path)}"
    if answer["info"] == "0" and verdict.fmt != "vpc":
        yield f"vhd info of {verdict.fmt or 'what cannot be read'} ended with 0"
    if answer["convert"] != "0":
        if answer["inspect"] == "0":
            yield f"inspect ended with 0, convert with {answer['convert']}"
        if target.exists():
            yield "a target of a conversion that failed"
        return
    other = folder / "qemu.raw"
    if verdict.fmt in READ and qemu("convert", "-f", verdict.fmt, "-O", "raw", path, other).returncode == 0:
        verdict.equal = qemu("compare", "-f", "raw", "-F", "raw", target, other).returncode == 0
        if not verdict.equal:
            yield "other bytes than qemu-img's"


def cases(folder: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """(name, file): every file of a corpus, then what is packed in it, unpacked."""
    for path in sorted(each for each in folder.rglob("*") if each.is_file() and not each.is_symlink()):
        name = str(path.relative_to(folder))
        yield name, path
        for inner in _inner(path, scratch):
            yield f"{name}: {inner.name}", inner
            inner.unlink(missing_ok=True)


def _inner(path: Path, scratch: Path) -> Iterator[Path]:
    if path.suffix == ".gz" and path.name.endswith((".tar.gz",)):
        return
    if ".tar." in path.name:
        with tarfile.open(path) as archive:
            for member in archive:
                source = archive.extractfile(member) if member.isfile() else None
                if source is not None:
                    yield _written(source, scratch / Path(member.name).name)
        return
    opener = _OPENERS.get(path.suffix)
    if opener is not None:
        try:
            with opener(path) as source:
                yield _written(source, scratch / path.stem)
        except (OSError, EOFError, lzma.LZMAError):
            return


def _written(source: IO[bytes], target: Path) -> Path:
    with target.open("wb") as sink:
        while block := source.read(1 << 20):
            if block.count(0) == len(block):
                sink.seek(len(block), os.SEEK_CUR)
            else:
                sink.write(block)
        sink.truncate(sink.tell())
    return target


def _in_child(path: Path, pipe: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="goldsmith-corpus-") as folder:
        pipe.send(judge(path, Path(folder)))


def judged(path: Path) -> Verdict:
    """`judge` in a process of its own, so that memory is this file's and a crash is a row."""
    here, there = multiprocessing.Pipe(duplex=False)
    # a fork of the caller would be counted with all that the caller holds
    child = multiprocessing.get_context("forkserver").Process(target=_in_child, args=(path, there))
    child.start()
    there.close()
    try:
        if here.poll(5 * SECONDS):
            verdict = here.recv()
            assert isinstance(verdict, Verdict)
            return verdict
        return Verdict(broken=[f"not done after {5 * SECONDS:.0f} s"])
    except EOFError:
        return Verdict(broken=["the process ended"])
    finally:
        child.join(1)
        child.kill()
        child.join()


def page(rows: dict[tuple[str, str], list[Verdict]], broken: list[str], took: float) -> str:
    count = sum(map(len, rows.values()))
    equal = sum(verdict.equal is True for each in rows.values() for verdict in each)
    lines = [
        "# Campaign: corpus",
        "",
        f"Commit {commit_id()}, {count} files, {took:.0f} s. Converted bytes equal qemu-img's in {equal} files, "
        f"differ in {sum(v.equal is False for each in rows.values() for v in each)}; {len(broken)} broken rules.",
        "",
        "| collection | read as, or refused by | files | bytes as qemu-img's | inspect | slowest, s | most MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for (collection, what), verdicts in sorted(rows.items()):
        ends = Counter(verdict.answer.get("inspect", "-") for verdict in verdicts)
        inspect = ", ".join(f"{number} {end}" for end, number in ends.most_common())
        lines.append(
            f"| {collection} | {what} | {len(verdicts)} | {sum(v.equal is True for v in verdicts)} | {inspect} | "
            f"{max(v.seconds for v in verdicts):.1f} | {max(v.memory for v in verdicts)} |"
        )
    return "\n".join([*lines, "", *(f"- BROKEN {each}" for each in broken), ""]).rstrip() + "\n"


def main() -> int:
    named = os.environ.get("GOLDSMITH_CORPUS", "")
    folder = Path(named)
    if not named or not folder.is_dir():
        print("GOLDSMITH_CORPUS names a folder of files", file=sys.stderr)
        return 2
    os.nice(10)
    began = time.monotonic()
    rows: dict[tuple[str, str], list[Verdict]] = {}
    broken: list[str] = []
    with tempfile.TemporaryDirectory(prefix="goldsmith-corpus-") as scratch:
        # the journal of temporary files is this run's own
        os.environ["GOLDSMITH_HOME"] = str(Path(scratch) / "store")
        unpacked = Path(scratch) / "unpacked"
        unpacked.mkdir()
        for name, path in cases(folder, unpacked):
            verdict = judged(path)
            end = verdict.answer.get("convert", "-")
            rows.setdefault((Path(name).parts[0], verdict.fmt if end == "0" else end), []).append(verdict)
            broken += [f"{name}: {rule}" for rule in verdict.broken]
            if verdict.broken:
                print(name, verdict, flush=True)
            PAGE.write_text(page(rows, broken, time.monotonic() - began))
    print(PAGE.read_text())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
