"""How long a guest may take for what."""

from __future__ import annotations

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Timeouts:
    """Deadlines in seconds. A guest under TCG boots in 40 to 80 s on a quiet host; a busy one takes thrice that."""

    boot: float
    login_grace: float
    ssh: float
    command: float
    shutdown: float
    #: From a clone's login prompt to its Ready: waagent begins when the boot is over, and is Python.
    ready_grace: float
    #: From a clone's power-on to the first sign of life: a word on its console, or to the fabric.
    silent: float
    #: From the power button to the end of a guest that has failed, whose journal is in its memory until then.
    button: float
    #: For sshd's banner after a step, which may have restarted sshd or the network.
    greeting: float

    @classmethod
    def for_kind(cls, kvm: bool, slowness: float = 1.0) -> Timeouts:
        """The deadlines with KVM or emulated, times `slowness`: the accelerator's verdict has it."""
        made = cls._usual(kvm)
        return cls(*(slowness * each for each in astuple(made)))

    @classmethod
    def _usual(cls, kvm: bool) -> Timeouts:
        if kvm:
            return cls(
                boot=180,
                login_grace=30,
                ssh=60,
                command=120,
                shutdown=120,
                ready_grace=60,
                silent=60,
                button=15,
                greeting=15,
            )
        return cls(
            boot=420,
            login_grace=60,
            ssh=300,
            command=300,
            shutdown=240,
            ready_grace=180,
            silent=180,
            button=60,
            greeting=30,
        )
