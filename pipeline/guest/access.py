"""A run's access to its guest: a user, a key and a seed, made for this run and gone with it.

All of it lies on tmpfs, 0600. The guest's host key comes over the agent, not over the network, and is checked.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.base import process
from pipeline.base.errors import GoldsmithError, HostError
from pipeline.base.runs import remove_tree

if TYPE_CHECKING:
    from pipeline.hypervisor.domain import Forward

#: The build's user in the guest. generalize removes it; the check `build-user` proves that.
BUILD_USER = "goldsmith-build"
#: Where run-time folders may lie, best first; the first that is a tmpfs is taken.
TMPFS = (Path("/run"), Path("/dev/shm"))  # noqa: S108  the folder below it is ours, 0711, made per run


SSH_BANNER = b"SSH-2.0"


def tmpfs_root() -> Path:
    """A folder of ours on tmpfs. Raises HostError where the host has none."""
    mounts = {}
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        mounts[fields[1]] = fields[2]
    for place in TMPFS:
        if mounts.get(str(place)) == "tmpfs" and os.access(place, os.W_OK):
            return place / "goldsmith"
    raise HostError("neither /run nor /dev/shm is a tmpfs, which a build needs for its keys", name="tmpfs-missing")


def run_folder(run_id: str, name: str) -> Path:
    """A folder on tmpfs for one guest of a run; anyone who makes the guest removes it."""
    root = tmpfs_root()
    folder = root / run_id / name
    # search for qemu's user, which reads the media in it; nothing to list
    for level in (root, root / run_id, folder):
        level.mkdir(mode=0o711, parents=True, exist_ok=True)  # a sweep may have taken the root, empty
        level.chmod(0o711)
    return folder


#: Ports among which one is drawn for a guest: those below the range that the kernel gives to connections (ip(7),
#: ip_local_port_range), so that no connection of this host takes the port before the guest's machine listens on it.
_LOWEST_PORT, _PORT_RANGE = 16_384, Path("/proc/sys/net/ipv4/ip_local_port_range")


def free_port() -> int:
    """A TCP port that was free on the loopback a moment ago."""
    count = int(_PORT_RANGE.read_text().split()[0]) - _LOWEST_PORT
    for _ in range(100 if count > 0 else 0):
        port = _LOWEST_PORT + secrets.randbelow(count)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def free_ports(number: int) -> list[int]:
    """So many TCP ports that were free on the loopback a moment ago, each another one."""
    found: set[int] = set()
    while len(found) < number:
        found.add(free_port())
    return sorted(found)


@dataclass(frozen=True)
class Access:
    """The folder that holds one guest's key, seed and host key, and where its sshd is reached."""

    folder: Path
    user: str
    ssh_port: int

    @property
    def key(self) -> Path:
        return self.folder / "private" / "key"

    @property
    def public_key(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    @property
    def known_hosts(self) -> Path:
        return self.folder / "private" / "known_hosts"

    @property
    def control(self) -> Path:
        """Where ssh keeps the one connection that all of a session's commands share."""
        return self.folder / "private" / "control"

    @property
    def seed(self) -> Path:
        return self.folder / "seed.iso"

    @property
    def nvram(self) -> Path:
        return self.folder / "vars.fd"

    @classmethod
    def create(cls, run_id: str, name: str, user: str) -> Access:
        folder = run_folder(run_id, name)
        access = cls(folder, user, free_port())
        access.key.parent.mkdir(mode=0o700)
        process.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "goldsmith", "-f", access.key],
            deadline=30,
        )
        return access

    @property
    def forward(self) -> Forward:
        from pipeline.hypervisor.domain import Forward

        return Forward(self.ssh_port, 22)

    def trust(self, host_key: str) -> None:
        """Accept exactly this host key (the text of ssh_host_ed25519_key.pub)."""
        kind, blob, *_ = host_key.split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.ssh_port} {kind} {blob}\n")

    def greets(self) -> bool:
        """Whether an sshd greets. QEMU and the relay accept before the guest does: only text tells."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.ssh_port), timeout=2) as link:
            link.settimeout(5)
            return link.recv(16).startswith(SSH_BANNER)
        return False

    def forget_host_key(self) -> None:
        self.known_hosts.unlink(missing_ok=True)

    def learn_host_key(self, deadline: float) -> bool:
        """Accept the key that a clone shows: there is nobody else on the way to it. False when it shows none."""
        argv = ["ssh-keyscan", "-T", f"{deadline:.0f}", "-t", "ed25519", "-p", str(self.ssh_port), "127.0.0.1"]
        fields = process.run(argv, deadline=deadline + 10, ok_codes=(0, 1)).stdout.split()
        if len(fields) < 3:
            return False
        self.trust(f"{fields[-2]} {fields[-1]}")
        return True

    def write_seed(self, user_data: Mapping[str, Any], network: Mapping[str, Any], hostname: str) -> None:
        """A NoCloud seed (volume `cidata`) with a fresh instance id."""
        meta = {"instance-id": f"goldsmith-{secrets.token_hex(8)}", "local-hostname": hostname}
        files = {
            "meta-data": yaml.safe_dump(meta),
            "user-data": "#cloud-config\n" + yaml.safe_dump(dict(user_data), sort_keys=False),
            "network-config": yaml.safe_dump(dict(network), sort_keys=False),
        }
        write_iso(self.seed, "cidata", files)
        self.seed.chmod(0o600)

    @property
    def ssh_options(self) -> list[str]:
        pairs = {
            "UserKnownHostsFile": str(self.known_hosts),
            "StrictHostKeyChecking": "yes",
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.key),
            "BatchMode": "yes",
            "ConnectTimeout": "30",
            # a connection that is dead is given up after a minute; Ansible takes these options too (`inventory`)
            "ServerAliveInterval": "10",
            "ServerAliveCountMax": "6",
            "LogLevel": "ERROR",
            # on the loopback nobody listens, and the default's post-quantum half is slow in an emulated guest
            "KexAlgorithms": "^curve25519-sha256",
        }
        return [word for k, v in pairs.items() for word in ("-o", f"{k}={v}")]

    def ssh(self, *remote: str, tty: bool = False, shared: bool = True) -> list[str]:
        """The argv of an ssh to the guest, over the session's shared connection, or over a new one of its own."""
        where = ["-p", str(self.ssh_port), *(["-t"] if tty else []), f"{self.user}@127.0.0.1"]
        control = ["-o", "ControlMaster=auto", "-o", f"ControlPath={self.control}", "-o", "ControlPersist=yes"]
        if tty or not shared:
            control = ["-o", "ControlPath=none"]
        return ["ssh", "-F", "/dev/null", *self.ssh_options, *control, *where, *remote]

    @property
    def ansible_controls(self) -> Path:
        """The folder where Ansible's ssh keeps its shared connections."""
        return self.folder / "private" / "cp"

    @property
    def owner_folder(self) -> Path:
        """The private folder of the project's owner, where Ansible does not run as root; made anew for each step."""
        return self.folder / "owner"

    def hang_up(self) -> None:
        """End the shared connections. A guest that dies takes them along; one that restarts leaves them dead."""
        for control in (
            self.control,
            *sorted(self.ansible_controls.glob("*")),
            *sorted(self.owner_folder.glob("cp/*")),
        ):
            if control.is_socket():
                with contextlib.suppress(GoldsmithError):
                    argv = ["ssh", "-F", "/dev/null", "-o", f"ControlPath={control}", "-O", "exit", "guest"]
                    process.run(argv, deadline=10, ok_codes=(0, 255))

    def inventory(self) -> Path:
        """An Ansible inventory with the one host `guest`."""
        path = self.folder / "private" / "inventory.json"
        options = " ".join(["-F /dev/null", *self.ssh_options])
        host = {
            # a variable goes before a play's `connection: local`, which would do its tasks to the build host
            "ansible_connection": "ssh",
            "ansible_host": "127.0.0.1",
            "ansible_port": self.ssh_port,
            "ansible_user": self.user,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": options,
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": True,
        }
        path.write_text(json.dumps({"all": {"hosts": {"guest": host}}}))
        return path

    def to_json(self) -> dict[str, Any]:
        return {"folder": str(self.folder), "user": self.user, "port": self.ssh_port}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Access:
        return cls(Path(data["folder"]), str(data["user"]), int(data["port"]))

    def remove(self) -> None:
        remove_tree(self.folder)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()


def sweep_access(wanted: Callable[[str], bool]) -> list[str]:
    """Remove the access folders of runs that nobody wants any more; their run ids."""
    root = tmpfs_root()
    gone = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        if not wanted(folder.name):
            remove_tree(folder)
            gone.append(folder.name)
    with contextlib.suppress(OSError):
        root.rmdir()  # where nobody has anything in it
    return gone


def write_iso(path: Path, label: str, files: Mapping[str, str]) -> None:
    """A small ISO 9660 image with Joliet and Rock Ridge names."""
    import pycdlib

    iso = pycdlib.PyCdlib()
    iso.new(joliet=3, rock_ridge="1.09", vol_ident=label)
    for number, (name, text) in enumerate(files.items()):
        data = text.encode()
        iso.add_fp(io.BytesIO(data), len(data), f"/F{number}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write(str(path))
    iso.close()
