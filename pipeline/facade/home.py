"""The folder of the facade in a store: the client's secret, the key of tokens, the certificate, its records.

`STORE/facade` has mode 0711, so that every user can read the certificate in it; all else is for its owner alone.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from filelock import FileLock, Timeout

from pipeline.base.errors import HostError, UsageError
from pipeline.base.files import Shape, read_json, read_text, write_json

#: Bytes of the client's secret and of the key of tokens, before they are written as text.
_SECRET, _KEY = 24, 32
#: Days that a certificate is valid; 398 is the most that clients of the public web accept.
_VALID, _RENEW = 398, 30
#: The address that the facade listens on. No option changes it: its tokens command root's VMs.
LOOPBACK = "127.0.0.1"


class ClientShape(Shape):
    """`client.json`: the ids of the tenant and of its only client."""

    tenant: str
    client: str


@dataclass(frozen=True)
class Client:
    """The ids by which a client signs in."""

    tenant: str
    client: str


class Home:
    """The folder. Its parts are made at the first start, and kept."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def secret_file(self) -> Path:
        return self.root / "client-secret"

    @property
    def certificate(self) -> Path:
        return self.root / "certificate.pem"

    @property
    def certificate_key(self) -> Path:
        return self.root / "certificate.key"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def tasks(self) -> Path:
        return self.root / "tasks"

    @property
    def empty(self) -> Path:
        """A folder without files, in which the process of the HTTP side lives."""
        return self.root / "empty"

    def ensure(self) -> Home:
        """Make what is missing. Raises OSError where the store cannot be written to."""
        self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
        self.root.chmod(0o711)
        for folder in (self.records, self.tasks):
            folder.mkdir(mode=0o700, exist_ok=True)
        self.empty.mkdir(mode=0o555, exist_ok=True)
        if not (self.root / "client.json").exists():
            write_json(self.root / "client.json", {"tenant": str(uuid.uuid4()), "client": str(uuid.uuid4())})
            _write_private(self.secret_file, secrets.token_urlsafe(_SECRET).encode())
        if not (self.root / "token.key").exists():
            _write_private(self.root / "token.key", secrets.token_hex(_KEY).encode())
        if _needs_certificate(self.certificate):
            self._make_certificate()
        return self

    def client(self) -> Client:
        data = read_json(self.root / "client.json", ClientShape)
        if data is None:
            raise UsageError(
                f"{self.root} has no client",
                name="facade-client",
                hint="goldsmith serve azure --env creates what is missing",
            )
        return Client(data["tenant"], data["client"])

    def secret(self) -> str | None:
        """The client's secret; None where its file is missing: then nobody can sign in.

        Raises UsageError (facade-secret) for a file that others can read.
        """
        try:
            mode = self.secret_file.stat().st_mode
        except FileNotFoundError:
            return None
        if stat.S_IMODE(mode) & 0o077:
            raise UsageError(
                f"{self.secret_file} can be read by others",
                name="facade-secret",
                hint=f"chmod 600 {self.secret_file}; if somebody may have read it, delete it and client.json, too",
            )
        return read_text(self.secret_file, 1 << 10).strip() or None

    def token_key(self) -> str:
        return read_text(self.root / "token.key", 1 << 10)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Keep a second server off this store while the block runs. Raises HostError (facade-running)."""
        lock = FileLock(self.root / "lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            raise HostError(
                f"another process serves {self.root.parent} already",
                name="facade-running",
                hint="goldsmith serve azure --env prints how to reach it, or end it first",
            ) from None
        try:
            yield
        finally:
            lock.release()

    def _make_certificate(self) -> None:
        """A key and a certificate of its own for the names of the loopback address."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "goldsmith serve azure")])
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
        start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=1)
        identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=_VALID))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(identifier, critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(key, hashes.SHA256())
        )
        _write_private(self.certificate_key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        self.certificate.chmod(0o644)


def _needs_certificate(path: Path) -> bool:
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return True
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left < datetime.timedelta(days=_RENEW)


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that its owner alone can read, in one rename."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
