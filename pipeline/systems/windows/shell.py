"""Commands, scripts and files in a Windows guest, over its agent. Nothing here needs a network or a password.

A step is a folder with what it runs, and a batch file that runs it and writes down what it says and how it ended. The
agent cannot read a file that is being written (it opens files so that nobody else may write), so another batch file
is asked to type it. Batch files, because what they are passed is quoted by nobody.
"""

from __future__ import annotations

import codecs
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.hypervisor.agent import Executed
from pipeline.systems.windows.session import CMD, WindowsSession

FOLDER = r"C:\Windows\Temp\goldsmith"
#: What a script ends with that wants a restart. Microsoft: ERROR_SUCCESS_REBOOT_REQUIRED, _INITIATED.
WANTS_RESTART = frozenset({3010, 1641})
#: How often a step that restarts its guest is run again.
MOST_RESTARTS = 5
#: Seconds between two looks, at first and at most; what was said so far is typed whole each time.
QUICK, SLOW, SLOWER = 0.2, 2.0, 10.0
#: Characters of output from which on it is looked at more rarely. The agent keeps 16 MiB of a program's output.
MUCH = 1 << 20

#: 65001 is UTF-8: programs that ask the console for its code page write that, PowerShell among them.
_RUN = """\
@echo off
chcp 65001 >nul
{line} >"%~dp0out.txt" 2>"%~dp0err.txt" <nul
>"%~dp0code.txt" echo %ERRORLEVEL%
"""
#: Ends with 0 when the step has ended; the code is looked for first, so that all that was said stands before it.
_LOOK = """\
@echo off
set still=77
if exist "%~dp0code.txt" set still=0
if exist "%~dp0out.txt" type "%~dp0out.txt"
if exist "%~dp0err.txt" type "%~dp0err.txt" 1>&2
exit /b %still%
"""
#: A command line of a definition, in a cmd of its own.
CMD_STEP = r'cmd /d /c "%~dp0step.cmd"'
_POWERSHELL = (
    r"C:\Windows\System32\WindowsPowerShell\v1.0\powershell.exe -NoLogo -NoProfile -NonInteractive "
    r'-ExecutionPolicy Bypass -File "%~dp0step.ps1"'
)


@dataclass
class _Output:
    """What came so far of a stream that is typed whole each time."""

    cut: process.LineCutter
    text: str = ""
    _passed: int = 0

    def take(self, whole: str, *, ended: bool) -> None:
        """Pass on the lines that are whole; one cut in a character may still read otherwise."""
        end = len(whole) if ended else whole.rfind("\n") + 1
        if end > self._passed:
            self.cut.feed(whole[self._passed : end].encode())
            self._passed = end
        self.text = whole if len(whole) > len(self.text) or ended else self.text


def marked(script: bytes) -> bytes:
    """A script with UTF-8's mark: Windows PowerShell takes a file without one for the system's code page."""
    return script if script.startswith(codecs.BOM_UTF8) else codecs.BOM_UTF8 + script


class Shell:
    """The way to run things in one Windows guest."""

    def __init__(self, session: WindowsSession) -> None:
        self._session = session

    def run(self, argv: list[str], deadline: float | None = None) -> Executed:
        """Run a program and wait for its end."""
        return self._session.agent.execute(
            argv, deadline=deadline or self._session.deadlines.command, check=self._session.machine.check
        )

    def powershell(self, script: bytes, *, deadline: float, on_line: Callable[[str], None], reboots: bool) -> int:
        """Run a PowerShell script: its code, 0 or one of WANTS_RESTART; see `_step`."""
        return self._step({"step.ps1": marked(script)}, _POWERSHELL, deadline, on_line, reboots)

    def cmd(self, line: str, *, deadline: float, on_line: Callable[[str], None], reboots: bool) -> None:
        """Run a command line; see `_step`. It has a cmd of its own: `exit N` without /b ends that, and gives N."""
        body = f"@echo off\r\n{line}\r\n".encode()
        self._step({"step.cmd": body}, CMD_STEP, deadline, on_line, reboots)

    def batch(
        self,
        files: Mapping[str, bytes | Path],
        line: str,
        *,
        deadline: float,
        on_line: Callable[[str], None],
        reboots: bool,
        done: frozenset[int],
    ) -> int:
        """Run one line of a batch file in a folder with `files` (%~dp0): its code, 0 or of `done`; see `_step`."""
        return self._step(files, line, deadline, on_line, reboots, done)

    def write(self, path: str, data: bytes | Path) -> None:
        """Write a file, with the folders above it: these bytes, or those of a file of the host's."""
        folder = path.rpartition("\\")[0]
        # a folder that is there is no error to it, and it makes those above
        self.run([CMD, "/d", "/c", "if", "not", "exist", folder, "mkdir", folder])
        if isinstance(data, bytes):
            self._session.agent.write(path, data)
            return
        with data.open("rb") as file:
            self._session.agent.write(path, file)

    def value(self, key: str, name: str) -> str:
        """A value of the guest's registry, as its own reg shows it; "not set"."""
        output = self.run([r"C:\Windows\System32\reg.exe", "query", key, "/v", name]).stdout
        line = next((line for line in output.splitlines() if line.split()[:1] == [name]), "")
        return line.split(None, 2)[2].strip() if len(line.split()) > 2 else "not set"

    def restart(self, deadline: float | None = None) -> None:
        """Restart the guest in order, and wait for its agent; see `back`."""
        before = self._session.machine.reboots
        # it takes the agent along: its end is not waited for
        program = r"C:\Windows\System32\shutdown.exe"
        self._session.agent.call("guest-exec", {"path": program, "arg": ["/r", "/t", "0"]})
        self.back(before, deadline)

    def _step(
        self,
        files: Mapping[str, bytes | Path],
        line: str,
        deadline: float,
        on_line: Callable[[str], None],
        reboots: bool,
        done: frozenset[int] = frozenset(),
    ) -> int:
        """Run a step to its end. One that `reboots` may restart the guest: it is run again then, or, where it ended
        with 3010, the guest is restarted and it is done. Other codes than 0 that are an end are `done`.

        Raises CommandFailed, CommandTimeout after `deadline` seconds in all, or GuestError.
        """
        until = time.monotonic() + deadline
        self.run([CMD, "/d", "/c", "if", "exist", FOLDER, "rmdir", "/s", "/q", FOLDER])
        texts = {"run.cmd": _RUN.format(line=line), "look.cmd": _LOOK}
        encoded = {name: text.replace("\n", "\r\n").encode() for name, text in texts.items()}
        for name, data in {**files, **encoded}.items():
            self.write(f"{FOLDER}\\{name}", data)
        for _ in range(MOST_RESTARTS):
            before = self._session.machine.reboots
            code = self._once(until, deadline, on_line, before)
            if code is None:
                if not reboots:
                    raise GuestError("the guest restarted during the step", name="guest-rebooted")
                self._session.progress("the guest restarts, and the step is run again")
                self.back(before)
                self.run([CMD, "/d", "/c", "del", "/q", rf"{FOLDER}\*.txt"])
                continue
            if code in WANTS_RESTART and reboots:
                self._session.progress("the step requests a restart")
                self.restart()
            elif code and code not in done:
                raise process.CommandFailed(["step"], code, self._out, self._err, None)
            self.run([CMD, "/d", "/c", "rmdir", "/s", "/q", FOLDER])
            return code
        raise GuestError(f"the step has restarted the guest {MOST_RESTARTS} times", name="step-restarts")

    def _once(self, until: float, deadline: float, on_line: Callable[[str], None], before: int) -> int | None:
        """Start the step and follow it; its exit code, None when the guest restarted before it ended."""
        agent, machine = self._session.agent, self._session.machine
        out, err = _Output(process.LineCutter(on_line)), _Output(process.LineCutter(on_line))
        agent.call("guest-exec", {"path": CMD, "arg": ["/d", "/c", rf"{FOLDER}\run.cmd"]})
        # an agent may be silent for as long as a command may take: it is restarted, or the guest is busy
        pause, heard, silence = QUICK, time.monotonic(), self._session.deadlines.command
        while True:
            machine.check()
            if machine.reboots != before:
                return None
            try:
                looked = agent.execute([CMD, "/d", "/c", rf"{FOLDER}\look.cmd"], deadline=silence)
                heard = time.monotonic()
            except GuestError as error:
                if machine.reboots != before:
                    return None
                if time.monotonic() - heard > silence:
                    raise GuestError(
                        f"the agent stopped answering during the step: {error.message}",
                        name=error.name,
                        hint=error.hint,
                    ) from None
                time.sleep(SLOW)
                continue
            out.take(looked.stdout, ended=looked.code == 0)
            err.take(looked.stderr, ended=looked.code == 0)
            self._out, self._err = out.text, err.text
            if looked.code == 0:
                out.cut.end()
                err.cut.end()
                output = self.run([CMD, "/d", "/c", "type", rf"{FOLDER}\code.txt"]).stdout.strip()
                return int(output or "1")
            if time.monotonic() > until:
                raise process.CommandTimeout(["step"], deadline)
            slowest = SLOWER if len(out.text) + len(err.text) > MUCH else SLOW
            pause = min(pause * 1.5, slowest)
            time.sleep(pause)

    def back(self, before: int, deadline: float | None = None) -> None:
        """Wait until the guest has restarted and its agent answers, for `deadline` seconds each, by default a boot's.

        Raises GuestError: guest-no-restart, guest-no-agent.
        """
        machine, boot = self._session.machine, deadline or self._session.deadlines.boot
        machine.wait(
            "the restart", lambda: True if machine.reboots != before else None, deadline=boot, name="guest-no-restart"
        )
        machine.wait_agent(boot, boot)
