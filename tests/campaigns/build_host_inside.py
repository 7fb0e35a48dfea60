"""What `make campaign-build-host` runs in its virtual machine, as root: one row, by its name.

    /opt/goldsmith/bin/python build_host_inside.py ROW

It uses goldsmith as it is installed there, and nothing else of the repository. Its last line is a JSON object with
`seen`, and `denied`: what AppArmor refused meanwhile, by the kernel's log. The exit code is 0 where the row is right.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from pipeline.base.disk_format import QCOW2, RAW
from pipeline.cache.layers import Image
from pipeline.fabric import Fabric
from pipeline.hypervisor.connection import Connection, connect
from pipeline.hypervisor.domain import Disk, Kernel, Spec, attached
from pipeline.hypervisor.machine import Machine, own

STORE = Path("/var/lib/goldsmith")
#: What the campaign has brought: a kernel and its initramfs, a newer wheel, a key.
BROUGHT = Path("/root/trial")
LABEL = "trial-R1"
#: Where builds keep keys and seeds.
ACCESS = Path("/dev/shm/goldsmith") / LABEL
MIB = 1 << 20
#: Seconds for a small guest that is emulated in an emulated guest.
SOON = 900.0
#: Seconds for a command that waits for a guest's whole boot there.
SLOW = 2700.0
#: What the small Linux writes when it is up, and what its page says.
UP, PAGE = b"small linux: up after", "small linux"
DEFINITION = "goldsmith: 1\nsummary: a trial\nos: linux\nsource: {debian: {suite: trixie}}\n"


def run(
    *words: str, user: str | None = None, code: int | None = 0, deadline: float = SOON, errors: bool = True
) -> str:
    """The output of a command, with what it wrote to its error stream if `errors`.

    Raises AssertionError on another exit code than `code`.
    """
    argv = ["runuser", "-u", user, "--", *words] if user else [*words]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if errors else subprocess.DEVNULL,
        text=True,
        check=False,
        timeout=deadline,
        cwd="/",
        env=environment,
    )
    assert code is None or done.returncode == code, f"{' '.join(words)}: exit {done.returncode}: {done.stdout[-800:]}"
    return done.stdout


def show_denials(since: float) -> list[str]:
    """AppArmor's refusals since then (seconds of the epoch), as the kernel logged them."""
    text = run("journalctl", "-k", "-o", "cat", "--no-pager", f"--since=@{since:.0f}")
    return [line for line in text.splitlines() if 'apparmor="DENIED"' in line]


@contextlib.contextmanager
def small_machine(connection: Connection, folder: Path, *, bus: str = "virtio", **more: object) -> Iterator[Machine]:
    """A guest as builds and clones are started: the small Linux, by its kernel, with an empty overlay as its disk."""
    base, top = folder / "base.raw", folder / "disk.qcow2"
    with base.open("wb") as file:
        file.truncate(8 * MIB)
    make_overlay(top, base, "raw")
    disk = Image(top, QCOW2, Image(base, RAW))
    own(top, connection)
    kernel = Kernel(BROUGHT / "vmlinux", BROUGHT / "initrd", (BROUGHT / "command-line").read_text())
    spec = Spec(
        name=f"goldsmith-{LABEL}-guest", run=LABEL, role="test", kvm=False, cpus=1, memory=256 * MIB,
        disks=attached(disk, bus), serial_log=folder / "serial.log", kernel=kernel,
    )  # fmt: skip
    with Machine(connection, replace(spec, **more), folder) as made:  # type: ignore[arg-type]
        yield made


def make_overlay(path: Path, base: Path, driver: str) -> None:
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", driver, str(path))


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A folder of the store, where builds have theirs."""
    made = STORE / "runs" / LABEL
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir()
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def confinement(machine: Machine) -> str:
    """The AppArmor label of the machine's QEMU."""
    name = machine.domain.name()
    pid = Path(f"/run/libvirt/qemu/{name}.pid").read_text().strip()
    return Path(f"/proc/{pid}/attr/current").read_text().strip("\0\n ")


def wait_up(machine: Machine) -> float:
    began = time.monotonic()
    machine.wait("the guest", lambda: UP in machine.serial() or None, deadline=SOON, name="late")
    return time.monotonic() - began


# ---- rows ----------------------------------------------------------------------------------------------------------


def doctor() -> str:
    findings = json.loads(run("goldsmith", "doctor", "--json", code=None, errors=False))
    marks = {each["name"]: each["verdict"] for each in findings}
    bad = [each for each in findings if each["verdict"] == "fail"]
    assert not bad, bad
    warned = [f"{each['name']} ({each['text']})" for each in findings if each["verdict"] == "warn"]
    return f"{len(marks)} findings, none fails; warnings: {'; '.join(warned) or 'none'}"


def apparmor() -> str:
    run("aa-enabled")
    profiles = json.loads(run("aa-status", "--json"))["profiles"]
    enforced = [name for name, mode in profiles.items() if mode == "enforce"]
    wanted = {"libvirtd", "virt-aa-helper"}
    assert wanted <= set(enforced), sorted(profiles.items())
    settings = Path("/etc/libvirt/qemu.conf").read_text(encoding="utf-8")
    assert re.search(r'^security_driver = "apparmor"$', settings, re.MULTILINE)
    assert "<model>apparmor</model>" in run("virsh", "-c", "qemu:///system", "capabilities")
    return f"enforcing: {len(enforced)} profiles, among them {', '.join(sorted(wanted))}"


def builder() -> str:
    """The user without root: what works, and what says clearly that it needs root."""

    def mine(*words: str, code: int | None = 0) -> str:
        return run(*words, user="builder", code=code)

    assert pwd.getpwnam("builder").pw_uid >= 1000
    run("sudo", "-n", "true", user="builder", code=1)
    mine("virsh", "-c", "qemu:///system", "version")
    home = Path("/home/builder/trial")
    mine("mkdir", "-p", f"{home}/images")
    (home / "images/trial.yaml").write_text(DEFINITION)
    project = ("goldsmith", "--project", str(home))
    mine(*project, "validate")
    mine(*project, "plan", "trial")
    refused = mine(*project, "build", "trial", code=3)
    assert "needs root" in refused and "sudo goldsmith build" in refused, refused
    findings = json.loads(run("goldsmith", "doctor", "--json", user="builder", code=None, errors=False))
    rights = next(each for each in findings if each["name"] == "rights")
    disk = next((STORE / "gallery/small").glob("2*/disk.vhd"))
    mine("goldsmith", "vhd", "info", str(disk))
    inspected = mine("goldsmith", "inspect", str(disk), code=None)
    assert "Traceback" not in inspected and "needs root" not in inspected, inspected
    created = mine("goldsmith", "vm", "create", "x", "--image", "small", code=3)
    assert "root" in created, created
    words = refused.strip().splitlines()
    return (
        f"validate, plan, vhd info, inspect, virsh work; doctor: {rights['text']}; build: {' / '.join(words)[:200]}"
    )


def firewall() -> str:
    rules = run("nft", "list", "ruleset")
    assert re.search(r"hook input .*policy drop", rules), rules
    return "input: policy drop, with libvirt's and goldsmith's guests under it (rows below)"


def timer() -> str:
    """The night's timer fires, its service runs goldsmith, and journald has the log."""
    images = Path("/srv/images/images")
    unit = Path("/etc/systemd/system/goldsmith-refresh.timer.d")
    images.mkdir(exist_ok=True)
    # an image whose parent is not in this gallery: refresh names it and ends, and boots no guest
    (images / "child.yaml").write_text("goldsmith: 1\nsummary: a child\nos: linux\nsource: {master: nobody@golden}\n")
    unit.mkdir(exist_ok=True)
    (unit / "trial.conf").write_text("[Timer]\nOnCalendar=\nOnActiveSec=3s\nRandomizedDelaySec=0\n")
    since = time.time()
    try:
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "goldsmith-refresh.timer")
        until = time.monotonic() + SOON
        shown = ""
        while "goldsmith-refresh.service:" not in shown and "Finished" not in shown and "Failed" not in shown:
            assert time.monotonic() < until, f"the timer did not fire: {shown}"
            time.sleep(3)
            shown = run(
                "journalctl", "-u", "goldsmith-refresh.service", "-o", "cat", "--no-pager", f"--since=@{since:.0f}"
            )
        assert "nobody" in shown, shown
    finally:
        shutil.rmtree(unit)
        shutil.rmtree(images)
        run("systemctl", "daemon-reload")
        run("systemctl", "restart", "goldsmith-refresh.timer")
        run("systemctl", "reset-failed", "goldsmith-refresh.service", code=None)
    next_time = run("systemctl", "list-timers", "--no-pager", "goldsmith-refresh.timer")
    assert "goldsmith-refresh.service" in next_time, next_time
    run("systemctl", "start", "goldsmith-refresh.service")  # without a project: skipped, no failure
    line = next(line for line in shown.splitlines() if "nobody" in line)
    return f"fired, and journald has: {line.strip()[:160]}; without a project the night is skipped"


def build() -> str:
    """A guest as a build has it: started by its kernel, with an agent, a log, and a seed in memory."""
    seed = ACCESS / "build/seed.iso"
    seed.parent.mkdir(parents=True, exist_ok=True)
    for path in (ACCESS.parent, ACCESS, seed.parent):
        path.chmod(0o711)
    seed.write_bytes(bytes(MIB))
    try:
        with contextlib.closing(connect()) as connection, folder() as work:
            own(seed, connection)
            with small_machine(connection, work, seed=seed) as machine:
                label = confinement(machine)
                assert label.endswith("(enforce)") and label.startswith("libvirt-"), label
                took = wait_up(machine)
                agent = machine.wait_agent(SOON, SOON)
                name = agent.execute(["/bin/cat", "/etc/os-release"], deadline=SOON).stdout.splitlines()[0]
                machine.shutdown(SOON)
                assert not machine.running
    finally:
        shutil.rmtree(ACCESS)
    return f"up after {took:.0f} s, its agent answers ({name}), off by its agent; QEMU: {label}"


def snapshot() -> str:
    """A layer is committed while the guest runs on, and the guest is saved with its memory and restored."""
    with contextlib.closing(connect()) as connection, folder() as work:
        saved = work / "memory.save"
        with small_machine(connection, work) as machine:
            wait_up(machine)
            machine.wait_agent(SOON, SOON)
            layer = machine.spec.disks[0].image
            (work / "next").mkdir()
            top = work / "next/disk.qcow2"
            make_overlay(top, layer.path, "qcow2")
            machine.snapshot(Image(top, QCOW2, layer))
            assert str(top) in machine.domain.XMLDesc()
            machine.save(saved)
        size = saved.stat().st_size
        again = Machine(connection, replace(machine.spec, serial_log=work / "second.log"), work)
        again.start(saved)
        try:
            assert again.running
        finally:
            again.destroy()
    return f"a layer under a running guest; {size // MIB} MiB of memory saved and restored"


def prove() -> str:
    """A clone of a master as a proof starts it: an overlay of the shipped VHD, on the fabric, until it is Ready."""
    master = next((STORE / "gallery/small").glob("2*/disk.vhd"))
    before = master.stat().st_mtime_ns, master.stat().st_uid
    from pipeline.base.disk_format import VHD

    with contextlib.closing(connect()) as connection, folder() as work, Fabric(LABEL) as fabric:
        guest = fabric.attach("small", "azureuser", "ssh-ed25519 AAAA", work)
        guest.begin()
        top = work / "clone.qcow2"
        make_overlay(top, master, "vpc")
        words: dict[str, object] = {
            "kernel": None, "azure": True, "bridge": guest.bridge, "access_mac": guest.instance.mac,
            "uuid": guest.instance.vm_id, "disks": attached(Image(top, QCOW2, Image(master, VHD))),
        }  # fmt: skip
        own(top, connection)
        with small_machine(connection, work, **words) as machine:
            took = wait_up(machine)
            assert guest.report is not None and guest.report.ready
    assert (master.stat().st_mtime_ns, master.stat().st_uid) == before
    return f"Ready, up after {took:.0f} s; the master is as it was"


def secure() -> str:
    """A machine of generation 2 with Secure Boot, its variables and a TPM: QEMU and swtpm start and are confined."""
    with contextlib.closing(connect()) as connection, folder() as work:
        words: dict[str, object] = {
            "kernel": None, "machine": "q35", "firmware": "efi", "secure_boot": True, "tpm": True,
            "nvram": work / "nvram.fd",
        }  # fmt: skip
        with small_machine(connection, work, **words) as machine:
            label = confinement(machine)
            time.sleep(20)  # the firmware has asked the TPM and written its variables
            assert machine.running
    return f"runs with swtpm and its own variables; QEMU: {label}"


def nvme() -> str:
    """A clone whose disks are namespaces of an NVMe controller, with a data disk."""
    with contextlib.closing(connect()) as connection, folder() as work:
        data = work / "data.raw"
        with data.open("wb") as file:
            file.truncate(MIB)
        own(data, connection)
        base = work / "os.raw"
        with base.open("wb") as file:
            file.truncate(8 * MIB)
        own(base, connection)
        disks: tuple[Disk, ...] = attached(Image(base, RAW, data=((3, Image(data, RAW)),)), "nvme")
        with small_machine(connection, work, machine="q35", disks=disks) as machine:
            took = wait_up(machine)
            running = machine.domain.XMLDesc()
            assert str(data) in running
    return f"up after {took:.0f} s with two namespaces"


def instance() -> str:
    """goldsmith vm create, its page through the drop policy's firewall, stop, start, delete."""
    run("goldsmith", "vm", "delete", "trial", "--yes", code=None)
    began = time.monotonic()
    key = BROUGHT / "key.pub"
    run("goldsmith", "vm", "create", "trial", "--image", "small", "--ssh-key", str(key), deadline=SLOW)
    took = time.monotonic() - began
    page = read_page("trial")
    assert PAGE in page, page
    run("goldsmith", "vm", "stop", "trial", deadline=SLOW)
    assert status("trial") == "Stopped"
    run("goldsmith", "vm", "start", "trial", deadline=SLOW)
    assert status("trial") == "Running"
    run("goldsmith", "vm", "delete", "trial", "--yes")
    return f"Ready after {took:.0f} s, its page answers, stop, start and delete work"


def status(name: str) -> str:
    return str(json.loads(run("goldsmith", "vm", "show", name, "--json"))["status"])


def read_page(name: str) -> str:
    request = "GET /index.html HTTP/1.0\r\n\r\n"
    argv = ["/opt/goldsmith/bin/python", "-m", "pipeline", "vm", "connect", name, "80"]
    until = time.monotonic() + SOON
    while True:
        done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=SOON, check=False)
        if PAGE in done.stdout or time.monotonic() > until:
            return done.stdout + done.stderr
        time.sleep(3)


def upgrade() -> str:
    """A newer goldsmith is installed while an instance runs: the instance runs on, and the new one handles it."""
    run("goldsmith", "vm", "delete", "keeps", "--yes", code=None)
    key = BROUGHT / "key.pub"
    run("goldsmith", "vm", "create", "keeps", "--image", "small", "--ssh-key", str(key), deadline=SLOW)
    old = run("goldsmith", "--version").split()[-1]
    before = run("virsh", "-q", "-c", "qemu:///system", "list").split()
    (wheel,) = BROUGHT.glob("goldsmith-*.whl")
    run("/opt/goldsmith/bin/pip", "install", "--quiet", "--no-index", "--no-deps", "--force-reinstall", str(wheel))
    new = run("goldsmith", "--version").split()[-1]
    assert new != old, new
    assert run("virsh", "-q", "-c", "qemu:///system", "list").split() == before
    assert status("keeps") == "Running"
    assert "keeps" in run("goldsmith", "vm", "list")
    assert PAGE in read_page("keeps")
    run("goldsmith", "vm", "stop", "keeps", deadline=SLOW)
    assert status("keeps") == "Stopped"
    run("goldsmith", "vm", "start", "keeps", deadline=SLOW)
    assert status("keeps") == "Running"
    run("goldsmith", "vm", "delete", "keeps", "--yes")
    return f"{old} to {new} under a running VM: the same domain runs; list, show, stop, start and delete work"


ROWS: dict[str, Callable[[], str]] = {
    each.__name__: each
    for each in (
        doctor, apparmor, firewall, builder, timer, build, snapshot, prove, nvme, secure, instance, upgrade
    )
}  # fmt: skip


def main() -> int:
    since = time.time()
    try:
        seen, code = ROWS[sys.argv[1]](), 0
    except BaseException as error:
        traceback.print_exc()
        seen, code = f"{type(error).__name__}: {error}"[-600:], 1
    print(json.dumps({"seen": seen, "denied": show_denials(since)}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
