"""A copy of the project, by links, in which an imported definition is validated before anything is written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.base import scratch
from pipeline.packer.imported import Imported

#: Folders of a project in which an import writes.
_WRITTEN = ("images", "playbooks", "scripts", "files")


@contextmanager
def staged(imported: Imported, project: Path, template: str) -> Iterator[Path]:
    """While the block runs, the path of the definition in a copy of the project."""
    with scratch.folder() as made:
        copy = made.resolve()
        for entry in project.iterdir() if project.is_dir() else ():
            if entry.name not in _WRITTEN and entry.name != ".git":
                (copy / entry.name).symlink_to(entry)
        for folder in _WRITTEN:
            (copy / folder).mkdir()
            for entry in (project / folder).iterdir() if (project / folder).is_dir() else ():
                if entry.name not in (imported.name, f"{imported.name}.yaml"):
                    (copy / folder / entry.name).symlink_to(entry)
        files = {f"images/{imported.name}.yaml": imported.text(template).encode()}
        files |= {path: file.data for path, file in imported.files.items()}
        for path, data in files.items():
            target = copy / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_symlink():
                target.write_bytes(data)
        yield copy / "images" / f"{imported.name}.yaml"
