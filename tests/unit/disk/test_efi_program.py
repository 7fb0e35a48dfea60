"""EFI programs at rest: issuers, digests, SBAT levels; and bytes that are none."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pipeline.base.errors import DiskError
from pipeline.disk.efi_program import EfiProgram
from tests.fakes.signed_efi import DEBIAN, UEFI_2011, UEFI_2023, pe, without_signature

SHIM = b"sbat,1,SBAT Version,sbat,1,x\nshim,4,UEFI shim,shim,1,x\nshim.debian,1,Debian,shim,16.1,x\n"
#: Where Debian's packages put them.
REAL = {
    Path("/usr/lib/shim/shimx64.efi.signed"): UEFI_2011,
    Path("/usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed"): DEBIAN,
}


def issuers(data: bytes) -> list[str]:
    return [each.issuers[0] for each in EfiProgram(data).signatures]


def test_issuers_levels_and_digest() -> None:
    program = EfiProgram(pe(SHIM, UEFI_2011, UEFI_2023))
    assert [(each.signer, each.issuers) for each in program.signatures] == [
        ("Signer", (UEFI_2011, "Root")), ("Signer", (UEFI_2023, "Root")),
    ]  # fmt: skip
    assert all(each.is_for_content for each in program.signatures)
    assert [str(each) for each in program.sbat] == ["shim,4", "shim.debian,1"]
    assert EfiProgram(pe(SHIM)).signatures == ()


def test_one_signature_less() -> None:
    data = pe(SHIM, UEFI_2011, UEFI_2023)
    assert issuers(without_signature(data, 0)) == [UEFI_2023]
    assert issuers(without_signature(data, 1)) == [UEFI_2011]


def test_a_change_after_signing_is_seen() -> None:
    data = pe(SHIM, UEFI_2011).replace(b"shim,4", b"shim,9")
    assert [each.is_for_content for each in EfiProgram(data).signatures] == [False]


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.name)
def test_debians_own_programs(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"{path.name} is not installed (shim-signed, grub-efi-amd64-signed)")
    program = EfiProgram(path.read_bytes())
    assert REAL[path] in {each.issuers[0] for each in program.signatures}
    assert all(each.is_for_content for each in program.signatures)
    assert program.sbat


def test_any_bytes_end_in_an_answer_or_a_named_error() -> None:
    whole = pe(SHIM, UEFI_2011, UEFI_2023)
    chance = random.Random(21)
    names = set()
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(chance.randrange(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        del data[chance.randrange(len(data)) if chance.random() < 0.3 else len(data) :]
        try:
            program = EfiProgram(bytes(data))
            _ = program.signatures, program.sbat
        except DiskError as error:
            names.add(error.name)
            assert error.hint
    assert names == {"efi-program-damaged", "efi-signature-damaged"}
