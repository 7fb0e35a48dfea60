"""tools/transcript.py: the commands of a page, with what they print now."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.harness import ROOT

PAGE = """\
# A page

<!-- transcript -->

    $ echo "in $GOLDSMITH_HOME/instances"   # a comment
    what it printed last year
    $ name=two; cat
    $ (echo serving; exec tail -f /dev/null) &
    $ printf 'no end of line'

    $ ls ~/.ssh

The text after it.

    $ not a command

<!-- transcript -->

    $ cat <<'END'
    > a: 1
    >
    >   b: 2
    > END
    $ echo $name

The end.
"""
WRITTEN = """\
# A page

<!-- transcript -->

    $ echo "in $GOLDSMITH_HOME/instances"   # a comment
    in /var/lib/goldsmith/instances
    $ name=two; cat
    $ (echo serving; exec tail -f /dev/null) &
    serving
    $ printf 'no end of line'
    no end of line
    $ ls ~/.ssh
    id_ed25519
    id_ed25519.pub

The text after it.

    $ not a command

<!-- transcript -->

    $ cat <<'END'
    > a: 1
    >
    >   b: 2
    > END
    a: 1

      b: 2
    $ echo $name
    two

The end.
"""


def write_again(page: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(ROOT / "tools/transcript.py"), str(page)]
    environment = {**os.environ, "GOLDSMITH_HOME": "/srv/store"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)


def test_each_command_is_followed_by_what_it_prints(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    done = write_again(page)
    assert done.returncode == 0, done.stderr
    assert page.read_text() == WRITTEN
    assert write_again(page).returncode == 0
    assert page.read_text() == WRITTEN


def test_a_command_that_fails_changes_nothing(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE.replace("printf 'no end of line'", "echo why; false"))
    before = page.read_text()
    done = write_again(page)
    assert done.returncode == 1 and "echo why; false: exit code 1\nwhy" in done.stderr
    assert page.read_text() == before
