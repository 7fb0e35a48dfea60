"""The way out's rules and what the host's configuration opens; packets are tried in tests/vm/test_way_out.py."""

from __future__ import annotations

import ipaddress

import pytest

from pipeline.definition import destination
from pipeline.definition.diagnostics import Wrong
from pipeline.network.egress import is_refused, routing_rules
from pipeline.network.endpoints import endpoint, endpoints

OWN = {"127.0.0.1", "203.0.113.7", "10.20.0.1"}


def verdict(rules: list[str], address: str, port: int = 80, protocol: str = "tcp") -> str:
    """What the kernel would do: the first rule that matches, in the order of its preference."""
    for rule in sorted(rules, key=lambda line: int(line.split()[3])):
        words = rule.split()
        if ipaddress.IPv4Address(address) not in ipaddress.IPv4Network(words[words.index("to") + 1]):
            continue
        if "dport" in words and (words[words.index("ipproto") + 1], words[words.index("dport") + 1]) != (
            protocol,
            str(port),
        ):
            continue
        return "refused" if words[-1] == "prohibit" else "forwarded"
    return "forwarded"


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.9.9.9", "0.0.0.0", "169.254.169.254", "169.254.1.1", "168.63.129.16"),
        *("100.100.100.200", "192.0.0.192", "224.0.0.251", "255.255.255.255", "240.0.0.1"),
        *("10.0.0.1", "10.0.2.2", "172.16.0.1", "172.31.255.255", "192.168.0.1", "100.64.0.1", "198.18.0.3"),
        "203.0.113.7",
    ],
)
def test_what_is_the_hosts_own_is_refused(address: str) -> None:
    assert verdict(routing_rules([], OWN, "c0"), address) == "refused"
    assert is_refused(address, OWN)


@pytest.mark.parametrize("address", ["93.184.216.34", "203.0.113.8", "172.32.0.1", "168.63.129.17", "9.255.255.255"])
def test_the_public_network_is_open(address: str) -> None:
    assert verdict(routing_rules([], OWN, "c0"), address) == "forwarded"
    assert not is_refused(address, OWN)


def test_what_is_allowed_is_open_at_its_port_alone() -> None:
    rules = routing_rules([destination("10.20.0.1:3142"), destination("192.168.7.0/24")], OWN, "c0")
    assert verdict(rules, "10.20.0.1", 3142) == "forwarded"
    assert verdict(rules, "10.20.0.1", 22) == "refused"
    assert verdict(rules, "192.168.7.9", 22) == "forwarded"
    assert verdict(rules, "192.168.8.9", 22) == "refused"


@pytest.mark.parametrize(
    "text",
    [
        *("127.0.0.1:80", "0.0.0.0/0", "169.254.169.254", "169.254.0.0/17", "168.63.129.16:80", "168.0.0.0/7"),
        *(
            "::1",
            "fd00::/8",
            "host.example:80",
            "10.0.0.1:0",
            "10.0.0.1:65536",
            "10.0.0.1:",
            "10.0.0.1/8",
            "10.0.0.1:٣",
        ),
        *("::ffff:127.0.0.1", "0x7f.1", "2130706433", "", "10.0.0.0/33"),
    ],
)
def test_what_no_list_may_open(text: str) -> None:
    with pytest.raises(Wrong) as caught:
        destination(text)
    assert caught.value.message and caught.value.hint


@pytest.mark.parametrize("text", ["10.1.2.0/24", "10.1.2.3", "10.1.2.3:8080", "203.0.113.7:443"])
def test_a_destination_reads_as_it_was_written(text: str) -> None:
    assert str(destination(text)) == text


def test_the_hosts_own_mirrors_and_proxies() -> None:
    dump = (
        'Acquire "";\nAcquire::http::Proxy "http://user:secret@10.0.0.5:3142/";\n'
        'Acquire::https::Proxy "DIRECT";\nAcquire::http::Proxy::deb.example "10.0.0.6:8000";\n'
        'Acquire::http::Timeout "30";\n'
    )
    sites = "http://mirror.example.org\nhttps://mirror.corp:8443\nfile:/srv/mirror\ncdrom:[Debian]\n\nhttp://[bad\n"
    environment = {"http_proxy": "http://proxy.corp:3128", "HTTPS_PROXY": "", "no_proxy": "10.0.0.9", "PATH": "/bin"}
    assert endpoints(sites, dump, environment) == {
        ("mirror.example.org", 80),
        ("mirror.corp", 8443),
        ("10.0.0.5", 3142),
        ("10.0.0.6", 8000),
        ("proxy.corp", 3128),
    }


@pytest.mark.parametrize("url", ["", "http://", "http://x:99999", "file:///etc", "http://x:port"])
def test_what_is_no_endpoint(url: str) -> None:
    assert endpoint(url) is None
