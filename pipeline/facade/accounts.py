"""What a client asks before it does anything: tenants, subscriptions, locations, providers, sizes, operations."""

from __future__ import annotations

from typing import Any

from pipeline.facade.errors import ArmError, not_found
from pipeline.facade.home import Client
from pipeline.facade.ids import LOCATION, SUBSCRIPTION
from pipeline.facade.routing import RETRY_AFTER, Answer, Request, Route
from pipeline.facade.session import Session
from pipeline.facade.tasks import Task
from pipeline.instances.sizes import SIZES, Size

#: The resource types of each provider, with the versions of the API that their clients ask for: the first is the
#: newest that a route was tried with.
TYPES = {
    "Microsoft.Compute": (
        "virtualMachines",
        "disks",
        "images",
        "galleries",
        "galleries/images",
        "galleries/images/versions",
    ),
    "Microsoft.Network": ("networkInterfaces", "virtualNetworks", "publicIPAddresses", "networkSecurityGroups"),
    "Microsoft.Resources": ("resourceGroups", "deployments"),
}
VERSIONS = ("2025-04-01", "2024-11-01", "2024-07-01", "2024-03-03", "2024-03-01", "2022-09-01", "2021-04-01")
_SUBSCRIPTION = "/subscriptions/{subscription}"
_OPERATION = f"{_SUBSCRIPTION}/providers/Microsoft.Compute/locations/{{location}}"


def metadata(base: str, client: Client) -> dict[str, Any]:
    """`/metadata/endpoints`: where a client finds what, for `az cloud register`."""
    return {
        "name": "goldsmith",
        "portal": base,
        "authentication": {
            "loginEndpoint": base,
            "audiences": [base],
            "tenant": client.tenant,
            "identityProvider": "AAD",
        },
        "media": base,
        "graphAudience": base,
        "graph": base,
        "gallery": base,
        "resourceManager": f"{base}/",
        "suffixes": {
            "storage": "blob.localhost",
            "keyVaultDns": "vault.localhost",
            "sqlServerHostname": "sql.localhost",
        },
        "batch": base,
    }


def openid_configuration(base: str, tenant: str) -> dict[str, Any]:
    """Where a client gets its tokens (OpenID Connect Discovery 1.0)."""
    place = f"{base}/{tenant}"
    return {
        "issuer": f"{place}/v2.0",
        "token_endpoint": f"{place}/oauth2/v2.0/token",
        "authorization_endpoint": f"{place}/oauth2/v2.0/authorize",
        "device_authorization_endpoint": f"{place}/oauth2/v2.0/devicecode",
        "jwks_uri": f"{place}/discovery/v2.0/keys",
        "response_types_supported": ["code"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
    }


def _subscription(session: Session) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{SUBSCRIPTION}",
        "subscriptionId": SUBSCRIPTION,
        "displayName": "goldsmith",
        "state": "Enabled",
        "tenantId": session.tokens.tenant,
        "subscriptionPolicies": {"spendingLimit": "Off"},
    }


def list_tenants(session: Session, _request: Request) -> Answer:
    tenant = session.tokens.tenant
    return Answer(body={"value": [{"id": f"/tenants/{tenant}", "tenantId": tenant, "displayName": "goldsmith"}]})


def list_subscriptions(session: Session, _request: Request) -> Answer:
    return Answer(body={"value": [_subscription(session)]})


def get_subscription(session: Session, _request: Request) -> Answer:
    return Answer(body=_subscription(session))


def list_locations(_session: Session, _request: Request) -> Answer:
    row = {
        "id": f"/subscriptions/{SUBSCRIPTION}/locations/{LOCATION}",
        "name": LOCATION,
        "displayName": "This host",
        "regionalDisplayName": "This host",
        "type": "Region",
        "metadata": {"regionType": "Physical", "regionCategory": "Recommended", "pairedRegion": []},
    }
    return Answer(body={"value": [row]})


def _provider(name: str) -> dict[str, Any]:
    rows = [{"resourceType": kind, "locations": [LOCATION], "apiVersions": list(VERSIONS)} for kind in TYPES[name]]
    return {
        "id": f"/subscriptions/{SUBSCRIPTION}/providers/{name}",
        "namespace": name,
        "registrationState": "Registered",
        "registrationPolicy": "RegistrationFree",
        "resourceTypes": rows,
    }


def list_providers(_session: Session, _request: Request) -> Answer:
    return Answer(body={"value": [_provider(name) for name in TYPES]})


def get_provider(_session: Session, request: Request) -> Answer:
    name = next((each for each in TYPES if each.lower() == request.parts["provider"].lower()), None)
    if name is None:
        raise ArmError(
            404, "InvalidResourceNamespace", f"goldsmith has no provider {request.parts['provider'][:80]!r}"
        )
    return Answer(body=_provider(name))


# ---- sizes ---------------------------------------------------------------------------------------------------------


def list_skus(_session: Session, _request: Request) -> Answer:
    """The sizes as Azure's resource SKUs, each in the only location."""
    return Answer(body={"value": [_sku(name, size) for name, size in SIZES.items() if name.startswith("Standard_")]})


def _sku(name: str, size: Size) -> dict[str, Any]:
    facts = {
        "vCPUs": str(size.cpus),
        "vCPUsAvailable": str(size.cpus),
        "MemoryGB": f"{size.memory / (1 << 30):g}",
        "MaxResourceVolumeMB": str(size.resource >> 20),
        "HyperVGenerations": "V1,V2",
        "CpuArchitectureType": "x64",
        "MaxDataDiskCount": "64",
        "PremiumIO": "True",
        "AcceleratedNetworkingEnabled": "False",
    }
    return {
        "resourceType": "virtualMachines",
        "name": name,
        "tier": "Standard",
        "size": name.removeprefix("Standard_"),
        "family": "goldsmith",
        "locations": [LOCATION],
        "locationInfo": [{"location": LOCATION, "zones": [], "zoneDetails": []}],
        "capabilities": [{"name": key, "value": value} for key, value in facts.items()],
        "restrictions": [],
    }


def list_sizes(_session: Session, _request: Request) -> Answer:
    rows = [
        {
            "name": name,
            "numberOfCores": size.cpus,
            "memoryInMB": size.memory >> 20,
            "maxDataDiskCount": 64,
            "osDiskSizeInMB": 1047552,
            "resourceDiskSizeInMB": size.resource >> 20,
        }
        for name, size in SIZES.items()
    ]
    return Answer(body={"value": rows})


# ---- long operations -----------------------------------------------------------------------------------------------


def _task(session: Session, request: Request) -> Task:
    task = session.tasks.find(request.parts["operation"])
    if task is None:
        raise not_found(f"the operation {request.parts['operation'][:80]!r}")
    return task


def describe_task(task: Task) -> dict[str, Any]:
    """https://learn.microsoft.com/azure/azure-resource-manager/management/async-operations"""
    body: dict[str, Any] = {"name": task.id, "status": task.status, "startTime": task.started}
    if task.ended is not None:
        body["endTime"] = task.ended
    if task.error is not None:
        body["error"] = dict(task.error)
    if task.output is not None:
        body["properties"] = {"output": task.output}
    return body


def get_operation(session: Session, request: Request) -> Answer:
    task = _task(session, request)
    return Answer(200, describe_task(task), {} if task.is_over else {"Retry-After": RETRY_AFTER})


def get_result(session: Session, request: Request) -> Answer:
    """202 while the operation is in progress, then its result, or its error."""
    task = _task(session, request)
    if not task.is_over:
        place = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Compute/locations/{LOCATION}/operationResults/"
        return Answer(202, None, {"Location": request.link(place + task.id), "Retry-After": RETRY_AFTER})
    if task.error is not None:
        return Answer(409, {"error": dict(task.error)})
    return Answer(200 if task.output is not None else 204, task.output)


ROUTES = (
    Route("GET", "/tenants", "az login", list_tenants),
    Route("GET", "/subscriptions", "az login, az account list", list_subscriptions),
    Route("GET", _SUBSCRIPTION, "az account show", get_subscription),
    Route("GET", f"{_SUBSCRIPTION}/locations", "az account list-locations", list_locations),
    Route("GET", f"{_SUBSCRIPTION}/providers", "az provider list", list_providers),
    Route("GET", f"{_SUBSCRIPTION}/providers/{{provider}}", "az provider show", get_provider),
    Route("POST", f"{_SUBSCRIPTION}/providers/{{provider}}/register", "az provider register", get_provider),
    Route("GET", f"{_SUBSCRIPTION}/providers/Microsoft.Compute/skus", "az vm list-skus", list_skus),
    Route("GET", f"{_OPERATION}/vmSizes", "az vm list-sizes", list_sizes),
    Route("GET", f"{_OPERATION}/operations/{{operation}}", "the state of a long operation", get_operation),
    Route("GET", f"{_OPERATION}/operationResults/{{operation}}", "the result of a long operation", get_result),
)
