"""What a guest says of its ways in, and what goldsmith makes of it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import GuestError
from pipeline.guest import ssh_reach
from pipeline.guest.ssh_reach import (
    GuestState,
    SshWatch,
    explain_silence,
    read_answer,
    read_state,
    refused_login,
    unexplained_silence,
)
from pipeline.guest.sshd_log import sshd_reason

HOME = ("10.9.8.15", "10.0.2.15")
RUNS = "active=ssh.service\nlistens=22\n"

CUTS = {
    "no network": ((), RUNS, "guest-no-network", "no interface has an IPv4 address"),
    "sshd stopped": (
        HOME,
        "",
        "guest-sshd-dead",
        "sshd is not running in the guest (addresses 10.9.8.15, 10.0.2.15)",
    ),
    "sshd failed": (
        HOME,
        "failed=ssh.service\njournal=Nov 26 01:00:00 web sshd[7]: /etc/ssh/sshd_config: line 3: Bad configuration "
        "option: Nonsense\n",
        "guest-sshd-dead",
        "Bad configuration option: Nonsense",
    ),
    "another port": (HOME, "active=ssh.service\nlistens=2222\n", "step-cut-ssh", "port 2222, no longer on port 22"),
    "nftables": (
        HOME,
        f"{RUNS}firewall=nftables drops by default (table inet filter, chain input)\n",
        "step-cut-ssh",
        "nftables drops by default (table inet filter, chain input)",
    ),
    "iptables": (
        HOME,
        f"{RUNS}firewall=iptables has the rule: -A INPUT -p tcp --dport 22 -j DROP\n",
        "step-cut-ssh",
        "--dport 22 -j DROP",
    ),
}


@pytest.mark.parametrize("case", CUTS)
def test_a_cut_is_explained_by_the_guest(case: str) -> None:
    addresses, output, name, words = CUTS[case]
    error = explain_silence(read_answer(addresses, output))
    assert error is not None
    assert error.name == name
    assert words in error.message
    assert error.hint and len(error.hint) > 30


def test_a_guest_that_shows_no_reason_is_not_accused() -> None:
    reach = read_answer(HOME, RUNS)
    assert explain_silence(reach) is None
    assert unexplained_silence(reach).name == "step-cut-ssh"


def test_a_guest_may_answer_anything() -> None:
    reach = read_answer(HOME, "listens=٢٢\nlistens=99999999\nhello\n=x\nactive=ssh.service\n")
    assert (reach.listens, reach.active) == ((), ("ssh.service",))
    state = read_state("boot=b\nstate=running\nscheduled=USEC=17\nscheduled=MODE=reboot\nlogin=1 2\nboot=other\n")
    assert state == GuestState("b", "running", "reboot", "1 2")
    assert read_state("") == GuestState("", "", "", "")


class Guest:
    """A guest by its states: whether sshd greets, what systemd says, what `ask_guest` would print."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, output: str = RUNS, system: str = "running") -> None:
        self.now, self.greeting, self.output, self.system = 0.0, True, output, system
        self.asked = 0
        monkeypatch.setattr(ssh_reach, "ask_state", lambda *_: GuestState("b", self.system, "", ""))
        monkeypatch.setattr(ssh_reach, "ask_guest", lambda _: read_answer(HOME, self.output))
        self.watch = SshWatch(self.greets, lambda: None, "builder", clock=lambda: self.now)  # type: ignore[arg-type, return-value]

    def greets(self) -> bool:
        self.asked += 1
        self.now += 0.0 if self.greeting else 5.0  # a banner that does not come costs its time-out
        return self.greeting

    def until(self, end: float, *, every: float = 0.25, says: bool = False) -> None:
        while self.now < end:
            self.now += every
            if says:
                self.watch.hear("ok: [guest]")
            self.watch.look()


FIREWALL = f"{RUNS}firewall=nftables drops by default (table inet filter, chain input)\n"


def test_a_step_that_closes_port_22_is_named_within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible's own time-out is minutes; the case's step had 75 s."""
    guest = Guest(monkeypatch, FIREWALL)
    guest.until(30)
    guest.greeting = False
    with pytest.raises(GuestError, match="firewall keeps goldsmith out") as caught:
        guest.until(300)
    assert caught.value.name == "step-cut-ssh"
    assert guest.now < 70


def test_a_step_that_talks_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch)
    guest.until(120, every=5.0, says=True)
    assert guest.asked == 0
    guest.until(240)
    assert 4 < guest.asked < 10


def test_an_sshd_that_is_restarted_is_no_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch, FIREWALL)
    guest.until(30)
    guest.greeting = False
    guest.until(40)
    guest.greeting = True
    guest.until(200)


@pytest.mark.parametrize("system", ["starting", "stopping", ""])
def test_a_guest_that_restarts_is_waited_for(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ansible's reboot module knows when its guest is back."""
    guest = Guest(monkeypatch, "", system)
    guest.greeting = False
    guest.until(400)


def test_a_busy_guest_without_a_reason_is_given_two_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = Guest(monkeypatch)
    guest.greeting = False
    guest.until(110)
    with pytest.raises(GuestError, match="does not answer on port 22"):
        guest.until(400)


ECHO = """\
Nov 26 01:10:01 web sshd[601]: kex_exchange_identification: Connection closed by remote host
Nov 26 01:10:01 web sshd[601]: Connection closed by 10.0.0.1 port 40112
"""
REASONS = {
    "User clone from 10.0.0.1 not allowed because not listed in AllowUsers": "AllowUsers",
    "User clone from 10.0.0.1 not allowed because listed in DenyUsers": "DenyUsers",
    "User clone from 10.0.0.1 not allowed because none of user's groups are listed in AllowGroups": "AllowGroups",
    "User clone not allowed because shell /bin/none does not exist": "shell /bin/none",
    "ROOT LOGIN REFUSED FROM 10.0.0.1 port 40114": "ROOT LOGIN REFUSED",
    "pam_unix(sshd:account): account clone has expired (account expired)": "has expired",
    "pam_access(sshd:account): access denied for user `clone' from `10.0.0.1'": "access denied",
    "fatal: Access denied for user clone by PAM account configuration [preauth]": "PAM account configuration",
    "Authentication refused: bad ownership or modes for directory /home/clone": "bad ownership",
    "userauth_pubkey: signature algorithm ssh-ed25519 not in PubkeyAcceptedAlgorithms [preauth]": "PubkeyAccepted",
    "Unable to negotiate with 10.0.0.1 port 5: no matching host key type found. Their offer: x": "no matching",
    "Invalid user clone from 10.0.0.1 port 40116": "Invalid user clone",
    "Connection closed by authenticating user clone 10.0.0.1 port 40118 [preauth]": "authenticating user clone",
}


@pytest.mark.parametrize("line", REASONS)
@pytest.mark.parametrize("program", ["sshd", "sshd-session"])
def test_a_refused_login_is_told_by_sshds_reason_not_by_our_echo(line: str, program: str) -> None:
    """goldsmith asks for the banner before and after; each question leaves two lines, and each refused login one."""
    after = f"Nov 26 01:10:04 web {program}[603]: Connection closed by authenticating user clone 10.0.0.1 port 2\n"
    journal = f"{ECHO}Nov 26 01:10:03 web {program}[602]: {line}\n{after}{ECHO}"
    found = sshd_reason(journal)
    assert REASONS[line] in found
    assert "kex_exchange" not in found
    error = refused_login(journal, "goldsmith-build", "Permission denied (publickey).")
    assert REASONS[line] in error.message and "goldsmith-build" in error.message


def test_the_echo_alone_is_no_reason() -> None:
    assert sshd_reason(ECHO) == ""
    assert "Permission denied" in refused_login(ECHO, "builder", "Permission denied (publickey).").message


SS = """\
LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:* users:(("systemd-resolve",pid=300,fd=18))
LISTEN 0 4096 0.0.0.0:5355 0.0.0.0:* users:(("systemd-resolve",pid=300,fd=12))
LISTEN 0 4096 *:9090 *:* users:(("systemd",pid=1,fd=40))
"""


@pytest.mark.parametrize(
    ("sshd", "sockets", "ports"),
    [
        ('LISTEN 0 128 [::]:2222 [::]:* users:(("sshd",pid=700,fd=3))', "", ("2222",)),
        ('LISTEN 0 4096 [::]:2222 [::]:* users:(("systemd",pid=1,fd=41))', "Listen=[::]:2222 (Stream)", ("2222",)),
        ("", "Listen=[::]:22 (Stream)", ()),
    ],
    ids=["a daemon", "a socket of systemd", "none"],
)
def test_only_sshds_own_ports_are_named(tmp_path: Path, sshd: str, sockets: str, ports: tuple[str, ...]) -> None:
    """systemd's resolver was taken for sshd: "sshd listens on port 53, 5355, 2222"."""
    for name, output in (("ss", f"{SS}{sshd}\n"), ("systemctl", f"{sockets}\n"), ("journalctl", "")):
        (tmp_path / name).write_text(f"#!/bin/sh\ncat <<'E'\n{output}E\n")
        (tmp_path / name).chmod(0o755)
    script = ssh_reach._LOOK.replace("PATH=", f"PATH={tmp_path}:")
    output = subprocess.run(["sh", "-s"], input=script, capture_output=True, text=True, check=True).stdout
    assert read_answer(HOME, output).listens == ports
