"""Sysprep runs, and the machine powers itself off. Neither is believed: the stage asks the disk afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.base import process
from pipeline.base.errors import GuestError
from pipeline.hypervisor import answers as agent_answers
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.shell import Shell

#: What is taken away before sysprep, because sysprep leaves it.
PREPARATION = (Path(__file__).parent / "inside" / "before-sysprep.ps1").read_bytes()
SYSPREP = r"C:\Windows\System32\Sysprep\sysprep.exe"
ANSWERS = r"C:\Windows\System32\Sysprep\goldsmith-oobe.xml"
ERRORS = r"C:\Windows\System32\Sysprep\Panther\setuperr.log"
#: What setuperr.log says, and what that is called. Microsoft: Sysprep process overview, known issues.
CAUSES = (
    (
        re.compile(r"package (?P<what>\S+) was installed for a user, but not provisioned|0x80073cf2", re.IGNORECASE),
        "sysprep-appx",
        "an AppX package was installed for one user: {what}",
        "Remove-AppxPackage for that user, and Remove-AppxProvisionedPackage, as a step",
    ),
    (
        re.compile(r"0x80310039|BitLocker", re.IGNORECASE),
        "sysprep-bitlocker",
        "BitLocker is on",
        "manage-bde -off C: as a step, and wait until it says fully decrypted",
    ),
    (
        re.compile(r"0x800f0975|reserved storage|active scenario", re.IGNORECASE),
        "sysprep-reserved-storage",
        "reserved storage is in use by an unfinished update or feature",
        "restart until nothing is pending, then dism /online /set-reservedstoragestate /state:disabled",
    ),
    (
        re.compile(r"0xc004d307|rearm", re.IGNORECASE),
        "sysprep-rearm",
        "it was generalized too often, so no rearm is left",
        "build it from its medium, not from a generalized disk",
    ),
    (
        re.compile(r"member of the domain (?P<what>\S+)", re.IGNORECASE),
        "sysprep-domain",
        "it is a member of the domain {what}",
        "build it in a workgroup; the clones join the domain",
    ),
    (
        re.compile(r"GeneralizationState is (?P<what>\d+)", re.IGNORECASE),
        "sysprep-unfinished",
        "an earlier sysprep has not ended (GeneralizationState is {what})",
        "start from the layer before it; a disk with a failed sysprep cannot be generalized",
    ),
    (
        re.compile(r"(reboot|restart) is pending|pending.{0,40}(reboot|update|restart)", re.IGNORECASE),
        "sysprep-pending",
        "a restart is pending",
        "restart the guest in a step (reboot: expected, exit code 3010)",
    ),
)


def generalize(
    session: WindowsSession, answers: bytes | None, *, mode_vm: bool, on_line: Callable[[str], None]
) -> int | None:
    """Look for what sysprep is known to refuse, run it, and wait until the machine has powered itself off.

    Returns how often it can be generalized after that; None where Windows does not tell. Raises GuestError:
    sysprep-refused or one of CAUSES, sysprep-hangs, guest-unclean-shutdown.
    """
    shell, left = Shell(session), None

    def on_check_line(line: str) -> None:
        nonlocal left
        if found := _REARMS.fullmatch(line.strip()):
            left = int(found[1])
        on_line(line)

    session.progress("removing leftovers of sysprep")
    try:
        # it asks for a restart before it does anything, once: what it was to do it does behind that
        for _ in range(2):
            if not shell.powershell(PREPARATION, deadline=session.deadlines.command, on_line=on_line, reboots=True):
                break
    except process.CommandFailed as error:
        raise _refused(session, error.stdout + error.stderr, "the preparation for sysprep failed") from None
    session.progress("checking for known causes of a sysprep failure")
    try:
        shell.powershell(PREFLIGHT, deadline=session.deadlines.command, on_line=on_check_line, reboots=False)
    except process.CommandFailed as error:
        raise _refused(session, error.stdout + error.stderr, "sysprep would fail") from None
    words = ["/generalize", "/oobe", "/shutdown", "/quiet"]
    if answers is not None:
        shell.write(ANSWERS, answers)
        words.append(f"/unattend:{ANSWERS}")
    if mode_vm:
        words.append("/mode:vm")
    session.progress("sysprep")
    # it may power the machine off within a second: there is no later picture then
    session.picture(now=True)
    # it ends the agent before it ends itself: what the agent answers from here on decides nothing
    started = session.agent.call("guest-exec", {"path": SYSPREP, "arg": words})
    _wait(session, agent_answers.pid("guest-exec", started))
    return left


def _wait(session: WindowsSession, pid: int) -> None:
    until = time.monotonic() + session.deadlines.sysprep
    ended: float | None = None
    machine = session.machine
    while machine.stopped is None:
        if machine.panicked:
            machine.check()
        session.picture()
        if ended is None and _has_ended(session, pid):
            ended = time.monotonic()
        if ended is not None and time.monotonic() - ended > session.deadlines.shutdown:
            raise _refused(session, _errors(session), "sysprep has ended, and the machine runs on")
        if time.monotonic() > until:
            session.picture(now=True)
            raise GuestError(
                f"sysprep has not ended after {session.deadlines.sysprep:.0f} s",
                name="sysprep-hangs",
                hint=f"read its log in {session.logs} and see the last screenshot in screens/",
            )
        time.sleep(1.0)
    machine.wait_off(1.0)


def _has_ended(session: WindowsSession, pid: int) -> bool:
    try:
        process = "guest-exec-status"
        return agent_answers.status(process, session.agent.call(process, {"pid": pid}, answer=5, quiet=True)).exited
    except GuestError:
        return False  # gone with the rest, or too busy


def _errors(session: WindowsSession) -> str:
    try:
        return session.agent.read(ERRORS, 1 << 20).decode("utf-8", "replace")
    except GuestError:
        return ""


def by_log(log: str, what: str) -> GuestError | None:
    """The failure under the name of the cause that setuperr.log or the preflight tells; None where neither does."""
    for pattern, name, message, hint in CAUSES:
        if found := pattern.search(log):
            cause = found.groupdict().get("what") or found.group()
            return GuestError(f"{what}: {message.format(what=cause)}", name=name, hint=hint)
    return None


def _refused(session: WindowsSession, log: str, what: str) -> GuestError:
    """The refusal under the name of its cause."""
    session.picture(now=True)
    if named := by_log(log, what):
        return named
    last = next((line.strip() for line in reversed(log.splitlines()) if line.strip()), "its log is empty")
    return GuestError(f"{what}: {last[:300]}", name="sysprep-refused", hint=f"its log is {ERRORS}, in {session.logs}")


#: What the script below says last, where it found nothing.
_REARMS = re.compile(r"rearms left after this: (\d+)")
#: What is known to end sysprep, asked beforehand: a refusal costs minutes, and leaves a disk half generalized.
PREFLIGHT = rb"""
$ErrorActionPreference = 'Stop'
$found = @()
$keys = 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\Component Based Servicing\RebootPending',
    'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\WindowsUpdate\Auto Update\RebootRequired'
foreach ($key in $keys + "$env:SystemRoot\WinSxS\pending.xml") {
    if (Test-Path $key) { $found += "a reboot is pending: $key" }
}
$reserve = Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows\CurrentVersion\ReserveManager' `
    -ErrorAction SilentlyContinue
if ($reserve.ActiveScenario) { $found += "reserved storage is in use: ActiveScenario is $($reserve.ActiveScenario)" }
$status = Get-ItemProperty 'HKLM:\SYSTEM\Setup\Status\SysprepStatus' -ErrorAction SilentlyContinue
if ($null -ne $status.GeneralizationState -and $status.GeneralizationState -ne 7) {
    # 7 is the resting value, in a Windows that was never generalized too
    $found += "an earlier sysprep has not ended: GeneralizationState is $($status.GeneralizationState)"
}
$platform = Get-ItemProperty 'HKLM:\SOFTWARE\Microsoft\Windows NT\CurrentVersion\SoftwareProtectionPlatform' `
    -ErrorAction SilentlyContinue
$left = (Get-CimInstance SoftwareLicensingService).RemainingWindowsReArmCount
if ($left -eq 0 -and $platform.SkipRearm -ne 1) { $found += "no rearm is left: RemainingWindowsReArmCount is $left" }
$system = Get-CimInstance Win32_ComputerSystem
if ($system.PartOfDomain) { $found += "it is a member of the domain $($system.Domain)" }
foreach ($volume in @(Get-CimInstance -Namespace root\cimv2\Security\MicrosoftVolumeEncryption `
        -ClassName Win32_EncryptableVolume -ErrorAction SilentlyContinue)) {
    if ($volume.ConversionStatus -ne 0) { $found += "BitLocker is on: $($volume.DriveLetter)" }
}
if (Get-Command Get-AppxPackage -ErrorAction SilentlyContinue) {
    $provisioned = @(Get-AppxProvisionedPackage -Online | ForEach-Object DisplayName)
    foreach ($package in @(Get-AppxPackage -AllUsers | Where-Object {
                -not $_.IsFramework -and -not $_.NonRemovable -and $_.SignatureKind -ne 'System' })) {
        if ($provisioned -notcontains $package.Name) {
            $name = $package.PackageFullName
            $found += "package $name was installed for a user, but not provisioned for all users"
        }
    }
}
$found | ForEach-Object { Write-Output $_ }
if ($found) { exit 1 }
if ($null -ne $left) {
    # each sysprep uses one up, but where it was told to pass that over
    $used = if ($platform.SkipRearm -eq 1) { 0 } else { 1 }
    Write-Output "rearms left after this: $($left - $used)"
}
exit 0
"""
