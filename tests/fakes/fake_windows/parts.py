"""The stand-in's parts: Debian's packages, unpacked into a folder and installed nowhere; programs of this host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from pipeline.base.process import find
from tests.tools import skip_without

PACKAGES = ("shim-signed", "grub-efi-amd64-signed", "qemu-guest-agent", "busybox-static")
#: Programs of this host that go into the guest, with the libraries that they want.
PROGRAMS = ("/usr/bin/python3.11", "mkfs.ntfs", "ntfs-3g", "mkfs.fat", "sfdisk", "wimlib-imagex")
#: What the tests themselves call.
TOOLS = (
    "mkfs.ntfs",
    "mkfs.fat",
    "sfdisk",
    "wimlib-imagex",
    "genisoimage",
    "grub-mkimage",
    "zstd",
    "cpio",
    "mcopy",
    "depmod",
)
MODULES = (
    *("virtio_pci", "virtio_blk", "virtio_console", "virtio_net", "ahci", "ata_piix", "sr_mod", "isofs", "udf"),
    *(
        "vfat",
        "nls_ascii",
        "nls_cp437",
        "nls_utf8",
        "fuse",
        "efivarfs",
        "virtio_scsi",
        "sd_mod",
        "pvpanic_pci",
        "pvpanic_mmio",
        "tpm_crb",
    ),
)
#: Seconds for the packages to come.
DEADLINE = 600


@dataclass(frozen=True)
class Parts:
    """Unpacked packages: `root` holds their files, `kernel` is the release of the kernel among them."""

    root: Path
    kernel: str

    @property
    def vmlinuz(self) -> Path:
        return self.root / f"boot/vmlinuz-{self.kernel}"

    @property
    def shim(self) -> Path:
        return self.root / "usr/lib/shim/shimx64.efi.signed"

    def grub(self, name: str) -> Path:
        return self.root / "usr/lib/grub/x86_64-efi-signed" / name


def need_tools() -> None:
    skip_without(*TOOLS)


def gather(folder: Path) -> Parts:
    """The parts in `folder`, which processes may share; the host's apt fetches what is not there yet."""
    root = folder / "root"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not root.exists():
            fresh = folder / "root.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _download(folder)
            for package in sorted(folder.glob("*.deb")):
                subprocess.run(["dpkg-deb", "-x", package, fresh], check=True)
            _list_modules(fresh)
            fresh.rename(root)
    (kernel,) = (path.name for path in (root / "lib/modules").iterdir())
    return Parts(root, kernel)


def _list_modules(root: Path) -> None:
    """Write what each kernel module depends on, as the package's installation would."""
    (kernel,) = (path.name for path in (root / "lib/modules").iterdir())
    subprocess.run([find("depmod") or "depmod", "-b", root, kernel], check=True)


def _download(folder: Path) -> None:
    if not any(Path("/var/lib/apt/lists").glob("*Packages*")):
        subprocess.run(["apt-get", "-q", "update"], check=True, capture_output=True, timeout=DEADLINE)
    done = subprocess.run(["apt-cache", "depends", "linux-image-amd64"], check=True, capture_output=True, text=True)
    found = re.search(r"Depends: (linux-image-\S+)", done.stdout)
    assert found, done.stdout
    # apt would give the files to its own user, which may not write here
    words = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", found[1], *PACKAGES]
    subprocess.run(words, cwd=folder, check=True, capture_output=True, timeout=DEADLINE)


def initramfs(parts: Parts, guest: Path, extra: dict[str, Path], work: Path, target: Path) -> None:
    """The guest's whole system: its kernel's modules, programs, Python, and what `guest` holds."""
    root = work / "initramfs"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "mnt", "run", "tmp", "etc", "files", "standin", "var/run", "var/log"):
        (root / name).mkdir(parents=True)
    (root / "usr").mkdir()
    for name in ("sbin", "usr/bin", "usr/sbin"):
        (root / name).symlink_to("/bin")
    busybox = next(path for path in (parts.root / "bin/busybox", parts.root / "usr/bin/busybox") if path.exists())
    shutil.copy(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in applets:
        if applet not in ("busybox", "mkfs.vfat", "shutdown"):
            (root / "bin" / applet).symlink_to("busybox")
    programs = [Path(find(name) or name) for name in PROGRAMS]
    for program in [*programs, parts.root / "usr/sbin/qemu-ga"]:
        shutil.copy(program, root / "bin" / program.name)
        copy_libraries(program, root)
    (root / "bin/python3").symlink_to("python3.11")
    _python(root)
    copy_modules(parts, root, MODULES)
    for path in guest.iterdir():
        if path.is_file():
            shutil.copy(path, root / "standin" / path.name)
    for name, path in extra.items():
        shutil.copy(path, root / "standin" / name)
    (root / "init").symlink_to("standin/init")
    (root / "standin/init").chmod(0o755)
    (root / "etc/os-release").write_text(
        'NAME="NOT WINDOWS"\nID=mswindows\nVERSION_ID=2022\nVERSION="a stand-in for tests"\n'
        'PRETTY_NAME="NOT WINDOWS (a stand-in for tests)"\nVARIANT_ID=server\n'
    )
    subprocess.run(["zstd", "-q", "-f", "-10", "-o", target], input=pack_initramfs(root), check=True)


def pack_initramfs(root: Path) -> bytes:
    """A folder as a cpio archive in the form that kernels read."""
    listed = subprocess.run(["find", ".", "-print0"], cwd=root, check=True, capture_output=True).stdout
    return subprocess.run(
        ["cpio", "--null", "-o", "-H", "newc", "-R", "0:0", "--quiet"],
        cwd=root,
        input=listed,
        check=True,
        capture_output=True,
    ).stdout


def copy_libraries(program: Path, root: Path) -> None:
    """What the loader would load, at the same paths."""
    output = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    for found in re.findall(r"(/\S+\.so\S*)", output):
        target = root / found.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(os.path.realpath(found), target)


def _python(root: Path) -> None:
    """Python's library without what no guest needs."""
    source = Path("/usr/lib/python3.11")
    left_out = shutil.ignore_patterns(
        *("test", "tests", "idlelib", "tkinter", "lib2to3", "ensurepip", "distutils", "pydoc_data", "turtledemo"),
        *("__pycache__", "*.exe", "config-*", "asyncio", "multiprocessing", "sqlite3", "unittest", "dbm", "curses"),
        *("dist-packages", "ctypes", "email", "http", "urllib", "wsgiref", "xmlrpc", "venv", "concurrent"),
    )
    target = root / "usr/lib/python3.11"
    shutil.copytree(source, target, ignore=left_out, symlinks=False, ignore_dangling_symlinks=True)
    subprocess.run(["/usr/bin/python3.11", "-m", "compileall", "-q", "-b", target], check=False, capture_output=True)
    for path in target.rglob("*.py"):
        if path.with_suffix(".pyc").exists():
            path.unlink()


def copy_modules(parts: Parts, root: Path, names: Iterable[str]) -> None:
    """The modules that are asked for, and what they depend on."""
    above = parts.root / "lib/modules" / parts.kernel
    depends = {}
    for line in (above / "modules.dep").read_text().splitlines():
        path, _, needs = line.partition(":")
        depends[Path(path).name.partition(".")[0].replace("-", "_")] = [path, *needs.split()]
    target = root / "lib/modules" / parts.kernel
    for name in names:
        for path in depends.get(name, []):
            place = target / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.exists():
                shutil.copy(above / path, place)
    for path in above.glob("modules.*"):
        shutil.copy(path, target / path.name)
