"""Builds on the golden master: a failure, its resume, the proof in both generations, an interrupt."""

from __future__ import annotations

import base64
import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from pipeline.network.egress import host_addresses
from pipeline.network.endpoints import endpoint
from pipeline.network.host_apt import mirrors
from tests.campaigns import guest_faults, kill_builder
from tests.campaigns.trees import sectors_with
from tests.harness import ROOT, Lab, rotation, wait_for

PAGE = "first-boot/page.sh"
CANARY = "goldsmith-canary-7f3a91c2e5"

#: One processor, as for all guests of tests: two test processes share the host, and emulated processors that wait
#: for a core of the host burn it.
BEGIN = "goldsmith: 1\nos: linux\nsource: {master: debian-12@golden}\nmachine: {cpus: 1}\n"
SHOP = """\
goldsmith: 1
summary: a shop on the golden master
os: linux
source: {master: debian-12@golden}
machine: {cpus: 1}
disk: 10 GiB
secrets:
  token: {file: secret-token}
  password: {command: "rev secret-token"}
steps:
  - script: scripts/plant.sh
    secrets: [token]
  - playbook: shop.yml
    vars: {title: goldsmith shop}
    secrets: [password]
  - script: scripts/weed.sh
first_boot:
  apply: first-boot/page.sh
  sample: "the shop of {{ clone }}"
expect:
  - http: {port: 80, path: /, contains: "<h1>the shop of {{ clone }}</h1>"}
  - command: test ! -e /var/lib/canary
"""

TOKEN = "goldsmith-secret-4b1c77d0a9"
#: A step that prints its secret, to its output and to the console, and in base64; and files in the guest's memory.
READS_TOKEN = """\
test "$(stat -c %a:%U $GOLDSMITH_SECRETS/token)" = 400:root
echo "the token is $(cat $GOLDSMITH_SECRETS/token)" | tee /dev/console
base64 -w0 <$GOLDSMITH_SECRETS/token; echo
grep -q "$GOLDSMITH_SECRETS ramfs" /proc/mounts
"""
READS_PASSWORD = """
    - name: The password is a variable, and stays in memory
      ansible.builtin.copy:
        content: "{{ password }}"
        dest: /run/shop-password
        mode: "0600"

    - name: A step's secrets are gone behind it
      ansible.builtin.command: test ! -e /run/goldsmith-secrets
      changed_when: false
"""


def files_with(folder: Path, *words: str) -> list[Path]:
    """The files below a folder that have one of the words in them."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(word.encode() in path.read_bytes() for word in words)]


def shop(lab: Lab, weed: str) -> None:
    lab.write("images/shop.yaml", SHOP)
    # the canary has a block of its own, and is at rest on the disk before the next step deletes it
    plant = f"yes {CANARY} | head -c 300000 > /var/lib/canary\nsync\n"
    lab.write("scripts/plant.sh", f"#!/bin/sh\nset -e\n{READS_TOKEN}{plant}")
    lab.write("secret-token", f"{TOKEN}\n")
    lab.write("scripts/weed.sh", weed)
    for name, source in {"playbooks/shop.yml": "playbooks/web-server.yml", PAGE: PAGE}.items():
        lab.write(name, (ROOT / source).read_text()).chmod(0o755)
    with (lab.folder / "playbooks/shop.yml").open("a") as playbook:
        playbook.write(READS_PASSWORD)


#: What a CI job may export: each would change a step, were it to reach Ansible, ssh or the guest.
CI_JOB = {
    "ANSIBLE_CHECK_MODE": "1",
    "ANSIBLE_FORCE_COLOR": "1",
    "ANSIBLE_RUN_TAGS": "none",
    "ANSIBLE_STDOUT_CALLBACK": "minimal",
    "DEBIAN_FRONTEND": "dialog",
    "LANG": "de_DE.UTF-8",
    "TZ": "Asia/Tokyo",
}


def test_a_failed_step_is_mended_and_resumed(lab: Lab, master: Path) -> None:
    shop(lab, "#!/bin/sh\necho nothing is weeded; exit 3\n")
    # a CI job builds, a person resumes: the layers are the same ones
    lab.caller, lab.umask = CI_JOB, 0o077
    failed = lab.run("build", "shop")
    lab.caller, lab.umask = {}, -1
    assert failed.returncode == 4
    assert "weed.sh" in failed.stderr and "goldsmith build shop" in failed.stderr
    record = lab.last_run()
    assert record["error"]["name"] == "step-failed"
    assert record["stages"][-1]["state"] == "failed" and record["stages"][-1]["seconds"] > 1
    assert "nothing is weeded" in (record["folder"] / "steps/03-weed.sh.log").read_text()
    assert (record["folder"] / "screen.png").read_bytes().startswith(b"\x89PNG")
    assert lab.leftovers() == []

    shop(lab, "#!/bin/sh\nset -e\nrm /var/lib/canary\n")
    planned = json.loads(lab.run("plan", "shop", "--json").stdout)
    assert [(row["title"], row["action"]) for row in planned if row["stage"] == "provision"] == [
        ("plant.sh", "keep"),
        ("shop.yml", "keep"),
        ("weed.sh", "run"),
    ]
    before = master.stat()
    built = lab.run("build", "shop")
    assert built.returncode == 0, built.stdout + built.stderr
    states = [(s["stage"], s["state"], s.get("title")) for s in lab.last_run()["stages"]]
    assert ("provision", "new", "weed.sh") in states
    assert not any(title in ("plant.sh", "shop.yml") and state == "new" for _, state, title in states)
    cells = lab.manifest("shop")["prove"]
    for cell in ("gen1", "gen2"):
        # each clone serves a page of its own, from one master: the adapter pulled what only this clone was given
        assert cells[cell]["checks"]["http port 80 /"].startswith("200"), cells[cell]
        assert "bytes applied" in cells[cell]["checks"]["first boot"], cells[cell]
    after = master.stat()
    assert (before.st_mtime_ns, before.st_uid, before.st_mode) == (after.st_mtime_ns, after.st_uid, after.st_mode)

    shipped = Path(lab.master("shop")["path"])
    secrets = [TOKEN, TOKEN[::-1], base64.b64encode(TOKEN.encode()).decode()[:-4]]
    assert sectors_with(shipped, [each.encode() for each in (CANARY, *secrets)]) == {}
    step = (record["folder"] / "steps/01-plant.sh.log").read_text()
    assert step.startswith("the token is [secret token]\n[secret token]"), step
    for folder in (*lab.home.glob("runs/*"), shipped.parent / "logs"):
        assert files_with(folder, *secrets) == [], "no log, record or event has a secret"
    planted = [layer for layer in lab.home.glob("layers/*/disk.qcow2") if sectors_with(layer, [CANARY.encode()])]
    assert planted, "the canary never reached a disk: the search proves nothing"
    assert lab.leftovers() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_build_and_keeps_the_layers(number: int, lab: Lab) -> None:
    lab.write("scripts/long.sh", "#!/bin/sh\necho working\nsleep 600\n")
    lab.write(
        "images/long.yaml",
        f"{BEGIN}steps:\n  - script: scripts/long.sh\n",
    )
    before = lab.last_run()["id"]
    builder = lab.start("build", "long")
    try:

        def running() -> bool:
            record = lab.last_run()
            log = record["folder"] / "serial.log"
            return record["id"] != before and log.exists() and b"Linux version" in log.read_bytes()

        wait_for("the guest's kernel", running, 600)
        began = time.monotonic()
        builder.send_signal(number)
        output, _ = builder.communicate(timeout=120)
        took = time.monotonic() - began
    finally:
        builder.kill()
    print(output, f"stopped in {took:.1f} s")
    assert builder.returncode == 128 + number
    assert took < 60  # some 2 s on a quiet host
    assert lab.leftovers() == []
    assert lab.last_run()["outcome"] == "interrupted"


#: A step that tries what no guest may reach, and what each must; then it fails.
PROBE = """\
#!/bin/bash
try() {{ timeout 4 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo "reached $1 $2" || echo "refused $1 $2"; }}
for address in {own} 10.0.2.2 10.0.2.3 10.9.8.2 10.9.8.3 198.18.0.2 ::ffff:10.0.2.2 fec0::2; do
    try $address {port} &
done
for address in 169.254.169.254 168.63.129.16 fd00:ec2::254; do try $address 80 & done
try {mirror} &
wait
exit 1
"""


def test_a_step_reaches_the_mirror_and_nothing_of_the_host(lab: Lab) -> None:
    """The guest is kept, looked at from outside and cleaned away; its way out lives as long as it does."""
    archive = endpoint(mirrors().archive or "")
    assert archive is not None, "the host's apt names no mirror"
    mirror = "{} {}".format(*archive)
    with socket.create_server(("0.0.0.0", 0)) as service:
        port = service.getsockname()[1]
        lab.write("scripts/bad.sh", PROBE.format(own=" ".join(host_addresses()), port=port, mirror=mirror))
        _a_kept_guest(lab, f'timeout 4 bash -c "exec 3<>/dev/tcp/{mirror.replace(" ", "/")}" && echo still out')
        service.setblocking(False)
        with pytest.raises(BlockingIOError):
            service.accept()
    found = (lab.last_run("bad")["folder"] / "steps/01-bad.sh.log").read_text().splitlines()
    assert f"reached {mirror}" in found
    tried = [line for line in found if line.startswith(("reached", "refused"))]
    assert len(tried) == 11 + len(host_addresses())
    assert [line for line in tried if line.startswith("reached")] == [f"reached {mirror}"]


def _a_kept_guest(lab: Lab, look: str) -> None:
    lab.write(
        "images/bad.yaml",
        f"{BEGIN}steps:\n  - script: scripts/bad.sh\n",
    )
    failed = lab.run("build", "bad", "--keep-failed")
    assert failed.returncode == 4
    run = lab.last_run()["id"]
    assert f"goldsmith shell {run}" in failed.stderr
    done = subprocess.run(
        [*lab.shell(run)],
        input=f"id -un; {look}; exit\n",
        capture_output=True,
        text=True,
        timeout=300,
        env=lab.environment,
    )
    assert "goldsmith-build" in done.stdout and "still out" in done.stdout, done.stdout + done.stderr
    assert lab.run("clean").returncode == 0
    assert lab.leftovers() == []


def test_one_failing_guest_or_killed_builder_of_the_corpus(lab: Lab, master: Path) -> None:
    """A rotating one; `make campaign-guest-faults` and `make campaign-kill-builder` run all."""
    number = rotation(len(guest_faults.FAULTS) + len(kill_builder.MOMENTS))
    if number < len(guest_faults.FAULTS):
        print(guest_faults.run(guest_faults.FAULTS[number], lab, master))
    else:
        print(kill_builder.run(kill_builder.MOMENTS[number - len(guest_faults.FAULTS)], lab, proof=False))
    assert lab.leftovers() == []
