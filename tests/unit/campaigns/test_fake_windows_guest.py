"""What runs inside the fake Windows guest imports its neighbours and the standard library: tests are not there."""

from __future__ import annotations

import ast
import sys

from tests.fakes.fake_windows import media


def test_the_guest_s_programs_import_what_is_beside_them() -> None:
    beside = {path.stem for path in media.GUEST.glob("*.py")} | {media.HIVES.stem}
    for path in [*media.GUEST.glob("*.py"), media.HIVES]:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= {*beside, *sys.stdlib_module_names}, path
