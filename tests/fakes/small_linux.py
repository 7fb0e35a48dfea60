"""A small Linux: Debian's own kernel and qemu-ga, busybox in place of everything else, all in an initramfs.

It asks for an address by DHCP, reads Azure's goal state, reports Ready, serves by HTTP /index.html and
/cgi-bin/reach?HOST, the page that it gets from another guest, answers its agent and goes off by it or by its power
button. It writes "small linux: up after ... s" on its serial port when it is up.
`init` beside this file is all that it does; the parts are those of the stand-in for Windows.
"""

from __future__ import annotations

import lzma
import shutil
import subprocess
from pathlib import Path

from pipeline.hypervisor.domain import Kernel
from tests.fakes.fake_windows.parts import Parts, copy_libraries, copy_modules, pack_initramfs

#: Kernel modules: paravirtual and plain cards, the agent's channel, the power button, disks on SCSI.
MODULES = ("virtio_pci", "virtio_console", "virtio_net", "e1000", "button", "evdev", "virtio_scsi", "sd_mod")
PAGE = "small linux\n"
#: What it writes on its serial port when it has done all that it does by itself.
UP = b"small linux: up after"
READY = b"small linux: Ready"
COMMAND_LINE = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check"
_INIT = Path(__file__).with_name("init")
#: Sets what the lease says; busybox' udhcpc calls it with the words in its environment.
_LEASE = """\
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/${mask:-24}" dev "$interface"
[ -z "$router" ] || ip route add default via "${router%% *}"
[ -z "$dns" ] || printf 'nameserver %s\\n' $dns >/etc/resolv.conf
"""
#: /cgi-bin/reach?HOST: the page that this guest gets from the address HOST, or from the host of that name.
_REACH = r"""#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
case "$QUERY_STRING" in
*[!0-9.]*) address=$(nslookup -type=a "$QUERY_STRING" | sed -n '/^Name:/,$s/^Address[^:]*: *//p' | head -n 1) ;;
*) address=$QUERY_STRING ;;
esac
[ -n "$address" ] || { echo "no address"; exit; }
echo "asked $address"
printf 'GET /index.html HTTP/1.0\r\n\r\n' | nc -w 5 "$address" 80 || echo "no answer"
"""
_POWER_OFF = "#!/bin/sh\nsync\npoweroff -f\n"
#: The agent calls it with -P, -r or -H.
_SHUTDOWN = '#!/bin/sh\nsync\ncase "$1" in -r) reboot -f ;; *) poweroff -f ;; esac\n'
_ELF, _XZ = b"\x7fELF", b"\xfd7zXZ\x00"


def make_small_linux(parts: Parts, folder: Path) -> Kernel:
    """The kernel and initramfs in `folder`, made in some seconds where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    kernel, initrd = folder / "vmlinux", folder / "initrd"
    if not initrd.exists():
        _unpack_kernel(parts.vmlinuz, kernel)
        _make_initramfs(parts, folder / "root", initrd)
    for path in (kernel, initrd):
        path.chmod(0o644)
    return Kernel(kernel, initrd, COMMAND_LINE)


def _unpack_kernel(packed: Path, target: Path) -> None:
    """The ELF file inside a bzImage: qemu starts it as it is, an emulated processor need not unpack it."""
    image = packed.read_bytes()
    data = lzma.LZMADecompressor().decompress(image[image.index(_XZ) :])
    assert data.startswith(_ELF), f"{packed} has no kernel in xz"
    target.write_bytes(data)


def _make_initramfs(parts: Parts, root: Path, target: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "dev", "proc", "sys", "run", "tmp", "etc/acpi/PWRF", "www/cgi-bin", "var/run", "var/log"):
        (root / name).mkdir(parents=True)
    (root / "usr").mkdir()
    for name in ("sbin", "usr/bin", "usr/sbin"):
        (root / name).symlink_to("/bin")
    busybox = next(path for path in (parts.root / "bin/busybox", parts.root / "usr/bin/busybox") if path.exists())
    shutil.copy(busybox, root / "bin/busybox")
    applets = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    for applet in sorted({*applets} - {"busybox", "shutdown"}):
        (root / "bin" / applet).symlink_to("busybox")
    agent = parts.root / "usr/sbin/qemu-ga"
    shutil.copy(agent, root / "bin/qemu-ga")
    copy_libraries(agent, root)
    copy_modules(parts, root, MODULES)
    shutil.copy(_INIT, root / "init")
    for name, text in {
        "bin/lease": _LEASE,
        "bin/shutdown": _SHUTDOWN,
        "etc/acpi/PWRF/00000080": _POWER_OFF,
        "init": _INIT.read_text(),
        "www/cgi-bin/reach": _REACH,
    }.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    (root / "www/index.html").write_text(PAGE)
    (root / "etc/os-release").write_text('NAME="small linux"\nID=small\nPRETTY_NAME="a guest for tests"\n')
    # not packed: an emulated processor would unpack it slower than it reads it
    target.write_bytes(pack_initramfs(root))
