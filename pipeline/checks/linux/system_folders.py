"""Modes and owners of the folders that every user of a Linux goes through."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.checks.model import CannotLook, Subject, check

#: (bits that must be set, bits that must not be, the mode that the remedy gives). Fedora has 0555 for Debian's 0755.
_OPEN = (0o555, 0o022, 0o755)
_TEMPORARY = (0o1777, 0o000, 0o1777)
_PRIVATE = (0o500, 0o027, 0o700)
#: Ubuntu's is the group syslog's to write, other systems' for nobody else to list.
_LOGS = (0o511, 0o002, 0o755)
_FOLDERS = {
    **dict.fromkeys(("/", "/etc", "/usr", "/usr/bin", "/usr/sbin", "/usr/lib", "/usr/share", "/opt"), _OPEN),
    **dict.fromkeys(("/bin", "/sbin", "/lib", "/lib64", "/boot", "/srv", "/var", "/var/lib"), _OPEN),
    **dict.fromkeys(("/home", "/var/cache"), (0o511, 0o022, 0o755)),
    "/var/log": _LOGS,
    "/root": _PRIVATE,
    "/tmp": _TEMPORARY,  # noqa: S108  a guest's
    "/var/tmp": _TEMPORARY,  # noqa: S108  a guest's
}
#: Folders that a system may keep from its users.
_MAY_BE_CLOSED = frozenset({"/boot", "/srv", "/opt"})


@check(
    "system-folders",
    "System folders have their usual modes and belong to root",
    why="A copy of files that were created with umask 077 may leave /etc at 0700 or /tmp without its "
    "sticky bit. Then services with their own users do not start, or every user can delete the files of others.",
    remedy="chmod 0755 the folder (1777 /tmp and /var/tmp, 0700 /root); chown root:root it.",
    source="file-hierarchy(7); Debian's base-files",
)
def system_folders(subject: Subject) -> Iterator[str]:
    looked = []
    for path, (needed, forbidden, usual) in _FOLDERS.items():
        facts = subject.root.stat(path, follow=False)
        # where /bin is a link, /usr/bin is looked at
        if facts is None or facts.type != "dir" or _is_in_memory(subject, path):
            continue
        looked.append(f"{path} {facts.mode:04o}")
        least = 0o500 if path in _MAY_BE_CLOSED else needed
        if facts.mode & least != least or facts.mode & forbidden:
            yield f"{path} has mode {facts.mode:04o}, usual is {usual:04o}: chmod {usual:04o} {path}"
        if facts.uid != 0:
            yield f"{path} belongs to user {facts.uid}: chown root:root {path}"
    if missing := [path for path in ("/etc", "/usr", "/var") if not subject.root.is_dir(path)]:
        raise CannotLook(f"no {', '.join(missing)}")
    subject.note(", ".join(looked))


def _is_in_memory(subject: Subject, path: str) -> bool:
    """Whether fstab puts a tmpfs over the folder: its own mode is then nobody's."""
    words = (line.split() for line in subject.lines("/etc/fstab"))
    return any(len(each) > 2 and each[1].rstrip("/") == path and each[2] == "tmpfs" for each in words)
