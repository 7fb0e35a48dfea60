"""What the caller of a command gives it: variables, and the folders of this user and this host.

The command line looks at the environment once and hands it in; no other module looks for it. What is here belongs to
the whole process, as its working directory does: it reaches the modules that every other one stands on, those that
start child processes and make temporary files.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

DEFAULT_HOME = Path("/var/lib/goldsmith")


def user_home() -> Path:
    """This user's home folder by the user database: `sudo` and CI jobs set another HOME."""
    try:
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    except KeyError:  # a container may run us under a user id without a name
        return Path("/")


@dataclass(frozen=True)
class Places:
    """Where things land that belong to no store.

    `home` is the store's folder, which has a journal of temporary files; `state` is this user's own folder for one;
    `temporary` is where temporary files go.
    """

    home: Path = DEFAULT_HOME
    state: Path | None = None
    temporary: Path = Path("/tmp")  # noqa: S108

    @property
    def own_state(self) -> Path:
        return self.state or user_home() / ".local" / "state" / "goldsmith"


_environment: Mapping[str, str] = {}
_settings: dict[str, str] = {}
_find_places: Callable[[], Places] = Places
_guard: Callable[[Path], None] = lambda _path: None  # noqa: E731


def hand_in(environment: Mapping[str, str], find_places: Callable[[], Places]) -> None:
    """Say what the caller's variables and places are, for the rest of this process."""
    global _environment, _find_places
    _environment, _find_places = environment, find_places


def variables() -> Mapping[str, str]:
    """The caller's variables, for child processes and for steps that name some; none where nobody handed them in."""
    return _environment


def hand_in_settings(settings: Mapping[str, str]) -> None:
    """Say which parameters of definitions the command line sets, for the rest of this process."""
    _settings.clear()
    _settings.update(settings)


def settings() -> Mapping[str, str]:
    """The parameters of definitions that the command line sets, by name."""
    return _settings


def places() -> Places:
    """Where this process puts what belongs to no store."""
    return _find_places()


def hand_in_guard(guard: Callable[[Path], None]) -> None:
    """Say which existing files nothing may replace, for the rest of this process; `guard` raises UsageError."""
    global _guard  # noqa: PLW0603  it belongs to the whole process
    _guard = guard


def refuse_guarded(path: Path) -> None:
    """Raise what the guard raises for a file that exists, because a VM has it as its disk for example."""
    if path.is_file():
        _guard(path)
