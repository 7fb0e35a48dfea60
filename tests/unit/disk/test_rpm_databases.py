"""rpm's database in each of its three formats is listed as rpm lists it; a damaged one has a name."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk.packages import parse_header
from pipeline.disk.rpm_database import read_berkeley, read_ndb, read_sqlite
from tests.fakes import rpm_database
from tests.fakes.rpm_database import sample
from tests.tools import needs_tool

ROWS = "%{NAME} %|EPOCH?{%{EPOCH}:}:{}|%{VERSION}-%{RELEASE} %{ARCH}\\n"
COUNT = 20
#: A hash of Berkeley DB with numbers as keys, as rpm of before 4.16 wrote it, by libdb itself.
WRITE = """
use DB_File;
my ($path, @files) = @ARGV;
my %base;
tie %base, 'DB_File', $path, O_CREAT | O_RDWR, 0644, $DB_HASH or die;
my $number = 0;
$base{pack('L', 0)} = pack('L', scalar @files);
for my $file (@files) {
  open my $in, '<:raw', $file or die; local $/; $base{pack('L', ++$number)} = <$in>;
}
untie %base;
"""


def rows(headers: object) -> list[str]:
    found = [parse_header(header) for header in headers]  # type: ignore[attr-defined]
    return sorted(f"{each.name} {each.version} {each.architecture}" for each in found)


def query(folder: Path, backend: str) -> list[str]:
    words = ["rpm", "--dbpath", str(folder), "--define", f"_db_backend {backend}", "-qa", "--qf", ROWS]
    return sorted(subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty packages, built by rpmbuild and registered by rpm: its database of SQLite."""
    folder = tmp_path_factory.mktemp("rpm")
    parts = [
        f"%package -n part{number}\nSummary: part {number}\nVersion: {number}.{number % 7}\n"
        f"Release: {number % 3}.el9\n"
        + (f"Epoch: {number % 5}\n" if number % 4 == 0 else "")
        + f"%description -n part{number}\n{'long text ' * 40 * number}\n%files -n part{number}\n"
        for number in range(1, COUNT)
    ]
    spec = folder / "whole.spec"
    spec.write_text(
        "Name: whole\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\n%description\nx\n%files\n"
        + "".join(parts)
    )
    subprocess.run(["rpmbuild", "-bb", "--define", f"_topdir {folder}", spec], check=True, capture_output=True)
    packages = sorted(folder.glob("RPMS/noarch/*.rpm"))
    words = [
        "rpm",
        "--dbpath",
        folder / "base",
        "--define",
        "_db_backend sqlite",
        "-i",
        "--justdb",
        "--nodeps",
        *packages,
    ]
    subprocess.run(words, check=True, capture_output=True)
    return folder


@needs_tool("rpm", "rpmbuild")
def test_sqlite_is_listed_as_rpm_lists_it(built: Path) -> None:
    listed = rows(read_sqlite((built / "base/rpmdb.sqlite").read_bytes()))
    assert listed == query(built / "base", "sqlite") and len(listed) == COUNT


@needs_tool("rpm", "rpmbuild", "perl")
def test_berkeley_db_is_listed_as_rpm_lists_it(built: Path, tmp_path: Path) -> None:
    """The headers that rpm wrote, in a file that libdb wrote: rpm's own reader of such files is the measure."""
    files = []
    for number, header in enumerate(read_sqlite((built / "base/rpmdb.sqlite").read_bytes())):
        files.append(tmp_path / f"header-{number:02}")
        files[-1].write_bytes(header)
    if subprocess.run(["perl", "-MDB_File", "-e", "1"], check=False, capture_output=True).returncode:
        pytest.skip("perl has no DB_File here")
    subprocess.run(["perl", "-e", WRITE, str(tmp_path / "Packages"), *map(str, files)], check=True)
    listed = rows(read_berkeley((tmp_path / "Packages").read_bytes()))
    assert listed == query(tmp_path, "bdb_ro") and len(listed) == COUNT


def test_public_samples() -> None:
    assert rows(read_berkeley(sample("el8-libuuid.Packages.xz"))) == ["libuuid 2.32.1-42.el8_8 x86_64"]
    listed = rows(read_ndb(sample("sles15-bci.Packages.db.xz")))
    assert len(listed) == 35
    assert {"bash 4.4-19.6.1 x86_64", "rpm-ndb 4.14.3-40.1 x86_64", "sles-release 15.3-55.4.1 x86_64"} <= set(listed)


def test_what_is_damaged_has_a_name() -> None:
    berkeley, ndb = sample("el8-libuuid.Packages.xz"), sample("sles15-bci.Packages.db.xz")
    byte = ndb.index(b"bash\0") + 2
    cases = [
        *((read_berkeley, data) for data in (b"", b"x" * 5000, berkeley[:4096] + b"\xff" * 90_000)),
        (read_berkeley, berkeley[:20] + b"\7" + berkeley[21:]),
        (read_berkeley, berkeley[: len(berkeley) // 2]),
        *((read_ndb, data) for data in (b"", b"x" * 5000, ndb[:5000], ndb[:12] + b"\0" * 4 + ndb[16:])),
        # one byte of a header: its checksum shows it
        (read_ndb, ndb[:byte] + bytes([ndb[byte] ^ 0xFF]) + ndb[byte + 1 :]),
    ]
    names = set()
    for read, data in cases:
        with pytest.raises(DiskError) as caught:
            rows(read(data))
        names.add(caught.value.name)
    assert names == {"rpm-database-damaged"}


@pytest.mark.parametrize(("at", "byte", "word"), [(16, 7, "version 7"), (24, 1, "encrypted"), (26, 1, "checksums")])
def test_a_berkeley_db_that_is_not_read_is_named(at: int, byte: int, word: str) -> None:
    data = bytearray(sample("el8-libuuid.Packages.xz"))
    data[at] = byte
    with pytest.raises(DiskError, match=word) as caught:
        list(read_berkeley(bytes(data)))
    assert caught.value.name == "rpm-database-old" and caught.value.hint


def test_records_that_share_their_bytes_are_refused(tmp_path: Path) -> None:
    """A small file that would be a long list: each slot of ndb leads to the same header."""
    from pipeline.disk import open_disk
    from pipeline.disk.packages import read_packages
    from tests.fakes import fake_disk

    data = bytearray(rpm_database.sample("sles15-bci.Packages.db.xz"))
    slot = bytes(data[32:48])
    for at in range(32, 4096, 16):
        data[at : at + 16] = slot
    root = tmp_path / "tree"
    (root / "var/lib/rpm").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text("ID=sles\n")
    (root / "var/lib/rpm/Packages.db").write_bytes(bytes(data[:65536]))
    disk = tmp_path / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(8 << 20)
    fake_disk.tool("mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk)
    with open_disk(disk, "raw") as opened, pytest.raises(DiskError, match="more bytes than its file") as caught:
        read_packages(opened.root)
    assert caught.value.name == "rpm-database-damaged"
