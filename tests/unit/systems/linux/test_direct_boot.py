"""How a build guest is started by its own kernel, and how it is entered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.base.disk_format import QCOW2, RAW
from pipeline.cache.layers import Image
from pipeline.hypervisor.domain import Disk, Spec
from pipeline.systems.linux import boot_files, direct_boot, set_up_session, snapshots
from tests.fakes import fake_disk
from tests.tools import needs_tool

LINK = "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service"


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk with all that setting up the session needs."""
    folder = tmp_path_factory.mktemp("ready")
    disk = fake_disk.build(folder)
    for path in direct_boot.NEEDED:
        if path != LINK and path not in ("/usr/sbin/sshd", "/usr/lib/systemd/system/ssh.service"):
            fake_disk.put(disk, path, "x", folder)
    fake_disk.debugfs(disk, f"symlink {LINK} /lib/systemd/system/systemd-networkd.service")
    return disk


def find(disk: Path) -> set_up_session.DirectBoot | None:
    return set_up_session.find(Image(disk, RAW), disk.parent)


def test_the_disks_own_kernel_without_azures_delay(ready: Path) -> None:
    found = find(ready)
    assert found is not None
    assert found.kernel == b"MZ a kernel\n"
    assert found.initrd == boot_files.short(fake_disk.initramfs())
    assert found.command_line == (
        f"root=UUID={fake_disk.ROOT_UUID} ro console=tty1 console=ttyS0,115200n8 earlyprintk=ttyS0,115200"
        " rdinit=/direct-boot systemd.unit=basic.target cloud-init=disabled fsck.mode=skip systemd.show_status=error"
        " modprobe.blacklist=cfg80211"
    )


@needs_tool("cpio")
def test_the_initramfs_keeps_this_machines_drivers_and_the_long_way(tmp_path: Path) -> None:
    """Another reader unpacks it: cpio, where Debian's own tools made it from."""
    tree = tmp_path / "tree"
    lib = "usr/lib/modules/6.1/kernel"
    names = [
        "init", "usr/bin/mount", "usr/lib/modules/6.1/modules.dep", f"{lib}/drivers/block/virtio_blk.ko",
        f"{lib}/fs/ext4/ext4.ko.xz", f"{lib}/crypto/crc32c_generic.ko", f"{lib}/drivers/net/ethernet/big.ko",
        f"{lib}/fs/xfs/xfs.ko.zst",
    ]  # fmt: skip
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(f"{name}\n" * 7)
    listed = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = subprocess.run(
        ["cpio", "-o", "-H", "newc", "--quiet"], cwd=tree, input=listed.encode(), capture_output=True, check=True
    ).stdout
    made = boot_files.short(packed)
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run(["cpio", "-i", "-d", "--quiet"], cwd=out, input=made, check=True)
    kept = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert kept == {*names[:6], "direct-boot"}
    assert all((out / name).read_text() == f"{name}\n" * 7 for name in names[:6])
    # the kernel makes no folder by itself
    assert (out / lib / "fs/xfs").is_dir()
    assert (out / "direct-boot").stat().st_mode & 0o777 == 0o755
    subprocess.run(["sh", "-n", out / "direct-boot"], check=True)
    # a root on XFS needs its driver too
    assert names[7].encode() in boot_files.short(packed, ("/xfs/",)) and names[7].encode() not in made


@pytest.mark.parametrize("path", [*direct_boot.NEEDED, "/boot/grub/grub.cfg", f"/boot/vmlinuz-{fake_disk.KERNEL}"])
def test_a_disk_that_lacks_something_is_booted_whole(path: str, ready: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(ready, tmp_path / "disk.raw")
    fake_disk.debugfs(disk, f"rm {path}")
    assert find(disk) is None


def test_a_network_that_is_masked_is_left_to_the_whole_boot(ready: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(ready, tmp_path / "disk.raw")
    fake_disk.debugfs(disk, "symlink /etc/systemd/system/systemd-networkd.service /dev/null")
    assert find(disk) is None


def test_a_damaged_disk_is_left_to_the_whole_boot(ready: Path, tmp_path: Path) -> None:
    disk = fake_disk.copy(ready, tmp_path / "disk.raw")
    with disk.open("r+b") as file:
        file.write(bytes(1 << 20))
    assert find(disk) is None


CARDS = (
    set_up_session.Card("52:54:00:00:00:01", "52:54:00:aa:aa:01", outside=False),
    set_up_session.Card("52:54:00:00:00:02", None, outside=True),
)


def test_scripts_parse() -> None:
    for script in (
        set_up_session.grow_script(),
        set_up_session.forget_script(),
        set_up_session.set_up_script("ssh-ed25519 AAAA x'y", CARDS),
    ):
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_cards_are_set_up_by_the_name_that_their_address_finds(tmp_path: Path) -> None:
    """Run the network lines of the script against a likeness of /sys."""
    for name, address in {
        "ens3": "52:54:00:00:00:02",
        "ens29": "52:54:00:00:00:01",
        "lo": "00:00:00:00:00:00",
    }.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(address + "\n")
    script = set_up_session.set_up_script("key", CARDS)
    lines = [line for line in script.splitlines() if line.startswith(("card", "printf '[Match]"))]
    text = set_up_session.HEAD + "\n".join(lines)
    text = text.replace("/sys/class/net/", f"{tmp_path}/").replace("/etc/systemd/network/", f"{tmp_path}/")
    subprocess.run(["sh"], input=text, text=True, check=True)
    assert (tmp_path / "10-goldsmith-0.network").read_text() == (
        "[Match]\nName=ens29\n[Link]\nMACAddress=52:54:00:aa:aa:01\n[Network]\nDHCP=ipv4\n"
        "[DHCPv4]\nUseRoutes=no\nUseDNS=no\n"
    )
    assert (tmp_path / "10-goldsmith-1.network").read_text() == (
        "[Match]\nName=ens3\n[Link]\nRequiredForOnline=no\n[Network]\nDHCP=ipv4\n"
    )


def test_two_entries_have_nothing_in_common_that_is_drawn() -> None:
    first, second = (set_up_session.set_up_script("key", CARDS).splitlines() for _ in range(2))
    drawn = {a.partition("=")[0] for a, b in zip(first, second, strict=True) if a != b}
    assert {"seed", "machine"} <= drawn <= {"seed", "machine", "now"}


def test_addresses_are_drawn_in_qemus_range() -> None:
    assert set_up_session.new_mac() != set_up_session.new_mac()
    assert set_up_session.new_mac().startswith("52:54:00:")


def test_a_saved_guest_is_named_and_addressed_by_its_key() -> None:
    disk = Disk(Image(Path("/store/disk.qcow2"), QCOW2))
    spec = Spec(
        name="goldsmith-R1-x", run="R1", role="build", kvm=False, cpus=2, memory=1 << 30, disks=(disk,),
        serial_log=Path("/store/serial.log"),
    )  # fmt: skip
    renamed = snapshots.snapshot_spec(spec, "0123456789abcdef0123456789abcdef", "fa11-")
    assert renamed.name == "goldsmith-saved-fa11-0123456789ab"
    assert (renamed.access_mac, renamed.outside_mac) == ("52:54:00:01:23:45", "52:54:00:67:89:ab")
    assert renamed.generation_id
