"""The environment's variables that decide where things land; no module outside of the command line reads any."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.base import surroundings
from pipeline.base.errors import UsageError
from pipeline.base.store import DEFAULT_KEY, Host, Store
from pipeline.base.surroundings import DEFAULT_HOME, Places


def hand_in_environment() -> None:
    """Give the rest of goldsmith this process's variables and places."""
    surroundings.hand_in(os.environ, _places)


def locate_store() -> Store:
    """The store that GOLDSMITH_HOME names, by default /var/lib/goldsmith. Raises UsageError (store-missing)."""
    root = _home()
    if root.exists() and not root.is_dir():
        raise UsageError(
            f"the store {root} is not a folder", name="store-missing", hint="GOLDSMITH_HOME has to name a folder"
        )
    return Store(root, Host(facts=host_facts(), cache=_user_folder("XDG_CACHE_HOME", ".cache"), key=signing_key()))


def signing_key() -> Path:
    """The key that signs masters: GOLDSMITH_KEY, by default /etc/goldsmith/signing.key."""
    return Path(os.environ.get("GOLDSMITH_KEY") or DEFAULT_KEY).absolute()


def host_facts() -> Path:
    """Where facts of this host are kept until it boots again: root's on /run, a user's in their runtime folder.

    Not below /run/goldsmith, where a sweep removes what no run owns.
    """
    if os.geteuid() == 0:
        return Path("/run/goldsmith-host")
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "goldsmith-host"
    return _user_folder("XDG_CACHE_HOME", ".cache") / "host"


def _home() -> Path:
    return Path(os.environ.get("GOLDSMITH_HOME") or DEFAULT_HOME).absolute()


def _user_folder(variable: str, default: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / default) / "goldsmith"


def _places() -> Places:
    return Places(
        home=_home(),
        state=_user_folder("XDG_STATE_HOME", ".local/state"),
        temporary=Path(os.environ.get("TMPDIR") or Places.temporary),
    )
