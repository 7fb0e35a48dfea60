"""What must be true of a master: small functions with an id, a reason, a remedy and a source."""

from pipeline.checks.model import Check, CheckResult
from pipeline.checks.run import PROFILES, all_checks, run_checks
from pipeline.checks.sandbox import inspect_disk, list_disk

__all__ = ["PROFILES", "Check", "CheckResult", "all_checks", "inspect_disk", "list_disk", "run_checks"]
