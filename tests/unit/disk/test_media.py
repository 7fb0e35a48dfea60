"""Installation media and driver media: recognized, listed, and named where they are of another kind."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import pipeline
from pipeline.base.errors import DiskError, UsageError
from pipeline.cli.app import app
from pipeline.disk import sandbox
from pipeline.disk.media import (
    DRIVERS,
    NO_PROMPT,
    Edition,
    choose,
    drivers,
    find_loader_swap,
    installation,
    recognize,
)
from pipeline.disk.media_reader import open_medium
from pipeline.disk.questions import Answer
from pipeline.systems.windows.preflight import preflight
from pipeline.systems.windows.unattend_schema import validate
from tests.tools import skip_without

TOOLS = ("genisoimage", "wimlib-imagex")
IMAGES = {
    "Windows Server 2022 SERVERSTANDARDCORE": ("ServerStandard", "Server Core", 20348),
    "Windows Server 2022 SERVERSTANDARD": ("ServerStandard", "Server", 20348),
}


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    skip_without(*TOOLS)


def run(*words: object) -> None:
    subprocess.run([str(word) for word in words], check=True, capture_output=True)


@pytest.fixture(scope="module")
def wim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images, described as Microsoft describes theirs. NOT WINDOWS."""
    folder = tmp_path_factory.mktemp("wim")
    (folder / "tree/Windows").mkdir(parents=True)
    (folder / "tree/Windows/explorer.exe").write_text("NOT WINDOWS")
    target = folder / "install.wim"
    for number, (name, (edition, kind, build)) in enumerate(IMAGES.items(), 1):
        how = ("append",) if target.exists() else ("capture",)
        run("wimlib-imagex", *how, folder / "tree", target, name, *(["--compress=none"] if number == 1 else []))
        image_properties = {"ARCH": 9, "EDITIONID": edition, "INSTALLATIONTYPE": kind, "VERSION/BUILD": build,
                "LANGUAGES/LANGUAGE": "en-US"}  # fmt: skip
        properties = [f"--image-property=WINDOWS/{key}={value}" for key, value in image_properties.items()]
        run("wimlib-imagex", "info", target, number, *properties)
    return target


def medium(folder: Path, files: dict[str, bytes], *, udf: bool = True) -> Path:
    tree = folder / "medium"
    for name, data in files.items():
        path = tree / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    iso = folder / "medium.iso"
    how = ["-udf"] if udf else ["-J", "-R"]
    boot = []
    if "boot/etfsboot.com" in files:
        boot = [
            "-b",
            "boot/etfsboot.com",
            "-no-emul-boot",
            "-eltorito-alt-boot",
            "-e",
            "efi/microsoft/boot/efisys.bin",
        ]
        boot += ["-no-emul-boot"]
    run("genisoimage", "-quiet", *how, "-iso-level", "3", "-V", "SSS_X64FREE", *boot, "-o", iso, tree)
    return iso


def windows(wim: Path | None) -> dict[str, bytes]:
    files = {
        "boot/etfsboot.com": bytes(4096),
        "efi/microsoft/boot/efisys.bin": b"prompts" + bytes(4089),
        "efi/microsoft/boot/efisys_noprompt.bin": b"does not" + bytes(4088),
        "sources/boot.wim": b"MSWIM",
    }
    return files | ({"sources/install.wim": wim.read_bytes()} if wim else {})


def test_an_installation_medium(wim: Path, tmp_path: Path) -> None:
    found = installation(medium(tmp_path, windows(wim)))
    assert [(each.index, each.name, each.edition, each.architecture, each.build) for each in found.editions] == [
        (index, name, edition, "amd64", build) for index, (name, (edition, _, build)) in enumerate(IMAGES.items(), 1)
    ]
    assert found.editions[1].languages == ("en-US",)
    assert (found.no_prompt, found.bios, found.editions[1].drivers) == (True, True, "2k22")
    for word in ("2", "serverstandard  server", "windows server 2022 SERVERSTANDARD"):
        assert choose(found, word).index == 2
    with pytest.raises(UsageError, match="no edition Datacenter") as caught:
        choose(found, "Datacenter")
    assert "1 Windows Server 2022 SERVERSTANDARDCORE (ServerStandard Server Core); 2" in str(caught.value.hint)


def test_where_a_file_begins_on_the_medium(wim: Path, tmp_path: Path) -> None:
    iso = medium(tmp_path, windows(wim))
    with open_medium(iso) as opened:
        sector = opened.sector(NO_PROMPT)
    assert sector is not None
    with iso.open("rb") as file:
        file.seek(sector * 2048)
        assert file.read(8) == b"does not"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        ({"sources/install.swm": b"x", "sources/install2.swm": b"x"}, "wim-is-split"),
        ({"sources/install.esd": b"x"}, "wim-is-esd"),
        ({"sources/setup.exe": b"x"}, "no-installation"),
        ({"sources/install.wim": b"not a wim" * 100}, "wim-damaged"),
        ({"docs/readme.txt": b"x"}, "medium-unknown"),
    ],
)
def test_what_is_no_installation_medium_is_named(files: dict[str, bytes], name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        recognize(medium(tmp_path, files))
    assert caught.value.name == name
    assert caught.value.hint or name == "wim-damaged"


@pytest.mark.parametrize("data", [b"", b"x" * 40000, bytes(1 << 20)])
def test_what_is_no_medium_at_all(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(data)
    with pytest.raises(UsageError) as caught:
        recognize(path)
    assert caught.value.name == "no-medium"
    with pytest.raises(UsageError, match="is not a file"):
        recognize(tmp_path / "missing.iso")


@pytest.mark.parametrize("udf", [True, False])
def test_a_driver_medium(udf: bool, tmp_path: Path) -> None:
    folders = [
        f"{name}/{release}/amd64/{name.lower()}" for name in ("viostor", "NetKVM") for release in ("2k22", "w11")
    ]
    files = {f"{folder}.inf": b"[Version]" for folder in folders}
    files |= {"viostor/xp/x86/viostor.inf": b"", "guest-agent/qemu-ga-x86_64.msi": b"x"}
    found = drivers(medium(tmp_path, files, udf=udf))
    assert found.drivers == {"viostor": ("2k22", "w11"), "NetKVM": ("2k22", "w11")}
    assert found.agent


def test_the_folder_of_a_release() -> None:
    def folder(kind: str, build: int) -> str | None:
        return Edition(1, "", "", kind, "amd64", build, (), 0).drivers

    assert [folder("Server", build) for build in (9600, 14393, 17763, 20348, 25398, 26100)] == [
        None, "2k16", "2k19", "2k22", "2k22", "2k25",
    ]  # fmt: skip
    assert (folder("Client", 19045), folder("Client", 22631), folder("Client", 26100)) == ("w10", "w11", "w11")


def virtio(folder: Path, releases: tuple[str, ...] = ("2k22",), *, agent: bool = True) -> Path:
    (folder / "virtio").mkdir()
    files = {f"{name}/{release}/amd64/{name.lower()}.inf": b"x" for name in DRIVERS for release in releases}
    return medium(folder / "virtio", files | ({"guest-agent/qemu-ga-x86_64.msi": b"x"} if agent else {}))


@pytest.mark.parametrize(
    ("wanted", "generation", "brings", "name"),
    [
        ("ServerStandard Server", 2, {}, None),
        ("windows server 2022 SERVERSTANDARD", 1, {}, None),
        ("2", 2, {}, None),
        ("Datacenter", 2, {}, "edition-unknown"),
        ("ServerStandard", 2, {}, "edition-ambiguous"),
        ("ServerStandard Server", 2, {"releases": ("2k19",)}, "drivers-missing"),
        ("ServerStandard Server", 2, {"agent": False}, "agent-missing"),
    ],
)
def test_what_goes_wrong_is_known_before_anything_boots(
    wanted: str, generation: int, brings: dict[str, Any], name: str | None, wim: Path, tmp_path: Path
) -> None:
    iso, drivers = medium(tmp_path, windows(wim)), virtio(tmp_path, **brings)
    words = ["iso", str(iso), "--answers", wanted, "--generation", str(generation), "--drivers", str(drivers)]
    done = CliRunner().invoke(app, words)
    if name is None:
        validate(done.stdout.encode())
        assert (r"\viostor\2k22\amd64" in done.stdout, "<Value>2</Value>" in done.stdout) == (True, True)
        return
    assert isinstance(done.exception, UsageError) and done.exception.name == name


def test_a_medium_without_bios_is_no_generation_1(wim: Path, tmp_path: Path) -> None:
    iso = medium(tmp_path, {"sources/install.wim": wim.read_bytes()})
    with pytest.raises(UsageError) as caught:
        preflight(iso, "2", 1, None)
    assert caught.value.name == "generation-impossible"


def test_the_verb_lists_it(wim: Path, tmp_path: Path) -> None:
    iso = medium(tmp_path, windows(wim))
    image_properties = json.loads(CliRunner().invoke(app, ["iso", str(iso), "--json"]).stdout)
    assert (image_properties["kind"], [each["index"] for each in image_properties["editions"]]) == (
        "installation",
        [1, 2],
    )
    shown = CliRunner().invoke(app, ["iso", str(iso)]).stdout
    assert "SERVERSTANDARDCORE" in shown and "UEFI without a key" in shown


def described(xml: str) -> bytes:
    """A WIM that has nothing but its header and a description."""
    data = b"\xff\xfe" + xml.encode("utf-16-le")
    head = bytearray(208)
    head[:8] = b"MSWIM\0\0\0"
    struct.pack_into("<QQ", head, 72, len(data), 208)
    return bytes(head) + data


LAUGHS = (
    "<!DOCTYPE W [<!ENTITY a 'ha'>" + "".join(f"<!ENTITY {n} '{20 * f'&{m};'}'>" for m, n in pairwise("abcdefgh"))
    + "]><WIM><IMAGE INDEX='1'><NAME>&h;</NAME></IMAGE></WIM>"
)  # fmt: skip


@pytest.mark.parametrize(
    "xml",
    [
        "<WIM><IMAGE INDEX='-1'/></WIM>",
        "<WIM><IMAGE INDEX='one'/></WIM>",
        "<WIM><IMAGE INDEX='1'><TOTALBYTES>x</TOTALBYTES></IMAGE></WIM>",
        f"<WIM><IMAGE INDEX='{'9' * 5000}'/></WIM>",
        f"<WIM>{'<IMAGE/>' * 300}</WIM>",
        f"<WIM>{'<a>' * 5000}",
    ],
)
def test_a_hostile_description_is_damaged(xml: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        installation(medium(tmp_path, {"sources/install.wim": described(xml)}))
    assert caught.value.name == "wim-damaged" and caught.value.hint


def test_entities_are_not_expanded(tmp_path: Path) -> None:
    try:
        (found,) = installation(medium(tmp_path, {"sources/install.wim": described(LAUGHS)})).editions
    except UsageError as error:
        assert error.name == "wim-damaged"
    else:
        assert len(found.name) < 300


def test_names_of_a_medium_reach_no_terminal_as_escape_codes(tmp_path: Path) -> None:
    names = ("x" * 900, "\u202e\u009b2J")
    xml = "".join(f"<IMAGE INDEX='{index}'><NAME>{name}</NAME></IMAGE>" for index, name in enumerate(names))
    first, second = installation(medium(tmp_path, {"sources/install.wim": described(f"<WIM>{xml}</WIM>")})).editions
    assert first.name == "x" * 256 and second.name == "\\u202e\\x9b2J"


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"kind": "installation", "label": "x", "editions": [{}] * 300},
        {"kind": "installation", "label": "x", "editions": [{"index": True}]},
        {"kind": "installation", "label": "x", "editions": [{"index": 1, "name": ["x"]}]},
        {"kind": "installation", "label": 5, "editions": []},
        {"kind": "drivers", "label": "x", "drivers": {"../../x": []}},
        {"kind": "drivers", "label": "x", "drivers": {"NetKVM": ["x"] * 999}},
        {"kind": "other"},
    ],
)
def test_an_answer_of_the_wrong_shape_is_refused(
    value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that was taken over may answer anything."""
    path = tmp_path / "x.iso"
    path.write_bytes(bytes(4096))
    monkeypatch.setattr(sandbox, "ask", lambda *_, **__: Answer(value, (), {}))
    with pytest.raises(DiskError) as caught:
        recognize(path)
    assert caught.value.name == "reader-lies"


@pytest.mark.parametrize(
    "value", [{"place": 4093, "sector": 1}, {"place": -1, "sector": 1}, {"place": 0, "sector": 3}, {"place": 0}]
)
def test_bytes_outside_of_the_medium_are_not_changed(
    value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.iso"
    path.write_bytes(bytes(4096))
    monkeypatch.setattr(sandbox, "ask", lambda *_, **__: Answer(value, (), {}))
    with pytest.raises(DiskError) as caught:
        find_loader_swap(path)
    assert caught.value.name == "reader-lies"


def test_the_parent_does_not_read_media(wim: Path, tmp_path: Path) -> None:
    """pycdlib and lxml's parser get a user's ISO in the worker: this process opens nothing with them."""
    iso = medium(tmp_path, windows(wim))
    script = (
        "import sys; from pathlib import Path; from pipeline.disk import media;"
        f"found = media.installation(Path({str(iso)!r})); assert media.find_loader_swap(Path({str(iso)!r}));"
        "print(len(found.editions), sorted({'pycdlib', 'pipeline.disk.media_reader'} & set(sys.modules)))"
    )
    here = {**os.environ, "PYTHONPATH": str(Path(pipeline.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, env=here)
    assert done.stdout.strip() == "2 []"
