"""The command line's frame: signals become exceptions, errors become exit codes. The only place that exits."""

from __future__ import annotations

import contextlib
import locale
import os
import signal
import sys
from types import FrameType

from pipeline.errors import GoldsmithError, HostError, Interrupted


def _interrupt(number: int, _frame: FrameType | None) -> None:
    # a second signal must not break the clean-up that the first one started
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> None:
    """Run the command line and exit with the code that its outcome has (see pipeline.errors)."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from pipeline import __version__

        print(f"goldsmith {__version__}")
        return
    _leave_the_callers_settings()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    from pipeline.cli.door import guard_output

    guard_output()
    code = _guarded()
    sys.stdout.flush()
    sys.stderr.flush()
    # threads of a broken-off proof and libvirt's event loop must not delay the end; all clean-up is done
    os._exit(code)


def _leave_the_callers_settings() -> None:
    """Set what an image or a key must not take from the caller: the file mode mask, and the encoding of text.

    Python chooses the encoding of file names once, at its start: where the caller's locale is not UTF-8, goldsmith is
    started again in UTF-8 mode.
    """
    from pipeline.command import UMASK

    os.umask(UMASK)
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606
    # text of files without an encoding of its own is read by the locale, also where file names are UTF-8
    with contextlib.suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "C.UTF-8")


def _guarded() -> int:
    from pipeline.cli.app import app
    from pipeline.cli.show import print_error

    try:
        result = app(standalone_mode=False)
    except GoldsmithError as error:
        print_error(error)
        return error.exit_code
    except BrokenPipeError:
        return 141
    except OSError as error:
        # what no part of goldsmith has foreseen of the host's files: named all the same
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        print_error(HostError(what, name="host-file-error", hint="is there space, and may you read and write it?"))
        return HostError.exit_code
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 2
    except Exception as error:
        return _click_error(error)
    return result if isinstance(result, int) else 0


def _click_error(error: Exception) -> int:
    """Usage errors of the command line parser; anything else is a fault of goldsmith and shows its traceback."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
        return 2
    if type(error).__name__ == "Abort":
        return 130
    raise error


if __name__ == "__main__":
    main()
