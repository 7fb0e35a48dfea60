from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import libvirt
import pytest

from pipeline.base.disk_format import QCOW2, RAW, VHD
from pipeline.cache.layers import Image
from pipeline.hypervisor.domain import (
    FLUSHED,
    Disk,
    Forward,
    Kernel,
    Spec,
    attached,
    domain_xml,
    restored_xml,
    targets,
)
from pipeline.systems.linux import snapshots
from pipeline.systems.windows.machine import FEATURES
from tests.fakes.libvirt_host import open_host

BASE = Image(
    Path("/store/layers/base/disk.qcow2"),
    QCOW2,
    Image(Path("/store/gallery/a/1.2.3/disk.vhd"), VHD, size=8 << 30),
)
SPEC = Spec(
    name="goldsmith-R1-debian-12",
    run="R1",
    role="build",
    kvm=False,
    cpus=2,
    memory=2 << 30,
    disks=(Disk(Image(Path("/store/layers/top/disk.qcow2"), QCOW2, BASE)),),
    serial_log=Path("/store/runs/R1/serial.log"),
    seed=Path("/run/goldsmith/R1/build/seed.iso"),
    forwards=(Forward(40022, 22),),
    outside="gs12abo0",
)

#: A data disk at LUN 0 and one at LUN 40.
DATA = tuple(
    (lun, Image(Path(f"/store/layers/top/disk-lun{lun}.qcow2"), QCOW2, Image(Path(f"/store/{lun}.raw"), RAW)))
    for lun in (0, 40)
)

AZURE = replace(
    SPEC, azure=True, bridge="gs12abb0", uuid="02aab8a4-74ef-476e-8182-f6d2ba4166a6", outside=None, forwards=()
)
GEN2 = replace(
    AZURE,
    firmware="efi",
    machine="q35",
    nvram=Path("/run/goldsmith/R1/gen2/vars.fd"),
    disks=(replace(SPEC.disks[0], bus="scsi"),),
)

#: An installation medium that does not ask for a key, the drivers', the answer file's.
MEDIA = (
    Image(Path("/run/goldsmith/R1/build/medium.qcow2"), QCOW2, Image(Path("/media/server.iso"), RAW)),
    Image(Path("/media/virtio-win.iso"), RAW),
    Image(Path("/run/goldsmith/R1/build/answers.iso"), RAW),
)

SPECS = {
    "build-tcg": SPEC,
    "build-kvm": replace(SPEC, kvm=True),
    "build-gen2": replace(SPEC, firmware="efi", machine="q35", nvram=Path("/run/goldsmith/R1/build/vars.fd")),
    "prove-gen1": replace(AZURE, disks=(replace(SPEC.disks[0], bus="ide"),)),
    "prove-gen2": GEN2,
    "prove-gen2-kvm": replace(GEN2, kvm=True),
    "prove-gen2-secure": replace(GEN2, secure_boot=True, tpm=True),
    "instance-gen2": replace(
        GEN2, name="goldsmith-vms-web", run="vms", role="instance", instance=AZURE.uuid, cache=FLUSHED
    ),
    "windows-install-gen2": replace(
        SPEC,
        features=FEATURES,
        firmware="efi",
        machine="q35",
        nvram=Path("/run/goldsmith/R1/build/vars.fd"),
        secure_boot=True,
        tpm=True,
        seed=None,
        forwards=(),
        media=MEDIA,
    ),
    "windows-install-gen1-kvm": replace(SPEC, features=FEATURES, kvm=True, seed=None, forwards=(), media=MEDIA),
    "windows-prove-gen2": replace(GEN2, features=FEATURES, seed=None, media=MEDIA[2:]),
    "prove-gen2-nocloud": replace(
        GEN2,
        azure=False,
        bridge=None,
        uuid=None,
        forwards=(Forward(40022, 22), Forward(40080, 80)),
    ),
    "prove-foreign": replace(
        SPEC,
        machine="q35",
        disks=(replace(SPEC.disks[0], bus="sata"),),
        outside=None,
        nic_model="e1000",
        virtio=False,
    ),
    "build-data-disks": replace(SPEC, disks=attached(replace(SPEC.disks[0].image, data=DATA))),
    "prove-gen2-data-disks": replace(GEN2, disks=attached(replace(SPEC.disks[0].image, data=DATA), "scsi")),
    "prove-foreign-data-disks": replace(
        SPEC, machine="q35", disks=attached(replace(SPEC.disks[0].image, data=DATA), "sata"), virtio=False
    ),
    "prove-gen2-nvme": replace(GEN2, disks=attached(replace(SPEC.disks[0].image, data=DATA), "nvme")),
    "save": replace(
        SPEC,
        name="goldsmith-saved-0123456789ab",
        role="save",
        seed=None,
        kernel=Kernel(Path("/store/layers/s/vmlinuz"), Path("/store/layers/s/initrd.img"), "root=UUID=1 ro"),
        generation_id=True,
        uuid="11111111-2222-3333-4444-555555555555",
    ),
}


@pytest.mark.parametrize("name", SPECS)
def test_domain_xml_is_pinned(name: str, golden) -> None:
    golden(f"domain/{name}.xml", domain_xml(SPECS[name]))


@pytest.mark.parametrize("name", SPECS)
def test_libvirt_takes_the_xml(name: str, tmp_path: Path) -> None:
    """libvirt's own parser and schema, without a daemon. Its test driver knows one hypervisor type.

    The host of a file is this connection's alone. All connections of a process share the host `test:///default` and
    the domains that another test defined there, as long as one of them is open.
    """
    host = tmp_path / "host.xml"
    host.write_text("<node/>")
    connection = libvirt.open(f"test://{host}")
    text = domain_xml(SPECS[name]).replace("<domain type='qemu'", "<domain type='test'")
    text = text.replace('type="qemu"', 'type="test"', 1).replace('type="kvm"', 'type="test"', 1)
    connection.defineXMLFlags(text, 0)
    connection.close()


def test_every_level_of_a_chain_states_its_format_and_is_never_relabelled() -> None:
    text = domain_xml(SPEC)
    for level in SPEC.disks[0].image.chain:
        assert str(level.path) in text
    assert text.count('<seclabel model="dac" relabel="no"/>') == 3
    assert 'type="raw"' in text  # only the seed
    assert text.count("<format type=") == 2


def test_the_same_specification_gives_the_same_text() -> None:
    assert domain_xml(SPEC) == domain_xml(replace(SPEC))


def test_a_restored_guest_differs_from_the_saved_one_by_run_disk_log_and_port(golden) -> None:
    """libvirt gives its own XML of a save back, with all that it filled in: only what must change is changed."""
    snapshots = domain_xml(SPECS["save"])
    overlay = Image(Path("/store/layers/new/disk.qcow2"), QCOW2, SPEC.disks[0].image)
    mine = replace(
        SPECS["save"],
        run="R2",
        role="build",
        disks=(Disk(overlay),),
        serial_log=Path("/store/runs/R2/serial.log"),
        forwards=(Forward(40033, 22),),
    )
    text = restored_xml(snapshots, mine)
    golden("domain/restored.xml", text)
    assert "/store/runs/R1/" not in text and "40022" not in text and 'id="R1"' not in text
    assert text.count("<source file=") == 4  # the overlay and the three below it
    connection = open_host().raw
    connection.defineXMLFlags(text.replace('type="qemu"', 'type="test"', 1), 0)
    connection.close()


def test_more_disks_than_letters_and_none_in_the_mediums_place() -> None:
    image = replace(BASE, data=tuple((lun, BASE) for lun in range(30)))
    names = targets(attached(image, "sata"))
    assert names[:7] == ["sda", "sdb", "sdc", "sdd", "sde", "sdg", "sdh"]
    assert names[-1] == "sdaf"
    assert len(set(names)) == 31
    assert targets(attached(image, "virtio"))[:2] == ["vda", "sda"]


def test_an_image_keeps_its_data_disks_in_a_record() -> None:
    image = replace(BASE, data=DATA)
    assert Image.from_json(image.to_json()) == image
    assert [str(level.path) for level in image.below] == [
        "/store/gallery/a/1.2.3/disk.vhd",
        "/store/0.raw",
        "/store/40.raw",
    ]
    assert "data" not in BASE.to_json()


def test_a_kernel_of_ours_starts_without_firmware_and_the_disk_with_it() -> None:
    """A generation 2 guest that restarts itself boots its disk by UEFI, on the same machine, with the same cards."""
    ours = replace(SPECS["build-gen2"], kernel=Kernel(Path("/r/vmlinuz"), Path("/r/initrd.img"), "ro"))
    assert 'firmware="efi"' not in domain_xml(ours) and "q35" in domain_xml(ours)
    again = domain_xml(replace(ours, kernel=None))
    assert 'firmware="efi"' in again and "/run/goldsmith/R1/build/vars.fd" in again


def test_a_save_of_a_generation_2_guest_is_found_again_by_another_run(tmp_path: Path) -> None:
    """Its UEFI variables lie in each run's own folder, which is not a part of the machine."""
    connection = SimpleNamespace(qemu_version="7", version="9")
    first, two = (replace(SPECS["build-gen2"], nvram=tmp_path / run / "vars.fd") for run in ("R1", "R2"))
    keys = {snapshots.snapshot_key(spec, SimpleNamespace(key="k"), connection, None)[0] for spec in (first, two)}  # type: ignore[arg-type]  # likenesses
    assert len(keys) == 1
    assert snapshots.snapshot_key(SPEC, SimpleNamespace(key="k"), connection, None)[0] not in keys  # type: ignore[arg-type]  # likenesses
