"""What Windows wants of a machine, and how it shows there that it is lost."""

from __future__ import annotations

from pipeline.hypervisor.console import NOTHING_BOOTABLE
from pipeline.hypervisor.domain import BUILD_CHASSIS_TAG, MachineFeatures, Panic

BLUE_SCREEN = Panic(
    "guest-blue-screen",
    "Windows stopped with a blue screen (reported by the panic device)",
    "screen.png in the run's folder shows its stop code",
)
#: Of the words on a serial console, only a BIOS' mean something: Windows itself does not write there while it boots,
#: and UEFI firmware ends in its shell where the medium waits for a key.
FEATURES = MachineFeatures(
    chassis_tag=BUILD_CHASSIS_TAG,
    hyperv=("vpindex", "runtime", "synic", "stimer", "reset"),
    panic=BLUE_SCREEN,
    # The proof puts the OS disk on SCSI, as Azure does. Windows loads at boot only a driver that was bound once;
    # without it the clone stops with INACCESSIBLE_BOOT_DEVICE (0x7B).
    scsi_controller=True,
    kernel_console=False,
    disasters=(NOTHING_BOOTABLE,),
)
