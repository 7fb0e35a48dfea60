"""The fabric's server of VMs answers from memory once it has given up its rights: no module can be loaded then."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.fabric.certificates import read_certificate
from tests.harness import ROOT
from tests.unit.fabric.test_certificates import make

#: What the server's `main` does before it serves, then an agent's request for certificates.
CODE = """
import base64, sys
from dataclasses import replace
from pathlib import Path
from cryptography.hazmat.primitives.serialization import Encoding
from pipeline.disk.confinement import Applied, filter_calls
from pipeline.fabric import service_process as server
from pipeline.fabric.certificates import make_key_pair
from pipeline.fabric.instance import Request
from pipeline.fabric.wireserver import certificates
from tests.unit.fabric.test_fabric import VM

agent = base64.b64encode(make_key_pair("agent").certificate.public_bytes(Encoding.DER)).decode()
server.load_everything()
server.give_up_rights(Path(sys.argv[1]), 65533, 65533)
filter_calls(Applied(), refused=server.REFUSED)
headers = {"x-ms-guest-agent-public-x509-cert": agent}
vm = replace(VM, certificate=sys.argv[2].encode())
print(certificates(vm, Request("GET", 80, "/machine?comp=certificates", headers)).status)
"""


@pytest.mark.parametrize("kind", ["", "rsa:2048", "ec"])
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_agent_gets_its_certificates_from_the_confined_server(tmp_path: Path, kind: str) -> None:
    """Of a VM without one of its own, and of one with a key of each kind."""
    own = read_certificate(b"".join(make(tmp_path, "shop", kind))).decode() if kind else ""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, "-c", CODE, str(tmp_path), own]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == "200\n", done.stderr
