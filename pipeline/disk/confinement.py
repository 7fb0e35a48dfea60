"""Giving up rights for good: namespaces, an empty root, landlock, capabilities, resource limits, a seccomp filter.

Every function works on the process that calls it, with or without root. Numbers are from the kernel's headers
(linux/sched.h, linux/mount.h, linux/prctl.h, linux/capability.h, linux/landlock.h, linux/seccomp.h).

The seccomp filter is the floor: without it nothing is read. Namespaces and landlock come on top where the kernel
grants them; `Applied` says which did.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import stat
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: The user that no file belongs to.
NOBODY = 65534
_CLONE = {
    "mount": 0x00020000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "network": 0x40000000,
}
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE, _MNT_DETACH = 4096, 16384, 1 << 18, 2
_PDEATHSIG, _SET_KEEPCAPS, _NO_NEW_PRIVILEGES, _CAPBSET_DROP, _CAP_AMBIENT = 1, 8, 38, 24, 47
_AMBIENT_RAISE, _CAP_LAST = 2, 63
_CAP_DAC_OVERRIDE, _CAP_DAC_READ_SEARCH, _CAP_SETGID, _CAP_SETUID = 1, 2, 6, 7
_CAPABILITY_VERSION = 0x20080522
#: Landlock's own system calls have the same numbers on every architecture.
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
#: Rights over files by landlock's version: v1 has 13, v2 adds refer, v3 truncate, v5 ioctl on devices.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = 1, 2, 4, 8, 1 << 14
_NETWORK_RIGHTS, _SCOPES = 3, 3
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
#: SCMP_CMP_MASKED_EQ of libseccomp: argument & first == second.
_MASKED_EQ = 7


class ConfinementError(OSError):
    """What must hold could not be applied."""


@dataclass
class Applied:
    """What holds of the calling process; `missing` names what the kernel refused, and why."""

    namespaces: set[str] = field(default_factory=set)
    landlock: int = 0
    seccomp: bool = False
    missing: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        return {
            "namespaces": sorted(self.namespaces),
            "landlock": self.landlock,
            "seccomp": self.seccomp,
            "missing": self.missing,
        }


@dataclass(frozen=True)
class Limits:
    """What a process may use: bytes of memory beside what it has already, seconds of processor, bytes of one file."""

    memory: int
    cpu_seconds: int
    file_size: int
    open_files: int = 256


_libc = ctypes.CDLL(None, use_errno=True)


def _call(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise ConfinementError(number, f"{what}: {os.strerror(number)}")


def die_with_parent() -> None:
    """SIGKILL when the thread that started this process ends; a change of user takes it away again."""
    _libc.prctl(_PDEATHSIG, 9, 0, 0, 0)


def leave_namespaces(applied: Applied) -> None:
    """Namespaces of our own, as far as the kernel gives them; the one of processes begins with the next fork."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        try:
            _call(_libc.unshare(_CLONE["user"]), "user namespace")
            applied.namespaces.add("user")
            # tmpfs needs an owner that this namespace knows
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
            Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")
        except OSError as error:
            applied.missing["user"] = error.strerror or str(error)
    for name in ("mount", "network", "ipc", "uts", "pid"):
        try:
            _call(_libc.unshare(_CLONE[name]), name)
            applied.namespaces.add(name)
        except OSError as error:
            applied.missing[name] = error.strerror or str(error)


def _mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if word is None else os.fsencode(word) for word in (source, target, kind, data)]
    result = _libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3])
    _call(result, f"mount {target}")


def change_root(applied: Applied, *, visible: Sequence[Path] = (), writable: Sequence[Path] = ()) -> None:
    """A root of its own that has only `visible` (read-only) and `writable`, each at its own path; else nothing.

    Links are followed before. Records why not, where the kernel refuses.
    """
    if "mount" not in applied.namespaces:
        return
    # opened before: what is below the place of the new root is hidden from then on
    sources = [(path, os.open(path, os.O_PATH | os.O_CLOEXEC)) for path in (*visible, *writable) if path.exists()]
    try:
        _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
        base, room = "/tmp", "size=1m,nr_inodes=4096,mode=755"  # noqa: S108  hidden below the new root
        _mount("tmpfs", base, "tmpfs", _MS_NOSUID | _MS_NODEV, room)
        for path, fd in sources:
            _bind(base, path, fd, 0 if path in writable else _MS_RDONLY)
        _mount("none", base, None, _MS_REMOUNT | _MS_RDONLY | _MS_NOSUID | _MS_NODEV, room)
        os.chdir(base)
        _call(_libc.syscall(_PIVOT_ROOT, b".", b"."), "pivot_root")
        _call(_libc.umount2(b".", _MNT_DETACH), "umount")
        os.chdir("/")
        applied.namespaces.add("root")
    except OSError as error:
        applied.missing["root"] = error.strerror or str(error)
    finally:
        for _, fd in sources:
            os.close(fd)


#: pivot_root has no wrapper in the C library: the number by architecture (asm/unistd.h).
_PIVOT_ROOT = {"x86_64": 155}.get(os.uname().machine, 41)


def _bind(base: str, path: Path, fd: int, flags: int) -> None:
    real = str(Path(f"/proc/self/fd/{fd}").readlink())
    point = Path(f"{base}{real}")
    if not point.exists():
        point.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            point.mkdir()
        else:
            point.touch()
    name = Path(f"{base}{path}")
    if str(path) != real and not os.path.lexists(name):
        # a name that leads there by links stays a name
        name.parent.mkdir(parents=True, exist_ok=True)
        name.symlink_to(real)
    _mount(f"/proc/self/fd/{fd}", str(point), None, _MS_BIND)
    kept = os.statvfs(point).f_flag & (os.ST_NODEV | os.ST_NOEXEC | os.ST_NOSUID)
    # disks may be block devices
    nodev = _MS_NODEV if stat.S_ISDIR(os.fstat(fd).st_mode) or stat.S_ISREG(os.fstat(fd).st_mode) else 0
    with contextlib.suppress(ConfinementError):
        # a user's namespace may not loosen flags of the mount above: what is bound stays bound
        _mount("none", str(point), None, _MS_BIND | _MS_REMOUNT | flags | _MS_NOSUID | nodev | kept)


def become_nobody(*, keep_reading: bool = False) -> None:
    """No user, no groups, no capabilities; `keep_reading` leaves a root the right to read any file that it sees."""
    _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    root = os.geteuid() == 0
    had = _permitted()
    # a container's root may have the one and not the other, or neither: then it reads as root, whose the files are
    reading = [number for number in (_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE) if had >> number & 1][:1]
    kept = sum(1 << number for number in reading) if keep_reading and root else 0
    for number in range(_CAP_LAST + 1):
        if not kept >> number & 1:
            _libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    may_change = had >> _CAP_SETUID & 1 and had >> _CAP_SETGID & 1
    if root and may_change and (kept or not keep_reading):
        _libc.prctl(_SET_KEEPCAPS, 1 if kept else 0, 0, 0, 0)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    sets = struct.pack("=6I", kept, kept, kept, 0, 0, 0)
    _call(_libc.capset(header, sets), "capset")
    for number in reading if kept else ():
        _libc.prctl(_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0)
    die_with_parent()


def become_user(uid: int, gid: int) -> None:
    """Become another user for good, from root: no group but its own, no capability, and no way to gain one."""
    _call(_libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    for number in range(_CAP_LAST + 1):
        _libc.prctl(_CAPBSET_DROP, number, 0, 0, 0)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    _call(_libc.capset(header, struct.pack("=6I", 0, 0, 0, 0, 0, 0)), "capset")


def _permitted() -> int:
    """The capabilities that the process may use, as bits."""
    sets = ctypes.create_string_buffer(24)
    _call(_libc.capget(struct.pack("=Ii", _CAPABILITY_VERSION, 0), sets), "capget")
    _, low, _, _, high, _ = struct.unpack("=6I", sets.raw)
    return int(low | high << 32)


def restrict_files(applied: Applied, *, visible: Sequence[Path] = (), writable: Sequence[Path] = ()) -> None:
    """Landlock: nothing on any file system but reading `visible` and writing `writable`; no TCP."""
    version = _libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)
    if version <= 0:
        applied.missing["landlock"] = os.strerror(ctypes.get_errno())
        return
    rights = _FILE_RIGHTS[min(version, max(_FILE_RIGHTS))]
    attributes = [rights, _NETWORK_RIGHTS if version >= 4 else None, _SCOPES if version >= 6 else None]
    known = [each for each in attributes if each is not None]
    packed = struct.pack(f"={len(known)}Q", *known)
    ruleset = _libc.syscall(_LANDLOCK_CREATE, packed, ctypes.c_size_t(len(packed)), 0)
    if ruleset < 0:
        applied.missing["landlock"] = os.strerror(ctypes.get_errno())
        return
    try:
        for path in visible:
            allowed = _READ_FILE | _EXECUTE | (_READ_DIR if path.is_dir() else 0)
            _allow_beneath(ruleset, path, allowed & rights)
        for path in writable:
            _allow_beneath(ruleset, path, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & rights)
        if _libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0:
            applied.landlock = version
        else:
            applied.missing["landlock"] = os.strerror(ctypes.get_errno())
    finally:
        os.close(ruleset)


def _allow_beneath(ruleset: int, path: Path, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        rule = struct.pack("=Qi", rights, fd)
        _call(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock {path}")
    finally:
        os.close(fd)


def limit_resources(limits: Limits, *, processes: int | None = 0) -> None:
    """Soft and hard limits alike. `processes` None leaves the number of processes of this user alone."""
    data = _own_data() + limits.memory
    wanted = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_CPU: limits.cpu_seconds,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    if processes is not None:
        wanted[resource.RLIMIT_NPROC] = processes
    for what, limit in wanted.items():
        _, hard = resource.getrlimit(what)
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (value, value))


def _own_data() -> int:
    """Bytes of writable memory that the process has already (VmData)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 64 << 20


class _Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@dataclass(frozen=True)
class Rule:
    """A system call by name, with conditions (argument number, mask, value) that must all hold; none: always."""

    name: str
    conditions: tuple[tuple[int, int, int], ...] = ()


_PROT_EXEC, _MAP_ANONYMOUS, _AT_EMPTY_PATH = 4, 0x20, 0x1000
_READER = """
read readv pread64 preadv preadv2 write writev lseek close fstat recvmsg sendmsg brk munmap mremap madvise futex
set_robust_list rseq membarrier sched_yield restart_syscall rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
exit exit_group clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time getrandom getpid gettid
getppid getuid geteuid getgid getegid getrusage uname sched_getaffinity ppoll poll
"""
_REFUSED = """
socket socketpair connect bind listen accept accept4 sendto ptrace process_vm_readv process_vm_writev
process_madvise pidfd_open pidfd_getfd pidfd_send_signal kcmp mount umount2 pivot_root chroot setns unshare
fsopen fsmount fsconfig fspick move_mount open_tree mount_setattr open_by_handle_at name_to_handle_at bpf
perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register keyctl add_key request_key
kexec_load kexec_file_load init_module finit_module delete_module reboot swapon swapoff acct quotactl syslog
iopl ioperm modify_ldt personality setuid setgid setreuid setregid setresuid setresgid setgroups capset mknod
mknodat symlink symlinkat link linkat chmod fchmodat chown fchownat lchown settimeofday clock_settime
clock_adjtime adjtimex sethostname setdomainname vhangup lookup_dcookie nfsservctl memfd_secret fanotify_init
inotify_init inotify_init1 shmget shmat msgget semget mq_open
"""
#: What a reader needs once everything is open and loaded: memory, bytes of descriptors, its own socket, time.
READER_CALLS: tuple[Rule, ...] = (
    *map(
        Rule,
        _READER.split(),
    ),
    # over a socket that is connected, to no other address
    Rule("sendto", ((4, 0xFFFFFFFFFFFFFFFF, 0),)),
    Rule("recvfrom"),
    # memory of its own, never a file's, never code
    Rule("mmap", ((2, _PROT_EXEC, 0), (3, _MAP_ANONYMOUS, _MAP_ANONYMOUS))),
    Rule("mprotect", ((2, _PROT_EXEC, 0),)),
    # fstat of newer C libraries: of a descriptor, not of a name
    Rule("newfstatat", ((3, _AT_EMPTY_PATH, _AT_EMPTY_PATH),)),
    # F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
    *(Rule("fcntl", ((1, 0xFFFFFFFF, command),)) for command in (1, 2, 3, 1030)),
    # FIOCLEX, by which Python closes a file on exec
    Rule("ioctl", ((1, 0xFFFFFFFF, 0x5451),)),
    # asking for limits, not setting them
    Rule("prlimit64", ((2, 0xFFFFFFFFFFFFFFFF, 0),)),
)
#: What a tool such as qemu-img never needs; everything else it may, in a namespace that shows it nothing.
TOOL_REFUSALS: tuple[str, ...] = tuple(_REFUSED.split())


def filter_calls(applied: Applied, *, allowed: Iterable[Rule] = (), refused: Iterable[str] = ()) -> None:
    """Load a seccomp filter: only `allowed`, or with `refused` everything else. What is refused gets EPERM.

    Raises ConfinementError where there is no libseccomp or the kernel refuses.
    """
    library = load_seccomp()
    deny = _ERRNO | errno.EPERM
    rules = list(allowed)
    context = library.seccomp_init(ctypes.c_uint32(deny if rules else _ALLOW))
    if not context:
        raise ConfinementError(errno.ENOMEM, "seccomp_init")
    try:
        for rule in rules or [Rule(name) for name in refused]:
            number = library.seccomp_syscall_resolve_name(rule.name.encode())
            # -1: this architecture or this libseccomp has no call of that name; below: it is made by another one
            if number < 0:
                continue
            conditions = (_Comparison * max(1, len(rule.conditions)))(
                *(_Comparison(argument, _MASKED_EQ, mask, value) for argument, mask, value in rule.conditions)
            )
            action = ctypes.c_uint32(_ALLOW if rules else deny)
            result = library.seccomp_rule_add_array(context, action, number, len(rule.conditions), conditions)
            if result < 0:
                raise ConfinementError(-result, f"seccomp rule {rule.name}: {os.strerror(-result)}")
        result = library.seccomp_load(context)
        if result < 0:
            raise ConfinementError(-result, f"seccomp_load: {os.strerror(-result)}")
    finally:
        library.seccomp_release(context)
    applied.seccomp = True


def load_seccomp() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise ConfinementError(errno.ENOENT, f"libseccomp.so.2: {error}") from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_rule_add_array.argtypes = [
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    ]
    library.seccomp_load.argtypes = library.seccomp_release.argtypes = [ctypes.c_void_p]
    return library
