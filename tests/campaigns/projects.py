"""Public bug reports rebuilt in small: `make campaign-projects`. Each definition ends as its right answer says.

The definitions, playbooks, scripts and the programs that make their disks lie beside the repository (`cases`); what
needs no guest is run by tests/unit/campaigns/test_projects.py too. GOLDSMITH_PART chooses by parts of the names.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.harness import GOLDSMITH, PART, ROOT, Lab, Say

CASES = Path(os.environ.get("GOLDSMITH_CASES", ROOT.parent / "shared/cases")) / "projects"
#: Where the programs that make disks look for the master that they begin with.
MASTER = "/var/lib/goldsmith/gallery/debian-12/golden/disk.vhd"
#: Seconds for one case: a guest's start and a step under emulation.
DEADLINE = 1800.0
#: MiB that a goldsmith may take which copies a file of COPIED MiB into a guest.
MEMORY, COPIED = 250, 600
#: Environment of a CI job that asks for colours, for other output and for a part of the tasks.
CI = {
    "ANSIBLE_FORCE_COLOR": "1",
    "ANSIBLE_STDOUT_CALLBACK": "minimal",
    "ANSIBLE_RUN_TAGS": "nginx",
    "ANSIBLE_CHECK_MODE": "1",
    "LANG": "de_DE.UTF-8",
}

Prepare = Callable[[Lab], None]


@dataclass(frozen=True)
class Case:
    """A command line and its right end: exit code, words that its output has (regular expressions) and has not."""

    words: Sequence[str]
    code: int
    has: Sequence[str] = ()
    has_not: Sequence[str] = ("Traceback", "mend the cause")
    environment: Mapping[str, str] = field(default_factory=dict)
    guest: bool = True
    #: Run before goldsmith in the shell that starts it.
    shell: str = ""
    prepare: Prepare | None = None
    #: MiB of memory that the process may take at most.
    memory: int | None = None
    #: Run after goldsmith: what is wrong with what the run left.
    verify: Callable[[Lab], list[str]] | None = None


def make_disks(program: str, *made: tuple[str, str]) -> Prepare:
    """Run one of the programs in the folder of disks; (what it makes, what a definition calls it)."""

    def prepare(lab: Lab) -> None:
        folder = lab.folder / "disks"
        if all((folder / name).exists() for _, name in made):
            return
        folder.mkdir(exist_ok=True)
        master = str(Path(lab.master("debian-12")["path"]))
        text = (CASES / program).read_text().replace(MASTER, master)
        environment = {**lab.environment, "G": str(GOLDSMITH)}
        subprocess.run(["sh", "-c", text], cwd=folder, env=environment, check=False, timeout=600, capture_output=True)
        for name, target in made:
            if name != target:
                shutil.copyfile(folder / name, folder / target)

    return prepare


def _big(lab: Lab) -> None:
    path = lab.folder / "files/big.bin"
    with path.open("wb") as file:
        for _ in range(COPIED):
            file.write(os.urandom(1 << 20))


#: Debian's postfix writes /etc/mailname only if the host name has a domain. The name of a build machine has none,
#: because the image would keep it. So the script of `ids` fails at `cat /etc/mailname`, as on each Debian machine
#: without a domain. If a step before it answers debconf's question, the same script succeeds.
NAMED = """goldsmith: 1
summary: packages that make up an identity, with debconf's answer for the name of mail
source: {master: debian-12@golden}
steps:
  - {name: mail-name, script: scripts/mail-name.sh}
  - {name: packages, script: scripts/ids.sh}
"""
MAIL_NAME = """#!/bin/sh
echo 'postfix postfix/mailname string mail.example.org' | debconf-set-selections
"""
#: What generalize removes after that script, by the words of its log.
REMOVED = (
    r"rewrote /etc/iscsi/initiatorname\.iscsi",
    r"removed /etc/nvme/hostid",
    r"removed /etc/nvme/hostnqn",
    r"removed /etc/ssl/private/ssl-cert-snakeoil\.key",
)


def _named(lab: Lab) -> None:
    lab.write("images/ids-named.yaml", NAMED)
    lab.write("scripts/mail-name.sh", MAIL_NAME).chmod(0o755)


def _identities_removed(lab: Lab) -> list[str]:
    """The log of generalize names each identity; the check of the disk finds none."""
    folder = lab.last_run("ids-named")["folder"]
    log = (folder / "generalize.log").read_text()
    wrong = [f"generalize.log: no {pattern!r}" for pattern in REMOVED if not re.search(pattern, log)]
    checks = {row["id"]: row["status"] for row in json.loads((folder / "checks.json").read_text())}
    return (
        wrong if checks["service-identity"] == "pass" else [*wrong, f"service-identity: {checks['service-identity']}"]
    )


INSTALLERS = make_disks("make-installer-disks.sh", ("di.vhd", "di-keep.vhd"), ("sub.vhd", "sub.vhd"))
COLOUR = re.escape("\x1b[")

#: By the name of the definition, or of the disk.
ALL: dict[str, Case] = {
    # B: the build host
    "crlf": Case(["validate", "crlf"], 2, [r"scripts/crlf\.sh:1"], guest=False),
    "nohosts": Case(["validate", "nohosts"], 2, [r"playbooks/nohosts\.yml:2", "hosts: all"], guest=False),
    "vault": Case(["validate", "vault"], 2, [r"playbooks/vaulted\.yml", "vault_password_file"], guest=False),
    "galaxy": Case(["validate", "galaxy"], 2, ["ansible.posix", "galaxy-unreachable"], guest=False),
    "xfs": Case(["validate", "xfs"], 2, [r"images/xfs\.yaml:5:9", "waive-not-possible"], guest=False),
    "roles": Case(["build", "roles", "--until", "roles"], 0),
    "tags": Case(["build", "tags", "--until", "app"], 0, environment=CI),
    "colour": Case(["build", "colour"], 4, ["no-such-package-of-ours"], ["Traceback", COLOUR], environment=CI),
    "overlay": Case(
        ["build", "-v", "overlay", "--until", "look"],
        0,
        [r"755 /etc\b", r"1777 /tmp\b", r"755 /etc/app\.d\b", r"644 /etc/app\.d/a\.conf"],
        shell="umask 077;",
    ),
    "big": Case(["build", "big", "--until", "big"], 0, prepare=_big, memory=MEMORY),
    "loop": Case(["build", "loop", "--until", "4"], 0),
    # C: the way it ends
    "loop2": Case(["build", "loop2", "--until", "reboot-in-script"], 0),
    "fw": Case(
        ["build", "fw", "--until", "application"], 4, ["hardening: sshd runs", "out of port 22", "step-cut-ssh"]
    ),
    "uefi": Case(
        ["build", "uefi", "--until", "env"], 0, prepare=make_disks("make-uefi-disk.sh", ("uefi.vhd", "uefi.vhd"))
    ),
    "nodi": Case(["build", "nodi", "--until", "env"], 2, ["source-no-agent"], guest=False, prepare=INSTALLERS),
    # D: left behind
    "ids": Case(
        ["build", "-v", "ids", "--until", "inspect"],
        4,
        [r"Not changing /etc/mailname", r"packages: exit code 1: cat: /etc/mailname: No such file", "step-failed"],
    ),
    "ids-named": Case(
        ["build", "-v", "ids-named", "--until", "inspect"],
        0,
        [r"InitiatorName=iqn\.", r"uuid:", r"ssl-cert-snakeoil\.key", r"mail\.example\.org"],
        prepare=_named,
        verify=_identities_removed,
    ),
    # the base is bootstrapped: without a shell in a chroot, mounts or devices, which a CI runner's container refuses
    "ci": Case(["build", "ci"], 0, ["golden"]),
    "dns.vhd": Case(
        ["inspect", "disks/dns.vhd"],
        1,
        [r"fail +resolver"],
        guest=False,
        prepare=make_disks("make-dns-disk.sh", ("dns.vhd", "dns.vhd")),
    ),
    "ids.vhd": Case(
        ["inspect", "disks/ids.vhd"],
        1,
        [r"fail +service-identity", r"initiatorname", r"hostnqn", r"minion_id"],
        guest=False,
        prepare=make_disks("make-identities.sh", ("ids.vhd", "ids.vhd")),
    ),
    "di.vhd": Case(
        ["inspect", "disks/di-keep.vhd"],
        1,
        [r"fail +network-pinned", r"enp1s0", r"resume-device", r"host-name", "golden-template01"],
        guest=False,
        prepare=INSTALLERS,
    ),
    "sub.vhd": Case(
        ["inspect", "disks/sub.vhd"], 1, [r"fail +network-pinned", "ens33"], guest=False, prepare=INSTALLERS
    ),
    "ca": Case(["build", "ca"], 4, ["download-certificate", "update-ca-certificates"]),
}


def lay_out(folder: Path) -> None:
    """The project of the cases in a folder that may be written to."""
    shutil.copytree(CASES, folder, dirs_exist_ok=True)
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o200)
    for path in (folder / "images").glob("*.yaml"):
        # their own disks lie beside their project; these are made inside of it
        path.write_text(path.read_text().replace("../disks/", "disks/"))
    shutil.copyfile(ROOT / "playbooks/azure-linux.yml", folder / "playbooks/azure-linux.yml")
    for part in ("files", "roles"):
        shutil.copytree(ROOT / "playbooks" / part, folder / "playbooks" / part, dirs_exist_ok=True)


def run_case(lab: Lab, name: str) -> dict[str, object]:
    """The row of one case; `wrong` says what of its end is not the right one."""
    case = ALL[name]
    if case.prepare is not None:
        case.prepare(lab)
    words = " ".join([str(GOLDSMITH), "--project", ".", *case.words])
    began = time.monotonic()
    code, output, memory = _run(f"{case.shell} exec {words}", lab, case.environment)
    print(f"$ {words}\n{output}")
    wrong = [] if code == case.code else [f"exit {code}, not {case.code}"]
    wrong += [f"no {pattern!r}" for pattern in case.has if not re.search(pattern, output)]
    wrong += [f"{pattern!r}" for pattern in case.has_not if re.search(pattern, output)]
    if case.verify is not None and not wrong:
        wrong += case.verify(lab)
    if case.memory is not None and memory > case.memory:
        wrong.append(f"{memory} MiB, more than {case.memory}")
    return {
        "case": name,
        "command": " ".join(case.words),
        "exit": code,
        "s": round(time.monotonic() - began),
        "MiB": memory,
        "says": _says(output),
        "wrong": "; ".join(wrong),
        "ok": not wrong,
    }


def _run(text: str, lab: Lab, environment: Mapping[str, str]) -> tuple[int, str, int]:
    """Exit code, output, and MiB of the largest process of a shell's command. Raises TimeoutError."""
    with tempfile.TemporaryFile() as file:
        child = subprocess.Popen(
            ["sh", "-c", text], cwd=lab.folder, env={**lab.environment, **environment}, stdout=file, stderr=file
        )
        until = time.monotonic() + DEADLINE
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() > until:
                child.kill()
                raise TimeoutError(text)
            time.sleep(0.05)
        child.returncode = os.waitstatus_to_exitcode(status)
        file.seek(0)
        return child.returncode, file.read().decode(errors="replace"), usage.ru_maxrss >> 10


def _says(output: str) -> str:
    """The line of an error, or the last one."""
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"goldsmith: |images/|playbooks/|scripts/|fail ", line)]
    return (errors or lines or [""])[0 if errors else -1][:200]


@contextmanager
def serving_over_tls(folder: Path) -> Iterator[list[str]]:
    """A server with a certificate of nobody's, on the port that images/ca.yaml names; the requests that came."""
    key, certificate = folder / "key.pem", folder / "cert.pem"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    made = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", *words.split(), *made], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    tries: list[str] = []

    class Server(http.server.ThreadingHTTPServer):
        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            link, address = self.socket.accept()
            tries.append(str(address))
            return context.wrap_socket(link, server_side=True), address

        def handle_error(self, request: object, client_address: object) -> None:
            """The client hangs up: that is what is looked for."""

    with Server(("127.0.0.1", 18443), http.server.SimpleHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tries
        server.shutdown()


def campaign(lab: Lab, _master: Path, say: Say) -> list[dict[str, object]]:
    lay_out(lab.folder)
    parts = os.environ.get(PART, "").split(",")
    rows = []
    with ExitStack() as cleanup:
        tries = cleanup.enter_context(serving_over_tls(lab.home))
        for name in ALL:
            if any(part in name for part in parts):
                row = run_case(lab, name)
                if name == "ca" and len(tries) != 1:
                    row |= {"wrong": f"{len(tries)} tries with a certificate that is not trusted", "ok": False}
                rows.append(row)
                say(row)
    return rows
