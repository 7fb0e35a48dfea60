"""What the HTTP side asks of the side that may change VMs: five questions, each with its types."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Protocol, TypeVar

from pipeline.base.errors import GoldsmithError
from pipeline.base.file_errors import describe_os_error
from pipeline.facade.boot_files import read_boot_file
from pipeline.facade.errors import ArmError, arm_error
from pipeline.facade.home import Client
from pipeline.facade.manager import Manager
from pipeline.facade.routing import Answer, Request

log = logging.getLogger("goldsmith.facade")
T = TypeVar("T")


class Backend(Protocol):
    """Each method raises ArmError and nothing else."""

    def client(self) -> Client:
        """The ids of the tenant and of its only client."""
        ...

    def sign_in(self, form: Mapping[str, str]) -> dict[str, Any]:
        """The answer of the token endpoint."""
        ...

    def verify(self, authorization: str | None) -> None:
        """Raise ArmError (401) for a header without a valid token."""
        ...

    def boot_file(self, token: str, path: str, machine: str, file: str) -> tuple[str, bytes]:
        """The media type and the content of a file of a VM, for a link's token."""
        ...

    def answer(self, authorization: str | None, request: Request) -> Answer:
        """The answer to a request. The token is verified here, too."""
        ...


class ManagerBackend:
    """Answers with a manager. It trusts no question: tokens are verified here."""

    def __init__(self, manager: Manager) -> None:
        self._manager = manager

    def client(self) -> Client:
        return translated("the ids of the client", self._manager.home.client)

    def sign_in(self, form: Mapping[str, str]) -> dict[str, Any]:
        return translated("a sign-in", lambda: self._manager.tokens.sign_in(form))

    def verify(self, authorization: str | None) -> None:
        translated("a token", lambda: self._manager.tokens.verify(authorization))

    def boot_file(self, token: str, path: str, machine: str, file: str) -> tuple[str, bytes]:
        def read() -> tuple[str, bytes]:
            self._manager.tokens.verify_link(token, path)
            return read_boot_file(self._manager, machine, file)

        return translated(f"the file {path}", read)

    def answer(self, authorization: str | None, request: Request) -> Answer:
        def find() -> Answer:
            self._manager.tokens.verify(authorization)
            return self._manager.answer(request)

        return translated(f"the request {request.method} {request.path}", find)


def translated(what: str, do: Callable[[], T]) -> T:
    """What `do` returns. Raises its errors as ArmError; of a fault of the program, which is logged, a number."""
    try:
        return do()
    except ArmError:
        raise
    except GoldsmithError as error:
        raise arm_error(error) from None
    except OSError as error:
        raise arm_error(describe_os_error(error)) from None
    except Exception:
        number = secrets.token_hex(4)
        log.exception("%s failed (%s)", what, number)
        raise ArmError(500, "InternalServerError", f"goldsmith failed; its log has the reason ({number})") from None
