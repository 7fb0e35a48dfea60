"""A real server (Azurite) on loopback, and small masters to publish to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.base.store import Store
from pipeline.gallery import Version
from pipeline.publish.credentials import Credential, Source
from pipeline.publish.retries import Retries
from pipeline.publish.targets import Place, Target
from tests.fakes.azurite import KEY, MISSING, find_azurite, open_service, running
from tests.fakes.resource_manager import GROUP, SUBSCRIPTION, FakeResourceManager
from tests.fakes.small_master import SIZE, make_version

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an account on a server of our own."""
    if find_azurite() is None:
        pytest.skip(MISSING)
    with running(tmp_path_factory.mktemp("azurite")) as url:
        yield url


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "account.key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


@pytest.fixture
def service(azurite: str):
    """Azure's own client of that account, to look at the server behind goldsmith's back."""
    return open_service(azurite)


@pytest.fixture
def container(service, tmp_path: Path) -> str:
    """A new container's name."""
    name = f"t{tmp_path.name.lower().replace('_', '-')[-30:].strip('-')}-{next(_NUMBERS)}".replace("--", "-")
    service.create_container(name)
    return name


@pytest.fixture
def target(azurite: str, container: str, key_file: Path) -> Target:
    return Target(url=f"{azurite}/{container}", credential=Credential("key", Source("file", str(key_file))))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store").ensure()


Capture = Callable[..., Version]


@pytest.fixture
def capture(store: Store, tmp_path: Path) -> Capture:
    """Makes a version of image `shop` whose disk has these pieces, by their offsets."""

    def make(
        pieces: dict[int, bytes], *, size: int = SIZE, into: Store = store, golden: bool = True, **more: object
    ) -> Version:
        return make_version(into, tmp_path, pieces, size, golden=golden, **more)

    return make


@pytest.fixture
def azure(azurite: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeResourceManager]:
    """A fake Resource Manager, at which Azure's clients of this process log in. It is not Azure."""
    folder = tmp_path / "azure"
    folder.mkdir()
    fake = FakeResourceManager(azurite, folder)
    for name, value in fake.variables.items():
        monkeypatch.setenv(name, value)
    yield fake
    fake.close()


@pytest.fixture
def place(azure: FakeResourceManager) -> Place:
    return Place(SUBSCRIPTION, GROUP, "westeurope", azure.url)


@pytest.fixture
def quick() -> Retries:
    """Pauses of a test: the fake needs none."""
    return Retries(attempts=4, first=0.02, longest=0.1)
