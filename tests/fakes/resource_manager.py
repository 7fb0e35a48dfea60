"""A fake of Azure's Resource Manager on loopback, with disks and galleries. IT IS NOT AZURE.

It was written from Microsoft's public documents (REST references of Disks, Galleries, Gallery Images and Image
Versions; "Upload a VHD to a managed disk"; "Azure Resource Manager asynchronous operations"), apart from goldsmith's
code: it knows nothing of it. It refuses what these documents refuse. What only Azure does (real replication, boots of
an image, rights, quotas) is not here.

A managed disk's bytes are a page blob of a real storage emulator; a gallery version reads its blob there when it
replicates, so that a blob that went too early makes it fail.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import ipaddress
import json
import re
import ssl
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobSasPermissions, BlobServiceClient, generate_blob_sas

from tests.fakes.azurite import ACCOUNT, KEY, open_service

SUBSCRIPTION, TENANT = "00000000-0000-0000-0000-00000000601d", "00000000-0000-0000-0000-000000007e4a"
GROUP, STORAGE = "images", "managed"
_RESOURCE = re.compile(
    rf"/subscriptions/{SUBSCRIPTION}/resourcegroups/(?P<group>[\w.()-]+)/providers/microsoft\.compute/(?P<rest>.+)"
)
_VERSION = re.compile(r"\d{1,10}\.\d{1,10}\.\d{1,10}")
#: Looks at a resource until an operation has ended.
STEPS = 2


class Refused(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass
class FakeResourceManager:
    """`storage` is the URL of the emulator's account. `log` has each request; `fail` states to end a version in."""

    storage: str
    folder: Path
    resources: dict[str, dict[str, Any]] = field(default_factory=dict)
    operations: dict[str, dict[str, Any]] = field(default_factory=dict)
    log: list[tuple[str, str]] = field(default_factory=list)
    #: What each version was made of: the digest of the blob, when it had been replicated.
    replicated: dict[str, str] = field(default_factory=dict)
    #: Answers to come before the real ones: (method, part of the path, status), each once.
    faults: list[tuple[str, str, int]] = field(default_factory=list)
    fail: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.service: BlobServiceClient = open_service(self.storage)
        if STORAGE not in [each.name for each in self.service.list_containers()]:
            self.service.create_container(STORAGE)
        self.certificate = _write_certificate(self.folder)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"https://localhost:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """What makes Azure's own clients log in here."""
        return {
            "AZURE_TENANT_ID": TENANT,
            "AZURE_CLIENT_ID": "goldsmith",
            "AZURE_CLIENT_SECRET": "canary-client-secret",
            "AZURE_AUTHORITY_HOST": self.url,
            "REQUESTS_CA_BUNDLE": str(self.certificate),
        }

    def add_gallery(self, name: str) -> None:
        self.put(f"galleries/{name}", {"location": "westeurope", "properties": {}})

    # ---- requests ------------------------------------------------------------------------------------------------

    def answer(
        self, method: str, path: str, query: dict[str, list[str]], body: Any
    ) -> tuple[int, Any, dict[str, str]]:
        for fault in self.faults:
            if fault[0] == method and fault[1] in path:
                self.faults.remove(fault)
                return fault[2], {"error": {"code": "Fault", "message": "asked for by a test"}}, {"Retry-After": "0"}
        if path.startswith("/operations/"):
            return self._operation(path)
        found = _RESOURCE.fullmatch(path)
        if found is None:
            raise Refused(404, "InvalidResourceType", path)
        if found["group"] != GROUP:
            raise Refused(404, "ResourceGroupNotFound", found["group"])
        if not re.fullmatch(r"20\d\d-\d\d-\d\d", query.get("api-version", [""])[0]):
            raise Refused(400, "MissingApiVersionParameter", "api-version")
        rest = found["rest"]
        if method == "GET":
            return self._get(rest, query)
        if method == "PUT":
            status = 202 if rest.startswith("disks/") else 200 if rest in self.resources else 201
            return status, self.put(rest, body), {}
        if method == "PATCH":
            return 200, self._patch(rest, body), {}
        if method == "DELETE":
            return self._delete(rest)
        if method == "POST" and rest.endswith(("/begingetaccess", "/endgetaccess")):
            return self._access(rest, body)
        raise Refused(405, "MethodNotAllowed", method)

    def _get(self, rest: str, query: dict[str, list[str]]) -> tuple[int, Any, dict[str, str]]:
        if rest in self.resources:
            return 200, self._look(rest, "replicationstatus" in query.get("$expand", [""])[0].lower()), {}
        parts = rest.split("/")
        if parts[-1] in ("disks", "galleries", "images", "versions"):
            if len(parts) > 1 and "/".join(parts[:-1]) not in self.resources:
                raise Refused(404, "ResourceNotFound", rest)
            names = [key for key in self.resources if key.startswith(f"{rest}/") and key.count("/") == len(parts)]
            return 200, {"value": [self._look(name, False) for name in names]}, {}
        raise Refused(404, "ResourceNotFound", rest)

    def _look(self, rest: str, with_replication: bool) -> dict[str, Any]:
        """A resource; each look brings what is under way one step on."""
        found = self.resources[rest]
        properties = found["properties"]
        if properties["provisioningState"] in ("Creating", "Updating"):
            found["steps"] = found.get("steps", 0) + 1
            if found["steps"] >= STEPS:
                properties["provisioningState"] = "Failed" if rest in self.fail else "Succeeded"
        elif found.get("replication", "Completed") != "Completed" and with_replication:
            found["steps"] += 1
            if found["steps"] >= 2 * STEPS:
                found["replication"] = self._replicate(rest)
        shown = json.loads(
            json.dumps({k: v for k, v in found.items() if k not in ("steps", "replication", "secret")})
        )
        if with_replication and "replication" in found:
            regions = properties["publishingProfile"]["targetRegions"]
            summary = [{"region": each["name"], "state": found["replication"]} for each in regions]
            shown["properties"]["replicationStatus"] = {"aggregatedState": found["replication"], "summary": summary}
        return shown

    def _replicate(self, rest: str) -> str:
        images = self.resources[rest]["properties"]["storageProfile"]
        sources = [images["osDiskImage"], *images.get("dataDiskImages", [])]
        digest = hashlib.sha256()
        try:
            for each in sources:
                digest.update(self._blob(each["source"]["uri"]))
        except ResourceNotFoundError:
            return "Failed"
        self.replicated[rest] = digest.hexdigest()
        return "Completed"

    def _blob(self, uri: str) -> bytes:
        container, _, name = uri.removeprefix(f"{self.storage}/").partition("/")
        return self.service.get_blob_client(container, name).download_blob().readall()

    def put(self, rest: str, body: dict[str, Any]) -> dict[str, Any]:
        parts = rest.split("/")
        if not body.get("location"):
            raise Refused(400, "LocationRequired", "location")
        checks = {
            ("disks",): self._check_disk,
            ("galleries",): lambda _rest, _body: None,
            ("galleries", "images"): self._check_definition,
            ("galleries", "images", "versions"): self._check_version,
        }
        kind = tuple(parts[::2])
        if kind not in checks or len(parts) % 2:
            raise Refused(400, "InvalidResourceType", rest)
        if len(parts) > 2 and "/".join(parts[:-2]) not in self.resources:
            raise Refused(404, "ParentResourceNotFound", rest)
        checks[kind](rest, body)
        path = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.Compute/{rest}"
        made = {**body, "id": path, "name": parts[-1], "type": "Microsoft.Compute/" + "/".join(kind)}
        made["properties"] = {**body.get("properties", {}), "provisioningState": "Creating"}
        if kind == ("disks",):
            self._make_disk(made)
        if kind[-1] == "versions":
            made["replication"] = "InProgress"
            made["properties"]["publishingProfile"].setdefault("publishedDate", "2026-11-26T12:00:00Z")
        if len(kind) == 1 and kind[0] == "galleries":
            made["properties"]["provisioningState"] = "Succeeded"
        self.resources[rest] = made
        return {k: v for k, v in made.items() if k not in ("replication", "secret")}

    def _patch(self, rest: str, body: dict[str, Any]) -> dict[str, Any]:
        if rest not in self.resources:
            raise Refused(404, "ResourceNotFound", rest)
        found = self.resources[rest]
        if "tags" in body:
            found["tags"] = body["tags"]
        if "versions/" in rest and "storageProfile" in body.get("properties", {}):
            raise Refused(400, "PropertyChangeNotAllowed", "storageProfile")
        found["properties"].update(body.get("properties", {}), provisioningState="Updating")
        found["steps"] = 0
        return found

    def _delete(self, rest: str) -> tuple[int, Any, dict[str, str]]:
        if rest not in self.resources:
            return 204, None, {}
        if any(key.startswith(f"{rest}/") for key in self.resources):
            raise Refused(409, "CannotDeleteResource", "delete the nested resources first")
        if self.resources[rest]["properties"].get("diskState") == "ActiveUpload":
            raise Refused(409, "OperationNotAllowed", "the disk has an active SAS")
        del self.resources[rest]
        return 202, None, self._begin({"status": "Succeeded"})

    # ---- disks ---------------------------------------------------------------------------------------------------

    def _check_disk(self, rest: str, body: dict[str, Any]) -> None:
        creation = body.get("properties", {}).get("creationData", {})
        if creation.get("createOption") != "Upload":
            raise Refused(400, "InvalidParameter", "createOption")
        size = creation.get("uploadSizeBytes", 0)
        if size < 20972032 or (size - 512) % (1 << 20):
            raise Refused(
                400, "InvalidParameter", "uploadSizeBytes is the disk's size in MiB, and 512 for the footer"
            )
        if rest in self.resources and self.resources[rest]["properties"]["creationData"] != creation:
            raise Refused(409, "PropertyChangeNotAllowed", "creationData")
        if not re.fullmatch(r"disks/[a-z0-9_.-]{1,80}", rest, re.I):
            raise Refused(400, "InvalidParameter", "disk name")
        if any(len(str(value)) > 256 for value in body.get("tags", {}).values()):
            raise Refused(400, "InvalidTagValueLength", "tags")

    def _make_disk(self, made: dict[str, Any]) -> None:
        size = made["properties"]["creationData"]["uploadSizeBytes"]
        created = datetime.datetime.now(datetime.UTC).isoformat()
        made["properties"].update(diskState="ReadyToUpload", diskSizeBytes=size - 512, timeCreated=created)
        made["secret"] = made["name"]
        self.service.get_blob_client(STORAGE, made["name"]).create_page_blob(size)

    def _access(self, rest: str, body: Any) -> tuple[int, Any, dict[str, str]]:
        name, _, verb = rest.rpartition("/")
        if name not in self.resources:
            raise Refused(404, "ResourceNotFound", name)
        disk = self.resources[name]
        properties = disk["properties"]
        if verb == "endgetaccess":
            properties["diskState"] = "Unattached"
            return 202, None, self._begin({"status": "Succeeded"})
        wanted = {"Write": ("ReadyToUpload", "ActiveUpload"), "Read": ("Unattached", "ActiveSAS")}
        before, after = wanted.get(body.get("access"), ("", ""))
        if properties["diskState"] != before or properties["provisioningState"] != "Succeeded":
            raise Refused(409, "OperationNotAllowed", f"the disk is {properties['diskState']}")
        if not 0 < int(body.get("durationInSeconds", 0)) <= 4294967295:
            raise Refused(400, "InvalidParameter", "durationInSeconds")
        properties["diskState"] = after
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=body["durationInSeconds"])
        may = BlobSasPermissions(read=True, write=body["access"] == "Write")
        sas = generate_blob_sas(ACCOUNT, STORAGE, disk["secret"], account_key=KEY, permission=may, expiry=until)
        url = f"{self.storage}/{STORAGE}/{disk['secret']}?{sas}"
        return 202, None, self._begin({"status": "Succeeded", "result": {"accessSAS": url}})

    # ---- galleries -----------------------------------------------------------------------------------------------

    def _check_definition(self, rest: str, body: dict[str, Any]) -> None:
        properties = body.get("properties", {})
        for key in ("osType", "osState", "identifier"):
            if not properties.get(key):
                raise Refused(400, "InvalidParameter", key)
        if set(properties["identifier"]) != {"publisher", "offer", "sku"}:
            raise Refused(400, "InvalidParameter", "identifier")
        features = {each["name"]: each["value"] for each in properties.get("features", [])}
        generation = properties.get("hyperVGeneration", "V1")
        if generation not in ("V1", "V2") or (generation == "V1" and "SecurityType" in features):
            raise Refused(400, "InvalidParameter", "SecurityType needs hyperVGeneration V2")
        gallery = rest.split("/images/")[0]
        for key, other in self.resources.items():
            same = other["properties"].get("identifier") == properties["identifier"]
            if key != rest and key.startswith(f"{gallery}/images/") and "/versions/" not in key and same:
                raise Refused(409, "Conflict", "the identifier is that of another definition")

    def _check_version(self, rest: str, body: dict[str, Any]) -> None:
        number = rest.split("/")[-1]
        if not _VERSION.fullmatch(number) or any(int(part) > 2147483647 for part in number.split(".")):
            raise Refused(400, "InvalidParameter", "galleryImageVersionName")
        profile = body.get("properties", {}).get("publishingProfile", {})
        regions = [each["name"] for each in profile.get("targetRegions", [])]
        if body["location"] not in regions:
            raise Refused(400, "InvalidParameter", "the source region must be one of targetRegions")
        if "endOfLifeDate" in profile:
            datetime.datetime.fromisoformat(profile["endOfLifeDate"])
        source = body["properties"].get("storageProfile", {}).get("osDiskImage", {}).get("source", {})
        if set(source) != {"storageAccountId", "uri"}:
            raise Refused(400, "InvalidParameter", "osDiskImage.source")
        try:
            data = self._blob(source["uri"])
        except ResourceNotFoundError:
            raise Refused(400, "InvalidParameter", "the blob does not exist") from None
        if not data[-512:].startswith(b"conectix"):
            raise Refused(400, "InvalidParameter", "the blob is no fixed VHD")

    # ---- long operations -----------------------------------------------------------------------------------------

    def _begin(self, outcome: dict[str, Any]) -> dict[str, str]:
        number = str(len(self.operations) + 1)
        self.operations[number] = {"looks": 0, "outcome": outcome}
        place = f"{self.url}/operations/{number}"
        return {"Azure-AsyncOperation": f"{place}?api-version=2024-01-01", "Location": f"{place}/result"}

    def _operation(self, path: str) -> tuple[int, Any, dict[str, str]]:
        parts = path.split("/")
        operation = self.operations[parts[2]]
        if parts[-1] == "result":
            return 200, operation["outcome"].get("result"), {}
        operation["looks"] += 1
        if operation["looks"] < STEPS:
            return 200, {"status": "InProgress"}, {"Retry-After": "0"}
        return 200, {"status": operation["outcome"]["status"], "properties": {}}, {}


def _token(url: str) -> dict[str, Any]:
    def part(data: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()

    claims = {"aud": url, "iss": f"{url}/{TENANT}/", "tid": TENANT, "oid": "o", "sub": "s", "exp": 4102444800}
    token = f"{part({'alg': 'RS256', 'typ': 'JWT'})}.{part(claims)}.c2ln"
    return {"token_type": "Bearer", "expires_in": 86399, "ext_expires_in": 86399, "access_token": token}


def _handler(fake: FakeResourceManager) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 60

        def log_message(self, *_: object) -> None:
            """Quiet."""

        def serve(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts = urlsplit(self.path)
            path = parts.path.rstrip("/")
            with fake.lock:
                fake.log.append((self.command, path))
                self.send(*self.reply(path, parse_qs(parts.query), raw))

        def reply(self, path: str, query: dict[str, list[str]], raw: bytes) -> tuple[int, Any, dict[str, str]]:
            if path.endswith("/.well-known/openid-configuration"):
                base = f"{fake.url}/{TENANT}"
                names = {"token_endpoint": "token", "authorization_endpoint": "authorize"}
                places = {name: f"{base}/oauth2/v2.0/{end}" for name, end in names.items()}
                return 200, {**places, "issuer": f"{base}/v2.0", "device_authorization_endpoint": base}, {}
            if path.endswith("/oauth2/v2.0/token"):
                return 200, _token(fake.url), {}
            if not self.headers.get("Authorization", "").startswith("Bearer "):
                return 401, {"error": {"code": "AuthenticationFailed", "message": "no token"}}, {}
            try:
                return fake.answer(self.command, path.lower(), query, json.loads(raw) if raw else None)
            except Refused as error:
                return error.status, {"error": {"code": error.code, "message": str(error)}}, {}

        def send(self, status: int, body: Any, headers: dict[str, str]) -> None:
            data = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_PUT = do_PATCH = do_DELETE = do_POST = serve

    return Handler


def _write_certificate(folder: Path) -> Path:
    """A certificate of localhost with its key, that signs itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC))
        .not_valid_after(datetime.datetime(2050, 1, 1, tzinfo=datetime.UTC))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = folder / "localhost.pem"
    path.write_bytes(made.public_bytes(pem) + key.private_bytes(pem, private, serialization.NoEncryption()))
    return path
