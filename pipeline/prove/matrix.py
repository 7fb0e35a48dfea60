"""The matrix: on which machines a clone is started, who tells it what it is, and what is done to it then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Hardware:
    """The likeness of a machine, as near as QEMU comes."""

    firmware: str
    machine: str
    bus: str
    says: str
    generation: int
    card: str = "virtio-net-pci"
    virtio: bool = True
    secure: bool = False  # Secure Boot with enrolled keys, and a TPM


#: On SCSI: Linux leaves the IDE disks of a machine with Microsoft's strings alone, for storvsc to bring them
#: (ata_piix.prefer_ms_hyperv). The provisioning medium stays on IDE, where Azure has it too.
GEN1 = Hardware("bios", "pc", "scsi", "generation 1 (BIOS)", 1)
GEN1_IDE = Hardware("bios", "pc", "ide", "generation 1 (BIOS, IDE)", 1)
GEN2 = Hardware("efi", "q35", "scsi", "generation 2 (UEFI, SCSI)", 2)
GEN2_SECURE = Hardware("efi", "q35", "scsi", "generation 2 with Secure Boot and vTPM", 2, secure=True)
#: Another hypervisor's machine: nothing of it is paravirtual.
FOREIGN = Hardware("bios", "q35", "sata", "a foreign machine (AHCI, e1000)", 1, card="e1000", virtio=False)


@dataclass(frozen=True)
class Cell:
    """One field of the matrix. A build boots the first clone once; `goldsmith prove` does the whole."""

    name: str
    hardware: Hardware
    fabric: bool
    clones: int = 1
    again: bool = False  # the first clone boots a second time, and is provisioned no second time
    reimage: bool = False  # the first clone goes back to the master, and is provisioned anew
    provisioned: bool = True  # else nobody does: a generalized VM that is merely started

    @property
    def told_by(self) -> str:
        return ("on the fabric" if self.fabric else "NoCloud") if self.provisioned else "started, not provisioned"

    @property
    def says(self) -> str:
        return f"{self.hardware.says}, {self.told_by}"


CELLS = {
    cell.name: cell
    for cell in (
        Cell("gen1", GEN1, True, clones=2, again=True),
        Cell("gen2", GEN2, True, again=True, reimage=True),
        Cell("gen2-secure", GEN2_SECURE, True),
        Cell("gen1-nocloud", GEN1_IDE, False),
        Cell("gen2-nocloud", GEN2, False),
        Cell("foreign", FOREIGN, False),
        Cell("start", GEN1, True, provisioned=False),
    )
}
#: What `goldsmith prove` runs unless it is told otherwise: each machine, each way of being told.
MATRIX = ("gen1", "gen2", "gen2-secure", "gen2-nocloud", "foreign")
#: What the proofs cannot show, and the checks on the disk at rest that stand in for it.
UNPROVEN = {
    "vmbus, storvsc and netvsc (there is no Hyper-V here)": ("initramfs-hyperv",),
}


def matrix(generations: tuple[int, ...]) -> tuple[Cell, ...]:
    """The cells of the whole matrix that an image of these generations can stand in."""
    return tuple(CELLS[name] for name in MATRIX if CELLS[name].hardware.generation in generations)


def without_seeds(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """The same machines for an image that is to be told by Azure alone: all on the fabric, and none twice."""
    there = {cell.hardware for cell in cells if cell.fabric}
    found = []
    for cell in cells:
        # what has Microsoft's strings has no IDE disk
        hardware = GEN1 if cell.hardware == GEN1_IDE else cell.hardware
        if cell.fabric:
            found.append(cell)
        elif hardware not in there:
            there.add(hardware)
            found.append(replace(cell, fabric=True, hardware=hardware))
    return tuple(found)
