"""2,000 malformed requests to the facade for `az`: `make campaign-az`, no guests.

None ends in a fault of the program, and none changes anything in the store.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from tests.fakes.facade import serving
from tests.fakes.malformed_requests import send_malformed
from tests.harness import ROOT, commit_id
from tests.unit.operations.test_wrong_states import everything

PAGE = ROOT / "docs/reports/campaign-az.md"
COUNT = 2000


def main() -> int:
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "store") as client:
        store = client.facade.manager.store
        before = everything(store)
        statuses = send_malformed(client, COUNT)
        unchanged = everything(store) == before
    rows = "\n".join(f"| {status} | {count} |" for status, count in sorted(statuses.items()))
    PAGE.write_text(
        f"# Malformed requests to `goldsmith serve azure`\n\n`make campaign-az` at commit {commit_id()}: "
        f"{sum(statuses.values())} requests in {time.monotonic() - began:.0f} s; "
        f"the store is {'unchanged' if unchanged else 'CHANGED'}.\n\n| status | answers |\n|---|---|\n{rows}\n"
    )
    print(PAGE.read_text())
    return 0 if unchanged and sum(statuses.values()) == COUNT else 1
