"""Why goldsmith's ssh does not reach a build guest, asked of the guest itself over its agent.

A step may close port 22, stop sshd or the network, or change who may log in. The agent needs none of these.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.base.errors import GoldsmithError, GuestError
from pipeline.guest.sshd_log import sshd_reason
from pipeline.hypervisor.agent import Agent

#: Seconds without a line of a step's output, after which sshd is asked for its banner; between two such questions
#: while it answers; and while it does not. A banner costs an emulated guest half a second of its processor.
QUIET, ASK_EVERY, ASK_AGAIN = 20.0, 15.0, 4.0
#: Seconds without a banner after which the guest is asked why, and after which it counts without a reason: a busy
#: guest under TCG takes some seconds for a banner.
LOST, LOST_WITHOUT_REASON = 15.0, 120.0
#: Seconds for the questions below; a busy emulated guest takes five.
ASKING = 60.0

#: Prints `name=value` lines: the units of sshd that are active, the ports on which it listens, what firewall
#: drops packets by default, and the last words of sshd in the journal.
_LOOK = r"""
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
for unit in ssh.service sshd.service ssh.socket sshd.socket; do
    state=$(systemctl is-active "$unit" 2>/dev/null)
    case $state in active|activating|reloading) echo "active=$unit";; failed) echo "failed=$unit";; esac
done
sockets=$(systemctl show -p Listen ssh.socket sshd.socket 2>/dev/null)
ss -Hltnp 2>/dev/null | while read -r _ _ _ address _ process; do
    case $process in
        *'"sshd'*) echo "listens=${address##*:}";;
        # systemd listens for many, and its resolver too has a name that begins so
        *'"systemd",'*) case $sockets in *":${address##*:} "*) echo "listens=${address##*:}";; esac;;
    esac
done
if command -v nft >/dev/null; then
    nft list ruleset 2>/dev/null | while read -r line; do
        case $line in
            table\ *) table=${line%% \{*};;
            chain\ *) chain=${line%% \{*};;
            *hook\ input*policy\ drop*) echo "firewall=nftables drops by default ($table, $chain)";;
        esac
    done
    nft list ruleset 2>/dev/null | grep -E 'dport (22|ssh) .*(drop|reject)' | while read -r rule; do
        echo "firewall=nftables has the rule: $rule"
    done
fi
if command -v iptables >/dev/null; then
    iptables -S INPUT 2>/dev/null | while read -r rule; do
        case $rule in
            "-P INPUT DROP") echo "firewall=iptables drops by default (chain INPUT)";;
            *"--dport 22 "*DROP*|*"--dport 22 "*REJECT*|"-A INPUT -j DROP"*|"-A INPUT -j REJECT"*)
                echo "firewall=iptables has the rule: $rule";;
        esac
    done
fi
journalctl -b -q --no-pager -o short -n 60 -t sshd -t sshd-session 2>/dev/null | sed 's/^/journal=/'
"""

_FIREWALL_HINT = (
    "allow TCP port 22 during the build (`ct state established,related accept` and `tcp dport 22 accept`), "
    "or only enable the firewall, so that it starts at a clone's first boot"
)
_LOGIN_HINT = (
    "allow the user {user} to log in until the last step (generalize removes it), or restrict logins in the last step"
)


@dataclass(frozen=True)
class Reach:
    """What a guest says of its own ways in. `listens` are the TCP ports of sshd."""

    addresses: tuple[str, ...]
    active: tuple[str, ...]
    failed: tuple[str, ...]
    listens: tuple[str, ...]
    firewall: tuple[str, ...]
    journal: str


def ask_guest(agent: Agent) -> Reach:
    """Ask the guest. Raises GuestError where its agent does not answer."""
    addresses = tuple(agent.addresses())
    output = agent.execute(["/bin/sh", "-s"], stdin=_LOOK, deadline=ASKING).stdout
    return read_answer(addresses, output)


def read_answer(addresses: tuple[str, ...], output: str) -> Reach:
    """The `name=value` lines of a guest, as a Reach. Other lines are dropped: a guest may print anything."""
    found: dict[str, list[str]] = {name: [] for name in ("active", "failed", "listens", "firewall", "journal")}
    for line in output.splitlines():
        name, separator, value = line.partition("=")
        if separator and name in found:
            found[name].append(value[:300])
    ports = tuple(dict.fromkeys(port for port in found["listens"] if re.fullmatch(r"[0-9]{1,5}", port, re.ASCII)))
    return Reach(
        addresses,
        tuple(found["active"]),
        tuple(found["failed"]),
        ports,
        tuple(dict.fromkeys(found["firewall"])),
        "\n".join(found["journal"]),
    )


def explain_silence(reach: Reach) -> GuestError | None:
    """Why sshd sends no banner, or None where the guest shows no reason. Pure."""
    if not reach.addresses:
        return GuestError(
            "the guest has no network: no interface has an IPv4 address",
            name="guest-no-network",
            hint="keep the guest's network up during the build, and change only its configuration for the next "
            "boot; the journal is in the run's folder",
        )
    if not reach.active:
        state = f" ({', '.join(reach.failed)} failed)" if reach.failed else ""
        reason = sshd_reason(reach.journal)
        return GuestError(
            f"sshd is not running in the guest (addresses {', '.join(reach.addresses)}){state}"
            + (f": {reason}" if reason else ""),
            name="guest-sshd-dead",
            hint="a step has stopped sshd or broken its configuration; check it with `sshd -t` as the step's last "
            "command",
        )
    if reach.listens and "22" not in reach.listens:
        return GuestError(
            f"sshd listens on port {', '.join(reach.listens)}, no longer on port 22, by which goldsmith reaches it",
            name="step-cut-ssh",
            hint="keep port 22 during the build; change sshd's configuration without restarting sshd, so that it "
            "applies to the clones",
        )
    if reach.firewall:
        return GuestError(
            f"sshd runs, but the guest's firewall keeps goldsmith out of port 22: {'; '.join(reach.firewall)}",
            name="step-cut-ssh",
            hint=_FIREWALL_HINT,
        )
    return None


def unexplained_silence(reach: Reach) -> GuestError:
    """sshd sends no banner, and the guest shows no reason."""
    return GuestError(
        f"sshd runs in the guest (addresses {', '.join(reach.addresses)}), but does not answer on port 22",
        name="step-cut-ssh",
        hint="check whether the step changed routes, packet filters or /etc/hosts.deny; the journal is in the "
        "run's folder",
    )


def refused_login(journal: str, user: str, words: str) -> GuestError:
    """sshd answers, and does not let `user` in; `words` are what the ssh client said."""
    reason = sshd_reason(journal) or words
    return GuestError(
        f"sshd refuses goldsmith's user {user}: {reason}",
        name="step-cut-ssh",
        hint=_LOGIN_HINT.format(user=user),
    )


#: What a guest says of itself before and after a step: `name=value` lines. The shell's own commands are preferred:
#: each process costs a tenth of a second under TCG.
_STATE = r"""
export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
read -r boot </proc/sys/kernel/random/boot_id; echo "boot=$boot"
echo "state=$(systemctl is-system-running 2>/dev/null)"
while read -r _ where _ how _; do [ "$where" = / ] && root=${how%%,*}; done </proc/mounts
echo "root=$root"
if [ -e /run/systemd/shutdown/scheduled ]; then
    while read -r line; do echo "scheduled=$line"; done </run/systemd/shutdown/scheduled
fi
echo "login=$(stat -L -c '%n %i %s %Y' /etc/ssh/sshd_config /etc/ssh/sshd_config.d/* {keys} \
    /etc/passwd /etc/shadow /etc/security/* /etc/pam.d/sshd /etc/nologin /run/nologin /etc/hosts.deny 2>/dev/null |
    cksum)"
"""


@dataclass(frozen=True)
class GuestState:
    """A guest at one moment. `login` changes with the files that decide who may log in.

    `systemd` is systemd's word: running, degraded, starting, stopping, ...; `scheduled` is the mode of a shutdown
    that is to come (reboot, poweroff, halt, kexec), or "". `root` is rw or ro, as / is mounted.
    """

    boot: str
    systemd: str
    scheduled: str
    login: str
    root: str = ""

    @property
    def settled(self) -> bool:
        return self.systemd in ("running", "degraded")


def ask_state(agent: Agent, user: str, check: Callable[[], None] | None = None) -> GuestState:
    """Ask the guest for its state. Raises GuestError where its agent does not answer."""
    script = _STATE.replace("{keys}", shlex.quote(f"/home/{user}/.ssh/authorized_keys"))
    done = agent.execute(["/bin/sh", "-s"], stdin=script, deadline=ASKING, check=check)
    return read_state(done.stdout)


def read_state(output: str) -> GuestState:
    """The lines of `_STATE`. Pure."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        name, _, value = line.partition("=")
        if name == "scheduled" and value.startswith("MODE="):
            found["scheduled"] = value.removeprefix("MODE=").strip()[:20]
        else:
            found.setdefault(name, value.strip()[:100])
    return GuestState(*(found.get(name, "") for name in ("boot", "state", "scheduled", "login", "root")))


class SshWatch:
    """Notices in the middle of a step that sshd cannot be reached any more.

    `greets` asks sshd for its banner; `agent` asks the guest. A guest that restarts or shuts down is none of its
    business: Ansible's reboot module waits for it.
    """

    def __init__(
        self,
        greets: Callable[[], bool],
        agent: Callable[[], Agent],
        user: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._greets = greets
        self._agent = agent
        self._user = user
        self._clock = clock
        self._heard = self._next = clock()
        self._lost: float | None = None

    def hear(self, _line: str) -> None:
        """The step has said something: it lives."""
        self._heard = self._clock()

    def look(self) -> None:
        """Called while a step waits, some times a second. Raises GuestError when sshd is out of reach for good."""
        now = self._clock()
        if now < self._next or now - self._heard < QUIET:
            return
        if self._greets():
            self._lost, self._next = None, self._clock() + ASK_EVERY
            return
        # by the clock of the first failed question: the question itself takes seconds
        self._lost = now if self._lost is None else self._lost
        self._next = self._clock() + ASK_AGAIN
        since = self._clock() - self._lost
        if since < LOST:
            return
        try:
            if not ask_state(self._agent(), self._user).settled:
                self._lost = None
                return
            reach = ask_guest(self._agent())
        except GoldsmithError:
            self._lost = None  # the guest is on its way down or up
            return
        error = explain_silence(reach)
        if error is None and since >= LOST_WITHOUT_REASON:
            error = unexplained_silence(reach)
        if error is not None:
            raise error


def named(error: GuestError, title: str) -> GuestError:
    """The same failure with the step's name in front."""
    return GuestError(f"{title}: {error.message}", name=error.name, hint=error.hint, evidence=error.evidence)
