"""Where things land: the folders of a store, and those of its host outside of it. Who makes a Store names both."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.base.errors import HostError
from pipeline.base.file_errors import describe_os_error
from pipeline.base.surroundings import DEFAULT_HOME, user_home

#: The private half of the key that signs what this host makes.
DEFAULT_KEY = Path("/etc/goldsmith/signing.key")
#: The user under which the fabric serves VMs; `make setup` makes it.
FABRIC_USER = "goldsmith-fabric"
#: The user under which `goldsmith serve azure` reads requests; `make setup` makes it.
FACADE_USER = "goldsmith-facade"
#: The user who runs Ansible and the commands of secrets for projects that root owns.
ANSIBLE_USER = "goldsmith-ansible"
#: What an image may be called: a folder of the gallery, a file of a project, and a part of a domain's name.
IMAGE_NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,60}[a-z0-9])?", re.ASCII)

#: The owner of whatever instances have on a host, in the place where a run's id stands.
INSTANCES = "vms"


@dataclass(frozen=True)
class Host:
    """What a host has of its own, in none of its stores.

    `facts`: what was measured of it, until it boots again. `cache`: this user's, where the store may not be written
    to. `key`: what signs masters here.
    """

    facts: Path = Path("/run/goldsmith-host")
    cache: Path = field(default_factory=lambda: user_home() / ".cache" / "goldsmith")
    key: Path = DEFAULT_KEY


@dataclass(frozen=True)
class Store:
    """The store's folders. libvirt's qemu user must be able to search every folder above a disk."""

    root: Path
    host: Host = field(default_factory=Host)

    @property
    def gallery(self) -> Path:
        return self.root / "gallery"

    @property
    def layers(self) -> Path:
        return self.root / "layers"

    @property
    def runs(self) -> Path:
        return self.root / "runs"

    @property
    def downloads(self) -> Path:
        return self.root / "downloads"

    @property
    def instances(self) -> Path:
        return self.root / "instances"

    @property
    def suites(self) -> Path:
        """Test suites that are programs of their own; made by `goldsmith suite install`."""
        return self.root / "suites"

    @property
    def disks(self) -> Path:
        return self.root / "disks"

    @property
    def sets(self) -> Path:
        """Sets of VMs; made with the first set."""
        return self.root / "sets"

    @property
    def endpoints(self) -> Path:
        """Endpoints of sets; made with the first endpoint."""
        return self.root / "endpoints"

    @property
    def deployments(self) -> Path:
        """Deployments of sets and endpoints; made with the first deployment."""
        return self.root / "deployments"

    @property
    def tmp(self) -> Path:
        return self.root / "tmp"

    @property
    def folders(self) -> tuple[Path, ...]:
        return (self.gallery, self.layers, self.runs, self.instances, self.disks, self.downloads, self.tmp)

    def label(self, run: str) -> str:
        """A run's name where several stores meet (domains, access folders): R12, or R12-3fa9c1 in another store."""
        return run if self.root == DEFAULT_HOME else f"{run}-{self._tag}"

    @property
    def instances_label(self) -> str:
        """What the network, the media and the domains of this store's instances carry, as a run's carry its label."""
        return self.label(INSTANCES)

    def own_run(self, label: str) -> str | None:
        """The run that a label names, or None when it is another store's."""
        run, _, tag = label.partition("-")
        return run if tag == ("" if self.root == DEFAULT_HOME else self._tag) else None

    @property
    def tag(self) -> str:
        """What tells this store's guests from another's: nothing in the default store."""
        return "" if self.root == DEFAULT_HOME else f"{self._tag}-"

    @property
    def _tag(self) -> str:
        return hashlib.sha256(str(self.root).encode()).hexdigest()[:6]

    def ensure(self) -> Store:
        """Make the folders. Raises HostError where that is not allowed."""
        try:
            for folder in (self.root, *self.folders):
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            hint = describe_os_error(error).hint
            raise HostError(
                f"the store {self.root} cannot be created: {error.strerror}",
                name="store-missing",
                hint=f"{hint}; `make setup` creates the default store; GOLDSMITH_HOME names another one",
            ) from None
        return self
