"""The reason of a refused login, in sshd's own words out of a guest's journal.

goldsmith itself asks for sshd's banner and hangs up, and its refused logins end in a lost connection: what sshd says
of these is an echo, never the reason.
"""

from __future__ import annotations

import re

#: Characters of sshd's words in a message.
LONGEST = 400
_LINE = re.compile(r"\bsshd(?:-session|-auth)?\[\d+\]: (?P<words>.*)")
#: Words that only say that a connection ended before anybody logged in on it: goldsmith's own questions for a banner.
_ECHO = re.compile(
    r"kex_exchange_identification|ssh_dispatch_run_fatal|banner exchange|Did not receive identification|"
    r"^Connection (closed|reset) by [0-9a-fA-F.:]+ port|^Received disconnect|^Disconnected from|"
    r"pam_\w+\(sshd:session\)|^Server listening"
)
#: Words that give a reason, the most telling first.
_REASONS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^User .*not allowed|ROOT LOGIN REFUSED|not met by user",
        r"pam_\w+(\(sshd:\w+\))?: .*(expired|locked|denied|not allowed|refused|Permission|failed)|"
        r"pam_\w+\(sshd:(auth|account)\): .*(expired|locked|denied|not allowed|refused|failed)",
        r"Access denied for user|[Pp]assword .*expired|account is locked",
        r"Authentication refused|bad (ownership|permissions)|[Cc]ould not open .*authorized",
        r"no hostkeys|[Bb]ad configuration|[Uu]nsupported option|: line \d+",
        r"no matching .* found|not in \w+Algorithms|maximum authentication attempts|[Ii]nvalid user|^refused connect",
        r"Failed (publickey|password|none|keyboard)|[Pp]ermission denied|fatal: |error: ",
        r"terminating|[Cc]onnection (closed|reset) by (authenticating|invalid)",
    )
)


def sshd_reason(journal: str) -> str:
    """The last of the most telling words that sshd has written, or "". Pure.

    `journal` has lines as journalctl's `-o short` prints them.
    """
    words = [found["words"].strip() for line in journal.splitlines() if (found := _LINE.search(line))]
    telling = [text for text in words if not _ECHO.search(text)]
    for pattern in _REASONS:
        if found_words := [text for text in telling if pattern.search(text)]:
            return f"sshd: {found_words[-1][:LONGEST]}"
    return ""
