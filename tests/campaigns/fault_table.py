"""The table of faults (fault_table.yaml) as cases: one fault of one verb at one moment."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

TABLE = Path(__file__).with_name("fault_table.yaml")


@dataclass(frozen=True)
class Case:
    """One fault of one verb. `number` is the moment's place among the `count` moments of its group."""

    fault: str
    verb: str
    kind: str
    do: Mapping[str, Any]
    ends: Sequence[str]
    group: str = ""
    number: int = 0
    count: int = 0
    damage: bool = False
    again: bool = True

    @property
    def name(self) -> str:
        at = f" at {self.group} {self.number + 1} of {self.count}" if self.group else ""
        return f"{self.verb}: {self.fault}{at}, {self.kind}"


def read_table(part: str = "rows", path: Path = TABLE) -> list[Case]:
    """All cases of a part of the table, in its order: `rows` for verbs of masters, `vms` for those of VMs."""
    table = yaml.safe_load(path.read_text())
    return [case for row in table[part] for case in _cases(row, table["sets"])]


def _cases(row: Mapping[str, Any], sets: Mapping[str, list[str]]) -> Iterator[Case]:
    verbs = sets[row["verbs"]] if isinstance(row["verbs"], str) else row["verbs"]
    more = {name: row[name] for name in ("damage", "again") if name in row}
    for kind in row.get("disks", ["ext4"]):
        for verb in verbs:
            base = {"fault": row["fault"], "verb": verb, "kind": kind, "do": row["do"], "ends": row["ends"], **more}
            if "at" not in row:
                yield Case(**base)
            for group, count in row.get("at", {}).items():
                yield from (Case(**base, group=group, number=number, count=count) for number in range(count))


def damage(path: Path, how: str) -> None:
    """Change a file as a bad disk or a hand would: flip, cut, edit or remove. It keeps its mode."""
    if not path.is_file():
        return
    if how == "remove":
        path.unlink()
        return
    mode = path.stat().st_mode
    path.chmod(0o600)
    data = path.read_bytes()
    if how == "flip":
        # where there is data: in the middle of a sparse disk there may be none
        place = next((at for at in range(len(data) // 8, len(data)) if data[at]), len(data) // 2)
        path.write_bytes(data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :])
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    else:
        # another time than that of the capture, or another text
        created = b'"created": "2'
        path.write_bytes(data.replace(created, b'"created": "1', 1) if created in data else data.swapcase())
    path.chmod(mode)
