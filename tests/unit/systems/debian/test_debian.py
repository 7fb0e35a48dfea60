"""The bootstrap's plain parts: mirrors, the archive's digest, the calls, what a failure is called."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from pipeline.base.errors import BuildError, HostError
from pipeline.network import host_apt
from pipeline.network.host_apt import Mirrors
from pipeline.systems.debian import apt, bootstrap, tree
from pipeline.systems.debian.apt import Archive, index_lines
from pipeline.systems.debian.bootstrap import explain, identity, memory_for_tree, mmdebstrap_argv

TARGETS = """\
http://mirror.example/debian/|bookworm|main|Debian|Debian|bookworm
http://mirror.example/debian/|bookworm-updates|main|Debian|Debian|bookworm-updates
http://mirror.example/debian/|bookworm|contrib|Debian|Debian|bookworm
http://second.example/debian/|bookworm|main|Debian|Debian|bookworm
http://mirror.example/debian-security/|bookworm-security|main|Debian|Debian-Security|bookworm-security
https://node.example/node_20.x/|nodistro|main|. nodistro|. nodistro|nodistro
"""

RELEASE = """\
-----BEGIN PGP SIGNED MESSAGE-----
Origin: Debian
Date: {date}
MD5Sum:
 e08be5a2aa84e0f84bd976c3ce580092 56620099 main/binary-amd64/Packages
SHA256:
 4f2c68d67001d595fbd343f6dbad4446 56620099 main/binary-amd64/Packages
 42c23aaca08e8225ed0449360724b925 13332733 main/binary-amd64/Packages.gz
 {other} 100 main/binary-arm64/Packages
 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa 100 contrib/main/binary-amd64/Packages
-----BEGIN PGP SIGNATURE-----
"""


def test_mirrors_are_the_first_of_each_kind() -> None:
    assert host_apt.parse_targets(TARGETS) == Mirrors(
        "http://mirror.example/debian", "http://mirror.example/debian-security"
    )


@pytest.mark.parametrize(
    "line",
    [
        "",
        "http://mirror.example/debian/|bookworm|main",
        # not read by apt yet: no label
        "http://mirror.example/debian/|bookworm|main|||",
        # these would be written into the guest
        "http://me:secret@mirror.example/debian/|bookworm|main|Debian|Debian|bookworm",
        "file:/srv/mirror/|bookworm|main|Debian|Debian|bookworm",
        "cdrom://[Debian]/|bookworm|main|Debian|Debian|bookworm",
        "http://mirror.example/ubuntu/|noble|main|Ubuntu|Ubuntu|noble",
        # security alone is not enough to bootstrap from
        "http://mirror.example/debian-security/|bookworm-security|main|Debian|Debian-Security|bookworm-security",
    ],
)
def test_other_lines_give_no_mirror(line: str) -> None:
    assert host_apt.parse_targets(line) == Mirrors(None, None)


def test_sources_are_those_that_the_archive_has() -> None:
    mirrors = host_apt.parse_targets(TARGETS)
    assert mirrors.sources("sid", ["sid"]) == [("http://mirror.example/debian", "sid")]
    assert [name for _, name in mirrors.candidates("trixie")] == ["trixie", "trixie-updates", "trixie-security"]
    assert Mirrors(None, None).candidates("trixie") == []


def test_index_lines_are_of_this_architecture_and_of_sha256() -> None:
    text = RELEASE.format(date="today", other="b" * 32)
    assert index_lines(text) == ["4f2c68d67001d595fbd343f6dbad4446 56620099 main/binary-amd64/Packages"]


def test_digest_follows_the_lists_and_not_the_dates() -> None:
    def digest(**changes: str) -> str:
        text = RELEASE.format(**{"date": "Mon", "other": "b" * 32, **changes})
        return Archive({"bookworm": text.replace("4f2c", changes.get("first", "4f2c"))}).digest()

    assert digest() == digest(date="Tue") == digest(other="c" * 32)
    assert digest() != digest(first="0000")
    text = RELEASE.format(date="", other="")
    assert Archive({"a": text}).digest() != Archive({"a": text, "b": text}).digest()


def test_identity_is_the_seed_s() -> None:
    first, same, other = identity("k1"), identity("k1"), identity("k2")
    assert first == same
    assert not set(first.values()) & set(other.values())
    assert len(set(first.values())) == len(first)
    assert len(first["esp_serial"]) == 8


def test_mmdebstrap_call() -> None:
    argv = mmdebstrap_argv(
        "trixie", ["waagent", "sudo"], Path("/w/root"), Path("/w"), [("http://m.example/debian", "trixie")]
    )
    includes = [word.removeprefix("--include=") for word in argv if word.startswith("--include=")]
    names = includes[0].split(",")
    assert names.count("sudo") == 1
    assert "waagent" in names
    assert "linux-image-amd64" in names
    # each pattern stands alone; one that matches nothing is not an error
    assert includes[1:] == ["?exact-name(systemd-resolved)", "?exact-name(azure-vm-utils)"]
    assert argv[-3:] == ["trixie", "/w/root", "deb http://m.example/debian trixie main"]


def test_an_expired_archive_is_taken_where_the_definition_says_so() -> None:
    sources = [("http://m.example/debian", "forky")]
    word = '--aptopt=Acquire::Check-Valid-Until "false"'
    assert word not in mmdebstrap_argv("forky", [], Path("/w/root"), Path("/w"), sources)
    assert word in mmdebstrap_argv("forky", [], Path("/w/root"), Path("/w"), sources, True)
    assert "Check-Valid-Until" not in tree.apt_sources(sources)
    assert tree.apt_sources(sources, True).endswith("Signed-By: @KEY@\nCheck-Valid-Until: no\n")


@pytest.mark.parametrize(("available", "used"), [(24000, 21952), (5120, 3072), (5119, 0), (512, 0)])
def test_memory_for_the_tree(available: int, used: int) -> None:
    assert memory_for_tree(available) == used


@pytest.mark.parametrize(
    ("result", "name", "message"),
    [
        ("I: x\nE: Unable to locate package nginxx\nE: setup failed: E: apt", "package-missing", "nginxx"),
        ("E: Package 'vim' has no installation candidate\n", "package-missing", "vim"),
        ("cp: error writing 'x': No space left on device\nE: setup failed", "no-space", "No space left"),
        ("W: GPG error: NO_PUBKEY 6ED0E7B82643E131\nE: The repository is not signed.", "archive-key", "NO_PUBKEY"),
        (
            "E: Release file for http://m.example/debian/dists/forky/InRelease is expired (invalid since 20d 3h).\n"
            "E: setup failed: E: apt-get update failed",
            "archive-expired",
            "forky/InRelease is expired",
        ),
        (
            "Err:1 Temporary failure resolving 'mirror.example'\nE: setup failed",
            "mirror-unreachable",
            "mirror.example",
        ),
        (
            "Err:1 https://m.example bookworm InRelease\n  Certificate verification failed: The certificate is NOT "
            "trusted. [IP: 192.0.2.1 443]\nE: Failed to fetch https://m.example/x",
            "mirror-certificate",
            "NOT trusted",
        ),
        ("E: Failed to fetch http://m.example/x  403  Forbidden [IP: 192.0.2.1 80]", "mirror-refused", "Forbidden"),
        ("E: Failed to fetch http://m.example/x  404  Not Found [IP: 192.0.2.1 80]", "mirror-unreachable", "404"),
        ("dpkg: error processing package foo (--configure):\nE: Sub-process", "package-broken", "foo"),
        ("mke2fs: Could not allocate block", "bootstrap-failed", "allocate"),
        ("E: setup failed: E: something\nlast line", "bootstrap-failed", "last line"),
        ("", "bootstrap-failed", "bookworm"),
    ],
)
def test_a_failure_is_told_by_the_line_that_tells(result: str, name: str, message: str) -> None:
    error = explain("bookworm", result)
    assert isinstance(error, BuildError)
    assert error.name == name
    assert message in error.message


def test_texts_of_the_tree() -> None:
    numbers = identity("k")
    files = tree.files(
        numbers, [("http://m.example/debian", "trixie"), ("http://m.example/debian", "trixie-updates")]
    )
    root = numbers["root_uuid"]
    assert f"UUID={root} / ext4" in files["etc/fstab"]
    assert "/dev/" not in files["etc/fstab"]
    assert f"root=UUID={root}" in tree.first_menu(numbers)
    assert "Suites: trixie trixie-updates" in files["etc/apt/sources.list.d/debian.sources"]
    assert tree.KERNEL_LINE in files["etc/default/grub"]
    # without a mirror of the host's, mmdebstrap's list stays as it wrote it
    assert "etc/apt/sources.list.d/debian.sources" not in tree.files(numbers, [])


def test_rootdelay_is_taken_away_before_the_sleep_and_given_back(tmp_path: Path) -> None:
    """The two scripts, run as initramfs-tools runs them: their param.conf is read after each."""
    files = tree.files(identity("k"), [])
    line = "ro console=ttyS0 rootdelay=300 rootdelay=x1"
    (tmp_path / "cmdline").write_text(line)
    values = []
    for name in ("init-top", "local-top"):
        text = files[f"etc/initramfs-tools/scripts/{name}/rootdelay"]
        text = text.replace("/conf/", f"{tmp_path}/").replace("/proc/cmdline", f"{tmp_path}/cmdline")
        script = tmp_path / name
        script.write_text(text)
        for argument in ("prereqs", ""):
            subprocess.run(["sh", script, argument], check=True)
        read = f"ROOTDELAY=300; . {tmp_path}/param.conf; echo $ROOTDELAY"
        values.append(subprocess.run(["sh", "-c", read], check=True, capture_output=True, text=True).stdout.strip())
    assert values == ["", "300"]


@pytest.mark.parametrize("text", [tree.INSIDE, tree._ESSENTIAL, tree._CUSTOMIZE])
def test_scripts_parse(text: str) -> None:
    subprocess.run(["sh", "-n"], input=text, text=True, check=True)


def test_bootstrap_needs_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(HostError, match="root"):
        bootstrap.bootstrap(
            "bookworm", [], tmp_path / "d", work=tmp_path / "w", seed="s", progress=lambda _text: None, deadline=1
        )


def test_without_a_mirror_of_the_host_the_archive_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apt, "mirrors", lambda: Mirrors(None, None))
    assert apt.package_index("bookworm") is None


def test_a_mirror_that_does_not_answer_gives_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    # a port of this host where nobody listens
    monkeypatch.setattr(apt, "mirrors", lambda: Mirrors("http://127.0.0.1:9/debian", None))
    assert apt.package_index("bookworm") is None


def test_the_recipe_is_one_text() -> None:
    """What the bootstrap writes into the tree is an input of its layer."""
    assert bootstrap.recipe() == bootstrap.recipe()
    assert len(bootstrap.recipe()) == 64


@pytest.mark.parametrize(
    ("module", "name"),
    [
        *((bootstrap, name) for name in ("PACKAGES", "MINIMUM_MIB", "_ALONE")),
        *((tree, name) for name in ("INSIDE", "_CUSTOMIZE", "_ESSENTIAL", "_NETWORK", "INITRAMFS_MODULES", "SERIAL")),
    ],
)
def test_the_recipe_is_made_of_what_is_produced(
    module: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bootstrap.recipe()
    value = getattr(module, name)
    monkeypatch.setattr(module, name, value + {str: "#", tuple: ("another",), int: 1}[type(value)])
    assert bootstrap.recipe() != before


def test_the_base_has_what_playbooks_expect() -> None:
    """What Ansible's documentation asks of a target: become_user, apt's modules, keys, unarchive."""
    argv = mmdebstrap_argv("bookworm", (), Path("root"), Path("hooks"), [])
    named = {name for word in argv if word.startswith("--include=") for name in word[10:].split(",")}
    wanted = {"python3", "sudo", "acl", "python3-apt", "python3-debian", "gpg", "ca-certificates"}
    assert wanted | {"unzip", "xz-utils", "bzip2"} <= named
