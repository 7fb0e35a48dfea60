"""The golden build and what ships: read by goldsmith, by qemu-img and by libvhdi."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from pipeline.cache.digests import flat_digest
from tests.campaigns.guest_faults import edited
from tests.harness import Lab
from tests.vm.conftest import Seal

MIB = 1 << 20


def test_the_master_is_golden_and_proven(golden_build: Lab, master: Path, sealed: dict[str, Seal]) -> None:
    manifest = golden_build.manifest("debian-12")
    assert manifest["state"] == "proven"
    assert {check["status"] for check in manifest["checks"]} <= {"pass", "skip"}
    assert sum(check["status"] == "pass" for check in manifest["checks"]) >= 45
    assert set(manifest["prove"]) == {"gen1", "gen2"}
    for cell in manifest["prove"].values():
        assert cell["failures"] == []
        assert (master.parent / "screenshots" / cell["screenshot"]).read_bytes().startswith(b"\x89PNG")
    assert manifest["disk"]["sha256"] == flat_digest(master)
    assert str(master) in sealed
    owner, _group, mode, _tree = sealed[str(master)]
    assert (owner, mode) == (0, 0o444)
    assert golden_build.leftovers() == []


def test_the_agents_reported_to_the_fabric(golden_build: Lab) -> None:
    """The guest's own cloud-init asked the metadata service and the WireServer, and reported Ready."""
    records = list(golden_build.home.glob("runs/R*/prove/gen*/fabric.jsonl"))
    cells = golden_build.manifest("debian-12")["prove"]
    for name, cell in cells.items():
        assert 0 < cell["seconds"]["ready"] < cell["seconds"]["ssh"]
        assert cell["checks"]["custom data"] == "found"
        assert cell["checks"]["names"] == "168.63.129.16"
        lines = [json.loads(line) for path in records if path.parent.name == name for line in path.open()]
        agents = {line["agent"].split("/")[0] for line in lines}
        assert "Cloud-Init" in agents
        assert any(line["to"].startswith("169.254.169.254") for line in lines)
        reports = [line["report"]["state"] for line in lines if "report" in line]
        assert reports[0] == "Ready"


def test_an_unchanged_build_runs_nothing(golden_build: Lab, master: Path) -> None:
    done = golden_build.run("build", "debian-12")
    assert done.returncode == 0
    assert "unchanged: nothing was run, no guest was booted" in done.stdout
    assert str(master) in done.stdout
    record = golden_build.last_run()
    assert record["outcome"] == "unchanged"
    assert {stage["state"] for stage in record["stages"]} == {"kept"}
    assert not (record["folder"] / "serial.log").exists()


def test_the_footer_field_by_field(master: Path) -> None:
    size = master.stat().st_size - 512
    with master.open("rb") as file:
        file.seek(size)
        footer = file.read()
    names = "cookie features version offset time app appversion os original current cyl heads spt kind sum id saved"
    fields = dict(zip(names.split(), struct.unpack(">8sIIQI4sI4sQQHBBII16sB", footer[:85]), strict=True))
    assert fields["cookie"] == b"conectix"
    assert fields["features"] == 2
    assert fields["version"] == 0x10000
    assert fields["offset"] == 0xFFFFFFFFFFFFFFFF
    assert fields["original"] == fields["current"] == size == 8 << 30
    assert fields["kind"] == 2
    assert fields["saved"] == 0
    assert footer[85:] == bytes(427)
    assert fields["sum"] == ~(sum(footer) - sum(footer[64:68])) & 0xFFFFFFFF
    assert size % MIB == 0


def test_other_readers_agree_on_the_size(master: Path) -> None:
    done = subprocess.run(
        ["qemu-img", "info", "-f", "vpc", "--output", "json", master], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["virtual-size"] == master.stat().st_size - 512
    done = subprocess.run(["vhdiinfo", master], capture_output=True, text=True, check=True)
    found = re.search(r"Media size\s*:\s+.*?\((\d+) bytes\)", done.stdout)
    assert found and int(found[1]) == master.stat().st_size - 512


def test_freed_blocks_are_not_shipped(master: Path) -> None:
    first = subprocess.run(["sgdisk", "-i", "1", master], capture_output=True, text=True, check=True).stdout
    start = int(first.split("First sector: ")[1].split()[0]) * 512
    done = subprocess.run(["dumpe2fs", "-h", f"{master}?offset={start}"], capture_output=True, text=True, check=True)
    facts = dict(line.split(":", 1) for line in done.stdout.splitlines() if ":" in line)
    used = (int(facts["Block count"]) - int(facts["Free blocks"])) * int(facts["Block size"])
    allocated = master.stat().st_blocks * 512
    print(f"in use {used / MIB:.0f} MiB, allocated {allocated / MIB:.0f} MiB")
    assert allocated <= 1.05 * used + 64 * MIB


#: At rest, after generalize: what is changed on a good master, and the check that must name it.
SEEDS = {
    "password-hash": (
        "rm /etc/shadow",
        "write SHADOW /etc/shadow",
    ),
    "ssh-host-keys": ("write KEY /etc/ssh/ssh_host_rsa_key",),
    "authorized-keys": ("mkdir /root/.ssh", "rm /root/.ssh/authorized_keys", "write KEY /root/.ssh/authorized_keys"),
    "shell-history": ("write KEY /root/.bash_history",),
    "machine-id": ("rm /etc/machine-id", "write ID /etc/machine-id"),
}


@pytest.mark.parametrize("check", SEEDS)
def test_what_is_left_behind_is_refused(check: str, master: Path, lab: Lab, tmp_path: Path) -> None:
    files = {
        "SHADOW": "root:$6$abcdefgh$" + "x" * 86 + ":20000:0:99999:7:::\n",
        "KEY": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINxNbNxsuIJ9YOu0htvsdv+xfzW2cYd7SxX7lrFfAUAS build\n",
        "ID": "0123456789abcdef0123456789abcdef\n",
    }
    commands = []
    for command in SEEDS[check]:
        for name, text in files.items():
            if name in command.split():
                (tmp_path / name).write_text(text)
                command = command.replace(name, str(tmp_path / name))
        commands.append(command)
    disk = edited(master, lab.folder / f"seeded-{check}.vhd", tuple(commands))
    done = lab.run("inspect", str(disk), "--json")
    disk.unlink()
    assert done.returncode == 1
    failed = {found["id"] for found in json.loads(done.stdout)["checks"] if found["status"] == "fail"}
    assert check in failed, failed


def test_a_good_master_passes_inspect(master: Path, lab: Lab) -> None:
    done = lab.run("inspect", str(master), "--json")
    assert done.returncode == 0
    assert {found["status"] for found in json.loads(done.stdout)["checks"]} <= {"pass", "skip"}


def test_an_unreadable_disk_is_exit_code_2(lab: Lab) -> None:
    (lab.folder / "noise").write_bytes(b"QFI\xfb" + b"\xff" * 4096)
    assert lab.run("inspect", str(lab.folder / "noise")).returncode == 2
    assert lab.run("inspect", str(lab.folder / "missing.vhd")).returncode == 2


FOREIGN = {
    "backing file": [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "/etc/passwd",
        "-F",
        "raw",
        "-u",
        "f.qcow2",
        "1G",
    ],
    "data file": [
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        "data_file=/var/tmp/x,data_file_raw=on",
        "f.qcow2",
        "1M",
    ],
}


@pytest.mark.parametrize("kind", [*FOREIGN, "foreign extent", "json name"])
def test_foreign_references_are_refused_before_anything_opens_them(kind: str, lab: Lab) -> None:
    name = "f.qcow2"
    if kind in FOREIGN:
        subprocess.run(FOREIGN[kind], cwd=lab.folder, check=True)
        Path("/var/tmp/x").unlink(missing_ok=True)
    elif kind == "foreign extent":
        name = "f.vmdk"
        lab.write(
            name,
            "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
            'createType="monolithicFlat"\n\nRW 2048 FLAT "/etc/passwd" 0\n',
        )
    else:
        name = 'json:{"driver":"file","filename":"x"}.qcow2'
        (lab.folder / name).write_bytes(b"QFI\xfb")
    quoted = name.replace('"', '\\"')
    lab.write(
        "images/foreign.yaml",
        f"goldsmith: 1\nos: linux\ndisk: 4 GiB\n"
        f'source: {{disk: {{path: "{quoted}", format: {name.rsplit(".", 1)[1]}}}}}\n',
    )
    done = lab.run("build", "foreign")
    (lab.folder / "images/foreign.yaml").unlink()
    (lab.folder / name).unlink()
    assert done.returncode in (2, 4), done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "root:" not in done.stdout + done.stderr
    assert not list(lab.home.glob("layers/*/.lock"))


def test_kvm_demanded_is_refused_with_its_rate(lab: Lab) -> None:
    """Only where KVM is not real; a host with real KVM builds on it, which the golden build has shown."""
    output = json.loads(lab.run("doctor", "--json").stdout)
    text = json.dumps(output)
    if "tcg" not in text:
        pytest.skip("KVM is real here: there is nothing to refuse")
    lab.write(
        "images/fast.yaml",
        "goldsmith: 1\nos: linux\nsource: {master: debian-12@golden}\naccelerator: kvm\ndisk: 9 GiB\n",
    )
    done = lab.run("build", "fast")
    (lab.folder / "images/fast.yaml").unlink()
    assert done.returncode == 3
    assert re.search(r"instructions/s|no /dev/kvm|cannot be opened", done.stderr), done.stderr


def test_gallery_list_is_what_the_readme_promises(golden_build: Lab, master: Path) -> None:
    listed = json.loads(golden_build.run("gallery", "list", "--json").stdout)
    version = next(v for v in listed if v["path"] == str(master))
    assert {"name", "version", "channels", "state", "generations", "disks", "created"} <= set(version)
    assert {"role", "lun", "caching", "path", "size", "allocated"} <= set(version["disks"][0])
    assert golden_build.run("gallery", "show", "debian-12").returncode == 0
    assert shutil.which("virsh")
