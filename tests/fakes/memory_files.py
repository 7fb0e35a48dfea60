"""A file system in memory: what a reader of roots sees, without a disk."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.disk.filesystem import Entry, FileSystem, Stat
from pipeline.disk.root import Root


class MemoryFiles(FileSystem):
    """`files` maps paths without a leading slash to contents; a text that begins with "-> " is a link's target."""

    def __init__(self, files: Mapping[str, str | bytes]) -> None:
        super().__init__("memory", 0)
        self._nodes: list[dict[str, int] | bytes | str] = [{}]
        for path, content in files.items():
            *folders, name = path.split("/")
            here = 0
            for folder in folders:
                here = self._child(here, folder, {})
            if isinstance(content, str):
                content = content.removeprefix("-> ") if content.startswith("-> ") else content.encode()
            self._child(here, name, content)

    def _child(self, inode: int, name: str, node: dict[str, int] | bytes | str) -> int:
        folder = self._nodes[inode]
        assert isinstance(folder, dict), name
        if name not in folder:
            self._nodes.append(node)
            folder[name] = len(self._nodes) - 1
        return folder[name]

    @property
    def root(self) -> int:
        return 0

    def read_link(self, inode: int) -> str:
        node = self._nodes[inode]
        assert isinstance(node, str)
        return node

    def read(self, inode: int, offset: int, length: int) -> bytes:
        node = self._nodes[inode]
        assert isinstance(node, bytes)
        return node[offset : offset + length]

    def _runs(self, inode: int) -> list[tuple[int, int]]:
        del inode
        return []

    def _type(self, inode: int) -> str:
        node = self._nodes[inode]
        return "dir" if isinstance(node, dict) else "link" if isinstance(node, str) else "file"

    def _read_directory(self, inode: int) -> dict[str, Entry]:
        folder = self._nodes[inode]
        assert isinstance(folder, dict)
        return {name: Entry(name, number, self._type(number)) for name, number in folder.items()}

    def _read_stat(self, inode: int) -> Stat:
        node = self._nodes[inode]
        return Stat(inode, self._type(inode), 0o755, 0, 0, len(node), 0)


def memory_root(files: Mapping[str, str | bytes]) -> Root:
    return Root(MemoryFiles(files))
