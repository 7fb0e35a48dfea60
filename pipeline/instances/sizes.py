"""The sizes that a VM can have, by their names on Azure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.base.errors import UsageError
from pipeline.instances.resource_disk import DEFAULT_SIZE

_GIB = 1 << 30
#: Bytes of the smallest resource disk: an NTFS has no smaller volume, and its partition begins behind the first MiB.
SMALLEST_RESOURCE_DISK = 8 << 20


@dataclass(frozen=True)
class Size:
    """`memory` and `resource`, the resource disk, in bytes. `name` is None if the user gave two numbers."""

    name: str | None
    cpus: int
    memory: int
    resource: int = DEFAULT_SIZE


#: https://learn.microsoft.com/azure/virtual-machines/sizes : the small ones of each family in use, and the classic
#: portal's (https://learn.microsoft.com/azure/cloud-services/cloud-services-sizes-specs). The last figure is the
#: temporary storage; sizes of version 5 without a d have none.
SIZES = {
    name: Size(name, cpus, int(memory * _GIB), resource * _GIB)
    for name, cpus, memory, resource in (
        ("Standard_B1ls", 1, 0.5, 4),
        ("Standard_B1s", 1, 1, 4),
        ("Standard_B1ms", 1, 2, 4),
        ("Standard_B2s", 2, 4, 8),
        ("Standard_B2ms", 2, 8, 16),
        ("Standard_B4ms", 4, 16, 32),
        ("Standard_A1_v2", 1, 2, 10),
        ("Standard_A2_v2", 2, 4, 20),
        ("Standard_DS1_v2", 1, 3.5, 7),
        ("Standard_D2s_v3", 2, 8, 16),
        ("Standard_D4s_v3", 4, 16, 32),
        ("Standard_D2s_v5", 2, 8, 0),
        ("Standard_D4s_v5", 4, 16, 0),
        ("Standard_E2s_v5", 2, 16, 0),
        ("Standard_F2s_v2", 2, 4, 16),
        ("Standard_F4s_v2", 4, 8, 32),
        ("ExtraSmall", 1, 0.75, 20),
        ("Small", 1, 1.75, 70),
        ("Medium", 2, 3.5, 135),
        ("Large", 4, 7, 285),
    )
}


def find_size(name: str) -> Size:
    """A size by its name, in upper or lower case. Raises UsageError (size-unknown)."""
    for known, size in SIZES.items():
        if known.lower() in (name.lower(), f"standard_{name.lower()}"):
            return size
    raise UsageError(
        f"{name} is not a size that goldsmith knows",
        name="size-unknown",
        hint=f"one of {', '.join(SIZES)}; or --cpus and --memory",
    )


def smallest_size(cpus: int, memory: int) -> Size:
    """The smallest size in use with so many processors and so many bytes of memory; the largest where none has.

    The classic portal's sizes have no `Standard_` in their names: Azure does not offer them any more.
    """
    offered = sorted(
        (size for name, size in SIZES.items() if name.startswith("Standard_")),
        key=lambda size: (size.memory, size.cpus, size.name),
    )
    return next((size for size in offered if size.cpus >= cpus and size.memory >= memory), offered[-1])
