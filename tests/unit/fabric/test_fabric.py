"""The fabric's answers, its medium and its servers; no namespace and no guest."""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pycdlib
import pytest
from lxml import etree

from pipeline.base.errors import GoldsmithError
from pipeline.definition import DataDisk
from pipeline.fabric import answer, imds, wireserver
from pipeline.fabric.certificates import make_key_pair, sealed
from pipeline.fabric.instance import IMDS, PLUGIN_PORT, WIRESERVER, Instance, Request, Response
from pipeline.fabric.limits import LARGEST_BODY
from pipeline.fabric.media import ovf_env, write_media
from pipeline.fabric.server import Listener
from pipeline.network.namespaces import address_of
from pipeline.network.relay import Relay

VM = Instance(
    name="web1",
    user="azureuser",
    public_key="ssh-ed25519 AAAAC3 key",
    mac="00:0d:3a:01:02:03",
    address="10.83.0.10",
    vm_id="02aab8a4-74ef-476e-8182-f6d2ba4166a6",
    custom_data=b"#cloud-config\n",
    user_data=b"page: <one & only>",
)
WA = "{http://schemas.microsoft.com/windowsazure}"


def wire(target: str, method: str = "GET", **more: object) -> Request:
    return Request(method, 80, target, **more)  # type: ignore[arg-type]


def meta(target: str, **headers: str) -> Request:
    return Request("GET", 80, target, headers={"metadata": "true", **headers}, host=IMDS)


# ---- the WireServer ----------------------------------------------------------------------------------------------


def test_the_goal_state_leads_to_every_document() -> None:
    result = answer(VM, wire("/machine/?comp=goalstate"))
    state = etree.fromstring(result.body)
    assert state.findtext("Incarnation") == "1"
    assert state.findtext("Container/RoleInstanceList/RoleInstance/InstanceId", "").endswith("_web1")
    links = {e.tag: e.text or "" for e in state.iterfind("Container/RoleInstanceList/RoleInstance/Configuration/*")}
    for tag, root in (
        ("HostingEnvironmentConfig", "HostingEnvironmentConfig"),
        ("SharedConfig", "SharedConfig"),
        ("ExtensionsConfig", "Extensions"),
    ):
        assert links[tag].startswith(f"http://{WIRESERVER}:80/machine/")
        document = answer(VM, wire(links[tag].removeprefix(f"http://{WIRESERVER}:80")))
        assert document.status == 200, tag
        assert etree.fromstring(document.body).tag == root


def test_the_same_vm_has_the_same_ids() -> None:
    again = replace(VM, mac="00:0d:3a:ff:ff:ff")
    assert answer(VM, wire("/machine/?comp=goalstate")).body == answer(again, wire("/machine/?comp=goalstate")).body
    other = replace(VM, vm_id="92aab8a4-74ef-476e-8182-f6d2ba4166a6")
    assert other.container_id != VM.container_id


def test_vm_settings_say_what_the_extensions_say() -> None:
    extensions = etree.fromstring(wireserver.extensions_config(VM, wire("/")).body)
    settings = answer(VM, Request("GET", PLUGIN_PORT, "/vmSettings"))
    data = json.loads(settings.body)
    about = extensions.find("InVMGoalStateMetaData")
    assert about is not None
    assert data["activityId"] == about.get("activityId")
    assert data["correlationId"] == about.get("correlationId")
    assert str(data["extensionsLastModifiedTickCount"]) == about.get("createdOnTicks")
    assert data["statusUploadBlob"]["value"] == extensions.findtext("StatusUploadBlob")
    etag = settings.headers["ETag"]
    known = answer(VM, Request("GET", PLUGIN_PORT, "/vmSettings", headers={"if-none-match": etag}))
    assert (known.status, known.body) == (304, b"")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (wire("/?comp=versions"), 200),
        (wire("/machine?comp=health", "POST"), 200),
        (wire("/machine?comp=roleProperties", "POST"), 202),
        (wire("/machine?comp=telemetrydata", "POST"), 200),
        (wire("/HealthService", "POST"), 200),
        (Request("GET", PLUGIN_PORT, "/versions"), 200),
        (Request("GET", PLUGIN_PORT, "/health"), 200),
        (Request("PUT", PLUGIN_PORT, "/status"), 200),
        (Request("GET", PLUGIN_PORT, "/extensionArtifact"), 404),
        (wire("/nothing"), 404),
        (wire("/machine?comp=health"), 404),
    ],
)
def test_what_agents_ask(request_: Request, status: int) -> None:
    assert answer(VM, request_).status == status


REPORT = """<?xml version="1.0" encoding="utf-8"?>
<Health xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
 <GoalStateIncarnation>1</GoalStateIncarnation>
 <Container><ContainerId>x</ContainerId><RoleInstanceList><Role><InstanceId>y</InstanceId>
  <Health><State>{state}</State>{details}</Health></Role></RoleInstanceList></Container>
</Health>"""


def test_reports_are_read() -> None:
    def read(body: str) -> object:
        return wireserver.health_report(wire("/machine?comp=health", "POST", body=body.encode()))

    ready = read(REPORT.format(state="Ready", details=""))
    assert isinstance(ready, wireserver.Report)
    assert ready.ready
    details = "<Details><SubStatus>ProvisioningFailed</SubStatus><Description>no &lt;user&gt;</Description></Details>"
    bad = read(REPORT.format(state="NotReady", details=details))
    assert bad == wireserver.Report("NotReady", "ProvisioningFailed", "no <user>")
    assert read("<Health") is None
    assert read("<Health/>") is None
    entity = (
        '<!DOCTYPE h [<!ENTITY x SYSTEM "file:///etc/passwd">]>'
        + REPORT.format(state="&x;", details="").split("?>")[1]
    )
    result = read(entity)
    assert result is None or "root:" not in result.state  # type: ignore[attr-defined]  # read() gives object


def test_certificates_open_with_the_agents_key_alone(tmp_path: Path) -> None:
    key, transport = tmp_path / "transport.key", tmp_path / "transport.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=agent", "-days", "1",
         "-keyout", key, "-out", transport], check=True, capture_output=True,
    )  # fmt: skip
    header = "".join(transport.read_text().splitlines()[1:-1])
    result = answer(
        VM,
        wire(
            "/machine/c/r?comp=certificates&type=certificates", headers={"x-ms-guest-agent-public-x509-cert": header}
        ),
    )
    data = etree.fromstring(result.body).findtext("Data", "")
    (tmp_path / "sealed").write_bytes(base64.b64decode(data))
    subprocess.run(
        ["openssl", "cms", "-decrypt", "-inform", "DER", "-in", tmp_path / "sealed", "-inkey", key,
         "-recip", transport, "-out", tmp_path / "bundle"], check=True, capture_output=True,
    )  # fmt: skip
    opened = subprocess.run(
        ["openssl", "pkcs12", "-nodes", "-password", "pass:", "-in", tmp_path / "bundle"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    assert "CN = web1" in opened
    assert "PRIVATE KEY" in opened


def test_a_bad_transport_certificate_is_refused() -> None:
    assert answer(VM, wire("/machine/c/r?comp=certificates")).status == 400


# ---- the metadata service ----------------------------------------------------------------------------------------


def test_the_instance() -> None:
    data = json.loads(answer(VM, meta("/metadata/instance?api-version=2021-08-01&extended=true")).body)
    assert data["compute"]["vmId"] == VM.vm_id
    assert data["compute"]["osProfile"]["computerName"] == "web1"
    assert data["compute"]["publicKeys"][0]["keyData"] == VM.public_key
    assert base64.b64decode(data["compute"]["userData"]) == VM.user_data
    (card,) = data["network"]["interface"]
    assert card["macAddress"] == "000D3A010203"
    assert card["ipv4"]["ipAddress"][0]["privateIpAddress"] == "10.83.0.10"
    assert card["ipv4"]["subnet"] == [{"address": "10.83.0.8", "prefix": "29"}]
    old = json.loads(answer(VM, meta("/metadata/instance?api-version=2019-06-01")).body)
    assert "userData" not in old["compute"]


def test_a_vm_that_is_merely_started_finds_no_metadata_service() -> None:
    """cloud-init takes the VM's metadata for an order to provision it, and posts Ready."""
    started = replace(VM, provisioned=False)
    assert answer(started, meta("/metadata/instance?api-version=2021-08-01")).drop
    assert answer(started, wire("/machine/?comp=goalstate")).status == 200


def test_data_disks_are_told_by_lun() -> None:
    vm = replace(VM, data_disks=(DataDisk(0, 16 << 30, "ReadOnly", "ext4", "data"), DataDisk(9, 1 << 20)))
    data = json.loads(answer(vm, meta("/metadata/instance?api-version=2021-08-01")).body)
    disks = data["compute"]["storageProfile"]["dataDisks"]
    assert [(item["lun"], item["caching"], item["diskSizeGB"]) for item in disks] == [
        ("0", "ReadOnly", "16"),
        ("9", "None", "1"),
    ]


def test_leaves_are_text_where_asked() -> None:
    path = "/metadata/instance/compute/userData?api-version=2021-01-01&format=text"
    assert base64.b64decode(answer(VM, meta(path)).body) == VM.user_data
    path = "/metadata/instance/network/interface/0/macAddress?api-version=2021-01-01&format=text"
    assert answer(VM, meta(path)).body == b"000D3A010203"


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/metadata/instance", 400),
        ("/metadata/instance?api-version=1999-01-01", 400),
        ("/metadata/instance/compute/nothing?api-version=2021-02-01", 404),
        ("/metadata/instance/network/interface/7?api-version=2021-02-01", 404),
        ("/metadata/scheduledevents?api-version=2020-07-01", 200),
        ("/metadata/attested/document?api-version=2021-02-01", 200),
        ("/metadata/versions", 200),
        ("/", 404),
    ],
)
def test_what_the_metadata_service_refuses(target: str, status: int) -> None:
    assert answer(VM, meta(target)).status == status


def test_the_header_is_required() -> None:
    asked = Request("GET", 80, "/metadata/instance?api-version=2021-02-01", host=IMDS)
    assert answer(VM, asked).status == 400


def test_the_attested_document_says_that_it_is_not_signed() -> None:
    data = imds.attested(VM)
    assert data["encoding"] == "unsigned"
    assert "no signature" in base64.b64decode(data["signature"]).decode()


# ---- the medium --------------------------------------------------------------------------------------------------


def test_the_document_for_linux() -> None:
    root = etree.fromstring(ovf_env(VM))
    asked = root.find(f".//{WA}LinuxProvisioningConfigurationSet")
    assert asked is not None
    assert asked.findtext(f"{WA}HostName") == "web1"
    assert asked.findtext(f"{WA}UserName") == "azureuser"
    assert asked.findtext(f"{WA}DisableSshPasswordAuthentication") == "true"
    assert asked.findtext(f".//{WA}PublicKey/{WA}Value") == VM.public_key
    assert base64.b64decode(asked.findtext(f"{WA}CustomData", "")) == VM.custom_data


def test_the_document_for_windows() -> None:
    root = etree.fromstring(ovf_env(VM, windows_password="a <b> & c"))
    asked = root.find(f".//{WA}WindowsProvisioningConfigurationSet")
    assert asked is not None
    assert asked.findtext(f"{WA}ComputerName") == "web1"
    assert asked.findtext(f"{WA}AdminPassword") == "a <b> & c"


def test_the_medium_has_the_document_under_each_kind_of_name(tmp_path: Path) -> None:
    path = tmp_path / "cd.iso"
    write_media(path, {"ovf-env.xml": b"<x/>"})
    assert path.stat().st_mode & 0o777 == 0o600
    iso = pycdlib.PyCdlib()
    iso.open(str(path))
    for kind in ("udf_path", "joliet_path", "rr_path"):
        out = io.BytesIO()
        iso.get_file_from_iso_fp(out, **{kind: "/ovf-env.xml"})
        assert out.getvalue() == b"<x/>", kind
    iso.close()


def test_each_clone_has_a_subnet_of_its_own() -> None:
    vms = [replace(VM, address=address_of(number)) for number in range(8192)]
    assert len({vm.network for vm in vms}) == 8192
    assert all(vm.gateway != vm.address for vm in vms)
    assert vms[8191].address == "10.83.255.250"


# ---- the servers -------------------------------------------------------------------------------------------------


@contextmanager
def listening(say: object) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = Listener(listener, say)  # type: ignore[arg-type]
    server.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.stop()


def test_requests_arrive_whole() -> None:
    seen: list[tuple[str, Request]] = []

    def say(address: str, request: Request) -> Response:
        seen.append((address, request))
        return Response(202, b"yes", headers={"x-one": "1"})

    with listening(say) as port:
        link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(2):  # one connection for both
            link.request("PUT", "/status?a=b", body=b"x" * 100_000, headers={"X-Ms-Version": "2015-09-01"})
            reply = link.getresponse()
            assert (reply.status, reply.read(), reply.headers["x-one"]) == (202, b"yes", "1")
    address, request = seen[0]
    assert len(seen) == 2
    assert address == "127.0.0.1"
    assert (request.method, request.path, request.query) == ("PUT", "/status", {"a": "b"})
    assert request.headers["x-ms-version"] == "2015-09-01"
    assert len(request.body) == 100_000


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (f"POST / HTTP/1.1\r\nContent-Length: {LARGEST_BODY + 1}\r\n\r\n", b"413"),
        ("POST / HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"400"),
        ("POST / HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"400"),
        ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"400"),
        ("BREW / HTTP/1.1\r\n\r\n", b"501"),
    ],
)
def test_a_strange_request_is_refused(head: str, status: bytes) -> None:
    with listening(lambda _a, _r: Response()) as port, socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(head.encode())
        assert link.recv(1000).split()[1] == status


def test_a_stranger_is_hung_up_on() -> None:
    with listening(lambda _a, _r: None) as port, socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert link.recv(1000) == b""


def test_a_drop_ends_without_a_word() -> None:
    drops = listening(lambda _a, _r: Response(drop=True))
    with drops as port, socket.create_connection(("127.0.0.1", port), 60) as link:
        link.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert link.recv(1000) == b""


def test_the_relay_passes_both_ways_and_ends() -> None:
    far = socket.create_server(("127.0.0.1", 0))
    relay = Relay(0, lambda timeout: socket.create_connection(far.getsockname(), timeout))
    port = relay._listener.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), 60) as near:
        other, _ = far.accept()
        near.sendall(b"question")
        assert other.recv(100) == b"question"
        near.shutdown(socket.SHUT_WR)
        assert other.recv(100) == b""
        other.sendall(b"answer")
        other.close()
        assert near.recv(100) == b"answer"
        assert near.recv(100) == b""
    relay.close()
    far.close()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()


@pytest.mark.parametrize("transport", ["AAAA", "no base64!", "A" * 40_000])
def test_sealed_names_what_is_no_certificate(transport: str) -> None:
    with pytest.raises(GoldsmithError, match="no envelope for this certificate") as caught:
        sealed(make_key_pair("web1"), transport)
    assert caught.value.name == "certificate-unusable"
