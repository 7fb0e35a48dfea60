"""Take gitleaks' rules over from a newer file: python tools/refresh_secret_rules.py gitleaks.toml LICENSE

The file is config/gitleaks.toml of a release. Each rule has to be understood by both engines before it is taken; what
is new, changed or gone is printed.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "pipeline/base/secret_rules"
sys.path.insert(0, str(FOLDER.parents[2]))


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    ask.add_argument("rules", type=Path)
    ask.add_argument("license", type=Path)
    args = ask.parse_args()
    old = {rule["id"]: rule for rule in tomllib.loads((FOLDER / "gitleaks.toml").read_text("utf-8"))["rules"]}
    new = {rule["id"]: rule for rule in tomllib.loads(args.rules.read_text("utf-8"))["rules"]}
    if "MIT License" not in args.license.read_text("utf-8"):
        sys.exit("the licence is no longer MIT: read it first")
    before = {name: (FOLDER / name).read_bytes() for name in ("gitleaks.toml", "LICENSE.gitleaks")}
    (FOLDER / "gitleaks.toml").write_bytes(args.rules.read_bytes())
    (FOLDER / "LICENSE.gitleaks").write_bytes(args.license.read_bytes())
    try:
        from pipeline.base.secret_rules.rules import compiled, rule_set
        from pipeline.disk.secret_search import matcher

        for rule in rule_set().rules:
            compiled(rule.pattern)
        matcher()
    except Exception:
        for name, data in before.items():
            (FOLDER / name).write_bytes(data)
        raise
    for title, names in (
        ("new", sorted(new.keys() - old.keys())),
        ("gone", sorted(old.keys() - new.keys())),
        ("changed", sorted(name for name in new.keys() & old.keys() if new[name] != old[name])),
    ):
        print(f"{title}: {', '.join(names) or 'none'}")


if __name__ == "__main__":
    main()
