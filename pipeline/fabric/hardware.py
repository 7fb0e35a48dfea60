"""The machine models that a guest can have, as close to the real ones as QEMU comes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.hypervisor.enrolled_keys import EnrolledKeys


@dataclass(frozen=True)
class Hardware:
    """A machine model. `generation` is the Hyper-V generation that it represents."""

    firmware: str
    machine: str
    bus: str
    description: str
    generation: int
    card: str = "virtio-net-pci"
    virtio: bool = True
    secure: bool = False  # Secure Boot with enrolled keys, and a TPM
    keys: EnrolledKeys | None = None  # which keys; None: those of the host's own firmware


#: On SCSI: Linux leaves the IDE disks of a machine with Microsoft's strings alone, for storvsc to bring them
#: (ata_piix.prefer_ms_hyperv). The provisioning medium stays on IDE, where Azure has it too.
GEN1 = Hardware("bios", "pc", "scsi", "generation 1 (BIOS)", 1)
GEN1_IDE = Hardware("bios", "pc", "ide", "generation 1 (BIOS, IDE)", 1)
GEN2 = Hardware("efi", "q35", "scsi", "generation 2 (UEFI, SCSI)", 2)
#: As the sizes from v6 on, which have no SCSI controller. The provisioning medium stays on AHCI.
GEN2_NVME = Hardware("efi", "q35", "nvme", "generation 2 with NVMe disks", 2)
#: With the keys that Azure has.
GEN2_SECURE = Hardware(
    "efi",
    "q35",
    "scsi",
    "generation 2 with Secure Boot and vTPM",
    2,
    secure=True,
    keys=EnrolledKeys((2011, 2023)),
)
#: Firmware from before 2023 has the keys of 2011 only; new firmware may have those of 2023 only.
GEN2_KEYS_2011 = replace(
    GEN2_SECURE, description="generation 2 with Secure Boot by the keys of 2011", keys=EnrolledKeys((2011,))
)
GEN2_KEYS_2023 = replace(
    GEN2_SECURE, description="generation 2 with Secure Boot by the keys of 2023", keys=EnrolledKeys((2023,))
)
#: A machine of another hypervisor, without paravirtual devices.
FOREIGN = Hardware("bios", "q35", "sata", "a foreign machine (AHCI, e1000)", 1, card="e1000", virtio=False)
