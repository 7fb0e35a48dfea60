"""What secrets look like: gitleaks' rules as data, goldsmith's own beside them, and key files known by structure.

`gitleaks.toml` is gitleaks' config/gitleaks.toml as published (commit b58d3f1, MIT, LICENSE.gitleaks);
tools/refresh_secret_rules.py takes a newer one over. `goldsmith.toml` has what gitleaks does not know.
"""

from pipeline.base.secret_rules.rules import Finding, Rule, RuleSet, rule_set

__all__ = ["Finding", "Rule", "RuleSet", "rule_set"]
