"""A definition's text ships in manifest and provenance: credentials in it are faults, with their line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import NoEncryption

from pipeline.definition import DefinitionError, load
from tests.fakes.secret_forms import EC, PEM, PKCS8, word

GOOD = "summary: a web server\nsource:\n  debian: bookworm\nsteps:\n  - title: x\n    script: |\n"
SECRETS = {
    "a token": ("curl -H 'X: %s' https://example.org", "ghp_" + word(36)),
    "a password in an address": ("git clone https://bot:%s@example.org/a.git", word(14)),
    "a variable": ("export DB_PASSWORD=%s", word(14)),
    "a command": ("sshpass -p %s ssh host", word(14)),
}


def faults(folder: Path, text: str) -> list[tuple[int, str, str]]:
    (folder / "images").mkdir(exist_ok=True)
    path = folder / "images/web.yaml"
    path.write_text(text)
    try:
        load(path, folder)
    except DefinitionError as error:
        return [
            (fault.line, fault.message, fault.hint)
            for fault in error.faults
            if "ships with its masters" in fault.message
        ]
    return []


@pytest.mark.parametrize("name", SECRETS)
def test_a_credential_is_a_fault_with_its_line(tmp_path: Path, name: str) -> None:
    line, secret = SECRETS[name]
    found = faults(tmp_path, f"{GOOD}      echo begin\n      {line % secret}\n")
    assert [number for number, _, _ in found] == [8], found
    assert secret not in str(found) and all(hint for _, _, hint in found)


def test_a_private_key_is_a_fault(tmp_path: Path) -> None:
    key = EC.private_bytes(PEM, PKCS8, NoEncryption()).decode().replace("\n", "\n      ")
    assert [number for number, _, _ in faults(tmp_path, f"{GOOD}      cat > k <<E\n      {key}\n")] == [8]


def test_what_only_speaks_of_passwords_is_none(tmp_path: Path) -> None:
    lines = (
        "passwd --lock root",
        "export DB_PASSWORD=$1",
        'curl -u "$USER:$TOKEN" https://example.org',
        "chage -d 0 root",
    )
    assert faults(tmp_path, GOOD + "".join(f"      {line}\n" for line in lines)) == []
