"""The certificate of a VM, with its private key: read from its user's file, and handed to the guest's agent.

The fabric hands it out; neither the image nor the provisioning medium has it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.base.errors import UsageError
from pipeline.base.store import Store
from pipeline.fabric import service
from pipeline.fabric.certificates import LARGEST_FILE, load_key_pair, read_certificate
from pipeline.fabric.registration import CertificateState
from pipeline.hypervisor.machine import Machine
from pipeline.instances.record import Record

#: Seconds from Ready until the agent has the certificate, by whether KVM is real: it begins when the boot is over,
#: and is Python.
TAKEN = {True: 180.0, False: 600.0}


def read_certificate_file(path: Path) -> bytes:
    """A user's file of a certificate with its private key, as one PEM.

    Raises OSError, UsageError (certificate-invalid).
    """
    try:
        with path.open("rb") as file:
            return read_certificate(file.read(LARGEST_FILE + 1))
    except ValueError as error:
        raise UsageError(
            f"{path} {error}",
            name="certificate-invalid",
            hint="name a PEM file with the private key and its certificate, or PKCS#12 without a password; "
            "openssl pkcs12 -in FILE -nodes -out FILE.pem removes the password",
        ) from None


def describe_certificate(pem: bytes) -> dict[str, Any] | None:
    """A certificate's fields in `--json`; None without one. The thumbprint names its files in the guest."""
    if not pem:
        return None
    pair = load_key_pair(pem)
    return {
        "thumbprint": pair.thumbprint,
        "subject": pair.certificate.subject.rfc4514_string(),
        "notAfter": pair.certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def wait_certificate(store: Store, record: Record, machine: Machine) -> None:
    """Wait until the guest's agent has fetched the VM's certificate, and has reported the status that follows it.

    Raises GuestError (certificate-not-taken).
    """

    def taken() -> bool | None:
        return service.read_status(store, record.id).certificate is CertificateState.TAKEN or None

    machine.wait(
        "the guest's agent and the certificate",
        taken,
        deadline=TAKEN[machine.spec.kvm],
        name="certificate-not-taken",
        hint="only Azure's Linux agent (waagent) takes certificates: is it in the image, and does it run? "
        f"goldsmith vm logs {record.name} shows what the guest asked the fabric",
    )
