"""The starter definitions of other distributions: each is valid, says that it was not built, and why."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.module_utils.facts.system.distribution import Distribution

from pipeline.base.store import Store
from pipeline.definition import DebianSource, DiskSource, image_names, load_all
from pipeline.guest.playbook_check import check_playbooks
from pipeline.systems.debian import tree
from pipeline.systems.debian.bootstrap import identity

ROOT = Path(__file__).parents[3]
PROJECT = ROOT / "examples/linux"
ROLE = PROJECT / "playbooks/roles/azure_linux"
#: What Ansible calls the distribution of each definition.
DISTRIBUTIONS = {
    "ubuntu-24.04": "Ubuntu",
    "debian-testing": "Debian",
    "debian-sid": "Debian",
    "rocky-9": "Rocky",
    "alma-9": "AlmaLinux",
    "fedora": "Fedora",
    "opensuse-leap-15": "openSUSE Leap",
    "alpine": "Alpine",
}
_REASON = re.compile(r"^# Not built here: (.+)\.$", re.MULTILINE)


def test_each_is_valid_and_its_playbooks_are_read_by_ansible(tmp_path: Path) -> None:
    definitions = load_all(PROJECT)
    assert {each.name for each in definitions} == DISTRIBUTIONS.keys()
    for each in definitions:
        assert isinstance(each.source, DiskSource | DebianSource) and len(each.steps) == 2
        assert each.generations == ((2,) if each.name == "alpine" else (1, 2))
    assert check_playbooks(definitions, Store(tmp_path / "store").ensure()) == {}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_what_was_not_built_says_why_in_its_file_and_in_the_documents(name: str) -> None:
    (reason,) = _REASON.findall((PROJECT / f"images/{name}.yaml").read_text())
    lines = (ROOT / "docs/systems.md").read_text().partition("## Starter definitions")[2].splitlines()
    (row,) = (line for line in lines if line.startswith(f"| `{name}` |"))
    assert len(reason) > 30 and "not built here" in row and reason in row


def test_builds_of_the_repositorys_own_images_take_none_of_them() -> None:
    assert not image_names(ROOT).keys() & image_names(PROJECT).keys()
    assert all(path.parent == ROOT / "images" for path in image_names(ROOT).values())


def test_each_distribution_is_of_a_family_that_the_role_serves() -> None:
    known = {name: family for family, names in Distribution.OS_FAMILY_MAP.items() for name in names}
    tasks = yaml.safe_load((ROLE / "tasks/main.yml").read_text())
    served = {
        found[1]: task["ansible.builtin.include_tasks"]
        for task in tasks
        if (found := re.fullmatch(r'ansible_facts.os_family == "(\w+)"', str(task.get("when"))))
    }
    assert {known[each] for each in DISTRIBUTIONS.values()} == served.keys()
    assert all((ROLE / "tasks" / file).is_file() for file in served.values())
    # a family without tasks is refused by name
    (refusal,) = (task["ansible.builtin.assert"] for task in tasks if "ansible.builtin.assert" in task)
    assert set(re.findall(r'"(\w+)"', refusal["that"])) == served.keys()


def test_the_role_is_that_of_goldsmiths_own_playbook() -> None:
    assert (ROOT / "playbooks/roles").samefile(PROJECT / "playbooks/roles")
    assert (ROOT / "playbooks/azure-linux.yml").samefile(PROJECT / "playbooks/azure-linux.yml")


# ---- the scripts, on files in a folder: this host has none of these systems, and their tools only record their calls


def files_of(root: Path, system: str) -> None:
    """What the scripts edit, as the layouts of public images have it."""
    files = {
        "etc/waagent.conf": "Provisioning.Agent=disabled\n# ResourceDisk.Format=y\nResourceDisk.EnableSwap=y\n",
        "etc/fstab": "UUID=1 / ext4 defaults 0 1\nUUID=2 swap swap defaults 0 0\n",
        "etc/ssh/sshd_config": "Subsystem sftp internal-sftp\n",
        "etc/default/grub": 'GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX="rhgb quiet"\n'
        'GRUB_CMDLINE_LINUX_DEFAULT="modules=ext4"\n#GRUB_TERMINAL=console\n',
        "etc/inittab": "::sysinit:/sbin/openrc sysinit\n#ttyS0::respawn:/sbin/getty -L 0 ttyS0 vt100\n",
        "etc/mkinitfs/mkinitfs.conf": 'features="base ext4 scsi"\n',
        "etc/udev/rules.d/70-persistent-net.rules": "x\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "lib/modules/6.6.63-0-virt").mkdir(parents=True)
    (root / "bin").mkdir()
    tools = {
        "dracut": ("dracut", "grubby", "grub2-mkconfig"),
        "alpine": ("mkinitfs", "grub-mkconfig"),
        "debian": ("dracut", "update-grub"),
    }
    for tool in (*tools[system], "swapoff"):
        (root / "bin" / tool).write_text(f'#!/bin/sh\necho "$0 $*" >>{root}/calls\n')
        (root / "bin" / tool).chmod(0o755)


def run(root: Path, system: str) -> str:
    """Run a script on the files below a folder; what it prints."""
    text = re.sub(
        r"(?<![\w.'^])/(?=(?:usr/)?(?:etc|boot|lib)/)", f"{root}/", (ROLE / f"files/{system}.sh").read_text()
    )
    done = subprocess.run(
        ["sh", "-c", text],
        env={**os.environ, "PATH": f"{root}/bin:{os.environ['PATH']}", "KERNEL_LINE": "console=ttyS0 rootdelay=300"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout


@pytest.mark.parametrize("system", ["dracut", "alpine"])
def test_a_script_changes_what_is_wrong_and_nothing_the_second_time(system: str, tmp_path: Path) -> None:
    files_of(tmp_path, system)
    first = run(tmp_path, system)
    calls = (tmp_path / "calls").read_text()
    grub, fstab = ((tmp_path / name).read_text() for name in ("etc/default/grub", "etc/fstab"))
    assert "changed initramfs" in first and fstab == "UUID=1 / ext4 defaults 0 1\n"
    # of the disk's own line only `quiet` and the like go away; Alpine's script leaves the default line as it is
    kept = " modules=ext4" if system == "dracut" else ""
    assert grub.count("GRUB_CMDLINE_LINUX=") == 1
    assert f'GRUB_CMDLINE_LINUX="console=ttyS0 rootdelay=300{kept}"' in grub
    assert 'GRUB_TERMINAL="serial console"' in grub
    if system == "dracut":
        agent = (tmp_path / "etc/waagent.conf").read_text().splitlines()
        assert {"Provisioning.Agent=auto", "ResourceDisk.Format=n", "ResourceDisk.EnableSwap=n"} <= set(agent)
        assert not any(line.endswith("=y") and line.startswith("ResourceDisk") for line in agent)
        assert (tmp_path / "etc/ssh/sshd_config").read_text().startswith("ClientAliveInterval 180\n")
        assert "--regenerate-all" in calls and "--remove-args=rhgb quiet" in calls
        assert not (tmp_path / "etc/udev/rules.d/70-persistent-net.rules").exists()
    else:
        assert "mkinitfs 6.6.63-0-virt" in calls and 'DEFAULT="modules=ext4"' in grub
        assert 'features="base ext4 scsi azure virtio"' in (tmp_path / "etc/mkinitfs/mkinitfs.conf").read_text()
        assert "\nttyS0::respawn:" in (tmp_path / "etc/inittab").read_text()
    assert run(tmp_path, system) == ""
    assert (tmp_path / "calls").read_text() == calls


def test_a_debian_with_dracut_keeps_its_own_words(tmp_path: Path) -> None:
    files_of(tmp_path, "debian")
    default = tmp_path / "etc/default/grub"
    default.write_text('GRUB_CMDLINE_LINUX="net.ifnames=0 console=tty0"\nGRUB_CMDLINE_LINUX_DEFAULT="quiet"\n')
    (tmp_path / "bin/dpkg-query").write_text("#!/bin/sh\necho install ok installed\n")
    (tmp_path / "bin/dpkg-query").chmod(0o755)
    (tmp_path / "boot/grub").mkdir(parents=True)
    (tmp_path / "boot/grub/grub.cfg").write_text(f"### BEGIN {tmp_path}/etc/grub.d/00_header ###\n")
    (tmp_path / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    first = run(tmp_path, "debian")
    settings = (tmp_path / "etc/default/grub.d/50-azure.cfg").read_text()
    assert 'GRUB_CMDLINE_LINUX="console=ttyS0 rootdelay=300 net.ifnames=0"' in settings
    # the same text as the bootstrap's, so that the base of goldsmith's own images is not changed
    assert (tmp_path / "etc/systemd/network/10-azure-vf.network").read_text() == tree.files(identity("x"), [])[
        "etc/systemd/network/10-azure-vf.network"
    ]
    calls = (tmp_path / "calls").read_text()
    assert (
        f"dracut --force {tmp_path}/boot/initrd.img-6.6.63-0-virt 6.6.63-0-virt" in calls and "update-grub" in calls
    )
    assert "changed initramfs" in first and not (tmp_path / "etc/initramfs-tools").exists()
    assert run(tmp_path, "debian") == ""
    assert (tmp_path / "calls").read_text() == calls
