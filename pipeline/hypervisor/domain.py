"""A guest's domain XML, built purely: the same specification gives the same text.

Over 400 lines, because each element of the XML is read beside the field of the specification that it comes from.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lxml import etree

from pipeline.base.disk_format import RAW
from pipeline.cache.layers import Image
from pipeline.hypervisor import console
from pipeline.hypervisor.console_log import Position
from pipeline.hypervisor.enrolled_keys import EnrolledKeys

QEMU_NS = "http://libvirt.org/schemas/domain/qemu/1.0"
GOLDSMITH_NS = "https://goldsmith.invalid/run/1"
#: What marks the domain of an instance, which outlives every run: no sweep of runs finds it.
INSTANCE_NS = "https://goldsmith.invalid/instance/1"
#: How QEMU keeps what a guest writes. A build's is not flushed: nothing of it has to outlive a host's crash before
#: its layer is fsynced and committed. An instance's is flushed when its guest says so.
UNFLUSHED, FLUSHED = "unsafe", "writeback"

#: The name of the channel over which QEMU's guest agent answers.
AGENT_CHANNEL = "org.qemu.guest_agent.0"
#: Where the hand-made network card sits; libvirt fills lower slots first (`-device` on `pcie.0` or `pci.0`).
ACCESS_SLOT = "0x1d"
#: Where the NVMe controller sits, for the same reason, and the alias of the disk that brings it.
NVME_SLOT, NVME = "0x1c", "ua-nvme"
#: The namespace of the OS disk, and that of the data disk at LUN 0, as Azure numbers them
#: (https://learn.microsoft.com/azure/virtual-machines/nvme-linux).
NVME_OS, NVME_DATA = 1, 2
#: The SCSI controller of the data disks.
DATA_CONTROLLER = 1


@dataclass(frozen=True)
class Disk:
    """A disk of the guest. Every level of the chain states its format and is never relabelled.

    A data disk has its `lun` on a SCSI controller of its own, as on Azure. On the bus `nvme` all disks are namespaces
    of one controller, also as on Azure. `beside_os`: the resource disk, on the OS disk's controller, as on Azure.
    `cache` is QEMU's mode, by default the machine's; `serial` is the serial number that the guest sees.
    """

    image: Image
    bus: str = "virtio"
    readonly: bool = False
    lun: int | None = None
    cache: str | None = None
    serial: str | None = None
    beside_os: bool = False


def attached(image: Image, bus: str = "virtio") -> tuple[Disk, ...]:
    """An OS disk with its data disks. Where the OS disk is on AHCI they are too, in the order of their LUNs; on NVMe
    they are too."""
    beside = bus if bus in ("sata", "nvme") else "scsi"
    return (Disk(image, bus), *(Disk(disk, beside, lun=lun) for lun, disk in image.data))


@dataclass(frozen=True)
class Forward:
    """A TCP port of the guest, reachable at a port of the host's loopback."""

    host: int
    guest: int


@dataclass(frozen=True)
class Kernel:
    """A kernel that qemu loads itself, without the disk's boot loader."""

    image: Path
    initrd: Path
    command_line: str


#: What an emulated processor had better not offer: kernels then copy by `rep movsb`, which qemu carries out byte by
#: byte, and walk page tables of five levels. Together a twentieth of a clone's time. With `svm` a guest would use KVM
#: inside the emulation, and there QEMU 7.2 ends with a failed assertion (`tcg_handle_interrupt`).
_NOT_OFFERED = ("erms", "fsrm", "la57", "svm")
#: What the chassis' asset tag of each machine on Azure says, and what guests know Azure by.
#: cloud-init's ds-identify and systemd compare it.
AZURE_CHASSIS_TAG = "7783-7084-3265-9085-8269-3286-77"
#: What a guest that is being built has there where its first-boot service goes by it: that service is for clones.
BUILD_CHASSIS_TAG = "goldsmith-build"


@dataclass(frozen=True)
class Panic:
    """A device by which a guest reports that its kernel stopped: the failure's name, message and hint."""

    name: str
    message: str
    hint: str


@dataclass(frozen=True)
class MachineFeatures:
    """What an operating system wants of a machine, and how it shows there that it is lost."""

    #: The asset tag of the chassis, for guests that are not on the fabric.
    chassis_tag: str | None = None
    #: Hyper-V's enlightenments under KVM, and their clock: `relaxed`, `vapic`, `spinlocks` come with any of them.
    hyperv: tuple[str, ...] = ()
    panic: Panic | None = None
    #: Whether its kernel writes on the serial console: its words there, and its silence, then mean something.
    kernel_console: bool = True
    #: A virtio-scsi controller also where no disk is on it, so that the system binds its driver.
    scsi_controller: bool = False
    #: What its console shows when it is lost.
    disasters: tuple[console.Disaster, ...] = console.DISASTERS


@dataclass(frozen=True)
class Spec:
    """All that makes a domain."""

    name: str
    run: str
    role: str
    kvm: bool
    cpus: int
    memory: int  # bytes
    disks: tuple[Disk, ...]
    serial_log: Path
    firmware: str = "bios"  # bios | efi
    machine: str = "pc"  # pc | q35
    seed: Path | None = None
    nvram: Path | None = None  # where this guest's own copy of the UEFI variables lies
    forwards: tuple[Forward, ...] = ()
    access_mac: str = "52:54:00:67:6d:01"
    outside_mac: str = "52:54:00:67:6d:02"
    outside: str | None = None  # the bridge that leads to the network
    nic_model: str = "virtio-net-pci"
    kernel: Kernel | None = None
    generation_id: bool = False  # tells a restored kernel that it is another guest now
    arguments: tuple[str, ...] = field(default=())
    uuid: str | None = None  # libvirt draws one
    bridge: str | None = None  # the card's only way, in place of the forwards
    virtio: bool = True  # without, the guest has no paravirtual device at all, and so no agent's channel
    azure: bool = False  # looks like a machine on Azure: SMBIOS, and what the processor says of its hypervisor
    secure_boot: bool = False
    #: The keys that the UEFI variables have at the first start; None: those of the host's own firmware.
    keys: EnrolledKeys | None = None
    tpm: bool = False
    #: Media in its drives, the first of which it boots from where its disk does not boot.
    media: tuple[Image, ...] = ()
    #: What the guest's system wants of a machine.
    features: MachineFeatures = MachineFeatures()
    #: The id of the instance that the domain belongs to; None of a run's domain, which ends with its run.
    instance: str | None = None
    #: Where in the console's log its lines begin, for processes that take an instance over; None: with the log.
    console_start: Position | None = None
    cache: str = UNFLUSHED
    #: The host's slowness, for the guest's deadlines; no part of the domain.
    slowness: float = 1.0


def qemu_files(spec: Spec) -> tuple[list[Path], list[Path]]:
    """The files that QEMU opens by their names, and those among them that it must be able to read as they are."""
    images = [image for top in (*(disk.image for disk in spec.disks), *spec.media) for image in top.chain]
    kernel = (spec.kernel.image, spec.kernel.initrd) if spec.kernel else ()
    others = [path for path in (spec.seed, spec.nvram, *kernel) if path is not None]
    return others, [image.path for image in images]


def qemu_image_files(disk: Disk) -> list[Path]:
    """The files of one disk that QEMU must be able to read."""
    return [image.path for image in disk.image.chain]


def _sub(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    child = etree.SubElement(parent, tag, {k.rstrip("_"): v for k, v in attributes.items()})
    child.text = text
    return child


def _source(parent: etree._Element, image: Image) -> None:
    source = _sub(parent, "source", file=str(image.path))
    if image.size is not None:
        _sub(_sub(source, "slices"), "slice", type="storage", offset="0", size=str(image.size))
    # libvirt's DAC driver would change the owner of the whole chain, masters included
    _sub(source, "seclabel", model="dac", relabel="no")


def _backing(parent: etree._Element, image: Image | None) -> None:
    if image is None:
        _sub(parent, "backingStore")  # empty: ends the chain, nothing is probed
        return
    store = _sub(parent, "backingStore", type="file")
    _sub(store, "format", type=libvirt_format(image))
    _source(store, image)
    _backing(store, image.backing)


def libvirt_format(image: Image) -> str:
    """QEMU's driver. A flat file with a footer, as a fixed VHD, is a slice of a raw file.

    By its own driver, qemu could not save a guest's state on top of a VHD. Probed, the footer would count as data.
    """
    return RAW.driver if image.format.is_flat and image.size is not None else image.format.driver


_PREFIX = {"virtio": "vd", "ide": "hd", "sata": "sd", "scsi": "sd", "nvme": "sd"}
#: libvirt knows no bus for NVMe disks: to it they are on AHCI; see `_override`.
_LIBVIRT_BUS = {"nvme": "sata"}
#: The place of the medium on AHCI, which no disk takes.
_SEED_PLACE = 5


def targets(disks: Iterable[Disk]) -> list[str]:
    """The name of each disk in its domain. Pure."""
    counts: dict[str, int] = {}
    found = []
    for disk in disks:
        prefix = _PREFIX[disk.bus]
        index = counts.get(prefix, 0)
        if _libvirt_bus(disk) == "sata" and index == _SEED_PLACE:
            index += 1
        counts[prefix] = index + 1
        found.append(prefix + _letters(index))
    return found


def _libvirt_bus(disk: Disk) -> str:
    return _LIBVIRT_BUS.get(disk.bus, disk.bus)


def _letters(index: int) -> str:
    """a to z, then aa, ab, ..."""
    high, low = divmod(index, 26)
    return (_letters(high - 1) if high else "") + chr(ord("a") + low)


def free_target(prefix: str, taken: Container[str]) -> str:
    """The first name for a disk that a domain does not have yet. Pure."""
    return next(name for index in itertools.count() if (name := prefix + _letters(index)) not in taken)


def disk_xml(disk: Disk, target: str) -> str:
    """The XML of one disk, to be plugged into a running domain. Pure."""
    parent = etree.Element("devices")
    _disk(parent, disk, target, FLUSHED)
    return etree.tostring(parent[0], pretty_print=True, encoding="unicode")


def domain_xml(spec: Spec) -> str:
    """The XML of a run's transient domain, or of an instance's. Pure."""
    root = etree.Element("domain", {"type": "kvm" if spec.kvm else "qemu"}, nsmap={"qemu": QEMU_NS})
    _sub(root, "name", spec.name)
    if spec.uuid is not None:
        _sub(root, "uuid", spec.uuid)
    metadata = _sub(root, "metadata")
    if spec.instance is not None:
        mark = {"id": spec.instance, "store": spec.run}
        if spec.console_start is not None:
            mark["console"] = str(spec.console_start)
        etree.SubElement(metadata, f"{{{INSTANCE_NS}}}instance", mark, nsmap={"goldsmith": INSTANCE_NS})
    else:
        mark = {"id": spec.run, "role": spec.role}
        etree.SubElement(metadata, f"{{{GOLDSMITH_NS}}}run", mark, nsmap={"goldsmith": GOLDSMITH_NS})
    if spec.generation_id:
        _sub(root, "genid")
    _sub(root, "memory", str(spec.memory // 1024), unit="KiB")
    _sub(root, "vcpu", str(spec.cpus))
    _boot(root, spec)
    if spec.azure:
        _azure_smbios(root, spec)
    elif spec.features.chassis_tag is not None:
        _smbios(root, {"chassis": {"asset": spec.features.chassis_tag}})
    _features(root, spec)
    cpu = _sub(root, "cpu", mode="host-passthrough" if spec.kvm else "maximum")
    for feature in () if spec.kvm else _NOT_OFFERED:
        _sub(cpu, "feature", policy="disable", name=feature)
    if spec.azure and not spec.kvm:
        # emulated, the processor would say "TCG": without the bit, systemd goes by the SMBIOS strings
        _sub(cpu, "feature", policy="disable", name="hypervisor")
    clock = _sub(root, "clock", offset="utc")
    _sub(clock, "timer", name="rtc", tickpolicy="catchup")
    if spec.features.hyperv and spec.kvm:
        _sub(clock, "timer", name="hypervclock", present="yes")
    _sub(root, "on_poweroff", "destroy")
    _sub(root, "on_reboot", "restart")
    # what a guest shows that has reported a panic is looked at before its machine goes
    _sub(root, "on_crash", "preserve" if spec.features.panic else "destroy")
    _devices(_sub(root, "devices"), spec)
    _command_line(root, spec)
    _override(root, spec)
    return etree.tostring(root, pretty_print=True, encoding="unicode")


def _scsi_controllers(spec: Spec) -> int:
    """How many it has: data disks are on one of their own, as on Azure. An instance has it for disks to come."""
    on_scsi = [disk for disk in spec.disks if disk.bus == "scsi"]
    if on_scsi and spec.instance is not None:
        return DATA_CONTROLLER + 1
    if any(disk.lun is not None for disk in on_scsi):
        return 2
    return 1 if on_scsi or spec.features.scsi_controller else 0


def _devices(devices: etree._Element, spec: Spec) -> None:
    for disk, target in zip(spec.disks, targets(spec.disks), strict=True):
        _disk(devices, disk, target, spec.cache)
    if spec.media:
        first = devices.find("disk")
        assert first is not None
        _sub(first, "boot", order="1")
    for index, image in enumerate(spec.media):
        _medium(devices, spec, image, index)
    for index in range(_scsi_controllers(spec)):
        _sub(devices, "controller", type="scsi", index=str(index), model="virtio-scsi")
    if spec.seed is not None:
        _seed(devices, spec)
    if spec.instance is not None:
        # a person may sit at its console; what it shows is logged all the same
        serial = _sub(devices, "serial", type="pty")
        _sub(serial, "log", file=str(spec.serial_log), append="on")
    else:
        serial = _sub(devices, "serial", type="file")
        _sub(serial, "source", path=str(spec.serial_log), append="on")
    _sub(serial, "target", port="0")
    if spec.virtio:
        channel = _sub(devices, "channel", type="unix")
        _sub(channel, "target", type="virtio", name=AGENT_CHANNEL)
    _cards(devices, spec)
    _sub(_sub(devices, "video"), "model", type="vga")
    _sub(devices, "graphics", type="vnc", autoport="yes", listen="127.0.0.1")
    if spec.virtio:
        rng = _sub(devices, "rng", model="virtio")
        _sub(rng, "backend", "/dev/urandom", model="random")
    if spec.features.panic is not None:
        for model in ("isa", "hyperv") if spec.kvm else ("isa",):
            _sub(devices, "panic", model=model)
    if spec.tpm:
        _sub(_sub(devices, "tpm", model="tpm-crb"), "backend", type="emulator", version="2.0")
    _sub(devices, "memballoon", model="none")


def restored_xml(saved: str, spec: Spec) -> str:
    """The XML to restore a saved guest by: its own, for another run, disk, log, port and way out. Pure.

    libvirt takes no other name and no other UUID than the save's.
    """
    root = etree.fromstring(saved.encode())
    run = root.find(f"metadata/{{{GOLDSMITH_NS}}}run")
    assert run is not None, "the domain is not a guest of goldsmith"
    run.set("id", spec.run)
    run.set("role", spec.role)
    (disk,) = spec.disks
    element = root.find("devices/disk[@device='disk']")
    assert element is not None
    for old in (*element.findall("source"), *element.findall("backingStore")):
        element.remove(old)
    _source(element, disk.image)
    _backing(element, disk.image.backing)
    for log in root.iterfind("devices//source[@append]"):
        log.set("path", str(spec.serial_log))
    for card in root.iterfind("devices/interface[@type='bridge']"):
        mac, bridge = card.find("mac"), card.find("source")
        if mac is not None and bridge is not None and mac.get("address") == spec.outside_mac and spec.outside:
            bridge.attrib.clear()
            bridge.set("bridge", spec.outside)
    for argument in root.iterfind(f"{{{QEMU_NS}}}commandline/{{{QEMU_NS}}}arg"):
        if "hostfwd=" in argument.get("value", ""):
            argument.set("value", _access_net(spec))
    return etree.tostring(root, encoding="unicode")


def _boot(root: etree._Element, spec: Spec) -> None:
    # a kernel of ours needs no firmware; SeaBIOS hands over to it 5 s sooner, emulated
    efi = spec.firmware == "efi" and spec.kernel is None
    os = _sub(root, "os", **({"firmware": "efi"} if efi else {}))
    _sub(os, "type", "hvm", arch="x86_64", machine=spec.machine)
    if efi:
        firmware = _sub(os, "firmware")
        for feature in ("secure-boot", *(["enrolled-keys"] if spec.secure_boot else [])):
            _sub(firmware, "feature", enabled="yes" if spec.secure_boot else "no", name=feature)
        if spec.secure_boot:
            _sub(os, "loader", secure="yes")
        if spec.nvram is not None:
            _sub(os, "nvram", str(spec.nvram))
    if spec.kernel is not None:
        _sub(os, "kernel", str(spec.kernel.image))
        _sub(os, "initrd", str(spec.kernel.initrd))
        _sub(os, "cmdline", spec.kernel.command_line)
    if not spec.media:
        _sub(os, "boot", dev="hd")
    if spec.azure or spec.features.chassis_tag is not None:
        _sub(os, "smbios", mode="sysinfo")


def _azure_smbios(root: etree._Element, spec: Spec) -> None:
    """The strings of a machine on Azure, so that its agents know where they are."""
    maker = "Microsoft Corporation"
    strings = {
        "bios": {"vendor": maker, "version": "Hyper-V UEFI Release v4.1", "date": "04/06/2022"},
        "system": {"manufacturer": maker, "product": "Virtual Machine", "version": "Hyper-V UEFI Release v4.1"},
        "baseBoard": {"manufacturer": maker, "product": "Virtual Machine"},
        "chassis": {"manufacturer": maker, "asset": AZURE_CHASSIS_TAG},
    }
    if spec.uuid is not None:
        strings["system"]["uuid"] = spec.uuid
    _smbios(root, strings)


def _smbios(root: etree._Element, strings: Mapping[str, Mapping[str, str]]) -> None:
    sysinfo = _sub(root, "sysinfo", type="smbios")
    for table, entries in strings.items():
        element = _sub(sysinfo, table)
        for name, value in entries.items():
            _sub(element, "entry", value, name=name)


def _features(root: etree._Element, spec: Spec) -> None:
    features = _sub(root, "features")
    _sub(features, "acpi")
    _sub(features, "apic")
    if (spec.azure or spec.features.hyperv) and spec.kvm:
        hyperv = _sub(features, "hyperv", mode="custom")
        _sub(hyperv, "relaxed", state="on")
        _sub(hyperv, "vapic", state="on")
        _sub(hyperv, "spinlocks", state="on", retries="8191")
        for name in spec.features.hyperv:
            _sub(hyperv, name, state="on")
        _sub(hyperv, "vendor_id", state="on", value="Microsoft Hv")
    if spec.secure_boot:
        _sub(features, "smm", state="on")


def _cards(devices: etree._Element, spec: Spec) -> None:
    if spec.bridge is not None:
        card = _sub(devices, "interface", type="bridge")
        _sub(card, "mac", address=spec.access_mac)
        _sub(card, "source", bridge=spec.bridge)
        _sub(card, "model", type=spec.nic_model.removesuffix("-net-pci"))
        # no boot ROM: it would wait for a network boot that nobody offers
        _sub(card, "rom", enabled="no")
    if spec.outside is not None:
        card = _sub(devices, "interface", type="bridge")
        _sub(card, "mac", address=spec.outside_mac)
        _sub(card, "source", bridge=spec.outside)
        _sub(card, "model", type="virtio")
        _sub(card, "alias", name="ua-outside")


def _disk(devices: etree._Element, disk: Disk, target: str, cache: str) -> None:
    element = _sub(devices, "disk", type="file", device="disk")
    driver = _sub(element, "driver", name="qemu", type=libvirt_format(disk.image), cache=disk.cache or cache)
    if not disk.readonly:
        driver.set("discard", "unmap")
        driver.set("detect_zeroes", "unmap")
    _source(element, disk.image)
    _backing(element, disk.image.backing)
    _sub(element, "target", dev=target, bus=_libvirt_bus(disk))
    if disk.bus == "nvme":
        _sub(element, "alias", name=_nvme_alias(disk))
    if disk.lun is not None and disk.bus == "scsi":
        _drive_address(element, DATA_CONTROLLER, disk.lun)
    if disk.beside_os:
        _drive_address(element, 0, 1)
    if disk.serial is not None:
        _sub(element, "serial", disk.serial)
    if disk.readonly:
        _sub(element, "readonly")


def _drive_address(element: etree._Element, controller: int, unit: int) -> None:
    _sub(element, "address", type="drive", controller=str(controller), bus="0", target="0", unit=str(unit))


def _seed(devices: etree._Element, spec: Spec) -> None:
    element = _sub(devices, "disk", type="file", device="cdrom")
    _sub(element, "driver", name="qemu", type="raw")
    _sub(element, "source", file=str(spec.seed))
    # the last place of its bus, so that the disks keep theirs
    ide = spec.machine == "pc"
    _sub(element, "target", dev="hdd" if ide else "sdf", bus="ide" if ide else "sata")
    _sub(element, "readonly")


def _medium(devices: etree._Element, spec: Spec, image: Image, index: int) -> None:
    """A CD in its drive. Windows gives drives their letters in this order."""
    element = _sub(devices, "disk", type="file", device="cdrom")
    _sub(element, "driver", name="qemu", type=image.format.driver)
    _source(element, image)
    _backing(element, image.backing)
    prefix, bus = ("hd", "ide") if spec.machine == "pc" else ("sd", "sata")
    # disks on SCSI have names of the same kind
    taken = sum(name.startswith(prefix) for name in targets(spec.disks))
    _sub(element, "target", dev=prefix + _letters(taken + index), bus=bus)
    _sub(element, "readonly")
    if index == 0:
        _sub(element, "boot", order="2")


def _command_line(root: etree._Element, spec: Spec) -> None:
    """The access card: qemu's user network, restricted to the forwarded ports, which libvirt 9 cannot say."""
    arguments = list(spec.arguments)
    if spec.forwards and spec.bridge is None:
        arguments += [
            "-netdev",
            _access_net(spec),
            "-device",
            f"{spec.nic_model},netdev=access,mac={spec.access_mac},addr={ACCESS_SLOT},romfile=",
        ]
    if arguments:
        line = etree.SubElement(root, f"{{{QEMU_NS}}}commandline")
        for argument in arguments:
            etree.SubElement(line, f"{{{QEMU_NS}}}arg", {"value": argument})


def _nvme_alias(disk: Disk) -> str:
    return NVME if disk.lun is None else f"{NVME}-lun{disk.lun}"


def _override(root: etree._Element, spec: Spec) -> None:
    """NVMe disks: libvirt makes each a disk on AHCI, and here the front of it is changed to what QEMU calls NVMe.

    So libvirt still opens, labels and counts them as any other disk; by `<qemu:commandline>` it would know nothing of
    them. The OS disk brings the controller, on which the data disks are further namespaces.
    """
    disks = [disk for disk in spec.disks if disk.bus == "nvme"]
    if not disks:
        return
    override = etree.SubElement(root, f"{{{QEMU_NS}}}override")
    for disk in disks:
        front: tuple[tuple[str, str, str], ...]
        if disk.lun is None:
            front = (
                ("driver", "string", "nvme"),
                ("bus", "string", "pcie.0"),
                ("addr", "string", NVME_SLOT),
                ("serial", "string", "SN-000001"),
            )
        else:
            namespace = str(disk.lun + NVME_DATA)
            front = (("driver", "string", "nvme-ns"), ("bus", "string", NVME), ("nsid", "unsigned", namespace))
        device = etree.SubElement(override, f"{{{QEMU_NS}}}device", {"alias": _nvme_alias(disk)})
        properties = etree.SubElement(device, f"{{{QEMU_NS}}}frontend")
        for name, kind, value in front:
            etree.SubElement(properties, f"{{{QEMU_NS}}}property", {"name": name, "type": kind, "value": value})


def _access_net(spec: Spec) -> str:
    forwards = "".join(f",hostfwd=tcp:127.0.0.1:{f.host}-:{f.guest}" for f in spec.forwards)
    return f"user,id=access,net=10.9.8.0/24,ipv6=off,restrict=on{forwards}"
