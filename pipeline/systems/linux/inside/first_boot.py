"""A machine's first boot: its configuration is pulled, handed to the image's own program, the outcome reported.

Runs in the guest as root, once for each machine: a reimaged or copied one has another id and begins anew. What has
failed is tried again at the next boot. Python 3.9 and its standard library are all it needs.
"""

from __future__ import annotations

import base64
import json
import pwd
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from xml.sax.saxutils import quoteattr

#: Beside this file: `source`, `deadline` in seconds, and the program that takes the configuration on its input.
HERE = Path(__file__).resolve().parent
SETTINGS = HERE / "first-boot.json"
PROGRAM = HERE / "apply"
#: The id of the machine that was configured last.
DONE = Path("/var/lib/first-boot/machine")
MACHINE = Path("/sys/class/dmi/id/product_uuid")
CHASSIS = Path("/sys/class/dmi/id/chassis_asset_tag")
#: What Azure's machines carry as their chassis' asset tag.
#: https://cloudinit.readthedocs.io/en/latest/reference/datasources/azure.html
AZURE = "7783-7084-3265-9085-8269-3286-77"
USER_DATA = "http://169.254.169.254/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
TELEMETRY = "http://168.63.129.16/machine?comp=telemetrydata"
#: The provider under which the Azure agent's own events are filed.
PROVIDER = "69B669B9-4AF8-4C50-BDC4-6006FA76E975"
#: The account of a guest that is being built: what it would be told is for its clones.
BUILDER = "goldsmith-build"
#: Seconds between two tries: the first, doubled up to the last; and for one answer.
FIRST_PAUSE, LAST_PAUSE, ANSWER = 1.0, 15.0, 20.0
#: Bytes of a configuration.
LARGEST = 4 << 20


class Failed(Exception):
    """The outcome, in one line."""


def get(url: str, headers: dict[str, str]) -> bytes:
    """One answer, past any proxy: both of Azure's addresses are the host's own."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=ANSWER) as reply:  # noqa: S310 http alone
        body: bytes = reply.read(LARGEST + 1)
    if len(body) > LARGEST:
        raise ValueError(f"more than {LARGEST >> 20} MiB")
    return body


def pull(source: str, until: float) -> bytes:
    """The configuration; tried until the deadline, whatever stands in the way."""
    pause = FIRST_PAUSE
    while True:
        try:
            if source == "userdata":
                return base64.b64decode(get(USER_DATA, {"Metadata": "true"}), validate=True)
            return get(source, {})
        except (OSError, ValueError) as error:
            last = error
        if time.monotonic() + pause > until:
            raise Failed(f"no configuration from {source}: {last}")
        time.sleep(pause)
        pause = min(2 * pause, LAST_PAUSE)


def apply(configuration: bytes, until: float) -> None:
    left = max(1.0, until - time.monotonic())
    try:
        done = subprocess.run([PROGRAM], input=configuration, stderr=subprocess.PIPE, timeout=left, check=False)
    except subprocess.TimeoutExpired:
        raise Failed("its program did not end before the deadline") from None
    except OSError as error:
        raise Failed(f"its program cannot be run: {error}") from None
    output = done.stderr.decode(errors="replace")
    sys.stderr.write(output)
    if done.returncode != 0:
        last = (output.strip().splitlines() or ["it said nothing"])[-1]
        raise Failed(f"its program ended with {done.returncode}: {last}")


def configure(source: str, deadline: float) -> str:
    until = time.monotonic() + deadline
    configuration = pull(source, until)
    if not configuration:
        return "no configuration was given"
    apply(configuration, until)
    return f"{len(configuration)} bytes applied"


def report(good: bool, message: str, seconds: float) -> None:
    """Tell the host, as the agent tells it of its own work. Nobody need listen."""
    event = "".join(
        f'<Param Name="{name}" Value={quoteattr(value)} T="mt:{kind}" />'
        for name, value, kind in (
            ("Name", "first-boot", "wstr"),
            ("Version", "1", "wstr"),
            ("Operation", "FirstBoot", "wstr"),
            ("OperationSuccess", str(good), "bool"),
            ("Message", message, "wstr"),
            ("Duration", str(round(seconds * 1000)), "uint64"),
        )
    )
    body = (
        f'<?xml version="1.0"?><TelemetryData version="1.0"><Provider id="{PROVIDER}">'
        f'<Event id="1"><![CDATA[{event}]]></Event></Provider></TelemetryData>'
    )
    headers = {"x-ms-version": "2012-11-30", "Content-Type": "text/xml;charset=utf-8"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for pause in (1.0, 5.0, 0.0):
        try:
            with opener.open(urllib.request.Request(TELEMETRY, body.encode(), headers), timeout=ANSWER):
                return
        except OSError as error:
            print(f"first-boot: the host does not take the report: {error}", file=sys.stderr)
        time.sleep(pause)


def text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def is_built_now() -> bool:
    try:
        pwd.getpwnam(BUILDER)
    except KeyError:
        return False
    return True


def main() -> int:
    settings = json.loads(SETTINGS.read_text())
    source, machine = str(settings["source"]), text(MACHINE)
    azure = text(CHASSIS).startswith(AZURE)
    if is_built_now():
        print("first-boot: this guest is being built")
        return 0
    if machine and text(DONE) == machine:
        print("first-boot: this machine has been configured")
        return 0
    if source == "userdata" and not azure:
        print("first-boot: not on Azure, there is no user data")
        return 0
    began = time.monotonic()
    try:
        message, good = configure(source, float(settings["deadline"])), True
        DONE.parent.mkdir(parents=True, exist_ok=True)
        DONE.write_text(f"{machine}\n")
    except Failed as error:
        message, good = str(error), False
    seconds = time.monotonic() - began
    print(f"first-boot: {message} after {seconds:.1f} s")
    if azure:
        report(good, message, seconds)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
