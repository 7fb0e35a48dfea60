"""Credentials in files that are known by their name: stores of credentials, configuration, crontabs, mail."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator

from pipeline.base.secret_rules import rule_set
from pipeline.checks.model import ALL, HOUSE, LINUX, Subject, check, has_data
from pipeline.disk.root import Root
from pipeline.disk.shipped import Shipped

#: Bytes of a configuration file that are read, and files that are read in all.
SIZE_LIMIT, COUNT_LIMIT = 1 << 20, 20_000

#: Below a home: what has no other use than to hold credentials.
_IN_HOMES = (".netrc", ".git-credentials", ".aws/credentials", ".azure/msal_token_cache.json",
             ".azure/accessTokens.json", ".docker/config.json", ".config/gcloud/credentials.db", ".pypirc",
             ".npmrc", ".pgpass", ".my.cnf", ".kube/config", ".vault-token", ".config/gh/hosts.yml")  # fmt: skip
#: Anywhere, by the end of the path.
_STORES = re.compile(
    r"/(?:\.netrc|_netrc|\.git-credentials|\.pypirc|\.pgpass|pgpass\.conf|\.vault-token|\.mylogin\.cnf|\.dockercfg|\.s3cfg|\.boto"
    r"|\.aws/credentials|\.azure/(?:msal_token_cache\.(?:json|bin)|accessTokens\.json|service_principal_entries\.json)"
    r"|\.config/gcloud/(?:credentials\.db|access_tokens\.db|application_default_credentials\.json)"
    r"|\.config/gh/hosts\.yml|\.config/hub|\.config/rclone/rclone\.conf|\.config/doctl/config\.yaml|\.terraform\.d/credentials\.tfrc\.json"
    r"|\.kube/config|\.gnupg/secring\.gpg|\.gnupg/private-keys-v1\.d/[^/]+\.key|\.ssh/id_\w+|\.subversion/auth/svn\.simple/[^/]+"
    r"|\.?ansible[_-]vault[_-]pass(?:word|wd)?(?:\.txt)?|\.?vault[_-]pass(?:word|wd)?(?:\.txt)?|terraform\.tfstate(?:\.backup)?"
    r"|kubeconfig|etc/rancher/k3s/k3s\.yaml|etc/kubernetes/(?:admin|super-admin|kubelet|controller-manager|scheduler)\.conf"
    r"|[^/]+\.(?:publishsettings|rdg|kdbx?|ovpn\.auth))$",
    re.IGNORECASE,
)
#: Folders whose files are each a credential.
_CREDSTORES = ("/etc/credstore", "/etc/credstore.encrypted", "/usr/lib/credstore", "/usr/lib/credstore.encrypted")
#: These too, if they hold more than settings.
_STORES_BY_CONTENT = (
    (re.compile(r"/\.npmrc$"), re.compile(rb"(?i)_auth(?:token)?\s*=|_password\s*=")),
    (re.compile(r"/\.docker/config\.json$"), re.compile(rb'"(?:auth|identitytoken|registrytoken)"\s*:\s*"[^"]')),
    (re.compile(r"/\.my\.cnf$"), re.compile(rb"(?im)^\s*password\s*=")),
)

#: Configuration: by name, wherever it is.
_CONFIGURATION = re.compile(
    r"/(?:\.env(?:\.[\w.-]+)?|[\w.-]+\.env|environment|wp-config[\w-]*\.php|(?:local[._]?)?settings(?:\.local)?\.(?:php|py|json|ya?ml|toml)"
    r"|config(?:uration|\.inc|\.local)?\.(?:php|json|ya?ml|toml|inc)|(?:database|parameters|db|mail)\.(?:ya?ml|php|json)"
    r"|secrets?\.(?:ya?ml|json|toml|txt|php)|credentials?(?:\.(?:json|ya?ml|txt|xml|csv))?|appsettings[\w.-]*\.json"
    r"|(?:web|app|machine|nuget|connectionstrings)\.config|application[\w-]*\.ya?ml|[\w.@-]+\.(?:properties|conf|cnf|cfg|ini|tfvars|reg)"
    r"|(?:docker-)?compose[\w.-]*\.ya?ml|values[\w.-]*\.ya?ml|(?:playbook|site|inventory|hosts)(?:\.ya?ml|\.ini)?|auth\.json|local\.xml"
    r"|(?:tomcat-users|server|context|settings|hibernate\.cfg|standalone|domain|unattend|autounattend|sysprep|config)\.xml"
    r"|user-data(?:\.txt)?|vendor-data(?:\.txt)?|cloud-config\.txt|[\w.@:\\-]+\.(?:service|socket|timer|mount|container|nmconnection|netdev)"
    r"|Dockerfile|crontab|ConsoleHost_history\.txt|\.(?:bash|z|k|c)?(?:rc|shrc|profile|_profile|_aliases|_login|shenv|login|env|netrc|wgetrc|curlrc)"
    r"|\.gitconfig|\.git/config|\.msmtprc|\.muttrc|\.fetchmailrc|\.bash_profile|\.bashrc|\.bash_aliases|\.zshrc|\.zshenv|\.htaccess)(?:\.gz)?$",
    re.IGNORECASE,
)
#: Configuration: everything in these folders, and in folders of these names.
_FOLDERS = re.compile(
    r"^/(?:etc|var/spool/(?:cron|at)|var/lib/cloud|var/lib/AccountsService)/"
    r"|/(?:group_vars|host_vars|environment\.d|conf\.d)/",
    re.IGNORECASE,
)
#: Scripts, where people leave theirs.
_SCRIPTS = re.compile(
    r"^/(?:home|root|opt|srv|usr/local|var/www|tmp|var/tmp|Users|inetpub|Windows/Setup/Scripts|Scripts)/.*\.(?:sh|bash|ps1|psm1|bat|cmd|sql|vbs)$",
    re.IGNORECASE,
)
#: No configuration: tables, certificates, what systems bring; and what has a check of its own: accounts, apt's files,
#: histories, Windows' answer files.
_NEITHER = re.compile(
    r"^/(?:proc|sys|dev|run|boot|lib\w*|usr/(?!local/)|var/(?:cache|lib/(?:dpkg|apt|ucf|waagent|containers|docker/overlay2)|log)/"
    r"|etc/(?:passwd|group|shadow|gshadow|subuid|subgid)-?$|etc/(?:nsswitch\.conf|services|protocols|mime\.types|ld\.so\.cache|aliases)$"
    r"|etc/(?:ssl/certs|pki|ca-certificates|alternatives|pam\.d|apparmor\.d|selinux|credstore[\w.]*|ssh/moduli|apt|pip\.conf)"
    r"|Windows/(?!Panther/|Setup/|System32/Sysprep/|Temp/)"
    r"|Program Files(?: \(x86\))?/(?:WindowsApps|Common Files|Windows)"
    r"|(?:Windows/(?:Panther|Panther/Unattend|System32/Sysprep|Setup/Scripts)/)?[^/]+\.xml$"
    r"|ProgramData/Microsoft/|\$Recycle|\$Extend|System Volume Information)|_history(?:\.gz)?$",
    re.IGNORECASE,
)


def shipped_of(subject: Subject) -> Shipped:
    if subject.shipped is None:
        subject.shipped = Shipped(subject.root)
    shipped: Shipped = subject.shipped
    return shipped


def _files(subject: Subject) -> tuple[str, ...]:
    """All regular files, listed once."""
    if subject.files is None:
        subject.files = tuple(path for path, kind in subject.root.walk() if kind == "file")
    return subject.files


def credential_paths(subject: Subject) -> frozenset[str]:
    """Files that hold nothing but credentials; looked for once."""
    if subject.credentials is None:
        subject.credentials = frozenset(_credential_paths(subject))
    return subject.credentials


def _credential_paths(subject: Subject) -> Iterator[str]:
    root = subject.root
    shipped = shipped_of(subject)
    if subject.system.unix_layout:
        for home in subject.homes:
            yield from (f"{home}/{name}" for name in _IN_HOMES if subject.has_data(f"{home}/{name}"))
    for path in _files(subject):
        content = next((pattern for name, pattern in _STORES_BY_CONTENT if name.search(path)), None)
        if content is not None:
            is_store = bool(content.search(root.read(path, SIZE_LIMIT) or b""))
        else:
            is_store = bool(_STORES.search(path) or path.startswith(_CREDSTORES)) and has_data(root, path)
        # the records of packages are read for these alone
        if is_store and not shipped.brought(path):
            yield path


@check(
    "credential-files",
    "No credential file of a person or a service",
    why="Everybody who gets the image can use them.",
    remedy="Remove the file and revoke its credentials, because others may have read the disk.",
    source=HOUSE,
    profiles=ALL,
)
def credential_files(subject: Subject) -> Iterator[str]:
    yield from (f"{path} is there" for path in sorted(credential_paths(subject)))
    for path in ["/etc/apt/auth.conf", *subject.files_in("/etc/apt/auth.conf.d")]:
        if re.search(r"\bpassword\b", subject.root.text(path)):
            yield f"{path} contains a password"


def _is_configuration(path: str) -> bool:
    if _NEITHER.search(path):
        return False
    return bool(_CONFIGURATION.search(path) or _FOLDERS.search(path) or _SCRIPTS.search(path))


def _text(root: Root, path: str) -> bytes:
    """A configuration file as bytes of text, unpacked and in UTF-8; empty if it is not text."""
    data = root.read(path, SIZE_LIMIT) or b""
    if path.lower().endswith(".gz"):
        try:
            data = zlib.decompressobj(31).decompress(data, SIZE_LIMIT)
        except zlib.error:
            return b""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").encode()
    if b"\0" in data[:4096]:
        wide = data[1:4096:2].count(0) > len(data[:4096]) // 3
        return data.decode("utf-16-le", "replace").encode() if wide else b""
    return data


@check(
    "config-passwords",
    "No password, token or secret in configuration",
    why="Everybody who gets the image can read its environment files, units, cloud.cfg, .git/config, crontabs and "
    "settings.",
    remedy="Give the secret to each machine at its first boot (cloud-init, Key Vault), and revoke this one.",
    source="gitleaks' rules, and goldsmith's own",
    profiles=ALL,
)
def config_passwords(subject: Subject) -> Iterator[str]:
    root, known, rules = subject.root, credential_paths(subject), rule_set()
    shipped = shipped_of(subject)
    count = 0
    for path in _files(subject):
        if path in known or not _is_configuration(path):
            continue
        count += 1
        if count > COUNT_LIMIT:
            yield f"more than {COUNT_LIMIT} configuration files: the others were not searched"
            return
        text = _text(root, path)
        found = [finding for finding in rules.judge_file(text, path) if finding.rule.scope == "files"] if text else []
        if not found or shipped.brought(path):
            continue
        for finding in found:
            line = text.count(b"\n", 0, finding.start + _leading_breaks(text, finding.start)) + 1
            yield f"{finding.rule.description} in {path}, line {line}"


def _leading_breaks(text: bytes, at: int) -> int:
    """A match may begin with the end of the line before it."""
    rest = text[at : at + 16]
    return len(rest) - len(rest.lstrip())


@check(
    "mail-left",
    "No mail from the build",
    why="Mail from cron and services names machines and people, and often contains passwords of new accounts.",
    remedy="find /var/mail /var/spool/mail -type f -exec truncate -s 0 {} +; empty the mail server's spool "
    "(postsuper -d ALL, or exim4's) and mbox and Maildir of each home.",
    source=HOUSE,
    profiles=LINUX,
)
def mail_left(subject: Subject) -> Iterator[str]:
    seen: set[int] = set()
    for folder in (
        "/var/mail",
        "/var/spool/mail",
        "/var/spool/postfix",
        "/var/spool/exim4/input",
        "/var/spool/mqueue",
    ):
        for path, kind in subject.root.walk(folder):
            inner = path.removeprefix(folder).split("/")[1]
            if folder == "/var/spool/postfix" and inner not in (
                "active",
                "bounce",
                "corrupt",
                "defer",
                "deferred",
                "hold",
                "incoming",
                "maildrop",
            ):
                continue
            found = subject.root.stat(path) if kind == "file" else None
            if found is not None and found.size and found.inode not in seen:
                seen.add(found.inode)
                yield f"{path} has {found.size} bytes"
    for home in subject.homes:
        for name in ("mbox", "Maildir/new", "Maildir/cur"):
            below = subject.files_in(f"{home}/{name}")
            yield from (f"{path} is there" for path in below or [f"{home}/{name}"] if subject.has_data(path))
