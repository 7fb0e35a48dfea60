"""Who may ask: a secret in a private file, tokens that are signed and expire, the loopback address alone."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import jwt
import pytest

from pipeline.base.errors import GoldsmithError
from pipeline.base.store import Store
from pipeline.facade.server import Facade
from tests.fakes.facade import MACHINES, VERSION, Client, serving
from tests.processes import open_files

LIST = f"{MACHINES}?{VERSION}"


def forge(client: Client, **changes: object) -> str:
    """A token with the facade's own key, and other claims."""
    tenant = client.tenant
    now = int(time.time())
    claims = {"aud": "urn:goldsmith:resource-manager", "iss": f"urn:goldsmith:{tenant}", "nbf": now, "exp": now + 60}
    return jwt.encode({**claims, **changes}, client.facade.home.token_key(), "HS256")


def test_a_token_opens_the_list(client: Client) -> None:
    assert client.ask("GET", LIST).status == 200
    client.token = forge(client)
    assert client.ask("GET", LIST).status == 200


def test_a_wrong_expired_or_missing_token_is_refused(client: Client) -> None:
    good = client.token or ""
    head, body, _signature = good.split(".")
    path = f"/boot/{'0' * 8}-0000-0000-0000-{'0' * 12}/serial.log"
    tokens = {
        "missing": None,
        "empty": "",
        "no token": "abc",
        "expired": forge(client, exp=int(time.time()) - 1),
        "not yet valid": forge(client, nbf=int(time.time()) + 600),
        "of another audience": forge(client, aud="urn:other"),
        "of another issuer": forge(client, iss="urn:goldsmith:other"),
        "without an end": jwt.encode(
            {"aud": "urn:goldsmith:resource-manager"}, client.facade.home.token_key(), "HS256"
        ),
        "of another key": jwt.encode({"exp": int(time.time()) + 60}, "k" * 64, "HS256"),
        "unsigned": jwt.encode({"aud": "urn:goldsmith:resource-manager"}, None, "none"),
        "with another signature": f"{head}.{body}.c2lnbmF0dXJl",
        "for a link": client.facade.manager.tokens.issue_link(path),
    }
    for what, token in tokens.items():
        client.token = token
        answer = client.ask("GET", LIST)
        assert answer.status == 401, what
        assert answer.body["error"]["code"].endswith(("AuthenticationFailed", "AuthenticationToken")), what
        assert "www-authenticate" in {key.lower() for key in answer.headers}
    client.token = good
    assert client.ask("GET", LIST).status == 200


def test_a_link_opens_its_own_path_alone(client: Client) -> None:
    links = client.ask("POST", f"{MACHINES}/off/retrieveBootDiagnosticsData?{VERSION}").body
    path = links["serialConsoleLogBlobUri"].partition(str(client.facade.port))[2]
    client.token = None
    assert client.ask("GET", path).status == 404  # the VM never had a console
    assert client.ask("GET", path.replace("serial.log", "screen.png")).status == 401
    assert client.ask("GET", path.partition("?")[0]).status == 401
    store = client.facade.manager.store
    (store.instances / "off/logs/serial.log").write_bytes(b"login:")
    assert client.ask("GET", path).data == b"login:"


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "other"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
    ],
)
def test_wrong_credentials_give_no_token(client: Client, changes: dict[str, str], status: int, error: str) -> None:
    form = client.credentials(**changes)
    answer = client.ask("POST", f"/{client.tenant}/oauth2/v2.0/token", form=form)
    assert (answer.status, answer.body["error"]) == (status, error)


def test_without_a_secret_nobody_signs_in(client: Client) -> None:
    form = client.credentials()
    home = client.facade.home
    assert home.secret_file.stat().st_mode & 0o777 == 0o600
    home.secret_file.unlink()
    assert client.ask("POST", f"/{client.tenant}/oauth2/v2.0/token", form=form).status == 401
    assert client.ask("POST", f"/{client.tenant}/oauth2/v2.0/token", form={**form, "client_secret": ""}).status == 401


def test_a_secret_that_others_can_read_is_refused(client: Client) -> None:
    form = client.credentials()
    client.facade.home.secret_file.chmod(0o640)
    answer = client.ask("POST", f"/{client.tenant}/oauth2/v2.0/token", form=form)
    assert answer.status == 400 and answer.body["error"]["details"][0]["code"] == "facade-secret"
    with pytest.raises(GoldsmithError) as error:
        Facade(client.facade.manager.store, 0, can_change=True)
    assert error.value.name == "facade-secret" and error.value.hint


def test_it_listens_on_the_loopback_address_alone(client: Client) -> None:
    ours = set(open_files(os.getpid()))
    listening = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in ours:
                listening.add(words[1])
    port = f":{client.facade.port:04X}"
    assert {each for each in listening if each.endswith(port)} == {f"0100007F{port}"}  # 127.0.0.1
    assert client.ask("GET", LIST, headers={"Host": "evil.example"}).status == 400


def test_a_port_that_is_used_and_a_second_server_are_named(tmp_path: Path, client: Client) -> None:
    store = client.facade.manager.store
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(GoldsmithError) as error:
        Facade(store, taken.getsockname()[1], can_change=True)
    assert error.value.name == "port-taken" and error.value.hint
    second = Facade(store, 0, can_change=True)
    with pytest.raises(GoldsmithError) as error:
        second.serve()
    assert error.value.name == "facade-running" and error.value.hint


def test_a_store_without_a_client_is_named(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as client:
        home = client.facade.home
        (home.root / "client.json").unlink()
        with pytest.raises(GoldsmithError) as error:
            home.client()
        assert error.value.name == "facade-client" and error.value.hint


def test_who_is_not_root_may_look_alone(tmp_path: Path) -> None:
    with serving(tmp_path / "store", can_change=False) as client:
        assert client.ask("GET", LIST).status == 200
        for method, path in (("POST", "/idle/start"), ("DELETE", "/idle"), ("POST", "/done/capture")):
            answer = client.ask(method, f"{MACHINES}{path}?{VERSION}", {"vhdPrefix": "web"})
            assert answer.status == 403 and answer.body["error"]["details"][0]["code"] == "root-needed"


def test_what_is_kept_survives_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as client:
        token, certificate = client.token, client.facade.home.certificate.read_bytes()
    with serving(tmp_path) as again:
        assert again.facade.home.certificate.read_bytes() == certificate
        again.token = token
        assert again.ask("GET", LIST).status == 200
    assert Store(tmp_path).root.joinpath("facade").stat().st_mode & 0o777 == 0o711
