"""Secrets in the forms in which they are found on disks: every one is made again, none was ever anybody's.

A form is where it lies, what lies there, the check that is to find it, and the secret that no report may print.
"""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import lzma
import random
import string
import struct
import zipfile
import zlib
from dataclasses import dataclass

import zstandard
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

_RANDOM = random.Random(17)
_ALNUM = string.ascii_letters + string.digits
KEYS, TOKENS, FILES, CONFIG, MAIL = (
    "private-keys",
    "access-tokens",
    "credential-files",
    "config-passwords",
    "mail-left",
)


@dataclass(frozen=True)
class Form:
    path: str
    data: bytes
    check: str
    secret: bytes


def word(size: int, alphabet: str = _ALNUM) -> str:
    """Random, with all kinds of characters that the alphabet has."""
    return "".join(_RANDOM.choice(alphabet) for _ in range(size))


RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
DSA = dsa.generate_private_key(1024)
_PLAIN = s.NoEncryption()
_LOCKED = s.BestAvailableEncryption(b"x" * 12)
DER, PEM = s.Encoding.DER, s.Encoding.PEM
TRADITIONAL, PKCS8, OPENSSH = s.PrivateFormat.TraditionalOpenSSL, s.PrivateFormat.PKCS8, s.PrivateFormat.OpenSSH


def pem() -> bytes:
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(PEM, TRADITIONAL, _PLAIN)


def github() -> str:
    return "ghp_" + word(36)


def zipped(data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes.txt", b"filler " * 100)
        archive.writestr("deploy.env", data)
    return out.getvalue()


def java_store() -> bytes:
    body = EC.private_bytes(DER, PKCS8, _PLAIN)
    return struct.pack(">IIIIH", 0xFEEDFEED, 2, 1, 1, 5) + b"mykey" + bytes(8) + struct.pack(">I", len(body)) + body


def gpg_packet() -> bytes:
    numbers = RSA.private_numbers().public_numbers
    modulus = numbers.n.to_bytes(256, "big")
    body = (
        b"\x04\x65\x00\x00\x01\x01" + struct.pack(">H", 2048) + modulus + b"\x00\x11\x01\x00\x01" + word(400).encode()
    )
    return b"\x95" + struct.pack(">H", len(body)) + body


def putty() -> bytes:
    lines = "\r\n".join(word(64) for _ in range(4))
    return (
        "PuTTY-User-Key-File-3: ssh-rsa\r\nEncryption: none\r\nComment: deploy\r\nPublic-Lines: 4\r\n"
        f"{lines}\r\nPrivate-Lines: 4\r\n{lines}\r\nPrivate-MAC: {word(64, string.hexdigits)}\r\n"
    ).encode()


def _key_forms() -> list[tuple[str, bytes]]:
    first = RSA.private_bytes(PEM, TRADITIONAL, _PLAIN)
    single_line = base64.b64encode(pem())
    as_json = (
        b'{"type": "service_account", "private_key": "'
        + ED.private_bytes(PEM, PKCS8, _PLAIN).replace(b"\n", b"\\n")
        + b'"}'
    )
    return [
        ("srv/rsa.pem", first),
        ("srv/ed25519-openssh", ED.private_bytes(PEM, OPENSSH, _PLAIN)),
        ("srv/encrypted.pem", RSA.private_bytes(PEM, PKCS8, _LOCKED)),
        ("srv/rsa-pkcs1.der", RSA.private_bytes(DER, TRADITIONAL, _PLAIN)),
        ("srv/rsa-pkcs8.der", RSA.private_bytes(DER, PKCS8, _PLAIN)),
        ("srv/ec-sec1.der", EC.private_bytes(DER, TRADITIONAL, _PLAIN)),
        ("srv/ed25519.der", ED.private_bytes(DER, PKCS8, _PLAIN)),
        ("srv/dsa.der", DSA.private_bytes(DER, TRADITIONAL, _PLAIN)),
        ("srv/encrypted.der", RSA.private_bytes(DER, PKCS8, _LOCKED)),
        ("srv/site.pfx", pkcs12.serialize_key_and_certificates(b"x", RSA, None, None, _LOCKED)),
        ("srv/keystore.jks", java_store()),
        ("srv/putty.ppk", putty()),
        ("srv/pgp-export.gpg", gpg_packet()),
        (
            "srv/pgp.asc",
            b"-----BEGIN PGP PRIVATE KEY BLOCK-----\nVersion: GnuPG v2\n\n"
            + word(64).encode()
            + b"\n"
            + word(64).encode(),
        ),
        (
            "srv/gpg-agent.txt",
            b"Created: 20250101T000000\nKey: (private-key (rsa (n #00" + word(200, "0123456789ABCDEF").encode(),
        ),
        ("srv/age.txt", b"AGE-SECRET-KEY-1" + word(58, "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L").encode()),
        ("srv/wireguard.txt", b"[Interface]\nPrivateKey = " + base64.b64encode(_RANDOM.randbytes(32)) + b"\n"),
        ("srv/jwk.json", f'{{"kty":"EC","crv":"P-256","x":"{word(43)}","y":"{word(43)}","d":"{word(43)}"}}'.encode()),
        ("srv/json-newlines.dat", as_json),
        ("srv/key-utf16le.txt", pem().decode().encode("utf-16-le")),
        ("srv/key-utf16be.txt", pem().decode().replace("\n", "\r\n").encode("utf-16-be")),
        ("srv/key-base64-lines.txt", base64.encodebytes(pem())),
        ("srv/key-base64.txt", b"data=" + single_line + b";"),
        ("srv/key-base64-shift1.txt", b"k=" + base64.b64encode(b"#" + pem())),
        ("srv/key-base64-shift2.txt", b"k=" + base64.b64encode(b"##" + pem())),
        ("srv/der-base64.txt", b"path/" + base64.b64encode(EC.private_bytes(DER, TRADITIONAL, _PLAIN)) + b"\n"),
        ("srv/key.gz", gzip.compress(b"notes\n" * 200 + pem())),
        ("srv/key.xz", lzma.compress(pem())),
        ("srv/key.bz2", bz2.compress(pem())),
        ("srv/key.zst", zstandard.compress(pem())),
        ("srv/key-in-zip.zip", zipped(pem())),
        ("srv/git-object", zlib.compress(b"blob 1700\0" + pem())),
        ("srv/base64-in-gzip.gz", gzip.compress(b"x: " + base64.b64encode(pem()) + b"\n")),
        ("srv/gzip-in-base64.txt", b"user_data=" + base64.b64encode(gzip.compress(pem())) + b"\n"),
        ("srv/vault.kdbx.old", b"\x03\xd9\xa2\x9a\x67\xfb\x4b\xb5\x01\x00\x04\x00" + _RANDOM.randbytes(300)),
    ]


def _token_forms() -> list[tuple[str, bytes, str]]:
    hexadecimal = "0123456789abcdef"
    found: list[tuple[str, bytes, str]] = []

    def put(name: str, secret: str, before: str = "x=", after: str = "\n") -> None:
        found.append((f"srv/tokens/{name}.txt", (before + secret + after).encode(), secret))

    put("github", github())
    put("github-fine", "github_pat_" + word(82))
    put("gitlab", "glpat-" + word(20))
    put("aws", "AKIA" + word(16, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
    put("aws-secret", word(40), "aws_secret_access_key = ")
    put(
        "storage",
        base64.b64encode(_RANDOM.randbytes(64)).decode(),
        "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=",
    )
    put("sas", word(43) + "%3D", "https://a.blob.example.net/c?sv=2022-11-02&ss=b&sig=")
    put("entra", word(3) + "7Q~" + word(34), "secret: ")
    put("slack", f"xoxb-{word(12, string.digits)}-{word(12, string.digits)}{word(24)}")
    put("stripe", "sk_live_" + word(24))
    put("npm", "npm_" + word(36, string.ascii_lowercase + string.digits))
    put("pypi", "pypi-AgEIcHlwaS5vcmc" + word(60))
    put("docker", "dckr_pat_" + word(27))
    put("huggingface", "hf_" + word(34, string.ascii_letters))
    put("vault", "hvs." + word(95))
    put("digitalocean", "dop_v1_" + word(64, hexadecimal))
    put("google", "AIza" + word(35))
    put("sendgrid", "SG." + word(66))
    put("anthropic", "sk-ant-api03-" + word(93) + "AA")
    put(
        "jwt",
        ".".join(
            (
                base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').decode().rstrip("="),
                "eyJ" + word(60),
                word(43),
            )
        ),
    )
    put("vendor", word(32, hexadecimal), 'facebook_secret = "', '"\n')
    last = github()
    found.append(("srv/tokens/no-line-break", b"TOKEN=" + last.encode(), last))
    for name, pack in (
        ("utf16", lambda text: text.encode("utf-16")),
        ("utf16be", lambda text: text.encode("utf-16-be")),
    ):
        secret = "glpat-" + word(20)
        found.append((f"srv/tokens/{name}", pack(f"$t = '{secret}'\r\n"), secret))
    for shift in range(3):
        secret = github()
        packed = base64.b64encode(b"#" * shift + f"token: {secret}\n".encode())
        found.append((f"srv/tokens/base64-{shift}", b"content: " + packed + b"\n", secret))
    secret = github()
    found.append(("var/log/app.log.2.gz", gzip.compress(b"GET / 200\n" * 500 + secret.encode() + b"\n"), secret))
    secret = "npm_" + word(36, string.ascii_lowercase + string.digits)
    found.append(("srv/app.jar", zipped(f"token={secret}\n".encode()), secret))
    return found


def _file_forms() -> list[tuple[str, str]]:
    return [
        ("opt/app/.netrc", f"machine x login y password {word(10)}\n"),
        ("opt/ci/.git-credentials", f"https://u:{word(20)}@example.org\n"),
        ("opt/app/.npmrc", f"//registry.example.org/:_authToken={word(30)}\n"),
        ("var/lib/jenkins/.docker/config.json", f'{{"auths": {{"r": {{"auth": "{word(24)}"}}}}}}'),
        ("opt/k8s/.kube/config", f"users:\n- user:\n    token: {word(40)}\n"),
        ("etc/credstore/db-password", word(20)),
        ("etc/credstore.encrypted/api", word(40)),
        ("srv/infra/terraform.tfstate", f'{{"resources": [{{"password": "{word(16)}"}}]}}'),
        ("srv/ansible/.vault_pass", word(20)),
        ("opt/app/.pgpass", f"db:5432:*:u:{word(12)}\n"),
        ("root/.ssh/id_ed25519", ED.private_bytes(PEM, OPENSSH, _PLAIN).decode()),
    ]


def _config_forms() -> list[tuple[str, str, str]]:
    """(path, text with %s, the secret)."""
    strong = [word(14) for _ in range(40)]
    basic = base64.b64encode(("u:" + word(12)).encode()).decode()
    texts = [
        ("etc/environment", "PATH=/usr/bin\nDB_PASSWORD=%s\n"),
        ("etc/default/app", 'API_KEY="%s"\n'),
        ("srv/www/.git/config", '[remote "origin"]\n\turl = https://bot:%s@example.org/a.git\n'),
        ("etc/systemd/system/a.service", '[Service]\nEnvironment="DB_PASS=%s"\nExecStart=/bin/a\n'),
        ("etc/systemd/system/b.service", "[Service]\nSetCredential=db:%s\n"),
        ("etc/systemd/system/c.service.d/x.conf", "[Service]\nEnvironment=TOKEN=%s\n"),
        ("etc/cloud/cloud.cfg", "chpasswd:\n  list: |\n    root:%s\n  expire: false\n"),
        ("etc/cloud/cloud.cfg.d/50-users.cfg", "users:\n  - name: u\n    plain_text_passwd: %s\n"),
        ("etc/cloud/cloud.cfg.d/51-hash.cfg", "users:\n  - name: u\n    passwd: $6$salt$%s\n"),
        ("etc/cron.d/backup", "0 3 * * * root mysqldump -u root -p%s all\n"),
        ("var/spool/cron/crontabs/root", "0 3 * * * curl -u backup:%s https://example.org/\n"),
        ("etc/fstab.d/share", "//server/share /mnt cifs username=u,password=%s 0 0\n"),
        ("etc/wpa_supplicant/wpa_supplicant.conf", 'network={\n ssid="x"\n psk="%s"\n}\n'),
        ("etc/NetworkManager/system-connections/w.nmconnection", "[wifi-security]\npsk=%s\n"),
        ("etc/pam_ldap.conf", "base dc=x\nbindpw %s\n"),
        ("etc/msmtprc", "account x\nuser y\npassword %s\n"),
        ("var/www/html/wp-config.php", "<?php\ndefine('DB_PASSWORD', '%s');\n"),
        ("srv/app/.env", "DATABASE_URL=postgres://app:%s@db/app\n"),
        ("srv/app/settings.py", "DATABASES = {'default': {'PASSWORD': '%s'}}\n"),
        ("srv/app/config/database.yml", "production:\n  password: %s\n"),
        ("srv/net/appsettings.Production.json", '{"ConnectionStrings": {"D": "Server=d;User Id=u;Password=%s;"}}\n'),
        ("srv/net/web.config", '<add name="D" connectionString="Server=d;Uid=u;Pwd=%s;" />\n'),
        ("srv/java/application.properties", "spring.datasource.password=%s\n"),
        ("srv/tf/prod.tfvars", 'db_password = "%s"\n'),
        ("srv/stack/docker-compose.yml", "services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: %s\n"),
        ("opt/deploy/run.sh", "#!/bin/sh\nsshpass -p %s ssh host\n"),
        ("root/.bashrc", "export SECRET_KEY=%s\n"),
        ("etc/bind/rndc.key", 'key "rndc-key" {\n algorithm hmac-sha256;\n secret "%sAAAAAA==";\n};\n'),
        ("srv/tomcat/tomcat-users.xml", '<user username="a" password="%s" roles="manager"/>\n'),
    ]
    found = [(path, text % secret, secret) for (path, text), secret in zip(texts, strong, strict=False)]
    found.append(("srv/ci/.git/config", f"[http]\n\textraheader = AUTHORIZATION: basic {basic}\n", basic))
    return found


def forms() -> list[Form]:
    found = [Form(path, data, KEYS, data[200:240] or data[-20:]) for path, data in _key_forms()]
    found += [Form(path, data, TOKENS, secret.encode()) for path, data, secret in _token_forms()]
    found += [Form(path, text.encode(), FILES, text[-12:].strip().encode()) for path, text in _file_forms()]
    found += [Form(path, text.encode(), CONFIG, secret.encode()) for path, text, secret in _config_forms()]
    found.append(Form("var/mail/root", b"From cron\nSubject: x\n\nyour password is new\n", MAIL, b"your password"))
    return found


FORMS = forms()
#: Those that are also tried in freed blocks: what nobody has a name for any more.
FREED = [form for form in FORMS if form.check in (KEYS, TOKENS)]
