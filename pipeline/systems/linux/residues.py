"""What a distribution adds to the script that generalizes a Linux: shell whose parts look first if they apply.

Which distribution a brought disk has is not known when its build is planned, so its script has the lines of them all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Residues:
    """Parts of the script, of which each may be empty.

    `before`: functions of the shell in place of programs that the system does not have; it runs first. `after`: what
    its package manager and its network leave; it runs when the agents have cleaned up. It may call `say WORDS`.
    """

    before: str = ""
    after: str = ""


def joined(parts: tuple[Residues, ...]) -> Residues:
    """Those of several distributions in one, without the empty ones."""
    return Residues(
        "\n".join(part.before.strip("\n") for part in parts if part.before),
        "\n".join(part.after.strip("\n") for part in parts if part.after),
    )
