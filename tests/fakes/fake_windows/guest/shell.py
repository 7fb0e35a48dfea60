"""NOT WINDOWS: as much of cmd's language as goldsmith's batch and answer files use, and of reg and others.

Written from Microsoft's "Windows commands" reference, apart from what it is used to try. What it does not know is an
error, as it is to cmd.
"""

import contextlib
import fcntl
import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import time

import firewall
import package
import registry
import update

DRIVE_C = "/mnt/c"
#: What the stand-in keeps of itself: its phase, and the fault that it was asked for.
STATE = DRIVE_C + "/NOT-WINDOWS/state.json"
#: How often it can be generalized.
REARMS = 2
#: Where the agent puts files that it is told to write: it takes a Windows path for a name.
FILES = "/files"
ENVIRONMENT = {"SYSTEMROOT": "C:\\Windows", "WINDIR": "C:\\Windows", "TEMP": "C:\\Windows\\Temp"}


def drives():
    """Letters to folders: C: is the disk, then the media in the order of their drives."""
    found = {"C": DRIVE_C} if os.path.ismount(DRIVE_C) else {}
    for letter in "DEFGH":
        if os.path.ismount("/mnt/" + letter):
            found[letter] = "/mnt/" + letter
    return found


def unix(path, *, create=False):
    """A Windows path here, without regard to case; None where it is not there, unless it is to be created."""
    found = re.match(r"^([A-Za-z]):\\?(.*)$", path.replace("/", "\\"))
    if not found or found[1].upper() not in drives():
        return None
    here = drives()[found[1].upper()]
    parts = [part for part in found[2].split("\\") if part]
    for number, part in enumerate(parts):
        names = os.listdir(here) if os.path.isdir(here) else []
        match = next((name for name in names if name.lower() == part.lower()), None)
        if match is None:
            return os.path.join(here, *parts[number:]) if create else None
        here = os.path.join(here, match)
    return here


def take_in():
    """Move what the agent has written to where Windows would have it."""
    # two commands may look at once
    with open("/run/take-in", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name in os.listdir(FILES):
            source = os.path.join(FILES, name)
            if re.match(r"^[A-Za-z]:\\", name) and not os.path.islink(source):
                target = unix(name, create=True)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.move(source, target)


class Stop(Exception):
    """A batch file ends."""


class Quit(Exception):
    """The whole cmd.exe ends: `exit` without /b, in a batch file that was called too."""


class Cmd:
    def __init__(self, out=None, err=None):
        self.out = out if out is not None else sys.stdout
        self.err = err if err is not None else sys.stderr
        self.level = 0
        self.variables = dict(ENVIRONMENT)
        #: What a script finds on its standard input.
        self.given = ""

    # ---- lines ----

    def batch(self, path, out=None, err=None):
        """Run a batch file; its exit code."""
        inner = Cmd(out or self.out, err or self.err)
        inner.variables = dict(self.variables)
        inner.variables["~dp0"] = path.rpartition("\\")[0] + "\\"
        with open(unix(path), newline="") as file:
            lines = file.read().split("\r\n")
        try:
            for line in lines:
                inner.line(line)
        except Stop as stop:
            return int(stop.args[0])
        return inner.level

    def line(self, line):
        """Run one line; its commands are split at & outside of quotes."""
        line = line.strip()
        if not line or line.lower().startswith("rem "):
            return
        line = self.expand(line.lstrip("@"))
        for command in split(line, "&"):
            self.command(command.strip())

    def expand(self, line):
        line = line.replace("%~dp0", self.variables.get("~dp0", ""))

        def value(found):
            name = found[1].upper()
            return str(self.level) if name == "ERRORLEVEL" else self.variables.get(name, found[0])

        return re.sub(r"%([A-Za-z_]+)%", value, line)

    def command(self, text):
        """One command with its redirections."""
        text, targets = redirections(text)
        before = self.out, self.err
        opened = []
        try:
            for number, target in targets:
                if target == "&2":
                    self.out = self.err
                    continue
                path = "/dev/null" if target.lower() == "nul" else unix(target, create=True)
                file = open(path, "w", newline="")  # noqa: SIM115  closed below
                opened.append(file)
                if number == "2":
                    self.err = file
                else:
                    self.out = file
            self.do(text)
        finally:
            self.out, self.err = before
            for file in opened:
                file.close()

    def do(self, text):
        word, _, rest = text.partition(" ")
        rest = rest.strip()
        name = word.strip('"').lower()
        short = name.rpartition("\\")[2].removesuffix(".exe")
        known = getattr(self, "_" + short, None)
        if name.endswith((".cmd", ".bat")):
            self.level = self.batch(word.strip('"'))
        elif known is None:
            print(f"'{word}' is not recognized as an internal or external command", file=self.err, flush=True)
            self.level = 9009
        else:
            known(rest)

    # ---- cmd's own ----

    def _echo(self, rest):
        if rest.lower() not in ("off", "on"):
            print(rest, file=self.out, end="\r\n", flush=True)
        self.level = 0 if self.level == 9009 else self.level

    def _set(self, rest):
        name, _, value = rest.partition("=")
        self.variables[name.upper()] = value

    def _if(self, rest):
        found = re.match(r'^(not )?exist ("[^"]+"|\S+) (.*)$', rest, re.IGNORECASE)
        if not found:
            raise Stop(255)
        there = unix(found[2].strip('"')) is not None
        if there != bool(found[1]):
            self.do(found[3].strip().removeprefix("(").removesuffix(")"))

    def _for(self, rest):
        found = re.match(r"^%(\w) in \(([^)]*)\) do (.*)$", rest, re.IGNORECASE)
        if not found:
            raise Stop(255)
        for word in found[2].split():
            self.do(found[3].replace("%" + found[1], word))

    def _exit(self, rest):
        kind = Stop if rest.lower().startswith("/b") else Quit
        raise kind(rest.lower().removeprefix("/b").strip() or self.level)

    def _call(self, rest):
        self.level = self.batch(rest.strip('"'))

    def _cmd(self, rest):
        rest = self.expand(re.sub(r"^(/d\s+)?/c\s+", "", rest, flags=re.IGNORECASE))
        if rest.startswith('"') and rest.endswith('"'):
            rest = rest[1:-1]
        try:
            for command in split(rest, "&"):
                self.command(command.strip())
        except Quit as end:
            self.level = int(end.args[0])

    def _chcp(self, rest):
        # what it writes is UTF-8 in any case
        self.level = 0 if rest in ("65001", "437") else 1

    def _type(self, rest):
        path = unix(rest.strip('"'))
        if path is None:
            self.fail("The system cannot find the file specified.")
            return
        with open(path, newline="", errors="replace") as file:
            self.out.write(file.read())
        self.out.flush()
        self.level = 0

    def _mkdir(self, rest):
        os.makedirs(unix(rest.strip('"'), create=True), exist_ok=True)
        self.level = 0

    def _rmdir(self, rest):
        path = unix(words(rest)[-1])
        if path is None:
            self.fail("The system cannot find the file specified.")
            return
        shutil.rmtree(path)
        self.level = 0

    def _del(self, rest):
        for word in words(rest):
            if word.startswith("/"):
                continue
            folder, _, pattern = word.rpartition("\\")
            above = unix(folder)
            for name in os.listdir(above) if above else ():
                if fnmatch.fnmatch(name.lower(), pattern.lower()) and os.path.isfile(os.path.join(above, name)):
                    os.unlink(os.path.join(above, name))
        self.level = 0

    # ---- programs ----

    def _reg(self, rest):
        result = registry.reg(words(rest))
        if result is None:
            self.fail("ERROR: The system was unable to find the specified registry key or value.")
        else:
            print(result, file=self.out, flush=True)
            self.level = 0

    def _start(self, rest):
        """Its first words are a title in quotes and its options."""
        found = re.match(r'^"[^"]*" /wait (.*)$', rest, re.IGNORECASE)
        if not found:
            raise Stop(255)
        self.do(found[1])

    def _msiexec(self, rest):
        self.level = package.msiexec(words(rest), unix)

    def _shutdown(self, rest):
        subprocess.Popen(["/bin/sh", "-c", "sleep 1; exec /bin/shutdown " + ("-r" if "/r" in rest else "-P")])
        self.level = 0

    def _schtasks(self, rest):
        import tasks  # it needs this module

        self.level = tasks.schtasks(words(rest))
        if self.level:
            self.fail("ERROR: Invalid syntax.")

    def _powershell(self, rest):
        """Not PowerShell: what it writes, what it exits with, sleeps and restarts; and what tests ask of it."""
        self.level = 0
        with open(unix(words(rest)[-1]), encoding="utf-8-sig") as file:
            script = file.read()
        with open(STATE) as file:
            where = json.load(file)
        fault, rearms = where["fault"], where.get("rearms", REARMS)
        if "Microsoft.Update.Session" in script:
            self.level = update.play(script, self.out, fault, later=rearms < REARMS)
            return
        if "RemainingWindowsReArmCount" in script:
            none = fault == "no rearm is left" or not rearms
            result = (
                "no rearm is left: RemainingWindowsReArmCount is 0"
                if none
                else f"rearms left after this: {rearms - 1}"
            )
            print(result, file=self.out, end="\r\n", flush=True)
            self.level = int(none)
            return
        try:
            for line in script.splitlines():
                self._run_powershell_line(line.strip())
        except Stop as stop:
            self.level = int(stop.args[0])

    def _run_powershell_line(self, line):
        if found := re.match(r"^Write-(?:Output|Host) '([^']*)'$", line):
            print(found[1], file=self.out, end="\r\n", flush=True)
        elif found := re.match(r"^Write-Error '([^']*)'$", line):
            print(found[1], file=self.err, end="\r\n", flush=True)
        elif found := re.match(r"^Start-Sleep (\d+)$", line):
            time.sleep(int(found[1]))
        elif found := re.match(r"^Set-Content '([^']+)' '([^']*)'$", line):
            path = unix(found[1], create=True)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", newline="") as file:
                file.write(found[2] + "\r\n")
        elif found := re.match(
            r'^Remove-Item -Path "\$env:SystemRoot\\([^"$]+)" -Force -ErrorAction SilentlyContinue$', line
        ):
            if (path := unix("C:\\Windows\\" + found[1])) is not None:
                os.unlink(path)
        elif found := re.match(r"^\$input \| Set-Content '([^']+)'$", line):
            with open(unix(found[1], create=True), "w", newline="") as file:
                file.write(self.given)
        elif found := re.match(r"^if \(Test-Path '([^']+)'\) \{ exit (\d+) \}$", line):
            if unix(found[1]) is not None:
                raise Stop(found[2])
        elif line.startswith("New-NetFirewallRule "):
            if wrong := firewall.new_rule(line):
                self.fail(f"New-NetFirewallRule : {wrong}")
                raise Stop(1)
        elif found := re.match(r"^Get-NetFirewallRule -Name '([^']+)' .*\| Remove-NetFirewallRule$", line):
            firewall.remove(found[1])
        elif line == "Restart-Computer":
            self._shutdown("/r")
            time.sleep(60)
        elif line == "# stand-in: the agent is restarted":
            end_agent()
        elif line == "# stand-in: the agent is gone":
            open("/run/agent-is-gone", "w").close()
            end_agent()
        elif found := re.match(r"^# stand-in: from now on (.*)$", line):
            with open(STATE) as file:
                where = json.load(file)
            with open(STATE, "w") as file:
                json.dump({**where, "fault": found[1]}, file)
        elif line == "# stand-in: blue screen":
            blue_screen()
        elif found := re.match(r"^exit (\d+)$", line):
            raise Stop(found[1])

    def fail(self, message):
        print(message, file=self.err, flush=True)
        self.level = 1


def end_agent():
    """Kill the agent, whatever of it is running."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/comm") as comm:
            if comm.read().strip() == "qemu-ga":
                os.kill(int(pid), 9)


def blue_screen():
    with open("/dev/tty0", "w") as screen:
        screen.write("\033[44m\033[2J\033[HNOT WINDOWS\n\nA problem has been detected (a stand-in for tests)\n")
    with open("/proc/sysrq-trigger", "w") as trigger:
        trigger.write("c")


def words(text):
    """Split at spaces outside of quotes; the quotes around a whole word go, those within one stay."""
    return [part.strip('"') if part[0] == '"' else part for part in re.findall(r'(?:"[^"]*"|[^\s"])+', text)]


def split(text, mark):
    """Split outside of quotes; a mark that belongs to a redirection (1>&2) does not count."""
    found, start, quoted = [], 0, False
    for index, char in enumerate(text):
        if char == '"':
            quoted = not quoted
        elif char == mark and not quoted and text[index - 1 : index] != ">":
            found.append(text[start:index])
            start = index + 1
    return [*found, text[start:]]


def redirections(text):
    """A command without its redirections, and those: (number, target)."""
    found = []

    def take(match):
        if match["to"]:
            found.append((match["number"] or "1", match["to"].strip('"')))
        return " "

    left = re.sub(r'(?P<number>[12])?>(?P<to>&2|"[^"]*"|\S+)|<nul\b', take, text)
    return left.strip(), found


def main(argv):
    os.environ["PATH"] = "/bin"
    take_in()
    program, *rest = argv
    shell = Cmd()
    try:
        if program.lower().endswith("cmd.exe"):
            shell._cmd(" ".join(rest))
        else:
            shell.do(" ".join([program, *rest]))
    except (Stop, Quit) as stop:
        return int(stop.args[0])
    return shell.level


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
