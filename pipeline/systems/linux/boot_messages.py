"""What the kernel and the services of a clone complained about in a boot, compared with a list of known messages.

LISA asks this of an image (`verify_boot_error_fail_warnings`), by words in the console's log. Here the journal's own
priorities are asked: a unit that ends well although something in it failed is seen by nothing else.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.base import process
from pipeline.base.printable import shorten, single_line
from pipeline.prove.result import CloneResult
from pipeline.systems.linux.clone import Clone
from pipeline.systems.linux.known_boot_messages import KNOWN_MESSAGES, KnownMessage

#: What the check is called in results.
CHECK = "boot messages"
#: Every message that was judged, in the clone's folder.
LOG = "boot-messages.log"
#: syslog(3): an error, and a warning. A smaller number is more severe.
ERROR, WARNING = 3, 4
#: Bytes that are read of a clone's messages: some thousand lines.
LIMIT = 512 << 10
#: How many unknown messages a failure quotes, and characters of each.
QUOTED, WORDS = 3, 200

#: Runs as root in the clone: messages of this boot, from warnings up. A journal that has nothing of the kernel's is
#: not in use; then the kernel's own buffer says what it has, its lines with their priority.
LOOK = f"""\
if [ -n "$(journalctl -b -k -q -n 1 -o cat 2>/dev/null)" ]; then
  echo journal
  journalctl -b -q -p warning --no-pager -o json --output-fields=MESSAGE,PRIORITY,SYSLOG_IDENTIFIER
else
  echo kernel
  dmesg -r
fi 2>/dev/null | head -c {LIMIT}
"""
#: Words by which a warning of the kernel counts as a complaint: its traces are warnings, and so is much else.
_COMPLAINT = re.compile(r"fail|error|warning|\bbug\b", re.IGNORECASE)
#: A line of `dmesg -r`: facility and priority, seconds, text.
_RAW = re.compile(r"<(\d+)>\[ *\d+\.\d+\] (.*)")
#: The program's name before a message that a program has written into the kernel's buffer.
_PROGRAM = re.compile(r"([\w.@()-]+)\[\d+\]: (.*)")


@dataclass(frozen=True)
class Message:
    """A message of a boot. `priority` as in syslog(3); `source` is the program's name, or `kernel`."""

    source: str
    text: str
    priority: int

    @property
    def complains(self) -> bool:
        return self.priority <= ERROR or (
            self.priority == WARNING and self.source == "kernel" and bool(_COMPLAINT.search(self.text))
        )

    def __str__(self) -> str:
        return f"{self.source}: {self.text}"


def check_boot_messages(clone: Clone, result: CloneResult, *, check: str = CHECK, log: str = LOG) -> None:
    """Judge the messages of the clone's present boot until now. They are kept in the file `log` of its folder."""
    try:
        done = clone.steps.ssh("sudo -n sh -s", stdin=LOOK, deadline=clone.timeouts.command)
    except (process.CommandFailed, process.CommandTimeout) as error:
        why = shorten(getattr(error, "stderr", "").strip()) or "no answer"
        result.see(check, f"the messages of the boot could not be read: {why}", False)
        return
    emulated = not clone.spec.kvm
    messages = parse_messages(done.stdout)
    (clone.logs / log).write_text("".join(_line(message, emulated) for message in messages))
    whole = len(done.stdout.encode()) < LIMIT
    judge_boot_messages(result, messages, emulated=emulated, whole=whole, check=check, log=log)


def judge_boot_messages(
    result: CloneResult,
    messages: Sequence[Message],
    *,
    emulated: bool,
    whole: bool = True,
    check: str = CHECK,
    log: str = LOG,
) -> None:
    """Judge what was printed: every complaint is known. `whole`: whether these are all messages of the boot."""
    complaints = [message for message in messages if message.complains]
    unknown = Counter(str(message) for message in complaints if explain(message, emulated=emulated) is None)
    if unknown:
        quoted = [single_line(text, WORDS) for text, _ in unknown.most_common(QUOTED)]
        more = f"; {len(unknown) - QUOTED} more, see {log}" if len(unknown) > QUOTED else ""
        result.see(check, f"not known: {'; '.join(quoted)}{more}", False)
    elif not whole:
        result.see(check, f"there are more than {LIMIT >> 10} KiB of warnings and errors", False)
    else:
        result.see(check, f"{len(complaints)} errors, each known", True)


def explain(message: Message, *, emulated: bool) -> KnownMessage | None:
    """The entry that knows a message; None where there is none."""
    for known in KNOWN_MESSAGES:
        if known.emulated_only and not emulated:
            continue
        if known.source.fullmatch(message.source) and known.text.fullmatch(message.text):
            return known
    return None


def parse_messages(output: str) -> list[Message]:
    """The messages in what the clone printed. A line that is cut off is left out."""
    kind, _, rest = output.partition("\n")
    read = _from_journal if kind == "journal" else _from_kernel
    # not splitlines: a message may have a line separator of Unicode's
    return [message for line in rest.split("\n") if (message := read(line)) is not None]


def _from_journal(line: str) -> Message | None:
    with contextlib.suppress(ValueError, TypeError, AttributeError):
        fields = json.loads(line)
        text = fields.get("MESSAGE", "")
        if isinstance(text, list):  # bytes that are not UTF-8
            text = bytes(text).decode(errors="replace")
        return Message(
            str(fields.get("SYSLOG_IDENTIFIER") or "?"), str(text).rstrip(), int(fields.get("PRIORITY") or ERROR)
        )
    return None


def _from_kernel(line: str) -> Message | None:
    if not (found := _RAW.fullmatch(line)):
        return None
    facility, priority = divmod(int(found[1]), 8)
    text = found[2].rstrip()
    if facility and (program := _PROGRAM.fullmatch(text)):
        return Message(program[1], program[2], priority)
    return Message("kernel", text, priority) if priority <= WARNING else None


def _line(message: Message, emulated: bool) -> str:
    known = explain(message, emulated=emulated)
    judged = f"known: {known.reason}" if known else "NOT KNOWN"
    if not message.complains:
        judged = "no complaint"
    return f"{message.priority} {single_line(message)}   [{judged}]\n"
