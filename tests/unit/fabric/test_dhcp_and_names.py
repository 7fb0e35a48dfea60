"""The lease and the names of one guest: what is answered, and that nothing a guest sends trips over."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fabric import dhcp, names
from pipeline.fabric.instance import Instance
from pipeline.fabric.serving import lease_of, zone_of

VM = Instance("web1", "azureuser", "ssh-ed25519 AAAA", "00:0d:3a:01:02:03", "10.83.0.10")
LEASE = lease_of(VM)
DISCOVER, REQUEST, INFORM, RELEASE = 1, 3, 8, 7


def message(kind: int, *, mac: str = VM.mac, flags: int = 0, client: str = "0.0.0.0", **options: bytes) -> bytes:
    """A client's packet; options by number: o50=b"..."."""
    head = struct.pack(
        ">BBBBIHH4s4s4s4s16s64s128s4s",
        *(1, 1, 6, 0, 0x1234, 0, flags, ipaddress.IPv4Address(client).packed, bytes(4), bytes(4), bytes(4)),
        *(bytes.fromhex(mac.replace(":", "")), b"", b"", b"\x63\x82\x53\x63"),
    )
    fields = {53: bytes([kind]), **{int(name[1:]): data for name, data in options.items()}}
    return head + b"".join(bytes([number, len(data)]) + data for number, data in fields.items()) + b"\xff"


def options(packet: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while packet[at] != 255:
        found[packet[at]] = packet[at + 2 : at + 2 + packet[at + 1]]
        at += 2 + packet[at + 1]
    return found


def test_an_offer_has_the_address_and_azures_options() -> None:
    reply = dhcp.answer(message(DISCOVER, o61=b"\x01client"), LEASE)
    assert reply is not None and reply.to == VM.address and len(reply.packet) >= 300
    assert reply.packet[16:20] == bytes([10, 83, 0, 10])
    assert reply.packet[4:8] == bytes.fromhex("00001234")
    found = options(reply.packet)
    assert found[53] == b"\x02"
    assert found[54] == found[3] == found[6] == bytes([10, 83, 0, 9])
    assert found[1] == bytes([255, 255, 255, 248])
    assert found[245] == bytes([168, 63, 129, 16])
    assert found[61] == b"\x01client"
    # RFC 3442: the default route, then two hosts
    assert found[121] == bytes(
        [0, 10, 83, 0, 9, 32, 168, 63, 129, 16, 10, 83, 0, 9, 32, 169, 254, 169, 254, 10, 83, 0, 9]
    )


@pytest.mark.parametrize(
    ("packet", "kind", "to"),
    [
        (message(REQUEST, o50=bytes([10, 83, 0, 10])), 5, VM.address),
        (message(REQUEST, o50=bytes([10, 83, 0, 10]), flags=0x8000), 5, dhcp.BROADCAST),
        (message(REQUEST, client=VM.address, flags=0x8000), 5, VM.address),
        (message(REQUEST, o50=bytes([192, 168, 1, 7])), 6, dhcp.BROADCAST),
        (message(REQUEST, o50=bytes([10, 83, 0, 10]), o54=bytes([10, 83, 0, 9])), 5, VM.address),
        (message(INFORM, client=VM.address), 5, VM.address),
    ],
)
def test_requests_are_acknowledged_or_refused(packet: bytes, kind: int, to: str) -> None:
    reply = dhcp.answer(packet, LEASE)
    assert reply is not None
    assert options(reply.packet)[53] == bytes([kind])
    assert reply.to == to
    assert (51 in options(reply.packet)) == (packet[242] == REQUEST and kind == 5)


@pytest.mark.parametrize(
    "packet",
    [
        message(DISCOVER, mac="00:0d:3a:ff:ff:ff"),
        message(RELEASE),
        message(REQUEST, o54=bytes([10, 0, 0, 1])),
        message(DISCOVER)[:200],
        message(DISCOVER)[:-1] + bytes([12, 200]),
        message(0),
        b"",
        b"\x02" + message(DISCOVER)[1:],
    ],
)
def test_what_is_not_the_guests_gets_no_answer(packet: bytes) -> None:
    assert dhcp.answer(packet, LEASE) is None


@given(st.binary(max_size=600), st.integers(0, 300))
def test_no_packet_trips_the_servers(noise: bytes, at: int) -> None:
    for base in (message(REQUEST, o50=bytes([10, 83, 0, 10])), query("web1")):
        mangled = base[:at] + noise + base[at + len(noise) :]
        for packet in (noise, mangled):
            dhcp.describe(packet)
            reply = dhcp.answer(packet, LEASE)
            assert reply is None or reply.to in (VM.address, dhcp.BROADCAST)
            question = names.parse_question(packet)
            if question is not None:
                assert len(names.answer(question, zone_of(VM))) < 600


def query(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    return struct.pack(">6H", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)


def ask(name: str, zone: names.Zone, kind: int = 1) -> tuple[int, str | None]:
    """The answer's code, and the address in it."""
    question = names.parse_question(query(name, kind))
    assert question is not None
    packet = names.answer(question, zone)
    number, flags, _, answers, *_ = struct.unpack(">6H", packet[:12])
    assert number == 7
    return flags & 15, str(ipaddress.IPv4Address(packet[-4:])) if answers else None


def test_known_names_have_an_address_and_others_are_refused() -> None:
    zone = names.Zone({"db": "10.83.0.18", "db.internal.cloudapp.net": "10.83.0.18"}, zone_of(VM).domains)
    assert ask("DB", zone) == (0, "10.83.0.18")
    assert ask("db.internal.cloudapp.net", zone) == (0, "10.83.0.18")
    assert ask("any.internal.cloudapp.net", zone) == (0, "168.63.129.16")
    assert ask("db", zone, kind=28) == (0, None)
    assert ask("example.com", zone) == (5, None)
    assert ask("notinternal.cloudapp.net", zone) == (5, None)
