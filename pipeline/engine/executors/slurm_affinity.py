"""Which host of a Slurm cluster has the layers of an image, and which jobs wait for that host."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pipeline.base.files import Shape, read_usable, write_json

#: Where each image was built last, in the store: its layers are there.
HOSTS = "slurm-hosts.json"


class _Hosts(Shape):
    images: dict[str, str]


class LayerHosts:
    """The record of a store: the node that built each image last. It is a hint; a lost one costs time only."""

    def __init__(self, root: Path) -> None:
        self._path = root / HOSTS

    def read(self) -> dict[str, str]:
        record = read_usable(self._path, _Hosts)
        return dict(record["images"]) if record else {}

    def remember(self, name: str, node: str) -> None:
        write_json(self._path, {"images": {**self.read(), name: node}})


def share_nodes(names: Sequence[str], hosts: Mapping[str, str], nodes: Collection[str]) -> dict[str, str]:
    """The images that wait for the node with their layers, by `hosts`: none of `nodes` gets more than its share.

    Layers that gather on one node must not leave the others idle. The images beyond a share, in the order of `names`,
    run where Slurm has room first.
    """
    share = -(-len(names) // len(nodes)) if nodes else 0
    found: dict[str, str] = {}
    taken: Counter[str] = Counter()
    for name in names:
        node = hosts.get(name)
        if node is not None and node in nodes and taken[node] < share:
            found[name] = node
            taken[node] += 1
    return found
