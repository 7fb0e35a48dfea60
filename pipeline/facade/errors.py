"""Errors as the Resource Manager writes them: a status, and a body with Azure's code and a message."""

from __future__ import annotations

from typing import Any

from pipeline.base.errors import BuildError, CheckFailed, GoldsmithError, HostError, NotFound, UsageError


class ArmError(Exception):
    """An answer that is an error. `own_name` is goldsmith's own name of the error, if it has one."""

    def __init__(
        self, status: int, code: str, message: str, *, own_name: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.own_name = own_name
        self.hint = hint

    @property
    def body(self) -> dict[str, Any]:
        """The error's fields: https://learn.microsoft.com/rest/api/gettingstarted, "Error response"."""
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.own_name is not None:
            error["details"] = [{"code": self.own_name, "message": self.hint or self.message}]
        return error


#: The status and Azure's code of errors that Azure knows, too, by goldsmith's name.
_KNOWN = {
    "root-needed": (403, "AuthorizationFailed"),
    "vm-unknown": (404, "ResourceNotFound"),
    "disk-unknown": (404, "ResourceNotFound"),
    "gallery-unknown": (404, "ResourceNotFound"),
    "vm-busy": (409, "Conflict"),
    "vm-locked": (409, "Conflict"),
    "disk-locked": (409, "Conflict"),
    "vm-exists": (409, "PropertyChangeNotAllowed"),
    "disk-exists": (409, "PropertyChangeNotAllowed"),
    "vm-running": (409, "OperationNotAllowed"),
    "vm-stopped": (409, "OperationNotAllowed"),
    "vm-deallocated": (409, "OperationNotAllowed"),
    "vm-generalized": (409, "OperationNotAllowed"),
    "vm-not-generalized": (409, "OperationNotAllowed"),
    "not-generalized": (409, "OperationNotAllowed"),
    "vm-incomplete": (409, "OperationNotAllowed"),
    "disk-leased": (409, "OperationNotAllowed"),
    "disk-of-vm": (409, "OperationNotAllowed"),
    "disk-shrink": (409, "ResizeDiskError"),
    "image-withdrawn": (409, "ImageWithdrawn"),
    "vm-no-room": (409, "AllocationFailed"),
    "libvirt-unreachable": (503, "ServiceUnavailable"),
    "vm-name": (400, "InvalidParameter"),
    "disk-name-invalid": (400, "InvalidParameter"),
    "size-unknown": (400, "InvalidParameter"),
    "disk-not-attached": (400, "InvalidParameter"),
    "lun-taken": (400, "InvalidParameter"),
    "template-image": (400, "InvalidParameter"),
    "ssh-key-missing": (400, "InvalidParameter"),
    "guest-shutdown-timeout": (409, "VMPowerOffTimeout"),
    "provisioning-failed": (409, "OSProvisioningClientError"),
}
#: The same for all others, by the kind of the error.
_KINDS: tuple[tuple[type[GoldsmithError], int, str], ...] = (
    (NotFound, 404, "ResourceNotFound"),
    (UsageError, 400, "InvalidRequestContent"),
    (CheckFailed, 409, "Conflict"),
    (HostError, 503, "ServiceUnavailable"),
    (BuildError, 409, "Conflict"),
    (GoldsmithError, 409, "Conflict"),
)


def arm_error(error: GoldsmithError) -> ArmError:
    """An error of goldsmith as the Resource Manager would write it."""
    found = _KNOWN.get(error.name)
    if found is None:
        found = next((status, code) for kind, status, code in _KINDS if isinstance(error, kind))
    return ArmError(*found, error.message, own_name=error.name, hint=error.hint)


def not_found(what: str) -> ArmError:
    return ArmError(404, "ResourceNotFound", f"{what} was not found")


def invalid(message: str) -> ArmError:
    return ArmError(400, "InvalidRequestContent", message)
