"""Messages of a boot: read as journalctl and dmesg print them, each complaint known or a failure that quotes it."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest

from pipeline.prove.result import CloneResult
from pipeline.systems.linux import boot_messages
from pipeline.systems.linux.boot_messages import (
    CHECK,
    LIMIT,
    Message,
    explain,
    judge_boot_messages,
    parse_messages,
)
from pipeline.systems.linux.known_boot_messages import KNOWN_MESSAGES

#: What clones of good masters print: from the consoles and journals of Debian 12 and 13, and of a busy host.
SEEN = (
    ("kernel", "Failed to access perfctr msr (MSR c0010007 is 0)"),
    (
        "kernel",
        "acpi PNP0A03:00: fail to add MMCONFIG information, can't access extended PCI configuration space "
        "under this bridge.",
    ),
    ("kernel", "GPT: Use GNU Parted to correct GPT errors."),
    ("kernel", "tsc: Fast TSC calibration failed"),
    ("kernel", "calibrate_delay_direct() failed to get a good estimate for loops_per_jiffy."),
    ("kernel", "..MP-BIOS bug: 8254 timer not connected to IO-APIC"),
    ("kernel", "rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:"),
    ("kernel", "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [cloud-init:512]"),
    ("kernel", "INFO: task jbd2/sda3-8:210 blocked for more than 120 seconds."),
    ("kernel", "      Not tainted 6.12.57+deb13-amd64 #1 Debian 6.12.57-1"),
    ("kernel", '"echo 0 > /proc/sys/kernel/hung_task_timeout_secs" disables this message.'),
    ("kernel", "platform regulatory.0: firmware: failed to load regulatory.db (-2)"),
    ("kernel", "firmware_class: See https://wiki.debian.org/Firmware for information about missing firmware"),
    ("kernel", "tpm tpm0: Operation Timed out"),
    ("kernel", "ima: Error Communicating to TPM chip, result: -62"),
    ("systemd-ssh-generator", "Failed to query local AF_VSOCK CID: Cannot assign requested address"),
    (
        "(sd-exec-",
        "/usr/lib/systemd/system-generators/systemd-ssh-generator failed with exit status 1.",
    ),
    ("systemd", "Failed to start ssh.service - OpenBSD Secure Shell server."),
    ("sshd-session", "error: kex_exchange_identification: read: Connection reset by peer"),
    ("sshd", "fatal: Timeout before authentication for 10.83.0.1 port 46736"),
)
UNKNOWN = Message("systemd-tmpfiles", "/etc/tmpfiles.d/shop.conf:1: Failed to resolve user 'shop': Unknown user", 3)


def journal(*messages: dict[str, object]) -> str:
    return "journal\n" + "".join(json.dumps(message) + "\n" for message in messages)


@pytest.mark.parametrize("known", KNOWN_MESSAGES, ids=lambda known: known.text.pattern[:30])
def test_each_known_message_was_seen_and_has_a_reason(known: boot_messages.KnownMessage) -> None:
    assert known.reason
    assert any(known.source.fullmatch(source) and known.text.fullmatch(text) for source, text in SEEN)


@pytest.mark.parametrize(("source", "text"), SEEN)
def test_what_a_good_clone_prints_is_known(source: str, text: str) -> None:
    result = CloneResult("gen1")
    judge_boot_messages(result, [Message(source, text, 3)], emulated=True)
    assert result.failures == []
    assert result.checks[CHECK] == "1 errors, each known"


@pytest.mark.parametrize(
    "text",
    [
        "calibrate_delay_direct() failed to get a good estimate for loops_per_jiffy.",
        "rcu: INFO: stalls",
        "tpm tpm0: Operation Timed out",
        "\t(detected by 1, t=5252)",
    ],
)
def test_what_an_emulated_processor_explains_is_a_finding_without_emulation(text: str) -> None:
    message = Message("kernel", text, 3)
    assert explain(message, emulated=True) is not None
    assert explain(message, emulated=False) is None


@pytest.mark.parametrize(
    ("message", "complains"),
    [
        (UNKNOWN, True),
        (Message("systemd", "Failed to start nginx.service - A web server.", 3), True),
        (Message("kernel", "EXT4-fs error (device sda3): ext4_lookup", 2), True),
        # a kernel's trace is a warning
        (Message("kernel", "WARNING: CPU: 0 PID: 1 at kernel/x.c:1 f+0x1/0x2", 4), True),
        (Message("kernel", "e1000: module verification failed: signature missing", 4), True),
        (Message("kernel", "kauditd hold queue overflow", 4), False),
        (Message("cloud-init", "a warning of a program", 4), False),
        (Message("python3", "ERROR in a line that its program logs as information", 6), False),
    ],
)
def test_errors_and_warnings_of_the_kernel_that_name_a_failure_are_complaints(
    message: Message, complains: bool
) -> None:
    result = CloneResult("gen1")
    judge_boot_messages(result, [message], emulated=True)
    assert bool(result.failures) is complains
    if complains:
        assert result.failures == [f"{CHECK}: not known: {message}"]


def test_a_failure_quotes_three_messages_and_counts_the_others() -> None:
    result = CloneResult("gen1")
    many = [Message("a", f"error {number}\x1b[2J", 3) for number in range(5) for _ in range(5 - number)]
    judge_boot_messages(result, many, emulated=True)
    (failure,) = result.failures
    assert failure == (
        f"{CHECK}: not known: a: error 0\\x1b[2J; a: error 1\\x1b[2J; a: error 2\\x1b[2J; "
        "2 more, see boot-messages.log"
    )


def test_messages_that_were_cut_off_are_not_taken_for_all() -> None:
    result = CloneResult("gen1")
    judge_boot_messages(result, [], emulated=True, whole=False)
    assert result.failures == [f"{CHECK}: there are more than {LIMIT >> 10} KiB of warnings and errors"]


def test_a_journal_is_read_whatever_a_program_writes_into_it() -> None:
    output = journal(
        {"SYSLOG_IDENTIFIER": "kernel", "PRIORITY": "4", "MESSAGE": "a\u0085b\u2028c"},
        {"SYSLOG_IDENTIFIER": "x", "PRIORITY": "3", "MESSAGE": [97, 255, 98]},
        # a message that journalctl leaves out for its length; one without its program's name and priority
        {"SYSLOG_IDENTIFIER": "y", "PRIORITY": "0", "MESSAGE": None},
        {"MESSAGE": "z"},
    )
    # dumps escapes what journalctl does not
    output = output.replace("\\u0085", "\u0085").replace("\\u2028", "\u2028") + '{"MESSAGE": "cut of'
    assert parse_messages(output) == [
        Message("kernel", "a\u0085b\u2028c", 4),
        Message("x", "a\ufffdb", 3),
        Message("y", "None", 0),
        Message("?", "z", 3),
    ]


def test_a_kernels_buffer_is_read_where_there_is_no_journal() -> None:
    output = (
        "kernel\n<3>[    1.234567] ata1: SRST failed\n<6>[    2.000000] fine\n"
        "<27>[   12.5] systemd[1]: Failed to start x.service.\n<30>[   13.5] systemd[1]: Started y.\nnonsense\n"
    )
    found = [message for message in parse_messages(output) if message.complains]
    assert found == [
        Message("kernel", "ata1: SRST failed", 3),
        Message("systemd", "Failed to start x.service.", 3),
    ]


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ({"journalctl": 'echo "$*" | grep -q cat && echo boot || echo "{}"', "dmesg": "echo no"}, "journal\n{}\n"),
        # a journal that keeps nothing of the kernel's; none at all
        ({"journalctl": "exit 1", "dmesg": "echo '<3>[ 1.0] x'"}, "kernel\n<3>[ 1.0] x\n"),
        ({"dmesg": "echo '<3>[ 1.0] x'"}, "kernel\n<3>[ 1.0] x\n"),
    ],
)
def test_the_script_asks_the_journal_or_the_kernel(tmp_path: Path, programs: dict[str, str], expected: str) -> None:
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    for name in ("sh", "grep", "head"):
        real = next(folder / name for folder in map(Path, ("/usr/bin", "/bin")) if (folder / name).exists())
        (tmp_path / name).symlink_to(real)
    done = subprocess.run(
        ["sh", "-s"],
        input=boot_messages.LOOK,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.stdout == expected
