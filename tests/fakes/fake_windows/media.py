"""The stand-in's media: laid out as Windows' and virtio-win's are, and NOT WINDOWS."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.fakes.fake_hive import Raw, build
from tests.fakes.fake_windows.parts import Parts
from tests.fakes.fake_windows_disk import PORT_NAME, Model

GUEST = Path(__file__).with_name("guest")
HIVES = Path(__file__).parents[1] / "fake_hive.py"
#: Two editions, described as Microsoft describes those of a volume medium: one id, two types.
IMAGES = {
    "Windows Server 2022 SERVERSTANDARDCORE": ("ServerStandard", "Server Core"),
    "Windows Server 2022 SERVERSTANDARD": ("ServerStandard", "Server"),
}
RELEASE = "2k22"
DRIVERS = ("viostor", "vioscsi", "NetKVM", "vioserial", "Balloon")
_PROMPT = """\
serial --unit=0 --speed=115200
terminal_output console serial
echo "NOT WINDOWS (a stand-in for tests)"
echo "Press any key to boot from CD or DVD......"
set timeout_style=countdown
set timeout={seconds}
set default=0
menuentry "no key was pressed" {{ exit }}
menuentry "setup" --hotkey="{key}" {{
  linux /standin/vmlinuz console=tty0 console=ttyS0 quiet
  initrd /standin/initrd
}}
"""
_AT_ONCE = """\
serial --unit=0 --speed=115200
terminal_output console serial
linux /standin/vmlinuz console=tty0 console=ttyS0 quiet
initrd /standin/initrd
boot
"""


def run(*words: object, **options: Any) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True, **options)


def encoded(tree: dict[str, Any]) -> dict[str, Any]:
    """A hive's tree as JSON."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            found[name] = encoded(value)
        elif isinstance(value, bytes):
            found[name] = {"\0bytes": base64.b64encode(value).decode()}
        elif isinstance(value, Raw):
            found[name] = {"\0raw": [value.kind, base64.b64encode(value.data).decode()]}
        else:
            found[name] = value
    return found


def image(folder: Path) -> Path:
    """install.wim: a tree as a generalized Windows has it, with two names."""
    model, tree = Model(), folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for name, data in model.files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    # what an image's definition opens is for its build to open
    for control in (1, 2):
        del model.control(control)["Services"]["SharedAccess"]["Parameters"]["FirewallPolicy"]["FirewallRules"][
            PORT_NAME
        ]
    config = tree / "Windows/System32/config"
    config.mkdir(parents=True)
    for name, keys in model.hives.items():
        (config / name).write_bytes(build(keys, name))
    (tree / "Windows/Temp").mkdir()
    (tree / "Windows/System32/WindowsPowerShell/v1.0").mkdir(parents=True)
    (tree / "NOT-WINDOWS").mkdir()
    hives = {name: encoded(keys) for name, keys in model.hives.items()}
    (tree / "NOT-WINDOWS/hives.json").write_text(json.dumps(hives))
    target = folder / "install.wim"
    target.unlink(missing_ok=True)
    for number, (name, (edition, kind)) in enumerate(IMAGES.items(), 1):
        how = "append" if target.exists() else "capture"
        run("wimlib-imagex", how, tree, target, name, *(["--compress=none"] if number == 1 else []))
        properties_of_image = {"ARCH": 9, "EDITIONID": edition, "INSTALLATIONTYPE": kind, "VERSION/BUILD": 20348,
                "LANGUAGES/LANGUAGE": "en-US"}  # fmt: skip
        run(
            "wimlib-imagex",
            "info",
            target,
            number,
            *(f"--image-property=WINDOWS/{k}={v}" for k, v in properties_of_image.items()),
        )
    return target


def installation(
    parts: Parts, initrd: Path, folder: Path, *, prompts: bool = False, answers_key: bool = True
) -> Path:
    """An installation ISO that starts by UEFI (signed) and by BIOS.

    `prompts`: it has no loader that starts without a key. `answers_key`: the space bar is the key.
    """
    medium = folder / "medium"
    shutil.rmtree(medium, ignore_errors=True)
    for name in ("sources", "boot/grub", "standin/efi", "EFI/microsoft/boot", "EFI/debian"):
        (medium / name).mkdir(parents=True)
    shutil.move(image(folder), medium / "sources/install.wim")
    (medium / "sources/boot.wim").write_bytes(b"MSWIM NOT WINDOWS")
    shutil.copy(parts.vmlinuz, medium / "standin/vmlinuz")
    shutil.copy(initrd, medium / "standin/initrd")
    shutil.copy(parts.shim, medium / "standin/efi/bootx64.efi")
    shutil.copy(parts.grub("grubx64.efi.signed"), medium / "standin/efi/grubx64.efi")
    bcd = Model().bcd
    assert bcd is not None
    (medium / "standin/BCD").write_bytes(build(bcd, "BCD"))
    key = " " if answers_key else "F12"
    (medium / "boot/grub/grub.cfg").write_text(_PROMPT.format(seconds=5, key=key))
    # Debian's GRUB for CDs looks for its configuration in boot/grub, the one for disks in EFI/debian
    (medium / "EFI/debian/grub.cfg").write_text(_AT_ONCE)
    _efi(parts, medium / "EFI/microsoft/boot/efisys.bin", "gcdx64.efi.signed")
    if not prompts:
        _efi(parts, medium / "EFI/microsoft/boot/efisys_noprompt.bin", "grubx64.efi.signed")
    _bios(medium, folder)
    target = folder / "server.iso"
    run(
        *("genisoimage", "-udf", "-iso-level", "3", "-J", "-R", "-V", "SSS_X64FRE_NOT_WINDOWS"),
        *("-b", "boot/etfsboot.com", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table"),
        *("-eltorito-alt-boot", "-e", "EFI/microsoft/boot/efisys.bin", "-no-emul-boot"),
        *("-allow-limited-size", "-o", target, medium),
    )
    shutil.rmtree(medium)
    return target


def _efi(parts: Parts, target: Path, grub: str) -> None:
    """The FAT image that UEFI starts: shim, and one of Debian's signed GRUBs."""
    with target.open("wb") as file:
        file.truncate(8 << 20)
    run("mkfs.fat", "-n", "EFISYS", target)
    run("mmd", "-i", target, "::EFI", "::EFI/BOOT")
    run("mcopy", "-i", target, parts.shim, "::EFI/BOOT/BOOTX64.EFI")
    run("mcopy", "-i", target, parts.grub(grub), "::EFI/BOOT/grubx64.efi")


def _bios(medium: Path, folder: Path) -> None:
    """GRUB for BIOS: the CD's own (etfsboot.com by name), and what Setup writes into an MBR disk's first megabyte."""
    modules = Path("/usr/lib/grub/i386-pc")
    shared = ["biosdisk", "part_msdos", "search", "search_fs_file", "linux", "normal", "echo", "test", "serial",
              "terminal", "minicmd", "configfile", "all_video", "boot", "reboot", "halt"]  # fmt: skip
    text = folder / "early.cfg"
    text.write_text("search --no-floppy --file --set=root /standin/vmlinuz\nset prefix=($root)/boot/grub\n")
    core = folder / "core.img"
    run("grub-mkimage", "-O", "i386-pc", "-d", modules, "-c", text, "-o", core, "-p", "/standin", *shared, "iso9660")
    (medium / "boot/etfsboot.com").write_bytes((modules / "cdboot.img").read_bytes() + core.read_bytes())
    text.write_text(
        "search --no-floppy --file --set=root /standin/vmlinuz\n"
        "linux /standin/vmlinuz console=tty0 console=ttyS0 quiet standin.stage=installed standin.c=2\n"
        "initrd /standin/initrd\nboot\n"
    )
    run("grub-mkimage", "-O", "i386-pc", "-d", modules, "-c", text, "-o", core, "-p", "/standin", *shared, "ntfs")
    shutil.copy(core, medium / "standin/core.img")
    shutil.copy(modules / "boot.img", medium / "standin/boot.img")


def drivers(folder: Path, *, whole: bool = True, agent: bytes = b"NOT AN AGENT, and NOT WINDOWS") -> Path:
    """virtio-win's medium. Not `whole`: its folder for disks has a driver of something else in it."""
    tree = folder / "virtio"
    shutil.rmtree(tree, ignore_errors=True)
    names: Sequence[str] = DRIVERS
    for name in names:
        place = tree / name / RELEASE / "amd64"
        place.mkdir(parents=True)
        inf = name.lower() if whole or name != "viostor" else "qxldod"
        (place / f"{inf}.inf").write_bytes(b'[Version]\r\nSignature="$WINDOWS NT$"\r\n; NOT WINDOWS\r\n')
    (tree / "guest-agent").mkdir()
    (tree / "guest-agent/qemu-ga-x86_64.msi").write_bytes(agent)
    target = folder / "virtio-win.iso"
    run("genisoimage", "-quiet", "-J", "-R", "-V", "virtio-win", "-o", target, tree)
    return target
