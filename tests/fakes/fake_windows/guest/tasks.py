"""NOT WINDOWS: tasks that run at each start, of which it knows one: a first-boot adapter.

No PowerShell is here. Beside the script that the task names lies the adapter's configuration; what docs/definition.md
says that an adapter does with it is done here, in Python: asked, applied, reported, once for each machine.
"""

import base64
import io
import json
import os
import re
import socket
import subprocess
import sys
import time

import registry
import shell

TASKS = "/mnt/c/Windows/System32/Tasks"
DMI = "/sys/class/dmi/id/"
AZURE, BUILDING = "7783-7084-3265-9085-8269-3286-77", "goldsmith-build"
STATE = "Microsoft\\Windows\\CurrentVersion\\Setup\\State"
#: What udhcpc runs with the lease that it got.
LEASE = """#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr add "$ip/${mask:-24}" dev "$interface"
for way in $router; do ip route add "$way" dev "$interface"; ip route add default via "$way"; done
"""


def say(*what):
    with open("/dev/console", "w") as console:
        print("NOT WINDOWS: first boot:", *what, file=console, flush=True)


def schtasks(parts):
    """schtasks /create by Microsoft's reference; an exit code."""
    options = {}
    for index, part in enumerate(parts):
        if part.lower() in ("/tn", "/sc", "/ru", "/rl", "/tr"):
            options[part.lower()] = parts[index + 1]
        elif part.startswith("/") and part.lower() not in ("/create", "/f"):
            return 1
    if parts[0].lower() != "/create" or len(options["/tr"]) > 261 or options["/sc"].lower() != "onstart":
        return 1
    os.makedirs(TASKS, exist_ok=True)
    with open(f"{TASKS}/{options['/tn']}", "w") as file:
        json.dump(options, file)
    return 0


def at_start():
    """Begin the tasks that a start begins, beside everything else."""
    if os.path.isdir(TASKS) and os.listdir(TASKS):
        subprocess.Popen([sys.executable, __file__])


def http(method, url, headers, body=b""):
    """One request; the body of an answer that is 200."""
    host, _, path = url.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    lines = [f"{method} /{path} HTTP/1.0", f"Host: {host}", f"Content-Length: {len(body)}"]
    lines += [f"{key}: {value}" for key, value in headers.items()]
    with socket.create_connection((name, int(port or 80)), timeout=20) as link:
        link.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        data = b""
        while piece := link.recv(65536):
            data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    if head.split()[1] != b"200":
        raise OSError(head.splitlines()[0].decode())
    return rest


def network():
    subprocess.run(["modprobe", "virtio_net"], check=False)
    with open("/run/lease", "w") as file:
        file.write(LEASE)
    os.chmod("/run/lease", 0o755)
    card = sorted(name for name in os.listdir("/sys/class/net") if name != "lo")[0]
    subprocess.run(["ip", "link", "set", card, "up"], check=False)
    subprocess.run(["udhcpc", "-q", "-n", "-i", card, "-s", "/run/lease"], stdout=subprocess.DEVNULL, check=False)


def text(path):
    with open(path) as file:
        return file.read().strip()


def configuration(source, until):
    while True:
        try:
            if source != "userdata":
                return http("GET", source, {})
            where = "169.254.169.254/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
            return base64.b64decode(http("GET", f"http://{where}", {"Metadata": "true"}), validate=True)
        except (OSError, ValueError, IndexError) as error:
            if time.monotonic() > until:
                raise RuntimeError(f"no configuration from {source}: {error}") from None
            time.sleep(1)


def apply(folder, given):
    """The image's own script, by the likeness of PowerShell, with the configuration on its input."""
    out, wrong = io.StringIO(), io.StringIO()
    cmd = shell.Cmd(out, wrong)
    cmd.given = given.decode()
    cmd.do(f"powershell.exe -File {folder}\\apply.ps1")
    if cmd.level:
        first = next((line.strip() for line in wrong.getvalue().splitlines() if line.strip()), "it printed nothing")
        raise RuntimeError(f"its program ended with {cmd.level}: {first}")


def report(good, message, seconds):
    """As Azure's agent tells the host of its work: telemetry, XML within a CDATA section."""
    quoted = message.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    fields = {
        "Name": ("first-boot", "wstr"),
        "Version": ("1", "wstr"),
        "Operation": ("FirstBoot", "wstr"),
        "OperationSuccess": (str(good), "bool"),
        "Message": (quoted, "wstr"),
        "Duration": (str(round(seconds * 1000)), "uint64"),
    }
    event = "".join(
        f'<Param Name="{name}" Value="{value}" T="mt:{kind}" />' for name, (value, kind) in fields.items()
    )
    body = (
        '<?xml version="1.0"?><TelemetryData version="1.0"><Provider id="69B669B9-4AF8-4C50-BDC4-6006FA76E975">'
        f'<Event id="1"><![CDATA[{event}]]></Event></Provider></TelemetryData>'
    )
    headers = {"x-ms-version": "2012-11-30", "Content-Type": "text/xml;charset=utf-8"}
    http("POST", "http://168.63.129.16/machine?comp=telemetrydata", headers, body.encode())


def adapter(folder):
    here = shell.unix(folder)
    with open(f"{here}/first-boot.json") as file:
        settings = json.load(file)
    tag, machine, done = text(DMI + "chassis_asset_tag"), text(DMI + "product_uuid"), f"{here}/machine"
    if tag == BUILDING or (os.path.exists(done) and text(done) == machine):
        say("nothing to do for", tag, machine)
        return
    if settings["source"] == "userdata" and tag != AZURE:
        say("not on Azure")
        return
    assert registry.value("SOFTWARE", STATE, "ImageState") == "IMAGE_STATE_COMPLETE"
    network()
    began = time.monotonic()
    message, good = "no configuration was given", True
    try:
        given = configuration(settings["source"], began + settings["deadline"])
        if given:
            apply(folder, given)
            message = f"{len(given)} bytes applied"
        with open(done, "w") as file:
            file.write(machine + "\n")
    except RuntimeError as error:
        message, good = str(error), False
    say(message)
    if tag == AZURE:
        report(good, message, time.monotonic() - began)


def main():
    for name in os.listdir(TASKS):
        with open(f"{TASKS}/{name}") as file:
            program = json.load(file)["/tr"]
        found = re.search(r"-File (\S+)\\first-boot\.ps1$", program)
        if found:
            adapter(found[1])
        else:
            say("a task that is not known:", program)


if __name__ == "__main__":
    main()
