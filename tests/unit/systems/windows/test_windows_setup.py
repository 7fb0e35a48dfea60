"""What Windows Setup is given: product keys, passwords, languages; and output that is not UTF-8."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.base import process
from pipeline.base.errors import UsageError
from pipeline.definition import DefinitionError, load
from pipeline.disk.media import Edition, Installation
from pipeline.hypervisor.agent import Agent, Executed
from pipeline.systems.windows import preflight as before
from pipeline.systems.windows import shell
from pipeline.systems.windows.answers import Machine, Wishes, draw_password, installation
from pipeline.systems.windows.preflight import preflight
from pipeline.systems.windows.product_keys import KMS, key_digest, product_key
from pipeline.systems.windows.session import WindowsSession
from pipeline.systems.windows.sysprep import by_log

#: Not a key of anything.
KEY = "AAAAA-BBBBB-CCCCC-DDDDD-11111"


def edition(
    name: str = "ServerStandard", build: int = 20348, *, kind: str = "Server", language: str = "en-US"
) -> Edition:
    return Edition(2, f"Windows {name}", name, kind, "amd64", build, (language,), 1)


@pytest.mark.parametrize("key", [None, KEY])
def test_setup_is_always_told_of_the_key_page(key: str | None) -> None:
    text = installation(Wishes(1, "2k22", "x", product_key=key), Machine()).decode()
    assert "<WillShowUI>OnError</WillShowUI>" in text[text.index("<ProductKey>") : text.index("</ProductKey>")]
    assert (KEY in text) is (key is not None)


def test_the_public_key_is_that_of_the_edition_and_its_release() -> None:
    keys = {product_key(KMS, edition(build=build)) for build in (14393, 17763, 20348, 26100)}
    assert len(keys) == 4 and None not in keys
    assert product_key(KMS, edition("serverstandard", 20350)) == product_key(KMS, edition())
    with pytest.raises(UsageError) as caught:
        product_key(KMS, edition("ServerStandardEval"))
    assert caught.value.name == "kms-key-unknown" and "evaluation media need none" in str(caught.value.hint)


def test_the_users_key_is_a_secret_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key.txt"
    with pytest.raises(UsageError) as caught:
        product_key(file, edition())
    assert caught.value.name == "product-key-missing"
    file.write_text("aaaaa-bbbbb")
    with pytest.raises(UsageError) as caught:
        product_key(file, edition())
    assert caught.value.name == "product-key-form" and "bbbbb" not in caught.value.message
    file.write_text(f"\ufeff{KEY.lower()}\r\n")
    assert product_key(file, edition()) == KEY
    digest = key_digest(file)
    assert digest is not None and KEY not in digest
    assert (key_digest(KMS), key_digest(None)) == (KMS, None)


def test_a_key_in_a_definition_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("w.iso", "v.iso"):
        (tmp_path / name).write_bytes(b"x")
    path = tmp_path / "images/x.yaml"
    text = (
        "goldsmith: 1\nos: windows\nsource:\n"
        f"  iso: {{path: w.iso, sha256: '{'0' * 64}'}}\n  drivers: {{path: v.iso, sha256: '{'0' * 64}'}}\n"
        "  edition: '1'\n  product_key: %s\n"
    )
    path.write_text(text % KEY)
    with pytest.raises(DefinitionError) as caught:
        load(path, tmp_path)
    assert "7:16: source.product_key: is a product key, but" in caught.value.message
    for value, expected in ((KMS, KMS), ("keys/mine.txt", (tmp_path / "keys/mine.txt").resolve())):
        path.write_text(text % value)
        assert getattr(load(path, tmp_path).source, "product_key") == expected  # noqa: B009  of an IsoSource


def test_every_password_has_three_kinds_of_characters() -> None:
    for _ in range(2000):
        password = draw_password()
        assert len(password) == 24
        assert all(any(map(kind, password)) for kind in (str.islower, str.isupper, str.isdigit))


def test_a_language_that_the_medium_has_not_is_known_before_anything_boots(monkeypatch: pytest.MonkeyPatch) -> None:
    medium = Installation(Path("w.iso"), "W", (edition(language="de-DE"),), True, True)
    monkeypatch.setattr(before.media, "installation", lambda _path: medium)
    with pytest.raises(UsageError) as caught:
        preflight(Path("w.iso"), "2", 2, None, "en-US")
    assert caught.value.name == "edition-language" and "write locale: de-DE" in str(caught.value.hint)
    assert preflight(Path("w.iso"), "2", 2, None, "de-de").languages == ("de-DE",)


def test_a_reserve_that_is_in_use_is_named_without_a_code() -> None:
    named = by_log("Error SYSPRP Sysprep_Clean_Validate_ReserveManager: active scenario is 3", "sysprep would fail")
    assert named is not None and named.name == "sysprep-reserved-storage"


@pytest.mark.parametrize(
    ("output", "page", "text"),
    [
        ("größer".encode(), "cp850", "größer"),
        ("größer".encode("cp850"), "cp850", "größer"),
        ("больше".encode("cp866"), "cp866", "больше"),
        ("größer\r\n".encode() + "größer\r\n".encode("cp850"), "cp850", "größer\r\ngrößer\r\n"),
        ("エラー\n".encode("cp932"), "cp932", "エラー\n"),
        (b"\xff\xfe\x81", "utf-8", "\ufffd\ufffd\ufffd"),
    ],
)
def test_output_is_read_by_the_guests_code_page(tmp_path: Path, output: bytes, page: str, text: str) -> None:
    nobody: Any = None
    assert Agent(nobody, tmp_path / "log", lambda: page)._decode(output) == text


@pytest.mark.parametrize(
    ("answer", "page"),
    [("    OEMCP    REG_SZ    850\r\n", "cp850"), ("    OEMCP    REG_SZ    99999\r\n", "cp437"), ("", "cp437")],
)
def test_the_code_page_is_asked_of_the_registry_once(answer: str, page: str) -> None:
    asked: list[object] = []

    def execute(argv: object, *, deadline: float) -> Executed:
        asked.append(argv)
        return Executed(0, answer, "")

    session = SimpleNamespace(
        _code_page=None, agent=SimpleNamespace(execute=execute), deadlines=SimpleNamespace(command=1.0)
    )
    assert [WindowsSession._oem_code_page(session) for _ in range(2)] == [page, page]  # type: ignore[arg-type]
    assert len(asked) == 1


def test_a_line_that_is_cut_in_a_character_is_passed_on_when_it_is_whole(tmp_path: Path) -> None:
    """Output is typed again and again while it is written: a look may come between two bytes of a character."""
    nobody: Any = None
    agent, lines = Agent(nobody, tmp_path / "log", lambda: "cp850"), list[str]()
    message = shell._Output(process.LineCutter(lines.append))
    whole = "eins\ngrößer\nzwei".encode()
    for end in range(len(whole) + 1):
        message.take(agent._decode(whole[:end]), ended=False)
    message.take(agent._decode(whole), ended=True)
    message.cut.end()
    assert (lines, message.text) == (["eins", "größer", "zwei"], "eins\ngrößer\nzwei")
