"""`publish.yaml`: what it declares, and what is wrong with it, by line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.definition.diagnostics import DefinitionError
from pipeline.publish.declared import declared_targets

PLACE = "subscription: 00000000-0000-0000-0000-00000000601d, resource-group: images, location: westeurope"
ACCOUNT = "/subscriptions/s/resourceGroups/images/providers/Microsoft.Storage/storageAccounts/account"
GOOD = f"""\
targets:
  west: {{url: "https://account.blob.core.windows.net/images/", parallel: 8, bandwidth: 50 MiB}}
  lab:
    url: http://127.0.0.1:10000/devstoreaccount1/images
    credential: {{key: "file:/etc/goldsmith/lab.key"}}
  signed:
    url: https://account.blob.core.windows.net/images
    credential: {{connection-string: "env:AZURE_STORAGE_CONNECTION_STRING"}}
  shelf: {{folder: shelf}}
  disks:
    managed-disk: {{{PLACE}, sku: Premium_LRS}}
  shop:
    gallery: {{{PLACE}, name: shop, staging: signed, storage-account: {ACCOUNT}}}
    parallel: 2
"""


def test_what_it_declares(tmp_path: Path) -> None:
    (tmp_path / "publish.yaml").write_text(GOOD)
    found = declared_targets(tmp_path)
    assert found["west"].url == "https://account.blob.core.windows.net/images"
    assert (found["west"].parallel, found["west"].rate) == (8, 50 << 20)
    assert found["west"].credential.kind == "default"
    assert found["lab"].credential.source is not None
    assert found["lab"].credential.source.what == "/etc/goldsmith/lab.key"
    assert found["signed"].credential.kind == "connection-string"
    assert found["shelf"].folder == tmp_path / "shelf"
    assert found["disks"].disks is not None
    assert (found["disks"].disks.sku, found["disks"].disks.place.location) == ("Premium_LRS", "westeurope")
    assert found["disks"].disks.place.endpoint == "https://management.azure.com"
    assert found["shop"].gallery is not None
    assert found["shop"].gallery.staging.url == found["signed"].url
    assert (found["shop"].gallery.staging.parallel, found["shop"].gallery.regions) == (2, ("westeurope",))
    assert declared_targets(tmp_path / "images") == {}
    assert declared_targets(None) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("targets: {west: {}}", "publish.yaml:1:17: targets.west: name exactly one of url, folder"),
        (
            "targets: {west: {url: 'https://a.blob.core.windows.net/images', folder: x}}",
            "exactly one of url, folder",
        ),
        ("targets: {west: {folder: x, folders: y}}", "targets.west.folders"),
        ("targets: {west: {folder: x}, west: {folder: y}}", "west"),
        ("targets: {west: {folder: x, parallel: 99}}", "targets.west.parallel"),
        ("targets: {'a b': {folder: x}}", "is not a name"),
        ("targets: {west: {url: 'http://a.blob.core.windows.net/images'}}", "is not encrypted"),
        ("targets: {west: {url: 'https://a.blob.core.windows.net/images?sig=CANARY'}}", "has a query"),
        ("targets: {w: {url: 'https://a.blob.core.windows.net/images', credential: {key: CANARY}}}", "file:PATH"),
        ("targets: {w: {url: 'https://a.blob.core.windows.net/images', credential: {}}}", "exactly one of key"),
        ("targets: {w: {folder: x, bandwidth: 5}}", "bandwidth"),
        (f"targets: {{g: {{gallery: {{{PLACE}, name: s, staging: w, storage-account: x}}}}}}", "storage-account"),
        (f"targets: {{g: {{gallery: {{{PLACE}, name: ss, staging: w, storage-account: {ACCOUNT}}}}}}}", "with a url"),
        (
            f"targets: {{g: {{gallery: {{{PLACE}, name: ss, staging: w, regions: [x2], storage-account: {ACCOUNT}}}"
            "}}",
            "regions must have the location",
        ),
        (f"targets: {{d: {{managed-disk: {{{PLACE}, sku: Fast}}}}}}", "sku"),
        (f"targets: {{d: {{managed-disk: {{{PLACE}, endpoint: 'http://azure'}}}}}}", "https://"),
        (f"targets: {{d: {{managed-disk: {{{PLACE}}}, credential: {{key: 'env:X'}}}}}}", "only a url takes"),
        ("[]", "publish.yaml:1:1"),
        ("", "is empty"),
    ],
)
def test_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "publish.yaml").write_text(text)
    with pytest.raises(DefinitionError) as caught:
        declared_targets(tmp_path)
    assert message in caught.value.message
    assert "CANARY" not in caught.value.message
