"""The very commands of the answer file, run by Wine's cmd, reg and msiexec, with a real MSI. NOT WINDOWS.

Wine is no Windows either: that a command runs here shows that it is spelt right, not that Windows agrees.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lxml import etree

from pipeline.systems.windows import shell
from pipeline.systems.windows.answers import Machine, Wishes, installation
from tests.tools import skip_without

NS = "{urn:schemas-microsoft-com:unattend}"
WINLOGON = r"HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion\Winlogon"
RUN_ONCE = r"HKEY_LOCAL_MACHINE\Software\Microsoft\Windows\CurrentVersion\RunOnce"
#: Seconds for Wine to make its prefix, and for each command.
DEADLINE = 600
PACKAGE = """\
<?xml version="1.0" encoding="utf-8"?>
<Wix xmlns="http://schemas.microsoft.com/wix/2006/wi">
  <Product Id="*" Name="NOT the agent" Language="1033" Version="1.0.0" Manufacturer="goldsmith's tests"
           UpgradeCode="6b1e3b8e-7a4e-4a55-9d0a-0e6f7d8b2c11">
    <Package InstallerVersion="200" Compressed="yes" InstallScope="perMachine"/>
    <Media Id="1" Cabinet="a.cab" EmbedCab="yes"/>
    <Directory Id="TARGETDIR" Name="SourceDir">
      <Directory Id="ProgramFilesFolder">
        <Directory Id="D" Name="Qemu-ga">
          <Component Id="C" Guid="0d8f5f2e-51a7-4a39-9d2e-2f3c8d1d7f10">
            <File Id="F" Source="qemu-ga.exe" KeyPath="yes"/>
          </Component>
        </Directory>
      </Directory>
    </Directory>
    <Feature Id="M" Level="1"><ComponentRef Id="C"/></Feature>
  </Product>
</Wix>
"""


class Wine:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = folder / "prefix"
        self.environment = {
            **os.environ,
            "WINEPREFIX": str(self.prefix),
            "WINEARCH": "win64",
            "WINEDEBUG": "-all",
            "HOME": str(folder),
            "DISPLAY": "",
        }

    def run(self, *words: str) -> str:
        done = subprocess.run(
            ["wine", *words],
            capture_output=True,
            text=True,
            errors="replace",
            env=self.environment,
            timeout=DEADLINE,
            check=False,
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout

    def asked(self, key: str, name: str) -> str | None:
        """A registry value as Wine's reg shows it; None where it is not there."""
        done = subprocess.run(
            ["wine", "reg", "query", key, "/v", name],
            capture_output=True,
            text=True,
            env=self.environment,
            timeout=DEADLINE,
            check=False,
        )
        return done.stdout.split()[-1] if done.returncode == 0 else None

    def run_lines(self, lines: list[str]) -> None:
        """Run command lines as they are, one after another, as a logon does; no shell quotes them again."""
        escaped = (line.replace("\\", "\\\\").replace('"', '\\"') for line in lines)
        values = [f'"{number:02}"="{line}"' for number, line in enumerate(escaped)]
        registry = self.folder / "run.reg"
        registry.write_text("\r\n".join(["REGEDIT4", "", f"[{RUN_ONCE}]", *values, ""]))
        self.run("regedit", "/S", f"z:{registry}")
        self.run("wineboot")
        subprocess.run(["wineserver", "-w"], env=self.environment, timeout=DEADLINE, check=True)


@pytest.fixture(scope="module")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    skip_without("wine", "wixl")
    made = Wine(tmp_path_factory.mktemp("wine"))
    made.run("cmd", "/c", "ver")
    yield made
    subprocess.run(["wineserver", "-k"], env=made.environment, check=False)


@pytest.fixture(scope="module")
def medium(wine: Wine) -> Path:
    """The folder of a drive that has the agent where virtio-win has it; the drive is G:, and no other is there."""
    folder = wine.folder / "virtio"
    (folder / "guest-agent").mkdir(parents=True)
    (wine.folder / "qemu-ga.exe").write_text("NOT an agent")
    (wine.folder / "agent.wxs").write_text(PACKAGE)
    subprocess.run(
        ["wixl", "-o", folder / "guest-agent/qemu-ga-x86_64.msi", wine.folder / "agent.wxs"],
        cwd=wine.folder,
        check=True,
        capture_output=True,
    )
    (wine.prefix / "dosdevices/g:").symlink_to(folder)
    return folder


def commands(which: str) -> list[str]:
    """The command lines of an answer file, in their order."""
    file = etree.fromstring(installation(Wishes(1, "2k22", "secret"), Machine(tpm=False, secure_boot=False)))
    return [element.text or "" for element in file.iter(f"{NS}{which}")]


@pytest.mark.slow
def test_the_first_logon_brings_the_agent_and_takes_the_password(wine: Wine, medium: Path) -> None:
    for name, value in {"DefaultPassword": "secret", "AutoAdminLogon": "1", "AutoLogonCount": "1"}.items():
        wine.run("reg", "add", WINLOGON, "/v", name, "/d", value, "/f")
    panther = wine.prefix / "drive_c/windows/Panther"
    (panther / "Unattend").mkdir(parents=True)
    for name in ("unattend.xml", "unattend-original.xml", "Unattend/unattend.xml", "setupact.log"):
        (panther / name).write_text("secret")
    lines = commands("CommandLine")
    assert len(lines) == 3
    wine.run_lines(lines)
    found = [path for path in (wine.prefix / "drive_c").rglob("qemu-ga.exe") if "Qemu-ga" in str(path)]
    assert len(found) == 1, "the agent's package was not installed"
    assert wine.asked(WINLOGON, "DefaultPassword") is None
    assert wine.asked(WINLOGON, "AutoLogonCount") is None
    assert wine.asked(WINLOGON, "AutoAdminLogon") == "0"
    assert sorted(path.name for path in panther.rglob("*") if path.is_file()) == ["setupact.log"]


@pytest.mark.slow
def test_what_runs_before_the_first_logon(wine: Wine) -> None:
    lines = commands("Path")
    lines = [line for line in lines if line.startswith("reg ")]
    assert len(lines) == 3
    wine.run_lines(lines)
    assert wine.asked(r"HKLM\SYSTEM\Setup\LabConfig", "BypassTPMCheck") == "0x1"
    assert wine.asked(r"HKLM\SYSTEM\Setup\LabConfig", "BypassSecureBootCheck") == "0x1"
    assert wine.asked(r"HKLM\SYSTEM\CurrentControlSet\Control\BitLocker", "PreventDeviceEncryption") == "0x1"


@pytest.mark.slow
@pytest.mark.parametrize(("line", "code"), [("exit 5", 5), ("exit /b 7", 7), ("cmd /c exit 9", 9), ("echo ok", 0)])
def test_a_step_gives_its_code_however_it_ends(wine: Wine, line: str, code: int) -> None:
    """The very batch file that runs a step: a step that ends its own cmd.exe does not end this one."""
    folder = wine.prefix / "drive_c" / "windows" / "temp" / "goldsmith"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "code.txt").unlink(missing_ok=True)
    (folder / "run.cmd").write_text(shell._RUN.format(line=shell.CMD_STEP), newline="\r\n")
    (folder / "step.cmd").write_text(f"@echo off\n{line}\n", newline="\r\n")
    words = ["wine", "cmd", "/d", "/c", r"C:\windows\temp\goldsmith\run.cmd"]
    subprocess.run(words, env=wine.environment, timeout=DEADLINE, capture_output=True, check=False)
    assert int((folder / "code.txt").read_text()) == code
