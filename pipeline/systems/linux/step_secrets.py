"""Secrets in a Linux guest while one step runs: files in memory that is never written to a disk."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pipeline.base.errors import GoldsmithError, GuestError

if TYPE_CHECKING:
    from pipeline.systems.linux.session import GuestSession

#: Where a step finds its secrets: a file of the secret's name, 0400, root's.
FOLDER = "/run/goldsmith-secrets"
#: The variable that names it, and where Ansible puts its modules meanwhile: a module may have a secret in it.
VARIABLE, REMOTE_TMP = "GOLDSMITH_SECRETS", "/dev/shm/goldsmith-ansible"  # noqa: S108  in the guest

# ramfs: unlike tmpfs it is never swapped out (kernel, Documentation/filesystems/ramfs-rootfs-initramfs.rst)
_OPEN = f"set -e; mkdir -p -m 700 {FOLDER}; mount -t ramfs -o mode=700,nosuid,nodev,noexec goldsmith {FOLDER}"
_WRITE = f'set -e; umask 377; cat >"{FOLDER}/$1"'
_CLOSE = f"""
rm -rf {REMOTE_TMP}
! grep -q ' {FOLDER} ramfs ' /proc/mounts || umount {FOLDER} || umount -l {FOLDER}
! [ -d {FOLDER} ] || rmdir {FOLDER}
"""


@contextlib.contextmanager
def step_secrets(session: GuestSession, values: Mapping[str, bytes]) -> Iterator[Mapping[str, str]]:
    """Write secrets into files for one step, and remove them behind it. Yields the step's variables.

    Raises GuestError (secret-not-written, secret-not-removed).
    """
    if not values:
        yield {}
        return
    _run(session, ["/bin/sh", "-c", _OPEN], b"")
    try:
        for name, value in values.items():
            _run(session, ["/bin/sh", "-c", _WRITE, "sh", name], value)
        yield {VARIABLE: FOLDER}
    except BaseException:
        # the step's own failure is what is told; a guest that is lost has lost its memory too
        with contextlib.suppress(GoldsmithError):
            _close(session)
        raise
    _close(session)


def _run(session: GuestSession, argv: list[str], data: bytes) -> None:
    done = session.agent.execute(argv, stdin=data, deadline=session.timeouts.command, check=session.machine.check)
    if done.code != 0:
        raise GuestError(
            f"the guest could not keep a secret in memory: {done.stderr.strip()}",
            name="secret-not-written",
            hint=f"a step must leave {FOLDER} and `mount -t ramfs` to goldsmith; check what an earlier step did",
        )


def _close(session: GuestSession) -> None:
    done = session.agent.execute(
        ["/bin/sh", "-c", _CLOSE], deadline=session.timeouts.command, check=session.machine.check
    )
    if done.code != 0:
        raise GuestError(
            f"the step's secrets could not be removed from the guest's memory: {done.stderr.strip()}",
            name="secret-not-removed",
            hint=f"a process that the step left behind may use {FOLDER}: let the step end it",
        )
