"""The command line's frame: signals become exceptions, errors become exit codes. The only place that exits."""

from __future__ import annotations

import contextlib
import gc
import locale
import os
import signal
import sys
from types import FrameType

from pipeline.base.errors import GoldsmithError, Interrupted

#: Each of these ends a command in order; a second one must not break the clean-up that the first one started.
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
#: Objects made since the last search for garbage that start another one; Python's own value is 700. Most of what a
#: command makes are modules and models, which stay: a short command ends before the first search, of 11 ms.
_GARBAGE_THRESHOLD = 200_000
#: What a shell reports of a program that wrote to a pipe without a reader.
_NO_READER = 128 + signal.SIGPIPE


def _interrupt(number: int, _frame: FrameType | None) -> None:
    from pipeline.cli import door

    _ignore_signals()
    raise Interrupted(signal.SIGPIPE if door.reader_is_gone() else number)


def _ignore_signals() -> None:
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)


def main() -> None:
    """Run the command line and exit with the code that its outcome has (see pipeline.base.errors)."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from pipeline import __version__

        print(f"goldsmith {__version__}")
        return
    gc.set_threshold(_GARBAGE_THRESHOLD)
    # goldsmith has no plugins of pydantic: the search reads the metadata of each package that is installed
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"
    _leave_the_callers_settings()
    from pipeline.cli.door import guard_output

    guard_output()
    for number in _ENDING:
        signal.signal(number, _interrupt)
    code = _run()
    # threads of a broken-off proof and libvirt's event loop must not delay the end; all clean-up is done
    os._exit(code)


def _leave_the_callers_settings() -> None:
    """Set what an image or a key must not take from the caller: the file mode mask, and the encoding of text.

    Python chooses the encoding of file names once, at its start: where the caller's locale is not UTF-8, goldsmith is
    started again in UTF-8 mode.
    """
    from pipeline.base.process import UMASK

    os.umask(UMASK)
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    # text of files without an encoding of its own is read by the locale, also where file names are UTF-8
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _run() -> int:
    from pipeline.cli import door

    try:
        code = _guarded()
    except Interrupted as error:
        code = error.exit_code  # it came behind the end of the verb, or while an error was printed
    _ignore_signals()
    flushed = _flush_output()
    code = code or flushed
    return _NO_READER if door.reader_is_gone() and code == 0 else code


def _flush_output() -> int:
    """Flush the printed output to its reader; returns 0, or the exit code of the error that it caused."""
    from pipeline.cli.show import print_error

    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except GoldsmithError as error:
        print_error(error)
        return error.exit_code
    return 0


def _guarded() -> int:
    from pipeline.base.file_errors import describe_os_error
    from pipeline.cli import door
    from pipeline.cli.app import app
    from pipeline.cli.completion import VARIABLE, enable_completion
    from pipeline.cli.environment import hand_in_environment

    hand_in_environment()
    if VARIABLE in os.environ:
        enable_completion()
    try:
        result = app(standalone_mode=False, prog_name="goldsmith")
    except GoldsmithError as error:
        if not door.reader_is_gone():
            _report(error)
        return error.exit_code
    except OSError as error:
        # what no part of goldsmith has foreseen of the host's files: named all the same
        named = describe_os_error(error)
        _report(named)
        return named.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except Exception as error:
        return _usage_error(error)
    return result if isinstance(result, int) else 0


def _report(error: GoldsmithError) -> None:
    """Print an error on stderr, and as the last event if the command has --events."""
    from pipeline.cli import events
    from pipeline.cli.show import print_error

    if (stream := events.current()) is not None:
        stream.error(error)
    print_error(error)


def _usage_error(error: Exception) -> int:
    """Usage errors of the command line parser; anything else is a fault of goldsmith and shows its traceback."""
    from pipeline.cli.usage import describe_usage_error

    if type(error).__name__ == "NoArgsIsHelpError":
        print(error.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
        return 2
    if (named := describe_usage_error(error)) is not None:
        _report(named)
        return named.exit_code
    if type(error).__name__ == "Abort":
        return 130
    raise error


if __name__ == "__main__":
    main()
