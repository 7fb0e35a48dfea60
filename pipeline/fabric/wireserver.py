"""The WireServer and the HostGAPlugin: Azure's host's answers to a guest's agent, and the agent's reports. Pure.

Written from the agents' side of the protocol (version 2012-11-30), which is public: cloud-init and WALinuxAgent.
The goal state names one extension where the instance has it, else none.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from lxml import etree

from pipeline.base.errors import GoldsmithError
from pipeline.fabric import extension
from pipeline.fabric.certificates import KeyPair, load_key_pair, make_key_pair, sealed
from pipeline.fabric.instance import HTTP_PORT, PLUGIN_PORT, WIRESERVER, Event, Instance, Report, Request, Response
from pipeline.fabric.limits import KEPT_EVENTS, KEPT_WORDS, LARGEST_DOCUMENT

#: Digits that a duration within a day can have: with more it is not a duration.
_MILLISECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)
#: Certificates that were sealed already: an agent asks again with each goal state.
_KEPT_SEALS = 64

PROTOCOL = "2012-11-30"
PLUGIN_PROTOCOL = "2015-09-01"
#: The goal is always the same: run.
INCARNATION = "1"
#: 100 ns ticks since year 1, as Azure stamps a goal state: the start of 2024.
CREATED = "638396640000000000"
#: The header under which the goal state's number stands in each answer.
LATEST = {"x-ms-latest-goal-state-incarnation-number": INCARNATION}

_XSI = "http://www.w3.org/2001/XMLSchema-instance"


def _tree(tag: str, **attributes: str) -> etree._Element:
    return etree.Element(tag, {name.rstrip("_"): value for name, value in attributes.items()})


def _sub(parent: etree._Element, tag: str, text: str | None = None, **attributes: str) -> etree._Element:
    child = etree.SubElement(parent, tag, {name.rstrip("_"): value for name, value in attributes.items()})
    child.text = text
    return child


def _xml(tree: etree._Element) -> Response:
    return Response(200, etree.tostring(tree, encoding="utf-8", xml_declaration=True), headers=LATEST)


def _json(data: object, **headers: str) -> Response:
    kind = "application/json; charset=utf-8"
    return Response(200, json.dumps(data).encode(), kind, {k.replace("_", "-"): v for k, v in headers.items()})


def versions(_instance: Instance, _request: Request) -> Response:
    root = _tree("Versions")
    _sub(_sub(root, "Preferred"), "Version", "2015-04-05")
    supported = _sub(root, "Supported")
    for version in ("2015-04-05", PROTOCOL, "2012-09-15", "2012-05-15", "2011-12-31"):
        _sub(supported, "Version", version)
    return _xml(root)


def goal_state(instance: Instance, _request: Request) -> Response:
    root = etree.Element("GoalState", nsmap={"xsi": _XSI})
    _sub(root, "Version", PROTOCOL)
    _sub(root, "Incarnation", INCARNATION)
    machine = _sub(root, "Machine")
    _sub(machine, "ExpectedState", "Started")
    _sub(machine, "StopRolesDeadlineHint", "300000")
    _sub(_sub(machine, "LBProbePorts"), "Port", "16001")
    _sub(machine, "ExpectHealthReport", "FALSE")
    container = _sub(root, "Container")
    _sub(container, "ContainerId", instance.container_id)
    role = _sub(_sub(container, "RoleInstanceList"), "RoleInstance")
    _sub(role, "InstanceId", instance.role_instance)
    _sub(role, "State", "Started")
    where = _sub(role, "Configuration")
    base = f"http://{WIRESERVER}:{HTTP_PORT}/machine/{instance.container_id}/{instance.role_instance}"
    for tag in ("HostingEnvironmentConfig", "SharedConfig", "ExtensionsConfig", "FullConfig", "Certificates"):
        kind = tag[0].lower() + tag[1:]
        comp = "certificates" if kind == "certificates" else "config"
        _sub(where, tag, f"{base}?comp={comp}&type={kind}&incarnation={INCARNATION}")
    _sub(
        where,
        "ConfigName",
        f"{instance.deployment_id}.0.{instance.deployment_id}.0._{instance.name}.{INCARNATION}.xml",
    )
    return _xml(root)


def hosting_environment(instance: Instance, _request: Request) -> Response:
    root = _tree("HostingEnvironmentConfig", version="1.0.0.0", goalStateIncarnation=INCARNATION)
    _sub(root, "StoredCertificates")
    deployment = _sub(
        root, "Deployment", name=instance.deployment_id, guid=f"{{{instance.derived('deployment')}}}", incarnation="0"
    )
    _sub(deployment, "Service", name="goldsmith", guid=f"{{{instance.derived('service')}}}")
    _sub(
        deployment,
        "ServiceInstance",
        name=f"{instance.deployment_id}.0",
        guid=f"{{{instance.derived('service-instance')}}}",
    )
    _sub(
        root, "Incarnation", number=INCARNATION, instance=instance.name, guid=f"{{{instance.derived('incarnation')}}}"
    )
    _sub(root, "Role", guid=f"{{{instance.derived('role')}}}", name=instance.name, settleTimeSeconds="0")
    settings = _sub(root, "HostingEnvironmentSettings", name="full", Runtime="")
    _sub(_sub(settings, "CAS"), "PermissionSet")
    _sub(root, "ApplicationSettings")
    _sub(root, "ResourceReferences")
    return _xml(root)


def shared_config(instance: Instance, _request: Request) -> Response:
    root = _tree("SharedConfig", version="1.0.0.0", goalStateIncarnation=INCARNATION)
    deployment = _sub(
        root, "Deployment", name=instance.deployment_id, guid=f"{{{instance.derived('deployment')}}}", incarnation="0"
    )
    _sub(deployment, "Service", name="goldsmith", guid=f"{{{instance.derived('service')}}}")
    _sub(
        root, "Incarnation", number=INCARNATION, instance=instance.name, guid=f"{{{instance.derived('incarnation')}}}"
    )
    _sub(root, "Role", guid=f"{{{instance.derived('role')}}}", name=instance.name, settleTimeSeconds="0")
    role_instance = _sub(_sub(root, "Instances"), "Instance", id=instance.role_instance, address=instance.address)
    _sub(role_instance, "FaultDomains", randomId="0", updateId="0", updateCount="0")
    return _xml(root)


def status_blob(instance: Instance) -> str:
    """The address to which the agent sends its status, through the HostGAPlugin."""
    return f"http://{WIRESERVER}:{PLUGIN_PORT}/blob/{instance.deployment_id}.{instance.name}.status"


#: Where the extension's manifest and its package are.
EXTENSION_MANIFEST = f"http://{WIRESERVER}:{HTTP_PORT}{extension.MANIFEST_PATH}"
EXTENSION_PACKAGE = f"http://{WIRESERVER}:{HTTP_PORT}{extension.PACKAGE_PATH}"
#: What a goal state says of each extension besides its place. No newer version is looked for.
_EXTENSION_FLAGS = {"autoUpgrade": False, "runAsStartupTask": False, "isJson": True, "useExactVersion": True}


def _attribute(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _extension_goal_states(instance: Instance) -> list[dict[str, object]]:
    """The extension as vmSettings name it, with the values of extensionsConfig, because agents compare them."""
    offered = instance.extension
    if offered is None:
        return []
    settings = {
        "publicSettings": json.dumps(offered.public_settings),
        "protectedSettings": offered.protected,
        "protectedSettingsCertThumbprint": offered.pair.thumbprint,
    }
    return [
        {
            "name": extension.NAME,
            "version": extension.VERSION,
            "location": EXTENSION_MANIFEST,
            "state": "enabled",
            **_EXTENSION_FLAGS,
            "settingsSeqNo": 0,
            "settings": [settings],
        }
    ]


def artifact(instance: Instance, request: Request) -> Response:
    """A file of the extension, requested directly or through the HostGAPlugin, which gets the address in a header."""
    location = urlsplit(request.headers.get("x-ms-artifact-location", ""))
    path = location.path if request.port == PLUGIN_PORT else request.path
    if instance.extension is not None and path == extension.MANIFEST_PATH:
        return Response(200, extension.manifest(EXTENSION_PACKAGE))
    if instance.extension is not None and path == extension.PACKAGE_PATH:
        return Response(200, extension.package(), "application/zip")
    return Response(404, b"", "text/plain")


def extensions_config(instance: Instance, _request: Request) -> Response:
    root = _tree("Extensions", version="1.0.0.0", goalStateIncarnation=INCARNATION)
    agent = etree.SubElement(root, "GuestAgentExtension", nsmap={"i": _XSI})
    _sub(agent, "GAFamilies")
    plugins, settings = _sub(root, "Plugins"), _sub(root, "PluginSettings")
    if instance.extension is not None:
        known = {"name": extension.NAME, "version": extension.VERSION}
        plugin = {"location": EXTENSION_MANIFEST, "state": "enabled", **_EXTENSION_FLAGS}
        _sub(plugins, "Plugin", **known, **{name: _attribute(value) for name, value in plugin.items()})
        _sub(_sub(settings, "Plugin", **known), "RuntimeSettings", instance.extension.runtime_settings, seqNo="0")
    _sub(root, "StatusUploadBlob", status_blob(instance), statusBlobType="BlockBlob")
    _sub(
        root,
        "InVMGoalStateMetaData",
        inSvdSeqNo="1",
        createdOnTicks=CREATED,
        activityId=instance.derived("activity"),
        correlationId=instance.derived("correlation"),
    )
    return _xml(root)


def _key_pair_of(instance: Instance) -> KeyPair:
    """The VM's certificate: of its extension, its user's, or a new one."""
    if instance.extension is not None:
        return instance.extension.pair
    return load_key_pair(instance.certificate) if instance.certificate else make_key_pair(instance.name)


class _Seals:
    """Sealed certificates: only one is made for a guest at a time, and finished ones are reused.

    A guest may send any number of requests with new certificates, and each answer costs a new key.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._busy: set[str] = set()
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    def get(self, instance: Instance, transport: str) -> bytes:
        """Raises GoldsmithError as `sealed` does, or where another one of this guest's is being made."""
        key = (instance.vm_id, hashlib.sha256(transport.encode() + b"\0" + instance.certificate).hexdigest())
        with self._lock:
            if key in self._kept:
                return self._kept[key]
            if instance.vm_id in self._busy:
                raise GoldsmithError("another certificate for this machine is being created", name="fabric-busy")
            self._busy.add(instance.vm_id)
        try:
            made = sealed(_key_pair_of(instance), transport)
        finally:
            with self._lock:
                self._busy.discard(instance.vm_id)
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT_SEALS:
                self._kept.popitem(last=False)
        return made


_SEALS = _Seals()


def certificates(instance: Instance, request: Request) -> Response:
    """The VM's certificates, sealed for the agent's certificate, which is in a header of the request."""
    asked_with = request.headers.get("x-ms-guest-agent-public-x509-cert", "")
    root = etree.Element("CertificateFile", nsmap={"xsi": _XSI})
    _sub(root, "Version", PROTOCOL)
    _sub(root, "Incarnation", INCARNATION)
    _sub(root, "Format", "Pkcs7BlobWithPfxContents")
    try:
        _sub(root, "Data", base64.encodebytes(_SEALS.get(instance, asked_with)).decode())
    except GoldsmithError as error:
        return Response(400, f"the agent's certificate cannot be used: {error.message}".encode(), "text/plain")
    return _xml(root)


def vm_settings(instance: Instance, request: Request) -> Response:
    """The goal state in the HostGAPlugin's form."""
    etag = instance.derived("vm-settings")
    if request.headers.get("if-none-match") == etag:
        return Response(304)
    return _json(
        {
            "hostGAPluginVersion": "1.0.8.133",
            "vmSettingsSchemaVersion": "0.0",
            "activityId": instance.derived("activity"),
            "correlationId": instance.derived("correlation"),
            "inSvdSeqNo": 1,
            "extensionsLastModifiedTickCount": int(CREATED),
            "extensionGoalStatesSource": "Fabric",
            "onHold": False,
            "statusUploadBlob": {"statusBlobType": "BlockBlob", "value": status_blob(instance)},
            "inVMMetadata": {
                "subscriptionId": instance.derived("subscription"),
                "resourceGroupName": "goldsmith",
                "vmName": instance.name,
                "vmId": instance.vm_id,
                "location": "local",
            },
            "gaFamilies": [],
            "extensionGoalStates": _extension_goal_states(instance),
        },
        ETag=etag,
    )


def _empty(status: int) -> Callable[[Instance, Request], Response]:
    return lambda _instance, _request: Response(status, headers=LATEST)


_WIRE: dict[tuple[str, str], Callable[[Instance, Request], Response]] = {
    ("GET", "versions"): versions,
    ("GET", "goalstate"): goal_state,
    ("GET", "hostingenvironmentconfig"): hosting_environment,
    ("GET", "sharedconfig"): shared_config,
    ("GET", "extensionsconfig"): extensions_config,
    ("GET", "certificates"): certificates,
    ("POST", "health"): _empty(200),
    ("POST", "telemetrydata"): _empty(200),
    # WALinuxAgent accepts only this as success
    ("POST", "roleproperties"): _empty(202),
}

_PLUGIN: dict[tuple[str, str], Callable[[Instance, Request], Response]] = {
    ("GET", "/versions"): lambda _i, _r: _json([PLUGIN_PROTOCOL]),
    ("GET", "/health"): _empty(200),
    ("GET", "/vmsettings"): vm_settings,
    ("GET", "/extensionartifact"): artifact,
    ("PUT", "/status"): _empty(200),
    ("PUT", "/vmagentlog"): _empty(200),
}


def answer(instance: Instance, request: Request) -> Response | None:
    """The answer of the WireServer (port 80) or the HostGAPlugin (port 32526); None for an unknown address."""
    if request.port == PLUGIN_PORT:
        handler = _PLUGIN.get((request.method, request.path))
    elif (request.method, request.path) == ("POST", "/healthservice"):
        handler = _empty(200)
    elif request.method in ("GET", "HEAD") and request.path in (extension.MANIFEST_PATH, extension.PACKAGE_PATH):
        handler = artifact
    else:
        query = request.query
        what = query.get("comp", "").lower()
        handler = _WIRE.get((request.method, query.get("type", "").lower() if what == "config" else what))
    return handler(instance, request) if handler else None


def is_status(request: Request) -> bool:
    """Whether a request is an agent's status, which it sends after it has taken a goal state."""
    return (request.method, request.port, request.path) == ("PUT", PLUGIN_PORT, "/status")


def is_certificates(request: Request) -> bool:
    """Whether a request asks for the VM's certificates."""
    return request.method == "GET" and request.query.get("comp", "").lower() == "certificates"


def handler_statuses(request: Request) -> list[extension.HandlerStatus]:
    """An agent's report about its extensions, if this request is a status that can be read."""
    if not is_status(request):
        return []
    return extension.read_statuses(request.body)


def events(request: Request) -> list[Event]:
    """The telemetry events in a request, as far as they can be read."""
    if request.method != "POST" or request.query.get("comp", "").lower() != "telemetrydata":
        return []
    found: list[Event] = []
    for node in itertools.islice(_nodes(request.body, ".//Event"), KEPT_EVENTS):
        values = {
            parameter.get("Name", ""): parameter.get("Value", "")
            for parameter in _nodes(f"<e>{node.text or ''}</e>", "Param")
        }
        duration = values.get("Duration", "0")
        found.append(
            Event(
                values.get("Name", "")[:KEPT_WORDS],
                values.get("Operation", "")[:KEPT_WORDS],
                values.get("OperationSuccess", "").lower() == "true",
                values.get("Message", "")[:KEPT_WORDS],
                int(duration) / 1000 if _MILLISECONDS.fullmatch(duration) else 0.0,
            )
        )
    return found


def _nodes(document: bytes | str, path: str) -> Iterator[etree._Element]:
    """The elements at a path of a guest's document; empty if it is not XML or is too large."""
    if len(document) <= LARGEST_DOCUMENT:
        with contextlib.suppress(etree.XMLSyntaxError, ValueError):
            parser = etree.XMLParser(resolve_entities=False, no_network=True)
            yield from etree.fromstring(document, parser).iterfind(path)


def health_report(request: Request) -> Report | None:
    """A guest's health report, if this request is one that can be read."""
    if request.method != "POST" or request.query.get("comp", "").lower() != "health":
        return None
    health = next(_nodes(request.body, ".//Health"), None)
    tree = health.getroottree() if health is not None else None
    state = tree.findtext(".//Health/State") if tree is not None else None
    if tree is None or state is None:
        return None
    details = ".//Health/Details/"
    return Report(
        state.strip()[:KEPT_WORDS],
        (tree.findtext(f"{details}SubStatus") or "").strip()[:KEPT_WORDS],
        (tree.findtext(f"{details}Description") or "").strip()[:KEPT_WORDS],
    )
