"""A Slurm cluster on this host: the real munged, slurmctld and a slurmd for each node, in one folder.

Two slurmds on one host, without a service manager: their configuration is that of a trial with Slurm 22.05. Each node
is a worker of goldsmith with a store and a signing key of its own; `worker.sh` chooses them by the node's name.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.evidence import signing
from pipeline.guest.access import free_ports
from tests.harness import ROOT, wait_for
from tests.processes import kill, other_processes

#: What a host needs for it.
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo", "srun")
#: The packages that have them.
PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
#: Seconds for a daemon to answer, on a busy host.
SOON = 60.0

_CONF = """\
ClusterName=goldsmith
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
CredType=cred/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
JobRequeue=1
KillWait=5
SlurmctldTimeout=30
SlurmdTimeout=10
MpiDefault=none
MinJobAge=300
MessageTimeout=5
AccountingStorageType=accounting_storage/none
PartitionName=build Nodes={names} Default=YES MaxTime=2:00:00 DefaultTime=0:30:00 State=UP
"""
_NODE = "NodeName={name} NodeHostName={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=8000 TmpDisk=1000\n"
#: What a job runs: goldsmith with the builder of tests, in the store and with the key of its node.
_WORKER = """\
#!/bin/sh
node=${{SLURMD_NODENAME:?}}
export GOLDSMITH_HOME={folder}/$node/store GOLDSMITH_KEY={folder}/$node/keys/signing.key PYTHONPATH={root}
export GOLDSMITH_STUB={folder}/stub.json XDG_STATE_HOME={folder}/$node/state
cd {root}
exec {python} -m tests.fakes.stub_builder "$@"
"""


class Cluster:
    """Daemons by their names, in `folder`: slurmctld, munged, and the nodes."""

    def __init__(self, folder: Path, nodes: Sequence[str]) -> None:
        self.folder = folder
        self.nodes = tuple(nodes)
        self.conf = folder / "slurm.conf"
        self.worker = folder / "worker.sh"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SLURM_CONF": str(self.conf), "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}

    def write(self) -> None:
        """The configuration, a key and a store for each node, and keys that all of them trust."""
        host = socket.gethostname().partition(".")[0]
        ports = free_ports(1 + len(self.nodes))
        text = _CONF.format(host=host, folder=self.folder, port=ports[0], names=",".join(self.nodes))
        rows = [
            _NODE.format(name=name, host=host, port=port) for name, port in zip(self.nodes, ports[1:], strict=True)
        ]
        (self.folder / "state").mkdir()
        (self.folder / "munge.key").write_bytes(bytes(range(256)) * 4)
        (self.folder / "munge.key").chmod(0o400)
        self.conf.write_text(text + "".join(rows))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.worker.write_text(_WORKER.format(folder=self.folder, root=ROOT, python=sys.executable))
        self.worker.chmod(0o755)
        for name in ("owner", *self.nodes):
            (self.folder / name / "store").mkdir(parents=True, exist_ok=True)
            signing.make(self.folder / name / "keys" / "signing.key")
        for name in ("owner", *self.nodes):
            for other in ("owner", *self.nodes):
                if other != name:
                    key = self.folder / other / "keys" / "signing.pub"
                    shutil.copyfile(key, self.folder / name / "keys" / f"{other}.pub")

    def settings(self, exchange: Path) -> str:
        """The text of a slurm.yaml for it."""
        keys = ", ".join(f"{name}: {self.folder / name}/keys/signing.pub" for name in self.nodes)
        return f"exchange: {exchange}\ngoldsmith: {self.worker}\nminutes: 30\nworkers: {{{keys}}}\n"

    def start(self) -> None:
        self._start("munged", ["munged", "--foreground", "--force", "--num-threads=2", *self._munge_files()])
        wait_for("munge's socket", lambda: (self.folder / "munge.socket").exists(), SOON)
        self.start_controller()
        for name in self.nodes:
            self.start_node(name)
        self.wait_idle(*self.nodes)

    def _munge_files(self) -> list[str]:
        names = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munge.pid",
            "seed-file": "munge.seed",
        }
        return [f"--{option}={self.folder / name}" for option, name in names.items()] + [
            f"--log-file={self.folder / 'munge.log'}"
        ]

    def start_controller(self) -> None:
        self._start("slurmctld", ["slurmctld", "-D", "-f", str(self.conf)])

    def start_node(self, name: str) -> None:
        self._start(name, ["slurmd", "-D", "-f", str(self.conf), "-N", name])

    def kill(self, name: str) -> None:
        """SIGKILL to a daemon; what it has started lives on."""
        child = self._children.pop(name)
        child.kill()
        child.wait()

    def wait_idle(self, *names: str) -> None:
        wait_for(f"{names} take jobs", lambda: set(names) <= self.states().keys(), SOON)

    def states(self) -> dict[str, str]:
        """The nodes that take jobs, with their states."""
        done = self.call("sinfo", "--noheader", "--Node", "--format=%N %T", check=False)
        pairs = (line.split() for line in done.splitlines())
        return {pair[0]: pair[1] for pair in pairs if pair[1] in ("idle", "mixed", "allocated")}

    def call(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(words, capture_output=True, text=True, env=self.environment, check=check)
        return done.stdout

    def jobs(self) -> list[tuple[int, str, str, str]]:
        """Id, name, state and node of each job that Slurm remembers."""
        lines = self.call("squeue", "--noheader", "--states=all", "--format=%A %j %T %N", check=False).splitlines()
        rows = [[*line.split(" "), ""][:4] for line in lines]
        return [(int(row[0]), row[1], row[2], row[3]) for row in rows]

    def end(self) -> None:
        for name in ("slurmctld", *self.nodes, "munged"):
            if name in self._children:
                child = self._children.pop(name)
                child.send_signal(signal.SIGTERM)
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    child.kill()
                    child.wait()
        # a killed slurmd leaves the process that runs a job
        self._kill_where(f"SLURM_CONF={self.conf}")

    def kill_work(self, name: str) -> None:
        """SIGKILL to all that a node's jobs have started, as where its power fails."""
        self._kill_where(f"SLURMD_NODENAME={name}", f"GOLDSMITH_HOME={self.folder}/{name}/store")
        for each in other_processes():
            if each.line.startswith("slurmstepd: [") and str(self.folder) in each.environment:
                kill(each.pid)

    def _kill_where(self, *words: str) -> None:
        """SIGKILL to each process whose environment has one of the words, if it is of this cluster."""
        for each in other_processes():
            environment = each.environment
            if str(self.folder) in environment and any(word in environment for word in words):
                kill(each.pid)

    def _start(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as output:
            self._children[name] = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self.environment
            )


@contextmanager
def running_cluster(folder: Path, nodes: Sequence[str]) -> Iterator[Cluster]:
    cluster = Cluster(folder, nodes)
    cluster.write()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.end()
