"""`goldsmith import packer`: what of a template is turned, what is named, and that the result is valid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.base.errors import UsageError
from pipeline.packer.conversion import turn
from pipeline.packer.limits import Folder
from pipeline.packer.template import Build, Provisioner, Source
from tests.unit.packer.conftest import Import

DIGEST = "ab" * 32
SOURCE = f"""
source "qemu" "debian" {{
  iso_url      = "https://example.org/debian-12.qcow2"
  iso_checksum = "sha256:{DIGEST}"
  disk_image   = true
}}
"""


def template(provisioners: str, source: str = SOURCE) -> str:
    return f'{source}\nbuild {{\n  sources = ["source.qemu.debian"]\n{provisioners}\n}}\n'


def missing(found: dict[str, Any]) -> str:
    return "\n".join(f"{each['what']}: {each['why']}" for each in found["missing"])


def test_a_disk_image_with_its_machine(run_import: Import, project: Path) -> None:
    source = SOURCE.replace(
        "disk_image ", 'disk_size = "10G"\n memory = 3072\n cpus = 1\n efi_boot = true\n disk_image '
    )
    found = run_import(template('provisioner "shell" {\n  inline = ["echo hello"]\n}', source))
    definition = yaml.safe_load((project / "images/shop.yaml").read_text())
    assert definition == found["definition"]
    assert definition["source"] == {"disk": {"url": "https://example.org/debian-12.qcow2", "sha256": DIGEST}}
    assert definition["disk"] == "10 GiB"
    assert definition["machine"] == {"cpus": 1, "memory": "3 GiB"}
    assert definition["generations"] == [2]
    assert (project / "scripts/shop/01-inline.sh").read_text() == "#!/bin/sh -e\necho hello\n"


def test_a_debian_from_its_medium_is_bootstrapped(run_import: Import, project: Path) -> None:
    source = """
source "qemu" "debian" {
  iso_url      = "https://example.org/debian-cd/12.7.0/amd64/debian-12.7.0-amd64-netinst.iso"
  iso_checksum = "file:https://example.org/SHA256SUMS"
  boot_command = ["<esc>auto url=http://{{ .HTTPIP }}/preseed.cfg<enter>"]
  qemuargs     = [["-m", "2G"]]
  ssh_username = "root"
}
"""
    found = run_import(template("", source))
    assert found["definition"]["source"]["debian"]["suite"] == "bookworm"
    assert found["definition"]["steps"] == [{"name": "azure", "playbook": "azure-linux.yml"}]
    assert (project / "playbooks/azure-linux.yml").is_file()
    assert "boot_command: goldsmith does not run this installer" in missing(found)
    assert "qemuargs: goldsmith has nothing" in missing(found)
    assert "ssh_username" not in missing(found)


def test_what_stands_in_is_named_first(run_import: Import, project: Path) -> None:
    source = SOURCE.replace("debian-12.qcow2", "jammy.img").replace(f"sha256:{DIGEST}", "none")
    found = run_import(template("", source))
    assert (
        "goldsmith cannot begin with https://example.org/jammy.img (it has no SHA-256" in found["missing"][0]["why"]
    )
    assert "# Not turned:" in (project / "images/shop.yaml").read_text()


def test_scripts_have_their_environment(run_import: Import, folder: Path, project: Path) -> None:
    (folder / "a.sh").write_text("#!/bin/bash\necho a\n")
    (folder / "b.py").write_text("#!/usr/bin/python3\nprint()\n")
    found = run_import(
        template("""
  provisioner "shell" {
    environment_vars = ["WHO=it's me", "IP=${build.Host}"]
    scripts          = ["a.sh", "${path.root}/b.py", "missing.sh", "/dev/null"]
    execute_command  = "{{ .Vars }} su nobody -c {{ .Path }}"
    timeout          = "90m"
    valid_exit_codes = [0, 1]
  }
""")
    )
    assert (project / "scripts/shop/01-a.sh").read_text() == "#!/bin/bash\nexport WHO='it'\"'\"'s me'\necho a\n"
    assert found["definition"]["steps"] == [
        {"name": "shell 1: a.sh", "script": "scripts/shop/01-a.sh", "timeout": "90 min"}
    ]
    text = missing(found)
    assert "an environment variable: it needs a value of a running build" in text
    assert "environment_vars in a script of another interpreter" in text
    assert "missing.sh, which does not exist" in text
    assert "execute_command: the script runs as root" in text
    assert "valid_exit_codes: goldsmith has nothing" in text
    assert "/dev/null" not in text


def test_a_line_that_is_not_known_takes_the_whole_script(run_import: Import) -> None:
    found = run_import(template('provisioner "shell" {\n  inline = ["a", "b ${var.x}"]\n}'))
    assert "steps" not in found["definition"]
    assert "shell 1: it needs x, which is not there" in missing(found)


def test_files_and_folders_are_copied(run_import: Import, folder: Path, project: Path, tmp_path: Path) -> None:
    (folder / "conf").mkdir()
    (folder / "conf/a").write_text("a")
    (folder / "one").write_text("1")
    (tmp_path / "outside").write_text("secret")
    (folder / "conf/link").symlink_to(tmp_path / "outside")
    found = run_import(
        template("""
  provisioner "file" {
    sources     = ["conf", "one"]
    destination = "/srv/"
  }
  provisioner "file" {
    source      = "conf/"
    destination = "/opt/conf"
  }
  provisioner "file" {
    content     = jsonencode({ a = 1 })
    destination = "/etc/a.json"
  }
  provisioner "file" {
    source      = "../outside"
    destination = "/etc/b"
  }
  provisioner "file" {
    source      = "one"
    destination = "relative"
  }
""")
    )
    copies = [(step["copy"]["from"], step["copy"]["to"]) for step in found["definition"]["steps"]]
    assert copies == [
        ("files/shop/conf", "/srv/conf"),
        ("files/shop/one", "/srv/one"),
        ("files/shop/2-conf", "/opt/conf"),
        ("files/shop/a.json", "/etc/a.json"),
    ]
    assert (project / "files/shop/a.json").read_text() == '{"a":1}'
    text = missing(found)
    assert text.count("outside of") == 2
    assert "secret" not in "".join(path.read_text() for path in project.rglob("*") if path.is_file())
    assert "an absolute destination" in text


def test_a_playbook_with_its_roles(run_import: Import, folder: Path, project: Path) -> None:
    (folder / "roles/web/tasks").mkdir(parents=True)
    (folder / "roles/web/tasks/main.yml").write_text("- ansible.builtin.ping:\n")
    (folder / "site.yml").write_text("- hosts: all\n  roles: [web]\n")
    found = run_import(
        template("""
  provisioner "ansible" {
    playbook_file   = "./site.yml"
    extra_arguments = ["-e", "a=1 b='x y'", "--extra-vars={\\"c\\": [2]}", "-vv"]
    galaxy_file     = "requirements.yml"
  }
""")
    )
    (step,) = found["definition"]["steps"]
    assert step["playbook"] == "shop/site.yml"
    assert step["vars"] == {"a": "1", "b": "x y", "c": [2]}
    assert (project / "playbooks/shop/roles/web/tasks/main.yml").is_file()
    assert "-vv is not turned" in missing(found)
    assert "galaxy_file: not turned" in missing(found)


def test_a_playbook_that_ansible_refuses_is_named(run_import: Import, folder: Path, project: Path) -> None:
    (folder / "site.yml").write_text("- hosts: all\n  tasks:\n    - no.such.module: {}\n")
    found = run_import(template('provisioner "ansible" {\n  playbook_file = "site.yml"\n}'))
    assert not found["definition"].get("steps")
    assert "no.such.module" in missing(found)
    assert not (project / "playbooks/shop").exists()


def test_only_except_and_override(run_import: Import, project: Path) -> None:
    found = run_import(
        template("""
  provisioner "shell" {
    only   = ["amazon-ebs.x"]
    inline = ["echo amazon"]
  }
  provisioner "shell" {
    except = ["qemu.debian"]
    inline = ["echo others"]
  }
  provisioner "shell" {
    inline   = ["echo all"]
    override = { debian = { inline = ["echo debian"] } }
  }
  post-processors {
    post-processor "vagrant" {}
  }
  provisioner "chef-solo" {}
""")
    )
    assert len(found["definition"]["steps"]) == 1
    assert "echo debian" in (project / "scripts/shop/01-inline.sh").read_text()
    assert "post-processor vagrant" in missing(found)
    assert "chef-solo 2: goldsmith has no such step" in missing(found)


def test_neighbours_and_other_sources(run_import: Import, folder: Path) -> None:
    (folder / "sources.pkr.hcl").write_text(SOURCE.replace("debian-12.", "${var.release}."))
    (folder / "variables.pkr.hcl").write_text('variable "release" { default = "debian-11" }\n')
    text = 'build {\n  sources = ["source.qemu.debian", "source.null.x"]\n}\nsource "null" "x" {}\n'
    found = run_import(text, "--var", "release=debian-13", "--as", "other")
    assert found["definition"]["source"]["disk"]["url"].endswith("debian-13.qcow2")
    with pytest.raises(UsageError) as caught:
        run_import(text, "--source", "qemu.nothing", "--as", "third")
    assert (caught.value.name, caught.value.hint) == ("packer-no-build", "its sources: qemu.debian")


def test_the_older_json(run_import: Import, folder: Path, project: Path) -> None:
    (folder / "a.sh").write_text("echo a\n")
    document = {
        "variables": {"release": "12", "mirror": "https://example.org", "key": ""},
        "sensitive-variables": ["key"],
        "builders": [
            {"type": "virtualbox-iso", "iso_url": "x"},
            {
                "type": "qemu",
                "disk_image": True,
                "iso_url": "{{user `mirror`}}/debian-{{user `release`}}.qcow2",
                "iso_checksum": DIGEST,
                "disk_size": 4096,
            },
        ],
        "provisioners": [
            {"type": "shell", "inline": ['echo {{isotime "2006"}} {{user `key`}}']},
            {"type": "shell", "script": "{{template_dir}}/a.sh", "override": {"qemu": {"environment_vars": ["A=b"]}}},
            {"type": "shell", "inline": "echo x", "only": ["virtualbox-iso"]},
        ],
        "post-processors": [["vagrant", {"type": "manifest"}]],
    }
    found = run_import(json.dumps(document), name="old.json")
    assert found["definition"]["source"]["disk"]["url"] == "https://example.org/debian-12.qcow2"
    assert found["definition"]["disk"] == "4 GiB"
    assert (project / "scripts/old/02-a.sh").read_text() == "export A=b\necho a\n"
    assert "the variable key, which is sensitive" in missing(found)
    assert "other sources: virtualbox-iso.virtualbox-iso" in missing(found)
    assert "post-processor manifest: each version has a manifest" in missing(found)


def test_windows_needs_a_base(run_import: Import) -> None:
    source = SOURCE.replace("disk_image   = true", 'communicator = "winrm"')
    with pytest.raises(UsageError) as caught:
        run_import(template("", source))
    assert caught.value.name == "packer-source"
    assert "--base IMAGE" in (caught.value.hint or "")


def test_steps_of_windows(tmp_path: Path) -> None:
    (tmp_path / "a.ps1").write_text("Write-Output 1\r\n")
    (tmp_path / "p.ps1").write_text("param($x)\r\n")
    build = Build("", Source("qemu", "w", {"communicator": "winrm", "guest_os_type": "Windows2019_64"}))
    build.provisioners += [
        Provisioner("powershell", {"inline": ["Get-Item ."], "environment_vars": ["A=it's"]}),
        Provisioner("powershell", {"scripts": ["a.ps1", "p.ps1"], "environment_vars": ["A=1"]}),
        Provisioner("windows-shell", {"inline": ["ver"]}),
        Provisioner("windows-restart", {}),
        Provisioner("windows-update", {"filters": ["x"]}),
        Provisioner("file", {"source": "a.ps1", "destination": "C:/tools/"}),
        Provisioner("shell", {"inline": ["x"]}),
    ]
    found = turn(build, "w", tmp_path, Folder(tmp_path, tmp_path), "base")
    assert found.document["os"] == "windows"
    assert found.document["updates"] == {"only": "all"}
    assert [next(key for key in step if key != "name") for step in found.document["steps"]] == [
        "powershell",
        "powershell",
        "cmd",
        "copy",
    ]
    assert found.document["steps"][-1]["copy"]["to"] == "C:\\tools\\a.ps1"
    assert found.files["scripts/w/01-inline.ps1"].data == b"$env:A = 'it''s'\nGet-Item .\n"
    assert {each.what for each in found.missing} >= {"windows-restart 4", "shell 7", "windows-update 5: filters"}


def test_a_fault_takes_its_key_and_is_named(run_import: Import) -> None:
    source = SOURCE.replace("disk_image ", "memory = 100\n disk_image ")
    found = run_import(template("", source))
    assert "machine" not in found["definition"]
    assert "machine.memory" in missing(found)


def test_nothing_is_written_over(run_import: Import, project: Path) -> None:
    run_import(template('provisioner "shell" {\n  inline = ["echo a"]\n}'))
    before = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        run_import(template('provisioner "shell" {\n  inline = ["echo b"]\n}'))
    assert caught.value.name == "exists"
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == before


def test_a_dry_run_writes_nothing(run_import: Import, project: Path) -> None:
    assert run_import(template(""), "--dry-run")["written"] == []
    assert not list((project / "images").iterdir())


def test_a_base_of_the_project(run_import: Import, project: Path) -> None:
    text = f"goldsmith: 1\nsource: {{disk: {{url: 'https://example.org/a.qcow2', sha256: {DIGEST}}}}}\n"
    (project / "images/base.yaml").write_text(text)
    found = run_import(template(""), "--base", "base")
    assert found["definition"]["source"] == {"master": "base@golden"}


@pytest.mark.parametrize("name", ["shop.pkr.hcl", "shop.json"])
def test_a_variable_of_the_environment_is_named(
    run_import: Import, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("TOKEN_OF_MINE", "abc")
    text = template('provisioner "shell" {\n  inline = ["login ${env("TOKEN_OF_MINE")}"]\n}')
    if name.endswith(".json"):
        builder = {
            "type": "qemu",
            "disk_image": True,
            "iso_url": "https://example.org/a.qcow2",
            "iso_checksum": DIGEST,
        }
        provisioner = {"type": "shell", "inline": ["login {{env `TOKEN_OF_MINE`}}"]}
        text = json.dumps({"builders": [builder], "provisioners": [provisioner]})
    found = run_import(text, name=name)
    assert "login abc" in (project / "scripts/shop/01-inline.sh").read_text()
    assert "env TOKEN_OF_MINE: the template reads this variable of your environment" in missing(found)
