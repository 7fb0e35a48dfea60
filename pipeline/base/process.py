"""The only door to child processes.

Every call has a deadline, gives its whole stderr in the error, streams lines (also those ended by a carriage
return, as qemu-img's progress is) and leaves no orphan: the child gets SIGKILL when goldsmith dies. A child gets the
environment that `environment` makes, never the caller's: what a shell or a CI job exports must not change an image.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from pipeline.base.errors import BuildError, HostError
from pipeline.base.surroundings import user_home, variables

#: Seconds a child gets between SIGTERM and SIGKILL.
GRACE = 3.0
#: Seconds for a program that only answers a question. A busy host has taken more than ten.
ANSWER = 60.0
#: Bytes that a program may print on one stream: what runs in a guest, over ssh, may print for ever.
LARGEST_OUTPUT = 64 << 20
#: Bytes after which a line that does not end is handed on in pieces: a guest may print for ever.
LONGEST_LINE = 64 << 10
#: Seconds between two calls of a `watch`.
WATCH_EVERY = 0.25
#: The file mode mask of goldsmith and all its children, whatever the caller's is.
UMASK = 0o022
#: What children get of the caller's environment beside PATH: where temporary files go.
_KEPT = ("TMPDIR",)
#: Variables of the caller that decide how a download is reached, not what it holds. Lower case counts as upper case.
_DOWNLOADS = frozenset(
    {
        *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "SSH_AUTH_SOCK"),
    }
)
#: Variables that goldsmith itself reads, for a goldsmith that goldsmith starts.
_OWN = ("GOLDSMITH_ANSIBLE_USER", "GOLDSMITH_HOME", "GOLDSMITH_KEY", "XDG_STATE_HOME", "HOME", "NO_COLOR")
#: Where root's tools are; a user's PATH may lack them.
_ROOT_TOOLS = "/usr/local/sbin:/usr/sbin:/sbin"

#: A program that was started and not waited for.
Child = subprocess.Popen[bytes]
#: What `Running.wait` raises after its timeout.
StillRunning = subprocess.TimeoutExpired


class Running(Protocol):
    """A child in a session of its own, started by whatever means."""

    @property
    def pid(self) -> int: ...

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, below zero after a signal. Raises StillRunning after `timeout` seconds."""
        ...


class CommandFailed(BuildError):
    """A child ended with a code that is not 0; `stderr` and `stdout` are whole."""

    def __init__(self, argv: Sequence[str], code: int, stdout: str, stderr: str, hint: str | None) -> None:
        lines = [line for line in stderr.strip().splitlines() if line.strip()]
        what = lines[-1].strip() if lines else "no message on stderr"
        super().__init__(f"{Path(argv[0]).name} ended with {code}: {what}", name="command-failed", hint=hint)
        self.argv = list(argv)
        self.code = code
        self.stdout = stdout
        self.stderr = stderr


class CommandTimeout(BuildError):
    """A child was still running at its deadline and was ended."""

    def __init__(self, argv: Sequence[str], deadline: float) -> None:
        super().__init__(
            f"{Path(argv[0]).name} was not done after {deadline:.0f} s and was ended", name="command-timeout"
        )
        self.argv = list(argv)


@dataclass(frozen=True)
class Result:
    stdout: str
    stderr: str
    seconds: float
    code: int = 0


class LineCutter:
    """Hands on each line of a stream that comes in pieces; a line ends at newline or at carriage return."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self._on_line = on_line
        self._rest = b""

    def feed(self, chunk: bytes) -> None:
        if self._on_line is not None:
            *lines, self._rest = (self._rest + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                self._hand_on(line)
            while len(self._rest) > LONGEST_LINE:
                self._hand_on(self._rest[:LONGEST_LINE])
                self._rest = self._rest[LONGEST_LINE:]

    def end(self) -> None:
        """What came after the last newline is a line too."""
        self._hand_on(self._rest)
        self._rest = b""

    def _hand_on(self, line: bytes) -> None:
        if self._on_line is not None and line.strip():
            self._on_line(line.decode("utf-8", "replace"))


class _Lines(threading.Thread):
    """Reads a stream to its end: keeps the whole, and hands on each line.

    Calls `end` once where it is too much, and where the stream cannot be read or `on_line` raises: `failure` has why.
    """

    def __init__(self, stream: IO[bytes], on_line: Callable[[str], None] | None, end: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._stream = stream
        self._end = end
        self.too_much = False
        self.failure: Exception | None = None
        self._cut = LineCutter(on_line)
        self._whole = bytearray()
        self.start()

    def run(self) -> None:
        try:
            while not self.too_much and (chunk := self._read()):
                self._whole += chunk
                self._cut.feed(chunk)
                self.too_much = len(self._whole) > LARGEST_OUTPUT
            self._cut.end()
        except Exception as error:  # raised by `follow`, in its own thread: half an output is not taken for the whole
            self.failure = error
            self._end()
        if self.too_much:
            self._whole.clear()
            self._end()

    def _read(self) -> bytes:
        return os.read(self._stream.fileno(), 65536)

    def close(self, timeout: float) -> str:
        self.join(timeout)
        return self._whole.decode("utf-8", "replace")


#: What a child reads: a text, bytes, or a function that writes them to the pipe as they come.
Input = str | bytes | Callable[[IO[bytes]], None]


def _feed(pipe: IO[bytes] | None, data: Input | None, failures: list[Exception]) -> None:
    """Give a child its input. What a writing function raises goes to `failures`, and the input ends there."""
    if pipe is None or data is None:
        return
    try:
        if callable(data):
            data(pipe)
        else:
            pipe.write(data.encode() if isinstance(data, str) else data)
    except BrokenPipeError:
        pass  # a child that ends without reading its input is judged by its exit code
    except Exception as error:  # handed to the caller of `run`, in its own thread
        failures.append(error)
    finally:
        with contextlib.suppress(OSError):
            pipe.close()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The whole environment of a child process: the same for every caller, but for PATH and TMPDIR; `extra` is added.

    HOME is the home folder in the user database: `sudo` and CI jobs set another one.
    """
    kept = {name: variables()[name] for name in _KEPT if variables().get(name)}
    fixed = {"HOME": str(user_home()), "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    return {"PATH": _search_path(), **kept, **fixed, **(extra or {})}


def _search_path() -> str:
    return f"{variables().get('PATH') or os.defpath}:{_ROOT_TOOLS}"


def download_variables() -> dict[str, str]:
    """The caller's proxies, certificate files and ssh agent, for a program that downloads."""
    return {name: value for name, value in variables().items() if name.upper() in _DOWNLOADS}


def own_variables() -> dict[str, str]:
    """What another goldsmith needs of the caller's environment to do what this one would do."""
    own = {name: variables()[name] for name in _OWN if name in variables()}
    return {**download_variables(), **own, "PYTHONPATH": str(Path(__file__).parents[2])}


def find(program: str) -> str | None:
    """The path of `program`, looked for where root's tools are too, or None."""
    return shutil.which(program, path=_search_path())


def run(
    argv: Sequence[str | Path],
    *,
    deadline: float,
    stdin: Input | None = None,
    on_line: Callable[[str], None] | None = None,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    hint: str | None = None,
    ok_codes: Sequence[int] = (0,),
    watch: Callable[[], None] | None = None,
) -> Result:
    """Run a program to its end.

    `deadline` is in seconds; `on_line` gets each line of stdout and stderr as it comes; `env` adds to
    `environment`; `watch` is called four times a second and ends the child by raising. Raises HostError when the
    program is missing, CommandTimeout, CommandFailed, BuildError(output-too-large), or what `stdin` or `on_line`
    raises.
    """
    words = [str(word) for word in argv]
    failures: list[Exception] = []

    def start_child() -> tuple[Running, IO[bytes], IO[bytes]]:
        process = subprocess.Popen(
            tied_argv(words),
            stdin=subprocess.PIPE if stdin is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env=environment(env),
            umask=UMASK,
            start_new_session=True,
        )
        threading.Thread(target=_feed, args=(process.stdin, stdin, failures), daemon=True).start()
        assert process.stdout is not None and process.stderr is not None
        return process, process.stdout, process.stderr

    try:
        result = follow(
            start_child, words, deadline=deadline, on_line=on_line, hint=hint, ok_codes=ok_codes, watch=watch
        )
    except CommandFailed:
        if failures:
            raise failures[0] from None
        raise
    if failures:
        raise failures[0]
    return result


def tied_argv(words: Sequence[str]) -> list[str]:
    """The argument list that runs `words` and ends with us. Raises HostError (tool-missing).

    A SIGKILL of goldsmith must not leave qemu-img or mmdebstrap behind: the child asks the kernel to die with the
    thread that started it.
    """
    program = find(words[0])
    if program is None:
        raise HostError(f"{words[0]} is not installed", name="tool-missing", hint="make setup installs it")
    setpriv = find("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []), program, *words[1:]]


def follow(
    start_child: Callable[[], tuple[Running, IO[bytes], IO[bytes]]],
    words: Sequence[str],
    *,
    deadline: float,
    on_line: Callable[[str], None] | None = None,
    hint: str | None = None,
    ok_codes: Sequence[int] = (0,),
    watch: Callable[[], None] | None = None,
) -> Result:
    """What `run` promises, of a child that `start_child` starts; it gives the child, its stdout and its stderr.

    `words` name the program in errors. The other parameters and the errors are those of `run`.
    """
    started = time.monotonic()
    process, stdout_pipe, stderr_pipe = start_child()

    def kill_all() -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)

    out, err = _Lines(stdout_pipe, on_line, kill_all), _Lines(stderr_pipe, on_line, kill_all)
    try:
        code = _wait(process, started + deadline, watch)
    except StillRunning:
        end(process)
        raise CommandTimeout(words, deadline) from None
    except BaseException:
        # an interrupt while we wait: the child must not outlive the build
        end(process)
        raise
    # a grandchild may hold the pipe open: the output of the child itself is there within the grace time
    stdout, stderr = out.close(GRACE), err.close(GRACE)
    if failure := out.failure or err.failure:
        raise failure
    if out.too_much or err.too_much:
        raise BuildError(
            f"{Path(words[0]).name} printed more than {LARGEST_OUTPUT >> 20} MiB and was stopped",
            name="output-too-large",
            hint="write the program's output to a file, or reduce it",
        )
    if code not in ok_codes:
        raise CommandFailed(words, code, stdout, stderr, hint)
    return Result(stdout, stderr, time.monotonic() - started, code)


def start(
    argv: Sequence[str | Path],
    log: Path,
    *,
    log_limit: int | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Start a program that runs until `end`; what it says goes to `log`. Raises HostError when it is missing.

    It is not tied to our death: that signal follows the thread that started it. Anyone who starts it sweeps. With
    `log_limit` no file that it writes grows beyond so many bytes; what it would say then is lost, and it runs on.
    It inherits the descriptors `pass_fds`, under the same numbers.
    """
    words = [str(word) for word in argv]
    program = find(words[0])
    if program is None:
        raise HostError(f"{words[0]} is not installed", name="tool-missing", hint="make setup installs it")
    limit = ["prlimit", f"--fsize={log_limit}", "--"] if log_limit is not None else []
    with log.open("ab") as out:
        return subprocess.Popen(
            [*limit, program, *words[1:]],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(env),
            umask=UMASK,
            start_new_session=True,
            pass_fds=pass_fds,
            # Python ignores SIGXFSZ, and so does the child then: a log that is full costs it a write, not its life
            restore_signals=log_limit is None,
        )


def open_child(
    argv: Sequence[str | Path], *, env: Mapping[str, str], pass_fds: Sequence[int] = (), stdout: int | None = None
) -> Child:
    """Start a program that talks to us by descriptors; `kill` ends it. stdout and stderr are pipes.

    `env` is all of its environment beside PATH. It is tied to the life of the thread that starts it.
    """
    setpriv = find("setpriv")
    wrap = [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []
    return subprocess.Popen(
        [*wrap, *(str(word) for word in argv)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env={"PATH": variables().get("PATH", os.defpath), "LC_ALL": "C.UTF-8", **env},
        umask=UMASK,
        start_new_session=True,
    )


def kill(process: Child) -> int:
    """End a child of `open_child` and all that it started, at once. Returns its code."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    return process.wait()


def _wait(process: Running, until: float, watch: Callable[[], None] | None) -> int:
    while True:
        left = until - time.monotonic()
        try:
            return process.wait(timeout=min(left, WATCH_EVERY) if watch else left)
        except StillRunning:
            if time.monotonic() >= until:
                raise
            if watch:
                watch()


def end(process: Running) -> None:
    """End a child's whole session: SIGTERM, then SIGKILL after GRACE seconds. The child is reaped."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(StillRunning):
            process.wait(timeout=GRACE)
            if number == signal.SIGTERM:
                # grandchildren that ignored SIGTERM
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
            return


def kill_children(process: Child) -> None:
    """Kill a child's own children, and let the child end of that. It stays to be ended where it does not."""
    with contextlib.suppress(OSError):
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
