"""Definitions: what loads, what does not and what is said of it, the verbs, and the reference page."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pydantic
import pytest
import sarif_pydantic
import typer
import yaml
from typer.testing import CliRunner

from pipeline.base.errors import UsageError
from pipeline.base.runs import NO_RUN
from pipeline.base.store import Store
from pipeline.cache.layers import Layers
from pipeline.cli import context, definitions
from pipeline.context import BuildContext
from pipeline.definition import (
    CmdStep,
    CommandExpectation,
    CopyStep,
    DebianSource,
    Definition,
    DefinitionError,
    DiskSource,
    Fault,
    Generalize,
    HttpExpectation,
    IsoSource,
    Keep,
    MasterSource,
    PlaybookStep,
    Port,
    PowershellStep,
    ScriptStep,
    build_order,
    find_project,
    json_schema,
    load,
    load_all,
    load_named,
)
from pipeline.definition.fault_formats import to_github
from pipeline.definition.scaffold import STARTER, write_new
from pipeline.gallery import Gallery
from pipeline.stages import generalize
from pipeline.systems import registry

REPOSITORY = Path(__file__).parents[3]
GOLDEN_SCHEMA = REPOSITORY / "tests" / "golden" / "definition.schema.json"
OK = "goldsmith: 1\nsource: {master: base}\n"
SHA = "0123456789abcdef" * 4


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for folder in ("images", "playbooks", "scripts", "files/site"):
        (tmp_path / folder).mkdir(parents=True)
    for playbook in ("shop.yml", "azure-linux.yml"):
        (tmp_path / "playbooks" / playbook).write_text("- hosts: guest\n")
    (tmp_path / "scripts" / "motd.sh").write_text("echo hello\n")
    (tmp_path / "files" / "motd").write_text("hello\n")
    (tmp_path / "base.qcow2").write_bytes(b"")
    (tmp_path / "base.img").write_bytes(b"")
    return tmp_path


def write(project: Path, text: str | bytes, name: str = "x.yaml") -> Path:
    path = project / "images" / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def faults_of(project: Path, text: str | bytes, name: str = "x.yaml") -> list[str]:
    with pytest.raises(DefinitionError) as caught:
        load(write(project, text, name), project)
    lines = [str(fault) for fault in caught.value.faults]
    assert caught.value.message == "\n".join(lines)
    assert caught.value.exit_code == 2
    return lines


# One fault each: the text, and the whole line that is said of it, less `images/x.yaml:`.
FAULTY: dict[str, tuple[str | bytes, str]] = {
    # secrets
    "a secret without a source": (
        OK + "secrets: {token: {}}\n",
        "3:18: secrets.token: needs exactly one source (file: PATH, env: VARIABLE or command: LINE)",
    ),
    "a secret with two sources": (
        OK + "secrets: {token: {env: A, file: b}}\n",
        "3:18: secrets.token: needs exactly one source (file: PATH, env: VARIABLE or command: LINE)",
    ),
    "a step's secret that is not there": (
        OK + "secrets: {token: {env: A}}\nsteps: [{playbook: shop.yml, secrets: [tokn]}]\n",
        "4:40: steps[0].secrets[0]: tokn is not in `secrets:` (token?)",
    ),
    "a secret's name that is no variable": (
        OK + "secrets: {my-token: {env: A}}\n",
        "3:11: secrets.my-token: my-token is not the name of a secret: lower case letters, digits and _",
    ),
    # the text
    "empty file": (b"", "1:1: is empty (write a new definition with goldsmith init NAME)"),
    "only a comment": ("# nothing\n", "1:1: is empty (write a new definition with goldsmith init NAME)"),
    "only null": ("~\n", "1:1: is empty (write a new definition with goldsmith init NAME)"),
    "a list at the top": (
        "- goldsmith: 1\n",
        "1:1: must be a mapping, not a list (start the file with goldsmith: 1)",
    ),
    "a word": ("goldsmith\n", "1:1: must be a mapping, not goldsmith (start the file with goldsmith: 1)"),
    "not YAML": (
        OK + "steps: [\n  - x\n",
        "4:3: is not YAML: expected the node content, but found '-'",
    ),
    "unclosed quote": (
        OK + 'summary: "hello\n',
        "4:1: is not YAML: found unexpected end of stream, while scanning a quoted scalar on line 3",
    ),
    "text with a colon": (
        OK + "summary: a: b\n",
        "3:11: is not YAML: mapping values are not allowed here (quote text that contains ': ' or begins with a "
        "special character)",
    ),
    "tab": (
        OK + "steps:\n\t- script: x\n",
        "4:1: the line is indented with a tab, but YAML needs spaces (indent with two spaces)",
    ),
    "tab after a key": (
        OK + "summary:\tx\n",
        "3:9: the line is indented with a tab, but YAML needs spaces (indent with two spaces)",
    ),
    "not UTF-8": (OK.encode() + b"summary: caf\xe9\n", "3:13: byte 0xe9 is not UTF-8 (save the file as UTF-8)"),
    "UTF-16": (OK.encode("utf-16"), "1:1: byte 0xff is not UTF-8 (save the file as UTF-8)"),
    "NUL byte": (OK + "summary: a\0b\n", "3:11: has a character that YAML does not allow (U+0000)"),
    "escaped NUL": (OK + 'summary: "a\\0b"\n', "3:10: summary: has an invalid character (U+0000)"),
    "lone surrogate": (OK + 'summary: "\\ud800"\n', "3:10: summary: has an invalid character (U+D800)"),
    "two documents": (
        OK + "---\n" + OK,
        "3:1: the file has a second document, but must have one definition (remove the ---)",
    ),
    "undefined alias": (OK + "summary: *x\n", "3:10: the alias *x has no anchor (quote it if text is meant)"),
    "alias of its own parent": (
        OK + "steps: &a [*a]\n",
        "3:8: steps[0]: the alias refers to a value that contains it",
    ),
    "merge key": (
        OK + "machine: {<<: {cpus: 1}}\n",
        "3:11: machine.<<: merge keys (<<) are not allowed (write out all keys)",
    ),
    "python tag": (
        OK + "summary: !!python/name:os.system x\n",
        "3:10: summary: the tag tag:yaml.org,2002:python/name:os.system is not allowed in a definition (remove it)",
    ),
    "duplicate key": (
        OK + "source: {master: b}\n",
        "3:1: source: is duplicated; the first is on line 2 (remove one)",
    ),
    "duplicate key inside": (
        OK + "machine: {cpus: 1,\n  cpus: 2}\n",
        "4:3: machine.cpus: is duplicated; the first is on line 3 (remove one)",
    ),
    "a list as a key": (OK + "machine: {[a]: 1}\n", "3:11: machine: a key must be text"),
    # YAML 1.1
    "on": (
        OK + "accounts: [on]\n",
        '3:12: accounts[0]: on is read as true by YAML 1.1 (write true, or quote it if text is meant: "on")',
    ),
    "no": (
        OK + "summary: no\n",
        '3:10: summary: no is read as false by YAML 1.1 (write false, or quote it if text is meant: "no")',
    ),
    "1.10": (
        OK + "summary: 1.10\n",
        '3:10: summary: 1.10 is read as the number 1.1 by YAML 1.1 (quote it if text is meant: "1.10")',
    ),
    "12:30:00 in vars": (
        OK + "steps:\n  - playbook: shop.yml\n    vars: {at: 12:30:00}\n",
        "5:16: steps[0].vars.at: 12:30:00 is read as the number 45000 by YAML 1.1"
        ' (quote it if text is meant: "12:30:00")',
    ),
    "0644": (
        OK + "steps:\n- copy: {from: files/motd, to: /etc/motd, mode: 0644}\n",
        '4:49: steps[0].copy.mode: 0644 is read as the number 420 by YAML 1.1 (quote it if text is meant: "0644")',
    ),
    "a date": (
        OK + "summary: 2026-11-21\n",
        "3:10: summary: 2026-11-21 is read as the date 2026-11-21 by YAML 1.1"
        ' (quote it if text is meant: "2026-11-21")',
    ),
    "1_000": (
        OK + "machine: {cpus: 1_0}\n",
        '3:17: machine.cpus: 1_0 is read as the number 10 by YAML 1.1 (quote it if text is meant: "1_0")',
    ),
    "a number too long to read": (
        OK + f"machine: {{cpus: {'9' * 5000}}}\n",
        f"3:17: machine.cpus: {'9' * 57}... is read as a number by YAML 1.1"
        f' (quote it if text is meant: "{"9" * 57}...")',
    ),
    "yes as a key": (
        OK + "waive: {yes: x}\n",
        '3:9: waive.yes: YAML reads this key as true, not as text (quote it: "yes")',
    ),
    # the shape
    "no version": ("source: {master: base}\n", "1:1: goldsmith: is missing"),
    "wrong version": (
        "goldsmith: 0\nsource: {master: base}\n",
        "1:12: goldsmith: format version 0 is not known; supported: 1",
    ),
    "later version": (
        "goldsmith: 2\nwings: 2\n",
        "1:12: goldsmith: format version 2 is not supported (supported: 1) (use a newer version of goldsmith)",
    ),
    "version as text": (
        'goldsmith: "1"\nsource: {master: base}\n',
        "1:12: goldsmith: must be a whole number, not the text 1 (without quotes?)",
    ),
    "unknown key": (OK + "generation: [1]\n", "3:1: generation: unknown key (generations?)"),
    "unknown key of a step": (
        OK + "steps:\n  - script: scripts/motd.sh\n    timout: 3 s\n",
        "5:5: steps[0].timout: unknown key (timeout?)",
    ),
    "unknown key like nothing": (
        OK + "machine: {colour: red}\n",
        "3:11: machine.colour: unknown key (valid keys: cpus, memory, timeout_factor)",
    ),
    "text where a number is meant": (
        OK + 'machine: {cpus: "2"}\n',
        "3:17: machine.cpus: must be a whole number, not the text 2 (without quotes?)",
    ),
    "number where text is meant": (
        OK + "summary: 12\n",
        '3:10: summary: must be text, not the number 12 (quote it: "12")',
    ),
    "text where a list is meant": (
        OK + "accounts: svc\n",
        "3:11: accounts: must be a list, not the text svc ([svc]?)",
    ),
    "a list where a mapping is meant": (
        OK + "machine: [2]\n",
        "3:10: machine: must be a mapping, not a list ({cpus: 2, memory: 2 GiB})",
    ),
    "no value": (OK + "disk:\n", "3:6: disk: has no value (add a value, or remove the key)"),
    "empty summary": (OK + 'summary: " "\n', "3:10: summary: must not be empty"),
    "unknown accelerator": (
        OK + "accelerator: hvf\n",
        "3:14: accelerator: must be auto, kvm or tcg, not hvf",
    ),
    # sizes and times
    "disk not a whole MiB": (
        OK + "disk: 8193 KiB\n",
        "3:7: disk: 8193 KiB is not a whole number of MiB (8 MiB or 9 MiB?)",
    ),
    "disk in bytes": (
        OK + "disk: 8589934593\n",
        "3:7: disk: must be a size such as 8 GiB: 8589934593 has no unit;"
        " in bytes it is not a whole number of MiB either",
    ),
    "disk in GB": (
        OK + "disk: 8 GB\n",
        "3:7: disk: GB is not a unit of size; the units are B, KiB, MiB, GiB, TiB (8 GiB?)",
    ),
    "disk larger than a VHD": (
        OK + "disk: 2041 GiB\n",
        "3:7: disk: 2041 GiB is larger than a VHD can be (use at most 2040 GiB)",
    ),
    "disk too small for Debian": (
        "goldsmith: 1\nsource: {debian: {suite: bookworm}}\ndisk: 1 GiB\n",
        "3:7: disk: 1 GiB is too small to bootstrap Debian in (use at least 2 GiB)",
    ),
    "little memory": (
        OK + "machine: {memory: 64 MiB}\n",
        "3:19: machine.memory: 64 MiB is too small for a guest (use at least 256 MiB)",
    ),
    "no processors": (OK + "machine: {cpus: 0}\n", "3:17: machine.cpus: must be at least 1, not 0"),
    "timeout without a unit": (
        OK + "steps: [{script: scripts/motd.sh, timeout: 30}]\n",
        "3:44: steps[0].timeout: must be a duration such as 30 min: 30 has no unit",
    ),
    "timeout in a strange unit": (
        OK + "steps: [{script: scripts/motd.sh, timeout: 30 m}]\n",
        "3:44: steps[0].timeout: m is not a unit of time; the units are s, min, h (30 min?)",
    ),
    "timeout of nothing": (
        OK + "steps: [{script: scripts/motd.sh, timeout: 0 s}]\n",
        "3:44: steps[0].timeout: a duration must be greater than zero",
    ),
    # generations and proof
    "unknown generation": (OK + "generations: [1, 3]\n", "3:18: generations[1]: must be 1 or 2, not 3"),
    "true is not a generation": (
        OK + "generations: [true]\n",
        "3:15: generations[0]: must be a whole number, not true",
    ),
    "generation twice": (OK + "generations: [1, 1]\n", "3:18: generations[1]: 1 is duplicated"),
    "no generation": (OK + "generations: []\n", "3:14: generations: must not be empty"),
    "prove what is not built": (
        OK + "generations: [1]\nprove: [gen1, gen2]\n",
        "4:15: prove[1]: gen2 is not in the image's generations (generations is [1])",
    ),
    "prove something else": (
        OK + "prove: [gen3]\n",
        "3:9: prove[0]: must be gen1, gen2, gen2-secure, gen2-keys-2011, gen2-keys-2023, "
        "gen1-two-cards, gen2-nvme, gen2-upgrade, gen1-nocloud, gen2-nocloud, foreign or start, not gen3 (gen2?)",
    ),
    "prove nothing": (OK + "prove: []\n", "3:8: prove: must not be empty"),
    # sources
    "no source": ("goldsmith: 1\n", "1:1: source: is missing"),
    "source as text": (
        "goldsmith: 1\nsource: debian-12\n",
        "2:9: source: must be a mapping with one of debian, disk, master, iso, not text ({master: debian-12}?)",
    ),
    "unknown source": (
        "goldsmith: 1\nsource: {mater: debian-12}\n",
        "2:10: source.mater: unknown key (master?)",
    ),
    "two sources": (
        "goldsmith: 1\nsource: {master: a, disk: {path: base.qcow2}}\n",
        "2:10: source.master: disk and master cannot be combined",
    ),
    "bad suite": (
        "goldsmith: 1\nsource: {debian: {suite: Book Worm}}\n",
        "2:26: source.debian.suite: Book Worm is not the name of a Debian suite",
    ),
    "option as a package": (
        "goldsmith: 1\nsource: {debian: {suite: bookworm, packages: [--force-yes]}}\n",
        "2:47: source.debian.packages[0]: --force-yes is not the name of a Debian package",
    ),
    "bad master": (
        "goldsmith: 1\nsource: {master: Debian 12}\n",
        "2:18: source.master: Debian 12 is not a valid image name (write a name such as debian-13@golden)",
    ),
    "bad channel": (
        "goldsmith: 1\nsource: {master: base@-gold}\n",
        "2:18: source.master: -gold is neither a channel nor a version"
        " (use a channel such as golden, or a version such as 2026.1121.0)",
    ),
    "version with a leading zero": (
        "goldsmith: 1\nsource: {master: base@2027.0105.0}\n",
        "2:18: source.master: 2027.0105.0 is neither a channel nor a version"
        " (use a channel such as golden, or a version such as 2026.1121.0)",
    ),
    "its own master": (
        "goldsmith: 1\nsource: {master: x}\n",
        "2:18: source.master: the masters form a cycle: x -> x",
    ),
    "missing disk": (
        "goldsmith: 1\nsource: {disk: {path: bse.qcow2}}\n",
        "2:23: source.disk.path: bse.qcow2 not found (base.qcow2?)",
    ),
    "disk of unknown format": (
        "goldsmith: 1\nsource: {disk: {path: base.img}}\n",
        "2:23: source.disk.path: the file's name does not show its format (add format: one of qcow2, raw, vhd, "
        "vhdx, vmdk)",
    ),
    "disk from nowhere": (
        "goldsmith: 1\nsource: {disk: {format: raw}}\n",
        "2:16: source.disk: needs a path or a url",
    ),
    "url without a checksum": (
        "goldsmith: 1\nsource: {disk: {url: 'https://example.org/a.qcow2'}}\n",
        "2:22: source.disk.url: a url needs a sha256 (add sha256: with the checksum that the publisher states)",
    ),
    "url that is none": (
        f"goldsmith: 1\nsource: {{disk: {{url: 'file:///a.qcow2', sha256: {SHA}}}}}\n",
        "2:22: source.disk.url: file:///a.qcow2 is not an https:// or http:// address of a file",
    ),
    "bad checksum": (
        "goldsmith: 1\nsource: {disk: {path: base.qcow2, sha256: abc}}\n",
        "2:43: source.disk.sha256: must be 64 hexadecimal digits (it has 3 characters)",
    ),
    "checksum of another kind": (
        f"goldsmith: 1\nsource: {{disk: {{path: base.qcow2, sha256: {SHA}{SHA}}}}}\n",
        "2:43: source.disk.sha256: must be 64 hexadecimal digits (that is the length of a SHA-512)",
    ),
    # steps
    "missing playbook": (
        OK + "steps:\n  - playbook: azure-linux.yml\n  - playbook: shp.yml\n",
        "5:15: steps[1].playbook: shp.yml not found (shop.yml?)",
    ),
    "playbook with its folder": (
        OK + "steps: [playbook: playbooks/shop.yml]\n",
        "3:19: steps[0].playbook: playbooks/shop.yml not found (shop.yml?)",
    ),
    "playbook like no other": (
        OK + "steps: [playbook: zzz]\n",
        "3:19: steps[0].playbook: zzz not found (looked in playbooks/)",
    ),
    "a folder as a script": (
        OK + "steps: [script: scripts]\n",
        "3:17: steps[0].script: scripts is not a file (it is a folder)",
    ),
    "missing script": (
        OK + "steps: [script: scripts/mtd.sh]\n",
        "3:17: steps[0].script: scripts/mtd.sh not found (scripts/motd.sh?)",
    ),
    "missing file to copy": (
        OK + "steps: [copy: {from: files/sit, to: /a}]\n",
        "3:22: steps[0].copy.from: files/sit not found (files/site?)",
    ),
    "a name no file can have": (
        OK + f"steps: [script: {'a' * 300}]\n",
        f"3:17: steps[0].script: {'a' * 57}... cannot be a path: File name too long",
    ),
    "copy to a relative path": (
        OK + "steps: [copy: {from: files, to: etc}]\n",
        "3:33: steps[0].copy.to: etc is not an absolute path (/etc?)",
    ),
    "step that does two things": (
        OK + "steps:\n  - playbook: shop.yml\n    script: scripts/motd.sh\n",
        "5:5: steps[0].script: playbook and script cannot be combined (write each into its own list item)",
    ),
    "step that does nothing": (
        OK + "steps: [{timeout: 3 s}]\n",
        "3:9: steps[0]: needs one of playbook, script, copy, powershell, cmd, msi",
    ),
    "step as text": (
        OK + "steps: [shop.yml]\n",
        "3:9: steps[0]: must be a mapping with one of playbook, script, copy, powershell, cmd, msi, not text"
        " (playbook: shop.yml?)",
    ),
    "variable that Ansible refuses": (
        OK + "steps: [{playbook: shop.yml, vars: {time-zone: UTC}}]\n",
        "3:36: steps[0].vars: time-zone is not a valid Ansible variable name (use letters, digits and _)",
    ),
    # the rest
    "waive without a reason": (OK + 'waive: {apt-proxy: ""}\n', "3:20: waive.apt-proxy: must not be empty"),
    "waive what others stand on": (
        OK + "waive:\n  apt-proxy: ours\n  linux-root: it is XFS\n",
        "5:3: waive.linux-root: cannot be waived (waive-not-possible), because other checks depend on it"
        " (correct the disk, or use a file system that goldsmith can read)",
    ),
    "waive with nothing": (
        OK + "waive: {apt-proxy: }\n",
        "3:19: waive.apt-proxy: has no value (add a value, or remove the key)",
    ),
    "waive as a list": (
        OK + "waive: [apt-proxy]\n",
        "3:8: waive: must be a mapping, not a list"
        " (the check's id and the reason: {apt-proxy: our mirror is meant to stay})",
    ),
    "unknown agent": (
        OK + "generalize: {agent: cloud-init}\n",
        "3:21: generalize.agent: must be waagent, none, outside or sysprep, not cloud-init",
    ),
    "generalized outside, and bootstrapped": (
        OK + "generalize: {agent: outside}\n",
        "3:21: generalize.agent: outside needs a disk as the source (use waagent or none)",
    ),
    "generalized outside, and booted": (
        "goldsmith: 1\nsource: {disk: {path: base.qcow2}}\ngeneralize: {agent: outside}\n"
        "steps: [script: scripts/motd.sh]\n",
        "4:1: steps: needs a guest, but generalize: {agent: outside} boots none (remove steps)",
    ),
    "port of no one": (
        OK + "expect: [http: {port: 70000}]\n",
        "3:23: expect[0].http.port: must be at most 65535, not 70000",
    ),
    "expectation of nothing": (
        OK + "expect: [{htp: {port: 80}}]\n",
        "3:11: expect[0].htp: unknown key (http?)",
    ),
    "first boot without a program": (OK + "first_boot: {deadline: 1 min}\n", "3:13: first_boot.apply: is missing"),
    "first boot by a program alone": (
        OK + "first_boot: scripts/motd.sh\n",
        "3:13: first_boot: must be a mapping, not the text scripts/motd.sh ({apply: first-boot/page.sh})",
    ),
    "first boot from a secure address": (
        OK + "first_boot: {apply: scripts/motd.sh, from: 'https://a.example/x'}\n",
        "3:44: first_boot.from: https:// is not built yet, because the fabric cannot act as its server"
        " (use http:// or userdata)",
    ),
    "first boot from nowhere": (
        OK + "first_boot: {apply: scripts/motd.sh, from: user-data}\n",
        "3:44: first_boot.from: user-data is neither userdata nor an address (userdata?)",
    ),
    "loopback allowed": (
        OK + "network: {allow: [10.1.2.3, 127.0.0.1:80]}\n",
        "3:29: network.allow[1]: 127.0.0.1:80 cannot be allowed: 127.0.0.0/8 is always closed to guests "
        "(remove it; loopback, link-local and metadata addresses cannot be allowed)",
    ),
    "a name allowed": (
        OK + "network: {allow: [mirror.corp:80]}\n",
        "3:19: network.allow[0]: mirror.corp:80 is not an IPv4 address or network "
        "(write 10.1.2.0/24 or 10.1.2.3:8080)",
    ),
    "allowed without a list": (
        OK + "network: {allow: 10.1.2.3}\n",
        "3:18: network.allow: must be a list, not the text 10.1.2.3 ([10.1.2.3]?)",
    ),
    "keep nothing": (OK + "keep: {versions: 0}\n", "3:18: keep.versions: must be at least 1, not 0"),
    "account that is none": (
        OK + "accounts: ['a b']\n",
        "3:12: accounts[0]: a b is not the name of an account",
    ),
    "data disk twice": (
        OK + "data_disks: [{lun: 1, size: 1 GiB}, {lun: 1, size: 2 GiB}]\n",
        "3:43: data_disks[1].lun: LUN 1 is duplicated (give each disk its own LUN)",
    ),
    "data disk with a label on nothing": (
        OK + "data_disks: [{lun: 1, size: 1 GiB, label: data}]\n",
        "3:43: data_disks[0].label: a label needs a filesystem (filesystem: ext4)",
    ),
    "data disk with a file system that is not made": (
        OK + "data_disks: [{lun: 1, size: 1 GiB, filesystem: ntfs}]\n",
        "3:48: data_disks[0].filesystem: must be 'ext4', not ntfs",
    ),
    "data disk out of reach": (
        OK + "data_disks: [{lun: 64, size: 1 GiB}]\n",
        "3:20: data_disks[0].lun: must be at most 63, not 64",
    ),
}

WINDOWS = f"""\
goldsmith: 1
os: windows
source:
  iso: {{path: server.iso, sha256: {SHA}}}
  drivers: {{path: virtio-win.iso, sha256: {SHA}}}
  edition: ServerStandard
"""
#: What is asked of a Windows image and cannot be; and of a Linux one that only Windows has.
FOREIGN = {
    "generations: [1, 2]": "7:14: generations: a Windows image has one generation, because its partitions differ "
    "(write one definition for each generation)",
    "generations: [1]\ntpm: true": "8:6: tpm: is not available on generation 1 (generations: [2])",
    "prove: [gen2, gen2-nvme]": "7:15: prove[1]: gen2-nvme is only for Linux (use gen1 or gen2)",
    "prove: [gen2-upgrade]": "7:9: prove[0]: gen2-upgrade is only for Linux (use gen1 or gen2)",
    "generalize: {agent: waagent}": "7:21: generalize.agent: is only for Linux (use sysprep or outside)",
    "steps: [{script: scripts/motd.sh}]": "7:10: steps[0].script: runs only in Linux (use powershell or cmd)",
    "steps: [{playbook: shop.yml}]": "7:10: steps[0].playbook: runs only in Linux "
    "(powershell or cmd; Ansible is not built yet for Windows)",
    "steps: [{copy: {from: files/motd, to: /etc/motd}}]": "7:39: steps[0].copy.to: is a path of another operating "
    "system "
    "(C:\\ProgramData\\...)",
    'steps: [{cmd: "a\\nb"}]': "7:15: steps[0].cmd: must be one line "
    "(write a script of several lines into a file: powershell)",
    "secrets: {token: {env: A}}": "7:1: secrets: is not built yet for Windows (remove secrets)",
    "data_disks: [{lun: 0, size: 1 GiB}]": "7:1: data_disks: is not built yet for Windows (remove data_disks)",
    "first_boot: {apply: scripts/motd.sh}": "7:21: first_boot.apply: must be a PowerShell script "
    "(its name must end in .ps1)",
    "refresh: {mode: patch}": "7:17: refresh.mode: patch needs updates, but the definition has none "
    "(updates: {only: security})",
    "updates: {only: all}\nrefresh: {mode: patch}\ngeneralize: {oobe: {skip: false}}": "9:27: generalize.oobe.skip: "
    "false is not possible, because a patch's first start would wait for input (skip: true)",
    "refresh: {steps: [{script: scripts/motd.sh}]}": "7:20: refresh.steps[0].script: runs only in Linux "
    "(use powershell or cmd)",
    "prove: [gen1]": "7:9: prove[0]: gen1 is not in the image's generations (generations is [2])",
    f"steps: [{{msi: {{path: server.iso, sha256: {SHA}}}}}]": "7:22: steps[0].msi.path: server.iso is not a "
    "valid package file name (use letters, digits, dots and hyphens, then .msi)",
    f"steps: [{{msi: {{path: x.msi, sha256: {SHA}, arguments: [/passive]}}}}]": "7:115: steps[0].msi.arguments[0]: "
    "/passive is not a Windows Installer property (write NAME=value, without quotes)",
    "steps: [{msi: {path: x.msi}}]": "7:15: steps[0].msi.sha256: is missing",
    "locale: english": "7:9: locale: english is not a locale such as en-US",
    "ports: [{port: 80}, {port: 80, protocol: udp}, {port: 80, protocol: tcp}]": "7:55: ports[2].port: port 80/tcp "
    "is duplicated (remove one of them)",
    "ports: [{port: 0}]": "7:16: ports[0].port: must be at least 1, not 0",
    "ports: [{port: 80, protocol: icmp}]": "7:30: ports[0].protocol: must be tcp or udp, not icmp",
    """ports: [{port: 80, name: "it's"}]""": "7:26: ports[0].name: it's is not a rule's name",
    "ports: 443": "7:8: ports: must be a list, not 443 ([443]?)",
    "updates: {only: drivers}": "7:17: updates.only: must be security or all, not drivers",
    "updates: {deadline: 3}": "7:21: updates.deadline: must be a duration such as 30 min: 3 has no unit",
    "updates: security": "7:10: updates: must be a mapping, not the text security ({only: security, deadline: 3 h})",
}
ONLY_WINDOWS = {
    "secure_boot: true": "3:1: secure_boot: is only for Windows (remove secure_boot)",
    "tpm: true": "3:1: tpm: is only for Windows (remove tpm)",
    "locale: en-US": "3:1: locale: is only for Windows (remove locale)",
    "timezone: UTC": "3:1: timezone: is only for Windows (remove timezone)",
    "updates: {only: security}": "3:1: updates: is only for Windows (remove updates)",
    "ports: [{port: 80}]": "3:1: ports: is only for Windows (remove ports; Debian has no firewall unless a step "
    "installs one)",
    "generalize: {mode_vm: false}": "3:14: generalize.mode_vm: is only for Windows (remove mode_vm)",
    "generalize: {oobe: {skip: true}}": "3:14: generalize.oobe: is only for Windows (remove oobe)",
    "machine: {timeout_factor: 2}": "3:11: machine.timeout_factor: is only for Windows (remove timeout_factor)",
    "machine: {patience: 2}": "3:11: machine.patience: is only for Windows (remove patience)",
    "generalize: {agent: sysprep}": "3:21: generalize.agent: is only for Windows (use waagent or none)",
    "steps: [{powershell: scripts/motd.sh}]": "3:10: steps[0].powershell: runs only in Windows (use playbook or "
    "script)",
    f"steps: [{{msi: {{path: x.msi, sha256: {SHA}}}}}]": "3:10: steps[0].msi: runs only in Windows (use playbook "
    "or script)",
    "steps: [{cmd: dir}]": "3:10: steps[0].cmd: runs only in Windows (use playbook or script)",
    "steps: [{script: scripts/motd.sh, reboot: expected}]": "3:35: steps[0].reboot: is only for Windows (remove "
    "reboot)",
    "steps: [{copy: {from: files/motd, to: 'C:\\motd'}}]": "3:39: steps[0].copy.to: is a path of another operating "
    "system "
    "(/etc/...)",
}


@pytest.fixture
def media(project: Path) -> Path:
    for name in ("server.iso", "virtio-win.iso", "x.msi"):
        (project / name).write_bytes(b"")
    return project


@pytest.mark.parametrize("case", FAULTY)
def test_a_faulty_definition_gets_its_own_line(project: Path, case: str) -> None:
    text, expected = FAULTY[case]
    assert faults_of(project, text) == [f"images/x.yaml:{expected}"]


def test_an_unknown_system_is_refused_with_the_known_ones(project: Path) -> None:
    known = registry.all_systems()
    *names, last = dict.fromkeys(each.rules.name for each in known if each.rules is not None)
    expected = f"images/x.yaml:3:5: os: must be {', '.join(names)} or {last}, not linx (linux?)"
    assert faults_of(project, OK + "os: linx\n") == [expected]


@pytest.mark.parametrize("text", FOREIGN)
def test_what_windows_does_not_have(media: Path, text: str) -> None:
    assert faults_of(media, f"{WINDOWS}{text}\n") == [f"images/x.yaml:{FOREIGN[text]}"]


@pytest.mark.parametrize("text", ONLY_WINDOWS)
def test_what_only_windows_has(project: Path, text: str) -> None:
    (project / "x.msi").write_bytes(b"")
    assert faults_of(project, f"{OK}{text}\n") == [f"images/x.yaml:{ONLY_WINDOWS[text]}"]


def test_a_medium_of_windows_is_no_linux(media: Path) -> None:
    (line,) = faults_of(media, WINDOWS.replace("os: windows", "os: linux"))
    assert line == "images/x.yaml:4:3: source.iso: is only for Windows (os: windows)"


def test_windows_has_defaults_of_its_own(media: Path) -> None:
    made = load(write(media, WINDOWS), media)
    assert made.source == IsoSource(media / "server.iso", SHA, media / "virtio-win.iso", SHA, "ServerStandard")
    assert (made.generations, made.prove, made.secure_boot, made.tpm) == ((2,), ("gen2",), True, True)
    assert (made.disk, made.machine.memory, made.generalize) == (64 << 30, 4 << 30, Generalize("sysprep"))
    old = load(write(media, WINDOWS + "generations: [1]\n"), media)
    assert (old.generations, old.prove, old.secure_boot, old.tpm) == ((1,), ("gen1",), False, False)


def test_the_former_name_of_the_factor_still_works(media: Path) -> None:
    for key in ("timeout_factor", "patience"):
        assert load(write(media, f"{WINDOWS}machine: {{{key}: 3}}\n"), media).machine.timeout_factor == 3
    (line,) = faults_of(media, f"{WINDOWS}machine: {{timeout_factor: 3, patience: 3}}\n")
    assert "machine.patience: patience is the former name of timeout_factor; they cannot be combined" in line


def test_steps_of_windows(media: Path) -> None:
    text = """\
steps:
  - powershell: scripts/motd.sh
    reboot: expected
  - cmd: sc config wuauserv start= disabled
    checkpoint: true
  - copy: {from: files/motd, to: 'C:\\ProgramData\\motd'}
"""
    first, second, third = load(write(media, WINDOWS + text), media).steps
    assert isinstance(first, PowershellStep) and (first.reboots, first.checkpoint) == (True, False)
    assert isinstance(second, CmdStep) and (second.title, second.checkpoint) == (second.cmd, True)
    assert isinstance(third, CopyStep) and third.to == r"C:\ProgramData\motd"


def test_all_faults_at_once_in_the_order_of_the_file(project: Path) -> None:
    lines = faults_of(
        project,
        """\
goldsmith: 1
summary: 12
source: {debian: {suite: bookworm, packages: [1.10]}}
disk: 8 GB
generations: [1]
steps:
  - playbook: shp.yml
    timeot: 3 s
  - copy: {from: nothing, to: etc, mode: 0644}
prove: [gen2]
tpm: true
prove: [gen1]
""",
    )
    assert [line.split(": ")[0].removeprefix("images/x.yaml:") for line in lines] == [
        "2:10",
        "3:47",
        "4:7",
        "7:15",
        "8:5",
        "9:18",
        "9:31",
        "9:42",
        "10:9",
        "11:1",
        "12:1",
    ]


def test_every_tab_is_named(project: Path) -> None:
    lines = faults_of(project, OK + "steps:\n\t- script: a\n  \t- script: b\n")
    assert [line.split(": ")[0] for line in lines] == ["images/x.yaml:4:1", "images/x.yaml:5:3"]


def test_an_alias_bomb_is_refused_at_once(project: Path) -> None:
    rows = ["  a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    rows += [f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    before = time.monotonic()
    lines = faults_of(project, OK + "waive:\n" + "\n".join(rows) + "\n")
    assert time.monotonic() - before < 60
    assert len(lines) == 1
    assert "which is not allowed" in lines[0]


@pytest.mark.parametrize("text", ["[" * 2000, "{a: " * 2000, "steps: " + "[" * 60 + "]" * 60, "- " * 3000])
def test_depth_is_a_fault_not_a_traceback(project: Path, text: str) -> None:
    assert faults_of(project, text)


def test_an_alias_may_be_used_for_what_it_is(project: Path) -> None:
    text = OK + "steps:\n- playbook: shop.yml\n  vars: &v {a: 1}\n- playbook: azure-linux.yml\n  vars: *v\n"
    first, second = load(write(project, text), project).steps
    assert isinstance(first, PlaybookStep) and isinstance(second, PlaybookStep)
    assert first.vars == second.vars == {"a": 1}


@pytest.mark.parametrize("name", ["X.yaml", "a_b.yaml", "-a.yaml", f"{'a' * 63}.yaml", "ü.yaml", "a b.yaml"])
def test_a_bad_name_of_an_image(project: Path, name: str) -> None:
    (line,) = faults_of(project, OK, name)
    assert line.startswith(f"images/{name}:1:1: ")
    assert "is not a valid image name" in line


def test_a_definition_that_would_be_overlooked(project: Path) -> None:
    (line,) = faults_of(project, OK, "x.yml")
    assert line == "images/x.yml:1:1: the file's name must end in .yaml, not .yml (x.yaml)"
    with pytest.raises(DefinitionError):
        load_all(project)


def test_a_file_that_is_not_there(project: Path) -> None:
    with pytest.raises(DefinitionError, match=r"images/y.yaml:1:1: cannot be read: No such file"):
        load(project / "images" / "y.yaml", project)
    with pytest.raises(DefinitionError, match="Is a directory"):
        load(project / "images", project)


def test_hostile_text_stays_on_one_line(project: Path) -> None:
    (line,) = faults_of(project, OK + '"a\\nb\\e[31m": 1\n')
    assert "\n" not in line and "\x1b" not in line


def test_a_cycle_of_masters_is_named_from_each_of_its_members(project: Path) -> None:
    for name, master in (("a", "b"), ("b", "c@candidate"), ("c", "a@golden"), ("d", "a")):
        write(project, f"goldsmith: 1\nsource: {{master: {master}}}\n", f"{name}.yaml")
    with pytest.raises(DefinitionError) as caught:
        load_all(project)
    assert [str(fault) for fault in caught.value.faults] == [
        "images/a.yaml:2:18: source.master: the masters form a cycle: a -> b -> c -> a",
        "images/b.yaml:2:18: source.master: the masters form a cycle: b -> c -> a -> b",
        "images/c.yaml:2:18: source.master: the masters form a cycle: c -> a -> b -> c",
        "images/d.yaml:2:18: source.master: the masters form a cycle: a -> b -> c -> a",
    ]


def test_a_version_that_exists_closes_no_cycle(project: Path) -> None:
    definition = load(write(project, "goldsmith: 1\nsource: {master: x@2026.1121.0}\n"), project)
    assert definition.source == MasterSource("x", "2026.1121.0")
    assert build_order([definition]) == [definition]


def test_masters_are_built_before_what_begins_with_them(project: Path) -> None:
    for name, master in (("a", "b"), ("b", "z"), ("z", "elsewhere"), ("c", "z@2026.1121.0")):
        write(project, f"goldsmith: 1\nsource: {{master: {master}}}\n", f"{name}.yaml")
    assert [definition.name for definition in build_order(load_all(project))] == ["z", "b", "a", "c"]


def test_build_order_names_a_cycle(project: Path) -> None:
    def define(name: str, master: str) -> Definition:
        path = project / "images" / f"{name}.yaml"
        return Definition(name=name, path=path, project=project, source=MasterSource(master))

    with pytest.raises(
        DefinitionError, match=r"images/a.yaml:1:1: source.master: the masters form a cycle: a -> b -> a"
    ):
        build_order([define("a", "b"), define("b", "a")])


# -- what loads ---------------------------------------------------------------------------------------------


def test_the_defaults(project: Path) -> None:
    path = write(project, OK)
    definition = load(path, project)
    assert definition == Definition(name="x", path=path, project=project, source=MasterSource("base", "golden"))
    assert definition.machine.memory == 2 * 1024**3
    assert definition.prove == ("gen1", "gen2")


def test_everything_said(project: Path) -> None:
    definition = load(
        write(
            project,
            """\
goldsmith: 1
summary: everything
os: linux
source: {debian: {suite: bookworm, packages: [waagent, libc++1]}}
disk: 1.5 TiB
generations: [2, 1]
machine: {cpus: 4, memory: 512 MiB}
accelerator: tcg
steps:
  - playbook: shop.yml
    vars: {timezone: UTC, list: [1, 1.5, null, true]}
    network: none
    timeout: 3 h
  - script: scripts/motd.sh
    name: greet
    timeout: 90s
  - copy: {from: files/site, to: /srv/site, mode: "0644"}
generalize: {agent: none}
waive: {apt-proxy: our mirror is meant to stay}
prove: [gen1]
expect:
  - http: {port: 8080, path: /health, contains: "ok", status: 204}
  - command: systemctl is-active nginx
keep: {versions: 14, days: 90}
accounts: [svc-web]
""",
        ),
        project,
    )
    assert definition.source == DebianSource("bookworm", ("waagent", "libc++1"))
    assert definition.disk == 1536 * 1024**3
    assert definition.generations == (1, 2)
    assert (definition.machine.cpus, definition.machine.memory) == (4, 512 * 1024**2)
    playbook, script, copy = definition.steps
    assert playbook == PlaybookStep(
        file=project / "playbooks/shop.yml",
        network="none",
        timeout=3 * 3600,
        playbook="shop.yml",
        vars={"timezone": "UTC", "list": [1, 1.5, None, True]},
    )
    assert script == ScriptStep(file=project / "scripts/motd.sh", name="greet", timeout=90, script="scripts/motd.sh")
    assert copy == CopyStep(file=project / "files/site", copy_from="files/site", to="/srv/site", mode="0644")
    assert [(step.kind, step.title) for step in definition.steps] == [
        ("playbook", "shop.yml"),
        ("script", "greet"),
        ("copy", "/srv/site"),
    ]
    assert definition.generalize.agent == "none"
    assert definition.waive == {"apt-proxy": "our mirror is meant to stay"}
    assert definition.prove == ("gen1",)
    assert definition.expect == (
        HttpExpectation(8080, "/health", "ok", 204),
        CommandExpectation("systemctl is-active nginx"),
    )
    assert definition.keep == Keep(14, 90)
    assert definition.accounts == ("svc-web",)


def test_a_disk_generalized_outside_boots_no_guest_of_ours(project: Path) -> None:
    text = "goldsmith: 1\nsource: {disk: {path: base.qcow2}}\ngeneralize: {agent: outside}\n"
    definition = load(write(project, text), project)
    assert definition.generalize.agent == "outside"
    job = BuildContext(definition, Store(project), NO_RUN, Layers(project), Gallery(project))
    assert generalize.Generalize().units(job) == ()


def test_a_windows_generalized_outside_declares_the_ports_that_are_open(project: Path) -> None:
    text = (
        "goldsmith: 1\nos: windows\nsource: {disk: {path: base.qcow2}}\ngeneralize: {agent: outside}\n"
        "ports: [{port: 443, name: web}]\n"
    )
    assert load(write(project, text), project).ports == (Port(443, "tcp", "web"),)


def test_sources_of_disks(project: Path) -> None:
    def source(text: str) -> object:
        return load(write(project, f"goldsmith: 1\nsource: {{disk: {{{text}}}}}\n"), project).source

    assert source("path: base.qcow2") == DiskSource(project / "base.qcow2", None, None, "qcow2")
    assert source(f"path: base.img, format: raw, sha256: {SHA.upper()}") == DiskSource(
        project / "base.img", None, SHA, "raw"
    )
    url = "https://example.org/disk.VHDX?token=a.b"
    assert source(f"url: '{url}', sha256: {SHA}") == DiskSource(None, url, SHA, "vhdx")


def test_a_bootstrapped_image_has_a_size_of_its_own(project: Path) -> None:
    path = write(project, "goldsmith: 1\nsource: {debian: {suite: trixie}}\n")
    assert load(path, project).disk == 8 * 1024**3


def test_proof_defaults_to_the_generations(project: Path) -> None:
    assert load(write(project, OK + "generations: [2]\n"), project).prove == ("gen2",)


def test_a_byte_order_mark_and_windows_line_ends_are_read(project: Path) -> None:
    text = b"\xef\xbb\xbf" + OK.replace("\n", "\r\n").encode()
    assert load(write(project, text), project).name == "x"
    assert faults_of(project, text + b"bogus: 1\r\n")[0].startswith("images/x.yaml:3:1: bogus: unknown key")


def test_by_name(project: Path) -> None:
    write(project, OK, "debian-12.yaml")
    assert load_named(project, "debian-12").name == "debian-12"
    with pytest.raises(UsageError) as caught:
        load_named(project, "debian-21")
    assert (caught.value.message, caught.value.hint) == ("images/debian-21.yaml: no such definition", "debian-12?")
    with pytest.raises(UsageError, match="no such definition"):
        load_named(project, "../images/debian-12")


def test_the_project_is_found_from_below(project: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    write(project, OK)
    (project / "docs" / "images").mkdir(parents=True)
    assert find_project(project / "files" / "site") == project
    assert find_project(project / "docs") == project
    with pytest.raises(UsageError, match="there is no project") as caught:
        find_project(tmp_path_factory.mktemp("elsewhere"))
    assert caught.value.hint


def test_the_definitions_of_this_repository_load() -> None:
    names = [definition.name for definition in build_order(load_all(REPOSITORY))]
    assert names.index("debian-12") < names.index("debian-12-web")


# -- the verbs ----------------------------------------------------------------------------------------------


@pytest.fixture
def app(project: Path) -> typer.Typer:
    root = typer.Typer()
    definitions.register(root)
    context.set_project(project)
    return root


def test_validate_says_ok_and_raises_the_rest(project: Path, app: typer.Typer) -> None:
    write(project, OK, "good.yaml")
    write(project, OK + "tpm: true\nbogus: 1\n", "wrong.yaml")
    result = CliRunner().invoke(app, ["validate"])
    assert result.stdout == "images/good.yaml: ok\n"
    assert isinstance(result.exception, DefinitionError)
    assert len(result.exception.faults) == 2
    result = CliRunner().invoke(app, ["validate", "good", str(project / "images" / "good.yaml"), "good.yaml"])
    assert (result.exit_code, result.stdout) == (0, "images/good.yaml: ok\n" * 3)
    result = CliRunner().invoke(app, ["validate", "goof"])
    assert isinstance(result.exception, UsageError)
    assert result.exception.hint == "good?"


def test_validate_as_json(project: Path, app: typer.Typer) -> None:
    write(project, OK + "disk: 8 GB\n", "wrong.yaml")
    result = CliRunner().invoke(app, ["validate", "--json"])
    (verdict,) = json.loads(result.stdout)
    assert verdict["ok"] is False
    assert (verdict["faults"][0]["line"], verdict["faults"][0]["column"]) == (3, 7)
    assert isinstance(result.exception, DefinitionError)


HOSTILE = "extra: 'x::error file=a,line=1::b%0A'\n"


@pytest.mark.parametrize("form", ["github", "gitlab", "sarif", "json"])
def test_validate_in_the_forms_of_others(project: Path, app: typer.Typer, form: str) -> None:
    write(project, OK + "disk: 8 GB\n" + HOSTILE, "wrong.yaml")
    result = CliRunner().invoke(app, ["validate", "--format", form])
    assert isinstance(result.exception, DefinitionError)
    first, second = result.exception.faults
    if form == "github":
        lines = result.stdout.splitlines()
        assert lines[0].startswith("::error file=images/wrong.yaml,line=3,col=7,title=definition::disk: ")
        assert len(lines) == 2 and all(line.startswith("::error file=") for line in lines)
        return
    document = json.loads(result.stdout)
    if form == "gitlab":
        assert [each["location"]["lines"]["begin"] for each in document] == [first.line, second.line]
        assert len({each["fingerprint"] for each in document}) == 2
    elif form == "json":
        assert [each["line"] for each in document[0]["faults"]] == [first.line, second.line]
    else:
        log = sarif_pydantic.Sarif.model_validate(document)
        results = log.runs[0].results or []
        assert [each.message.text.split(":")[0] for each in results] == ["disk", "extra"]
        # this model of SARIF lacks only one key of the standard (3.14.17)
        unknown = [part.model_extra for part in parts_of(log) if part.model_extra]
        assert unknown == [{"columnKind": "unicodeCodePoints"}]


def test_no_text_of_a_fault_forges_a_command_of_github() -> None:
    fault = Fault("a,line=9::b%.yaml", 1, 2, "", "x\n::error::y", "100%")
    assert to_github([fault]) == "::error file=a%2Cline=9%3A%3Ab%25.yaml,line=1,col=2,title=definition::" + (
        "x\\n::error::y (100%25)"
    )


def parts_of(part: pydantic.BaseModel) -> Iterator[pydantic.BaseModel]:
    """A part of a SARIF log and all its parts: a key that SARIF does not have is in `model_extra`."""
    yield part
    for name in type(part).model_fields:
        value = getattr(part, name)
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, pydantic.BaseModel):
                yield from parts_of(each)


def test_validate_without_faults_has_an_empty_document(project: Path, app: typer.Typer) -> None:
    write(project, OK, "good.yaml")
    for form, empty in (("github", ""), ("gitlab", "[]\n")):
        result = CliRunner().invoke(app, ["validate", "--format", form])
        assert (result.exit_code, result.stdout) == (0, empty)


def test_the_hook_of_pre_commit_runs_a_verb(app: typer.Typer) -> None:
    (hook,) = yaml.safe_load((REPOSITORY / ".pre-commit-hooks.yaml").read_text())
    name, *words = hook["entry"].split()
    assert name == "goldsmith" and CliRunner().invoke(app, [*words, "--help"]).exit_code == 0
    for path in ("images/a.yaml", "playbooks/files/x.sh"):
        assert re.match(hook["files"], path)


@pytest.mark.parametrize("more", [[], ["--from", "base"]])
def test_what_init_writes_validates(project: Path, app: typer.Typer, more: list[str]) -> None:
    result = CliRunner().invoke(app, ["init", "store", *more])
    wrote = "wrote images/store.yaml, playbooks/store.yml, images/.goldsmith.schema.json"
    # the project's own azure-linux.yml is left alone
    assert (result.exit_code, result.stdout) == (0, f"{wrote}\n")
    definition = load_named(project, "store")
    assert definition.source == (
        MasterSource("base") if more else DebianSource("trixie", ("waagent", "hyperv-daemons"))
    )
    # what begins with a golden master has all that Azure asks for
    assert [step.title for step in definition.steps] == [*([] if more else ["azure-linux.yml"]), "store.yml"]
    before = (project / "images/store.yaml").read_text()
    # an editor reads the modeline and finds the schema beside the definition
    assert before.startswith("# yaml-language-server: $schema=.goldsmith.schema.json\n")
    schema = json.loads((project / "images/.goldsmith.schema.json").read_text())
    assert schema == json.loads(CliRunner().invoke(app, ["schema"]).stdout)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(before))
    again = CliRunner().invoke(app, ["init", "store"])
    assert isinstance(again.exception, UsageError)
    assert (project / "images/store.yaml").read_text() == before


def test_init_begins_a_project_that_has_all_it_needs(tmp_path: Path) -> None:
    write_new(tmp_path, "store", None)
    for name in STARTER:
        assert (tmp_path / "playbooks" / name).read_bytes() == (REPOSITORY / "playbooks" / name).read_bytes()
    assert load_named(tmp_path, "store").steps[0].title == "azure-linux.yml"


def test_init_without_a_name_takes_the_folders(tmp_path: Path) -> None:
    assert definitions._name_of_folder(tmp_path / "Web-Shop") == "web-shop"
    for folder in (tmp_path / "my shop", Path("/")):
        with pytest.raises(UsageError) as caught:
            definitions._name_of_folder(folder)
        assert (caught.value.name, caught.value.hint) == ("image-name", "name the image: goldsmith init NAME")


def test_init_writes_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "playbooks").write_text("a file where the folder should be")
    with pytest.raises(UsageError) as caught:
        write_new(tmp_path, "store", None)
    assert (caught.value.name, bool(caught.value.hint)) == ("cannot-write", True)
    assert [path for path in tmp_path.rglob("*.y*ml") if path.is_file()] == []


def test_every_comment_of_init_is_true(project: Path, app: typer.Typer) -> None:
    """The keys that the template shows in comments are keys."""
    CliRunner().invoke(app, ["init", "store"])
    text = (project / "images/store.yaml").read_text()
    head, _, comments = text.partition("docs/definition.md has every key):\n#\n")
    shown = re.sub(r"^# ", "", comments, flags=re.M).split("steps:\n")[1]
    rest = shown[shown.index("expect:") :].replace("check-id", "apt-proxy")
    assert load(write(project, head + "\n" + rest, "store.yaml"), project).accounts == ("svc-web",)


def test_init_refuses(project: Path, app: typer.Typer) -> None:
    (project / "playbooks" / "taken.yml").write_text("")
    for words in (["Shop"], ["../x"], ["taken"], ["a", "--from", "a"], ["a", "--from", "b@golden"]):
        result = CliRunner().invoke(app, ["init", *words])
        assert isinstance(result.exception, UsageError), words
    assert not list((project / "images").iterdir())


# -- schema and reference -----------------------------------------------------------------------------------


def test_the_schema_is_the_golden_one() -> None:
    """GOLDSMITH_REGEN=1 writes it again after a change that is meant."""
    text = json.dumps(json_schema(), indent=2) + "\n"
    if os.environ.get("GOLDSMITH_REGEN"):
        GOLDEN_SCHEMA.write_text(text)
    assert GOLDEN_SCHEMA.read_text() == text


def test_the_schema_verb_prints_it(app: typer.Typer) -> None:
    result = CliRunner().invoke(app, ["schema"])
    assert json.loads(result.stdout) == json_schema()


def test_no_key_may_be_null_in_the_schema() -> None:
    assert '"null"' not in json.dumps(json_schema())


def test_every_key_is_in_the_reference() -> None:
    page = (REPOSITORY / "docs" / "definition.md").read_text()
    schema = json_schema()
    parts = [schema, *schema["$defs"].values()]
    keys = {key.removesuffix("+") for part in parts for key in part.get("properties", {})}
    assert [key for key in sorted(keys) if f"`{key}`" not in page] == []


def test_the_examples_of_the_reference_load(project: Path) -> None:
    page = (REPOSITORY / "docs" / "definition.md").read_text()
    examples = re.findall(r"```yaml\n(goldsmith: 1\n.*?)```", page, re.S)
    assert examples
    for example in examples:
        names = {*re.findall(r"playbook: (\S+\.yml)", example)}
        for name in names:
            (project / "playbooks" / name).touch()
        load(write(project, example), project)
