"""NOT WINDOWS: plays Setup, first logon, sysprep and a clone's first boot, as Microsoft's documents describe them.

Setup reads autounattend.xml off the first medium that has one, partitions, formats, applies install.wim and makes the
disk boot. The installed system goes through its passes, runs the first logon's commands and starts the agent that
they brought. A TimeZone of "stand-in: FAULT" makes it fail in that way.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import identity
import registry
import shell
import tasks
from shell import STATE, Stop, unix

NS = "{urn:schemas-microsoft-com:unattend}"
SHELL = "Microsoft-Windows-Shell-Setup"
PANTHER = "/mnt/c/Windows/Panther"
SYSPREP = "/mnt/c/Windows/System32/Sysprep"
COMPLETE, GENERALIZED = "IMAGE_STATE_COMPLETE", "IMAGE_STATE_GENERALIZE_RESEAL_TO_OOBE"
#: What the agent is asked to run by Windows' own paths: it finds them by their whole names.
PROGRAMS = ("cmd.exe", "shutdown.exe", "reg.exe", "Sysprep\\sysprep.exe")
#: Where the agent is asked for files that this system has elsewhere.
LOGS = (
    "Panther\\setuperr.log",
    "System32\\Sysprep\\Panther\\setuperr.log",
    "System32\\Sysprep\\Panther\\setupact.log",
    "Temp\\goldsmith\\msi.log",
)


def say(*what):
    text = "NOT WINDOWS: " + " ".join(str(part) for part in what)
    with open("/dev/console", "w") as console:
        print(text, file=console, flush=True)
    # what the kernel's first console is, the screen is not
    with open("/dev/tty0", "w") as screen:
        print(text, file=screen, flush=True)


def run(*argv):
    done = subprocess.run([str(word) for word in argv], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        say("failed:", argv, done.returncode, done.stdout[-400:])
        dialog(f"{argv[0]} failed")
    return done.stdout


def dialog(message):
    """What Setup does where nobody can be asked: it shows a message, and waits."""
    say("Setup shows a message:", message)
    while True:
        time.sleep(3600)


def command_line():
    with open("/proc/cmdline") as file:
        return dict(word.split("=", 1) for word in file.read().split() if "=" in word)


def mount_media():
    for letter, device in zip("DEFGH", sorted(glob.glob("/dev/sr*")), strict=False):
        os.makedirs("/mnt/" + letter, exist_ok=True)
        for kind in ("udf", "iso9660"):
            done = subprocess.run(
                ["mount", "-t", kind, "-o", "ro", device, "/mnt/" + letter], stderr=subprocess.DEVNULL
            )
            if done.returncode == 0:
                break


def mount_c(device):
    os.makedirs("/mnt/c", exist_ok=True)
    run("ntfs-3g", device, "/mnt/c")


# ---- answer files -----------------------------------------------------------------------------------------------


def component(root, when, name):
    for settings in root.findall(NS + "settings"):
        if settings.get("pass") == when:
            for each in settings.findall(NS + "component"):
                if each.get("name") == name and each.get("processorArchitecture") == "amd64":
                    return each
    return None


def text(element, path, otherwise=None):
    found = element.find("/".join(NS + part for part in path.split("/"))) if element is not None else None
    return found.text.strip() if found is not None and found.text else otherwise


def items(element, path):
    """The items of a list, in their order."""
    found = element.findall("/".join(NS + part for part in path.split("/"))) if element is not None else []
    return sorted(found, key=lambda each: int(text(each, "Order", "0")))


def fault(root):
    for when in ("specialize", "oobeSystem"):
        zone = text(component(root, when, SHELL), "TimeZone", "")
        if zone.startswith("stand-in: "):
            return zone.removeprefix("stand-in: ")
    return ""


# ---- Setup ------------------------------------------------------------------------------------------------------


def setup():
    mount_media()
    files = [path for letter in sorted(shell.drives()) if (path := unix(letter + ":\\autounattend.xml"))]
    if not files:
        dialog("which language? (there is no answer file)")
    root = ET.parse(files[0]).getroot()
    wrong = fault(root)
    say("answer file", files[0], "fault:", wrong or "none")
    disk = find_disk(root)
    partitions(root, disk, wrong)
    target = apply(root, disk)
    mount_c(target)
    os.makedirs(PANTHER, exist_ok=True)
    shutil.copy(files[0], PANTHER + "/unattend.xml")
    with open(STATE, "w") as file:
        json.dump({"phase": "specialize", "fault": wrong}, file)
    state(COMPLETE.replace("COMPLETE", "UNDEPLOYABLE"))
    run("umount", "/mnt/c")
    bootable(disk, target)
    run("sync")
    say("the first phase is done: restarting")
    run("reboot", "-f")


def find_disk(root):
    """A virtio disk is seen with its driver only."""
    drivers = set()
    for path in component(root, "windowsPE", "Microsoft-Windows-PnpCustomizationsWinPE").iter(NS + "Path"):
        folder = unix(path.text.strip())
        if folder and os.path.isdir(folder):
            drivers |= {name.lower() for name in os.listdir(folder) if name.lower().endswith(".inf")}
    say("drivers", sorted(drivers))
    disks = ["/dev/vda"] if os.path.exists("/dev/vda") and "viostor.inf" in drivers else []
    disks += sorted(glob.glob("/dev/sd?"))
    if not disks:
        dialog("we couldn't find any drives (0x80300001): a driver is missing")
    part = component(root, "windowsPE", "Microsoft-Windows-Setup").find(NS + "DiskConfiguration/" + NS + "Disk")
    return disks[int(text(part, "DiskID", "0"))]


def partitions(root, disk, wrong):
    part = component(root, "windowsPE", "Microsoft-Windows-Setup").find(NS + "DiskConfiguration/" + NS + "Disk")
    efi = os.path.isdir("/sys/firmware/efi")
    kinds = {
        "EFI": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
        "MSR": "E3C9E316-0B5C-4DB8-817D-F92DF00215AE",
        "Primary": "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7",
    }
    lines = ["label: gpt" if efi else "label: dos"]
    active = {
        text(each, "PartitionID")
        for each in items(part, "ModifyPartitions/ModifyPartition")
        if text(each, "Active") == "true"
    }
    for each in items(part, "CreatePartitions/CreatePartition"):
        kind = text(each, "Type")
        if not efi and kind != "Primary":
            dialog(f"a partition of type {kind} on a disk for BIOS")
        size = "" if text(each, "Extend") == "true" else f"size={text(each, 'Size')}MiB, "
        boot = ", bootable" if text(each, "Order") in active and not efi else ""
        lines.append(f"{size}type={kinds[kind] if efi else '7'}{boot}")
    if efi and not any("C12A7328" in line for line in lines):
        dialog("UEFI, and no EFI system partition")
    done = subprocess.run(["sfdisk", "-q", "--wipe", "always", disk], input="\n".join(lines) + "\n", text=True)
    if done.returncode:
        dialog("the disk could not be partitioned")
    time.sleep(0.5)
    for each in items(part, "ModifyPartitions/ModifyPartition"):
        device, label = disk + text(each, "PartitionID"), text(each, "Label", "")
        if text(each, "Format") == "FAT32":
            run("mkfs.fat", "-F", "32", "-n", label.upper()[:11], device)
        elif text(each, "Format") == "NTFS":
            run("mkfs.ntfs", "-q", "-F", "-Q", "-L", label, device)
    say("partitioned and formatted")
    if wrong == "setup hangs":
        # once it is at work on the disk: one that has written nothing has stopped with a message
        run("sync")
        say("hangs, as it was asked to")
        time.sleep(36000)


def apply(root, disk):
    part = component(root, "windowsPE", "Microsoft-Windows-Setup")
    wim = next(path for letter in sorted(shell.drives()) if (path := unix(letter + ":\\sources\\install.wim")))
    data = part.find(NS + "ImageInstall/" + NS + "OSImage/" + NS + "InstallFrom/" + NS + "MetaData")
    key, value = text(data, "Key"), text(data, "Value")
    if key not in ("/IMAGE/INDEX", "/IMAGE/NAME"):
        dialog(f"no image is chosen by {key}")
    if subprocess.run(["wimlib-imagex", "info", wim, value], stdout=subprocess.DEVNULL).returncode:
        dialog(f"there is no image {value}")
    target = disk + text(part, "ImageInstall/OSImage/InstallTo/PartitionID")
    run("wimlib-imagex", "apply", wim, value, target)
    say("image", value, "applied to", target)
    return target


def bootable(disk, target):
    """What bcdboot does: the boot configuration, and in place of Windows' boot manager our own."""
    medium = os.path.dirname(unix(next(f"{x}:\\standin\\BCD" for x in shell.drives() if unix(f"{x}:\\standin\\BCD"))))
    os.makedirs("/mnt/system", exist_ok=True)
    efi = os.path.isdir("/sys/firmware/efi")
    run(*(("mount", "-t", "vfat") if efi else ("ntfs-3g",)), disk + "1", "/mnt/system")
    folders = ("EFI/BOOT", "EFI/debian", "EFI/Microsoft/Boot", "standin") if efi else ("Boot", "standin")
    for name in folders:
        os.makedirs("/mnt/system/" + name, exist_ok=True)
    for name in ("vmlinuz", "initrd"):
        shutil.copyfile(f"{medium}/{name}", f"/mnt/system/standin/{name}")
    shutil.copyfile(medium + "/BCD", "/mnt/system/" + ("EFI/Microsoft/Boot/BCD" if efi else "Boot/BCD"))
    if efi:
        shutil.copyfile(medium + "/efi/bootx64.efi", "/mnt/system/EFI/BOOT/BOOTX64.EFI")
        shutil.copyfile(medium + "/efi/grubx64.efi", "/mnt/system/EFI/BOOT/grubx64.efi")
        with open("/mnt/system/EFI/debian/grub.cfg", "w") as file:
            file.write(
                "search --no-floppy --file --set=root /standin/vmlinuz\n"
                "linux /standin/vmlinuz console=tty0 console=ttyS0 quiet "
                f"standin.stage=installed standin.c={target[-1]}\ninitrd /standin/initrd\nboot\n"
            )
    else:
        boot_sector(disk, medium)
    run("umount", "/mnt/system")


def boot_sector(disk, medium):
    """As grub-bios-setup does: boot.img's code loads core.img, which lies behind it in the first megabyte."""
    with open(medium + "/boot.img", "rb") as file:
        boot = bytearray(file.read(440))
    with open(medium + "/core.img", "rb") as file:
        core = bytearray(file.read())
    struct.pack_into("<Q", boot, 0x5C, 1)
    boot[0x66:0x68] = b"\x90\x90"
    struct.pack_into("<Q", core, 0x1F4, 2)
    with open(disk, "r+b") as file:
        file.write(boot)
        file.seek(512)
        file.write(core)
        file.flush()
        os.fsync(file.fileno())


# ---- the installed system ---------------------------------------------------------------------------------------


def state(image_state):
    def change(tree):
        key = registry.find(tree, "Microsoft\\Windows\\CurrentVersion\\Setup\\State", create=True)
        key["ImageState"] = image_state

    registry.change("SOFTWARE", change)
    os.makedirs("/mnt/c/Windows/Setup/State", exist_ok=True)
    with open("/mnt/c/Windows/Setup/State/State.ini", "w", newline="\r\n") as file:
        file.write(f"[State]\nImageState={image_state}\n")


def set_setup(kind, line, name):
    def change(tree):
        tree["Setup"].update({"SetupType": kind, "CmdLine": line, "SystemSetupInProgress": int(kind != 0)})
        for control in (each for each in tree if each.startswith("ControlSet")):
            registry.find(tree[control], "Control\\ComputerName\\ComputerName", create=True)["ComputerName"] = name

    registry.change("SYSTEM", change)


def installed(device):
    mount_c(device)
    mount_media()
    with open(STATE) as file:
        where = json.load(file)
    wrong = where["fault"]
    say("phase", where["phase"], "fault:", wrong or "none")
    if wrong == "restarts for ever":
        run("umount", "/mnt/c")
        run("reboot", "-f")
    if wrong == "blue screen":
        shell.blue_screen()
    if where["phase"] != "running":
        passes(where)
    if not where.get("agent"):
        dialog("nobody has installed an agent; this is the desktop")
    with open(STATE, "w") as file:
        json.dump({**where, "phase": "running"}, file)
    tasks.at_start()
    start_agent()


def passes(where):
    """specialize and oobeSystem, by the answer file in Panther; without one, by a medium's, which is cached there.

    Microsoft, "Windows Setup Automation Overview": the implicit search order. ovf-env.xml means nothing to Windows.
    """
    path = PANTHER + "/unattend.xml"
    if not os.path.exists(path):
        found = [file for letter in sorted(shell.drives()) if (file := unix(letter + ":\\Unattend.xml"))]
        if not found:
            dialog("which country, which keyboard? (nothing answers the first boot)")
        shutil.copy(found[0], path)
        say("first boot answered by", found[0])
    root = ET.parse(path).getroot()
    name = text(component(root, "specialize", SHELL), "ComputerName", "*")
    if name == "*":
        name = "WIN-" + os.urandom(5).hex().upper()[:8]
    cmd = shell.Cmd()
    for each in items(
        component(root, "specialize", "Microsoft-Windows-Deployment"), "RunSynchronous/RunSynchronousCommand"
    ):
        line(cmd, text(each, "Path"))
    part = component(root, "oobeSystem", SHELL)
    if text(part, "OOBE/HideEULAPage") != "true":
        dialog("do you accept the license?")
    guid = identity.specialize()
    set_setup(0, "", name)
    for each in items(part, "UserAccounts/LocalAccounts/LocalAccount"):
        user, secret = text(each, "Name"), text(each, "Password/Value", "")
        secret = identity.plain(secret, text(each, "Password/PlainText"))
        identity.add_account(user)
        # so that a test can tell the password, and the serial console does not
        say("account", user, "sha256", hashlib.sha256(secret.encode()).hexdigest())
    state(COMPLETE)
    tag = SYSPREP + "/Sysprep_succeeded.tag"
    if os.path.exists(tag):
        os.unlink(tag)
    password = text(part, "AutoLogon/Password/Value")
    if password:
        logon(password)
    strike_out(path)
    for each in items(part, "FirstLogonCommands/SynchronousCommand"):
        if where["fault"] == "no first logon":
            dialog("the password is wrong; this is the logon screen")
        line(cmd, text(each, "CommandLine"))
    where["agent"] = where.get("agent") or os.path.exists("/run/agent-installed")
    say("first boot is over:", name, guid)


def line(cmd, command):
    say("runs", command)
    with contextlib.suppress(Stop):
        cmd.do(command)


def logon(password):
    """The automatic logon keeps its password where everybody can read it."""

    def change(tree):
        key = registry.find(tree, "Microsoft\\Windows NT\\CurrentVersion\\Winlogon", create=True)
        key.update({"AutoAdminLogon": "1", "DefaultPassword": password, "AutoLogonCount": "1"})

    registry.change("SOFTWARE", change)


def strike_out(path):
    """Setup replaces the passwords that it has used."""
    with open(path, encoding="utf-8") as file:
        whole = file.read()
    whole = re.sub(r"(<(?:Administrator)?Password>\s*<Value>)[^<]*", r"\1*SENSITIVE*DATA*DELETED*", whole)
    with open(path, "w", encoding="utf-8") as file:
        file.write(whole)


def start_agent():
    os.makedirs("/dev/virtio-ports", exist_ok=True)
    port = None
    for path in glob.glob("/sys/class/virtio-ports/*"):
        with open(path + "/name") as file:
            if file.read().strip() == "org.qemu.guest_agent.0":
                port = "/dev/" + os.path.basename(path)
    for name in PROGRAMS:
        program = f"/bin/C:\\Windows\\System32\\{name}"
        what = "play.py sysprep" if name.endswith("sysprep.exe") else f"shell.py {name}"
        with open(program, "w") as file:
            file.write(f'#!/bin/sh\nexec python3 /standin/{what} "$@"\n')
        os.chmod(program, 0o755)
    for name in LOGS:
        link = f"/files/C:\\Windows\\{name}"
        if not os.path.islink(link):
            os.symlink("/mnt/c/Windows/" + name.replace("\\", "/"), link)
    with open("/bin/shutdown", "w") as file:
        file.write('#!/bin/sh\nexec python3 /standin/play.py shutdown "$@"\n')
    os.chmod("/bin/shutdown", 0o755)
    say("the agent starts")
    while True:
        agent = subprocess.Popen(
            ["qemu-ga", "-m", "virtio-serial", "-p", port, "-t", "/run", "-f", "/run/qga.pid"], cwd="/files"
        )
        agent.wait()
        say("the agent has ended with", agent.returncode)
        if os.path.exists("/run/agent-is-gone"):
            time.sleep(36000)
        # Windows' services are started again
        time.sleep(5)


def off(how):
    """Leave the disk at rest, and go."""
    shell.end_agent()
    subprocess.run(["sync"])
    subprocess.run(["umount", "/mnt/c"])
    subprocess.run([how, "-f"])


# ---- sysprep ----------------------------------------------------------------------------------------------------


def sysprep(arguments):
    words = [word.lower() for word in arguments]
    known = r"[/-](generalize|oobe|audit|shutdown|reboot|quit|quiet|mode:vm|unattend:.*)"
    bad = [word for word in words if not re.fullmatch(known, word)]
    if bad or "/generalize" not in words or ("/oobe" in words) == ("/audit" in words):
        print("sysprep: bad arguments", bad)
        return 1
    shell.take_in()
    say("sysprep", *arguments)
    with open(STATE) as file:
        where = json.load(file)
    os.makedirs(SYSPREP + "/Panther", exist_ok=True)
    with open(SYSPREP + "/Panther/setupact.log", "w", newline="\r\n") as file:
        file.write(f"Info  SYSPRP  {' '.join(arguments)}\n")
    if where["fault"] == "sysprep refuses":
        with open(SYSPREP + "/Panther/setuperr.log", "w", newline="\r\n") as file:
            file.write(
                "Error SYSPRP Package Contoso.NotWindows_1.0.0.0_x64__8wekyb3d8bbwe was installed for a user, but "
                "not provisioned for all users. This package will not function properly in the sysprep image.\n"
                "Error SYSPRP Failed to remove apps for the current user: 0x80073cf2.\n"
            )
        return 1
    if not where.get("rearms", shell.REARMS):
        with open(SYSPREP + "/Panther/setuperr.log", "w", newline="\r\n") as file:
            file.write("Error SYSPRP RunRegistryDlls: Failure occurred while executing slc.dll, error 0xc004d307\n")
        return 1
    if where["fault"] == "sysprep hangs":
        time.sleep(36000)
    if where["fault"] == "sysprep fails and powers off":
        with open(SYSPREP + "/Panther/setuperr.log", "w", newline="\r\n") as file:
            file.write("Error SYSPRP BitLocker-Sysprep: BitLocker is on for the OS volume (0x80310039)\n")
    if where["fault"].endswith("powers off"):
        off("poweroff")
    answers = next((word[len("/unattend:") :] for word in arguments if word.lower().startswith("/unattend:")), None)
    if answers is not None:
        shutil.copy(unix(answers), PANTHER + "/unattend.xml")
    set_setup(2, "oobe\\windeploy.exe", "WIN-GENERALIZED")
    identity.forget()
    state(GENERALIZED)
    with open(SYSPREP + "/Panther/setuperr.log", "w"), open(SYSPREP + "/Sysprep_succeeded.tag", "w"):
        pass
    mode = "VM" if "/mode:vm" in words else "<null>"
    with open(SYSPREP + "/Panther/setupact.log", "w", newline="\r\n") as file:
        file.write(
            "Info       SYSPRP ParseCommands:Found supported command line option 'GENERALIZE'\n"
            f"Info       SYSPRP SysprepSession::CreateSession: Successfully created instance with mode {mode}\n"
        )
    with open(STATE, "w") as file:
        json.dump({**where, "phase": "generalized", "rearms": where.get("rearms", shell.REARMS) - 1}, file)
    say("generalized: powering off")
    off("poweroff" if "/shutdown" in words else "reboot")
    return 0


def main():
    if sys.argv[1:2] == ["sysprep"]:
        return sysprep(sys.argv[2:])
    if sys.argv[1:2] == ["shutdown"]:
        off("reboot" if "-r" in sys.argv else "poweroff")
        return 0
    with open("/dev/tty0", "w") as screen:
        screen.write("\033[2J\033[H\n   NOT WINDOWS\n   a stand-in for goldsmith's tests\n\n")
    secure = glob.glob("/sys/firmware/efi/efivars/SecureBoot-*")
    on = "off"
    for path in secure:
        with open(path, "rb") as file:
            on = "on" if file.read()[4] == 1 else "off"
    say("Secure Boot", on, "TPM", [os.path.basename(each) for each in glob.glob("/sys/class/tpm/*")])
    words = command_line()
    if words.get("standin.stage") == "installed":
        # a VM's temporary disk has one partition
        disks = ("/dev/vda", *sorted(glob.glob("/dev/sd?")))
        installed(next(disk + words["standin.c"] for disk in disks if os.path.exists(disk + words["standin.c"])))
    else:
        setup()
    return 0


if __name__ == "__main__":
    sys.exit(main())
