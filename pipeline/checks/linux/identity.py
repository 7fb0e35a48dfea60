"""Who the machine is, and who may enter: nothing of that is shipped, each clone makes its own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.checks.model import HOUSE, LISA, SYSTEMD, WAAGENT, CannotLook, Skip, Subject, check, has_data
from pipeline.disk.root import Root

#: The account that goldsmith makes in a build guest.
BUILD_USER = "goldsmith-build"
#: What stands in shadow's second field where no password works (shadow(5), passwd -l).
#: The last is Anaconda's, of a kickstart with `rootpw --lock --iscrypted locked`, as cloud images are made.
_LOCKED = ("*LOCK*", "*", "!", "!!", "!*", "*LK*", "x", "!x", "!locked")
#: systemd's program, with and without a merged /usr.
_SYSTEMD = ("/usr/lib/systemd", "/lib/systemd")
_FIRST_USER, _LAST_USER = 1000, 59999


@check(
    "machine-id",
    "The machine id is empty",
    why="Clones with the same id share DHCP leases, journal names and all derived ids.",
    remedy="truncate -s 0 /etc/machine-id; ln -sf /etc/machine-id /var/lib/dbus/machine-id (where that file exists).",
    source=SYSTEMD,
)
def machine_id(subject: Subject) -> Iterator[str]:
    text = subject.root.read("/etc/machine-id", 4096)
    if text is None and not any(subject.root.exists(path) for path in _SYSTEMD):
        raise Skip("no systemd, which alone needs a machine id")
    if text is None:
        yield "no /etc/machine-id: the first boot cannot always write one"
    elif text.strip() not in (b"", b"uninitialized"):
        yield f"/etc/machine-id holds {text.strip()[:8].decode('latin-1')}..."
    if subject.root.read_link("/var/lib/dbus/machine-id") is None and subject.has_data("/var/lib/dbus/machine-id"):
        yield "/var/lib/dbus/machine-id contains a different id"


@check(
    "ssh-host-keys",
    "No SSH host keys",
    why="Everybody who reads the image, and every other clone, can impersonate a clone with this key.",
    remedy="rm -f /etc/ssh/ssh_host_*key* /etc/dropbear/*host_key*; cloud-init or waagent makes new ones "
    "(RegenerateSshHostKeyPair=y). If neither is installed, sshd would not start: run ssh-keygen -A at the first "
    "boot.",
    source=WAAGENT,
)
def ssh_host_keys(subject: Subject) -> Iterator[str]:
    for path in subject.files_in("/etc/ssh"):
        if re.search(r"/ssh_host_\w*key(\.pub)?$", path):
            yield f"{path} is there"
    for path in subject.files_in("/etc/dropbear"):
        if "host_key" in path:
            yield f"{path} is there"


def _need_shadow(subject: Subject) -> None:
    """Raises CannotLook where accounts keep their passwords in an /etc/shadow that says nothing."""
    _ = subject.users
    if not any(_shadow(subject, "/etc/shadow")) and any(word == "x" for _, word in _shadow(subject, "/etc/passwd")):
        raise CannotLook("/etc/passwd points to /etc/shadow, which is missing or empty")


def _shadow(subject: Subject, path: str) -> Iterator[tuple[str, str]]:
    for line in subject.root.text(path).splitlines():
        fields = line.split(":")
        if len(fields) >= 2 and fields[0]:
            yield fields[0], fields[1]


@check(
    "password-hash",
    "No password in any account",
    why="Everybody who reads the image can crack the password, and every clone has it.",
    remedy="usermod -p '*' USER locks the account and removes the hash; rm -f /etc/passwd- /etc/shadow- "
    "/etc/gshadow- /etc/security/opasswd, which contain old hashes.",
    source=LISA,
)
def password_hash(subject: Subject) -> Iterator[str]:
    _need_shadow(subject)
    for path in ("/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/passwd", "/etc/passwd-"):
        for name, secret in _shadow(subject, path):
            if name in subject.accounts or secret in _LOCKED or not secret.strip("!*"):
                continue
            # a locked hash can be cracked all the same
            yield f"{path}: {name} has {'a locked password' if secret.startswith('!') else 'a password'}"
    if subject.has_data("/etc/security/opasswd"):
        yield "/etc/security/opasswd contains old passwords"


@check(
    "empty-password",
    "No account allows a login without a password",
    why="If the field in shadow is empty, anybody can log in without a password, at least on the console.",
    remedy="usermod -p '*' USER",
    source="shadow(5)",
)
def empty_password(subject: Subject) -> Iterator[str]:
    _need_shadow(subject)
    in_shadow = {name for name, _ in _shadow(subject, "/etc/shadow")}
    for name, secret in _shadow(subject, "/etc/shadow"):
        if secret == "":
            yield f"/etc/shadow: {name} has an empty password"
    for name, secret in _shadow(subject, "/etc/passwd"):
        if secret == "":
            yield f"/etc/passwd: {name} has an empty password"
        elif len(secret) == 1 and secret.isalpha() and in_shadow and name not in in_shadow:
            yield f"/etc/passwd: {name} has no line in /etc/shadow"


@check(
    "authorized-keys",
    "Only declared accounts have authorized SSH keys",
    why="The owner of the key can log in to every clone.",
    remedy="Remove the named file, or list the account under `accounts` if it is meant to ship.",
    source=LISA,
)
def authorized_keys(subject: Subject) -> Iterator[str]:
    owners = {user.home.rstrip("/"): user.name for user in subject.users}
    allowed = {home for home, name in owners.items() if name in subject.accounts}
    for home in {*subject.homes, *(user.home.rstrip("/") for user in subject.users if user.home.count("/") > 1)}:
        for name in ("authorized_keys", "authorized_keys2"):
            path = f"{home}/.ssh/{name}"
            keys = list(subject.lines(path))
            if keys and home not in allowed:
                yield f"{path}: {len(keys)} key{'s' if len(keys) > 1 else ''}, {keys[0].split()[-1][:60]}"
    for path in [*subject.files_in("/etc/ssh/authorized_keys"), *subject.files_in("/etc/ssh/authorized_keys.d"),
                 *subject.files_in("/etc/dropbear")]:  # fmt: skip
        if path.rsplit("/", 1)[-1] not in subject.accounts and "host_key" not in path and list(subject.lines(path)):
            yield f"{path} is there"


@check(
    "build-user",
    "The build's account was removed",
    why="waagent deletes only the user that it provisioned; outside Azure there is none, so the build user stays.",
    remedy=f"userdel -rf {BUILD_USER} before the guest is shut down.",
    source=WAAGENT,
)
def build_user(subject: Subject) -> Iterator[str]:
    _ = subject.users
    pattern = re.compile(rf"(^|[:,\s]){re.escape(BUILD_USER)}($|[:,\s])")
    for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid"):
        for path in (f"/etc/{name}", f"/etc/{name}-"):
            if any(pattern.search(line) for line in subject.root.text(path).splitlines()):
                yield f"{path} names {BUILD_USER}"
    for path in (f"/home/{BUILD_USER}", f"/var/mail/{BUILD_USER}", f"/var/spool/cron/crontabs/{BUILD_USER}",
                 f"/var/lib/systemd/linger/{BUILD_USER}"):  # fmt: skip
        if subject.root.exists(path):
            yield f"{path} is there"


@check(
    "undeclared-account",
    "Only declared accounts of persons exist",
    why="An undeclared account allows a login to every clone without its owner's knowledge.",
    remedy="userdel -r USER, or list it under `accounts` if it is meant to ship.",
    source=LISA,
)
def undeclared_account(subject: Subject) -> Iterator[str]:
    for user in subject.users:
        if _FIRST_USER <= user.uid <= _LAST_USER and user.name not in (*subject.accounts, BUILD_USER):
            yield f"/etc/passwd: {user.name} ({user.uid})"


@check(
    "uid-zero",
    "Only root has the uid 0",
    why="A second account with uid 0 is a back door.",
    remedy="Remove the account with userdel, or give it another uid.",
    source="CIS Debian Linux Benchmark",
)
def uid_zero(subject: Subject) -> Iterator[str]:
    for user in subject.users:
        if user.uid == 0 and user.name != "root":
            yield f"/etc/passwd: {user.name} has uid 0"


@check(
    "orphan-home",
    "Every home folder belongs to an account",
    why="The folder belonged to a removed user. The next user with that uid gets it.",
    remedy="Remove the account with userdel -r, which removes the folder too, or remove the folder with rm -rf.",
    source=HOUSE,
    severity="warn",
)
def orphan_home(subject: Subject) -> Iterator[str]:
    homes = {user.home.rstrip("/") for user in subject.users}
    for name in subject.root.listdir("/home"):
        if f"/home/{name}" not in homes and name not in ("lost+found", BUILD_USER):
            yield f"/home/{name} belongs to no account"


def _sudoers(subject: Subject) -> Iterator[tuple[str, str]]:
    for path in ["/etc/sudoers", *subject.files_in("/etc/sudoers.d")]:
        name = path.rsplit("/", 1)[-1]
        # sudo itself passes over these
        if "." in name or name.endswith("~"):
            continue
        text = subject.root.text(path).replace("\\\n", " ")
        for raw in text.splitlines():
            line = raw.strip()
            if line and (not line.startswith("#") or re.match(r"#\d", line)):
                yield path, line


@check(
    "sudoers",
    "sudo rules name only accounts and groups that exist and ship",
    why="The rule of a removed user makes the next user with that name root.",
    remedy="rm /etc/sudoers.d/90-cloud-init-users and the build's own rules.",
    source=WAAGENT,
)
def sudoers(subject: Subject) -> Iterator[str]:
    if not subject.root.exists("/etc/sudoers"):
        raise Skip("no sudo")
    users = {user.name for user in subject.users}
    groups = {line.split(":")[0] for line in subject.root.text("/etc/group").splitlines()}
    for path, line in _sudoers(subject):
        first = line.split("=")[0].split()[0]
        if first.startswith(("Defaults", "@include", "User_Alias", "Runas_Alias", "Host_Alias", "Cmnd_Alias", "ALL")):
            continue
        for name in first.split(","):
            if name.startswith(("#", "+", "%#", "%:")) or name.isupper():
                continue
            if name.startswith("%"):
                # a rule for a group that may come later (admin, wheel) gives nothing to anybody now
                if name[1:] not in groups and path != "/etc/sudoers":
                    yield f"{path}: {line} (no such group)"
            elif name == BUILD_USER or name not in users:
                yield f"{path}: {line} (no such account)"
            elif name not in ("root", *subject.accounts) and path != "/etc/sudoers":
                yield f"{path}: {line} (not declared)"


@check(
    "sudoers-targetpw",
    "sudo asks for the user's own password",
    why="With targetpw sudo asks for root's password, which a cloud image does not have, so the owner cannot "
    "become root.",
    remedy="Remove 'Defaults targetpw' from /etc/sudoers.",
    source=LISA,
)
def sudoers_targetpw(subject: Subject) -> Iterator[str]:
    if not subject.root.exists("/etc/sudoers"):
        raise Skip("no sudo")
    for path, line in _sudoers(subject):
        if re.match(r"Defaults\b.*(?<!!)\btargetpw\b", line):
            yield f"{path}: {line}"


#: systemd's, System V's, Red Hat's of old, OpenRC's two.
_SEEDS = (
    *("/var/lib/systemd/random-seed", "/var/lib/urandom/random-seed", "/var/lib/random-seed"),
    *("/var/lib/misc/random-seed", "/var/lib/seedrng/seed.credit", "/var/lib/seedrng/seed.no-credit"),
)


@check(
    "random-seed",
    "No random seed is shipped",
    why="Clones with the same seed may create the same keys at their first boot.",
    remedy="systemctl stop systemd-random-seed.service, which writes it at each shutdown; then rm -f "
    "/var/lib/systemd/random-seed /var/lib/urandom/random-seed /var/lib/random-seed /boot/efi/loader/random-seed "
    "(OpenRC: /var/lib/misc/random-seed /var/lib/seedrng/seed.*)",
    source=SYSTEMD,
)
def random_seed(subject: Subject) -> Iterator[str]:
    for path in _SEEDS:
        if subject.has_data(path):
            yield f"{path} is there"
    # systemd-boot's lies on the ESP, which fstab need not mount
    esp = subject.esp if subject.esp is not None and subject.esp.readable else None
    if esp is not None and has_data(Root(subject.disk.filesystem(esp)), "/loader/random-seed"):
        yield "loader/random-seed is on the EFI system partition"


@check(
    "credential-secret",
    "systemd's credential secret is not shipped",
    why="It encrypts a machine's credentials. If clones share it, each can read the credentials of the others.",
    remedy="rm -f /var/lib/systemd/credential.secret",
    source=SYSTEMD,
)
def credential_secret(subject: Subject) -> Iterator[str]:
    if subject.root.exists("/var/lib/systemd/credential.secret"):
        yield "/var/lib/systemd/credential.secret is there"
