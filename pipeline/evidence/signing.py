"""The host's signing key (ed25519), and the signed envelope (DSSE) that others can open with its public half.

The key lies outside the store: who copies the store, or gives others a share of it, does not give the key away.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, Key, Signature, Signer, SSlibKey

from pipeline.base.errors import CheckFailed, UsageError
from pipeline.base.files import AnyObject, parse_json
from pipeline.evidence import agent_key
from pipeline.evidence.agent_key import AgentKey

#: Where the key is, unless GOLDSMITH_KEY says otherwise.
DEFAULT = Path("/etc/goldsmith/signing.key")
#: What an in-toto statement is called in its envelope (in-toto's specification of the envelope, version 1).
PAYLOAD_TYPE = "application/vnd.in-toto+json"


@dataclass(frozen=True)
class SigningKey:
    """A private key that was read, or that an agent holds. `path` is its file, the public half lies beside it."""

    path: Path
    private: Ed25519PrivateKey | AgentKey

    @property
    def public(self) -> Key:
        return SSlibKey.from_crypto(self.private.public_key())

    @property
    def id(self) -> str:
        return str(self.public.keyid)

    def public_pem(self) -> bytes:
        """The public half as its file has it."""
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


class _AgentSigner(Signer):
    """An agent's key, as securesystemslib asks one to sign."""

    def __init__(self, key: AgentKey) -> None:
        self._key = key

    @property
    def public_key(self) -> Key:
        return SSlibKey.from_crypto(self._key.public)

    @classmethod
    def from_priv_key_uri(cls, *_: object) -> _AgentSigner:
        raise NotImplementedError("a key of an agent has no address")

    def sign(self, payload: bytes) -> Signature:
        return Signature(self.public_key.keyid, self._key.sign(payload).hex())


def public_path(path: Path) -> Path:
    return path.with_suffix(".pub")


def make(path: Path, agent: AgentKey | None = None) -> SigningKey:
    """A new key: the private half readable by its owner alone. Raises UsageError (key-exists).

    With `agent` that key signs, and the file of the private half only says where it is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = SigningKey(path, agent or Ed25519PrivateKey.generate())
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise UsageError(
            f"{path} exists already",
            name="key-exists",
            hint="keep it: the masters that it signed could no longer be verified",
        ) from None
    with os.fdopen(fd, "wb") as file:
        file.write(_file_of(made.private))
        file.flush()
        os.fsync(file.fileno())
    public_path(path).write_bytes(made.public_pem())
    return made


def _file_of(private: Ed25519PrivateKey | AgentKey) -> bytes:
    if isinstance(private, AgentKey):
        return private.text().encode()
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _read_private(path: Path) -> Ed25519PrivateKey | AgentKey:
    """Raises OSError, ValueError, TypeError, UnsupportedAlgorithm."""
    data = path.read_bytes()
    if data.startswith(agent_key.WORD.encode()):
        return agent_key.parse(data.decode())
    private = load_pem_private_key(data, None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ValueError("it is not an ed25519 key")
    return private


def load(path: Path, store: Path) -> SigningKey | None:
    """The key that signs, None where there is none.

    Raises UsageError: key-in-store, key-readable, key-unreadable.
    """
    if not path.exists():
        return None
    if path.resolve().is_relative_to(store.resolve()):
        raise UsageError(
            f"the key {path} is in the store",
            name="key-in-store",
            hint="move it to another folder and set GOLDSMITH_KEY",
        )
    if path.stat().st_mode & 0o077:
        raise UsageError(f"other users can read the key {path}", name="key-readable", hint=f"chmod 600 {path}")
    try:
        return SigningKey(path, _read_private(path))
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(
            f"{path} is not a valid key: {error}", name="key-unreadable", hint="goldsmith key make creates one"
        ) from None


def load_public(path: Path) -> Key:
    """A public key to verify by. Raises UsageError (key-unreadable)."""
    try:
        public = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise UsageError(f"{path} is not a valid public key: {error}", name="key-unreadable") from None
    if not isinstance(public, Ed25519PublicKey):
        raise UsageError(f"{path} is not an ed25519 key", name="key-unreadable")
    return SSlibKey.from_crypto(public)


def trusted(path: Path) -> list[Path]:
    """The public keys beside the host's own: its own, and those of hosts whose masters it takes.

    Raises UsageError (key-mismatch) where the file of its own public half is not that of the private one.
    """
    if os.access(path, os.R_OK) and public_path(path).exists():
        try:
            private = _read_private(path)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            private = None  # `load` says what is wrong with it, where it has to sign
        if private is not None:
            own = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            if public_path(path).read_bytes().strip() != own.strip():
                raise UsageError(
                    f"{public_path(path)} does not belong to the private key {path}",
                    name="key-mismatch",
                    hint="one of the two files was changed: restore it from a backup; after a rotation of the key "
                    "that was interrupted, goldsmith key rotate completes it",
                )
    return sorted(path.parent.glob("*.pub"))


def signs(path: Path) -> bool:
    """Whether this host signs what it makes: then it must be signed. The private half may be unreadable to us."""
    return path.exists() or public_path(path).exists()


def signed(payload: bytes, key: SigningKey) -> str:
    """The payload in an envelope, as JSON."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    private = key.private
    envelope.sign(CryptoSigner(private) if isinstance(private, Ed25519PrivateKey) else _AgentSigner(private))
    return json.dumps(envelope.to_dict(), indent=1) + "\n"


def opened(text: str, keys: Sequence[Key]) -> bytes:
    """What an envelope holds, signed by one of `keys`. Raises CheckFailed (signature-bad)."""
    return verified(text, keys)[1]


def verified(text: str, keys: Sequence[Key]) -> tuple[str, bytes]:
    """The id of the one of `keys` that signed an envelope, and what it holds. Raises CheckFailed (signature-bad)."""
    try:
        envelope = Envelope.from_dict(parse_json(text, AnyObject))
        if envelope.payload_type != PAYLOAD_TYPE:
            raise CheckFailed(f"the envelope holds {envelope.payload_type}", name="signature-bad")
        signers = envelope.verify(list(keys), 1)
    except (VerificationError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckFailed(f"no trusted key has signed it: {error}", name="signature-bad") from None
    return str(next(iter(signers))), bytes(envelope.payload)
