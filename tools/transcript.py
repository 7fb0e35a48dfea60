"""Run the commands of a page's transcripts, and write what they print beneath them.

    GOLDSMITH_HOME=STORE .venv/bin/python tools/transcript.py docs/instances.md

A transcript is the indented block after the line `<!-- transcript -->`. A line that begins with `$ ` is a command,
and the lines with `> ` directly after it continue it. All commands of a page run as root in one shell, in a folder of
their own that is also HOME and has an SSH key. If a command fails, the page stays as it is. The path of the store is
written as that of the default store, and the path of the folder as ~.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

MARK = "<!-- transcript -->"
INDENT = "    "
PROMPT = "$ "
#: Before each further line of a command, as a shell shows it.
MORE = "> "
#: The store that a reader has.
DEFAULT_STORE = "/var/lib/goldsmith"
#: Seconds for one command: an emulated guest on a busy host needs minutes for its first boot.
DEADLINE = 900.0
_END = "--end-of-command--"


class Failed(Exception):
    """A command that failed, with what it printed."""


@dataclass
class Shell:
    """One bash for all commands of a transcript."""

    folder: Path
    store: str
    _lines: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}"
        self._bash = subprocess.Popen(
            ["bash", "--norc", "--noprofile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.folder,
            env={**os.environ, "HOME": str(self.folder), "PATH": path},
            process_group=0,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._bash.stdout is not None
        for line in self._bash.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def run(self, command: str) -> list[str]:
        """The lines that a command prints. One that ends in `&` goes on, after its first line. Raises Failed."""
        assert self._bash.stdin is not None
        in_background = command.partition("#")[0].rstrip().endswith("&")
        # a command must not read the commands that follow it
        script = command if in_background else f"{{ {command}\n}} </dev/null"
        self._bash.stdin.write(f"{script}\necho {_END} $?\n")
        self._bash.stdin.flush()
        found: list[str] = []
        ended, until = False, time.monotonic() + DEADLINE
        while not ended or (in_background and not found):
            try:
                line = self._lines.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                raise Failed(f"{command}: not ended after {DEADLINE:.0f} s\n" + "\n".join(found)) from None
            if line is None:
                raise Failed(f"{command}: the shell ended\n" + "\n".join(found))
            before, mark, code = line.partition(_END)
            if mark and code.strip() != "0":
                raise Failed(f"{command}: exit code{code}\n" + "\n".join(found))
            ended = ended or bool(mark)
            found += [before] if before or not mark else []
        return [line.replace(self.store, DEFAULT_STORE).replace(str(self.folder), "~").rstrip() for line in found]

    def close(self) -> None:
        """End the shell and what it started in the background."""
        try:
            os.killpg(self._bash.pid, 15)
        except ProcessLookupError:
            return
        self._bash.wait()


def split(page: str) -> tuple[str, list[str], str]:
    """A page in three: up to its transcript, the transcript's lines, the rest. Raises ValueError without one."""
    head, mark, rest = page.partition(f"{MARK}\n")
    if not mark:
        raise ValueError(f"the page has no line {MARK}")
    lines = rest.lstrip("\n").splitlines(keepends=True)
    count = next((n for n, line in enumerate(lines) if line.strip() and not line.startswith(INDENT)), len(lines))
    while count and not lines[count - 1].strip():
        count -= 1
    return head + mark + "\n", [line.rstrip("\n") for line in lines[:count]], "".join(lines[count:])


def commands(lines: list[str]) -> list[str]:
    """The commands of a transcript, in order; one may have several lines."""
    found: list[str] = []
    in_command = False
    for line in lines:
        if line.startswith(INDENT + PROMPT):
            found.append(line.removeprefix(INDENT + PROMPT))
            in_command = True
        elif in_command and line.startswith(INDENT + MORE.rstrip()):
            found[-1] += "\n" + line.removeprefix(INDENT + MORE.rstrip()).removeprefix(" ")
        else:
            in_command = False
    return found


def _shown(command: str) -> list[str]:
    """A command's lines with their prompts."""
    first, *more = command.split("\n")
    return [PROMPT + first, *(f"{MORE}{line}".rstrip() for line in more)]


def written_again(page: str, shell: Shell) -> str:
    """The page with what its commands print now. Raises Failed, ValueError."""
    head, lines, rest = split(page)
    block: list[str] = []
    for command in commands(lines):
        print("\n".join(_shown(command)), flush=True)
        printed = shell.run(command)
        print("\n".join(printed), flush=True)
        block += [f"{INDENT}{line}".rstrip() for line in (*_shown(command), *printed)]
    if f"{MARK}\n" in rest:
        rest = written_again(rest, shell)
    return head + "\n".join(block) + "\n" + rest


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    page = Path(sys.argv[1])
    with tempfile.TemporaryDirectory(prefix="goldsmith-transcript-") as name:
        folder = Path(name)
        (folder / ".ssh").mkdir(mode=0o700)
        key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "you", "-f", str(folder / ".ssh/id_ed25519")]
        subprocess.run(key, check=True)
        shell = Shell(folder, os.environ.get("GOLDSMITH_HOME", DEFAULT_STORE))
        try:
            page.write_text(written_again(page.read_text(), shell))
        except Failed as error:
            print(error, file=sys.stderr)
            return 1
        finally:
            shell.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
